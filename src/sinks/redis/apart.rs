//! Events with dead letters, which the audit checks separately. Only the log shows
//! which of their changes the board applied: Postgres has the latest change even if
//! it was rejected, and ClickHouse rejects changes that the board applies. There may
//! be many such events, so their changes are sorted into buckets on disk.

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
    kafka::{Stretch, of_partition},
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

/// Returns the sinks whose dead letters have an event checked separately.
pub(super) fn sinks() -> Vec<SinkKind> {
    let is_relevant = |sink: &SinkKind| match sink {
        SinkKind::Redis => true,
        // ClickHouse does not have the record times of the events that it rejected.
        SinkKind::ClickHouse => true,
        SinkKind::Http => false,
    };
    SinkKind::ALL.into_iter().filter(is_relevant).collect()
}

/// Maximum time by which the record of an event that may count is older than the
/// event, in addition to the skew. Allows for the clocks of broker and source.
const SLACK_US: i64 = 60 * MICROS_PER_SECOND;

/// A change that the board can decode, of an event that is checked separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    id: i64,
    /// `None` if the event was deleted.
    event: Option<BoardEvent>,
    record_time_us: i64,
    lsn: Option<i64>,
    before_barrier: bool,
}

/// Collects the changes and truncates of the log.
#[derive(Debug)]
struct ChangeCollector {
    changes: Spill<Change>,
    truncated: Truncated,
}

/// LSN of the latest truncate.
#[derive(Debug, Clone, Copy, Default)]
struct Truncated {
    at_barrier: Option<i64>,
    at_end: Option<i64>,
}

impl ChangeCollector {
    fn new(scratch: &Scratch, buckets: usize) -> io::Result<Self> {
        Ok(Self {
            changes: Spill::new(scratch, buckets)?,
            truncated: Truncated::default(),
        })
    }

    fn add(
        &mut self,
        decoded: &Decoded,
        before_barrier: bool,
        is_separate: impl Fn(i64) -> io::Result<bool>,
    ) -> io::Result<()> {
        match decoded.change {
            BoardChange::Event { id, event } if is_separate(id)? => self.changes.push(&Change {
                id,
                event,
                record_time_us: decoded.record_time_us,
                lsn: decoded.lsn,
                before_barrier,
            }),
            BoardChange::Truncate => {
                let truncated = &mut self.truncated;
                truncated.at_end = truncated.at_end.max(decoded.lsn);
                if before_barrier {
                    truncated.at_barrier = truncated.at_barrier.max(decoded.lsn);
                }
                Ok(())
            }
            BoardChange::Event { .. } | BoardChange::Ignored(_) | BoardChange::Rejected(_) => {
                Ok(())
            }
        }
    }

    /// Returns the sums of the events that belong on the board: at the barrier, and
    /// at the end of the log.
    fn sums(self, moment: Moment, skew_us: i64) -> io::Result<(Sums, Sums)> {
        let (mut sums_at_barrier, mut sums_at_end) = (Sums::default(), Sums::default());
        for bucket in self.changes.heaps()? {
            let (mut at_barrier, mut at_end) = (HashMap::new(), HashMap::new());
            for change in bucket {
                let change = change?;
                // Changes are in the order of the log, so the latest one remains.
                if change.before_barrier {
                    at_barrier.insert(change.id, change);
                }
                at_end.insert(change.id, change);
            }
            for (latest, truncated, sums) in [
                (at_barrier, self.truncated.at_barrier, &mut sums_at_barrier),
                (at_end, self.truncated.at_end, &mut sums_at_end),
            ] {
                for change in latest.values() {
                    change.count(truncated, moment, skew_us, sums);
                }
            }
        }
        Ok((sums_at_barrier, sums_at_end))
    }
}

impl Change {
    /// Adds the event to the sums if it belongs on the board.
    fn count(&self, truncated: Option<i64>, moment: Moment, skew_us: i64, sums: &mut Sums) {
        let was_truncated = self.lsn.is_some_and(|lsn| Some(lsn) < truncated);
        let Some(event) = self.event.filter(|_| !was_truncated) else {
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
                u8::from(self.before_barrier),
            ],
        ])
    }

    fn read(from: &mut Source) -> io::Result<Option<Self>> {
        let bytes: Option<[u8; 57]> = from.next()?;
        Ok(bytes.map(|bytes| {
            let number = |position| i64::from_le_bytes(field(&bytes, position));
            let [
                has_lsn,
                has_event,
                has_duration,
                has_content,
                before_barrier,
            ] = field(&bytes, 52).map(|flag: u8| flag != 0);
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
                before_barrier,
            }
        }))
    }
}

