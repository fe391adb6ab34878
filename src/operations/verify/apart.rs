//! Events that dead letters set apart: which of their changes the board took,
//! only the log tells. Postgres has their latest, whether it was understood or
//! not, and ClickHouse rejects changes that the board takes.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{Context, VerifyError};
use crate::{
    clients::kafka::{Log, Scan, Stretch},
    clock::now_us,
    operations::{
        eligible::{Moment, Sum},
        fence::{Fence, consumer, group},
    },
    sinks::board::{BoardChange, BoardDecoder, Decoded},
    timestamp::{MICROS_PER_MILLI, MICROS_PER_SECOND},
    window::BoardEvent,
};

/// By content.
pub(super) type Sums = HashMap<Uuid, Sum>;

/// The record of an event that may count is at most this much older than the
/// event, besides the skew: the clocks of broker and source.
const SLACK_US: i64 = 60 * MICROS_PER_SECOND;

/// The latest change of each event that the board understands.
#[derive(Debug, Clone, Default)]
struct Understood {
    latest: HashMap<i64, Latest>,
    /// The latest truncate, by its place in Postgres' log.
    truncated: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Latest {
    event: Option<BoardEvent>,
    record_time_us: i64,
    lsn: Option<i64>,
}

impl Understood {
    fn take(&mut self, decoded: &Decoded, apart: &HashSet<i64>) {
        match decoded.change {
            BoardChange::Event { id, event } if apart.contains(&id) => {
                let latest = Latest {
                    event,
                    record_time_us: decoded.record_time_us,
                    lsn: decoded.lsn,
                };
                self.latest.insert(id, latest);
            }
            BoardChange::Truncate => self.truncated = self.truncated.max(decoded.lsn),
            BoardChange::Event { .. } | BoardChange::Ignored(_) | BoardChange::Rejected(_) => {}
        }
    }

    /// What those that belong on the board come to.
    fn sums(&self, moment: Moment, skew_us: i64) -> Sums {
        let mut sums = Sums::new();
        for latest in self.latest.values() {
            let gone = latest.lsn.is_some_and(|lsn| Some(lsn) < self.truncated);
            let Some(event) = latest.event.filter(|_| !gone) else {
                continue;
            };
            let in_window = event.event_ts > moment.after_us()
                && event.event_ts <= moment.as_of_us
                && event.event_ts <= latest.record_time_us.saturating_add(skew_us);
            if let Some(content) = event.content_id.filter(|_| in_window) {
                let duration_ms = i64::from(event.duration_ms.unwrap_or(0).max(0));
                sums.entry(content).or_default().add(Sum {
                    events: 1,
                    duration_ms,
                });
            }
        }
        sums
    }
}

/// What these events come to by the log up to the fence, and up to its end.
pub(super) async fn sums(
    context: &Context<'_>,
    apart: &HashSet<i64>,
    moment: Moment,
    fence: &Fence,
) -> Result<(Sums, Sums), VerifyError> {
    if apart.is_empty() {
        return Ok((Sums::new(), Sums::new()));
    }
    let settings = context.settings;
    let skew = i64::try_from(settings.board.skew_seconds).unwrap_or(i64::MAX);
    let skew_us = skew.saturating_mul(MICROS_PER_SECOND);
    let since_us = moment.after_us().min(now_us()) - skew_us.saturating_add(SLACK_US);
    let topic = context.tables.facts.topic();
    let reader = group(settings, "verify");
    let log = Log::new(&consumer(settings), &reader)?;
    let starts = log.offsets_at(&topic, since_us / MICROS_PER_MILLI).await?;
    let ends = log.ends(&topic).await?;
    let stretch = |(partition, (from, until)): (i32, (i64, i64))| Stretch {
        partition,
        from,
        until: Some(until),
    };
    let stretches: Vec<Stretch> = (0..)
        .zip(starts.into_iter().zip(ends))
        .map(stretch)
        .collect();
    let mut scan = Scan::start(&consumer(settings), &reader, &topic, &stretches)?;
    let decoder = BoardDecoder::new(context.tables.facts.clone(), settings.board.score);
    let (mut at_fence, mut at_end) = (Understood::default(), Understood::default());
    while let Some(seen) = scan.next().await? {
        let decoded = decoder.decode_one(0, &seen.record(&topic));
        let place = usize::try_from(seen.partition).unwrap_or(usize::MAX);
        if fence
            .events
            .get(place)
            .is_some_and(|end| seen.offset < *end)
        {
            at_fence.take(&decoded, apart);
        }
        at_end.take(&decoded, apart);
    }
    Ok((at_fence.sums(moment, skew_us), at_end.sums(moment, skew_us)))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn events(changes: &[Decoded]) -> i64 {
        let mut understood = Understood::default();
        for change in changes {
            understood.take(change, &[7].into());
        }
        let sums = understood.sums(MOMENT, SKEW_US);
        sums.get(&CONTENT).map_or(0, |sum| sum.events)
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
    fn other_events_are_left_to_sql() {
        let other = Decoded {
            change: BoardChange::Event { id: 8, event: None },
            ..at(MOMENT.as_of_us, MOMENT.as_of_us)
        };
        assert_eq!(events(&[other]), 0);
    }
}
