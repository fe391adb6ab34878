//! Where the external system's history stands: what was deleted from the log
//! before it was sent, or with it, is noticed, unless it was made up for from the
//! source.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    clients::kafka::{KafkaError, Log},
    sinks::{Fault, Halt, Standing, TopicLife},
};

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
    /// When it is to be noted next; none where that is now.
    due: Mutex<Option<Instant>>,
}

impl Lives {
    /// `log` asks for the notes of [`crate::sinks::lives_group`].
    pub fn new(log: Log, dead_letters: String) -> Self {
        Self {
            log,
            place: dead_letters,
            due: Mutex::default(),
        }
    }

    async fn last(&self) -> Result<Option<String>, Fault> {
        self.log.noted(&self.place).await.map_err(kafka)
    }

    /// Kafka forgets what was not noted for long.
    async fn note(&self, life: TopicLife) {
        const AGAIN: Duration = Duration::from_secs(3600);
        const RETRY: Duration = Duration::from_secs(60);
        if self.due().is_some_and(|due| Instant::now() < due) {
            return;
        }
        let wait = match self.log.note(&self.place, &life.text()).await {
            Ok(()) => AGAIN,
            Err(error) => {
                tracing::warn!(sink = "http", %error, "the topic's life is not noted");
                RETRY
            }
        };
        *self.due() = Some(Instant::now() + wait);
    }

    /// What was noted is another.
    fn forget(&self) {
        *self.due() = None;
    }

    fn due(&self) -> MutexGuard<'_, Option<Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
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
        let life = self.life().await?;
        let last = self.lives.last().await?;
        if last.is_some_and(|last| !life.allows(&last)) {
            if !self.is_made_up_for(life).await? {
                return Ok(Standing {
                    same: true,
                    caution: Some(self.recreated()),
                });
            }
            self.lives.forget();
        }
        self.lives.note(life).await;
        Ok(Standing::SAME)
    }

    fn recreated(&self) -> Halt {
        Halt {
            code: "topic_changed".to_owned(),
            reason: format!(
                "topic {} was recreated: what it had before and was not sent yet is not in it",
                self.topic
            ),
            remedy: REMEDY.to_owned(),
        }
    }

    /// Whether everything before the log's beginning was told from the source.
    async fn is_made_up_for(&self, life: TopicLife) -> Result<bool, Fault> {
        let bounds = self.log.bounds(&self.topic).await.map_err(kafka)?;
        let mended = self.mended(bounds.len(), life).await?;
        Ok(mended.iter().all(Option::is_some))
    }

    /// Up to where each partition, of so many, was made up for.
    async fn mended(&self, partitions: usize, life: TopicLife) -> Result<Vec<Option<i64>>, Fault> {
        let commits = self.mended.commits(&self.topic, partitions).await;
        Ok(life.offsets(commits.map_err(kafka)?))
    }

    /// Where to read on. What this sink promises are the inserts in the log; of
    /// those that it lost before they were sent only the source still knows.
    /// `said` is what the commit carried.
    pub(super) async fn begin(
        &self,
        partition: i32,
        committed: Option<i64>,
        said: &str,
    ) -> Result<(i64, TopicLife), Fault> {
        let life = self.life().await?;
        let committed = committed.filter(|_| life.allows(said));
        Ok((self.next(partition, committed, life).await?, life))
    }

    /// The topic's, as it is now: what its commits carry.
    async fn life(&self) -> Result<TopicLife, Fault> {
        let identity = self.log.identity(&self.topic).await.map_err(kafka)?;
        let missing = || Fault::retry(format!("topic {} does not exist", self.topic));
        Ok(TopicLife::from(identity.ok_or_else(missing)?))
    }

    async fn next(
        &self,
        partition: i32,
        committed: Option<i64>,
        life: TopicLife,
    ) -> Result<i64, Fault> {
        let bounds = self.log.bounds(&self.topic).await.map_err(kafka)?;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let (start, end) = bounds
            .get(place)
            .map_or((0, 0), |bounds| (bounds.start, bounds.end));
        match committed {
            Some(next) if next < start => {
                let mended = self.mended(bounds.len(), life).await?;
                let mended = mended.get(place).copied().flatten();
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
