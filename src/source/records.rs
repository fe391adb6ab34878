//! The records of the source in the compacted state topic, where every worker
//! and every command finds them.

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

/// Why the records cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("kafka does not give the records about the source")]
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
            Self::Record(_) => "use the fanout that wrote it".to_owned(),
        })
    }
}

/// The records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    topic: StateTopic,
}

impl Records {
    /// Nothing is asked before the first call.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn new(connections: &Connections) -> Result<Self, KafkaError> {
        let settings = connections.settings();
        let group = reader_group(settings, "source");
        let topic = &settings.kafka.state_topic;
        Ok(Self {
            topic: connections.kafka.state(&group, topic)?,
        })
    }

    /// What has been kept; none where nothing was yet.
    ///
    /// # Errors
    /// When Kafka does not answer, or a newer fanout wrote it.
    pub async fn load(&self) -> Result<Option<History>, RecordsError> {
        let Some(baseline) = self.topic.get(Baseline::KEY).await? else {
            return Ok(None);
        };
        let baseline = Baseline::read(&baseline)?;
        let changed = match self.topic.get(Changed::KEY).await? {
            Some(value) => Changed::read(&value)?,
            None => Changed::since(&baseline),
        };
        // What was seen under an earlier one has been reconciled.
        let changed = if changed.baseline == baseline.id {
            changed
        } else {
            Changed::since(&baseline)
        };
        Ok(Some(History { baseline, changed }))
    }

    /// Keeps that history is complete as of now, under this fingerprint.
    /// Returns false where the topic is not there yet.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub async fn begin(
        &self,
        fingerprint: Fingerprint,
        connector: Option<Properties>,
    ) -> Result<bool, RecordsError> {
        let id = Uuid::new_v4().to_string();
        let at = Rfc3339(now_us()).to_string();
        let baseline = Baseline::new(id, at, fingerprint, connector);
        self.keep(Baseline::KEY, &baseline.text()).await
    }

    /// Keeps what fanout has configured the connector with.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub async fn configured(
        &self,
        history: &History,
        connector: Properties,
    ) -> Result<bool, RecordsError> {
        let mut baseline = history.baseline.clone();
        baseline.connector = Some(connector);
        self.keep(Baseline::KEY, &baseline.text()).await
    }

    /// Keeps what was seen, as far as that is news.
    ///
    /// # Errors
    /// When Kafka does not take it.
    pub async fn remember(
        &self,
        history: &History,
        reasons: Vec<Reason>,
    ) -> Result<bool, RecordsError> {
        let mut changed = history.changed.clone();
        let mut news = false;
        for reason in reasons {
            news |= changed.add(reason);
        }
        if news {
            self.keep(Changed::KEY, &changed.text()).await?;
        }
        Ok(news)
    }

    /// A topic that the broker made by itself would not be compacted.
    async fn keep(&self, key: &str, text: &str) -> Result<bool, RecordsError> {
        if !self.topic.exists().await? {
            return Ok(false);
        }
        self.topic.set(key, text.as_bytes()).await?;
        Ok(true)
    }
}

/// Keeps what fanout configures the connector with. What it was configured with
/// before is somebody else's doing where fanout knows of another configuration:
/// then changes may be missing, and that is kept too. Returns whether it was.
///
/// # Errors
/// When Kafka does not answer.
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
    let known = history.baseline.connector.as_ref();
    let changed = match (known, before) {
        (Some(known), Some(before)) => drift(known, &relevant(before)),
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
    if known != Some(&after) {
        records.configured(&history, after).await?;
    }
    Ok(!changed.is_empty())
}
