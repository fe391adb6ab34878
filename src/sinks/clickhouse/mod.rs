//! ClickHouse: the enriched table, by versioned rows that are harmless to
//! repeat, and the catalogue that enriches them.
//!
//! [`Facts`] writes `engagement_enriched_storage`, [`ContentMirror`] writes
//! `content`. Correctness comes from `_version` alone: a row's place in the
//! log, so that replays, repeated batches and other workers' late writes lose
//! against what is newer.

pub(crate) mod audit;
mod begin;
pub mod catalogue;
mod classify;
pub(crate) mod client;
mod compare;
mod content;
mod dimension;
mod facts;
mod follower;
mod generations;
pub(crate) mod inspect;
pub mod owned;
mod pace;
mod position;
pub(crate) mod query;
mod rebuild;
mod reenrich;
mod schema;
pub(crate) mod setup;
pub(crate) mod stale;
mod takeover;
pub(crate) mod topics;
pub(crate) mod truth;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use uuid::Uuid;

pub use client::{CONTENT, ContentRow, FACTS, FactRow, Shape, Store, TOPICS, TopicRow};
pub use content::ContentMirror;
pub use facts::Facts;
pub use query::{COLUMNS, DIGEST, MAX_TEXT, OriginRow, Query, Rows, Sum, TextRow};
pub use rebuild::{Lives, Rebuild};
pub(crate) use setup::open;
pub use stale::{Enrichment, StaleRow, StaleRows, percent};
pub use topics::{ContentPlace, PlaceRow, Times};

use self::{
    catalogue::Catalogue,
    classify::kafka,
    follower::Follower,
    generations::{Generations, Life, Servers},
    reenrich::Turns,
};
use crate::{
    config,
    connections::{Connections, clickhouse::InvalidUrl},
    debezium::{ContentDecoder, DimensionDecoder, FactDecoder, SourceTable},
    kafka::{Kafka, Log},
    runtime::{Fault, GenerationLog, KnownPlaceholders, RECONCILE},
    sink_kind::ConsumerGroup,
};

/// What the partitions of both tables share.
#[derive(Debug)]
pub struct Common {
    store: Store,
    log: Log,
    /// Of the generations that the tables are written in.
    record: GenerationLog,
    kafka: Kafka,
    /// The facts' consumer group, and the content's.
    group: String,
    content_group: String,
    catalogue_group: String,
    facts: FactDecoder,
    content: ContentDecoder,
    dimension: DimensionDecoder,
    placeholders: KnownPlaceholders,
    catalogue: Arc<Catalogue>,
    turns: Arc<Turns>,
    /// Rows that one statement writes again at most.
    reenrich_rows: usize,
    /// With the life of the content topic that it follows.
    follower: Mutex<Option<(Life, Follower)>>,
}

impl Common {
    /// # Errors
    /// When the configured URL is none.
    pub fn new(
        connections: &Connections,
        source: (&SourceTable, &SourceTable),
        placeholders: &KnownPlaceholders,
        (log, record): (Log, GenerationLog),
    ) -> Result<Self, InvalidUrl> {
        let (facts, content) = source;
        let settings = &connections.settings().clickhouse;
        let group_prefix = &connections.settings().kafka.group_prefix;
        let store = connections.clickhouse.store(
            settings.compression == config::Compression::Lz4,
            Duration::from_millis(settings.request_timeout_ms),
        )?;
        Ok(Self {
            store,
            log,
            record,
            kafka: connections.kafka.clone(),
            group: ConsumerGroup::Facts.id(group_prefix),
            content_group: ConsumerGroup::Content.id(group_prefix),
            // A name of its own for each process: it joins nothing and commits
            // nothing.
            catalogue_group: format!("{group_prefix}-catalogue-{}", Uuid::new_v4()),
            facts: FactDecoder::with_placeholders(facts.clone(), placeholders.facts()),
            content: ContentDecoder::with_placeholders(content.clone(), placeholders.content()),
            dimension: DimensionDecoder::with_placeholders(content.clone(), placeholders.content()),
            placeholders: placeholders.clone(),
            catalogue: Arc::default(),
            turns: Arc::default(),
            reenrich_rows: settings.reenrich_rows,
            follower: Mutex::default(),
        })
    }

