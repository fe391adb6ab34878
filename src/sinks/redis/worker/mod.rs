//! The board's worker: acquires the lease, rebuilds the window from the log, then
//! follows the log and publishes. Workers without the lease stand by.
//!
//! A lease [`session`] is one rebuild and the publishing after it, under one
//! lease.

mod context;
mod progress;
mod session;
mod start;

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use self::{
    context::{Context, EndedSession, SOURCE_CHECK_INTERVAL, SessionEnd, require_lease},
    session::LeaseSession,
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

/// Interval at which a standby worker tries to acquire the lease.
const STANDBY_INTERVAL: Duration = Duration::from_millis(1000);

/// The board's worker.
pub(crate) struct BoardWorker {
    context: Context,
    board: Board,
}

impl BoardWorker {
    pub(crate) fn new(
        shared: Shared,
        connections: &Connections,
        log: Log,
        legacy_backfills: Log,
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
                legacy_backfills,
                stats,
            },
        })
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        let stop = self.context.shared.stop.clone();
        let mut attempt = 0;
        while !stop.is_cancelled() {
            if self.context.stats.is_held_by_source() {
                tokio::select! {
                    () = sleep(SOURCE_CHECK_INTERVAL) => continue,
                    () = stop.cancelled() => break,
                }
            }
            let wait = match self.board.acquire_lease().await {
                Ok(true) => {
                    crash::point("redis", "leased");
                    let session = self.run_session().await;
                    if session.was_warm {
                        attempt = 0;
                    }
                    match session.end {
                        SessionEnd::Stopped => break,
                        SessionEnd::LeaseLost | SessionEnd::RebuildRequired => Duration::ZERO,
                        SessionEnd::SourceHalted => {
                            self.board.release_lease().await;
                            Duration::ZERO
                        }
                        SessionEnd::Fault(fault) => {
                            self.board.release_lease().await;
                            self.context.report_fault(fault, attempt)
                        }
                    }
                }
                Ok(false) => {
                    self.context.stats.recovered(WHOLE_SINK);
                    self.context.stats.set_phase(Phase::Standby);
                    attempt = 0;
                    STANDBY_INTERVAL
                }
                Err(fault) => self.context.report_fault(fault, attempt),
            };
            attempt += 1;
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
        self.board.release_lease().await;
    }

    /// Runs one lease session. Renews the lease while the start of the session is
    /// searched in the log.
    async fn run_session(&mut self) -> EndedSession {
        let Self { context, board } = self;
        context.stats.set_phase(Phase::Starting(
            "rebuilding the board from the log".to_owned(),
        ));
        board.restart(now_us());
        let session = {
            let start = LeaseSession::start(context);
            tokio::pin!(start);
            let mut renew = ticks(context.renewal_interval());
            loop {
                tokio::select! {
                    session = &mut start => break session,
                    _ = renew.tick() => {
                        if let Err(end) = require_lease(board.renew_lease().await) {
                            return end.into();
                        }
                    }
                    () = context.shared.stop.cancelled() => return SessionEnd::Stopped.into(),
                }
            }
        };
        match session {
            Ok(session) => session.run(context, board).await,
            Err(fault) => SessionEnd::Fault(fault).into(),
        }
    }
}
