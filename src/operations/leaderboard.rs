//! The board as it is published, with titles; and the events behind a score.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;
use uuid::Uuid;

use super::eligible::{self, CountedEvent, Moment, Sum};
use crate::{
    clients::{
        clickhouse::{ClickHouseError, Endpoint, InvalidUrl, Query, Title},
        postgres::{self, PostgresError},
        redis::{BoardKeys, BoardReader, Meta, RedisError},
    },
    clock::now_us,
    config::{Score, Settings},
    failure::{Failure, Kind},
};

/// Events listed behind a score.
const MAX_EVENTS: i64 = 100;

/// A meta read by another way than this is of another pipeline.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The board at one look.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leaderboard {
    pub rows: Vec<Entry>,
    /// Members there are, also of those not shown.
    pub members: u64,
    pub meta: Option<Meta>,
    pub score: Score,
    /// How old the board is; 0 where its clock is ahead of this one's.
    pub age_ms: Option<i64>,
    /// Whether a worker holds the board's lease.
    pub has_worker: bool,
    /// What is wrong with it, or why it is empty.
    pub remark: Option<Remark>,
}

/// One line of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    pub rank: usize,
    pub content_id: String,
    pub title: Option<String>,
    pub content_type: Option<String>,
    pub score: i64,
    /// Since the look before; none at the first, and where that did not reach
    /// down to it.
    pub change: Option<i64>,
}

/// What an operator should know before believing the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remark {
    NeverPublished,
    Warming,
    NoWorker,
    /// It is of a moment that is yet to come.
    AheadOfClock,
    NoEvents,
}

/// The events behind one score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub content_id: Uuid,
    pub title: Option<String>,
    /// The score on the board, none where it is not there.
    pub board: Option<i64>,
    /// What the events in Postgres come to at the board's moment.
    pub source: i64,
    pub as_of_us: i64,
    pub window_seconds: u64,
    /// Eligible events.
    pub total: i64,
    /// Latest first, at most a hundred.
    pub events: Vec<CountedEvent>,
}

/// Why the board cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum LeaderboardError {
    #[error("redis does not give the board")]
    Redis(#[from] RedisError),
    #[error("postgres does not give the events")]
    Postgres(#[from] PostgresError),
    #[error("clickhouse does not give the records' times")]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("the board has never been published, so there is nothing to explain")]
    NeverPublished,
}

impl Failure for LeaderboardError {
    fn kind(&self) -> Kind {
        match self {
            Self::Redis(_) | Self::Postgres(_) | Self::ClickHouse(_) => Kind::Environment,
            Self::Url(_) => Kind::Usage,
            Self::NeverPublished => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Postgres(_) => "postgres",
            Self::ClickHouse(_) => "clickhouse",
            Self::Url(_) => "clickhouse_url",
            Self::NeverPublished => "board_never_published",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Url(_) => "fanout config show",
            Self::NeverPublished => "fanout run",
            _ => "fanout status",
        };
        Some(hint.to_owned())
    }
}

impl Remark {
    /// The remark for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NeverPublished => "no pipeline has published it within the last window",
            Self::Warming => "events of the window are still missing",
            Self::NoWorker => "no worker is publishing: it gets older",
            Self::AheadOfClock => {
                "it is ahead of this machine's clock: the worker's clock differs, or was set back"
            }
            Self::NoEvents => "no event in the window",
        }
    }

    /// What to type.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::NeverPublished | Self::NoWorker => Some("fanout run"),
            Self::Warming | Self::AheadOfClock => Some("fanout status"),
            Self::NoEvents => Some("fanout seed"),
        }
    }
}

/// Looks at the board again and again.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    reader: BoardReader,
    titles: HashMap<String, Title>,
    before: Option<Before>,
}

/// The members of the look before.
#[derive(Debug)]
struct Before {
    scores: HashMap<String, i64>,
    /// Whether these were all: else a newcomer may have been below the limit.
    all: bool,
}

impl Before {
    fn change(&self, member: &str, score: i64) -> Option<i64> {
        match self.scores.get(member) {
            Some(before) => Some(score - before),
            None => self.all.then_some(score),
        }
    }
}

impl Watch {
    /// Connects to Redis.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn start(settings: &Settings) -> Result<Self, LeaderboardError> {
        Ok(Self {
            reader: reader(settings).await?,
            settings: settings.clone(),
            titles: HashMap::new(),
            before: None,
        })
    }

    /// The first `limit` members now.
    ///
    /// # Errors
    /// When Redis does not answer. Titles that cannot be had are left out.
    pub async fn look(&mut self, limit: usize) -> Result<Leaderboard, LeaderboardError> {
        let view = self.reader.read(Some(limit)).await?;
        let unknown: Vec<Uuid> = view
            .members
            .iter()
            .filter(|(member, _)| !self.titles.contains_key(member))
            .filter_map(|(member, _)| member.parse().ok())
            .collect();
        if !unknown.is_empty() {
            let found = titles(&self.settings, &unknown).await;
            let named = found.into_iter().map(|(id, title)| (id.to_string(), title));
            self.titles.extend(named);
        }
        let has_worker = view.lease.is_some();
        let now_us = now_us();
        let rows = (1..).zip(&view.members).map(|(rank, (member, score))| {
            let title = self.titles.get(member);
            Entry {
                rank,
                content_id: member.clone(),
                title: title.map(|title| title.title.clone()),
                content_type: title.and_then(|title| title.content_type.clone()),
                score: *score,
                change: self
                    .before
                    .as_ref()
                    .and_then(|before| before.change(member, *score)),
            }
        });
        let board = Leaderboard {
            rows: rows.collect(),
            members: view.cardinality,
            meta: view.meta,
            score: self.settings.board.score,
            age_ms: view
                .meta
                .map(|meta| (now_us - meta.as_of_us).max(0) / 1_000),
            has_worker,
            remark: remark(view.meta, now_us, has_worker, view.cardinality),
        };
        self.before = Some(Before {
            all: view.members.len() as u64 == view.cardinality,
            scores: view.members.into_iter().collect(),
        });
        Ok(board)
    }
}

