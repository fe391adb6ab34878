//! Decides at which offset to resume a partition of the events or the content topic.
//!
//! The log must still have the next offset: if that was deleted, records were missed,
//! and resuming would hide it. An untrusted offset is ignored: the partition is reread
//! from the start of the incarnation, which is idempotent. The sink is degraded until it
//! reaches the end offset that the log had at that time.

use super::{
    classify::kafka,
    generations::{Metadata, Reread, TopicIncarnation},
};
use crate::{
    kafka::{Bounds, Log, of_partition},
    runtime::{Break, Committed, Fault, Halt, RECONCILE, Reading},
};

/// Current bounds of a partition, from which its start offset is resolved.
pub(super) struct PartitionBounds<'a> {
    reading: Reading<'a>,
}

/// Start offset of a partition, and the commit that it was derived from.
#[derive(Debug)]
pub(super) struct Start {
    pub next: i64,
    /// Metadata of the commit that reading resumes from.
    pub metadata: Option<Metadata>,
    pub reread: Option<ActiveReread>,
}

/// A reread in progress, and the degraded state to report.
#[derive(Debug)]
pub(super) struct ActiveReread {
    reread: Reread,
    degraded: Halt,
}

impl ActiveReread {
    pub(super) fn reread(&self) -> Reread {
        self.reread
    }

    /// Returns true if the reread is complete once all records before `next` are
    /// committed.
    pub(super) fn is_complete(&self, next: i64) -> bool {
        !self.reread.is_ahead_of(next)
    }

    pub(super) fn degraded(&self) -> Halt {
        self.degraded.clone()
    }
}

impl<'a> PartitionBounds<'a> {
    /// Fetches the start and end offsets of the partition.
    pub(super) async fn fetch(
        log: &Log,
        group: &'a str,
        topic: &'a str,
        partition: i32,
    ) -> Result<Self, Fault> {
        let bounds = log.bounds(topic).await.map_err(kafka)?;
        let bounds = of_partition(&bounds, partition).copied();
        Ok(Self {
            reading: Reading {
                group,
                topic,
                partition,
                bounds: bounds.unwrap_or(Bounds { start: 0, end: 0 }),
            },
        })
    }

    /// Resolves the start offset in this incarnation of the topic. Commits of other
    /// incarnations are ignored.
    pub(super) fn resolve_start(
        &self,
        committed: Committed<'_>,
        incarnation: &TopicIncarnation,
        content_generation: u16,
    ) -> Result<Start, Fault> {
        let commit = Metadata::from_commit(committed, content_generation);
        let (mut offset, metadata) = commit.unzip();
        if let Committed::Same { offset: same } = committed {
            // The metadata with the enrichment position is missing: every row is
            // checked again.
            offset = Some(same);
        }
        let start = incarnation.start(self.reading.partition);
        let next = offset.unwrap_or(0).max(start);
        let next = self.reading.check(next);
        let next = next.map_err(|problem| Fault::Halt(self.halt(problem)))?;
        let unfinished = metadata.as_ref().and_then(Metadata::reread);
        let unfinished = unfinished.filter(|reread| reread.is_ahead_of(next));
        let end = self.reading.bounds.end;
        let reread = unfinished.or_else(|| Reread::required(committed, next, end));
        Ok(Start {
            next,
            metadata,
            reread: reread.map(|reread| ActiveReread {
                reread,
                degraded: reread.degraded(self.reading),
            }),
        })
    }

    fn halt(&self, problem: Break) -> Halt {
        self.reading
            .halt(problem, "rows may be missing or out of date", RECONCILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(start: i64, end: i64) -> PartitionBounds<'static> {
        PartitionBounds {
            reading: Reading {
                group: "fanout-clickhouse",
                topic: "t",
                partition: 0,
                bounds: Bounds { start, end },
            },
        }
    }

    /// Returns the start offset and the end of the reread, or the code of the halt.
    fn resolve(
        log: (i64, i64),
        incarnation_start: i64,
        committed: Committed<'_>,
    ) -> Result<(i64, Option<i64>), String> {
        let incarnation = TopicIncarnation::starting_at(vec![incarnation_start]);
        match bounds(log.0, log.1).resolve_start(committed, &incarnation, 2) {
            Ok(start) => Ok((start.next, start.reread.map(|active| active.reread.until))),
            Err(Fault::Halt(halt)) => Err(halt.code),
            Err(fault) => panic!("{fault:?}"),
        }
    }

    #[test]
    fn the_start_offset_depends_on_the_commit_and_the_log() {
        let current = Metadata::new(2, 5, vec![7], None).text();
        let previous = Metadata::new(1, 5, vec![7], None).text();
        let commit = |metadata| Committed::of(Some((5, metadata)), None);
        for (log, incarnation_start, committed, expected) in [
            ((0, 9), 0, commit(current.as_str()), Ok((5, None))),
            ((0, 9), 7, commit(current.as_str()), Ok((7, None))),
            ((0, 9), 3, commit(previous.as_str()), Ok((3, None))),
            ((0, 9), 3, commit(""), Ok((3, Some(9)))),
            ((0, 9), 3, Committed::Same { offset: 5 }, Ok((5, None))),
            ((0, 9), 0, Committed::Lost, Ok((0, Some(9)))),
            ((0, 9), 0, Committed::Never, Ok((0, None))),
            ((2, 9), 3, Committed::Never, Ok((3, None))),
            ((6, 9), 0, commit(current.as_str()), Err("retention_passed")),
            ((1, 9), 0, Committed::Never, Err("retention_passed")),
            ((1, 9), 0, Committed::Lost, Err("retention_passed")),
            ((4, 9), 3, commit(""), Err("retention_passed")),
            ((0, 4), 0, commit(current.as_str()), Err("log_shortened")),
        ] {
            let start = resolve(log, incarnation_start, committed);
            let expected = expected.map_err(str::to_owned);
            assert_eq!(start, expected, "{committed:?} {log:?} {incarnation_start}");
        }
    }

    #[test]
    fn a_new_owner_continues_the_reread() {
        let reread = Reread {
            until: 9,
            moved: None,
        };
        let text = Metadata::new(2, 5, vec![7], Some(reread)).text();
        let committed = Committed::of(Some((5, &text)), None);
        assert_eq!(resolve((0, 20), 0, committed), Ok((5, Some(9))));
    }
}
