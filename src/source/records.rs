//! The recorded history of the source, stored in the compacted state topic for all workers and
//! commands.

use uuid::Uuid;

use super::checks::{
    Baseline, Changed, Code, Fingerprint, History, Properties, Reason, RecordError, drift, relevant,
};
use crate::{
    connections::Connections,
    failure::{Failure, Kind},
    kafka::{KafkaError, StateTopic},
    source::tables::reader_group,
    time::{clock::now_us, timestamp::Rfc3339},
};

/// Error while reading or writing the records.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("cannot access the records about the source in kafka")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Failure for RecordsError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Record(_) => "state_format",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Kafka(_) => "fanout status".to_owned(),
            Self::Record(_) => "use the version of fanout that wrote it, or a newer one".to_owned(),
        })
    }
}

/// The records about the source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    topic: StateTopic,
}

impl Records {
    /// Creates the handle. Sends no request yet.
    ///
    /// # Errors
    /// If a Kafka client cannot be created.
    pub fn new(connections: &Connections) -> Result<Self, KafkaError> {
        let settings = connections.settings();
        let group = reader_group(settings, "source");
        let topic = &settings.kafka.state_topic;
        Ok(Self {
            topic: connections.kafka.state(&group, topic)?,
        })
    }

    /// Returns the recorded history, or `None` if nothing was recorded yet.
    ///
    /// # Errors
    /// If Kafka does not respond, or a newer version of fanout wrote a record.
    pub async fn load(&self) -> Result<Option<History>, RecordsError> {
        let Some(baseline) = self.topic.get(Baseline::KEY).await? else {
            return Ok(None);
        };
        let baseline = Baseline::read(&baseline)?;
        let changed = match self.topic.get(Changed::KEY).await? {
            Some(value) => Changed::read(&value)?,
            None => Changed::since(&baseline),
        };
        // Changes recorded under an earlier baseline have been reconciled.
        let changed = if changed.baseline == baseline.id {
            changed
        } else {
            Changed::since(&baseline)
        };
        Ok(Some(History { baseline, changed }))
    }

    /// Records a new baseline: history is complete as of now, with this fingerprint. Returns
    /// false if the state topic does not exist yet.
    ///
    /// # Errors
    /// If Kafka does not store the record.
    pub async fn begin(
        &self,
        fingerprint: Fingerprint,
        connector: Option<Properties>,
    ) -> Result<bool, RecordsError> {
        let id = Uuid::new_v4().to_string();
        let at = Rfc3339(now_us()).to_string();
        let baseline = Baseline::new(id, at, fingerprint, connector);
        self.store(Baseline::KEY, &baseline.text()).await
    }

    /// Records the connector's properties as set by fanout. Returns false if the state topic
    /// does not exist yet.
    ///
    /// # Errors
    /// If Kafka does not store the record.
    pub async fn configured(
        &self,
        history: &History,
        connector: Properties,
    ) -> Result<bool, RecordsError> {
        let mut baseline = history.baseline.clone();
        baseline.connector = Some(connector);
        self.store(Baseline::KEY, &baseline.text()).await
    }

    /// Records the reasons that are not recorded yet. Returns true if there were any.
    ///
    /// # Errors
    /// If Kafka does not store the record.
    pub async fn remember(
        &self,
        history: &History,
        reasons: Vec<Reason>,
    ) -> Result<bool, RecordsError> {
        let mut changed = history.changed.clone();
        let mut has_new = false;
        for reason in reasons {
            has_new |= changed.add(reason);
        }
        if has_new {
            self.store(Changed::KEY, &changed.text()).await?;
        }
        Ok(has_new)
    }

    /// Stores a record. Returns false if the state topic does not exist yet.
    async fn store(&self, key: &str, text: &str) -> Result<bool, RecordsError> {
        // A topic that the broker creates automatically would not be compacted.
        if !self.topic.exists().await? {
            return Ok(false);
        }
        self.topic.set(key, text.as_bytes()).await?;
        Ok(true)
    }
}

/// Records the connector's properties after fanout has configured the connector.
///
/// If the properties from before differ from the recorded ones, someone reconfigured the
/// connector externally, and changes may be missing. The function records that too, and
/// returns true in this case.
///
/// # Errors
/// If Kafka does not respond.
pub async fn reconfigured(
    connections: &Connections,
    before: Option<&Properties>,
    after: &Properties,
) -> Result<bool, RecordsError> {
    let records = Records::new(connections)?;
    let Some(history) = records.load().await? else {
        return Ok(false);
    };
    let after = relevant(after);
    let recorded = history.baseline.connector.as_ref();
    let changed = match (recorded, before) {
        (Some(recorded), Some(before)) => drift(recorded, &relevant(before)),
        _ => Vec::new(),
    };
    if !changed.is_empty() {
        let what = format!(
            "the connector was reconfigured externally: {}",
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
    if recorded != Some(&after) {
        records.configured(&history, after).await?;
    }
    Ok(!changed.is_empty())
}
