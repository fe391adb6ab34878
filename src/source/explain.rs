//! Explains why a statement of fanout failed in the source: the schema of the source
//! differs from the one that the statement requires.

use super::{checks::Severity, look, provision::Refusal};
use crate::{
    connections::Connections,
    failure::{Failure, Kind},
};

impl Failure for Refusal {
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    fn code(&self) -> &'static str {
        let first = self.findings.first();
        if first.is_some_and(|first| first.code.is_column_problem()) {
            "schema_changed"
        } else {
            "source_unsupported"
        }
    }

    fn hint(&self) -> Option<String> {
        self.findings.first().map(|first| first.remedy.clone())
    }
}

/// Returns what makes the source unusable. Returns `None` if it is usable or Postgres does
/// not respond.
pub async fn explain(connections: &Connections) -> Option<Refusal> {
    let inspection = look(connections, false).await.ok()?;
    let mut findings = inspection.standing.findings;
    findings.retain(|finding| finding.severity == Severity::Unsupported);
    (!findings.is_empty()).then_some(Refusal { findings })
}
