//! A precondition, and how it stands.

use serde::Serialize;

/// How a precondition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Pass,
    /// It works, and may not for long.
    Warn,
    /// Something will not work.
    Fail,
}

/// One precondition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `java`, `port 8123`, `replica identity`.
    pub name: String,
    pub level: Level,
    /// What was found.
    pub evidence: String,
    /// What mends it, where it is not passed.
    pub fix: Option<String>,
}

impl Finding {
    /// It is as it should be.
    #[must_use]
    pub fn pass(name: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            level: Level::Pass,
            evidence: evidence.into(),
            fix: None,
        }
    }

    /// It will do for now.
    #[must_use]
    pub fn warn(
        name: impl Into<String>,
        evidence: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warn,
            fix: Some(fix.into()),
            ..Self::pass(name, evidence)
        }
    }

    /// It will not do.
    #[must_use]
    pub fn fail(name: impl Into<String>, evidence: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            level: Level::Fail,
            fix,
            ..Self::pass(name, evidence)
        }
    }
}
