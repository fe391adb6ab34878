//! ClickHouse: the enriched table, written as versioned rows that can be written
//! repeatedly, and the catalogue that enriches them.
//!
//! [`Facts`] writes `engagement_enriched_storage`, [`ContentMirror`] writes `content`.
//! Correctness depends only on `_version`, which contains a row's position in the log:
//! newer rows replace rows from replays, repeated batches and late writes of other
//! workers.

pub(crate) mod audit;
mod begin;
pub mod catalogue;
mod classify;
pub(crate) mod client;
mod content;
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

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use uuid::Uuid;

pub use client::{CONTENT, ContentRow, FACTS, FactRow, Shape, Store, TOPICS, TopicRow};
pub use content::ContentMirror;
pub use facts::Facts;
pub use query::Query;
pub use rebuild::{Lives, Rebuild};
pub(crate) use setup::open;
pub use stale::{Enrichment, StaleRow, StaleRows, percent};
pub use topics::{ContentPlace, PlaceRow, Times};

use self::{
    catalogue::Catalogue,
    classify::kafka,
    follower::Follower,
    generations::{Clients, Generations, TopicIncarnation},
    reenrich::PassQueue,
};
use crate::{
    config,
    connections::{Connections, clickhouse::InvalidUrl},
    debezium::{ContentDecoder, DimensionDecoder, FactDecoder, SourceTable},
    kafka::{Kafka, Log},
    runtime::{Fault, GenerationLog, KnownPlaceholders, RECONCILE},
    sink_kind::ConsumerGroup,
};

/// State shared by the partitions of both tables.
#[derive(Debug)]
pub struct Common {
    store: Store,
    log: Log,
    generation_log: GenerationLog,
    kafka: Kafka,
    facts_group: String,
    content_group: String,
    catalogue_group: String,
    facts: FactDecoder,
    content: ContentDecoder,
    dimension: DimensionDecoder,
    placeholders: KnownPlaceholders,
    catalogue: Arc<Catalogue>,
    pass_queue: Arc<PassQueue>,
    /// Maximum number of rows that one statement re-enriches.
    reenrich_rows: usize,
    /// The follower, with the incarnation of the content topic that it follows.
    follower: Mutex<Option<(TopicIncarnation, Follower)>>,
}

impl Common {
    /// # Errors
    /// If the configured URL is invalid.
    pub fn new(
        connections: &Connections,
        source: (&SourceTable, &SourceTable),
        placeholders: &KnownPlaceholders,
        (log, generation_log): (Log, GenerationLog),
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
            generation_log,
            kafka: connections.kafka.clone(),
            facts_group: ConsumerGroup::Facts.id(group_prefix),
            content_group: ConsumerGroup::Content.id(group_prefix),
            // Unique per process. The group has no members and no commits.
            catalogue_group: format!("{group_prefix}-catalogue-{}", Uuid::new_v4()),
            facts: FactDecoder::with_placeholders(facts.clone(), placeholders.facts()),
            content: ContentDecoder::with_placeholders(content.clone(), placeholders.content()),
            dimension: DimensionDecoder::with_placeholders(content.clone(), placeholders.content()),
            placeholders: placeholders.clone(),
            catalogue: Arc::default(),
            pass_queue: Arc::default(),
            reenrich_rows: settings.reenrich_rows,
            follower: Mutex::default(),
        })
    }

    /// Returns the clients that read the generation in force and the generation of the
    /// tables.
    fn clients(&self) -> Clients<'_> {
        Clients {
            store: &self.store,
            log: &self.log,
            generation_log: &self.generation_log,
            kafka: &self.kafka,
            groups: (&self.facts_group, &self.content_group),
        }
    }

    /// Returns the generations of both topics, not opened yet.
    fn generations(&self) -> Generations {
        let (facts, content) = (self.facts.source(), self.content.source());
        Generations::new(facts.topic(), content.topic())
    }

    /// Halts if the content topic lacks records of this incarnation. The catalogue is
    /// loaded from its start, so contents would be missing unnoticed if its first records
    /// were deleted. The topic must also reach the offsets that rows are enriched with.
    async fn check_content_retained(
        &self,
        incarnation: &TopicIncarnation,
        enriched: &[i64],
    ) -> Result<(), Fault> {
        let topic = self.content.source().topic();
        let bounds = self.log.bounds(&topic).await.map_err(kafka)?;
        for (partition, bounds) in (0..).zip(&bounds) {
            let from = incarnation.start(partition);
            if bounds.start > from {
                let reason = format!(
                    "partition {partition} of {topic} begins at offset {} and contents are read \
                     from offset {from}: the records between were deleted, so contents may be \
                     missing",
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

    /// Starts to follow this incarnation of the content topic, unless it is followed
    /// already, and waits until the catalogue has reached its end.
    async fn load_catalogue(&self, incarnation: &TopicIncarnation) -> Result<(), Fault> {
        let topic = self.content.source().topic();
        let bounds = self.log.bounds(&topic).await.map_err(kafka)?;
        let ends: Vec<i64> = bounds.iter().map(|bounds| bounds.end).collect();
        {
            let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
            let is_other = |(followed, _): &(TopicIncarnation, Follower)| followed != incarnation;
            if follower.as_ref().is_none_or(is_other) {
                // Only one follower may write to the catalogue.
                *follower = None;
                let starts: Vec<Option<i64>> = (0..)
                    .zip(&bounds)
                    .map(|(partition, bounds)| incarnation.start(partition).max(bounds.start))
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
                *follower = Some((incarnation.clone(), started.map_err(kafka)?));
            }
        }
        self.wait_for_catalogue(&ends).await
    }

    /// Waits until the catalogue has reached the topic's current end. A content that is
    /// still unknown then was also unknown when its event was fetched.
    async fn catch_up(&self) -> Result<(), Fault> {
        let topic = self.content.source().topic();
        let ends = self.log.ends(&topic).await.map_err(kafka)?;
        self.wait_for_catalogue(&ends).await
    }

    async fn wait_for_catalogue(&self, ends: &[i64]) -> Result<(), Fault> {
        const TIMEOUT: Duration = Duration::from_secs(30);
        tokio::time::timeout(TIMEOUT, self.catalogue.wait_for(ends))
            .await
            .map_err(|_| Fault::retry("the catalogue has not reached the end of its topic"))
    }
}
