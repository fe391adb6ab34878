//! The tables that the pipeline follows.

use crate::event::SourceTable;

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
