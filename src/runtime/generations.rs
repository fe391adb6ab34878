//! The generations of the source topics, recorded in the state topic, where every
//! set of sinks can read them. Offsets restart in a recreated topic, keys move to
//! other partitions when partitions are added, and a rebuild from the source makes
//! all earlier records meaningless. Versions are therefore ordered by generation
//! first.
//!
//! A generation combines one incarnation of the events topic with one of the content
//! topic. One record starts both. The number of a generation is that of the events
//! incarnation, and the highest number is current. Each later addition to a
//! generation has its own key, so a delayed writer cannot overwrite the additions of
//! others.
//!
//! ```text
//! generation/<n>               {"format":1,"facts":{…},"content":{…},"rebuilds":…}
//! generation/<n>/settled       {"format":1}               its rebuild is done
//! generation/<n>/truncated     {"format":1,"at":"0@17"}   the source was truncated there
//! generation/<n>/table/<sink>  {"format":1,"id":…}        the table that a sink writes it to
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    fault::Fault,
    notes::{FORMAT, kafka, parse},
};
use crate::{
    kafka::{Log, StateTopic, TopicIdentity},
    sink_kind::SinkKind,
};

/// Prefix of all keys.
const PREFIX: &str = "generation/";

/// One incarnation of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// The topic's id.
    pub topic: Uuid,
    pub partitions: i32,
    /// Number of the incarnation, from 1. It is the upper part of a version.
    pub generation: u16,
    /// Start offset of each partition. Empty means the start of the log.
    pub starts: Vec<i64>,
}

/// The initial record of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    format: u16,
    pub facts: Incarnation,
    pub content: Incarnation,
    /// Whether the generation was started by a rebuild from the source, which must be
    /// completed.
    rebuilds: bool,
}

/// The current state of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub begun: Begun,
    /// Whether the rebuild, if any, is complete.
    pub settled: bool,
    /// Position at which the source was truncated, as `partition@offset`.
    pub truncated: Option<String>,
    /// Id of the table that each sink writes to.
    tables: BTreeMap<String, Uuid>,
}

/// Reads and writes the recorded generations.
#[derive(Debug, Clone)]
pub struct GenerationLog {
    state: StateTopic,
}

#[derive(Debug, Serialize, Deserialize)]
struct Settled {
    format: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct Truncated {
    format: u16,
    at: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Table {
    format: u16,
    id: Uuid,
}

impl Incarnation {
    /// Creates an incarnation of the given topic.
    #[must_use]
    pub fn new(identity: TopicIdentity, generation: u16, starts: Vec<i64>) -> Self {
        Self {
            topic: identity.id,
            partitions: identity.partitions,
            generation,
            starts,
        }
    }

    /// Returns the identity of the topic.
    #[must_use]
    pub fn identity(&self) -> TopicIdentity {
        TopicIdentity {
            id: self.topic,
            partitions: self.partitions,
        }
    }
}

impl Begun {
    #[must_use]
    pub fn new(facts: Incarnation, content: Incarnation, rebuilds: bool) -> Self {
        Self {
            format: FORMAT,
            facts,
            content,
            rebuilds,
        }
    }

    /// Returns the number of the generation.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.facts.generation
    }
}

impl Generation {
    /// Returns the number of the generation.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.begun.number()
    }

    /// Returns the id of the table that a sink writes to. It is nil if the store has no
    /// table ids. `None` if the sink has not recorded a table.
    #[must_use]
    pub fn table(&self, sink: SinkKind) -> Option<Uuid> {
        self.tables.get(sink.name()).copied()
    }

    /// Returns true if this or an earlier generation was rebuilt from the source.
    #[must_use]
    pub fn is_rebuilt(&self) -> bool {
        self.begun.rebuilds || self.number() > 1
    }
}

impl GenerationLog {
    #[must_use]
    pub fn new(state: StateTopic) -> Self {
        Self { state }
    }

    /// Returns the current generation, or `None` if there has never been one.
    ///
    /// # Errors
    /// If the state topic does not exist or cannot be read, or its format is unknown.
    pub async fn latest(&self) -> Result<Option<Generation>, Fault> {
        let values = self.state.values_with_prefix(PREFIX).await.map_err(kafka)?;
        let missing = || Fault::retry(format!("topic {} does not exist", self.state.name()));
        latest(&values.ok_or_else(missing)?)
    }

