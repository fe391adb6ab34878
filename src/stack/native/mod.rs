//! Services as processes of this machine: the programs they need, their
//! installs, starting them so that they are found again, and stopping them.

pub mod account;
pub mod checksums;
pub mod environment;
pub mod install;
pub mod launch;
pub mod log_writer;
pub mod prepare;
pub mod process;
pub mod process_spec;
pub mod programs;
pub mod python;
pub mod render_context;
pub mod task;
mod values;
