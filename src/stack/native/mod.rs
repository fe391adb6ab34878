//! Services as processes of this machine: the programs they need, what is
//! installed for them, how they are started so that they are found again, and
//! how they are stopped.

pub mod account;
pub mod checksums;
pub mod environment;
pub mod install;
pub mod kitchen;
pub mod launch;
pub mod log_writer;
pub mod prepare;
pub mod process;
pub mod programs;
pub mod python;
pub mod recipe;
pub mod task;
mod values;
