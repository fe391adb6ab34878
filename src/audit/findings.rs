//! What a check found: how many differences, and the first of them in full.

use std::fmt::Display;

use serde::Serialize;

use crate::sink_kind::SinkKind;

/// Differences kept in full; the rest is counted.
pub const MAX_SHOWN: usize = 20;

/// What is compared.
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

/// How two sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It should be there.
    Missing,
    /// It should not be there.
    Extra,
    /// It is there, and not the same.
    Differs,
}

/// One difference with both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub check: Check,
    pub kind: Kind,
    /// Event, content, idempotency key or record.
    pub id: String,
    /// Column or property, where one alone differs.
    pub what: Option<String>,
    pub expected: Option<String>,
    pub found: Option<String>,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub check: Check,
    /// Whether the check could not be made at all; the notes say why.
    pub skipped: bool,
    /// Rows, members, keys or records compared.
    pub compared: u64,
    pub differences: u64,
    /// Differences that a dead letter explains.
    pub excused: u64,
    /// What was compared and could not be judged.
    pub unjudged: u64,
    /// Calls that are not judged, because the stub may have forgotten them.
    pub forgotten: u64,
    /// The first of the differences.
    pub shown: Vec<Difference>,
    /// The first of the excused, by id.
    pub excused_ids: Vec<String>,
    /// What could not be judged, and why.
    pub notes: Vec<String>,
}

impl Check {
    /// The check of a sink; that of the records is of all of them.
    pub(super) fn of(sink: SinkKind) -> Self {
        match sink {
            SinkKind::Redis => Self::Board,
            SinkKind::ClickHouse => Self::Rows,
            SinkKind::Http => Self::External,
        }
    }
}

impl Findings {
    /// Nothing compared yet.
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

    /// A check that was not made, and why.
    #[must_use]
    pub fn skipped(check: Check, why: impl Into<String>) -> Self {
        let mut findings = Self::new(check);
        findings.skipped = true;
        findings.note(why);
        findings
    }

    /// The check of a sink that is not configured.
    #[must_use]
    pub fn not_driven(check: Check) -> Self {
        Self::skipped(check, "its sink is not among the configured ones")
    }

    /// Whether nothing was found that is not as it should be, or that might
    /// not be.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.differences == 0 && self.unjudged == 0
    }

    /// Something was found to differ.
    pub fn differs(&mut self, difference: Difference) {
        self.differences += 1;
        if self.shown.len() < MAX_SHOWN {
            self.shown.push(difference);
        }
    }

    /// A difference that a dead letter explains.
    pub fn excuse(&mut self, id: &dyn Display) {
        self.excused += 1;
        if self.excused_ids.len() < MAX_SHOWN {
            self.excused_ids.push(id.to_string());
        }
    }

    /// Something an operator should know.
    pub fn note(&mut self, text: impl Into<String>) {
        match self.notes.len() {
            MAX_SHOWN => self.notes.push("further notes are left out".to_owned()),
            noted if noted < MAX_SHOWN => self.notes.push(text.into()),
            _ => {}
        }
    }
}

impl Difference {
    /// It should be there and is not.
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

    /// It is there and should not be.
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

    /// One property of it is another.
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
