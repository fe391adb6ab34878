//! The audit of ClickHouse: the rows of the view against the join in Postgres, and
//! where its rows come from against the log.

use std::time::Duration;

use futures_util::TryStreamExt as _;

use super::Query;
use crate::{
    audit::{
        Audit,
        error::VerifyError,
        findings::{Check, Findings},
        row::{RangeSum, RowOrigin, TextRow},
        rows,
        store::{Answer, Pieces, RowStore},
        truth::Truth,
    },
    connections::{Connections, clickhouse::InvalidUrl},
    sink_kind::SinkKind,
    source::tables::events_topic,
};

/// The view, as it is audited.
pub(crate) struct ViewAudit<'a> {
    connections: &'a Connections,
    query: Query,
}

impl<'a> ViewAudit<'a> {
    /// # Errors
    /// When the configured URL is invalid.
    pub(crate) fn new(connections: &'a Connections) -> Result<Self, InvalidUrl> {
        Ok(Self {
            connections,
            query: connections.clickhouse.query()?,
        })
    }
}

impl Audit for ViewAudit<'_> {
    fn check(&self) -> Check {
        Check::Rows
    }

    fn store(&self) -> Option<&dyn RowStore> {
        Some(self)
    }

    fn audit<'a>(&'a self, truth: &'a mut Truth<'_>) -> Answer<'a, Findings> {
        Box::pin(rows::check(self, truth))
    }
}

impl RowStore for ViewAudit<'_> {
    fn sink(&self) -> SinkKind {
        SinkKind::ClickHouse
    }

    fn sum(&self, first: i64, last: i64) -> Answer<'_, RangeSum> {
        Box::pin(async move { Ok(self.query.sum(first, last).await?) })
    }

    fn rows(&self, first: i64, last: i64) -> Result<Pieces<'_, TextRow>, VerifyError> {
        let rows = self.query.rows(first, last)?;
        Ok(Box::pin(rows.map_err(VerifyError::from)))
    }

    fn rows_of<'a>(&'a self, ids: &'a [i64]) -> Answer<'a, Vec<TextRow>> {
        Box::pin(async move { Ok(self.query.rows_of(ids).await?) })
    }

    fn origins(&self, partition: i32) -> Result<Pieces<'_, RowOrigin>, VerifyError> {
        let origins = self.query.origins(partition)?;
        Ok(Box::pin(origins.map_err(VerifyError::from)))
    }

    fn origins_of<'a>(&'a self, ids: &'a [i64]) -> Answer<'a, Vec<RowOrigin>> {
        Box::pin(async move { Ok(self.query.origins_of(ids).await?) })
    }

    fn recorded_starts(&self) -> Answer<'_, Vec<Vec<i64>>> {
        Box::pin(async move {
            let settings = self.connections.settings();
            let timeout = Duration::from_millis(settings.clickhouse.request_timeout_ms);
            let store = self.connections.clickhouse.store(false, timeout)?;
            let lives = store.lives(&events_topic(settings)).await?;
            Ok(lives.into_iter().map(|life| life.starts).collect())
        })
    }
}
