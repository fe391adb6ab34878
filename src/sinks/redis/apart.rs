//! Events that dead letters set apart: which of their changes the board took,
//! only the log tells. Postgres has their latest, whether it was understood or
//! not, and ClickHouse rejects changes that the board takes. There may be many
//! of them, so their changes are sorted into heaps.

use std::{collections::HashMap, io};

use uuid::Uuid;

use super::{
    eligible::{Moment, Sum, Sums},
    sink::{BoardChange, BoardDecoder, Decoded},
};
use crate::{
    audit::{
        context::Context,
        error::VerifyError,
        ledger::{field, joined},
        letters::Letters,
    },
    kafka::Stretch,
    runtime::barrier::Fence,
    sink_kind::SinkKind,
    source::tables::reader_group,
    spill::{
        bucket::{Entry, Source, Spill, heaps_for},
        scratch::Scratch,
    },
    time::{
        clock::now_us,
        timestamp::{MICROS_PER_MILLI, MICROS_PER_SECOND},
    },
    window::BoardEvent,
};

/// The sinks whose dead letters set an event apart.
pub(super) fn sinks() -> Vec<SinkKind> {
    let sets_apart = |sink: &SinkKind| match sink {
        SinkKind::Redis => true,
        // Of the events that it rejected it does not know whether they are ahead.
        SinkKind::ClickHouse => true,
        SinkKind::Http => false,
    };
    SinkKind::ALL.into_iter().filter(sets_apart).collect()
}

/// The record of an event that may count is at most this much older than the
/// event, besides the skew: the clocks of broker and source.
const SLACK_US: i64 = 60 * MICROS_PER_SECOND;

/// A change that the board understands, of an event that is set apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    id: i64,
    /// None where the event is deleted.
    event: Option<BoardEvent>,
    record_time_us: i64,
    lsn: Option<i64>,
    before_fence: bool,
}

/// The changes as they are read.
#[derive(Debug)]
struct Reading {
    changes: Spill<Change>,
    truncated: Truncated,
}

/// The latest truncate, by its place in Postgres' log.
#[derive(Debug, Clone, Copy, Default)]
struct Truncated {
    at_fence: Option<i64>,
    at_end: Option<i64>,
}

impl Reading {
    fn new(scratch: &Scratch, heaps: usize) -> io::Result<Self> {
        Ok(Self {
            changes: Spill::new(scratch, heaps)?,
            truncated: Truncated::default(),
        })
    }

    fn take(
        &mut self,
        decoded: &Decoded,
        before_fence: bool,
        is_apart: impl Fn(i64) -> io::Result<bool>,
    ) -> io::Result<()> {
        match decoded.change {
            BoardChange::Event { id, event } if is_apart(id)? => self.changes.push(&Change {
                id,
                event,
                record_time_us: decoded.record_time_us,
                lsn: decoded.lsn,
                before_fence,
            }),
            BoardChange::Truncate => {
                let truncated = &mut self.truncated;
                truncated.at_end = truncated.at_end.max(decoded.lsn);
                if before_fence {
                    truncated.at_fence = truncated.at_fence.max(decoded.lsn);
                }
                Ok(())
            }
            BoardChange::Event { .. } | BoardChange::Ignored(_) | BoardChange::Rejected(_) => {
                Ok(())
            }
        }
    }

    /// What those that belong on the board come to at the fence, and at the end
    /// of the log.
    fn sums(self, moment: Moment, skew_us: i64) -> io::Result<(Sums, Sums)> {
        let (mut at_fence, mut at_end) = (Sums::default(), Sums::default());
        for heap in self.changes.heaps()? {
            let (mut fence, mut end) = (HashMap::new(), HashMap::new());
            for change in heap {
                let change = change?;
                // In the log's order: the last one stays.
                if change.before_fence {
                    fence.insert(change.id, change);
                }
                end.insert(change.id, change);
            }
            for (latest, truncated, sums) in [
                (fence, self.truncated.at_fence, &mut at_fence),
                (end, self.truncated.at_end, &mut at_end),
            ] {
                for change in latest.values() {
                    change.count(truncated, moment, skew_us, sums);
                }
            }
        }
        Ok((at_fence, at_end))
    }
}

impl Change {
    /// Adds the event to the sums where it belongs on the board.
    fn count(&self, truncated: Option<i64>, moment: Moment, skew_us: i64, sums: &mut Sums) {
        let gone = self.lsn.is_some_and(|lsn| Some(lsn) < truncated);
        let Some(event) = self.event.filter(|_| !gone) else {
            return;
        };
        let in_window = event.event_ts > moment.after_us()
            && event.event_ts <= moment.as_of_us
            && event.event_ts <= self.record_time_us.saturating_add(skew_us);
        if let Some(content) = event.content_id.filter(|_| in_window) {
            sums.0.entry(content).or_default().add(Sum {
                events: 1,
                duration_ms: i64::from(event.duration_ms.unwrap_or(0).max(0)),
            });
        }
    }
}

