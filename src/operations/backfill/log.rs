//! The range of the log that a time range selects, and the progress of its replay.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    error::BackfillError,
    journal::{Journal, Place},
    request::Request,
    store::insist,
};
use crate::{
    connections::Connections,
    crash,
    kafka::{Bounds, KafkaError, Log, TopicIdentity, of_partition},
    operations::dlq,
    progress::{Unit, steps::Steps},
    runtime::{
        GenerationLog,
        replay::{Part, Tally, Watch},
    },
    sink_kind::SinkKind,
    source::tables::{events_topic, reader_group},
    spill::{
        scratch::Scratch,
        sorted::{Field as _, Sorted, Sorting, key},
    },
};

/// Timeout for reading the record of generations.
const PATIENCE: Duration = Duration::from_secs(10);

/// Interval at which progress is stored. A kill repeats at most this much work.
const SAVE_INTERVAL: Duration = Duration::from_millis(500);

/// Microseconds per millisecond, the unit of times in the log.
const MILLISECOND_US: i64 = 1000;

/// The current events topic.
pub(super) struct Topic {
    pub log: Log,
    pub name: String,
    pub identity: TopicIdentity,
}

impl Topic {
    /// Returns the topic, or `None` if it does not exist.
    pub(super) async fn find(connections: &Connections) -> Result<Option<Self>, BackfillError> {
        let settings = connections.settings();
        let name = events_topic(settings);
        let log = connections.kafka.log(&reader_group(settings, "backfill"))?;
        let identity = log.identity(&name).await?;
        Ok(identity.map(|identity| Self {
            log,
            name,
            identity,
        }))
    }

    /// Returns a partition and an offset that an unfinished backfill must still read and that
    /// the log no longer has, if any.
    pub(super) async fn missing(
        &self,
        journal: &Journal,
    ) -> Result<Option<(i32, i64)>, KafkaError> {
        let bounds = self.log.bounds(&self.name).await?;
        Ok(missing(journal, &bounds))
    }

    /// Returns the offset ranges from these offsets to the current end of the log.
    pub(super) async fn since(
        connections: &Connections,
        starts: Option<&[i64]>,
    ) -> Result<Vec<Part>, BackfillError> {
        let Some(topic) = Self::find(connections).await? else {
            return Ok(Vec::new());
        };
        let bounds = topic.log.bounds(&topic.name).await?;
        Ok(parts(&bounds, starts, None))
    }

    /// Returns the start offsets of the current generation. Earlier records would bring back
    /// deleted rows.
    pub(super) async fn life_starts(
        &self,
        connections: &Connections,
    ) -> Result<Vec<i64>, BackfillError> {
        let (settings, kafka) = (connections.settings(), &connections.kafka);
        let reader = reader_group(settings, "backfill");
        let state = kafka.state(&reader, &settings.kafka.state_topic)?;
        let record = GenerationLog::new(state);
        if let Some(generation) = insist(PATIENCE, async || record.latest().await).await? {
            return Ok(generation.begun.facts.starts);
        }
        // No worker has recorded the generation yet.
        let timeout = Duration::from_millis(settings.clickhouse.request_timeout_ms);
        let store = connections.clickhouse.store(false, timeout)?;
        let lives = store.lives(&self.name).await?;
        Ok(lives
            .into_iter()
            .last()
            .map_or(Vec::new(), |life| life.starts))
    }

    /// Returns the offset ranges between two times, by partition, limited to offsets from
    /// `starts` on.
    ///
    /// # Errors
    /// If the log no longer reaches back to the first time.
    pub(super) async fn parts(
        &self,
        request: &Request,
        from_us: Option<i64>,
        to_us: Option<i64>,
        starts: &[i64],
    ) -> Result<Vec<Part>, BackfillError> {
        let bounds = self.log.bounds(&self.name).await?;
        let from = self.offsets(from_us).await?;
        let to = self.offsets(to_us).await?;
        if let Some(from) = &from {
            let partitions = older(&bounds, from);
            if !partitions.is_empty() {
                return Err(BackfillError::OlderThanLog {
                    from: request.from.to_string().replace(" ago", ""),
                    to: request.to.map(|to| to.to_string().replace(" ago", "")),
                    sinks: request.sinks.to_vec(),
                    partitions,
                });
            }
        }
        let from = from.unwrap_or_else(|| bounds.iter().map(|bounds| bounds.start).collect());
        let from = (0..).zip(from).map(|(index, from): (usize, i64)| {
            let start = starts.get(index).copied().unwrap_or(0);
            from.max(start)
        });
        let from: Vec<i64> = from.collect();
        Ok(parts(&bounds, Some(&from), to.as_deref()))
    }

    /// Returns the first offset at or after a time, by partition.
    async fn offsets(&self, time_us: Option<i64>) -> Result<Option<Vec<i64>>, KafkaError> {
        let Some(time_us) = time_us else {
            return Ok(None);
        };
        // Rounded up to a full millisecond.
        let time_ms = -(-time_us).div_euclid(MILLISECOND_US);
        self.log
            .offsets_at(&self.name, time_ms.max(0))
            .await
            .map(Some)
    }
}

fn missing(journal: &Journal, bounds: &[Bounds]) -> Option<(i32, i64)> {
    let is_unfinished = |part: &&Part| !part.done && part.next < part.until;
    let mut parts = journal.replays.values().flatten().filter(is_unfinished);
    let part = parts.find(|part| {
        let bounds = of_partition(bounds, part.partition);
        bounds.is_none_or(|bounds| !(bounds.start..=bounds.end).contains(&part.next))
    })?;
    Some((part.partition, part.next))
}

