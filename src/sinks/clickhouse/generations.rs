//! Which generation the tables are written in, and what a commit says of it. The
//! record of generations is [`GenerationLog`]'s; whether the tables are the ones
//! that the generation in force is written into is judged here.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{
    catalogue::Reached,
    classify::{clickhouse, kafka},
    client::{FACTS, Store},
};
use crate::{
    kafka::{Kafka, Log, TopicIdentity},
    runtime::{
        Break, COMMIT_FORMAT as METADATA_FORMAT, Committed, Fault, Generation, GenerationLog, Halt,
        Health, Incarnation, RECONCILE, Reading,
    },
    sink_kind::SinkKind,
};

/// Partitions that the content topic may have: commits carry an offset of each,
/// and Kafka takes 4,096 bytes of metadata.
const MAX_CONTENT_PARTITIONS: i32 = 200;

/// What says which generation is in force, and which the tables are of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Servers<'a> {
    pub(super) store: &'a Store,
    pub(super) log: &'a Log,
    pub(super) record: &'a GenerationLog,
    pub(super) kafka: &'a Kafka,
    /// The facts' consumer group, and the content's.
    pub(super) groups: (&'a str, &'a str),
}

/// The generations in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    pub(super) facts: u16,
    pub(super) content: u16,
}

/// One life of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) identity: TopicIdentity,
    pub(super) generation: u16,
    /// By partition; empty is at the start of the log.
    starts: Vec<i64>,
}

/// Both topics as they were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) facts: Life,
    pub(super) content: Life,
    /// No rebuild is unfinished.
    settled: bool,
    /// Where the source was truncated.
    truncated: Option<String>,
}

/// Both topics and what was found of them.
#[derive(Debug)]
pub(super) struct Generations {
    facts: String,
    content: String,
    found: Mutex<Option<Found>>,
}

/// What a commit says besides its offset: under which life of the content
/// topic it was made, and how far all rows of the partition are enriched. What
/// the catalogue has beyond that is owed. Kafka limits it to 4,096 bytes; only
/// `c` grows with anything, and the content topic has few partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    /// Format.
    f: u16,
    /// Generation of the content topic.
    g: u16,
    /// The offset that it is for; since format 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<i64>,
    /// Up to here the log is being read again, because of the reason in `w`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r: Option<Again>,
    /// Next offset of each content partition.
    pub(super) c: Reached,
}

/// A reading of the log from the start of its life, up to where it ended when
/// the group's position turned out not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Again {
    /// One past the last offset.
    pub(super) until: i64,
    /// The offset that something else had committed; none where it was lost.
    pub(super) moved: Option<i64>,
}

impl Again {
    /// What there is to read again after this commit, in a partition that is
    /// read from `next` and ends at `end`.
    pub(super) fn of(committed: Committed<'_>, next: i64, end: i64) -> Option<Self> {
        let moved = match committed.trouble()? {
            Break::Moved { offset } => Some(offset),
            _ => None,
        };
        Some(Self { until: end, moved }).filter(|again| again.is_ahead_of(next))
    }

    pub(super) fn is_ahead_of(&self, next: i64) -> bool {
        next < self.until
    }

    /// What an operator is told meanwhile.
    pub(super) fn halt(&self, reading: Reading<'_>) -> Halt {
        let broken = match self.moved {
            Some(offset) => Break::Moved { offset },
            None => Break::Lost,
        };
        let effect = format!("the log is read again up to offset {}", self.until);
        reading.halt(broken, &effect, "fanout status --watch")
    }
}

impl Metadata {
    /// What the next commit, of `next`, says.
    pub(super) fn new(
        content_generation: u16,
        next: i64,
        enriched: Reached,
        again: Option<Again>,
    ) -> Self {
        Self {
            f: METADATA_FORMAT,
            g: content_generation,
            o: Some(next),
            r: again.filter(|again| again.is_ahead_of(next)),
            c: enriched,
        }
    }

    /// What a commit says, where fanout made it and under this generation. Both
    /// topics' generations begin together when history is rebuilt, so this
    /// also tells whether its offset is of the present life.
    pub(super) fn of(committed: Committed<'_>, content_generation: u16) -> Option<(i64, Self)> {
        let Committed::Ours { offset, metadata } = committed else {
            return None;
        };
        Some((offset, Self::read(metadata, content_generation)?))
    }

    /// The same of metadata alone.
    pub(super) fn read(text: &str, content_generation: u16) -> Option<Self> {
        let known: Self = serde_json::from_str(text).ok()?;
        let is_known = (1..=METADATA_FORMAT).contains(&known.f);
        (is_known && known.g == content_generation).then_some(known)
    }

    /// The generation of the content topic that a commit is of, whichever that is.
    pub(super) fn generation(text: &str) -> Option<u16> {
        let known: Self = serde_json::from_str(text).ok()?;
        Some(known.g)
    }

