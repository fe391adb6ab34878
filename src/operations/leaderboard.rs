//! The board as it is published, with titles; and the events behind a score.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::status;
use crate::{
    config::{Score, project::Project},
    connections::{
        Connections,
        postgres::PostgresError,
        redis::{RedisError, RedisProblem},
    },
    failure::{Failure, Kind},
    runtime::status::{SinkState, SinkStatus},
    sink_kind::{ConsumerGroup, SinkKind},
    sinks::{
        clickhouse::{Query, Title},
        redis::{
            BoardKeys, BoardReader, Meta,
            ahead::{self, AheadError},
            eligible::{self, CountedEvent, Moment, Sum},
        },
    },
    spill::scratch::Scratch,
    time::clock::now_us,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Stable `snake_case` name.
    pub code: &'static str,
    pub text: String,
    /// What to type, or to change.
    pub hint: Option<String>,
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
    #[error("cannot read the board from redis")]
    Redis(#[from] RedisError),
    #[error("cannot read the events from postgres")]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    Ahead(#[from] AheadError),
    #[error("the board has never been published, so there is nothing to explain")]
    NeverPublished,
}

impl Failure for LeaderboardError {
    fn kind(&self) -> Kind {
        match self {
            Self::Redis(_) | Self::Postgres(_) => Kind::Environment,
            Self::Ahead(error) => error.kind(),
            Self::NeverPublished => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Postgres(_) => "postgres",
            Self::Ahead(error) => error.code(),
            Self::NeverPublished => "board_never_published",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Ahead(error) => return error.hint(),
            Self::NeverPublished => "fanout run",
            _ => "fanout status",
        };
        Some(hint.to_owned())
    }
}

impl Remark {
    fn new(code: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            hint: Some(hint.into()),
        }
    }

    fn warming() -> Self {
        let text = "the board is still being rebuilt";
        Self::new("warming", text, "fanout status")
    }

    fn ahead_of_clock() -> Self {
        let text =
            "it is ahead of this machine's clock: the worker's clock differs, or was set back";
        Self::new("ahead_of_clock", text, "fanout status")
    }

    fn no_events() -> Self {
        Self::new("no_events", "no event in the window", "fanout seed")
    }

    /// Nobody could write to this Redis.
    fn of_store(problem: RedisProblem) -> Option<Self> {
        let (code, text, hint) = match problem {
            RedisProblem::ReadOnly => (
                "read_only",
                "redis is a read-only replica, so no worker can publish to it",
                "set redis.url or FANOUT_REDIS_URL to the primary",
            ),
            RedisProblem::OutOfMemory => (
                "out_of_memory",
                "redis has reached its maxmemory, so no worker can publish to it",
                "redis-cli -u \"$FANOUT_REDIS_URL\" config set maxmemory <bytes>",
            ),
            RedisProblem::NotSaving => (
                "not_saving",
                "redis cannot save its data to disk, and may refuse writes for it",
                "fanout logs redis",
            ),
            _ => return None,
        };
        Some(Self::new(code, text, hint))
    }

    /// What the pipeline says of its own board.
    fn of_pipeline(sink: &SinkStatus) -> Option<Self> {
        if let Some(halt) = &sink.halt {
            let text = format!("the board's worker has halted: {}", halt.reason);
            return Some(Self::new("halted", text, halt.remedy.clone()));
        }
        let detail = sink.detail.clone().unwrap_or_default();
        (sink.state == SinkState::Retrying).then(|| {
            let text = format!("the board's worker is retrying: {detail}");
            Self::new("retrying", text, "fanout status")
        })
    }

    /// Nobody publishes, for no reason that is known.
    fn unpublished(ever: bool) -> Self {
        if ever {
            let text = "no worker is publishing; the board is stale";
            Self::new("no_worker", text, "fanout run")
        } else {
            let text = "no pipeline has published it within the last window";
            Self::new("never_published", text, "fanout run")
        }
    }
}

/// Looks at the board again and again.
#[derive(Debug)]
pub struct Watch {
    project: Project,
    connections: Connections,
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
    pub async fn start(
        project: &Project,
        connections: &Connections,
    ) -> Result<Self, LeaderboardError> {
        Ok(Self {
            project: project.clone(),
            reader: reader(connections).await?,
            connections: connections.clone(),
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
            let found = titles(&self.connections, &unknown).await;
            let named = found.into_iter().map(|(id, title)| (id.to_string(), title));
            self.titles.extend(named);
        }
        // What has left the board is looked up again when it comes back.
        let shown: HashSet<&String> = view.members.iter().map(|(member, _)| member).collect();
        self.titles.retain(|member, _| shown.contains(member));
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
            score: self.connections.settings().board.score,
            age_ms: view
                .meta
                .map(|meta| (now_us - meta.as_of_us).max(0) / 1_000),
            has_worker,
            remark: match standing(view.meta, now_us, has_worker, view.cardinality) {
                Standing::Good => None,
                Standing::Warming => Some(Remark::warming()),
                Standing::AheadOfClock => Some(Remark::ahead_of_clock()),
                Standing::NoEvents => Some(Remark::no_events()),
                Standing::Unpublished { ever } => Some(self.why_unpublished(ever).await),
            },
        };
        self.before = Some(Before {
            all: view.members.len() as u64 == view.cardinality,
            scores: view.members.into_iter().collect(),
        });
        Ok(board)
    }

