//! Where the external system's history stands. Inserts that were deleted from
//! the log before they were sent, positions that were lost or moved, and a topic
//! that was recreated are noticed, and what mends them is named: nothing is
//! skipped, and nothing is sent again, without an operator's consent.

use uuid::Uuid;

use crate::{
    kafka::{Bounds, KafkaError, Log},
    runtime::{Break, Committed, Fault, Halt, Notes, Reading, Standing, TopicLife},
    source::checks::RESEND,
};

/// Sends all inserts that the log has, under the keys they had.
const FROM_LOG: &str = "fanout backfill --from earliest --sinks http";

/// The log and the notes, as far as this sink asks for them.
#[derive(Debug)]
pub struct History {
    topic: String,
    log: Log,
    notes: Notes,
    earlier: EarlierNotes,
}

/// Where releases before the state topic kept their notes.
#[derive(Debug)]
pub struct EarlierNotes {
    /// Asks for the commits of [`crate::runtime::mended_group`].
    pub mended: Log,
    /// Asks for the note of [`crate::runtime::lives_group`].
    pub lives: Log,
    /// The topic that note is at.
    pub dead_letters: String,
}

impl EarlierNotes {
    /// The topic that the sink was fed from last.
    async fn topic(&self) -> Result<Option<Uuid>, Fault> {
        let note = self
            .lives
            .read_note(&self.dead_letters)
            .await
            .map_err(kafka)?;
        Ok(note.and_then(|note| TopicLife::read(&note).map(TopicLife::topic)))
    }

    /// Up to where each partition, of so many, was made up for.
    async fn made_up(
        &self,
        topic: &str,
        partitions: usize,
        life: TopicLife,
    ) -> Result<Vec<Option<i64>>, Fault> {
        let commits = self.mended.commits(topic, partitions).await;
        Ok(life.offsets(&commits.map_err(kafka)?))
    }
}

impl History {
    /// `log` asks for the commits of the group that `notes` are of.
    pub fn new(topic: String, log: Log, notes: Notes, earlier: EarlierNotes) -> Self {
        Self {
            topic,
            log,
            notes,
            earlier,
        }
    }

    /// Whether the topic is the one that was read before. Another is read from
    /// its start; how much of the last one was sent is not known.
    pub(super) async fn standing(&self) -> Result<Standing, Fault> {
        let life = self.life().await?;
        let mut last = self.notes.topic().await?;
        if last.is_none() {
            last = self.earlier.topic().await?;
            if last == Some(life.topic()) {
                self.notes.note_topic(life.topic()).await?;
            }
        }
        if last != Some(life.topic()) {
            if last.is_some() && !self.is_made_up_for(life).await? {
                return Ok(Standing {
                    same: true,
                    caution: Some(self.recreated()),
                });
            }
            self.notes.note_topic(life.topic()).await?;
        }
        self.retire(life).await?;
        Ok(Standing::SAME)
    }

    fn recreated(&self) -> Halt {
        Halt {
            code: "topic_changed".to_owned(),
            reason: format!(
                "topic {} was recreated, so inserts that the earlier topic held may not have been \
                 sent",
                self.topic
            ),
            remedy: RESEND.to_owned(),
        }
    }

    /// Whether everything before the log's beginning was sent from the source.
    async fn is_made_up_for(&self, life: TopicLife) -> Result<bool, Fault> {
        let made_up = self.notes.made_up(life.topic()).await?;
        if made_up.is_some_and(|made_up| made_up.whole) {
            return Ok(true);
        }
        let partitions = self.bounds().await?.len();
        let made_up = self.earlier.made_up(&self.topic, partitions, life).await?;
        Ok(made_up.iter().all(Option::is_some))
    }

    /// Forgets what was made up for once every partition is past it: consent to
    /// go on there is good for one break.
    async fn retire(&self, life: TopicLife) -> Result<(), Fault> {
        let Some(made_up) = self.notes.made_up(life.topic()).await? else {
            return Ok(());
        };
        let commits = self.log.commits(&self.topic, made_up.next.len()).await;
        let offsets = life.offsets(&commits.map_err(kafka)?);
        let mut all = offsets.iter().zip(&made_up.next);
        if all.all(|(offset, next)| offset.is_some_and(|offset| offset >= *next)) {
            self.notes.forget_made_up().await?;
        }
        Ok(())
    }

    /// Up to where a partition was made up for from the source.
    pub(super) async fn reconciled(&self, partition: i32) -> Result<i64, Fault> {
        let life = self.life().await?;
        let reconciled = self.notes.reconciled(life.topic()).await?;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        Ok(reconciled.get(place).copied().unwrap_or(0))
    }