/// What there is to remark, the gravest first.
fn remark(meta: Option<Meta>, now_us: i64, has_worker: bool, members: u64) -> Option<Remark> {
    match meta {
        None => Some(Remark::NeverPublished),
        Some(_) if !has_worker => Some(Remark::NoWorker),
        Some(meta) if !meta.complete => Some(Remark::Warming),
        Some(meta) if meta.is_ahead_of(now_us) => Some(Remark::AheadOfClock),
        Some(_) if members == 0 => Some(Remark::NoEvents),
        Some(_) => None,
    }
}

/// The events in Postgres that make a content's score at the board's moment.
///
/// # Errors
/// When a server does not answer or there is no board.
pub async fn explain(
    settings: &Settings,
    content_id: Uuid,
) -> Result<Explanation, LeaderboardError> {
    let mut board = reader(settings).await?;
    let view = board.read(Some(0)).await?;
    let meta = view.meta.ok_or(LeaderboardError::NeverPublished)?;
    let moment = Moment {
        as_of_us: meta.as_of_us,
        window_seconds: meta.window_seconds,
    };
    let ahead = eligible::ahead(&query(settings)?, &settings.board, moment).await?;
    let client = postgres::connect(&settings.postgres.url).await?;
    let sums = eligible::sums(&client, moment, &ahead).await?;
    let sum: Sum = sums.get(&content_id).copied().unwrap_or_default();
    let events = eligible::events_of(&client, moment, content_id, &ahead, MAX_EVENTS).await?;
    let mut titles = titles(settings, &[content_id]).await;
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

async fn reader(settings: &Settings) -> Result<BoardReader, RedisError> {
    let keys = BoardKeys::new(&settings.board.key);
    BoardReader::connect(&settings.redis.url, keys, TIMEOUT).await
}

fn query(settings: &Settings) -> Result<Query, InvalidUrl> {
    let endpoint = Endpoint::at(&settings.clickhouse.url)?;
    Ok(Query::new(&endpoint, &settings.clickhouse.database))
}

/// Titles from ClickHouse, the rest from Postgres; what neither gives is left
/// out, for a board without titles is better than none.
async fn titles(settings: &Settings, ids: &[Uuid]) -> HashMap<Uuid, Title> {
    let mut titles = match query(settings) {
        Ok(query) => query.titles(ids).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "no titles from clickhouse");
            HashMap::new()
        }),
        Err(_) => HashMap::new(),
    };
    if ids.iter().any(|id| !titles.contains_key(id)) {
        match source_titles(settings, ids).await {
            Ok(found) => titles.extend(found),
            Err(error) => tracing::debug!(%error, "no titles from postgres"),
        }
    }
    titles
}

async fn source_titles(
    settings: &Settings,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Title)>, PostgresError> {
    let client = postgres::connect(&settings.postgres.url).await?;
    let sql = "SELECT id, title, content_type FROM public.content WHERE id = ANY ($1)";
    let rows = client.query(sql, &[&ids]).await?;
    rows.iter()
        .map(|row| {
            let title = Title {
                title: row.try_get(1)?,
                content_type: row.try_get(2)?,
            };
            Ok((row.try_get(0)?, title))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_below_the_limit_has_no_change() {
        let before = |all| Before {
            scores: HashMap::from([("a".to_owned(), 3)]),
            all,
        };
        assert_eq!(before(false).change("a", 5), Some(2));
        assert_eq!(before(false).change("b", 5), None);
        assert_eq!(before(true).change("b", 5), Some(5));
    }

    #[test]
    fn a_board_says_why_it_is_empty_or_not_to_be_relied_on() {
        let meta = |complete, as_of_us| {
            Some(Meta {
                as_of_us,
                seq: 1,
                complete,
                behind_ms: 0,
                window_seconds: 600,
            })
        };
        let ahead = 1_200_000_000;
        for (meta, has_worker, members, expected) in [
            (None, true, 0, Some(Remark::NeverPublished)),
            (meta(true, 0), false, 3, Some(Remark::NoWorker)),
            (meta(false, 0), true, 3, Some(Remark::Warming)),
            (meta(true, ahead), true, 3, Some(Remark::AheadOfClock)),
            (meta(true, 1_000_000), true, 3, None),
            (meta(true, 0), true, 0, Some(Remark::NoEvents)),
            (meta(true, 0), true, 3, None),
        ] {
            assert_eq!(remark(meta, 0, has_worker, members), expected);
        }
    }
}
