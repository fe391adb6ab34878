//! Inputs of all process specs.

use std::collections::BTreeMap;

use crate::{
    config::Settings,
    stack::{Site, definition::Install},
};

/// Inputs of all process specs.
#[derive(Debug, Clone, Copy)]
pub struct RenderContext<'a> {
    pub site: &'a Site,
    /// Settings with the resolved endpoint of every service.
    pub settings: &'a Settings,
    pub installs: &'a BTreeMap<String, Install>,
}
