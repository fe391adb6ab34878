//! Starts a new generation for a rebuild from the source: both topics get an incarnation
//! that starts at the current end of their logs, and the source is read again. Later
//! records replace all earlier ones, which are no longer read.
//!
//! A project without ClickHouse also gets a new generation. If its tables are used again
//! later, the sink detects that their rows belong to an earlier generation.

use super::{
    Store,
    classify::{clickhouse, kafka},
    schema,
    takeover::{self, LegacyRecord},
};
use crate::{
    kafka::{Kafka, Log, StateTopic},
    runtime::{Begun, Fault, GenerationLog, Incarnation, RECONCILE, generations::existing},
    sink_kind::ConsumerGroup,
    time::clock::now_ms,
};

/// Starts generations, and marks their rebuilds as finished.
#[derive(Debug)]
pub struct Rebuild {
    /// `None` if ClickHouse is not a sink.
    store: Option<Store>,
    log: Log,
    generation_log: GenerationLog,
    kafka: Kafka,
    facts_group: String,
    content_group: String,
    facts: String,
    content: String,
}

/// The generation that a rebuild has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lives {
    pub facts: u16,
    pub content: u16,
    /// Start offset of each partition of the events topic.
    pub starts: Vec<i64>,
}

impl Rebuild {
    /// Returns a rebuild of the tables in `store`, if ClickHouse is a sink, from the events
    /// and the content topic.
    pub fn new(
        store: Option<Store>,
        (log, state): (Log, StateTopic),
        kafka: &Kafka,
        group_prefix: &str,
        (facts, content): (String, String),
    ) -> Self {
        Self {
            store,
            log,
            generation_log: GenerationLog::new(state),
            kafka: kafka.clone(),
            facts_group: ConsumerGroup::Facts.id(group_prefix),
            content_group: ConsumerGroup::Content.id(group_prefix),
            facts,
            content,
        }
    }

    /// Returns the store of the tables, or `None` if ClickHouse is not a sink.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Returns the tables with a wrong schema.
    pub async fn wrong_tables(&self) -> Result<Vec<&'static str>, Fault> {
        match &self.store {
            Some(store) => schema::wrong(store).await,
            None => Ok(Vec::new()),
        }
    }

    /// Renames the tables with a wrong schema, and keeps their rows. Returns the new names.
    pub async fn move_aside(&self) -> Result<Vec<String>, Fault> {
        let mut new_names = Vec::new();
        let Some(store) = &self.store else {
            return Ok(new_names);
        };
        for table in schema::wrong(store).await? {
            let new_name = format!("{table}_aside_{}", now_ms());
            let renamed = store.rename(table, &new_name).await;
            renamed.map_err(clickhouse)?;
            new_names.push(new_name);
        }
        Ok(new_names)
    }

    /// Starts a generation whose rebuild is unfinished.
    pub async fn begin(&self) -> Result<Lives, Fault> {
        let Some(store) = &self.store else {
            let generation = self.next_generation((0, 0)).await?;
            self.generation_log.begin(&generation).await?;
            return Ok(Lives::from(&generation));
        };
        let legacy = LegacyRecord::read(store, &self.facts, &self.content).await?;
        let used = self.highest_used(store, &legacy).await?;
        let generation = self.next_generation(used).await?;
        // The table must be recorded before the generation is in force.
        takeover::record_table(&self.generation_log, store, generation.number()).await?;
        self.generation_log.begin(&generation).await?;
        let topics = (self.facts.as_str(), self.content.as_str());
        legacy.mark_moved(store, &generation, topics).await?;
        Ok(Lives::from(&generation))
    }

    /// Returns true if this is the generation in force, so that its rebuild can continue.
    pub async fn is_latest(&self, lives: &Lives) -> Result<bool, Fault> {
        let Some(latest) = self.generation_log.latest().await? else {
            return Ok(false);
        };
        let latest = &latest.begun;
        if Lives::from(latest) != *lives {
            return Ok(false);
        }
        let topics = [
            (&self.facts, &latest.facts),
            (&self.content, &latest.content),
        ];
        let mut is_same = true;
        for (topic, recorded) in topics {
            let identity = self.log.identity(topic).await.map_err(kafka)?;
            is_same &= identity == Some(recorded.identity());
        }
        Ok(is_same)
    }

    /// Marks the rebuild as finished: the data in the stores is then complete.
    pub async fn settle(&self, lives: &Lives) -> Result<(), Fault> {
        if !self.is_latest(lives).await? {
            let reason = "another rebuild was started or a topic was recreated during this rebuild";
            return Err(Fault::halt("rebuild_overtaken", reason, RECONCILE));
        }
        self.generation_log.settle(lives.facts).await
    }

    /// Returns the generation after the latest one and after these numbers of both topics.
    async fn next_generation(&self, (facts, content): (u16, u16)) -> Result<Begun, Fault> {
        let latest = self.generation_log.latest().await?;
        let (latest_facts, latest_content) = latest.map_or((0, 0), |latest| {
            let latest = latest.begun;
            (latest.facts.generation, latest.content.generation)
        });
        let last_facts = latest_facts.max(facts);
        let last_content = latest_content.max(content);
        Ok(Begun::new(
            self.next_incarnation(&self.facts, last_facts).await?,
            self.next_incarnation(&self.content, last_content).await?,
            true,
        ))
    }

    /// Returns the incarnation of a topic that starts at the current end of its log.
    async fn next_incarnation(&self, topic: &str, last: u16) -> Result<Incarnation, Fault> {
        let identity = existing(&self.log, topic).await?;
        let generation = takeover::next_generation(topic, last)?;
        let ends = self.log.ends(topic).await.map_err(kafka)?;
        Ok(Incarnation::new(identity, generation, ends))
    }

    /// Returns the highest generation numbers of both topics that are used outside of the
    /// state topic: in stored rows, in the record of earlier releases, and in commits.
    async fn highest_used(
        &self,
        store: &Store,
        legacy: &LegacyRecord,
    ) -> Result<(u16, u16), Fault> {
        let stored = store.greatest_generations().await;
        let (facts, content) = stored.map_err(clickhouse)?;
        let recorded = legacy.numbers();
        let groups = [
            (self.facts_group.as_str(), self.facts.as_str()),
            (self.content_group.as_str(), self.content.as_str()),
        ];
        let committed = takeover::highest_committed(&self.kafka, groups).await?;
        Ok((
            facts.max(recorded.0).max(committed),
            content.max(recorded.1).max(committed),
        ))
    }
}

impl From<&Begun> for Lives {
    fn from(generation: &Begun) -> Self {
        Self {
            facts: generation.facts.generation,
            content: generation.content.generation,
            starts: generation.facts.starts.clone(),
        }
    }
}
