//! History begins anew: both topics get a life that starts where their logs end
//! now, and the source is read again. What stood before loses against whatever
//! comes after, and is not read any more.

use super::{
    classify::{clickhouse, kafka},
    generations::FORMAT,
    schema,
};
use crate::{
    clients::{
        clickhouse::{FACTS, Store, TopicRow},
        kafka::Log,
    },
    clock::now_ms,
    sinks::Fault,
};

/// Begins lives, and settles them.
#[derive(Debug)]
pub struct Rebuild {
    store: Store,
    log: Log,
    facts: String,
    content: String,
}

/// The lives that a rebuild has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lives {
    pub facts: u16,
    pub content: u16,
    /// By partition of the facts, where the new life begins.
    pub starts: Vec<i64>,
}

impl Rebuild {
    /// Of these tables and these two topics.
    pub fn new(store: Store, log: Log, facts: String, content: String) -> Self {
        Self {
            store,
            log,
            facts,
            content,
        }
    }

    /// The tables.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The tables that are not as they should be.
    pub async fn wrong_tables(&self) -> Result<Vec<&'static str>, Fault> {
        schema::wrong(&self.store).await
    }

    /// Renames the tables that are not as they should be; says to what. What is
    /// in them stays.
    pub async fn move_aside(&self) -> Result<Vec<String>, Fault> {
        let mut moved = Vec::new();
        for table in schema::wrong(&self.store).await? {
            let aside = format!("{table}_aside_{}", now_ms());
            let renamed = self.store.rename(table, &aside).await;
            renamed.map_err(clickhouse)?;
            moved.push(aside);
        }
        Ok(moved)
    }

    /// Begins a life of each topic, not settled yet, and returns them.
    pub async fn begin(&self) -> Result<Lives, Fault> {
        let stored = self.store.greatest_generations().await;
        let (stored_facts, stored_content) = stored.map_err(clickhouse)?;
        let facts = self.next(&self.facts, stored_facts).await?;
        let content = self.next(&self.content, stored_content).await?;
        let lives = Lives {
            facts: facts.generation,
            content: content.generation,
            starts: facts.starts.clone(),
        };
        let recorded = self.store.record_lives(&[facts, content]).await;
        recorded.map_err(clickhouse)?;
        Ok(lives)
    }

    /// Whether these are the latest lives, so that their rebuild can go on.
    pub async fn are_latest(&self, facts: u16, content: u16) -> Result<bool, Fault> {
        let mut latest = true;
        for (topic, generation) in [(&self.facts, facts), (&self.content, content)] {
            let lives = self.store.lives(topic).await.map_err(clickhouse)?;
            let identity = self.log.identity(topic).await.map_err(kafka)?;
            latest &= lives.last().is_some_and(|life| {
                let same = identity.is_some_and(|now| {
                    now.id == life.topic_id && now.partitions == life.partitions
                });
                life.generation == generation && same
            });
        }
        Ok(latest)
    }

    /// The rebuild is done: what the tables hold can be relied on.
    pub async fn settle(&self) -> Result<(), Fault> {
        let mut settled = Vec::new();
        for topic in [&self.facts, &self.content] {
            let lives = self.store.lives(topic).await.map_err(clickhouse)?;
            settled.extend(lives.last().map(|life| TopicRow {
                settled: 1,
                ..life.clone()
            }));
        }
        self.store.record_lives(&settled).await.map_err(clickhouse)
    }

    /// The life after the last one, and after any that a stored row is of.
    async fn next(&self, topic: &str, stored: u16) -> Result<TopicRow, Fault> {
        let identity = self.log.identity(topic).await.map_err(kafka)?;
        let identity =
            identity.ok_or_else(|| Fault::retry(format!("topic {topic} does not exist")))?;
        let lives = self.store.lives(topic).await.map_err(clickhouse)?;
        let last = lives.last().map_or(0, |life| life.generation).max(stored);
        let generation = last.checked_add(1).ok_or_else(|| {
            let reason = format!("{topic} has had {last} lives, and there can be no more");
            Fault::halt(
                "generations_used_up",
                reason,
                "fanout reset, then fanout up",
            )
        })?;
        let table_id = self.store.table_id(FACTS).await.map_err(clickhouse)?;
        Ok(TopicRow {
            topic: topic.to_owned(),
            topic_id: identity.id,
            partitions: identity.partitions,
            generation,
            first_seen: now_ms(),
            format: FORMAT,
            starts: self.log.ends(topic).await.map_err(kafka)?,
            settled: 0,
            table_id: table_id.unwrap_or_default(),
            truncated: String::new(),
        })
    }
}