    /// What was being read again then.
    pub(super) fn again(&self) -> Option<Again> {
        self.r
    }

    pub(super) fn text(&self) -> String {
        // Numbers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Life {
    /// The offset at which this life of a partition begins.
    pub(super) fn start(&self, partition: i32) -> i64 {
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        self.starts.get(place).copied().unwrap_or(0)
    }
}

#[cfg(test)]
impl Life {
    /// A life that begins at these offsets.
    pub(super) fn starting_at(starts: Vec<i64>) -> Self {
        Self {
            identity: TopicIdentity {
                id: uuid::Uuid::nil(),
                partitions: 1,
            },
            generation: 1,
            starts,
        }
    }
}

impl From<&Incarnation> for Life {
    fn from(incarnation: &Incarnation) -> Self {
        Self {
            identity: incarnation.identity(),
            generation: incarnation.generation,
            starts: incarnation.starts.clone(),
        }
    }
}

impl Found {
    pub(super) fn generations(&self) -> Current {
        Current {
            facts: self.facts.generation,
            content: self.content.generation,
        }
    }

    /// A truncate stands in the log of one partition and concerns the rows of
    /// all: whoever meets it tells the others by this, and only another life
    /// goes on behind it.
    pub(super) fn whole(&self) -> Result<(), Fault> {
        match &self.truncated {
            Some(place) => Err(Fault::Halt(truncated(place))),
            None => Ok(()),
        }
    }

    /// A rebuild that was begun has to be brought to its end.
    fn degradation(&self) -> Option<Halt> {
        (!self.settled).then(|| Halt {
            code: "rebuild_unfinished".to_owned(),
            reason: "a rebuild from the source has begun and is not done: rows may be missing, or \
                     too many"
                .to_owned(),
            remedy: RECONCILE.to_owned(),
        })
    }
}

impl Generations {
    pub(super) fn new(facts: String, content: String) -> Self {
        Self {
            facts,
            content,
            found: Mutex::default(),
        }
    }

    /// The facts' topic, and the content's.
    pub(super) fn topics(&self) -> (&str, &str) {
        (&self.facts, &self.content)
    }

    /// What [`Self::open`] found.
    pub(super) fn current(&self) -> Result<Found, Fault> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.clone();
        found.ok_or_else(|| Fault::retry("the topics' generations are not known yet"))
    }

    /// Finds the generation in force, which has to be this one and the one that the
    /// tables are written in.
    pub(super) async fn open(&self, servers: Servers<'_>, number: u16) -> Result<(), Fault> {
        let found = self.find(servers).await?;
        if found.facts.generation != number {
            return Err(Fault::retry("history has begun anew"));
        }
        few_enough(&self.content, found.content.identity.partitions)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(())
    }

    async fn find(&self, servers: Servers<'_>) -> Result<Found, Fault> {
        let latest = servers.record.latest().await?;
        let generation = latest.ok_or_else(|| {
            unknown("the state topic no longer says which generation the tables are of")
        })?;
        let begun = &generation.begun;
        let facts = same_topic(servers.log, &self.facts, &begun.facts).await?;
        let content = same_topic(servers.log, &self.content, &begun.content).await?;
        same_table(servers.store, &generation).await?;
        Ok(Found {
            facts,
            content,
            settled: generation.settled,
            truncated: generation.truncated,
        })
    }

    /// Both topics as they are now, and whether they still live the lives that
    /// were found.
    pub(super) async fn health(&self, servers: Servers<'_>) -> Result<(Found, Health), Fault> {
        let known = self.current()?;
        let found = self.find(servers).await?;
        let is_current = known.facts == found.facts && known.content == found.content;
        let degradation = found.degradation();
        Ok((
            found,
            Health {
                is_current,
                degradation,
            },
        ))
    }

    /// Nothing is taken over under lives that are past: the sink is opened
    /// again first.
    pub(super) async fn still(&self, servers: Servers<'_>) -> Result<(), Fault> {
        if self.health(servers).await?.1.is_current {
            return Ok(());
        }
        Err(Fault::retry("history has begun anew"))
    }
}

/// The topic's incarnation in force, where the topic still is that one.
async fn same_topic(log: &Log, topic: &str, known: &Incarnation) -> Result<Life, Fault> {
    let life = Life::from(known);
    match log.identity(topic).await.map_err(kafka)? {
        Some(identity) if identity == life.identity => Ok(life),
        Some(identity) => Err(changed(topic, life.identity, identity)),
        None => {
            let reason = format!("topic {topic} does not exist");
            Err(Fault::halt("topic_changed", reason, RECONCILE))
        }
    }
}