    /// What says which generation is in force, and which the tables are of.
    fn servers(&self) -> Servers<'_> {
        Servers {
            store: &self.store,
            log: &self.log,
            record: &self.record,
            kafka: &self.kafka,
            groups: (&self.group, &self.content_group),
        }
    }

    /// What is known of the lives of both topics, before anything is.
    fn generations(&self) -> Generations {
        let (facts, content) = (self.facts.source(), self.content.source());
        Generations::new(facts.topic(), content.topic())
    }

    /// Whether the content topic still holds this life from its start, where the
    /// catalogue is loaded from, and up to what rows are enriched with. A topic
    /// whose head was deleted would lose contents without anybody noticing.
    async fn has_content(&self, life: &Life, enriched: &[i64]) -> Result<(), Fault> {
        let topic = self.content.source().topic();
        let bounds = self.log.bounds(&topic).await.map_err(kafka)?;
        for (partition, bounds) in (0..).zip(&bounds) {
            let from = life.start(partition);
            if bounds.start > from {
                let reason = format!(
                    "partition {partition} of {topic} begins at offset {} and contents are read \
                     from offset {from}: what lies between was deleted, so contents may be missing",
                    bounds.start
                );
                return Err(Fault::halt("retention_passed", reason, RECONCILE));
            }
        }
        for (partition, (bounds, enriched)) in bounds.iter().zip(enriched).enumerate() {
            if *enriched > bounds.end {
                let reason = format!(
                    "partition {partition} of {topic} ends at offset {} and rows are enriched up \
                     to offset {enriched}: the log has lost its end, so rows may be out of date",
                    bounds.end
                );
                return Err(Fault::halt("log_shortened", reason, RECONCILE));
            }
        }
        Ok(())
    }

    /// Starts following this life of the content topic, once, and waits until
    /// the catalogue has its end.
    async fn load_catalogue(&self, life: &Life) -> Result<(), Fault> {
        let topic = self.content.source().topic();
        let bounds = self.log.bounds(&topic).await.map_err(kafka)?;
        let ends: Vec<i64> = bounds.iter().map(|bounds| bounds.end).collect();
        {
            let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
            if follower.as_ref().is_none_or(|(known, _)| known != life) {
                // One at a time feeds the catalogue.
                *follower = None;
                let starts: Vec<Option<i64>> = (0..)
                    .zip(&bounds)
                    .map(|(partition, bounds)| life.start(partition).max(bounds.start))
                    .map(|start| (start > 0).then_some(start))
                    .collect();
                let started = Follower::start(
                    &self.kafka,
                    &self.catalogue_group,
                    &self.dimension,
                    &self.placeholders,
                    &starts,
                    &self.catalogue,
                );
                *follower = Some((life.clone(), started.map_err(kafka)?));
            }
        }
        self.wait_for_catalogue(&ends).await
    }

    /// Waits until the catalogue has reached the topic's end as it is now: a
    /// content that is unknown after that was unknown when its event was
    /// fetched.
    async fn catch_up(&self) -> Result<(), Fault> {
        let topic = self.content.source().topic();
        let ends = self.log.ends(&topic).await.map_err(kafka)?;
        self.wait_for_catalogue(&ends).await
    }

    async fn wait_for_catalogue(&self, ends: &[i64]) -> Result<(), Fault> {
        const TIMEOUT: Duration = Duration::from_secs(30);
        tokio::time::timeout(TIMEOUT, self.catalogue.wait_for(ends))
            .await
            .map_err(|_| Fault::retry("the catalogue does not reach the end of its topic"))
    }
}
