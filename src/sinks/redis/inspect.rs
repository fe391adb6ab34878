//! The contents of Redis for an operator: the members of the board, and whether
//! anything can be published to it.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::{client::BoardReader, publish::BoardKeys};
use crate::{
    config::Settings,
    connections::{Connections, redis::RedisProblem},
    sinks::inspect::{Arrival, BoardView, Inspect, InspectError, Item, MarkedEvent},
};

/// Reads the board.
#[derive(Debug)]
pub(crate) struct BoardInspector {
    reader: BoardReader,
    /// Sequence number of the latest publication returned.
    seq: Option<u64>,
}

impl BoardInspector {
    /// Returns the score of one piece of content, or `None` if it is not on the
    /// board.
    pub(crate) async fn score(&self, content_id: Uuid) -> Result<Option<i64>, InspectError> {
        // The clone shares the connection.
        Ok(self.reader.clone().score(content_id).await?)
    }

    /// Returns why no worker can write to this Redis, as far as Redis reports it.
    pub(crate) async fn write_problem(&mut self) -> Result<Option<RedisProblem>, InspectError> {
        Ok(self.reader.write_problem().await?)
    }
}

impl Inspect for BoardInspector {
    fn equivalent(settings: &Settings, count: usize) -> String {
        let (key, last) = (&settings.board.key, count.saturating_sub(1));
        format!("redis-cli -u \"$FANOUT_REDIS_URL\" ZREVRANGE {key} 0 {last} WITHSCORES")
    }

    async fn connect(
        connections: &Connections,
        timeout: Option<Duration>,
    ) -> Result<Self, InspectError> {
        let settings = connections.settings();
        let own_timeout = Duration::from_millis(settings.redis.request_timeout_ms);
        let keys = BoardKeys::new(&settings.board.key);
        let timeout = timeout.unwrap_or(own_timeout);
        Ok(Self {
            reader: connections.redis.board(keys, timeout).await?,
            seq: None,
        })
    }

    async fn latest(&mut self, count: usize) -> Result<Vec<Item>, InspectError> {
        let view = self.reader.read(Some(count)).await?;
        let seq = view.meta.map(|meta| meta.seq);
        if self.seq.is_some() && self.seq == seq {
            return Ok(Vec::new());
        }
        self.seq = seq;
        let item = |(member, score): (String, i64)| Item {
            head: score.to_string(),
            document: json!({ "member": member, "score": score }),
            body: member,
        };
        Ok(view.members.into_iter().map(item).collect())
    }

    async fn find(&self, event: &MarkedEvent) -> Result<Arrival, InspectError> {
        let expected = event.score;
        Ok(match self.score(event.content_id).await? {
            Some(score) if score == expected => Arrival::Arrived(format!("score {score}")),
            Some(score) => Arrival::NotYet(format!("score {score}, not {expected}")),
            None => Arrival::NotYet("not on the board".to_owned()),
        })
    }

    async fn top(&mut self, limit: usize) -> Result<BoardView, InspectError> {
        Ok(self.reader.read(Some(limit)).await?)
    }
}
