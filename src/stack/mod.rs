//! The servers: what they are, how they are run, and what is known of the
//! ones that run. What has to be in them (tables, the connector) is the
//! operations' business.

pub mod blueprint;
pub mod choice;
pub mod definition;
pub mod docker;
pub mod endpoint;
pub mod files;
mod filler;
mod home;
mod lock;
pub mod log_file;
pub mod logs;
pub mod native;
pub mod ports;
pub mod preflight;
pub mod probe;
pub mod proc;
pub mod reach;
pub mod resolve;
pub mod runner;
pub mod selection;
mod site;
mod state;
mod values;

pub use home::{Home, HomeError, ProjectDir, cache_from_env};
pub use lock::{Lock, LockError};
pub use resolve::{PortMode, Service};
pub use site::Site;
pub use state::{ServiceState, State, StateError, holder, recorded_settings};
