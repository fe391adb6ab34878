//! Checks that the tables belong to the generation in force, and encodes the generation
//! in the metadata of commits. [`GenerationLog`] records the generations.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{
    catalogue::ContentOffsets,
    classify::{clickhouse, kafka},
    client::{FACTS, Store},
};
use crate::{
    kafka::{Kafka, Log, TopicIdentity, of_partition},
    runtime::{
        Break, COMMIT_FORMAT as METADATA_FORMAT, Committed, Fault, Generation, GenerationLog, Halt,
        Health, Incarnation, RECONCILE, Reading,
    },
    sink_kind::SinkKind,
};

/// Maximum number of partitions of the content topic. Commits contain an offset of each
/// partition, and Kafka limits their metadata to 4,096 bytes.
const MAX_CONTENT_PARTITIONS: i32 = 200;

/// Reason of a retry after a new generation has started.
const NEW_GENERATION: &str = "a rebuild has started a new generation";

/// The clients that read the generation in force and the generation of the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clients<'a> {
    pub(super) store: &'a Store,
    pub(super) log: &'a Log,
    pub(super) generation_log: &'a GenerationLog,
    pub(super) kafka: &'a Kafka,
    /// Consumer groups of the events and the content topic.
    pub(super) groups: (&'a str, &'a str),
}

/// The generation numbers in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct GenerationNumbers {
    pub(super) facts: u16,
    pub(super) content: u16,
}

/// One incarnation of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicIncarnation {
    pub(super) identity: TopicIdentity,
    pub(super) generation: u16,
    /// Start offset of each partition. Empty means the start of the log.
    starts: Vec<i64>,
}

/// State of the generation in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GenerationState {
    pub(super) facts: TopicIncarnation,
    pub(super) content: TopicIncarnation,
    /// Whether no rebuild is unfinished.
    settled: bool,
    /// Partition and offset at which the source was truncated.
    truncated: Option<String>,
}

/// Names of both topics, and the generation that the sink was opened with.
#[derive(Debug)]
pub(super) struct Generations {
    facts: String,
    content: String,
    opened: Mutex<Option<GenerationState>>,
}

/// Metadata of a commit: the generation of the content topic, and the content offsets up
/// to which all rows of the partition are enriched. Rows affected by later content
/// changes are still to be re-enriched. Kafka limits metadata to 4,096 bytes; only
/// `content_offsets` has a variable length, and the content topic has few partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    #[serde(rename = "f")]
    format: u16,
    /// Generation of the content topic.
    #[serde(rename = "g")]
    generation: u16,
    /// The committed offset, since format 2.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    /// The reread in progress.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    reread: Option<Reread>,
    /// Next offset of each content partition.
    #[serde(rename = "c")]
    pub(super) content_offsets: ContentOffsets,
}

/// A reread of the log, from the start of the incarnation up to the end offset at the
/// time when the group's offset was found untrusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reread {
    /// One past the last offset.
    pub(super) until: i64,
    /// The offset that another tool had committed. `None` if the offset was lost.
    pub(super) moved: Option<i64>,
}

impl Reread {
    /// Returns the reread that this commit requires, in a partition that is read from
    /// `next` on and has the end offset `end`.
    pub(super) fn required(committed: Committed<'_>, next: i64, end: i64) -> Option<Self> {
        let moved = match committed.trouble()? {
            Break::Moved { offset } => Some(offset),
            _ => None,
        };
        Some(Self { until: end, moved }).filter(|reread| reread.is_ahead_of(next))
    }

    pub(super) fn is_ahead_of(&self, next: i64) -> bool {
        next < self.until
    }

    /// Returns the degraded state to report during the reread.
    pub(super) fn degraded(&self, reading: Reading<'_>) -> Halt {
        let problem = match self.moved {
            Some(offset) => Break::Moved { offset },
            None => Break::Lost,
        };
        let effect = format!("the log is read again up to offset {}", self.until);
        reading.halt(problem, &effect, "fanout status --watch")
    }
}

impl Metadata {
    /// Returns the metadata of a commit of `next`.
    pub(super) fn new(
        content_generation: u16,
        next: i64,
        content_offsets: ContentOffsets,
        reread: Option<Reread>,
    ) -> Self {
        Self {
            format: METADATA_FORMAT,
            generation: content_generation,
            offset: Some(next),
            reread: reread.filter(|reread| reread.is_ahead_of(next)),
            content_offsets,
        }
    }

    /// Returns the offset and the metadata of a commit, if fanout made it in this
    /// generation. Both topics get a new generation together when history is rebuilt,
    /// so the offset then belongs to the current incarnation, too.
    pub(super) fn from_commit(
        committed: Committed<'_>,
        content_generation: u16,
    ) -> Option<(i64, Self)> {
        let Committed::Ours { offset, metadata } = committed else {
            return None;
        };
        Some((offset, Self::parse(metadata, content_generation)?))
    }

