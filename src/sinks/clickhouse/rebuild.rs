//! History begins anew: both topics get an incarnation that starts where their
//! logs end now, and the source is read again. What came before loses against
//! whatever comes after, and is not read any more.
//!
//! In a project without ClickHouse a generation begins all the same. Tables that
//! are written again later hold rows from before it, which then is noticed.

use super::{
    Store,
    classify::{clickhouse, kafka},
    schema,
    takeover::{self, Earlier},
};
use crate::{
    kafka::{Kafka, Log, StateTopic},
    runtime::{Begun, Fault, GenerationLog, Incarnation, RECONCILE, generations::existing},
    sink_kind::ConsumerGroup,
    time::clock::now_ms,
};

/// Begins generations, and settles them.
#[derive(Debug)]
pub struct Rebuild {
    /// None where ClickHouse takes no part.
    store: Option<Store>,
    log: Log,
    record: GenerationLog,
    kafka: Kafka,
    group: String,
    content_group: String,
    facts: String,
    content: String,
}

/// The generation that a rebuild has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lives {
    pub facts: u16,
    pub content: u16,
    /// By partition of the facts, where the new life begins.
    pub starts: Vec<i64>,
}

impl Rebuild {
    /// Of these tables, where ClickHouse takes part, and of these two topics, the
    /// facts' and the content's.
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
            record: GenerationLog::new(state),
            kafka: kafka.clone(),
            group: ConsumerGroup::Facts.id(group_prefix),
            content_group: ConsumerGroup::Content.id(group_prefix),
            facts,
            content,
        }
    }

    /// The tables; none where ClickHouse takes no part.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// The tables that are not as they should be.
    pub async fn wrong_tables(&self) -> Result<Vec<&'static str>, Fault> {
        match &self.store {
            Some(store) => schema::wrong(store).await,
            None => Ok(Vec::new()),
        }
    }

    /// Renames the tables that are not as they should be; says to what. What is
    /// in them stays.
    pub async fn move_aside(&self) -> Result<Vec<String>, Fault> {
        let mut moved = Vec::new();
        let Some(store) = &self.store else {
            return Ok(moved);
        };
        for table in schema::wrong(store).await? {
            let aside = format!("{table}_aside_{}", now_ms());
            let renamed = store.rename(table, &aside).await;
            renamed.map_err(clickhouse)?;
            moved.push(aside);
        }
        Ok(moved)
    }

    /// Begins a generation, not settled yet.
    pub async fn begin(&self) -> Result<Lives, Fault> {
        let Some(store) = &self.store else {
            let begun = self.next((0, 0)).await?;
            self.record.begin(&begun).await?;
            return Ok(Lives::from(&begun));
        };
        let earlier = Earlier::read(store, &self.facts, &self.content).await?;
        let begun = self.next(self.stored(store, &earlier).await?).await?;
        // Once it is in force, the tables have to be known.
        takeover::note_table(&self.record, store, begun.number()).await?;
        self.record.begin(&begun).await?;
        let topics = (self.facts.as_str(), self.content.as_str());
        earlier.mark(store, &begun, topics).await?;
        Ok(Lives::from(&begun))
    }

    /// Whether this is the generation in force, so that its rebuild can go on.
    pub async fn is_latest(&self, lives: &Lives) -> Result<bool, Fault> {
        let Some(generation) = self.record.latest().await? else {
            return Ok(false);
        };
        let begun = &generation.begun;
        if Lives::from(begun) != *lives {
            return Ok(false);
        }
        let mut same = true;
        for (topic, known) in [(&self.facts, &begun.facts), (&self.content, &begun.content)] {
            let identity = self.log.identity(topic).await.map_err(kafka)?;
            same &= identity == Some(known.identity());
        }
        Ok(same)
    }

    /// The rebuild is done: what the stores hold can be relied on.
    pub async fn settle(&self, lives: &Lives) -> Result<(), Fault> {
        if !self.is_latest(lives).await? {
            let reason =
                "another rebuild has begun, or a topic was recreated, since this one began";
            return Err(Fault::halt("rebuild_overtaken", reason, RECONCILE));
        }
        self.record.settle(lives.facts).await
    }

    /// The generation after the last one, and after these numbers of both topics.
    async fn next(&self, (facts, content): (u16, u16)) -> Result<Begun, Fault> {
        let latest = self.record.latest().await?;
        let known = latest.as_ref().map(|generation| &generation.begun);
        let last_facts = known.map_or(0, |begun| begun.facts.generation).max(facts);
        let last_content = known
            .map_or(0, |begun| begun.content.generation)
            .max(content);
        Ok(Begun::new(
            self.incarnation(&self.facts, last_facts).await?,
            self.incarnation(&self.content, last_content).await?,
            true,
        ))
    }

    /// The incarnation of a topic that begins where its log ends now.
    async fn incarnation(&self, topic: &str, last: u16) -> Result<Incarnation, Fault> {
        let identity = existing(&self.log, topic).await?;
        let generation = takeover::next(topic, last)?;
        let ends = self.log.ends(topic).await.map_err(kafka)?;
        Ok(Incarnation::new(identity, generation, ends))
    }

    /// The highest numbers of both topics that anything is of besides the record of
    /// generations: stored rows, what earlier releases recorded, and commits.
    async fn stored(&self, store: &Store, earlier: &Earlier) -> Result<(u16, u16), Fault> {
        let stored = store.greatest_generations().await;
        let (facts, content) = stored.map_err(clickhouse)?;
        let recorded = earlier.numbers();
        let groups = [
            (self.group.as_str(), self.facts.as_str()),
            (self.content_group.as_str(), self.content.as_str()),
        ];
        let committed = takeover::committed(&self.kafka, groups).await?;
        Ok((
            facts.max(recorded.0).max(committed),
            content.max(recorded.1).max(committed),
        ))
    }
}

impl From<&Begun> for Lives {
    fn from(begun: &Begun) -> Self {
        Self {
            facts: begun.facts.generation,
            content: begun.content.generation,
            starts: begun.facts.starts.clone(),
        }
    }
}
