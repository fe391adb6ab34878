//! Ensures that the tables belong to a generation in the state topic: migrates it from
//! `fanout_topics`, where earlier releases recorded generations, or starts the first one
//! for empty tables. No number is used twice: if the numbers of the stored rows are
//! unknown, the sink halts.
//!
//! The state topic is written first, then `fanout_topics` is marked as moved. Earlier
//! releases do not know the format of the marker, and halt. After a crash between the two
//! steps, the next start finds the generation and writes the marker.

use super::{
    FACTS, Store, TopicRow,
    classify::{clickhouse, kafka},
    generations::{Clients, Generations, Metadata, unknown_generation},
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

/// Format of a row that marks the generations as moved to the state topic.
const MOVED: u16 = 2;

/// The last incarnations of both topics in `fanout_topics`.
#[derive(Debug)]
pub(super) struct LegacyRecord {
    facts: Option<TopicRow>,
    content: Option<TopicRow>,
}

impl LegacyRecord {
    pub(super) async fn read(store: &Store, facts: &str, content: &str) -> Result<Self, Fault> {
        let facts = store.lives(facts).await.map_err(clickhouse)?.pop();
        let content = store.lives(content).await.map_err(clickhouse)?.pop();
        for row in facts.iter().chain(&content) {
            if ![FORMAT, MOVED].contains(&row.format) {
                return Err(Fault::halt(
                    "unknown_format",
                    format!(
                        "fanout_topics has format {}, not {FORMAT} or {MOVED}",
                        row.format
                    ),
                    "use the fanout that wrote it",
                ));
            }
        }
        Ok(Self { facts, content })
    }

    /// Returns the highest numbers of both topics, or 0 if there is none.
    pub(super) fn numbers(&self) -> (u16, u16) {
        let number = |row: &Option<TopicRow>| row.as_ref().map_or(0, |row| row.generation);
        (number(&self.facts), number(&self.content))
    }

    /// Returns the rows of both topics, if an earlier release wrote them and they have not
    /// been migrated.
    fn rows_to_migrate(&self) -> Option<(&TopicRow, &TopicRow)> {
        let rows = (self.facts.as_ref()?, self.content.as_ref()?);
        let is_legacy = |row: &TopicRow| row.format == FORMAT;
        (is_legacy(rows.0) && is_legacy(rows.1)).then_some(rows)
    }

    /// Returns true if the row of a topic was migrated before.
    fn is_moved(&self) -> bool {
        let mut rows = self.facts.iter().chain(&self.content);
        rows.any(|row| row.format == MOVED)
    }

    /// Returns true if an earlier release has started a generation after this one.
    fn is_ahead_of(&self, generation: &Begun) -> bool {
        let is_ahead = |row: &Option<TopicRow>, recorded: &Incarnation| {
            let row = row.as_ref().filter(|row| row.format == FORMAT);
            row.is_some_and(|row| row.generation > recorded.generation)
        };
        is_ahead(&self.facts, &generation.facts) || is_ahead(&self.content, &generation.content)
    }

    /// Marks the record as moved, for earlier releases. Writes nothing if it is already
    /// marked.
    pub(super) async fn mark_moved(
        &self,
        store: &Store,
        generation: &Begun,
        (facts, content): (&str, &str),
    ) -> Result<(), Fault> {
        let is_marked = |row: &Option<TopicRow>| {
            let row = row.as_ref();
            row.is_some_and(|row| row.format == MOVED)
        };
        if is_marked(&self.facts) && is_marked(&self.content) {
            return Ok(());
        }
        let topics = [(facts, &generation.facts), (content, &generation.content)];
        let markers = topics.map(|(topic, incarnation)| moved_marker(topic, incarnation));
        store.record_lives(&markers).await.map_err(clickhouse)
    }
}

/// Returns the row that earlier releases find as the last one of a topic.
fn moved_marker(topic: &str, incarnation: &Incarnation) -> TopicRow {
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

/// Checks the tables, and finds or starts their generation.
pub(super) async fn open(generations: &Generations, clients: Clients<'_>) -> Result<(), Fault> {
    schema::check(clients.store).await?;
    let number = ensure_generation(clients, generations.topics()).await?;
    generations.open(clients, number).await
}

/// Ensures that a generation is in force and that the tables belong to it. Returns its
/// number.
async fn ensure_generation(clients: Clients<'_>, topics: (&str, &str)) -> Result<u16, Fault> {
    let legacy = LegacyRecord::read(clients.store, topics.0, topics.1).await?;
    let generation = match clients.generation_log.latest().await? {
        Some(latest) => {
            if legacy.is_ahead_of(&latest.begun) {
                return Err(unknown_generation(
                    "an earlier release of fanout started a generation after the generations \
                     were moved to the state topic",
                ));
            }
            if latest.table(SinkKind::ClickHouse).is_none() {
                adopt_generation(clients, &latest, &legacy, topics).await?;
            }
            latest.begun
        }
        None => start_first_generation(clients, &legacy, topics).await?,
    };
    legacy
        .mark_moved(clients.store, &generation, topics)
        .await?;
    Ok(generation.number())
}

/// Assigns the tables to a generation that another sink started. Halts if rows were
/// written or offsets committed before it.
async fn adopt_generation(
    clients: Clients<'_>,
    generation: &Generation,
    legacy: &LegacyRecord,
    topics: (&str, &str),
) -> Result<(), Fault> {
    let number = generation.number();
    if let Some(rows) = legacy.rows_to_migrate()
        && incarnation(rows.0) == generation.begun.facts
        && incarnation(rows.1) == generation.begun.content
    {
        // A worker without ClickHouse started the same generation before the migration.
        return add_legacy_state(clients, rows).await;
    }
    let committed = clients.highest_committed(topics).await?;
    let is_committed = committed >= generation.begun.content.generation;
    if is_committed || has_rows(clients.store).await? {
        let latest = clients.generation_log.latest().await?;
        let has_table = |latest: Generation| latest.table(SinkKind::ClickHouse).is_some();
        if latest.is_some_and(has_table) {
            return Err(Fault::retry("another worker has started to write"));
        }
        return Err(unknown_generation(&format!(
            "the tables have rows or the groups have commits from before generation {number}, \
             which other sinks have started"
        )));
    }
    record_table(clients.generation_log, clients.store, number).await
}

/// Starts the first generation in the state topic.
async fn start_first_generation(
    clients: Clients<'_>,
    legacy: &LegacyRecord,
    topics: (&str, &str),
) -> Result<Begun, Fault> {
    if let Some(rows) = legacy.rows_to_migrate() {
        return migrate(clients, rows).await;
    }
    let is_in_use = legacy.is_moved() || has_rows(clients.store).await?;
    // A commit of a generation that is no longer recorded must not be mistaken for one of
    // the new generation, so its number is not used again.
    let committed = clients.highest_committed(topics).await?;
    let log = clients.generation_log;
    // Check this after reading rows and commits: a worker starts a generation before it
    // writes or commits.
    if log.latest().await?.is_some() {
        let reason = "another worker has started the first generation";
        return Err(Fault::retry(reason));
    }
    if is_in_use {
        return Err(unknown_generation(
            "the state topic does not have the generation of the tables",
        ));
    }
    let (facts, content) = topics;
    let number = next_generation(facts, committed)?;
    record_table(log, clients.store, number).await?;
    log.begin_first(clients.log, facts, content, number).await
}

impl Clients<'_> {
    /// Returns the highest generation in the commits of both groups.
    async fn highest_committed(&self, (facts, content): (&str, &str)) -> Result<u16, Fault> {
        let (facts_group, content_group) = self.groups;
        let groups = [(facts_group, facts), (content_group, content)];
        highest_committed(self.kafka, groups).await
    }
}

/// Copies the generation that an earlier release recorded to the state topic.
async fn migrate(
    clients: Clients<'_>,
    (facts, content): (&TopicRow, &TopicRow),
) -> Result<Begun, Fault> {
    add_legacy_state(clients, (facts, content)).await?;
    let is_unsettled = facts.settled == 0 || content.settled == 0;
    let generation = Begun::new(incarnation(facts), incarnation(content), is_unsettled);
    clients.generation_log.begin(&generation).await?;
    let number = generation.number();
    tracing::info!(number, "migrated the generations to the state topic");
    Ok(generation)
}

/// Adds the table and the truncate that an earlier release recorded to a generation.
async fn add_legacy_state(
    clients: Clients<'_>,
    (facts, content): (&TopicRow, &TopicRow),
) -> Result<(), Fault> {
    let stored = clients.store.greatest_generations().await;
    let (stored_facts, stored_content) = stored.map_err(clickhouse)?;
    if stored_facts > facts.generation || stored_content > content.generation {
        return Err(unknown_generation(
            "the tables have rows of a later generation than fanout_topics",
        ));
    }
    let log = clients.generation_log;
    let (number, table) = (facts.generation, facts.table_id);
    log.note_table(number, SinkKind::ClickHouse, table).await?;
    if facts.truncated.is_empty() {
        return Ok(());
    }
    log.note_truncate(number, &facts.truncated).await
}

fn incarnation(row: &TopicRow) -> Incarnation {
    let identity = TopicIdentity {
        id: row.topic_id,
        partitions: row.partitions,
    };
    Incarnation::new(identity, row.generation, row.starts.clone())
}

/// Records the current storage table as the table of a generation.
pub(super) async fn record_table(
    generation_log: &GenerationLog,
    store: &Store,
    number: u16,
) -> Result<(), Fault> {
    let table = store.table_id(FACTS).await.map_err(clickhouse)?;
    let table = table.unwrap_or_default();
    let recorded = generation_log.note_table(number, SinkKind::ClickHouse, table);
    recorded.await
}

async fn has_rows(store: &Store) -> Result<bool, Fault> {
    Ok(store.has_facts().await.map_err(clickhouse)?
        || store.has_content().await.map_err(clickhouse)?)
}

/// Returns the highest generation in the commits of these groups, each given with its
/// topic, or 0 if there is none.
pub(super) async fn highest_committed(
    cluster: &Kafka,
    groups: [(&str, &str); 2],
) -> Result<u16, Fault> {
    let mut highest = 0;
    for (group, topic) in groups {
        let log = cluster.log(group).map_err(kafka)?;
        let Some(partitions) = log.partitions(topic).await.map_err(kafka)? else {
            continue;
        };
        let partitions = usize::try_from(partitions).unwrap_or(0);
        let commits = log.commits(topic, partitions).await.map_err(kafka)?;
        for (_, metadata) in commits.into_iter().flatten() {
            let generation = Metadata::parse_generation(&metadata);
            highest = highest.max(generation.unwrap_or(0));
        }
    }
    Ok(highest)
}

/// Returns the generation number after the last one.
pub(super) fn next_generation(topic: &str, last: u16) -> Result<u16, Fault> {
    last.checked_add(1).ok_or_else(|| {
        Fault::halt(
            "generations_used_up",
            format!("{topic} has had {last} generations, which is the maximum"),
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
            ..moved_marker("t", &incarnation)
        }
    }

    fn legacy(facts: Option<(u16, u16)>, content: Option<(u16, u16)>) -> LegacyRecord {
        let row = |(generation, format)| row(generation, format);
        LegacyRecord {
            facts: facts.map(row),
            content: content.map(row),
        }
    }

    #[test]
    fn a_migrated_incarnation_keeps_its_number_and_start_offsets() {
        let legacy = legacy(Some((4, FORMAT)), Some((2, FORMAT)));
        let (facts, content) = legacy.rows_to_migrate().expect("rows of both topics");
        let (facts, content) = (incarnation(facts), incarnation(content));
        assert_eq!((facts.generation, content.generation), (4, 2));
        assert_eq!((facts.topic, facts.partitions), (Uuid::from_u128(7), 3));
        assert_eq!(facts.starts, [5, 0]);
    }

    #[test]
    fn rows_are_migrated_once_and_only_if_both_topics_have_them() {
        for (facts, content, expected) in [
            (Some((1, FORMAT)), Some((1, FORMAT)), true),
            (Some((1, FORMAT)), None, false),
            (None, Some((1, FORMAT)), false),
            (Some((1, MOVED)), Some((1, MOVED)), false),
            (Some((1, FORMAT)), Some((1, MOVED)), false),
            (None, None, false),
        ] {
            let legacy = legacy(facts, content);
            let has_rows = legacy.rows_to_migrate().is_some();
            assert_eq!(has_rows, expected, "{facts:?} {content:?}");
        }
        assert!(legacy(Some((1, FORMAT)), Some((1, MOVED))).is_moved());
        assert!(!legacy(Some((1, FORMAT)), None).is_moved());
    }

    #[test]
    fn a_later_generation_of_an_earlier_release_is_detected() {
        let recorded = incarnation(&row(3, FORMAT));
        let generation = Begun::new(recorded.clone(), recorded, false);
        for (facts, content, expected) in [
            (Some((3, FORMAT)), Some((3, FORMAT)), false),
            (Some((2, FORMAT)), Some((3, MOVED)), false),
            (Some((4, FORMAT)), Some((3, FORMAT)), true),
            (Some((3, FORMAT)), Some((4, FORMAT)), true),
            (Some((4, MOVED)), Some((4, MOVED)), false),
        ] {
            let is_ahead = legacy(facts, content).is_ahead_of(&generation);
            assert_eq!(is_ahead, expected, "{facts:?} {content:?}");
        }
    }

    #[test]
    fn no_number_is_used_twice() {
        assert_eq!(next_generation("t", 0).expect("a number"), 1);
        assert_eq!(next_generation("t", 7).expect("a number"), 8);
        let Err(Fault::Halt(halt)) = next_generation("t", u16::MAX) else {
            panic!("expected a halt after the highest number");
        };
        assert_eq!(halt.code, "generations_used_up");
    }
}
