//! The board's worker: holds the lease, rebuilds the window from the log, then
//! follows it and publishes. Others that run it at the same time stand by.
//!
//! A [`session`] is one rebuild and the following after it.

mod context;
mod progress;
mod session;
mod start;

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use self::{
    context::{Context, Ended, HOLD_INTERVAL, TermEnd, held},
    session::Term,
};
use super::sink::{Board, BoardDecoder};
use crate::{
    connections::Connections,
    crash,
    kafka::Log,
    runtime::{
        retry::ticks,
        shape::ShapeGuard,
        shared::Shared,
        stats::{Phase, SinkStats, WHOLE_SINK},
    },
    sink_kind::ConsumerGroup,
    time::clock::now_us,
};

/// A worker that stands by looks again this often.
const STANDBY_INTERVAL: Duration = Duration::from_millis(1000);

/// The worker.
pub(crate) struct BoardWorker {
    context: Context,
    board: Board,
}

impl BoardWorker {
    pub(crate) fn new(
        shared: Shared,
        connections: &Connections,
        log: Log,
        mended: Log,
        stats: Arc<SinkStats>,
    ) -> Result<Self, String> {
        let settings = connections.settings();
        let timeout = Duration::from_millis(settings.redis.request_timeout_ms);
        let board = Board::new(&settings.board, &connections.redis, timeout);
        Ok(Self {
            board: board.map_err(|error| error.to_string())?,
            context: Context {
                decoder: BoardDecoder::new(shared.source.facts.clone(), settings.board.score),
                guard: ShapeGuard::new(ConsumerGroup::Board, &shared),
                settings: settings.board.clone(),
                notes: shared.notes(ConsumerGroup::Board),
                shared,
                log,
                mended,
                stats,
            },
        })
    }

    /// Runs until told to stop.
    pub(crate) async fn run(mut self) {
        let stop = self.context.shared.stop.clone();
        let mut attempt = 0;
        while !stop.is_cancelled() {
            if self.context.stats.is_held_by_source() {
                tokio::select! {
                    () = sleep(HOLD_INTERVAL) => continue,
                    () = stop.cancelled() => break,
                }
            }
            let wait = match self.board.take_lease().await {
                Ok(true) => {
                    crash::point("redis", "leased");
                    let ended = self.term().await;
                    if ended.was_warm {
                        attempt = 0;
                    }
                    match ended.how {
                        TermEnd::Stopped => break,
                        TermEnd::LeaseLost | TermEnd::ReadAgain => Duration::ZERO,
                        TermEnd::Held => {
                            self.board.release_lease().await;
                            Duration::ZERO
                        }
                        TermEnd::Trouble(fault) => {
                            self.board.release_lease().await;
                            self.context.endure(fault, attempt)
                        }
                    }
                }
                Ok(false) => {
                    self.context.stats.recovered(WHOLE_SINK);
                    self.context.stats.set_phase(Phase::Standby);
                    attempt = 0;
                    STANDBY_INTERVAL
                }
                Err(fault) => self.context.endure(fault, attempt),
            };
            attempt += 1;
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
        self.board.release_lease().await;
    }

    /// One term as the board's holder. The lease is kept while the log is
    /// asked where to begin.
    async fn term(&mut self) -> Ended {
        let Self { context, board } = self;
        context.stats.set_phase(Phase::Starting(
            "rebuilding the board from the log".to_owned(),
        ));
        board.restart(now_us());
        let begun = {
            let begin = Term::begin(context);
            tokio::pin!(begin);
            let mut renew = ticks(context.renewal());
            loop {
                tokio::select! {
                    begun = &mut begin => break begun,
                    _ = renew.tick() => if let Err(end) = held(board.renew_lease().await) {
                        return end.into();
                    },
                    () = context.shared.stop.cancelled() => return TermEnd::Stopped.into(),
                }
            }
        };
        match begun {
            Ok(term) => term.run(context, board).await,
            Err(fault) => TermEnd::Trouble(fault).into(),
        }
    }
}