    /// Where to read on, and the incarnation of the topic that this is in.
    pub(super) async fn begin(
        &self,
        partition: i32,
        committed: Committed<'_>,
    ) -> Result<(i64, TopicLife), Fault> {
        let life = self.life().await?;
        let bounds = self.bounds().await?;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let reading = Reading {
            group: self.notes.group(),
            topic: &self.topic,
            partition,
            bounds: bounds
                .get(place)
                .copied()
                .unwrap_or(Bounds { start: 0, end: 0 }),
        };
        let broken = match next(reading, committed, life) {
            Ok(next) => return Ok((next, life)),
            Err(broken) => broken,
        };
        let made_up = self.notes.made_up(life.topic()).await?;
        let mut made_up = made_up.and_then(|made_up| made_up.at(partition));
        if made_up.is_none() && matches!(broken, Break::Gone { .. }) {
            let earlier = self.earlier.made_up(&self.topic, bounds.len(), life);
            made_up = earlier.await?.get(place).copied().flatten();
        }
        match made_up.and_then(|made_up| reading.check(made_up).ok()) {
            Some(next) => Ok((next, life)),
            None => Err(Fault::Halt(halt(reading, broken, &bounds))),
        }
    }

    /// The topic's incarnation as it is now: what its commits carry.
    async fn life(&self) -> Result<TopicLife, Fault> {
        let identity = self.log.identity(&self.topic).await.map_err(kafka)?;
        let missing = || Fault::retry(format!("topic {} does not exist", self.topic));
        Ok(TopicLife::from(identity.ok_or_else(missing)?))
    }

    async fn bounds(&self) -> Result<Vec<Bounds>, Fault> {
        self.log.bounds(&self.topic).await.map_err(kafka)
    }
}

/// Where the group's own commits say to read on.
fn next(reading: Reading<'_>, committed: Committed<'_>, life: TopicLife) -> Result<i64, Break> {
    if let Some(broken) = committed.trouble() {
        return Err(broken);
    }
    match committed {
        Committed::Ours { offset, metadata } if life.is_of(metadata) => reading.check(offset),
        Committed::Same { offset } => reading.check(offset),
        // Of this incarnation nothing was committed.
        _ => reading.check(0),
    }
}

fn halt(reading: Reading<'_>, broken: Break, bounds: &[Bounds]) -> Halt {
    let effect = match broken {
        Break::Moved { .. } => "inserts may be skipped or sent again",
        Break::Gone { .. } => "inserts among them may not have been sent",
        Break::Lost | Break::Short { .. } => "it is not known which inserts were sent",
    };
    let is_whole = bounds.iter().all(|bounds| bounds.start == 0);
    let remedy = match broken {
        Break::Moved { .. } | Break::Lost if is_whole => FROM_LOG,
        _ => RESEND,
    };
    reading.halt(broken, effect, remedy)
}

fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::TopicIdentity;

    fn life(topic: u128) -> TopicLife {
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
    fn only_its_own_position_within_the_log_is_read_on_from() {
        let own = life(1).text(5, None);
        let earlier = life(2).text(5, None);
        let of = |metadata| Committed::of(Some((5, metadata)), None);
        for (committed, log, expected) in [
            (of(&own), (0, 9), Ok(5)),
            (of(&own), (5, 5), Ok(5)),
            (of(&own), (6, 9), Err(Break::Gone { next: 5 })),
            (of(&own), (0, 4), Err(Break::Short { next: 5 })),
            (of(&earlier), (0, 9), Ok(0)),
            (of(&earlier), (1, 9), Err(Break::Gone { next: 0 })),
            (of(""), (0, 9), Err(Break::Moved { offset: 5 })),
            (Committed::Same { offset: 5 }, (0, 9), Ok(5)),
            (Committed::Lost, (0, 9), Err(Break::Lost)),
            (Committed::Never, (0, 9), Ok(0)),
            (Committed::Never, (1, 9), Err(Break::Gone { next: 0 })),
        ] {
            let found = next(reading(log.0, log.1), committed, life(1));
            assert_eq!(found, expected, "{committed:?} {log:?}");
        }
    }

    #[test]
    fn a_log_that_has_every_insert_is_the_remedy() {
        let whole = [Bounds { start: 0, end: 9 }; 2];
        let cut = [Bounds { start: 0, end: 9 }, Bounds { start: 3, end: 9 }];
        for (broken, bounds, expected) in [
            (Break::Lost, &whole, FROM_LOG),
            (Break::Moved { offset: 9 }, &whole, FROM_LOG),
            (Break::Lost, &cut, RESEND),
            (Break::Moved { offset: 9 }, &cut, RESEND),
            (Break::Gone { next: 1 }, &cut, RESEND),
            (Break::Short { next: 9 }, &whole, RESEND),
        ] {
            let halt = halt(reading(0, 9), broken, bounds);
            assert_eq!(halt.remedy, expected, "{halt:?}");
        }
    }
}