impl Entry for Change {
    type Bytes = [u8; 57];

    fn key(&self) -> u64 {
        self.id.cast_unsigned()
    }

    fn bytes(&self) -> Self::Bytes {
        let content = self.event.and_then(|event| event.content_id);
        let duration = self.event.and_then(|event| event.duration_ms);
        joined(&[
            &self.id.to_le_bytes(),
            &self.record_time_us.to_le_bytes(),
            &self.lsn.unwrap_or(0).to_le_bytes(),
            &self.event.map_or(0, |event| event.event_ts).to_le_bytes(),
            &duration.unwrap_or(0).to_le_bytes(),
            content.unwrap_or_default().as_bytes(),
            &[
                u8::from(self.lsn.is_some()),
                u8::from(self.event.is_some()),
                u8::from(duration.is_some()),
                u8::from(content.is_some()),
                u8::from(self.before_fence),
            ],
        ])
    }

    fn read(from: &mut Source) -> io::Result<Option<Self>> {
        let bytes: Option<[u8; 57]> = from.next()?;
        Ok(bytes.map(|bytes| {
            let number = |at| i64::from_le_bytes(field(&bytes, at));
            let [has_lsn, has_event, has_duration, has_content, before_fence] =
                field(&bytes, 52).map(|flag: u8| flag != 0);
            let event = BoardEvent {
                content_id: has_content.then(|| Uuid::from_bytes(field(&bytes, 36))),
                event_ts: number(24),
                duration_ms: has_duration.then(|| i32::from_le_bytes(field(&bytes, 32))),
            };
            Self {
                id: number(0),
                event: has_event.then_some(event),
                record_time_us: number(8),
                lsn: has_lsn.then(|| number(16)),
                before_fence,
            }
        }))
    }
}

