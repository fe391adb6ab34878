//! The servers of a project: their definitions, how they are run, and the state
//! of the running ones. What they have to contain (tables, the connector) is left
//! to the components, which implement [`owned::Owned`].

pub mod blueprint;
pub mod choice;
pub mod definition;
pub mod docker;
pub mod endpoint;
pub mod files;
mod home;
mod lock;
pub mod log_file;
pub mod logs;
pub mod native;
pub mod owned;
pub mod plan;
pub mod ports;
pub mod preflight;
pub mod probe;
pub mod proc;
pub mod reach;
mod renderer;
pub mod resolve;
pub mod runner;
pub mod selection;
mod site;
mod state;
mod values;

pub use home::{Home, ProjectDir, cache_from_env};
pub use lock::Lock;
pub use resolve::{PortMode, Service};
pub use site::Site;
pub use state::{ServiceState, State, StateError, holder, recorded_settings};
