//! The part of the log that a time means, and its replay.

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
    kafka::{Bounds, KafkaError, Log, TopicIdentity},
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

/// How long the record of generations may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// Progress is kept this often: what a kill may repeat.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Microseconds in a millisecond, which the log's times are in.
const MILLISECOND_US: i64 = 1000;

/// The events' topic as it is now.
pub(super) struct Topic {
    pub log: Log,
    pub name: String,
    pub identity: TopicIdentity,
}

impl Topic {
    /// The topic, where there is one.
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

    /// A place that an unfinished backfill has yet to read and that the log no
    /// longer has: partition and offset.
    pub(super) async fn gone(&self, journal: &Journal) -> Result<Option<(i32, i64)>, KafkaError> {
        let bounds = self.log.bounds(&self.name).await?;
        Ok(gone(journal, &bounds))
    }

    /// All that has come since the log ended there.
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

    /// Where the generation in force begins: what the log has from before would
    /// bring back rows that are gone.
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
        // No worker has taken it over yet.
        let timeout = Duration::from_millis(settings.clickhouse.request_timeout_ms);
        let store = connections.clickhouse.store(false, timeout)?;
        let lives = store.lives(&self.name).await?;
        Ok(lives
            .into_iter()
            .last()
            .map_or(Vec::new(), |life| life.starts))
    }

    /// The offsets between two times, by partition, and not before `starts`. A
    /// time that the log no longer reaches back to is an error.
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

    /// The first offset at or after a time, by partition.
    async fn offsets(&self, time_us: Option<i64>) -> Result<Option<Vec<i64>>, KafkaError> {
        let Some(time_us) = time_us else {
            return Ok(None);
        };
        // The first whole millisecond at or after it.
        let time_ms = -(-time_us).div_euclid(MILLISECOND_US);
        self.log
            .offsets_at(&self.name, time_ms.max(0))
            .await
            .map(Some)
    }
}

fn gone(journal: &Journal, bounds: &[Bounds]) -> Option<(i32, i64)> {
    let left = |part: &&Part| !part.done && part.next < part.until;
    let mut parts = journal.replays.values().flatten().filter(left);
    let part = parts.find(|part| {
        let place = usize::try_from(part.partition).unwrap_or(usize::MAX);
        let bounds = bounds.get(place);
        bounds.is_none_or(|bounds| !(bounds.start..=bounds.end).contains(&part.next))
    })?;
    Some((part.partition, part.next))
}

/// The partitions from whose front records are gone that may be as late as the
/// time asked for: it is found no later than at what is left.
fn older(bounds: &[Bounds], from: &[i64]) -> Vec<(i32, i64)> {
    let found = (0..).zip(bounds.iter().zip(from));
    found
        .filter(|(_, (bounds, from))| {
            bounds.start > 0 && bounds.start < bounds.end && **from <= bounds.start
        })
        .map(|(partition, (bounds, _))| (partition, bounds.start))
        .collect()
}

/// What lies between, within what there is.
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

/// Keeps how far a replay is, and shows it.
pub(super) struct Keeper<'a> {
    place: &'a Place,
    journal: &'a mut Journal,
    sink: SinkKind,
    /// Partition and offset of each record that is dead-lettered already.
    letters: Sorted<12>,
    steps: &'a Steps<'a>,
    kept: Option<Instant>,
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
        let mut letters = Sorting::new(scratch);
        let mut reader = dlq::DeadLetterReader::start(connections).await?;
        while let Some(letter) = reader.next().await? {
            if letter.sink == group && letter.generation == journal.topic {
                letters.add(record(letter.partition, letter.offset))?;
            }
        }
        Ok(Self {
            place,
            journal,
            sink,
            letters: letters.finish()?,
            steps,
            kept: None,
        })
    }
}

impl Watch for Keeper<'_> {
    fn advanced(&mut self, part: &Part, _tally: &Tally) -> io::Result<()> {
        let parts = self.journal.replays.entry(self.sink);
        let parts = parts.or_default();
        if let Some(kept) = parts
            .iter_mut()
            .find(|kept| kept.partition == part.partition)
        {
            part.clone_into(kept);
        }
        let passed = parts.iter().map(Part::passed).sum();
        let total = parts.iter().map(Part::len).sum();
        self.steps.advanced(passed, Some(total), Unit::Records);
        let due = |kept: Instant| kept.elapsed() >= KEEP_INTERVAL;
        if part.done || self.kept.is_none_or(due) {
            crash::point("backfill", "keeping");
            self.place.save(self.journal)?;
            crash::point("backfill", "kept");
            self.kept = Some(Instant::now());
        }
        Ok(())
    }

    fn is_dead_lettered(&self, partition: i32, offset: i64) -> io::Result<bool> {
        self.letters.contains(&record(partition, offset))
    }
}

/// The place of a record, as a key.
fn record(partition: i32, offset: i64) -> [u8; 12] {
    key(&[&partition.field(), &offset.field()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_deleted_before_it_was_replayed_is_gone() {
        let bounds = [Bounds { start: 5, end: 9 }];
        let at = |next, done| {
            let mut journal = Journal::new("x".to_owned(), "t/1".to_owned(), "now".to_owned());
            let part = Part {
                next,
                done,
                ..Part::new(0, 2, 9)
            };
            journal.replays.insert(SinkKind::Http, vec![part]);
            gone(&journal, &bounds)
        };
        assert_eq!((at(5, false), at(8, false)), (None, None));
        assert_eq!(at(4, false), Some((0, 4)));
        assert_eq!((at(9, true), at(4, true)), (None, None));
    }

    #[test]
    fn only_a_front_that_was_cut_off_can_be_too_late() {
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
        fn a_part_stays_within_the_log_and_within_what_was_asked(
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
        fn without_times_it_is_the_whole_log(start in 0..50_i64, length in 0..50_i64) {
            let bounds = [Bounds { start, end: start + length }];
            prop_assert_eq!(&parts(&bounds, None, None)[0], &Part::new(0, start, start + length));
        }
    }
}
