//! Stretches of the log through a sink once more, beside the live pipeline and
//! by an assignment of their own: nothing is committed, and what is written
//! carries the positions it had the first time, so that repeating is harmless.

mod run;

use std::{collections::BTreeMap, future::Future, io, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::run::{Kepts, Parts, run};
use super::PipelineError;
use crate::{
    clients::kafka::KafkaError,
    config::Settings,
    failure::{Failure, Kind},
    sinks::Halt,
};

/// How long the broker may have nothing to give before the end is reached.
const SILENCE: Duration = Duration::from_secs(30);

/// One partition's part of a replay. Plain data that outlives a run: whoever
/// goes on with a replay hands back what it was last told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub partition: i32,
    pub from: i64,
    /// One past the last offset.
    pub until: i64,
    /// Everything before this is stored.
    pub next: i64,
    /// How far what is stored was enriched when the part was begun.
    pub metadata: Option<String>,
    /// All of it is stored, and nothing is owed.
    pub done: bool,
}

impl Part {
    /// A part that has not begun.
    #[must_use]
    pub fn new(partition: i32, from: i64, until: i64) -> Self {
        Self {
            partition,
            from,
            until,
            next: from,
            metadata: None,
            done: from >= until,
        }
    }

    /// Offsets in it: at least as many as there are records.
    #[must_use]
    pub fn len(&self) -> u64 {
        u64::try_from(self.until - self.from).unwrap_or(0)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of those, how many are behind it.
    #[must_use]
    pub fn passed(&self) -> u64 {
        u64::try_from(self.next.min(self.until) - self.from).unwrap_or(0)
    }
}

/// What a replay has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub applied: u64,
    /// By reason.
    pub ignored: BTreeMap<String, u64>,
    /// By code.
    pub rejected: BTreeMap<String, u64>,
}

/// Through what the records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// The enriched rows.
    ClickHouse,
    /// The copy of the catalogue.
    Content,
    Http {
        /// Also tell of rows that only a snapshot has shown.
        include_snapshots: bool,
    },
}

/// Why a replay ends early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error("the log cannot be read")]
    Kafka(#[from] KafkaError),
    #[error(
        "offset {next} of partition {partition} was deleted from the log before it was replayed"
    )]
    Gone { partition: i32, next: i64 },
    #[error("the log says nothing for {}s", SILENCE.as_secs())]
    Silent,
    #[error("{}", .0.reason)]
    Halted(Halt),
    #[error("given up after {}s of trying: {reason}", waited.as_secs())]
    Refused { reason: String, waited: Duration },
    #[error("cannot keep the progress")]
    Progress(#[source] io::Error),
    #[error("cannot use temporary files")]
    Disk(#[source] io::Error),
    #[error("stopped; run it again, and it goes on")]
    Stopped,
}

impl Failure for ReplayError {
    fn kind(&self) -> Kind {
        match self {
            Self::Pipeline(error) => error.kind(),
            Self::Kafka(_) | Self::Progress(_) | Self::Disk(_) => Kind::Environment,
            Self::Halted(_) | Self::Gone { .. } => Kind::Failed,
            Self::Silent | Self::Refused { .. } => Kind::NotReady,
            Self::Stopped => Kind::Interrupted(2),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Pipeline(error) => error.code(),
            Self::Kafka(_) => "kafka",
            Self::Gone { .. } => "log_gone",
            Self::Silent => "log_silent",
            Self::Halted(_) => "sink_halted",
            Self::Refused { .. } => "sink_refuses",
            Self::Progress(_) => "state_unreachable",
            Self::Disk(_) => "temporary_files",
            Self::Stopped => "stopped",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Pipeline(error) => error.hint(),
            Self::Halted(halt) => Some(halt.remedy.clone()),
            Self::Kafka(_) | Self::Silent | Self::Refused { .. } => {
                Some("fanout status".to_owned())
            }
            Self::Gone { .. } => Some("run it again: it begins anew".to_owned()),
            Self::Disk(_) => Some("free space in that folder, then run it again".to_owned()),
            Self::Progress(_) | Self::Stopped => None,
        }
    }
}

/// Told after each batch, and when a part is done.
pub trait Watch: Send + Sync {
    /// What has been stored of a part. An error ends the replay.
    fn advanced(&mut self, part: &Part, tally: &Tally) -> io::Result<()>;

    /// Whether a record is among the dead letters already.
    ///
    /// # Errors
    /// When the disk cannot be read.
    fn is_dead_lettered(&self, partition: i32, offset: i64) -> io::Result<bool>;
}

/// What bounds a replay besides its parts.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// How long a sink may refuse without a success.
    pub patience: Duration,
    pub stop: CancellationToken,
}

/// Replays the parts that are not done, one after the other.
///
/// # Errors
/// When the sink halts or refuses for too long, or the log cannot be read.
/// What was stored by then has been told to `watch`.
pub async fn replay(
    settings: &Settings,
    through: Through,
    parts: &mut [Part],
    bounds: &Bounds,
    watch: &mut dyn Watch,
) -> Result<Tally, ReplayError> {
    run(settings, through, Parts(parts, watch), bounds).await
}

/// A record by its bytes and its place, wherever it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What whoever kept it knows it by.
    pub id: (i32, i64),
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Where kept records come from, a batch that fits into memory at a time.
pub trait Batches: Send {
    /// The next batch, in any order; none at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<Kept>>, ReplayError>> + Send;

    /// The sink still rejects the record that is known by this.
    fn rejected(&mut self, id: (i32, i64));
}

/// Applies records at the places they had. Returns what became of them.
///
/// # Errors
/// When the sink halts or refuses for too long, or the records cannot be read.
pub async fn apply(
    settings: &Settings,
    through: Through,
    batches: &mut impl Batches,
    bounds: &Bounds,
) -> Result<Tally, ReplayError> {
    run(settings, through, Kepts(batches), bounds).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_part_is_done_before_it_begins() {
        assert!(Part::new(0, 7, 7).done);
        let mut part = Part::new(0, 3, 10);
        assert_eq!((part.done, part.len(), part.passed()), (false, 7, 0));
        // A position past the end is that of a transaction's marker.
        part.next = 12;
        assert_eq!(part.passed(), 7);
    }

    #[test]
    fn what_a_part_is_kept_as_stays_the_same_for_ever() {
        let part = Part::new(1, 2, 9);
        let text = serde_json::to_string(&part).expect("plain data");
        assert_eq!(
            text,
            r#"{"partition":1,"from":2,"until":9,"next":2,"metadata":null,"done":false}"#
        );
    }
}
