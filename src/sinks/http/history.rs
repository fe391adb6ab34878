//! Tracks which inserts the external system has received. Detects inserts deleted
//! from the log before they were sent, lost or moved offsets, and a recreated topic,
//! and reports the remedy. Without an operator's consent, nothing is skipped and
//! nothing is sent again.

use uuid::Uuid;

use crate::{
    kafka::{Bounds, KafkaError, Log, of_partition},
    runtime::{Break, Committed, Fault, Halt, Health, Notes, Reading, TopicLife},
    source::checks::RESEND,
};

/// The command that sends every insert in the log again, with its original key.
const RESEND_FROM_LOG: &str = "fanout backfill --from earliest --sinks http";

/// Access to the offsets of the log and the recorded state of the group.
#[derive(Debug)]
pub struct History {
    topic: String,
    log: Log,
    notes: Notes,
    legacy: LegacyState,
}

/// State recorded by releases that had no state topic.
#[derive(Debug)]
pub struct LegacyState {
    /// Reads the commits of [`crate::runtime::mended_group`].
    pub backfills: Log,
    /// Reads the commit metadata of [`crate::runtime::lives_group`].
    pub incarnations: Log,
    /// The topic to which that metadata was committed.
    pub dead_letter_topic: String,
}

impl LegacyState {
    /// Returns the id of the topic that the sink consumed last.
    async fn topic(&self) -> Result<Option<Uuid>, Fault> {
        let metadata = self.incarnations.read_note(&self.dead_letter_topic).await;
        let metadata = metadata.map_err(kafka)?;
        Ok(metadata.and_then(|metadata| TopicLife::read(&metadata).map(TopicLife::topic)))
    }

    /// Returns the offset up to which each of `partitions` partitions was backfilled
    /// from the source.
    async fn backfilled_offsets(
        &self,
        topic: &str,
        partitions: usize,
        incarnation: TopicLife,
    ) -> Result<Vec<Option<i64>>, Fault> {
        let commits = self.backfills.commits(topic, partitions).await;
        Ok(incarnation.offsets(&commits.map_err(kafka)?))
    }
}

impl History {
    /// Returns the history of a sink. `log` must belong to the same consumer group as
    /// `notes`.
    pub fn new(topic: String, log: Log, notes: Notes, legacy: LegacyState) -> Self {
        Self {
            topic,
            log,
            notes,
            legacy,
        }
    }

    /// Checks whether the topic is still the one that the sink consumed before. A
    /// recreated topic is read from its start, and the sink is degraded: it is unknown
    /// which inserts of the old topic were sent.
    pub(super) async fn check_topic(&self) -> Result<Health, Fault> {
        let incarnation = self.incarnation().await?;
        let topic = incarnation.topic();
        let mut last = self.notes.topic().await?;
        if last.is_none() {
            last = self.legacy.topic().await?;
            if last == Some(topic) {
                self.notes.note_topic(topic).await?;
            }
        }
        if last != Some(topic) {
            if last.is_some() && !self.is_backfilled(incarnation).await? {
                return Ok(Health {
                    is_current: true,
                    degradation: Some(self.topic_recreated()),
                });
            }
            self.notes.note_topic(topic).await?;
        }
        self.forget_passed_backfill(incarnation).await?;
        Ok(Health::UNCHANGED)
    }

    fn topic_recreated(&self) -> Halt {
        Halt {
            code: "topic_changed".to_owned(),
            reason: format!(
                "topic {} was recreated, so inserts of the old topic may not have been sent",
                self.topic
            ),
            remedy: RESEND.to_owned(),
        }
    }

    /// Returns true if all inserts before the start of the log were sent from the
    /// source.
    async fn is_backfilled(&self, incarnation: TopicLife) -> Result<bool, Fault> {
        let backfill = self.notes.backfilled(incarnation.topic()).await?;
        if backfill.is_some_and(|backfill| backfill.whole) {
            return Ok(true);
        }
        let partitions = self.bounds().await?.len();
        let legacy = &self.legacy;
        let offsets = legacy.backfilled_offsets(&self.topic, partitions, incarnation);
        Ok(offsets.await?.iter().all(Option::is_some))
    }

    /// Deletes the record of a backfill once every partition is past it. The consent
    /// that it stands for applies to one gap only.
    async fn forget_passed_backfill(&self, incarnation: TopicLife) -> Result<(), Fault> {
        let Some(backfill) = self.notes.backfilled(incarnation.topic()).await? else {
            return Ok(());
        };
        let commits = self.log.commits(&self.topic, backfill.next.len()).await;
        let offsets = incarnation.offsets(&commits.map_err(kafka)?);
        let mut pairs = offsets.iter().zip(&backfill.next);
        if pairs.all(|(offset, next)| offset.is_some_and(|offset| offset >= *next)) {
            self.notes.forget_backfilled().await?;
        }
        Ok(())
    }

    /// Returns the offset up to which a partition was reconciled from the source.
    pub(super) async fn reconciled(&self, partition: i32) -> Result<i64, Fault> {
        let incarnation = self.incarnation().await?;
        let offsets = self.notes.reconciled(incarnation.topic()).await?;
        Ok(of_partition(&offsets, partition).copied().unwrap_or(0))
    }

