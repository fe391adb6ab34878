//! The tables that the pipeline follows, and the names of their topics and of
//! the groups that read them.

use crate::{config::Settings, debezium::SourceTable, sink_kind::ConsumerGroup};

/// The source's tables and where their changes are.
#[derive(Debug, Clone)]
pub struct Source {
    pub facts: SourceTable,
    pub content: SourceTable,
}

impl Source {
    /// The tables of design, under the connector's prefix.
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

/// The name of the events' topic.
#[must_use]
pub fn events_topic(settings: &Settings) -> String {
    format!("{}.public.engagement_events", settings.kafka.topic_prefix)
}

/// The name of the content topic.
#[must_use]
pub fn content_topic(settings: &Settings) -> String {
    format!("{}.public.content", settings.kafka.topic_prefix)
}

/// The id of a group of the pipeline: `fanout-clickhouse`.
#[must_use]
pub fn group(settings: &Settings, group: ConsumerGroup) -> String {
    group.id(&settings.kafka.group_prefix)
}

/// The group of an operation that reads and commits nothing: `fanout-verify`.
#[must_use]
pub fn reader_group(settings: &Settings, operation: &str) -> String {
    format!("{}-{operation}", settings.kafka.group_prefix)
}
