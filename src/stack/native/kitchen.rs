//! What all recipes of native services are made with.

use std::collections::BTreeMap;

use crate::{
    config::Settings,
    stack::{Site, definition::Install},
};

/// What all recipes are made with.
#[derive(Debug, Clone, Copy)]
pub struct Kitchen<'a> {
    pub site: &'a Site,
    /// With every service where it shall be.
    pub settings: &'a Settings,
    pub installs: &'a BTreeMap<String, Install>,
}