    /// Why nobody publishes: the store and the pipeline know best.
    async fn why_unpublished(&mut self, ever: bool) -> Remark {
        let problem = self.reader.write_problem().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "redis says nothing of itself");
            None
        });
        if let Some(remark) = problem.and_then(Remark::of_store) {
            return remark;
        }
        let pipeline = &self.connections.pipeline;
        let pipeline = status::own_pipeline(pipeline, self.project.as_str()).await;
        let sinks = pipeline.map(|pipeline| pipeline.sinks).unwrap_or_default();
        let name = ConsumerGroup::Board.name();
        let board = sinks.iter().find(|sink| sink.name == name);
        board
            .and_then(Remark::of_pipeline)
            .unwrap_or_else(|| Remark::unpublished(ever))
    }
}

/// How the board stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// Nobody publishes it now, or nobody ever has within its window.
    Unpublished {
        ever: bool,
    },
    Warming,
    /// It is of a moment that is yet to come.
    AheadOfClock,
    NoEvents,
}

/// The gravest first.
fn standing(meta: Option<Meta>, now_us: i64, has_worker: bool, members: u64) -> Standing {
    match meta {
        None => Standing::Unpublished { ever: false },
        Some(_) if !has_worker => Standing::Unpublished { ever: true },
        Some(meta) if !meta.complete => Standing::Warming,
        Some(meta) if meta.is_ahead_of(now_us) => Standing::AheadOfClock,
        Some(_) if members == 0 => Standing::NoEvents,
        Some(_) => Standing::Good,
    }
}

/// The events in Postgres that make a content's score at the board's moment.
///
/// # Errors
/// When a server does not answer or there is no board.
pub async fn explain(
    connections: &Connections,
    scratch: &Scratch,
    content_id: Uuid,
) -> Result<Explanation, LeaderboardError> {
    let settings = connections.settings();
    let mut board = reader(connections).await?;
    let view = board.read(Some(0)).await?;
    let meta = view.meta.ok_or(LeaderboardError::NeverPublished)?;
    let moment = Moment {
        as_of_us: meta.as_of_us,
        window_seconds: meta.window_seconds,
    };
    let client = connections.postgres.connect().await?;
    // Of what no record is known, the record is most likely still under way.
    let ahead = ahead::ahead(connections, scratch, &client, moment, Some(content_id)).await?;
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

async fn reader(connections: &Connections) -> Result<BoardReader, RedisError> {
    let keys = BoardKeys::new(&connections.settings().board.key);
    connections.redis.board(keys, TIMEOUT).await
}

/// ClickHouse, where it is a sink.
fn query(connections: &Connections) -> Option<Query> {
    let sinks = &connections.settings().pipeline.sinks;
    if !sinks.contains(&SinkKind::ClickHouse) {
        return None;
    }
    connections.clickhouse.query().ok()
}

/// Titles from ClickHouse, the rest from Postgres; what neither gives is left
/// out, for a board without titles is better than none.
async fn titles(connections: &Connections, ids: &[Uuid]) -> HashMap<Uuid, Title> {
    let mut titles = match query(connections) {
        Some(query) => query.titles(ids).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "no titles from clickhouse");
            HashMap::new()
        }),
        None => HashMap::new(),
    };
    if ids.iter().any(|id| !titles.contains_key(id)) {
        match source_titles(connections, ids).await {
            Ok(found) => titles.extend(found),
            Err(error) => tracing::debug!(%error, "no titles from postgres"),
        }
    }
    titles
}

async fn source_titles(
    connections: &Connections,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, Title)>, PostgresError> {
    let client = connections.postgres.connect().await?;
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
            (None, true, 0, Standing::Unpublished { ever: false }),
            (
                meta(true, 0),
                false,
                3,
                Standing::Unpublished { ever: true },
            ),
            (meta(false, 0), true, 3, Standing::Warming),
            (meta(true, ahead), true, 3, Standing::AheadOfClock),
            (meta(true, 1_000_000), true, 3, Standing::Good),
            (meta(true, 0), true, 0, Standing::NoEvents),
            (meta(true, 0), true, 3, Standing::Good),
        ] {
            assert_eq!(standing(meta, 0, has_worker, members), expected);
        }
    }

    #[test]
    fn a_store_that_takes_no_writes_is_not_a_missing_worker() {
        let code = |problem| Remark::of_store(problem).map(|remark| remark.code);
        assert_eq!(code(RedisProblem::ReadOnly), Some("read_only"));
        assert_eq!(code(RedisProblem::OutOfMemory), Some("out_of_memory"));
        assert_eq!(code(RedisProblem::Other), None);
    }
}
