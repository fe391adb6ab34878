//! The source tables, and the names of their topics and consumer groups.

use crate::{config::Settings, debezium::SourceTable, sink_kind::ConsumerGroup};

/// The source tables.
#[derive(Debug, Clone)]
pub struct Source {
    pub facts: SourceTable,
    pub content: SourceTable,
}

impl Source {
    /// Creates the tables with the connector's topic prefix.
    pub fn new(topic_prefix: &str) -> Self {
        let table = |table: &str| SourceTable {
            prefix: topic_prefix.to_owned(),
            schema: "public".to_owned(),
            table: table.to_owned(),
        };
        Self {
            facts: table("engagement_events"),
            content: table("content"),
        }
    }
}

/// Returns the name of the events topic.
#[must_use]
pub fn events_topic(settings: &Settings) -> String {
    format!("{}.public.engagement_events", settings.kafka.topic_prefix)
}

/// Returns the name of the content topic.
#[must_use]
pub fn content_topic(settings: &Settings) -> String {
    format!("{}.public.content", settings.kafka.topic_prefix)
}

/// Returns the id of a consumer group of the pipeline: `fanout-clickhouse`.
#[must_use]
pub fn group(settings: &Settings, group: ConsumerGroup) -> String {
    group.id(&settings.kafka.group_prefix)
}

/// Returns the group id of an operation that only reads and never commits: `fanout-verify`.
#[must_use]
pub fn reader_group(settings: &Settings, operation: &str) -> String {
    format!("{}-{operation}", settings.kafka.group_prefix)
}
