//! Finds the events of a window that are too far ahead of their record to be on the
//! board. ClickHouse stores the times of the records. If it is not a sink, they are
//! read from the log.
//!
//! The changes of the log are sorted on disk, so memory does not grow with the log.

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

/// Length of a change in bytes: event, offset in descending order, and the state of
/// the event after the change.
const CHANGE_LENGTH: usize = 17;

/// The events of a window that the board does not count because of the time of their
/// record.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Events that are too far ahead of their record.
    pub ids: Vec<i64>,
    /// Events without a record in the log. They are too far ahead of a record that
    /// the log no longer has, or their record was lost.
    pub unknown: Vec<i64>,
}

/// Error while finding events that are ahead of their record.
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

/// State of an event after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventState {
    Deleted,
    InTime,
    Ahead,
}

/// Finds the events that are ahead of their record among the events that `client`
/// sees. If `content` is given, events of other contents may be omitted.
///
/// # Errors
/// If a server does not respond, or the disk is full.
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
    let finder = AheadFinder::new(connections, scratch, moment)?;
    let ahead = finder.find(client, content);
    // The future is large because it awaits many queries: keep it on the heap.
    Box::pin(ahead).await
}

/// Finds the events that are ahead of their record in the log.
struct AheadFinder<'a> {
    connections: &'a Connections,
    scratch: &'a Scratch,
    moment: Moment,
    skew_us: i64,
    topic: String,
    reader: String,
    log: Log,
    decoder: BoardDecoder,
}

impl<'a> AheadFinder<'a> {
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
        let mut ahead = Ahead::default();
        let bounds = self.log.bounds(&self.topic).await?;
        let starts: Vec<i64> = bounds.iter().map(|bounds| bounds.start).collect();
        let ends: Vec<i64> = bounds.iter().map(|bounds| bounds.end).collect();
        let recent_starts = self.recent_starts(&bounds).await?;
        let recent_range = offset_ranges(&recent_starts, &ends);
        let recent_changes = self.read(&recent_range, None).await?;
        let without_recent_change = self
            .check_recent(client, content, &recent_changes, &mut ahead)
            .await?;
        if without_recent_change.len() == 0 {
            return Ok(ahead);
        }
        let earlier_range = offset_ranges(&starts, &recent_starts);
        let earlier_changes = self.read(&earlier_range, Some(&without_recent_change));
        let earlier_changes = earlier_changes.await?;
        // If no record was deleted, the log has a record of every event. If one is
        // missing, it was lost or has not arrived yet.
        let is_complete = starts.iter().all(|start| *start == 0);
        ahead.add_without_recent_change(&without_recent_change, &earlier_changes, is_complete)?;
        Ok(ahead)
    }

    /// Adds the events whose latest recent change is ahead. Returns the events without
    /// a recent change.
    async fn check_recent(
        &self,
        client: &Client,
        content: Option<Uuid>,
        recent_changes: &LatestChanges,
        ahead: &mut Ahead,
    ) -> Result<Sorted<8>, AheadError> {
        let mut without_recent_change = Sorting::new(self.scratch);
        let mut from = Some(i64::MIN);
        while let Some(first) = from {
            let ids = eligible::ids(client, self.moment, content, first).await?;
            from = ids.last().and_then(|last| last.checked_add(1));
            for id in ids {
                match recent_changes.state(id)? {
                    Some(EventState::Ahead) => ahead.ids.push(id),
                    Some(EventState::InTime | EventState::Deleted) => {}
                    None => without_recent_change.add(id.field())?,
                }
            }
        }
        Ok(without_recent_change.finish()?)
    }

    /// Returns, for each partition, the offset of the first record that is late enough
    /// for the window.
    async fn recent_starts(&self, bounds: &[Bounds]) -> Result<Vec<i64>, KafkaError> {
        let since_us = self.moment.after_us().saturating_sub(self.skew_us);
        let since_ms = since_us.div_euclid(MICROS_PER_MILLI).max(0);
        let offsets = self.log.offsets_at(&self.topic, since_ms).await?;
        let clamp_offset = |(index, bounds): (usize, &Bounds)| {
            let offset = offsets.get(index).copied().unwrap_or(bounds.start);
            offset.clamp(bounds.start, bounds.end.max(bounds.start))
        };
        Ok(bounds.iter().enumerate().map(clamp_offset).collect())
    }

    /// Reads the latest change of each event in these offset ranges. If `events` is
    /// given, reads only their changes.
    async fn read(
        &self,
        offset_ranges: &[Stretch],
        events: Option<&Sorted<8>>,
    ) -> Result<LatestChanges, AheadError> {
        let kafka = &self.connections.kafka;
        let mut scan = kafka.scan(&self.reader, &self.topic, offset_ranges)?;
        let mut changes = Sorting::new(self.scratch);
        while let Some(record) = scan.next().await? {
            let decoded = self.decoder.decode_one(0, &record.record(&self.topic));
            let Some((id, state)) = event_state(&decoded, self.skew_us) else {
                continue;
            };
            let is_requested = match events {
                Some(events) => events.contains(&id.field())?,
                None => true,
            };
            if is_requested {
                changes.add(change(id, decoded.offset, state))?;
            }
        }
        Ok(LatestChanges(changes.finish()?))
    }
}

