//! The generations of the source's topics, in the state topic, where any set of
//! sinks finds them. Offsets begin again with a recreated topic, keys move when
//! partitions are added, and a rebuild from the source makes what came before it
//! meaningless: versions of different generations are ordered by these first.
//!
//! A generation is one incarnation of the events' topic and one of the content
//! topic. They begin together, by one record. It has the number of the events'
//! incarnation, and the highest number is in force. What is added to a generation
//! has a key of its own, so nobody who is late can undo what others wrote.
//!
//! ```text
//! generation/<n>               {"format":1,"facts":{…},"content":{…},"rebuilds":…}
//! generation/<n>/settled       {"format":1}               its rebuild is done
//! generation/<n>/truncated     {"format":1,"at":"0@17"}   the source was truncated there
//! generation/<n>/table/<sink>  {"format":1,"id":…}        the table that it is written into
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

/// What the keys begin with.
const PREFIX: &str = "generation/";

/// One incarnation of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// The topic's id.
    pub topic: Uuid,
    pub partitions: i32,
    /// Its number, from 1: the upper part of a version.
    pub generation: u16,
    /// By partition, the offset that it begins at; empty is the start of the log.
    pub starts: Vec<i64>,
}

/// A generation as it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    format: u16,
    pub facts: Incarnation,
    pub content: Incarnation,
    /// A rebuild from the source began it, and has to be brought to its end.
    rebuilds: bool,
}

/// A generation as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub begun: Begun,
    /// No rebuild of it is unfinished.
    pub settled: bool,
    /// Where the source was truncated in it, `partition@offset`.
    pub truncated: Option<String>,
    /// By sink, the table that it is written into.
    tables: BTreeMap<String, Uuid>,
}

/// The record of all generations.
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
    /// A topic as it was found, under a number.
    #[must_use]
    pub fn new(identity: TopicIdentity, generation: u16, starts: Vec<i64>) -> Self {
        Self {
            topic: identity.id,
            partitions: identity.partitions,
            generation,
            starts,
        }
    }

    /// Which topic it is of.
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

    /// What it is found by.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.facts.generation
    }
}

impl Generation {
    /// What it is found by.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.begun.number()
    }

    /// The table that a sink writes it into, nil where the store gives tables no
    /// ids; none where the sink has not written it into any.
    #[must_use]
    pub fn table(&self, sink: SinkKind) -> Option<Uuid> {
        self.tables.get(sink.name()).copied()
    }

    /// Whether history began anew with it or before.
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

    /// The generation in force; none where none has ever begun.
    ///
    /// # Errors
    /// When the state topic does not exist or cannot be read, or its format is
    /// unknown.
    pub async fn latest(&self) -> Result<Option<Generation>, Fault> {
        let values = self.state.values_with_prefix(PREFIX).await.map_err(kafka)?;
        let missing = || Fault::retry(format!("topic {} does not exist", self.state.name()));
        latest(&values.ok_or_else(missing)?)
    }

    /// Begins a generation: from then on it is in force, unless a higher one is.
    ///
    /// # Errors
    /// When the broker does not take it in time: it may or may not be in force.
    /// When another of this number has begun at the same time.
    pub async fn begin(&self, begun: &Begun) -> Result<(), Fault> {
        let key = key(begun.number());
        let value = text(begun);
        self.state.set(&key, &value).await.map_err(kafka)?;
        let found = self.state.get(&key).await.map_err(kafka)?;
        if found.as_deref() == Some(value.as_slice()) {
            return Ok(());
        }
        let number = begun.number();
        Err(Fault::retry(format!(
            "another generation {number} has begun at the same time"
        )))
    }

    /// Records the first generation of a project, both topics from the start of
    /// their logs. Topics that do not exist yet are waited for.
    ///
    /// # Errors
    /// As [`Self::begin`].
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

    /// The rebuild of this generation is done.
    ///
    /// # Errors
    /// When the broker does not take it in time.
    pub async fn settle(&self, number: u16) -> Result<(), Fault> {
        let note = Settled { format: FORMAT };
        self.add(number, "settled", &note).await
    }

    /// The source was truncated in this generation.
    ///
    /// # Errors
    /// When the broker does not take it in time.
    pub async fn note_truncate(&self, number: u16, at: &str) -> Result<(), Fault> {
        let key = format!("{}/truncated", key(number));
        if self.state.get(&key).await.map_err(kafka)?.is_some() {
            return Ok(());
        }
        let note = Truncated {
            format: FORMAT,
            at: at.to_owned(),
        };
        self.add(number, "truncated", &note).await
    }

    /// A sink writes this generation into this table.
    ///
    /// # Errors
    /// When the broker does not take it in time.
    pub async fn note_table(&self, number: u16, sink: SinkKind, table: Uuid) -> Result<(), Fault> {
        let note = Table {
            format: FORMAT,
            id: table,
        };
        self.add(number, &format!("table/{sink}"), &note).await
    }

    async fn add<T: Serialize>(&self, number: u16, name: &str, note: &T) -> Result<(), Fault> {
        let key = format!("{}/{name}", key(number));
        self.state.set(&key, &text(note)).await.map_err(kafka)
    }
}

