//! What an operator can see of a sink's contents: the trait that each sink
//! implements in its `inspect.rs`, and the types that it returns.

use std::{collections::HashMap, error::Error, future, time::Duration};

use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    config::Settings,
    connections::{
        Connections,
        clickhouse::{ClickHouseError, InvalidUrl},
        redis::RedisError,
        web::WebError,
    },
    failure::{Failure, Kind},
};

/// Reads the contents of a sink as they are stored.
pub(crate) trait Inspect: Sized {
    /// Returns a shell command that shows the latest `count` items. It uses the
    /// variables of `fanout env` and contains no secret.
    fn equivalent(settings: &Settings, count: usize) -> String;

    /// Connects. Each request takes at most `timeout`, or the sink's own limit
    /// if `timeout` is `None` or the client has a fixed limit.
    fn connect(
        connections: &Connections,
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<Self, InspectError>>;

    /// Returns the latest `count` items, oldest first; in later calls, the items
    /// that are new since the previous call. A board has no such order: it is
    /// returned highest score first, and again after each publication.
    fn latest(&mut self, count: usize) -> impl Future<Output = Result<Vec<Item>, InspectError>>;

    /// Returns why this server cannot be searched for an event, or `None` if it
    /// can or does not respond.
    fn why_unsearchable(&self, event: &MarkedEvent) -> impl Future<Output = Option<&'static str>> {
        let _ = event;
        future::ready(None)
    }

    /// Checks whether the event has arrived, and whether it is stored correctly.
    fn find(&self, event: &MarkedEvent) -> impl Future<Output = Result<Arrival, InspectError>>;

    /// Returns the first `limit` members of the sink's board. A sink without a
    /// board returns the view of a board that was never published.
    fn top(&mut self, limit: usize) -> impl Future<Output = Result<BoardView, InspectError>> {
        let _ = limit;
        future::ready(Ok(BoardView::default()))
    }

    /// Returns the titles of these pieces of content, as far as the sink stores
    /// them.
    fn titles(
        connections: &Connections,
        ids: &[Uuid],
    ) -> impl Future<Output = Result<HashMap<Uuid, Title>, InspectError>> {
        let _ = (connections, ids);
        future::ready(Ok(HashMap::new()))
    }
}

/// An item that a sink or a topic holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Position or time of the item, in a few words.
    pub head: String,
    /// The item as it is stored. Not escaped, so not safe to display.
    pub body: String,
    pub document: Json,
}

/// The event that `fanout smoke` inserts, and what each sink must hold of it.
#[derive(Debug)]
pub(crate) struct MarkedEvent {
    pub event_id: i64,
    pub content_id: Uuid,
    /// Key of the call to the external system.
    pub idempotency_key: Uuid,
    /// Score of the content, which has no other event.
    pub score: i64,
    pub engagement_seconds: &'static str,
    pub engagement_pct: &'static str,
    pub content_type: &'static str,
    pub length_seconds: &'static str,
    pub device: &'static str,
}

/// Result of [`Inspect::find`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The event is stored correctly. The text is the evidence.
    Arrived(String),
    /// The text says what the sink holds instead.
    NotYet(String),
}

/// Title and type of a piece of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title {
    pub title: String,
    pub content_type: Option<String>,
}

/// A board at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoardView {
    /// Members with their scores, highest score first.
    pub members: Vec<(String, i64)>,
    /// Number of members on the board, including those not in `members`.
    pub cardinality: u64,
    /// `None` if no pipeline has published the board within the last window.
    pub meta: Option<Meta>,
    /// Remaining time of the publishing worker's lease. `None` if no worker
    /// holds the lease.
    pub lease: Option<Duration>,
}

/// What the publishing worker reports about the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Meta {
    /// The board is as of this time, in microseconds since the epoch.
    pub as_of_us: i64,
    /// Sequence number of the publication.
    pub seq: u64,
    /// Whether the board is known to contain every event of its window.
    pub complete: bool,
    /// How far the worker is behind the log, in milliseconds.
    pub behind_ms: i64,
    pub window_seconds: u64,
}

/// How far a board may be ahead of this machine's clock, in microseconds. The
/// clocks of two machines differ by less.
const CLOCK_TOLERANCE_US: i64 = 5_000_000;

impl Meta {
    /// Returns true if the board's time is in the future, by more than the
    /// usual difference between two clocks.
    #[must_use]
    pub fn is_ahead_of(&self, now_us: i64) -> bool {
        self.as_of_us.saturating_sub(now_us) > CLOCK_TOLERANCE_US
    }
}

/// Error of reading the contents of a sink.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("cannot read rows from clickhouse")]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("cannot read the board from redis")]
    Redis(#[from] RedisError),
    #[error("the external system does not answer")]
    Web(#[from] WebError),
    #[error("the external system does not list its calls: it answers {status}")]
    NoList { status: u16 },
}

impl InspectError {
    /// Returns the client's error, for messages that already name the sink.
    pub(crate) fn cause(&self) -> &(dyn Error + 'static) {
        self.source().unwrap_or(self)
    }
}

impl Failure for InspectError {
    fn kind(&self) -> Kind {
        match self {
            Self::Url(_) => Kind::Usage,
            Self::NoList { .. } => Kind::Failed,
            Self::ClickHouse(_) | Self::Redis(_) | Self::Web(_) => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::ClickHouse(_) => "clickhouse",
            Self::Url(_) => "clickhouse_url",
            Self::Redis(_) => "redis",
            Self::Web(_) => "external",
            Self::NoList { .. } => "external_no_list",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Url(_) => "fanout config show",
            Self::NoList { .. } => return None,
            Self::ClickHouse(_) | Self::Redis(_) | Self::Web(_) => "fanout status",
        };
        Some(hint.to_owned())
    }
}
