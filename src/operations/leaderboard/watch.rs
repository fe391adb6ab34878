//! The board with titles and changes, read repeatedly.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use uuid::Uuid;

use super::{
    TIMEOUT,
    error::LeaderboardError,
    remark::{Remark, Standing, standing},
    titles::titles,
};
use crate::{
    config::{Score, project::Project},
    connections::Connections,
    operations::status,
    sink_kind::ConsumerGroup,
    sinks::{
        inspect::{Inspect as _, Meta, Title},
        redis::inspect::BoardInspector,
    },
    time::clock::now_us,
};

/// The board at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Leaderboard {
    pub rows: Vec<Entry>,
    /// Number of members on the board, including those not in `rows`.
    pub members: u64,
    pub meta: Option<Meta>,
    pub score: Score,
    /// Age of the board in milliseconds; 0 if the worker's clock is ahead of this
    /// machine's.
    pub age_ms: Option<i64>,
    /// Whether a worker holds the lease of the board.
    pub has_worker: bool,
    /// Why the board is empty or not reliable.
    pub remark: Option<Remark>,
}

/// One row of the board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    pub rank: usize,
    pub content_id: String,
    pub title: Option<String>,
    pub content_type: Option<String>,
    pub score: i64,
    /// Change of the score since the previous read. `None` at the first read, or
    /// if the previous read did not include all members and lacked this one.
    pub change: Option<i64>,
}

/// Reads the board repeatedly.
#[derive(Debug)]
pub struct Watch {
    project: Project,
    connections: Connections,
    inspector: BoardInspector,
    titles: HashMap<String, Title>,
    before: Option<Before>,
}

/// The members at the previous read.
#[derive(Debug)]
struct Before {
    scores: HashMap<String, i64>,
    /// Whether these were all members. If not, a new member may have been below
    /// the limit.
    all: bool,
}

impl Before {
    /// Returns the change of a member's score, if known.
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
    /// If it does not respond.
    pub async fn start(
        project: &Project,
        connections: &Connections,
    ) -> Result<Self, LeaderboardError> {
        Ok(Self {
            project: project.clone(),
            inspector: BoardInspector::connect(connections, Some(TIMEOUT)).await?,
            connections: connections.clone(),
            titles: HashMap::new(),
            before: None,
        })
    }

    /// Returns the first `limit` members. Unavailable titles are left out.
    ///
    /// # Errors
    /// If Redis does not respond.
    pub async fn look(&mut self, limit: usize) -> Result<Leaderboard, LeaderboardError> {
        let view = self.inspector.top(limit).await?;
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
        // Titles of members that left the board are looked up again on return.
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

    /// Returns why no worker publishes the board, from Redis or else from the
    /// pipeline.
    async fn why_unpublished(&mut self, ever: bool) -> Remark {
        let problem = self.inspector.write_problem().await;
        let problem = problem.unwrap_or_else(|error| {
            tracing::debug!(error = %error.cause(), "redis says nothing of itself");
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
}