/// Returns the partitions, with their start offsets, whose deleted records may lie after the
/// requested time. This is possible if the time selects the first remaining record.
fn older(bounds: &[Bounds], from: &[i64]) -> Vec<(i32, i64)> {
    let partitions = (0..).zip(bounds.iter().zip(from));
    partitions
        .filter(|(_, (bounds, from))| {
            bounds.start > 0 && bounds.start < bounds.end && **from <= bounds.start
        })
        .map(|(partition, (bounds, _))| (partition, bounds.start))
        .collect()
}

/// Returns the offset ranges between `from` and `to`, clamped to the log.
fn parts(bounds: &[Bounds], from: Option<&[i64]>, to: Option<&[i64]>) -> Vec<Part> {
    let part = |(index, bounds): (usize, &Bounds)| {
        let at = |offsets: Option<&[i64]>| offsets.and_then(|offsets| offsets.get(index).copied());
        let within = |offset: i64| offset.clamp(bounds.start, bounds.end.max(bounds.start));
        let from = within(at(from).unwrap_or(bounds.start));
        let until = within(at(to).unwrap_or(bounds.end));
        let number = i32::try_from(index).unwrap_or(i32::MAX);
        Part::new(number, from, until.max(from))
    };
    bounds.iter().enumerate().map(part).collect()
}

/// Stores and shows the progress of a replay.
pub(super) struct Keeper<'a> {
    place: &'a Place,
    journal: &'a mut Journal,
    sink: SinkKind,
    /// Partition and offset of each dead-lettered record.
    dead_letters: Sorted<12>,
    steps: &'a Steps<'a>,
    saved: Option<Instant>,
}

impl<'a> Keeper<'a> {
    pub(super) async fn new(
        connections: &Connections,
        (place, scratch): (&'a Place, &Scratch),
        journal: &'a mut Journal,
        sink: SinkKind,
        steps: &'a Steps<'a>,
    ) -> Result<Self, BackfillError> {
        let group = sink.events_group().name();
        let mut dead_letters = Sorting::new(scratch);
        let mut reader = dlq::DeadLetterReader::start(connections).await?;
        while let Some(letter) = reader.next().await? {
            if letter.sink == group && letter.generation == journal.topic {
                dead_letters.add(record_key(letter.partition, letter.offset))?;
            }
        }
        Ok(Self {
            place,
            journal,
            sink,
            dead_letters: dead_letters.finish()?,
            steps,
            saved: None,
        })
    }
}

impl Watch for Keeper<'_> {
    fn advanced(&mut self, part: &Part, _tally: &Tally) -> io::Result<()> {
        let parts = self.journal.replays.entry(self.sink);
        let parts = parts.or_default();
        if let Some(stored) = parts
            .iter_mut()
            .find(|stored| stored.partition == part.partition)
        {
            part.clone_into(stored);
        }
        let passed = parts.iter().map(Part::passed).sum();
        let total = parts.iter().map(Part::len).sum();
        self.steps.advanced(passed, Some(total), Unit::Records);
        let is_due = |saved: Instant| saved.elapsed() >= SAVE_INTERVAL;
        if part.done || self.saved.is_none_or(is_due) {
            crash::point("backfill", "keeping");
            self.place.save(self.journal)?;
            crash::point("backfill", "kept");
            self.saved = Some(Instant::now());
        }
        Ok(())
    }

    fn is_dead_lettered(&self, partition: i32, offset: i64) -> io::Result<bool> {
        self.dead_letters.contains(&record_key(partition, offset))
    }
}

/// Returns the sort key of a record.
fn record_key(partition: i32, offset: i64) -> [u8; 12] {
    key(&[&partition.field(), &offset.field()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_deleted_before_its_replay_is_missing() {
        let bounds = [Bounds { start: 5, end: 9 }];
        let missing_at = |next, done| {
            let mut journal = Journal::new("x".to_owned(), "t/1".to_owned(), "now".to_owned());
            let part = Part {
                next,
                done,
                ..Part::new(0, 2, 9)
            };
            journal.replays.insert(SinkKind::Http, vec![part]);
            missing(&journal, &bounds)
        };
        let present = (missing_at(5, false), missing_at(8, false));
        assert_eq!(present, (None, None));
        assert_eq!(missing_at(4, false), Some((0, 4)));
        let done = (missing_at(9, true), missing_at(4, true));
        assert_eq!(done, (None, None));
    }

    #[test]
    fn only_a_partition_with_deleted_records_can_start_too_late() {
        let bounds = [
            Bounds { start: 0, end: 9 },
            Bounds { start: 5, end: 9 },
            Bounds { start: 5, end: 9 },
            Bounds { start: 5, end: 5 },
        ];
        assert_eq!(older(&bounds, &[0, 5, 6, 5]), [(1, 5)]);
    }

    proptest! {
        #[test]
        fn a_range_is_the_intersection_of_the_log_and_the_request(
            start in 0..50_i64, length in 0..50_i64, from in 0..120_i64, to in 0..120_i64,
        ) {
            let bounds = [Bounds { start, end: start + length }];
            let part = &parts(&bounds, Some(&[from]), Some(&[to]))[0];
            prop_assert!(part.from >= start && part.until <= start + length);
            prop_assert!(part.from <= part.until);
            for offset in start..start + length {
                let wanted = (from..to).contains(&offset);
                prop_assert_eq!((part.from..part.until).contains(&offset), wanted);
            }
        }

        #[test]
        fn a_range_without_times_is_the_complete_log(start in 0..50_i64, length in 0..50_i64) {
            let bounds = [Bounds { start, end: start + length }];
            prop_assert_eq!(&parts(&bounds, None, None)[0], &Part::new(0, start, start + length));
        }
    }
}
