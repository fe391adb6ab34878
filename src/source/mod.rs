//! The source database, looked at and brought to what the pipeline needs.
//!
//! What is expected, and what is wrong, [`checks`] says; here it is
//! asked for, once for a command or again and again while the pipeline runs,
//! repaired, and kept in the state topic.

pub mod catalogue;
pub mod checks;
pub mod connector;
mod explain;
pub(crate) mod inspector;
pub(crate) mod owned;
pub(crate) mod placeholders;
mod provision;
pub(super) mod records;
pub mod role;
mod snapshots;
pub mod tables;
pub mod topics;

pub use explain::explain;
pub use inspector::{InspectError, Inspector, PATIENCE};
pub use provision::{
    Consent, Permit, ProvisionError, Refusal, drop_strays, needed, provision, stray_drops,
};
pub use records::{Records, RecordsError};
pub use snapshots::Snapshots;

use self::checks::{Catalogue, Standing, assess};
use crate::{connections::Connections, failure::chain, time::clock::now_ms};

/// What one look has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    pub catalogue: Catalogue,
    pub standing: Standing,
}

/// Looks once, for a command. Kafka and Connect are asked only where they are
/// said to answer: who waits for them waits in vain.
///
/// # Errors
/// When Postgres does not answer.
pub async fn look(connections: &Connections, kafka_answers: bool) -> Result<Looked, InspectError> {
    let mut inspector = Inspector::new(connections)?;
    let catalogue = inspector.catalogue().await?;
    let looked_at_ms = Some(now_ms());
    let (mut history, mut surroundings, mut problem) = (None, <_>::default(), None);
    if kafka_answers {
        (surroundings, problem) = inspector.surroundings().await;
        match inspector.history().await {
            Ok(found) => history = found,
            Err(error) => problem = Some(chain(&error)),
        }
    }
    let expected = inspector.expected();
    let findings = assess(&catalogue, expected, history.as_ref(), &surroundings);
    let standing = Standing {
        looked_at_ms,
        problem,
        findings,
        altered: Vec::new(),
    };
    Ok(Looked {
        catalogue,
        standing,
    })
}