    /// Starts a generation. It is then current, unless there is a higher one.
    ///
    /// # Errors
    /// If the broker does not acknowledge the record in time; the generation may or may
    /// not have started. If another generation with this number was started at the same
    /// time.
    pub async fn begin(&self, begun: &Begun) -> Result<(), Fault> {
        let key = key(begun.number());
        let value = json_bytes(begun);
        self.state.set(&key, &value).await.map_err(kafka)?;
        let stored = self.state.get(&key).await.map_err(kafka)?;
        if stored.as_deref() == Some(value.as_slice()) {
            return Ok(());
        }
        let number = begun.number();
        Err(Fault::retry(format!(
            "another generation {number} was started at the same time"
        )))
    }

    /// Records the first generation of a project, with both topics from the start of
    /// their logs.
    ///
    /// # Errors
    /// As [`Self::begin`], and with a retryable fault if a topic does not exist yet.
    pub async fn begin_first(
        &self,
        log: &Log,
        facts: &str,
        content: &str,
        generation: u16,
    ) -> Result<Begun, Fault> {
        let facts = existing(log, facts).await?;
        let content = existing(log, content).await?;
        let begun = Begun::new(
            Incarnation::new(facts, generation, Vec::new()),
            Incarnation::new(content, generation, Vec::new()),
            false,
        );
        self.begin(&begun).await?;
        Ok(begun)
    }

    /// Records that the rebuild of the generation is complete.
    ///
    /// # Errors
    /// If the broker does not acknowledge the record in time.
    pub async fn settle(&self, number: u16) -> Result<(), Fault> {
        let record = Settled { format: FORMAT };
        self.add(number, "settled", &record).await
    }

    /// Records that the source was truncated in this generation, unless that is already
    /// recorded.
    ///
    /// # Errors
    /// If the broker does not acknowledge the record in time.
    pub async fn note_truncate(&self, number: u16, at: &str) -> Result<(), Fault> {
        let key = format!("{}/truncated", key(number));
        if self.state.get(&key).await.map_err(kafka)?.is_some() {
            return Ok(());
        }
        let record = Truncated {
            format: FORMAT,
            at: at.to_owned(),
        };
        self.add(number, "truncated", &record).await
    }

    /// Records the table that a sink writes this generation to.
    ///
    /// # Errors
    /// If the broker does not acknowledge the record in time.
    pub async fn note_table(&self, number: u16, sink: SinkKind, table: Uuid) -> Result<(), Fault> {
        let record = Table {
            format: FORMAT,
            id: table,
        };
        self.add(number, &format!("table/{sink}"), &record).await
    }

    async fn add<T: Serialize>(&self, number: u16, name: &str, record: &T) -> Result<(), Fault> {
        let key = format!("{}/{name}", key(number));
        self.state
            .set(&key, &json_bytes(record))
            .await
            .map_err(kafka)
    }
}

/// Returns the identity of a topic.
///
/// # Errors
/// If the broker does not respond, or the topic does not exist yet.
pub(crate) async fn existing(log: &Log, topic: &str) -> Result<TopicIdentity, Fault> {
    let identity = log.identity(topic).await.map_err(kafka)?;
    identity.ok_or_else(|| Fault::retry(format!("topic {topic} does not exist")))
}

fn key(number: u16) -> String {
    format!("{PREFIX}{number}")
}

fn json_bytes<T: Serialize>(record: &T) -> Vec<u8> {
    // Numbers, UUIDs, strings and lists always serialise.
    serde_json::to_vec(record).unwrap_or_default()
}

/// Returns the highest generation, with its additions.
fn latest(values: &BTreeMap<String, Vec<u8>>) -> Result<Option<Generation>, Fault> {
    let mut highest: Option<Begun> = None;
    for (name, value) in values {
        let is_addition = |name: &str| name.contains('/');
        if name.strip_prefix(PREFIX).is_some_and(is_addition) {
            continue;
        }
        let begun: Begun = parse(name, value)?;
        if *name != key(begun.number()) {
            let reason =
                format!("the value of {name} in the state topic belongs to another generation");
            return Err(Fault::halt(
                "unknown_format",
                reason,
                "use the fanout version that wrote it",
            ));
        }
        let is_lower = |known: &Begun| known.number() < begun.number();
        if highest.as_ref().is_none_or(is_lower) {
            highest = Some(begun);
        }
    }
    let Some(begun) = highest else {
        return Ok(None);
    };
    let key = key(begun.number());
    let truncated: Option<Truncated> = read(values, &format!("{key}/truncated"))?;
    let settled: Option<Settled> = read(values, &format!("{key}/settled"))?;
    let mut tables = BTreeMap::new();
    let table_prefix = format!("{key}/table/");
    for (name, value) in values {
        if let Some(sink) = name.strip_prefix(&table_prefix) {
            let table: Table = parse(name, value)?;
            tables.insert(sink.to_owned(), table.id);
        }
    }
    Ok(Some(Generation {
        settled: !begun.rebuilds || settled.is_some(),
        truncated: truncated.map(|truncated| truncated.at),
        tables,
        begun,
    }))
}

