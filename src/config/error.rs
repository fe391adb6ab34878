//! Errors of a configuration.

use std::path::PathBuf;

use crate::failure::{Failure, Kind};

/// Reason why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("invalid configuration {}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("environment variable {name} matches no setting{suggestion}")]
    UnknownVariable {
        name: String,
        /// The known variable that was probably meant, ready for display. May be empty.
        suggestion: String,
    },
    /// Omits the value, because it may come from a file with secrets.
    #[error("{key}, set by {origin}, is not {expected}")]
    BadValue {
        origin: String,
        key: String,
        expected: &'static str,
    },
    #[error("cannot read file {}, set by {name}", path.display())]
    SecretFile {
        name: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration is inconsistent: {0}")]
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
