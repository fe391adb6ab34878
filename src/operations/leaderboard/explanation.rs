//! The events in Postgres behind a score on the board.

use serde::Serialize;
use uuid::Uuid;

use super::{TIMEOUT, error::LeaderboardError, titles::titles};
use crate::{
    connections::Connections,
    sinks::{
        inspect::Inspect as _,
        redis::{
            ahead,
            eligible::{self, CountedEvent, Moment, Sum},
            inspect::BoardInspector,
        },
    },
    spill::scratch::Scratch,
};

/// Maximum number of events listed.
const MAX_EVENTS: i64 = 100;

/// The events behind one score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub content_id: Uuid,
    pub title: Option<String>,
    /// Score on the board. `None` if the content is not on the board.
    pub board: Option<i64>,
    /// Score computed from the events in Postgres, as of the board's time.
    pub source: i64,
    /// Time of the board, in microseconds since the epoch.
    pub as_of_us: i64,
    pub window_seconds: u64,
    /// Number of eligible events.
    pub total: i64,
    /// Latest first, at most 100.
    pub events: Vec<CountedEvent>,
}

/// Returns the events in Postgres that make up the score of a piece of content,
/// as of the board's time.
///
/// # Errors
/// If a server does not respond or the board was never published.
pub async fn explain(
    connections: &Connections,
    scratch: &Scratch,
    content_id: Uuid,
) -> Result<Explanation, LeaderboardError> {
    let settings = connections.settings();
    let mut board = BoardInspector::connect(connections, Some(TIMEOUT)).await?;
    let view = board.top(0).await?;
    let meta = view.meta.ok_or(LeaderboardError::NeverPublished)?;
    let moment = Moment {
        as_of_us: meta.as_of_us,
        window_seconds: meta.window_seconds,
    };
    let client = connections.postgres.connect().await?;
    let ahead = ahead::ahead(connections, scratch, &client, moment, Some(content_id)).await?;
    // Events of unknown records count: the records are most likely still on
    // their way.
    let ahead = ahead.ids;
    let mut sums = eligible::sums(&client, moment).await?;
    sums.subtract(&eligible::sums_of(&client, moment, &ahead).await?);
    let sum: Sum = sums.0.get(&content_id).copied().unwrap_or_default();
    let events = eligible::events_of(&client, moment, content_id, &ahead, MAX_EVENTS).await?;
    let mut titles = titles(connections, &[content_id]).await;
    Ok(Explanation {
        content_id,
        title: titles.remove(&content_id).map(|title| title.title),
        board: board.score(content_id).await?,
        source: sum.score(settings.board.score),
        as_of_us: meta.as_of_us,
        window_seconds: meta.window_seconds,
        total: sum.events,
        events,
    })
}
