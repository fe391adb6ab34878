//! Where a generation begins that the tables are written in: taken over from
//! `fanout_topics`, in which earlier releases recorded generations, or the first
//! of an empty table. No number is used twice: where it cannot be known which
//! numbers the stored rows have, the sink halts.
//!
//! The state topic is written first, then `fanout_topics` is marked as moved. An
//! earlier release does not know the mark's format, and halts. After a crash
//! between the two, the next start finds the generation and marks again.

use super::{
    FACTS, Store, TopicRow,
    classify::{clickhouse, kafka},
    generations::{Generations, Metadata, Servers, unknown},
    schema,
};
use crate::{
    kafka::{Kafka, TopicIdentity},
    runtime::{Begun, Fault, Generation, GenerationLog, Incarnation},
    sink_kind::SinkKind,
    time::clock::now_ms,
};

/// Format of `fanout_topics` as earlier releases wrote it.
const FORMAT: u16 = 1;

/// The rows were taken over by the state topic.
const MOVED: u16 = 2;

/// The last incarnations of both topics that `fanout_topics` has.
#[derive(Debug)]
pub(super) struct Earlier {
    facts: Option<TopicRow>,
    content: Option<TopicRow>,
}

impl Earlier {
    pub(super) async fn read(store: &Store, facts: &str, content: &str) -> Result<Self, Fault> {
        let facts = store.lives(facts).await.map_err(clickhouse)?.pop();
        let content = store.lives(content).await.map_err(clickhouse)?.pop();
        for row in facts.iter().chain(&content) {
            if ![FORMAT, MOVED].contains(&row.format) {
                return Err(Fault::halt(
                    "unknown_format",
                    format!(
                        "fanout_topics is of format {}, not {FORMAT} or {MOVED}",
                        row.format
                    ),
                    "use the fanout that wrote it",
                ));
            }
        }
        Ok(Self { facts, content })
    }

    /// The highest numbers of both topics; 0 where there is none.
    pub(super) fn numbers(&self) -> (u16, u16) {
        let number = |row: &Option<TopicRow>| row.as_ref().map_or(0, |row| row.generation);
        (number(&self.facts), number(&self.content))
    }

    /// Both rows, where an earlier release recorded them and nothing has taken them
    /// over.
    fn to_take_over(&self) -> Option<(&TopicRow, &TopicRow)> {
        let rows = (self.facts.as_ref()?, self.content.as_ref()?);
        let is_earlier = |row: &TopicRow| row.format == FORMAT;
        (is_earlier(rows.0) && is_earlier(rows.1)).then_some(rows)
    }

    /// Whether any of it was taken over before.
    fn is_moved(&self) -> bool {
        let mut rows = self.facts.iter().chain(&self.content);
        rows.any(|row| row.format == MOVED)
    }

    /// Whether an earlier release has begun a generation behind this one.
    fn is_ahead_of(&self, begun: &Begun) -> bool {
        let is_ahead = |row: &Option<TopicRow>, known: &Incarnation| {
            let row = row.as_ref().filter(|row| row.format == FORMAT);
            row.is_some_and(|row| row.generation > known.generation)
        };
        is_ahead(&self.facts, &begun.facts) || is_ahead(&self.content, &begun.content)
    }

    /// Tells earlier releases that the record has moved. Where it was told before,
    /// nothing is written.
    pub(super) async fn mark(
        &self,
        store: &Store,
        begun: &Begun,
        (facts, content): (&str, &str),
    ) -> Result<(), Fault> {
        let is_marked = |row: &Option<TopicRow>| {
            let row = row.as_ref();
            row.is_some_and(|row| row.format == MOVED)
        };
        if is_marked(&self.facts) && is_marked(&self.content) {
            return Ok(());
        }
        let marks = [(facts, &begun.facts), (content, &begun.content)];
        let marks = marks.map(|(topic, incarnation)| moved(topic, incarnation));
        store.record_lives(&marks).await.map_err(clickhouse)
    }
}

/// The last row of a topic, as earlier releases find it.
fn moved(topic: &str, incarnation: &Incarnation) -> TopicRow {
    TopicRow {
        topic: topic.to_owned(),
        topic_id: incarnation.topic,
        partitions: incarnation.partitions,
        generation: incarnation.generation,
        first_seen: now_ms(),
        format: MOVED,
        starts: incarnation.starts.clone(),
        settled: 1,
        table_id: uuid::Uuid::nil(),
        truncated: String::new(),
    }
}

/// Checks the tables, and finds, or begins, the generation that they are written
/// in.
pub(super) async fn open(generations: &Generations, servers: Servers<'_>) -> Result<(), Fault> {
    schema::check(servers.store).await?;
    let number = ensure(servers, generations.topics()).await?;
    generations.open(servers, number).await
}