/// A topic as it is now.
///
/// # Errors
/// When the broker does not answer, or there is no such topic yet.
pub(crate) async fn existing(log: &Log, topic: &str) -> Result<TopicIdentity, Fault> {
    let identity = log.identity(topic).await.map_err(kafka)?;
    identity.ok_or_else(|| Fault::retry(format!("topic {topic} does not exist")))
}

fn key(number: u16) -> String {
    format!("{PREFIX}{number}")
}

fn text<T: Serialize>(note: &T) -> Vec<u8> {
    // Numbers, UUIDs, texts and lists always serialise.
    serde_json::to_vec(note).unwrap_or_default()
}

/// The highest of the generations, with what was added to it.
fn latest(values: &BTreeMap<String, Vec<u8>>) -> Result<Option<Generation>, Fault> {
    let mut highest: Option<Begun> = None;
    for (name, value) in values {
        let is_added = |name: &str| name.contains('/');
        if name.strip_prefix(PREFIX).is_some_and(is_added) {
            continue;
        }
        let begun: Begun = parse(name, value)?;
        if *name != key(begun.number()) {
            let reason = format!("the state topic's {name} is of another generation");
            return Err(Fault::halt(
                "unknown_format",
                reason,
                "use the fanout that wrote it",
            ));
        }
        let is_higher = |known: &Begun| known.number() < begun.number();
        if highest.as_ref().is_none_or(is_higher) {
            highest = Some(begun);
        }
    }
    let Some(begun) = highest else {
        return Ok(None);
    };
    let own = key(begun.number());
    let truncated: Option<Truncated> = read(values, &format!("{own}/truncated"))?;
    let settled: Option<Settled> = read(values, &format!("{own}/settled"))?;
    let mut tables = BTreeMap::new();
    let of_tables = format!("{own}/table/");
    for (name, value) in values {
        if let Some(sink) = name.strip_prefix(&of_tables) {
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

    fn values(of: &[(&str, String)]) -> BTreeMap<String, Vec<u8>> {
        let value = |(name, text): &(&str, String)| {
            let name = format!("{PREFIX}{name}");
            (name, text.clone().into_bytes())
        };
        of.iter().map(value).collect()
    }

    fn json<T: Serialize>(note: &T) -> String {
        String::from_utf8(text(note)).expect("text")
    }

    #[test]
    fn a_generation_keeps_its_form() {
        let facts = format!(r#"{{"topic":"{ID}","partitions":1,"generation":2,"starts":[3]}}"#);
        let content = format!(r#"{{"topic":"{ID}","partitions":1,"generation":3,"starts":[]}}"#);
        let expected =
            format!(r#"{{"format":1,"facts":{facts},"content":{content},"rebuilds":true}}"#);
        assert_eq!(json(&begun(2, true)), expected);
        let found = latest(&values(&[("2", expected)])).expect("its own form");
        let found = found.expect("one");
        assert_eq!((&found.begun, found.number()), (&begun(2, true), 2));
        assert!(!found.settled && found.is_rebuilt());
    }

    #[test]
    fn the_highest_is_in_force_and_has_only_what_was_added_to_it() {
        assert_eq!(latest(&BTreeMap::new()).expect("readable"), None);
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
            // Noted before it began.
            ("11/table/clickhouse", table(11)),
        ];
        let found = latest(&values(&all)).expect("readable").expect("one");
        assert_eq!((found.number(), found.settled), (10, false));
        assert_eq!(found.truncated, None);
        assert_eq!(found.table(SinkKind::ClickHouse), None);
        all.push(("10/settled", flag(r#"{"format":1}"#)));
        all.push(("10/table/clickhouse", table(10)));
        all.push(("10/truncated", flag(r#"{"format":1,"at":"2@5"}"#)));
        let found = latest(&values(&all)).expect("readable").expect("one");
        assert!(found.settled);
        assert_eq!(found.truncated.as_deref(), Some("2@5"));
        let id = Some(Uuid::from_u128(10));
        assert_eq!(found.table(SinkKind::ClickHouse), id);
        assert_eq!(found.table(SinkKind::Redis), None);
    }

    #[test]
    fn what_is_not_understood_halts() {
        let other = json(&begun(1, false)).replace(r#""format":1"#, r#""format":2"#);
        for (name, text) in [
            ("1", other),
            ("2", json(&begun(1, false))),
            ("x", "{}".to_owned()),
            ("1", String::new()),
        ] {
            let Err(Fault::Halt(halt)) = latest(&values(&[(name, text)])) else {
                panic!("{name} is read");
            };
            assert_eq!(halt.code, "unknown_format");
        }
    }

    #[test]
    fn only_the_first_was_never_rebuilt() {
        for (number, rebuilds, expected) in [(1, false, false), (1, true, true), (2, false, true)] {
            let text = json(&begun(number, rebuilds));
            let name = number.to_string();
            let found = latest(&values(&[(name.as_str(), text)])).expect("readable");
            assert_eq!(found.expect("one").is_rebuilt(), expected);
        }
    }
}