/// Whether the storage is the table that the generation is written into, as far
/// as that is known.
async fn same_table(store: &Store, generation: &Generation) -> Result<(), Fault> {
    let known = generation.table(SinkKind::ClickHouse).unwrap_or_default();
    let found = store.table_id(FACTS).await.map_err(clickhouse)?;
    let found = found.unwrap_or_default();
    if known.is_nil() || found.is_nil() || known == found {
        return Ok(());
    }
    Err(Fault::halt(
        "table_replaced",
        format!("table {FACTS} is not the one that the log was applied to so far"),
        RECONCILE,
    ))
}

/// The halt where it is not known which numbers the stored rows have.
pub(super) fn unknown(reason: &str) -> Fault {
    Fault::halt("generation_unknown", reason, RECONCILE)
}

/// More partitions could not be told of in a commit.
fn few_enough(topic: &str, partitions: i32) -> Result<(), Fault> {
    if partitions <= MAX_CONTENT_PARTITIONS {
        return Ok(());
    }
    Err(Fault::halt(
        "too_many_partitions",
        format!(
            "topic {topic} has {partitions} partitions, and at most {MAX_CONTENT_PARTITIONS} are \
             supported"
        ),
        format!("recreate {topic} with fewer partitions, then {RECONCILE}"),
    ))
}

/// The halt that a truncate at this place is.
pub(super) fn truncated(place: &str) -> Halt {
    Halt {
        code: "truncated".to_owned(),
        reason: format!(
            "the source was truncated, at {place} of its log: which rows are gone is not in it"
        ),
        remedy: RECONCILE.to_owned(),
    }
}

fn changed(topic: &str, then: TopicIdentity, now: TopicIdentity) -> Fault {
    let what = if then.id == now.id {
        "partitions were added"
    } else {
        "it was recreated"
    };
    Fault::halt(
        "topic_changed",
        format!(
            "topic {topic} is not the one the table was built from (id/partitions {then}, now \
             {now}): {what}"
        ),
        RECONCILE,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engagement::version::MAX_OFFSET;

    #[test]
    fn the_metadata_of_a_commit_keeps_its_form() {
        let metadata = Metadata::new(2, 5, vec![7, 9], None);
        let text = metadata.text();
        assert_eq!(text, r#"{"f":2,"g":2,"o":5,"c":[7,9]}"#);
        assert_eq!(Metadata::read(&text, 2), Some(metadata));
        let again = Again {
            until: 9,
            moved: Some(8),
        };
        let text = Metadata::new(2, 5, vec![7], Some(again)).text();
        let expected = r#"{"f":2,"g":2,"o":5,"r":{"until":9,"moved":8},"c":[7]}"#;
        assert_eq!(text, expected);
        assert_eq!(
            Metadata::read(&text, 2).and_then(|it| it.again()),
            Some(again)
        );
        assert_eq!(Metadata::new(2, 9, vec![7], Some(again)).again(), None);
    }

    #[test]
    fn the_first_format_is_read() {
        let text = r#"{"f":1,"g":2,"c":[7,9]}"#;
        let committed = Committed::of(Some((5, text)), None);
        let (offset, metadata) = Metadata::of(committed, 2).expect("it is fanout's");
        assert_eq!((offset, metadata.c), (5, vec![7, 9]));
    }

    #[test]
    fn what_is_not_trusted_is_read_again_up_to_the_end_of_then() {
        let moved = Committed::Foreign { offset: 8 };
        let again = Again::of(moved, 2, 9).expect("there is something");
        assert_eq!((again.until, again.moved), (9, Some(8)));
        assert!(Again::of(Committed::Lost, 2, 9).is_some());
        assert_eq!(Again::of(Committed::Lost, 9, 9), None, "nothing to read");
        assert_eq!(Again::of(Committed::Never, 2, 9), None);
    }

    #[test]
    fn the_metadata_of_the_largest_content_topic_is_short_enough_for_kafka() {
        let partitions = usize::try_from(MAX_CONTENT_PARTITIONS).expect("a count");
        let again = Again {
            until: MAX_OFFSET,
            moved: Some(MAX_OFFSET - 1),
        };
        let content = vec![MAX_OFFSET; partitions];
        let text = Metadata::new(u16::MAX, 0, content, Some(again)).text();
        assert!(text.len() < 4096, "{}", text.len());
        assert!(few_enough("content", MAX_CONTENT_PARTITIONS).is_ok());
        let refused = few_enough("content", MAX_CONTENT_PARTITIONS + 1);
        let Err(Fault::Halt(halt)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(
            halt.reason,
            "topic content has 201 partitions, and at most 200 are supported"
        );
    }

    #[test]
    fn a_commit_of_another_life_says_nothing_of_this_one() {
        let text = Metadata::new(2, 5, vec![7], None).text();
        for other in [1, 3] {
            assert_eq!(Metadata::read(&text, other), None);
        }
        assert_eq!(Metadata::read("", 1), None);
        assert_eq!(Metadata::read(r#"{"f":3,"g":1,"c":[]}"#, 1), None);
    }
}
