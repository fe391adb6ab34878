//! Options of `up`.

use crate::{
    config::Runtime,
    stack::{PortMode, plan::Recreate},
};

/// Options of `up`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpOptions {
    /// Services to start, with their dependencies; empty means all.
    pub services: Vec<String>,
    /// Services to leave out.
    pub excluded: Vec<String>,
    pub runtime: Option<Runtime>,
    pub ports: PortMode,
    pub recreate: Recreate,
    /// Whether to recreate the installs of the started services.
    pub reinstall: bool,
}
