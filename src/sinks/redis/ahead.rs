//! Which events of a window lie too far ahead of their record to be on the
//! board. ClickHouse keeps the records' times. Where it is no sink, the log is
//! read for them.
//!
//! What the log says is sorted on disk, so memory does not grow with it.

use std::io;

use uuid::Uuid;

use super::{
    eligible::{self, Moment},
    sink::{BoardChange, BoardDecoder, Decoded},
};
use crate::{
    audit::error::VerifyError,
    connections::{
        Connections,
        clickhouse::{ClickHouseError, InvalidUrl},
        postgres::{Client, PostgresError},
    },
    failure::{Failure, Kind},
    kafka::{Bounds, KafkaError, Log, Stretch},
    sink_kind::SinkKind,
    source::tables::{Source, events_topic, reader_group},
    spill::{
        scratch::Scratch,
        sorted::{Field as _, Sorted, Sorting, key, number},
    },
    time::timestamp::{MICROS_PER_MILLI, MICROS_PER_SECOND},
};

/// Event, offset in descending order, and what the change made of the event.
const CHANGE: usize = 17;

/// The events of a window that the board does not count because of the time of
/// their record.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// They lie too far ahead of it.
    pub ids: Vec<i64>,
    /// The log no longer has a record of them, so they do as well, or were lost.
    pub unknown: Vec<i64>,
}

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum AheadError {
    #[error("cannot read the events from postgres")]
    Postgres(#[from] PostgresError),
    #[error("cannot read the records' times from clickhouse")]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("cannot read the records' times from kafka")]
    Kafka(#[from] KafkaError),
    #[error("cannot use temporary files")]
    Disk(#[from] io::Error),
}

impl Failure for AheadError {
    fn kind(&self) -> Kind {
        match self {
            Self::Url(_) => Kind::Usage,
            Self::Postgres(_) | Self::ClickHouse(_) | Self::Kafka(_) | Self::Disk(_) => {
                Kind::Environment
            }
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::ClickHouse(_) => "clickhouse",
            Self::Url(_) => "clickhouse_url",
            Self::Kafka(_) => "kafka",
            Self::Disk(_) => "temporary_files",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Url(_) => "fanout config show",
            Self::Disk(_) => "free space in that folder, then run it again",
            Self::Postgres(_) | Self::ClickHouse(_) | Self::Kafka(_) => "fanout status",
        };
        Some(hint.to_owned())
    }
}

/// What the latest change of an event made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Deleted,
    InTime,
    Ahead,
}

/// Finds them among the events that `client` sees. Where `content` is named, it
/// may leave out those of others.
///
/// # Errors
/// When a server does not answer, or the disk does not take what is sorted.
pub async fn ahead(
    connections: &Connections,
    scratch: &Scratch,
    client: &Client,
    moment: Moment,
    content: Option<Uuid>,
) -> Result<Ahead, AheadError> {
    let settings = connections.settings();
    if settings.pipeline.sinks.contains(&SinkKind::ClickHouse) {
        let query = connections.clickhouse.query()?;
        let ids = eligible::ahead(&query, &settings.board, moment).await?;
        return Ok(Ahead {
            ids,
            unknown: Vec::new(),
        });
    }
    let changes = Changes::new(connections, scratch, moment)?;
    let found = changes.find(client, content);
    // Many questions, one after the other: on the heap.
    Box::pin(found).await
}

/// Reads the changes of the events.
struct Changes<'a> {
    connections: &'a Connections,
    scratch: &'a Scratch,
    moment: Moment,
    skew_us: i64,
    topic: String,
    reader: String,
    log: Log,
    decoder: BoardDecoder,
}

impl<'a> Changes<'a> {
    fn new(
        connections: &'a Connections,
        scratch: &'a Scratch,
        moment: Moment,
    ) -> Result<Self, KafkaError> {
        let settings = connections.settings();
        let skew = i64::try_from(settings.board.skew_seconds).unwrap_or(i64::MAX);
        let reader = reader_group(settings, "ahead");
        let source = Source::new(&settings.kafka.topic_prefix).facts;
        Ok(Self {
            connections,
            scratch,
            moment,
            skew_us: skew.saturating_mul(MICROS_PER_SECOND),
            topic: events_topic(settings),
            log: connections.kafka.log(&reader)?,
            reader,
            decoder: BoardDecoder::new(source, settings.board.score),
        })
    }

    async fn find(&self, client: &Client, content: Option<Uuid>) -> Result<Ahead, AheadError> {
        let mut found = Ahead::default();
        let bounds = self.log.bounds(&self.topic).await?;
        let starts: Vec<i64> = bounds.iter().map(|bounds| bounds.start).collect();
        let ends: Vec<i64> = bounds.iter().map(|bounds| bounds.end).collect();
        let recent = self.recent(&bounds).await?;
        let latest = self.read(&stretches(&recent, &ends), None).await?;
        let missing = self.sort_out(client, content, &latest, &mut found).await?;
        if missing.len() == 0 {
            return Ok(found);
        }
        let earlier = stretches(&starts, &recent);
        let latest = self.read(&earlier, Some(&missing)).await?;
        // A log from which nothing was deleted has a record of every event. One that
        // it has none of was lost, or is still under way.
        let is_whole = starts.iter().all(|start| *start == 0);
        found.add_missing(&missing, &latest, is_whole)?;
        Ok(found)
    }

    /// Adds the events that are ahead by their latest recent change. Returns those
    /// that have none.
    async fn sort_out(
        &self,
        client: &Client,
        content: Option<Uuid>,
        latest: &Latest,
        found: &mut Ahead,
    ) -> Result<Sorted<8>, AheadError> {
        let mut missing = Sorting::new(self.scratch);
        let mut from = Some(i64::MIN);
        while let Some(first) = from {
            let ids = eligible::ids(client, self.moment, content, first).await?;
            from = ids.last().and_then(|last| last.checked_add(1));
            for id in ids {
                match latest.of(id)? {
                    Some(Made::Ahead) => found.ids.push(id),
                    Some(Made::InTime | Made::Deleted) => {}
                    None => missing.add(id.field())?,
                }
            }
        }
        Ok(missing.finish()?)
    }

    /// By partition, from where on a record may be late enough for the window.
    async fn recent(&self, bounds: &[Bounds]) -> Result<Vec<i64>, KafkaError> {
        let since_us = self.moment.after_us().saturating_sub(self.skew_us);
        let since_ms = since_us.div_euclid(MICROS_PER_MILLI).max(0);
        let found = self.log.offsets_at(&self.topic, since_ms).await?;
        let within = |(place, bounds): (usize, &Bounds)| {
            let found = found.get(place).copied().unwrap_or(bounds.start);
            found.clamp(bounds.start, bounds.end.max(bounds.start))
        };
        Ok(bounds.iter().enumerate().map(within).collect())
    }

    /// The latest change of each event in these stretches; of the `wanted` ones,
    /// where they are given.
    async fn read(
        &self,
        stretches: &[Stretch],
        wanted: Option<&Sorted<8>>,
    ) -> Result<Latest, AheadError> {
        let kafka = &self.connections.kafka;
        let mut scan = kafka.scan(&self.reader, &self.topic, stretches)?;
        let mut changes = Sorting::new(self.scratch);
        while let Some(seen) = scan.next().await? {
            let decoded = self.decoder.decode_one(0, &seen.record(&self.topic));
            let Some((id, made)) = made(&decoded, self.skew_us) else {
                continue;
            };
            let is_wanted = match wanted {
                Some(wanted) => wanted.contains(&id.field())?,
                None => true,
            };
            if is_wanted {
                changes.add(change(id, decoded.offset, made))?;
            }
        }
        Ok(Latest(changes.finish()?))
    }
}

impl Ahead {
    /// Adds events without a recent change. An earlier record is too old for an
    /// event of the window.
    fn add_missing(
        &mut self,
        missing: &Sorted<8>,
        earlier: &Latest,
        is_whole: bool,
    ) -> io::Result<()> {
        let mut from = missing.at_or_after(&i64::MIN.field())?;
        while let Some(field) = from {
            let id = number(field);
            match earlier.of(id)? {
                Some(Made::Ahead) => self.ids.push(id),
                None if !is_whole => self.unknown.push(id),
                // Postgres has another change of it than the log.
                Some(Made::InTime | Made::Deleted) | None => {}
            }
            from = match id.checked_add(1) {
                Some(next) => missing.at_or_after(&next.field())?,
                None => None,
            };
        }
        Ok(())
    }
}

/// By partition, from these offsets up to those.
fn stretches(from: &[i64], until: &[i64]) -> Vec<Stretch> {
    (0..)
        .zip(from.iter().zip(until))
        .map(|(partition, (from, until))| Stretch {
            partition,
            from: *from,
            until: Some(*until),
        })
        .collect()
}

/// Which event a record is of, and what it makes of it; none where it is of none.
fn made(decoded: &Decoded, skew_us: i64) -> Option<(i64, Made)> {
    let BoardChange::Event { id, event } = &decoded.change else {
        return None;
    };
    let latest_us = decoded.record_time_us.saturating_add(skew_us);
    let made = match event {
        None => Made::Deleted,
        Some(event) if event.event_ts > latest_us => Made::Ahead,
        Some(_) => Made::InTime,
    };
    Some((*id, made))
}

fn change(id: i64, offset: i64, made: Made) -> [u8; CHANGE] {
    let made = match made {
        Made::Deleted => 0,
        Made::InTime => 1,
        Made::Ahead => 2,
    };
    // The latest of an event comes first.
    key(&[&id.field(), &(!offset).field(), &[made]])
}

/// Changes by event, the latest first.
struct Latest(Sorted<CHANGE>);

impl Latest {
    /// What the latest change of an event made of it; none where there is none.
    fn of(&self, id: i64) -> io::Result<Option<Made>> {
        let event = id.field();
        let found = self.0.first_with(&event, &key(&[&event]))?;
        Ok(found.map(|found| match found[CHANGE - 1] {
            0 => Made::Deleted,
            1 => Made::InTime,
            _ => Made::Ahead,
        }))
    }
}

impl From<AheadError> for VerifyError {
    fn from(error: AheadError) -> Self {
        match error {
            AheadError::Postgres(error) => error.into(),
            AheadError::ClickHouse(error) => error.into(),
            AheadError::Url(error) => error.into(),
            AheadError::Kafka(error) => error.into(),
            AheadError::Disk(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::project::Project, stack::Home, window::BoardEvent};

    const SKEW_US: i64 = 300_000_000;

    fn decoded(event_ts: Option<i64>, record_time_us: i64) -> Decoded {
        let event = event_ts.map(|event_ts| BoardEvent {
            content_id: None,
            event_ts,
            duration_ms: None,
        });
        Decoded {
            offset: 0,
            record_time_us,
            lsn: None,
            extra_fields: false,
            change: BoardChange::Event { id: -7, event },
        }
    }

    #[test]
    fn an_event_is_ahead_of_its_record_by_more_than_the_skew() {
        for (event_ts, record_time_us, expected) in [
            (Some(SKEW_US), 0, Made::InTime),
            (Some(SKEW_US + 1), 0, Made::Ahead),
            (Some(0), i64::MAX, Made::InTime),
            (None, 0, Made::Deleted),
        ] {
            let found = made(&decoded(event_ts, record_time_us), SKEW_US);
            assert_eq!(found, Some((-7, expected)), "{event_ts:?}");
        }
        let truncate = Decoded {
            change: BoardChange::Truncate,
            ..decoded(None, 0)
        };
        assert_eq!(made(&truncate, SKEW_US), None);
    }

    #[test]
    fn the_change_of_the_highest_offset_holds() {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::of(Home::at(home.path()).project(&Project::default()));
        let mut changes = Sorting::new(&scratch);
        for (id, offset, made) in [
            (7, 9, Made::InTime),
            (7, 12, Made::Ahead),
            (7, 3, Made::Deleted),
            (-7, 5, Made::Deleted),
            (8, 0, Made::InTime),
        ] {
            changes.add(change(id, offset, made)).expect("space");
        }
        let latest = Latest(changes.finish().expect("space"));
        let of = |id| latest.of(id).expect("readable");
        assert_eq!(of(7), Some(Made::Ahead));
        assert_eq!(of(-7), Some(Made::Deleted));
        assert_eq!(of(8), Some(Made::InTime));
        assert_eq!(of(9), None);
    }

    #[test]
    fn what_no_record_is_of_is_known_only_while_the_log_is_whole() {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::of(Home::at(home.path()).project(&Project::default()));
        let mut missing = Sorting::new(&scratch);
        for id in [i64::MIN, 3, 4, 5, i64::MAX] {
            missing.add(id.field()).expect("space");
        }
        let missing = missing.finish().expect("space");
        let mut changes = Sorting::new(&scratch);
        for (id, made) in [(3, Made::Ahead), (4, Made::InTime), (5, Made::Deleted)] {
            changes.add(change(id, 0, made)).expect("space");
        }
        let earlier = Latest(changes.finish().expect("space"));
        for (is_whole, unknown) in [(true, vec![]), (false, vec![i64::MIN, i64::MAX])] {
            let mut found = Ahead::default();
            let added = found.add_missing(&missing, &earlier, is_whole);
            added.expect("readable");
            assert_eq!((found.ids, found.unknown), (vec![3], unknown));
        }
    }
}
