//! Which life of each topic this is. Offsets begin anew with a recreated
//! topic, and keys move when partitions are added: a version without its
//! topic's generation would compare what cannot be compared.

use std::sync::{Mutex, PoisonError};

use super::{clickhouse, kafka};
use crate::{
    clients::{
        clickhouse::{Store, TopicRow},
        kafka::{Log, TopicIdentity},
    },
    clock::now_ms,
    sinks::Fault,
};

/// Format of `fanout_topics` and of `_version`.
const FORMAT: u16 = 1;

/// The generations in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    pub(super) facts: u16,
    pub(super) content: u16,
}

/// Both topics and what was found of them.
#[derive(Debug)]
pub(super) struct Generations {
    facts: String,
    content: String,
    current: Mutex<Option<Found>>,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    current: Current,
    facts: TopicIdentity,
    content: TopicIdentity,
}

impl Generations {
    pub(super) fn new(facts: String, content: String) -> Self {
        Self {
            facts,
            content,
            current: Mutex::default(),
        }
    }

    /// The generations found by [`Self::open`].
    pub(super) fn current(&self) -> Result<Current, Fault> {
        let found = *self.current.lock().unwrap_or_else(PoisonError::into_inner);
        found
            .map(|found| found.current)
            .ok_or_else(|| Fault::retry("the topics' generations are not known yet"))
    }

    /// Finds, or records, the life of both topics.
    pub(super) async fn open(&self, store: &Store, log: &Log) -> Result<(), Fault> {
        let (facts, facts_generation) = find(store, log, &self.facts).await?;
        let (content, content_generation) = find(store, log, &self.content).await?;
        let found = Found {
            current: Current {
                facts: facts_generation,
                content: content_generation,
            },
            facts,
            content,
        };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(())
    }

    /// Whether the topics still live the lives that were found.
    pub(super) async fn check(&self, log: &Log) -> Result<(), Fault> {
        let found = *self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = found else {
            return Ok(());
        };
        for (topic, then) in [(&self.facts, found.facts), (&self.content, found.content)] {
            let now = log.identity(topic).await.map_err(kafka)?;
            if now != Some(then) {
                return Err(changed(topic, &then.to_string(), now));
            }
        }
        Ok(())
    }
}

/// The topic's identity and its generation in `fanout_topics`.
async fn find(store: &Store, log: &Log, topic: &str) -> Result<(TopicIdentity, u16), Fault> {
    let identity = log.identity(topic).await.map_err(kafka)?;
    let identity = identity.ok_or_else(|| Fault::retry(format!("topic {topic} does not exist")))?;
    let lives = store.lives(topic).await.map_err(clickhouse)?;
    if let Some(last) = lives.last() {
        let known = TopicIdentity {
            id: last.topic_id,
            partitions: last.partitions,
        };
        return if last.format != FORMAT {
            Err(Fault::halt(
                "unknown_format",
                format!("fanout_topics is of format {}, not {FORMAT}", last.format),
                "use the fanout that wrote it",
            ))
        } else if known == identity {
            Ok((identity, last.generation))
        } else {
            Err(changed(topic, &known.to_string(), Some(identity)))
        };
    }
    if store.has_facts().await.map_err(clickhouse)? {
        return Err(Fault::halt(
            "generation_unknown",
            format!("the table holds rows, but fanout_topics does not say from which {topic}"),
            "rebuild from the source: fanout reset, then fanout up",
        ));
    }
    let life = TopicRow {
        topic: topic.to_owned(),
        topic_id: identity.id,
        partitions: identity.partitions,
        generation: 1,
        first_seen: now_ms(),
        format: FORMAT,
    };
    store.record_life(&life).await.map_err(clickhouse)?;
    Ok((identity, life.generation))
}

fn changed(topic: &str, then: &str, now: Option<TopicIdentity>) -> Fault {
    let now = now.map_or_else(|| "gone".to_owned(), |now| now.to_string());
    Fault::halt(
        "topic_changed",
        format!(
            "topic {topic} is not the one the table was built from (id/partitions {then}, now \
             {now}): it was recreated, or partitions were added"
        ),
        "rebuild from the source: fanout reset, then fanout up",
    )
}