/// Sees that a generation is in force that the tables are written in; returns its
/// number.
async fn ensure(servers: Servers<'_>, topics: (&str, &str)) -> Result<u16, Fault> {
    let earlier = Earlier::read(servers.store, topics.0, topics.1).await?;
    let begun = match servers.record.latest().await? {
        Some(generation) => {
            if earlier.is_ahead_of(&generation.begun) {
                return Err(unknown(
                    "an earlier release of fanout began a generation after the record of them \
                     was moved to the state topic",
                ));
            }
            if generation.table(SinkKind::ClickHouse).is_none() {
                adopt(servers, &generation, &earlier, topics).await?;
            }
            generation.begun
        }
        None => begin(servers, &earlier, topics).await?,
    };
    earlier.mark(servers.store, &begun, topics).await?;
    Ok(begun.number())
}

/// Has a generation that another sink began written into the tables, where nothing
/// was written into them or committed for them.
async fn adopt(
    servers: Servers<'_>,
    generation: &Generation,
    earlier: &Earlier,
    topics: (&str, &str),
) -> Result<(), Fault> {
    let number = generation.number();
    if let Some(rows) = earlier.to_take_over()
        && taken_over(rows.0) == generation.begun.facts
        && taken_over(rows.1) == generation.begun.content
    {
        // A worker without ClickHouse was first.
        return add(servers, rows).await;
    }
    let committed = servers.committed(topics).await?;
    let is_committed = committed >= generation.begun.content.generation;
    if is_committed || has_rows(servers.store).await? {
        let latest = servers.record.latest().await?;
        let is_done = |found: Generation| found.table(SinkKind::ClickHouse).is_some();
        if latest.is_some_and(is_done) {
            return Err(Fault::retry("another worker has begun to write"));
        }
        return Err(unknown(&format!(
            "what the tables hold, or the groups have committed, is from before generation \
             {number}, which other sinks have begun"
        )));
    }
    note_table(servers.record, servers.store, number).await
}

/// Begins the generation that is the first in the state topic.
async fn begin(
    servers: Servers<'_>,
    earlier: &Earlier,
    topics: (&str, &str),
) -> Result<Begun, Fault> {
    if let Some(rows) = earlier.to_take_over() {
        return take_over(servers, rows).await;
    }
    let is_in_use = earlier.is_moved() || has_rows(servers.store).await?;
    // A commit of a generation that is not recorded any more must not be taken for
    // one of this.
    let committed = servers.committed(topics).await?;
    let record = servers.record;
    // Who writes rows, or commits, has begun a generation before.
    if record.latest().await?.is_some() {
        let reason = "another worker has begun the first generation";
        return Err(Fault::retry(reason));
    }
    if is_in_use {
        return Err(unknown(
            "the state topic does not say which generation the tables are of",
        ));
    }
    let (facts, content) = topics;
    let number = next(facts, committed)?;
    note_table(record, servers.store, number).await?;
    let log = servers.log;
    record.begin_first(log, facts, content, number).await
}

impl Servers<'_> {
    /// The highest generation that a commit of either group is of.
    async fn committed(&self, (facts, content): (&str, &str)) -> Result<u16, Fault> {
        let (of_facts, of_content) = self.groups;
        let groups = [(of_facts, facts), (of_content, content)];
        committed(self.kafka, groups).await
    }
}

/// Records in the state topic what an earlier release recorded.
async fn take_over(
    servers: Servers<'_>,
    (facts, content): (&TopicRow, &TopicRow),
) -> Result<Begun, Fault> {
    add(servers, (facts, content)).await?;
    let is_unsettled = facts.settled == 0 || content.settled == 0;
    let begun = Begun::new(taken_over(facts), taken_over(content), is_unsettled);
    servers.record.begin(&begun).await?;
    let number = begun.number();
    tracing::info!(number, "the record of generations was taken over");
    Ok(begun)
}

/// Adds to a generation what only an earlier release knows of it.
async fn add(servers: Servers<'_>, (facts, content): (&TopicRow, &TopicRow)) -> Result<(), Fault> {
    let stored = servers.store.greatest_generations().await;
    let (stored_facts, stored_content) = stored.map_err(clickhouse)?;
    if stored_facts > facts.generation || stored_content > content.generation {
        return Err(unknown(
            "the tables hold rows of a later generation than fanout_topics says",
        ));
    }
    let record = servers.record;
    let (number, table) = (facts.generation, facts.table_id);
    record
        .note_table(number, SinkKind::ClickHouse, table)
        .await?;
    if facts.truncated.is_empty() {
        return Ok(());
    }
    record.note_truncate(number, &facts.truncated).await
}

fn taken_over(row: &TopicRow) -> Incarnation {
    let identity = TopicIdentity {
        id: row.topic_id,
        partitions: row.partitions,
    };
    Incarnation::new(identity, row.generation, row.starts.clone())
}

