//! One project on one machine: its name, its folders, and the fanout binary
//! that runs it.

use std::path::PathBuf;

use super::{
    definition::Install,
    docker::discovery::Choice,
    home::{Home, ProjectDir},
};
use crate::config::project::Project;

/// Location of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub project: Project,
    pub home: Home,
    /// Folder of the downloads that all projects share.
    pub cache: PathBuf,
    /// The fanout binary, which is also executed for every service.
    pub fanout: PathBuf,
    /// Configuration file, which fanout's own services read too.
    pub config_file: Option<PathBuf>,
    /// The container engine that the operator configured.
    pub docker: Choice,
}

impl Site {
    /// Returns the project's folder.
    #[must_use]
    pub fn dir(&self) -> ProjectDir {
        self.home.project(&self.project)
    }

    /// Returns the folder of an install, whether it exists or not.
    #[must_use]
    pub fn install_folder(&self, install: &Install) -> PathBuf {
        self.cache.join("native").join(&install.folder)
    }
}
