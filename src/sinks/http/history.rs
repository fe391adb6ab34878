//! Where the external system's history stands: what was deleted from the log
//! before it was sent, or with it, is noticed, unless it was made up for from the
//! source.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    clients::kafka::{KafkaError, Log},
    sinks::{Fault, Halt, Standing},
};

/// Format of the commits' metadata.
const METADATA_FORMAT: u16 = 1;

/// What makes up for inserts that the log lost before they were sent.
const REMEDY: &str = "fanout backfill --from earliest --source database --sinks http";

/// The log, as far as this sink asks for it.
#[derive(Debug)]
pub struct History {
    topic: String,
    log: Log,
    /// Knows up to where the log's gaps were made up for from the source.
    mended: Log,
    lives: Lives,
}

/// Which life of the topic the external system was told of last. Commits do not
/// tell: they go with the topic. It is noted at the dead letters' topic, which
/// stays.
#[derive(Debug)]
pub struct Lives {
    log: Log,
    place: String,
    noted: Mutex<Option<Instant>>,
}

impl Lives {
    /// `log` asks for the notes of [`crate::sinks::lives_group`].
    pub fn new(log: Log, dead_letters: String) -> Self {
        Self {
            log,
            place: dead_letters,
            noted: Mutex::default(),
        }
    }

    async fn last(&self) -> Result<Option<String>, Fault> {
        self.log.noted(&self.place).await.map_err(kafka)
    }

    /// Kafka forgets what was not noted for long.
    async fn note(&self, life: Metadata) -> Result<(), Fault> {
        const NOTE_AGAIN: Duration = Duration::from_secs(3600);
        let known = *self.noted();
        if known.is_none_or(|since| since.elapsed() > NOTE_AGAIN) {
            let noted = self.log.note(&self.place, &life.text()).await;
            noted.map_err(kafka)?;
            *self.noted() = Some(Instant::now());
        }
        Ok(())
    }

    /// What was noted is another.
    fn forget(&self) {
        *self.noted() = None;
    }

    fn noted(&self) -> MutexGuard<'_, Option<Instant>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a commit says besides its offset: of which life of the topic it is.
/// One that was made while the topic was made anew may be of the life before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    /// Format: 1.
    f: u16,
    /// The topic's id.
    t: Uuid,
}

impl Metadata {
    fn new(topic: Uuid) -> Self {
        Self {
            f: METADATA_FORMAT,
            t: topic,
        }
    }

    /// Whether a commit that says this is of the same life, as far as it says.
    fn allows(self, text: &str) -> bool {
        text.is_empty() || serde_json::from_str::<Self>(text).is_ok_and(|other| other == self)
    }

    pub(super) fn text(self) -> String {
        // A number and a UUID always serialise.
        serde_json::to_string(&self).unwrap_or_default()
    }
}

impl History {
    /// `mended` asks for the commits of [`crate::sinks::mended_group`].
    pub fn new(topic: String, log: Log, mended: Log, lives: Lives) -> Self {
        Self {
            topic,
            log,
            mended,
            lives,
        }
    }

    /// Whether the topic is the one that was read before. Another is read from
    /// its start; of what the last one had, it is not known how much was sent.
    pub(super) async fn standing(&self) -> Result<Standing, Fault> {
        let life = self.metadata().await?;
        let last = self.lives.last().await?;
        let is_last = last.as_deref().is_some_and(|last| life.allows(last));
        if !is_last {
            self.lives.forget();
        }
        if is_last || last.is_none() || self.is_made_up_for().await? {
            self.lives.note(life).await?;
            return Ok(Standing::SAME);
        }
        let topic = &self.topic;
        Ok(Standing {
            same: true,
            caution: Some(Halt {
                code: "topic_changed".to_owned(),
                reason: format!(
                    "topic {topic} was recreated: what it had before and was not sent yet is not \
                     in it"
                ),
                remedy: REMEDY.to_owned(),
            }),
        })
    }

    /// Whether everything before the log's beginning was told from the source.
    async fn is_made_up_for(&self) -> Result<bool, Fault> {
        let bounds = self.log.bounds(&self.topic).await.map_err(kafka)?;
        let mended = self.mended.committed(&self.topic, bounds.len()).await;
        Ok(mended.map_err(kafka)?.iter().all(Option::is_some))
    }

    /// Where to read on. What this sink promises are the inserts in the log; of
    /// those that it lost before they were sent only the source still knows.
    /// `said` is what the commit carried.
    pub(super) async fn begin(
        &self,
        partition: i32,
        committed: Option<i64>,
        said: &str,
    ) -> Result<(i64, Metadata), Fault> {
        let metadata = self.metadata().await?;
        let committed = committed.filter(|_| metadata.allows(said));
        Ok((self.next(partition, committed).await?, metadata))
    }

    /// What the commits of the topic as it is now carry.
    pub(super) async fn metadata(&self) -> Result<Metadata, Fault> {
        let identity = self.log.identity(&self.topic).await.map_err(kafka)?;
        let missing = || Fault::retry(format!("topic {} does not exist", self.topic));
        Ok(Metadata::new(identity.ok_or_else(missing)?.id))
    }

    async fn next(&self, partition: i32, committed: Option<i64>) -> Result<i64, Fault> {
        let bounds = self.log.bounds(&self.topic).await.map_err(kafka)?;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let (start, end) = bounds
            .get(place)
            .map_or((0, 0), |bounds| (bounds.start, bounds.end));
        match committed {
            Some(next) if next < start => {
                let mended = self.mended.committed(&self.topic, bounds.len()).await;
                let mended = mended.map_err(kafka)?.get(place).copied().flatten();
                if mended.is_some_and(|mended| start <= mended) {
                    return Ok(start);
                }
                let reason = format!(
                    "partition {partition} of {} begins at offset {start}, and offset {next} is \
                     next: what lies between was deleted before it was sent",
                    self.topic
                );
                Err(Fault::halt("retention_passed", reason, REMEDY))
            }
            // Of a topic of this name that is no more.
            Some(next) if next > end => Ok(start),
            Some(next) => Ok(next),
            None => Ok(start),
        }
    }
}

fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_commit_keeps_its_form() {
        let metadata = Metadata::new(Uuid::from_u128(7));
        let text = r#"{"f":1,"t":"00000000-0000-0000-0000-000000000007"}"#;
        assert_eq!(metadata.text(), text);
        assert!(metadata.allows(text));
    }

    #[test]
    fn a_commit_of_another_life_of_the_topic_does_not_count() {
        let metadata = Metadata::new(Uuid::from_u128(7));
        assert!(!metadata.allows(&Metadata::new(Uuid::from_u128(8)).text()));
        assert!(!metadata.allows(r#"{"f":2,"t":"00000000-0000-0000-0000-000000000007"}"#));
        assert!(metadata.allows(""), "made before commits said so");
    }
}