impl Ahead {
    /// Adds events without a recent change. Any event of the window is ahead of an
    /// earlier record.
    fn add_without_recent_change(
        &mut self,
        without_recent_change: &Sorted<8>,
        earlier_changes: &LatestChanges,
        is_complete: bool,
    ) -> io::Result<()> {
        let mut from = without_recent_change.at_or_after(&i64::MIN.field())?;
        while let Some(field) = from {
            let id = number(field);
            match earlier_changes.state(id)? {
                Some(EventState::Ahead) => self.ids.push(id),
                None if !is_complete => self.unknown.push(id),
                // Postgres has another change of the event than the log.
                Some(EventState::InTime | EventState::Deleted) | None => {}
            }
            from = match id.checked_add(1) {
                Some(next) => without_recent_change.at_or_after(&next.field())?,
                None => None,
            };
        }
        Ok(())
    }
}

/// Returns the offset ranges between `from` and `until`, both indexed by partition.
fn offset_ranges(from: &[i64], until: &[i64]) -> Vec<Stretch> {
    (0..)
        .zip(from.iter().zip(until))
        .map(|(partition, (from, until))| Stretch {
            partition,
            from: *from,
            until: Some(*until),
        })
        .collect()
}

/// Returns the event of a record, and its state after the change. Returns `None` if the
/// record is not a change of an event.
fn event_state(decoded: &Decoded, skew_us: i64) -> Option<(i64, EventState)> {
    let BoardChange::Event { id, event } = &decoded.change else {
        return None;
    };
    let latest_us = decoded.record_time_us.saturating_add(skew_us);
    let state = match event {
        None => EventState::Deleted,
        Some(event) if event.event_ts > latest_us => EventState::Ahead,
        Some(_) => EventState::InTime,
    };
    Some((*id, state))
}

fn change(id: i64, offset: i64, state: EventState) -> [u8; CHANGE_LENGTH] {
    let state = match state {
        EventState::Deleted => 0,
        EventState::InTime => 1,
        EventState::Ahead => 2,
    };
    // The latest change of an event sorts first.
    key(&[&id.field(), &(!offset).field(), &[state]])
}

/// Changes sorted by event, the latest first.
struct LatestChanges(Sorted<CHANGE_LENGTH>);

impl LatestChanges {
    /// Returns the state of an event after its latest change, or `None` if it has no
    /// change.
    fn state(&self, id: i64) -> io::Result<Option<EventState>> {
        let event = id.field();
        let change = self.0.first_with(&event, &key(&[&event]))?;
        Ok(change.map(|change| match change[CHANGE_LENGTH - 1] {
            0 => EventState::Deleted,
            1 => EventState::InTime,
            _ => EventState::Ahead,
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
            (Some(SKEW_US), 0, EventState::InTime),
            (Some(SKEW_US + 1), 0, EventState::Ahead),
            (Some(0), i64::MAX, EventState::InTime),
            (None, 0, EventState::Deleted),
        ] {
            let state = event_state(&decoded(event_ts, record_time_us), SKEW_US);
            assert_eq!(state, Some((-7, expected)), "{event_ts:?}");
        }
        let truncate = Decoded {
            change: BoardChange::Truncate,
            ..decoded(None, 0)
        };
        assert_eq!(event_state(&truncate, SKEW_US), None);
    }

    #[test]
    fn the_change_with_the_highest_offset_decides() {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::of(Home::at(home.path()).project(&Project::default()));
        let mut changes = Sorting::new(&scratch);
        for (id, offset, state) in [
            (7, 9, EventState::InTime),
            (7, 12, EventState::Ahead),
            (7, 3, EventState::Deleted),
            (-7, 5, EventState::Deleted),
            (8, 0, EventState::InTime),
        ] {
            let added = changes.add(change(id, offset, state));
            added.expect("sort the change");
        }
        let latest = LatestChanges(changes.finish().expect("sort the changes"));
        let state = |id| latest.state(id).expect("read the changes");
        assert_eq!(state(7), Some(EventState::Ahead));
        assert_eq!(state(-7), Some(EventState::Deleted));
        assert_eq!(state(8), Some(EventState::InTime));
        assert_eq!(state(9), None);
    }

    #[test]
    fn events_without_a_record_are_unknown_unless_the_log_is_complete() {
        let home = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::of(Home::at(home.path()).project(&Project::default()));
        let mut events = Sorting::new(&scratch);
        for id in [i64::MIN, 3, 4, 5, i64::MAX] {
            events.add(id.field()).expect("sort the event");
        }
        let events = events.finish().expect("sort the events");
        let mut changes = Sorting::new(&scratch);
        for (id, state) in [
            (3, EventState::Ahead),
            (4, EventState::InTime),
            (5, EventState::Deleted),
        ] {
            let added = changes.add(change(id, 0, state));
            added.expect("sort the change");
        }
        let earlier_changes = LatestChanges(changes.finish().expect("sort the changes"));
        for (is_complete, unknown) in [(true, vec![]), (false, vec![i64::MIN, i64::MAX])] {
            let mut ahead = Ahead::default();
            let added = ahead.add_without_recent_change(&events, &earlier_changes, is_complete);
            added.expect("read the changes");
            assert_eq!((ahead.ids, ahead.unknown), (vec![3], unknown));
        }
    }
}
