//! Why a statement that fanout makes in the source cannot work: the source has
//! another shape than the statement was made for.

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

/// What makes the source unusable; none where nothing does, or Postgres does not
/// say.
pub async fn explain(connections: &Connections) -> Option<Refusal> {
    let looked = look(connections, false).await.ok()?;
    let mut findings = looked.standing.findings;
    findings.retain(|one| one.severity == Severity::Unsupported);
    (!findings.is_empty()).then_some(Refusal { findings })
}