/// Notes the storage as it is now as the table of a generation.
pub(super) async fn note_table(
    record: &GenerationLog,
    store: &Store,
    number: u16,
) -> Result<(), Fault> {
    let table = store.table_id(FACTS).await.map_err(clickhouse)?;
    let table = table.unwrap_or_default();
    record.note_table(number, SinkKind::ClickHouse, table).await
}

async fn has_rows(store: &Store) -> Result<bool, Fault> {
    Ok(store.has_facts().await.map_err(clickhouse)?
        || store.has_content().await.map_err(clickhouse)?)
}

/// The highest generation that a commit of these groups, each of its topic, says
/// that it is of; 0 where there is none.
pub(super) async fn committed(cluster: &Kafka, groups: [(&str, &str); 2]) -> Result<u16, Fault> {
    let mut highest = 0;
    for (group, topic) in groups {
        let log = cluster.log(group).map_err(kafka)?;
        let Some(partitions) = log.partitions(topic).await.map_err(kafka)? else {
            continue;
        };
        let partitions = usize::try_from(partitions).unwrap_or(0);
        let commits = log.commits(topic, partitions).await.map_err(kafka)?;
        for (_, metadata) in commits.into_iter().flatten() {
            highest = highest.max(Metadata::generation(&metadata).unwrap_or(0));
        }
    }
    Ok(highest)
}

/// The number after the last one.
pub(super) fn next(topic: &str, last: u16) -> Result<u16, Fault> {
    last.checked_add(1).ok_or_else(|| {
        Fault::halt(
            "generations_used_up",
            format!("{topic} has had {last} incarnations, and there can be no more"),
            "fanout reset, then fanout up",
        )
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(generation: u16, format: u16) -> TopicRow {
        let incarnation = Incarnation::new(
            TopicIdentity {
                id: Uuid::from_u128(7),
                partitions: 3,
            },
            generation,
            vec![5, 0],
        );
        TopicRow {
            format,
            ..moved("t", &incarnation)
        }
    }

    fn earlier(facts: Option<(u16, u16)>, content: Option<(u16, u16)>) -> Earlier {
        let row = |(generation, format)| row(generation, format);
        Earlier {
            facts: facts.map(row),
            content: content.map(row),
        }
    }

    #[test]
    fn what_is_taken_over_keeps_its_number_and_where_it_begins() {
        let earlier = earlier(Some((4, FORMAT)), Some((2, FORMAT)));
        let (facts, content) = earlier.to_take_over().expect("both");
        let (facts, content) = (taken_over(facts), taken_over(content));
        assert_eq!((facts.generation, content.generation), (4, 2));
        assert_eq!((facts.topic, facts.partitions), (Uuid::from_u128(7), 3));
        assert_eq!(facts.starts, [5, 0]);
    }

    #[test]
    fn only_what_both_topics_have_and_nothing_took_over_is_taken_over() {
        for (facts, content, expected) in [
            (Some((1, FORMAT)), Some((1, FORMAT)), true),
            (Some((1, FORMAT)), None, false),
            (None, Some((1, FORMAT)), false),
            (Some((1, MOVED)), Some((1, MOVED)), false),
            (Some((1, FORMAT)), Some((1, MOVED)), false),
            (None, None, false),
        ] {
            let earlier = earlier(facts, content);
            let found = earlier.to_take_over().is_some();
            assert_eq!(found, expected, "{facts:?} {content:?}");
        }
        assert!(earlier(Some((1, FORMAT)), Some((1, MOVED))).is_moved());
        assert!(!earlier(Some((1, FORMAT)), None).is_moved());
    }

    #[test]
    fn a_generation_that_an_earlier_release_began_since_is_noticed() {
        let of = |row: &TopicRow| taken_over(row);
        let begun = Begun::new(of(&row(3, FORMAT)), of(&row(3, FORMAT)), false);
        for (facts, content, expected) in [
            (Some((3, FORMAT)), Some((3, FORMAT)), false),
            (Some((2, FORMAT)), Some((3, MOVED)), false),
            (Some((4, FORMAT)), Some((3, FORMAT)), true),
            (Some((3, FORMAT)), Some((4, FORMAT)), true),
            (Some((4, MOVED)), Some((4, MOVED)), false),
        ] {
            let found = earlier(facts, content).is_ahead_of(&begun);
            assert_eq!(found, expected, "{facts:?} {content:?}");
        }
    }

    #[test]
    fn no_number_is_used_twice() {
        assert_eq!(next("t", 0).expect("a number"), 1);
        assert_eq!(next("t", 7).expect("a number"), 8);
        let Err(Fault::Halt(halt)) = next("t", u16::MAX) else {
            panic!("there is one more");
        };
        assert_eq!(halt.code, "generations_used_up");
    }
}
