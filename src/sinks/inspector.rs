//! The inspector of any sink. Each match here lists all sinks, so the compiler
//! reports what a new sink still lacks.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::{
    clickhouse::inspect::RowInspector,
    http::inspect::CallInspector,
    inspect::{Arrival, Inspect, InspectError, Item, MarkedEvent, Title},
    redis::inspect::BoardInspector,
};
use crate::{config::Settings, connections::Connections, sink_kind::SinkKind};

/// The inspector of one of the sinks.
#[derive(Debug)]
pub(crate) enum Inspector {
    /// Boxed because a ClickHouse client is several times larger than the others.
    ClickHouse(Box<RowInspector>),
    Redis(BoardInspector),
    Http(CallInspector),
}

impl Inspector {
    /// See [`Inspect::equivalent`].
    pub(crate) fn equivalent(kind: SinkKind, settings: &Settings, count: usize) -> String {
        match kind {
            SinkKind::ClickHouse => RowInspector::equivalent(settings, count),
            SinkKind::Redis => BoardInspector::equivalent(settings, count),
            SinkKind::Http => CallInspector::equivalent(settings, count),
        }
    }

    /// See [`Inspect::connect`].
    pub(crate) async fn connect(
        kind: SinkKind,
        connections: &Connections,
        timeout: Option<Duration>,
    ) -> Result<Self, InspectError> {
        Ok(match kind {
            SinkKind::ClickHouse => {
                let inspector = RowInspector::connect(connections, timeout).await?;
                Self::ClickHouse(Box::new(inspector))
            }
            SinkKind::Redis => Self::Redis(BoardInspector::connect(connections, timeout).await?),
            SinkKind::Http => Self::Http(CallInspector::connect(connections, timeout).await?),
        })
    }

    /// See [`Inspect::latest`].
    pub(crate) async fn latest(&mut self, count: usize) -> Result<Vec<Item>, InspectError> {
        match self {
            Self::ClickHouse(inspector) => inspector.latest(count).await,
            Self::Redis(inspector) => inspector.latest(count).await,
            Self::Http(inspector) => inspector.latest(count).await,
        }
    }

    /// See [`Inspect::why_unsearchable`].
    pub(crate) async fn why_unsearchable(&self, event: &MarkedEvent) -> Option<&'static str> {
        match self {
            Self::ClickHouse(inspector) => inspector.why_unsearchable(event).await,
            Self::Redis(inspector) => inspector.why_unsearchable(event).await,
            Self::Http(inspector) => inspector.why_unsearchable(event).await,
        }
    }

    /// See [`Inspect::find`].
    pub(crate) async fn find(&self, event: &MarkedEvent) -> Result<Arrival, InspectError> {
        match self {
            Self::ClickHouse(inspector) => inspector.find(event).await,
            Self::Redis(inspector) => inspector.find(event).await,
            Self::Http(inspector) => inspector.find(event).await,
        }
    }

    /// See [`Inspect::titles`].
    pub(crate) async fn titles(
        kind: SinkKind,
        connections: &Connections,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, Title>, InspectError> {
        match kind {
            SinkKind::ClickHouse => RowInspector::titles(connections, ids).await,
            SinkKind::Redis => BoardInspector::titles(connections, ids).await,
            SinkKind::Http => CallInspector::titles(connections, ids).await,
        }
    }
}
