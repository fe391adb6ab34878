//! The source database and its connector.
//!
//! [`checks`] defines the required state of the database and finds the differences. This
//! module reads the state, once for a command or repeatedly while the pipeline runs, repairs
//! it, and records its history in the state topic.

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

/// Result of one inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub catalogue: Catalogue,
    pub standing: Standing,
}

/// Inspects the source once, for a command. Skips Kafka and Connect unless
/// `kafka_answers`, so that a command does not wait for a stopped server.
///
/// # Errors
/// If Postgres does not respond.
pub async fn look(
    connections: &Connections,
    kafka_answers: bool,
) -> Result<Inspection, InspectError> {
    let mut inspector = Inspector::new(connections)?;
    let catalogue = inspector.catalogue().await?;
    let looked_at_ms = Some(now_ms());
    let (mut history, mut connector, mut problem) = (None, <_>::default(), None);
    if kafka_answers {
        (connector, problem) = inspector.connector_state().await;
        match inspector.history().await {
            Ok(recorded) => history = recorded,
            Err(error) => problem = Some(chain(&error)),
        }
    }
    let expected = inspector.expected();
    let findings = assess(&catalogue, expected, history.as_ref(), &connector);
    let standing = Standing {
        looked_at_ms,
        problem,
        findings,
        altered: Vec::new(),
    };
    Ok(Inspection {
        catalogue,
        standing,
    })
}