    /// Parses metadata. Returns `None` if it belongs to another generation.
    pub(super) fn parse(text: &str, content_generation: u16) -> Option<Self> {
        let metadata: Self = serde_json::from_str(text).ok()?;
        let is_known = (1..=METADATA_FORMAT).contains(&metadata.format);
        (is_known && metadata.generation == content_generation).then_some(metadata)
    }

    /// Parses only the generation of the content topic.
    pub(super) fn parse_generation(text: &str) -> Option<u16> {
        let metadata: Self = serde_json::from_str(text).ok()?;
        Some(metadata.generation)
    }

    /// Returns the reread that was in progress at the commit.
    pub(super) fn reread(&self) -> Option<Reread> {
        self.reread
    }

    pub(super) fn text(&self) -> String {
        // Numbers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl TopicIncarnation {
    /// Returns the start offset of a partition.
    pub(super) fn start(&self, partition: i32) -> i64 {
        of_partition(&self.starts, partition).copied().unwrap_or(0)
    }
}

#[cfg(test)]
impl TopicIncarnation {
    /// Returns an incarnation with these start offsets.
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

impl From<&Incarnation> for TopicIncarnation {
    fn from(incarnation: &Incarnation) -> Self {
        Self {
            identity: incarnation.identity(),
            generation: incarnation.generation,
            starts: incarnation.starts.clone(),
        }
    }
}

impl GenerationState {
    pub(super) fn numbers(&self) -> GenerationNumbers {
        GenerationNumbers {
            facts: self.facts.generation,
            content: self.content.generation,
        }
    }

    /// Halts the sink if the source was truncated in this generation. A truncate is a
    /// record of one partition and affects the rows of all partitions. The worker that
    /// reads it records it, so that all workers halt. Only a new generation continues
    /// after a truncate.
    pub(super) fn check_not_truncated(&self) -> Result<(), Fault> {
        match &self.truncated {
            Some(position) => Err(Fault::Halt(truncated(position))),
            None => Ok(()),
        }
    }

    /// Returns the degraded state while a rebuild is unfinished.
    fn degraded(&self) -> Option<Halt> {
        (!self.settled).then(|| Halt {
            code: "rebuild_unfinished".to_owned(),
            reason: "a rebuild from the source is unfinished: rows may be missing or superfluous"
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
            opened: Mutex::default(),
        }
    }

    /// Returns the names of the events and the content topic.
    pub(super) fn topics(&self) -> (&str, &str) {
        (&self.facts, &self.content)
    }

    /// Returns the state found by [`Self::open`].
    pub(super) fn current(&self) -> Result<GenerationState, Fault> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = opened.clone();
        opened.ok_or_else(|| Fault::retry("the generation in force is not known yet"))
    }

    /// Loads the generation in force. It must have this number, and the tables must
    /// belong to it.
    pub(super) async fn open(&self, clients: Clients<'_>, number: u16) -> Result<(), Fault> {
        let state = self.load(clients).await?;
        if state.facts.generation != number {
            return Err(Fault::retry(NEW_GENERATION));
        }
        check_partition_count(&self.content, state.content.identity.partitions)?;
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        Ok(())
    }

    async fn load(&self, clients: Clients<'_>) -> Result<GenerationState, Fault> {
        let latest = clients.generation_log.latest().await?;
        let generation = latest.ok_or_else(|| {
            unknown_generation("the state topic no longer has the generation of the tables")
        })?;
        let begun = &generation.begun;
        let facts = require_same_topic(clients.log, &self.facts, &begun.facts).await?;
        let content = require_same_topic(clients.log, &self.content, &begun.content).await?;
        require_same_table(clients.store, &generation).await?;
        Ok(GenerationState {
            facts,
            content,
            settled: generation.settled,
            truncated: generation.truncated,
        })
    }

    /// Returns the current state, and whether the incarnations of both topics are still
    /// the ones found by [`Self::open`].
    pub(super) async fn check(
        &self,
        clients: Clients<'_>,
    ) -> Result<(GenerationState, Health), Fault> {
        let opened = self.current()?;
        let state = self.load(clients).await?;
        let is_current = opened.facts == state.facts && opened.content == state.content;
        let degradation = state.degraded();
        let health = Health {
            is_current,
            degradation,
        };
        Ok((state, health))
    }

