//! What is asked of `up`.

use crate::{config::Runtime, plan::Recreate, stack::PortMode};

/// What is asked of `up`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// These, and what they need; empty means all.
    pub services: Vec<String>,
    /// Leave these out.
    pub without: Vec<String>,
    pub runtime: Option<Runtime>,
    pub ports: PortMode,
    pub recreate: Recreate,
    /// Make the installs of what is started anew.
    pub reinstall: bool,
}
