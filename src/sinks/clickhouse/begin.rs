//! Where a partition of either topic is read on. The log has to begin where the
//! table ends: what was deleted between the two is gone, and reading on would
//! hide that. A position that cannot be trusted is not used: the log is read
//! again from the start of its life, which changes nothing that is right, and
//! says so until it has come to where the log ended.

use super::{
    classify::kafka,
    generations::{Again, Life, Metadata},
};
use crate::{
    kafka::{Bounds, Log},
    runtime::{Break, Committed, Fault, Halt, RECONCILE, Reading},
};

/// A partition as it is now.
pub(super) struct Begin<'a> {
    reading: Reading<'a>,
}

/// Where to begin.
#[derive(Debug)]
pub(super) struct Begun {
    pub next: i64,
    /// What the commit said that this goes on from.
    pub known: Option<Metadata>,
    pub again: Option<Rereading>,
}

/// A reading again, with what an operator is told of it.
#[derive(Debug)]
pub(super) struct Rereading {
    again: Again,
    degradation: Halt,
}

impl Rereading {
    pub(super) fn again(&self) -> Again {
        self.again
    }

    /// Whether it is over once everything before `next` is committed.
    pub(super) fn is_over(&self, next: i64) -> bool {
        !self.again.is_ahead_of(next)
    }

    pub(super) fn degradation(&self) -> Halt {
        self.degradation.clone()
    }
}

impl<'a> Begin<'a> {
    /// Asks where the partition begins and ends.
    pub(super) async fn find(
        log: &Log,
        group: &'a str,
        topic: &'a str,
        partition: i32,
    ) -> Result<Self, Fault> {
        let bounds = log.bounds(topic).await.map_err(kafka)?;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let bounds = bounds.get(place).copied();
        Ok(Self {
            reading: Reading {
                group,
                topic,
                partition,
                bounds: bounds.unwrap_or(Bounds { start: 0, end: 0 }),
            },
        })
    }

    /// Where to read on in this life of the topic. What was committed under
    /// other lives says nothing of this one.
    pub(super) fn judge(
        &self,
        committed: Committed<'_>,
        life: &Life,
        content_generation: u16,
    ) -> Result<Begun, Fault> {
        let (mut offset, known) = Metadata::of(committed, content_generation).unzip();
        if let Committed::Same { offset: same } = committed {
            // How far its rows are enriched was in the metadata: all is owed.
            offset = Some(same);
        }
        let start = life.start(self.reading.partition);
        let next = offset.unwrap_or(0).max(start);
        let next = self.reading.check(next);
        let next = next.map_err(|broken| Fault::Halt(self.halt(broken)))?;
        let kept = known.as_ref().and_then(Metadata::again);
        let again = kept.filter(|again| again.is_ahead_of(next));
        let again = again.or_else(|| Again::of(committed, next, self.reading.bounds.end));
        Ok(Begun {
            next,
            known,
            again: again.map(|again| Rereading {
                again,
                degradation: again.halt(self.reading),
            }),
        })
    }

    fn halt(&self, broken: Break) -> Halt {
        self.reading
            .halt(broken, "rows may be missing or out of date", RECONCILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(start: i64, end: i64) -> Begin<'static> {
        Begin {
            reading: Reading {
                group: "fanout-clickhouse",
                topic: "t",
                partition: 0,
                bounds: Bounds { start, end },
            },
        }
    }

    /// Where it begins, and up to where it reads again; or the halt's code.
    fn judged(
        log: (i64, i64),
        life_start: i64,
        committed: Committed<'_>,
    ) -> Result<(i64, Option<i64>), String> {
        let life = Life::starting_at(vec![life_start]);
        match begin(log.0, log.1).judge(committed, &life, 2) {
            Ok(begun) => Ok((begun.next, begun.again.map(|it| it.again.until))),
            Err(Fault::Halt(halt)) => Err(halt.code),
            Err(fault) => panic!("{fault:?}"),
        }
    }

    #[test]
    fn a_position_that_is_not_trusted_has_the_life_read_again() {
        let own = Metadata::new(2, 5, vec![7], None).text();
        let earlier = Metadata::new(1, 5, vec![7], None).text();
        let of = |metadata| Committed::of(Some((5, metadata)), None);
        for (log, life_start, committed, expected) in [
            ((0, 9), 0, of(own.as_str()), Ok((5, None))),
            ((0, 9), 7, of(own.as_str()), Ok((7, None))),
            ((0, 9), 3, of(earlier.as_str()), Ok((3, None))),
            ((0, 9), 3, of(""), Ok((3, Some(9)))),
            ((0, 9), 3, Committed::Same { offset: 5 }, Ok((5, None))),
            ((0, 9), 0, Committed::Lost, Ok((0, Some(9)))),
            ((0, 9), 0, Committed::Never, Ok((0, None))),
            ((2, 9), 3, Committed::Never, Ok((3, None))),
            ((6, 9), 0, of(own.as_str()), Err("retention_passed")),
            ((1, 9), 0, Committed::Never, Err("retention_passed")),
            ((1, 9), 0, Committed::Lost, Err("retention_passed")),
            ((4, 9), 3, of(""), Err("retention_passed")),
            ((0, 4), 0, of(own.as_str()), Err("log_shortened")),
        ] {
            let found = judged(log, life_start, committed);
            let expected = expected.map_err(str::to_owned);
            assert_eq!(found, expected, "{committed:?} {log:?} {life_start}");
        }
    }

    #[test]
    fn whoever_takes_over_goes_on_reading_again() {
        let again = Again {
            until: 9,
            moved: None,
        };
        let text = Metadata::new(2, 5, vec![7], Some(again)).text();
        let own = Committed::of(Some((5, &text)), None);
        assert_eq!(judged((0, 20), 0, own), Ok((5, Some(9))));
    }
}