    /// Returns the offset to resume from, and the topic incarnation that it belongs to.
    pub(super) async fn start(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> Result<(i64, TopicLife), Fault> {
        let incarnation = self.incarnation().await?;
        let bounds = self.bounds().await?;
        let reading = Reading {
            group: self.notes.group(),
            topic: &self.topic,
            partition,
            bounds: of_partition(&bounds, partition)
                .copied()
                .unwrap_or(Bounds { start: 0, end: 0 }),
        };
        let problem = match next_offset(reading, committed, incarnation) {
            Ok(next) => return Ok((next, incarnation)),
            Err(problem) => problem,
        };
        let backfill = self.notes.backfilled(incarnation.topic()).await?;
        let mut backfilled = backfill.and_then(|backfill| backfill.at(partition));
        if backfilled.is_none() && matches!(problem, Break::Gone { .. }) {
            let legacy = &self.legacy;
            let offsets = legacy.backfilled_offsets(&self.topic, bounds.len(), incarnation);
            backfilled = of_partition(&offsets.await?, partition).copied().flatten();
        }
        match backfilled.and_then(|offset| reading.check(offset).ok()) {
            Some(next) => Ok((next, incarnation)),
            None => Err(Fault::Halt(halt(reading, problem, &bounds))),
        }
    }

    /// Returns the current incarnation of the topic, as stored in its commits.
    async fn incarnation(&self) -> Result<TopicLife, Fault> {
        let identity = self.log.identity(&self.topic).await.map_err(kafka)?;
        let missing = || Fault::retry(format!("topic {} does not exist", self.topic));
        Ok(TopicLife::from(identity.ok_or_else(missing)?))
    }

    async fn bounds(&self) -> Result<Vec<Bounds>, Fault> {
        self.log.bounds(&self.topic).await.map_err(kafka)
    }
}

/// Returns the offset to resume from according to the commits of the group.
fn next_offset(
    reading: Reading<'_>,
    committed: Committed<'_>,
    incarnation: TopicLife,
) -> Result<i64, Break> {
    if let Some(problem) = committed.trouble() {
        return Err(problem);
    }
    match committed {
        Committed::Ours { offset, metadata } if incarnation.is_of(metadata) => {
            reading.check(offset)
        }
        Committed::Same { offset } => reading.check(offset),
        // Nothing was committed for this incarnation.
        _ => reading.check(0),
    }
}

fn halt(reading: Reading<'_>, problem: Break, bounds: &[Bounds]) -> Halt {
    let effect = match problem {
        Break::Moved { .. } => "inserts may be skipped or sent again",
        Break::Gone { .. } => "inserts in the deleted range may not have been sent",
        Break::Lost | Break::Short { .. } => "it is unknown which inserts were sent",
    };
    let is_complete = bounds.iter().all(|bounds| bounds.start == 0);
    let remedy = match problem {
        Break::Moved { .. } | Break::Lost if is_complete => RESEND_FROM_LOG,
        _ => RESEND,
    };
    reading.halt(problem, effect, remedy)
}

fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::TopicIdentity;

    fn incarnation(topic: u128) -> TopicLife {
        TopicLife::from(TopicIdentity {
            id: Uuid::from_u128(topic),
            partitions: 1,
        })
    }

    fn reading(start: i64, end: i64) -> Reading<'static> {
        Reading {
            group: "fanout-http",
            topic: "t",
            partition: 0,
            bounds: Bounds { start, end },
        }
    }

    #[test]
    fn reading_resumes_only_from_a_fanout_commit_within_the_log() {
        let current = incarnation(1).text(5, None);
        let previous = incarnation(2).text(5, None);
        let commit = |metadata| Committed::of(Some((5, metadata)), None);
        for (committed, log, expected) in [
            (commit(&current), (0, 9), Ok(5)),
            (commit(&current), (5, 5), Ok(5)),
            (commit(&current), (6, 9), Err(Break::Gone { next: 5 })),
            (commit(&current), (0, 4), Err(Break::Short { next: 5 })),
            (commit(&previous), (0, 9), Ok(0)),
            (commit(&previous), (1, 9), Err(Break::Gone { next: 0 })),
            (commit(""), (0, 9), Err(Break::Moved { offset: 5 })),
            (Committed::Same { offset: 5 }, (0, 9), Ok(5)),
            (Committed::Lost, (0, 9), Err(Break::Lost)),
            (Committed::Never, (0, 9), Ok(0)),
            (Committed::Never, (1, 9), Err(Break::Gone { next: 0 })),
        ] {
            let next = next_offset(reading(log.0, log.1), committed, incarnation(1));
            assert_eq!(next, expected, "{committed:?} {log:?}");
        }
    }

    #[test]
    fn inserts_are_resent_from_the_log_if_it_is_complete() {
        let complete = [Bounds { start: 0, end: 9 }; 2];
        let truncated = [Bounds { start: 0, end: 9 }, Bounds { start: 3, end: 9 }];
        for (problem, bounds, expected) in [
            (Break::Lost, &complete, RESEND_FROM_LOG),
            (Break::Moved { offset: 9 }, &complete, RESEND_FROM_LOG),
            (Break::Lost, &truncated, RESEND),
            (Break::Moved { offset: 9 }, &truncated, RESEND),
            (Break::Gone { next: 1 }, &truncated, RESEND),
            (Break::Short { next: 9 }, &complete, RESEND),
        ] {
            let halt = halt(reading(0, 9), problem, bounds);
            assert_eq!(halt.remedy, expected, "{halt:?}");
        }
    }
}
