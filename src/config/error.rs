//! Why a configuration was refused.

use std::path::PathBuf;

use crate::failure::{Failure, Kind};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{} is no valid configuration: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("environment variable {name} names no setting{meant}")]
    UnknownVariable {
        name: String,
        /// What was probably meant, ready to be read.
        meant: String,
    },
    /// Without the value: it may come from a file of secrets.
    #[error("{key}, set by {origin}, is not {expected}")]
    BadValue {
        origin: String,
        key: String,
        expected: &'static str,
    },
    #[error("file {} named by {name} cannot be read", path.display())]
    SecretFile {
        name: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration does not fit together: {0}")]
    Settings(#[from] serde_json::Error),
    #[error("{key}: {problem}")]
    Rule { key: String, problem: String },
}

impl Failure for ConfigError {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "config_file",
            Self::UnknownVariable { .. } => "config_unknown_variable",
            Self::SecretFile { .. } => "config_secret_file",
            Self::BadValue { .. } | Self::Settings(_) | Self::Rule { .. } => "config_value",
        }
    }

    fn hint(&self) -> Option<String> {
        Some("fanout config show".to_owned())
    }
}
