//! The board's worker: holds the lease, rebuilds the window from the log, then
//! follows it and publishes. Others that run it at the same time stand by.
//!
//! A [`term`] is one rebuild and the following after it.

mod start;
mod term;
mod track;

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use self::term::Term;
use super::{
    Shared,
    feed::ticks,
    shape::ShapeGuard,
    stats::{Phase, SinkStats, WHOLE_SINK},
};
use crate::{
    clients::kafka::{KafkaError, Log},
    clock::now_us,
    config::{self, Settings},
    crash,
    sink_kind::ConsumerGroup,
    sinks::{
        Fault, Notes,
        board::{Board, BoardDecoder},
    },
};

/// A worker that stands by looks again this often.
const STANDBY_INTERVAL: Duration = Duration::from_millis(1000);

/// How often a worker looks whether the source still lets it go on.
const HOLD_INTERVAL: Duration = Duration::from_millis(500);

/// The worker.
pub(super) struct BoardWorker {
    context: Context,
    board: Board,
}

/// What a term reads, and tells, with.
struct Context {
    shared: Shared,
    settings: config::Board,
    log: Log,
    notes: Notes,
    /// What was noted of it by releases before the state topic.
    mended: Log,
    stats: Arc<SinkStats>,
    guard: ShapeGuard,
    decoder: BoardDecoder,
}

/// Why a term as the board's holder ended.
enum TermEnd {
    Stopped,
    LeaseLost,
    /// The log has to be read again: a truncate was met, in the light of which
    /// it reads otherwise; the topic is another; or the clock was set back.
    ReadAgain,
    /// The source has a shape that cannot be followed.
    Held,
    Trouble(Fault),
}

/// A term that has ended.
struct Ended {
    how: TermEnd,
    /// It had come so far that it published.
    was_warm: bool,
}

impl From<TermEnd> for Ended {
    /// Before it had begun.
    fn from(how: TermEnd) -> Self {
        Self {
            how,
            was_warm: false,
        }
    }
}

impl BoardWorker {
    pub(super) fn new(
        shared: Shared,
        settings: &Settings,
        log: Log,
        mended: Log,
        stats: Arc<SinkStats>,
    ) -> Result<Self, String> {
        let board = Board::new(&settings.board, &settings.redis);
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
    pub(super) async fn run(mut self) {
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

impl Context {
    fn endure(&self, fault: Fault, attempt: u32) -> Duration {
        let patience = self.shared.patience;
        patience.endure(&self.stats, WHOLE_SINK, fault, attempt)
    }

    /// How often the lease is renewed where no publication does it.
    fn renewal(&self) -> Duration {
        Duration::from_millis(self.settings.lease_ms) / 3
    }
}

/// The lease is held, or the term ends.
fn held(outcome: Result<bool, Fault>) -> Result<(), TermEnd> {
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(TermEnd::LeaseLost),
        Err(fault) => Err(TermEnd::Trouble(fault)),
    }
}

fn kafka(error: KafkaError) -> Fault {
    Fault::retry(format!("kafka: {error}"))
}
