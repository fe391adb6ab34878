//! The result of checking a precondition.

use serde::Serialize;

/// Level of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Pass,
    /// The precondition holds, but may not hold for long.
    Warn,
    /// Something will not work.
    Fail,
}

/// Result of checking one precondition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Subject of the check: `java`, `port 8123`, `replica identity`.
    pub name: String,
    pub level: Level,
    /// Observed state.
    pub evidence: String,
    /// How to fix the problem, if the check has not passed.
    pub fix: Option<String>,
}

impl Finding {
    /// Creates the finding of a passed check.
    #[must_use]
    pub fn pass(name: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            level: Level::Pass,
            evidence: evidence.into(),
            fix: None,
        }
    }

    /// Creates a warning.
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

    /// Creates the finding of a failed check.
    #[must_use]
    pub fn fail(name: impl Into<String>, evidence: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            level: Level::Fail,
            fix,
            ..Self::pass(name, evidence)
        }
    }
}