/// Returns the sums of the events with dead letters, according to the log: up to the
/// catch-up barrier, and up to the end.
pub(super) async fn sums(
    context: &Context<'_>,
    dead_letters: &Letters,
    moment: Moment,
    barrier: &Fence,
) -> Result<(Sums, Sums), VerifyError> {
    let sinks = sinks();
    if dead_letters.events(&sinks, i64::MIN, 1)?.is_empty() {
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
    let bounds = starts.iter().zip(&ends);
    let offset_count: u64 = bounds
        .map(|(from, until)| u64::try_from(until - from).unwrap_or(0))
        .sum();
    let offset_range = |(partition, (from, until)): (i32, (i64, i64))| Stretch {
        partition,
        from,
        until: Some(until),
    };
    let offset_ranges: Vec<Stretch> = (0..)
        .zip(starts.into_iter().zip(ends))
        .map(offset_range)
        .collect();
    let mut scan = kafka.scan(&reader, &topic, &offset_ranges)?;
    let decoder = BoardDecoder::new(context.tables.facts.clone(), settings.board.score);
    let mut collector = ChangeCollector::new(context.scratch, heaps_for(offset_count))?;
    while let Some(record) = scan.next().await? {
        let decoded = decoder.decode_one(0, &record.record(&topic));
        let barrier_offset = of_partition(&barrier.events, record.partition);
        let before_barrier = barrier_offset.is_some_and(|offset| record.offset < *offset);
        let is_separate = |id| dead_letters.has_event(&sinks, id);
        collector.add(&decoded, before_barrier, is_separate)?;
    }
    Ok(collector.sums(moment, skew_us)?)
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

    fn change(event_ts: i64, record_time_us: i64) -> Decoded {
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

    /// Returns the number of events at the barrier and at the end. The first
    /// `before_barrier` changes lie before the barrier.
    fn events_around(changes: &[Decoded], before_barrier: usize) -> (i64, i64) {
        let (_home, scratch) = scratch();
        let mut collector = ChangeCollector::new(&scratch, 2).expect("create the buckets");
        for (number, change) in changes.iter().enumerate() {
            let added = collector.add(change, number < before_barrier, |id| Ok(id == 7));
            added.expect("write the change");
        }
        let sums = collector.sums(MOMENT, SKEW_US);
        let (at_barrier, at_end) = sums.expect("read the buckets");
        let events = |sums: Sums| sums.0.get(&CONTENT).map_or(0, |sum| sum.events);
        (events(at_barrier), events(at_end))
    }

    fn events(changes: &[Decoded]) -> i64 {
        let (at_barrier, at_end) = events_around(changes, changes.len());
        assert_eq!(at_barrier, at_end);
        at_end
    }

    #[test]
    fn the_latest_decodable_change_counts_if_it_is_in_the_window() {
        let now = MOMENT.as_of_us;
        assert_eq!(events(&[change(now, now)]), 1);
        assert_eq!(events(&[change(now, now), change(now + 1, now)]), 0);
        assert_eq!(events(&[change(MOMENT.after_us(), now)]), 0);
        assert_eq!(events(&[change(now, now - SKEW_US)]), 1);
        let too_far_ahead = change(now, now - SKEW_US - 1);
        assert_eq!(events(&[too_far_ahead]), 0);
        let deleted = Decoded {
            change: BoardChange::Event { id: 7, event: None },
            ..change(now, now)
        };
        assert_eq!(events(&[change(now, now), deleted]), 0);
    }

    #[test]
    fn events_removed_by_a_truncate_do_not_count() {
        let now = MOMENT.as_of_us;
        let truncate = |lsn| Decoded {
            lsn: Some(lsn),
            change: BoardChange::Truncate,
            ..change(now, now)
        };
        assert_eq!(events(&[change(now, now), truncate(now + 1)]), 0);
        assert_eq!(events(&[truncate(now - 1), change(now, now)]), 1);
    }

    #[test]
    fn changes_after_the_barrier_count_only_at_the_end() {
        let now = MOMENT.as_of_us;
        let deleted = Decoded {
            change: BoardChange::Event { id: 7, event: None },
            ..change(now, now)
        };
        assert_eq!(events_around(&[change(now, now), deleted], 1), (1, 0));
        let truncate = Decoded {
            lsn: Some(now + 1),
            change: BoardChange::Truncate,
            ..change(now, now)
        };
        assert_eq!(events_around(&[change(now, now), truncate], 1), (1, 0));
        assert_eq!(events_around(&[change(now, now)], 0), (0, 1));
    }

    #[test]
    fn a_change_is_read_back_unchanged() {
        let (_home, scratch) = scratch();
        let complete = Change {
            id: -7,
            event: Some(BoardEvent {
                content_id: Some(CONTENT),
                event_ts: -3,
                duration_ms: Some(-1),
            }),
            record_time_us: 5,
            lsn: Some(9),
            before_barrier: true,
        };
        let minimal_event = BoardEvent {
            content_id: None,
            event_ts: 4,
            duration_ms: None,
        };
        let changes = [
            complete,
            Change {
                event: Some(minimal_event),
                lsn: None,
                before_barrier: false,
                ..complete
            },
            Change {
                event: None,
                ..complete
            },
        ];
        let mut spill = Spill::new(&scratch, 1).expect("create the bucket");
        for change in &changes {
            spill.push(change).expect("write the change");
        }
        let buckets = spill.heaps().expect("open the bucket");
        let read: io::Result<Vec<Change>> = buckets.into_iter().flatten().collect();
        assert_eq!(read.expect("read the changes"), changes);
    }

    #[test]
    fn dead_letters_of_the_http_sink_do_not_matter_to_the_board() {
        assert_eq!(sinks(), [SinkKind::Redis, SinkKind::ClickHouse]);
    }

    #[test]
    fn events_without_dead_letters_are_not_summed() {
        let other = Decoded {
            change: BoardChange::Event { id: 8, event: None },
            ..change(MOMENT.as_of_us, MOMENT.as_of_us)
        };
        assert_eq!(events(&[other]), 0);
    }
}