fn read<T: DeserializeOwned>(
    values: &BTreeMap<String, Vec<u8>>,
    key: &str,
) -> Result<Option<T>, Fault> {
    let value = values.get(key);
    value.map(|value| parse(key, value)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00000000-0000-0000-0000-000000000007";

    fn begun(generation: u16, rebuilds: bool) -> Begun {
        let identity = TopicIdentity {
            id: Uuid::from_u128(7),
            partitions: 1,
        };
        Begun::new(
            Incarnation::new(identity, generation, vec![3]),
            Incarnation::new(identity, generation + 1, Vec::new()),
            rebuilds,
        )
    }

    fn values(entries: &[(&str, String)]) -> BTreeMap<String, Vec<u8>> {
        let value = |(name, text): &(&str, String)| {
            let name = format!("{PREFIX}{name}");
            (name, text.clone().into_bytes())
        };
        entries.iter().map(value).collect()
    }

    fn json<T: Serialize>(record: &T) -> String {
        String::from_utf8(json_bytes(record)).expect("JSON is UTF-8")
    }

    #[test]
    fn the_format_of_a_generation_is_stable() {
        let facts = format!(r#"{{"topic":"{ID}","partitions":1,"generation":2,"starts":[3]}}"#);
        let content = format!(r#"{{"topic":"{ID}","partitions":1,"generation":3,"starts":[]}}"#);
        let expected =
            format!(r#"{{"format":1,"facts":{facts},"content":{content},"rebuilds":true}}"#);
        assert_eq!(json(&begun(2, true)), expected);
        let found = latest(&values(&[("2", expected)])).expect("a valid record");
        let found = found.expect("a generation");
        assert_eq!((&found.begun, found.number()), (&begun(2, true), 2));
        assert!(!found.settled && found.is_rebuilt());
    }

    #[test]
    fn the_highest_generation_is_current_and_has_only_its_own_additions() {
        assert_eq!(latest(&BTreeMap::new()).expect("valid records"), None);
        let flag = |text: &str| text.to_owned();
        let table = |id: u128| {
            let id = Uuid::from_u128(id);
            json(&Table { format: 1, id })
        };
        let mut all = vec![
            ("9", json(&begun(9, false))),
            ("9/truncated", flag(r#"{"format":1,"at":"0@17"}"#)),
            ("9/table/clickhouse", table(9)),
            ("10", json(&begun(10, true))),
            // Recorded before the generation started.
            ("11/table/clickhouse", table(11)),
        ];
        let found = latest(&values(&all))
            .expect("valid records")
            .expect("a generation");
        assert_eq!((found.number(), found.settled), (10, false));
        assert_eq!(found.truncated, None);
        assert_eq!(found.table(SinkKind::ClickHouse), None);
        all.push(("10/settled", flag(r#"{"format":1}"#)));
        all.push(("10/table/clickhouse", table(10)));
        all.push(("10/truncated", flag(r#"{"format":1,"at":"2@5"}"#)));
        let found = latest(&values(&all))
            .expect("valid records")
            .expect("a generation");
        assert!(found.settled);
        assert_eq!(found.truncated.as_deref(), Some("2@5"));
        let id = Some(Uuid::from_u128(10));
        assert_eq!(found.table(SinkKind::ClickHouse), id);
        assert_eq!(found.table(SinkKind::Redis), None);
    }

    #[test]
    fn an_unknown_format_halts() {
        let other = json(&begun(1, false)).replace(r#""format":1"#, r#""format":2"#);
        for (name, text) in [
            ("1", other),
            ("2", json(&begun(1, false))),
            ("x", "{}".to_owned()),
            ("1", String::new()),
        ] {
            let Err(Fault::Halt(halt)) = latest(&values(&[(name, text)])) else {
                panic!("{name} is accepted");
            };
            assert_eq!(halt.code, "unknown_format");
        }
    }

    #[test]
    fn only_a_first_generation_without_a_rebuild_is_not_rebuilt() {
        for (number, rebuilds, expected) in [(1, false, false), (1, true, true), (2, false, true)] {
            let text = json(&begun(number, rebuilds));
            let name = number.to_string();
            let found = latest(&values(&[(name.as_str(), text)])).expect("valid records");
            assert_eq!(found.expect("a generation").is_rebuilt(), expected);
        }
    }
}
