//! The result of a check: the number of differences, and the first of them in full.

use std::fmt::Display;

use serde::Serialize;

/// Number of differences that are kept in full. The others are only counted.
pub const MAX_SHOWN: usize = 20;

/// A comparison that `verify` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Rows of the view against the join in Postgres.
    Rows,
    /// The board against the events of its window.
    Board,
    /// Calls of the external system against the inserts in the log.
    External,
    /// Each record of the log against what became of it.
    Records,
}

/// How the two sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is expected and was not found.
    Missing,
    /// It was found and is not expected.
    Extra,
    /// It was found and is not as expected.
    Differs,
}

/// One difference with both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub check: Check,
    pub kind: Kind,
    /// Event, content, idempotency key or record.
    pub id: String,
    /// The column or property that differs, if it is a single one.
    pub what: Option<String>,
    pub expected: Option<String>,
    pub found: Option<String>,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub check: Check,
    /// Whether the check was not made at all. The notes say why.
    pub skipped: bool,
    /// Rows, members, keys or records compared.
    pub compared: u64,
    pub differences: u64,
    /// Differences that dead letters explain.
    pub excused: u64,
    /// What was compared but could not be judged.
    pub unjudged: u64,
    /// Calls that are not judged because the stub may have forgotten them.
    pub forgotten: u64,
    /// The first of the differences.
    pub shown: Vec<Difference>,
    /// The ids of the first excused differences.
    pub excused_ids: Vec<String>,
    /// What could not be judged and why, and what else an operator should know.
    pub notes: Vec<String>,
}

impl Check {
    /// The checks of single sinks, in the order in which they are made and
    /// reported. [`Check::Records`] follows them and concerns all sinks.
    pub(crate) const OF_SINKS: [Self; 3] = [Self::Rows, Self::Board, Self::External];
}

impl Findings {
    /// Starts a check that has compared nothing yet.
    #[must_use]
    pub fn new(check: Check) -> Self {
        Self {
            check,
            skipped: false,
            compared: 0,
            differences: 0,
            excused: 0,
            unjudged: 0,
            forgotten: 0,
            shown: Vec::new(),
            excused_ids: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Reports a check that was not made, and why.
    #[must_use]
    pub fn skipped(check: Check, why: impl Into<String>) -> Self {
        let mut findings = Self::new(check);
        findings.skipped = true;
        findings.note(why);
        findings
    }

    /// Reports the check of a sink that is not configured.
    #[must_use]
    pub fn not_driven(check: Check) -> Self {
        Self::skipped(check, "its sink is not among the configured ones")
    }

    /// Whether there are no differences and nothing was left unjudged.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.differences == 0 && self.unjudged == 0
    }

    /// Adds a difference.
    pub fn differs(&mut self, difference: Difference) {
        self.differences += 1;
        if self.shown.len() < MAX_SHOWN {
            self.shown.push(difference);
        }
    }

    /// Counts a difference that a dead letter explains.
    pub fn excuse(&mut self, id: &dyn Display) {
        self.excused += 1;
        if self.excused_ids.len() < MAX_SHOWN {
            self.excused_ids.push(id.to_string());
        }
    }

    /// Adds something that an operator should know.
    pub fn note(&mut self, text: impl Into<String>) {
        match self.notes.len() {
            MAX_SHOWN => self.notes.push("further notes are left out".to_owned()),
            noted if noted < MAX_SHOWN => self.notes.push(text.into()),
            _ => {}
        }
    }
}

impl Difference {
    /// Returns a difference: it is expected and was not found.
    #[must_use]
    pub fn missing(check: Check, id: &dyn Display, expected: &dyn Display) -> Self {
        Self {
            check,
            kind: Kind::Missing,
            id: id.to_string(),
            what: None,
            expected: Some(expected.to_string()),
            found: None,
        }
    }

    /// Returns a difference: it was found and is not expected.
    #[must_use]
    pub fn extra(check: Check, id: &dyn Display, found: &dyn Display) -> Self {
        Self {
            check,
            kind: Kind::Extra,
            id: id.to_string(),
            what: None,
            expected: None,
            found: Some(found.to_string()),
        }
    }

    /// Returns a difference in one property.
    #[must_use]
    pub fn of(
        check: Check,
        id: &dyn Display,
        what: &str,
        expected: Option<String>,
        found: Option<String>,
    ) -> Self {
        Self {
            check,
            kind: Kind::Differs,
            id: id.to_string(),
            what: Some(what.to_owned()),
            expected,
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_differences_are_kept() {
        let mut findings = Findings::new(Check::Rows);
        for id in 0..100 {
            findings.differs(Difference::missing(Check::Rows, &id, &"a row"));
            findings.excuse(&id);
            findings.note(format!("truncated at {id}"));
        }
        assert_eq!((findings.differences, findings.excused), (100, 100));
        assert_eq!(findings.shown.len(), MAX_SHOWN);
        assert_eq!(findings.excused_ids.len(), MAX_SHOWN);
        assert_eq!(findings.notes.len(), MAX_SHOWN + 1);
    }
}
