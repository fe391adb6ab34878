//! Errors of `fanout leaderboard`.

use crate::{
    connections::postgres::PostgresError,
    failure::{Failure, Kind},
    sinks::{inspect::InspectError, redis::ahead::AheadError},
};

/// Error of reading or explaining the board.
#[derive(Debug, thiserror::Error)]
pub enum LeaderboardError {
    #[error(transparent)]
    Board(#[from] InspectError),
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
            Self::Board(error) => error.kind(),
            Self::Postgres(_) => Kind::Environment,
            Self::Ahead(error) => error.kind(),
            Self::NeverPublished => Kind::NotReady,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Board(error) => error.code(),
            Self::Postgres(_) => "postgres",
            Self::Ahead(error) => error.code(),
            Self::NeverPublished => "board_never_published",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Board(error) => return error.hint(),
            Self::Postgres(_) => "fanout status",
            Self::Ahead(error) => return error.hint(),
            Self::NeverPublished => "fanout run",
        };
        Some(hint.to_owned())
    }
}
