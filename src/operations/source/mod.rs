//! The source database, looked at and brought to what the pipeline needs.
//!
//! What is expected, and what is wrong, [`crate::source`] says; here it is
//! asked for, once for a command or again and again while the pipeline runs,
//! repaired, and kept in the state topic.

mod explain;
mod inspector;
mod provision;
mod records;
mod snapshots;
mod watcher;

pub use explain::explain;
pub use inspector::{InspectError, Inspector, PATIENCE};
pub use provision::{
    Consent, Permit, ProvisionError, Refusal, drop_strays, needed, provision, stray_drops,
};
pub use records::{Records, RecordsError};
pub use snapshots::Snapshots;
pub use watcher::watch;

use crate::{
    clock::{now_ms, now_us},
    config::Settings,
    failure::chain,
    source::{Catalogue, Code, Properties, Reason, Standing, assess, drift, relevant},
    timestamp::Rfc3339,
};

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
pub async fn look(settings: &Settings, kafka_answers: bool) -> Result<Looked, InspectError> {
    let mut inspector = Inspector::new(settings)?;
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

/// Keeps what fanout configures the connector with. What it was configured with
/// before is somebody else's doing where fanout knows of another configuration:
/// then changes may be missing, and that is kept too. Returns whether it was.
///
/// # Errors
/// When Kafka does not answer.
pub async fn reconfigured(
    settings: &Settings,
    before: Option<&Properties>,
    after: &Properties,
) -> Result<bool, RecordsError> {
    let records = Records::new(settings)?;
    let Some(history) = records.load().await? else {
        return Ok(false);
    };
    let after = relevant(after);
    let known = history.baseline.connector.as_ref();
    let changed = match (known, before) {
        (Some(known), Some(before)) => drift(known, &relevant(before)),
        _ => Vec::new(),
    };
    if !changed.is_empty() {
        let what = format!(
            "the connector was reconfigured by somebody else: {}",
            changed.join(", ")
        );
        let reason = Reason {
            code: Code::ConnectorConfig,
            table: None,
            what,
            at: Rfc3339(now_us()).to_string(),
        };
        records.remember(&history, vec![reason]).await?;
    }
    if known != Some(&after) {
        records.configured(&history, after).await?;
    }
    Ok(!changed.is_empty())
}