    /// Fails if a new generation has started: the sink must then be reopened before it
    /// can claim a partition.
    pub(super) async fn check_unchanged(&self, clients: Clients<'_>) -> Result<(), Fault> {
        if self.check(clients).await?.1.is_current {
            return Ok(());
        }
        Err(Fault::retry(NEW_GENERATION))
    }
}

/// Returns the topic's incarnation in force. Halts if the topic is another one.
async fn require_same_topic(
    log: &Log,
    topic: &str,
    recorded: &Incarnation,
) -> Result<TopicIncarnation, Fault> {
    let incarnation = TopicIncarnation::from(recorded);
    match log.identity(topic).await.map_err(kafka)? {
        Some(identity) if identity == incarnation.identity => Ok(incarnation),
        Some(identity) => Err(topic_changed(topic, incarnation.identity, identity)),
        None => {
            let reason = format!("topic {topic} does not exist");
            Err(Fault::halt("topic_changed", reason, RECONCILE))
        }
    }
}

/// Halts if the storage table is not the one recorded for the generation. Accepts any
/// table if one of the ids is unknown.
async fn require_same_table(store: &Store, generation: &Generation) -> Result<(), Fault> {
    let recorded = generation.table(SinkKind::ClickHouse).unwrap_or_default();
    let current = store.table_id(FACTS).await.map_err(clickhouse)?;
    let current = current.unwrap_or_default();
    if recorded.is_nil() || current.is_nil() || recorded == current {
        return Ok(());
    }
    Err(Fault::halt(
        "table_replaced",
        format!("table {FACTS} is not the one that the log was applied to so far"),
        RECONCILE,
    ))
}

/// Returns the halt for an unknown generation of the stored rows.
pub(super) fn unknown_generation(reason: &str) -> Fault {
    Fault::halt("generation_unknown", reason, RECONCILE)
}

/// Halts if the offsets of all content partitions do not fit into a commit.
fn check_partition_count(topic: &str, partitions: i32) -> Result<(), Fault> {
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

/// Returns the halt for a truncate at this position.
pub(super) fn truncated(position: &str) -> Halt {
    Halt {
        code: "truncated".to_owned(),
        reason: format!(
            "the source was truncated, at {position} of its log, which does not contain the \
             deleted rows"
        ),
        remedy: RECONCILE.to_owned(),
    }
}

fn topic_changed(topic: &str, recorded: TopicIdentity, current: TopicIdentity) -> Fault {
    let cause = if recorded.id == current.id {
        "partitions were added"
    } else {
        "it was recreated"
    };
    Fault::halt(
        "topic_changed",
        format!(
            "topic {topic} is not the one the table was built from (id/partitions {recorded}, now \
             {current}): {cause}"
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
        assert_eq!(Metadata::parse(&text, 2), Some(metadata));
        let reread = Reread {
            until: 9,
            moved: Some(8),
        };
        let text = Metadata::new(2, 5, vec![7], Some(reread)).text();
        let expected = r#"{"f":2,"g":2,"o":5,"r":{"until":9,"moved":8},"c":[7]}"#;
        assert_eq!(text, expected);
        let parsed = Metadata::parse(&text, 2);
        assert_eq!(parsed.and_then(|metadata| metadata.reread()), Some(reread));
        assert_eq!(Metadata::new(2, 9, vec![7], Some(reread)).reread(), None);
    }

    #[test]
    fn the_first_format_is_read() {
        let text = r#"{"f":1,"g":2,"c":[7,9]}"#;
        let committed = Committed::of(Some((5, text)), None);
        let commit = Metadata::from_commit(committed, 2);
        let (offset, metadata) = commit.expect("the commit belongs to fanout");
        assert_eq!((offset, metadata.content_offsets), (5, vec![7, 9]));
    }

    #[test]
    fn an_untrusted_offset_requires_a_reread_up_to_the_current_end() {
        let moved = Committed::Foreign { offset: 8 };
        let reread = Reread::required(moved, 2, 9).expect("a reread is required");
        assert_eq!((reread.until, reread.moved), (9, Some(8)));
        assert!(Reread::required(Committed::Lost, 2, 9).is_some());
        let at_end = Reread::required(Committed::Lost, 9, 9);
        assert_eq!(at_end, None, "no record to read");
        assert_eq!(Reread::required(Committed::Never, 2, 9), None);
    }

    #[test]
    fn the_metadata_of_the_largest_content_topic_is_short_enough_for_kafka() {
        let partitions = usize::try_from(MAX_CONTENT_PARTITIONS).expect("a count");
        let reread = Reread {
            until: MAX_OFFSET,
            moved: Some(MAX_OFFSET - 1),
        };
        let content_offsets = vec![MAX_OFFSET; partitions];
        let text = Metadata::new(u16::MAX, 0, content_offsets, Some(reread)).text();
        assert!(text.len() < 4096, "{}", text.len());
        assert!(check_partition_count("content", MAX_CONTENT_PARTITIONS).is_ok());
        let refused = check_partition_count("content", MAX_CONTENT_PARTITIONS + 1);
        let Err(Fault::Halt(halt)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(
            halt.reason,
            "topic content has 201 partitions, and at most 200 are supported"
        );
    }

    #[test]
    fn a_commit_of_another_generation_is_ignored() {
        let text = Metadata::new(2, 5, vec![7], None).text();
        for other in [1, 3] {
            assert_eq!(Metadata::parse(&text, other), None);
        }
        assert_eq!(Metadata::parse("", 1), None);
        assert_eq!(Metadata::parse(r#"{"f":3,"g":1,"c":[]}"#, 1), None);
    }
}
