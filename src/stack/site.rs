//! One project on one machine: whose it is, where its things are, and the
//! program that runs it.

use std::path::PathBuf;

use super::{
    definition::Install,
    docker::surroundings::Choice,
    home::{Home, ProjectDir},
};
use crate::project::Project;

/// Where and as what a project is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub project: Project,
    pub home: Home,
    /// Downloads that all projects share.
    pub cache: PathBuf,
    /// fanout's own binary, which becomes the services.
    pub fanout: PathBuf,
    /// The configuration that services of fanout's own read too.
    pub config_file: Option<PathBuf>,
    /// The container engine that the operator names.
    pub docker: Choice,
}

impl Site {
    /// The project's folder.
    #[must_use]
    pub fn dir(&self) -> ProjectDir {
        self.home.project(&self.project)
    }

    /// Where an install is, or would be.
    #[must_use]
    pub fn install_folder(&self, install: &Install) -> PathBuf {
        self.cache.join("native").join(&install.folder)
    }
}