/// What the events that dead letters set apart come to by the log up to the
/// fence, and up to its end.
pub(super) async fn sums(
    context: &Context<'_>,
    letters: &Letters,
    moment: Moment,
    fence: &Fence,
) -> Result<(Sums, Sums), VerifyError> {
    let sinks = sinks();
    if letters.events(&sinks, i64::MIN, 1)?.is_empty() {
        return Ok((Sums::default(), Sums::default()));
    }
    let (settings, kafka) = (context.settings, &context.connections.kafka);
    let skew = i64::try_from(settings.board.skew_seconds).unwrap_or(i64::MAX);
    let skew_us = skew.saturating_mul(MICROS_PER_SECOND);
    let since_us = moment.after_us().min(now_us()) - skew_us.saturating_add(SLACK_US);
    let topic = context.tables.facts.topic();
    let reader = reader_group(settings, "verify");
    let log = kafka.log(&reader)?;
    let starts = log.offsets_at(&topic, since_us / MICROS_PER_MILLI).await?;
    let ends = log.ends(&topic).await?;
    let offsets = starts.iter().zip(&ends);
    let offsets: u64 = offsets
        .map(|(from, until)| u64::try_from(until - from).unwrap_or(0))
        .sum();
    let stretch = |(partition, (from, until)): (i32, (i64, i64))| Stretch {
        partition,
        from,
        until: Some(until),
    };
    let stretches: Vec<Stretch> = (0..)
        .zip(starts.into_iter().zip(ends))
        .map(stretch)
        .collect();
    let mut scan = kafka.scan(&reader, &topic, &stretches)?;
    let decoder = BoardDecoder::new(context.tables.facts.clone(), settings.board.score);
    let mut reading = Reading::new(context.scratch, heaps_for(offsets))?;
    while let Some(seen) = scan.next().await? {
        let decoded = decoder.decode_one(0, &seen.record(&topic));
        let place = usize::try_from(seen.partition).unwrap_or(usize::MAX);
        let end = fence.events.get(place);
        let before_fence = end.is_some_and(|end| seen.offset < *end);
        reading.take(&decoded, before_fence, |id| letters.has_event(&sinks, id))?;
    }
    Ok(reading.sums(moment, skew_us)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spill::bucket::scratch;

    const CONTENT: Uuid = Uuid::from_u128(1);
    const MOMENT: Moment = Moment {
        as_of_us: 1_000_000_000,
        window_seconds: 600,
    };
    const SKEW_US: i64 = 300_000_000;

    fn at(event_ts: i64, record_time_us: i64) -> Decoded {
        let event = BoardEvent {
            content_id: Some(CONTENT),
            event_ts,
            duration_ms: Some(1_500),
        };
        Decoded {
            offset: 0,
            record_time_us,
            lsn: Some(record_time_us),
            extra_fields: false,
            change: BoardChange::Event {
                id: 7,
                event: Some(event),
            },
        }
    }

    /// The events at the fence, and at the end; the first so many changes lie
    /// before the fence.
    fn events_around(changes: &[Decoded], before_fence: usize) -> (i64, i64) {
        let (_home, scratch) = scratch();
        let mut reading = Reading::new(&scratch, 2).expect("space");
        for (number, change) in changes.iter().enumerate() {
            let taken = reading.take(change, number < before_fence, |id| Ok(id == 7));
            taken.expect("space");
        }
        let (at_fence, at_end) = reading.sums(MOMENT, SKEW_US).expect("read");
        let events = |sums: Sums| sums.0.get(&CONTENT).map_or(0, |sum| sum.events);
        (events(at_fence), events(at_end))
    }

    fn events(changes: &[Decoded]) -> i64 {
        let (at_fence, at_end) = events_around(changes, changes.len());
        assert_eq!(at_fence, at_end);
        at_end
    }

    #[test]
    fn the_latest_change_that_is_understood_counts_in_its_window() {
        let now = MOMENT.as_of_us;
        assert_eq!(events(&[at(now, now)]), 1);
        assert_eq!(events(&[at(now, now), at(now + 1, now)]), 0);
        assert_eq!(events(&[at(MOMENT.after_us(), now)]), 0);
        assert_eq!(events(&[at(now, now - SKEW_US)]), 1);
        assert_eq!(events(&[at(now, now - SKEW_US - 1)]), 0, "too far ahead");
        let deleted = Decoded {
            change: BoardChange::Event { id: 7, event: None },
            ..at(now, now)
        };
        assert_eq!(events(&[at(now, now), deleted]), 0);
    }

    #[test]
    fn what_a_truncate_has_removed_does_not_count() {
        let now = MOMENT.as_of_us;
        let truncate = |lsn| Decoded {
            lsn: Some(lsn),
            change: BoardChange::Truncate,
            ..at(now, now)
        };
        assert_eq!(events(&[at(now, now), truncate(now + 1)]), 0);
        assert_eq!(events(&[truncate(now - 1), at(now, now)]), 1);
    }

    #[test]
    fn what_comes_behind_the_fence_counts_at_the_end_only() {
        let now = MOMENT.as_of_us;
        let deleted = Decoded {
            change: BoardChange::Event { id: 7, event: None },
            ..at(now, now)
        };
        assert_eq!(events_around(&[at(now, now), deleted], 1), (1, 0));
        let truncate = Decoded {
            lsn: Some(now + 1),
            change: BoardChange::Truncate,
            ..at(now, now)
        };
        assert_eq!(events_around(&[at(now, now), truncate], 1), (1, 0));
        assert_eq!(events_around(&[at(now, now)], 0), (0, 1));
    }

    #[test]
    fn a_change_is_read_as_it_was_put_away() {
        let (_home, scratch) = scratch();
        let whole = Change {
            id: -7,
            event: Some(BoardEvent {
                content_id: Some(CONTENT),
                event_ts: -3,
                duration_ms: Some(-1),
            }),
            record_time_us: 5,
            lsn: Some(9),
            before_fence: true,
        };
        let bare = BoardEvent {
            content_id: None,
            event_ts: 4,
            duration_ms: None,
        };
        let changes = [
            whole,
            Change {
                event: Some(bare),
                lsn: None,
                before_fence: false,
                ..whole
            },
            Change {
                event: None,
                ..whole
            },
        ];
        let mut spill = Spill::new(&scratch, 1).expect("space");
        for change in &changes {
            spill.push(change).expect("space");
        }
        let heaps = spill.heaps().expect("space");
        let read: io::Result<Vec<Change>> = heaps.into_iter().flatten().collect();
        assert_eq!(read.expect("read"), changes);
    }

    #[test]
    fn the_external_system_sets_no_event_apart() {
        assert_eq!(sinks(), [SinkKind::Redis, SinkKind::ClickHouse]);
    }

    #[test]
    fn other_events_are_left_to_sql() {
        let other = Decoded {
            change: BoardChange::Event { id: 8, event: None },
            ..at(MOMENT.as_of_us, MOMENT.as_of_us)
        };
        assert_eq!(events(&[other]), 0);
    }
}
