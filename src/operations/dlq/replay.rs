//! Replays dead letters through their sink, each at the position of its record. They
//! are never written to the source topic, where every other reader would take them for
//! new changes.
//!
//! The dead-letter topic is read once to select the dead letters, and once more per
//! sink to apply them, so that only one batch is in memory.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{error::DlqError, filter::Filter};
use crate::{
    connections::Connections,
    kafka::{self, TopicIdentity},
    progress::{Progress, Unit, steps::Steps},
    runtime::{
        letter::{DeadLetter, DeadLetterId},
        letter_reader::{self, DeadLetterReader},
        replay::{Batches, Bounds, ReplayError, ReplayRecord, Tally},
    },
    sink_kind::ConsumerGroup,
    sinks::{
        redis::renew,
        replay::{self, Through},
    },
    source::tables::{content_topic, events_topic, reader_group},
    spill::{
        scratch::Scratch,
        sorted::{Field as _, Sorted, Sorting, key},
    },
};

/// Order in which the dead letters of the groups are replayed: content before the
/// events that are enriched with it.
const REPLAY_ORDER: [ConsumerGroup; ConsumerGroup::ALL.len()] = [
    ConsumerGroup::Content,
    ConsumerGroup::Facts,
    ConsumerGroup::Http,
    ConsumerGroup::Board,
];

/// Returns the sink through which a group's dead letters are replayed. `None` for the
/// board, which is rebuilt from the log instead, where the records still are.
fn through(group: ConsumerGroup) -> Option<Through> {
    match group {
        ConsumerGroup::Board => None,
        ConsumerGroup::Facts => Some(Through::ClickHouse),
        ConsumerGroup::Http => Some(Through::Http {
            include_snapshots: false,
        }),
        ConsumerGroup::Content => Some(Through::Content),
    }
}

/// Maximum number of dead letters, and of bytes, in one batch.
const BATCH: usize = 5_000;
const BATCH_BYTES: usize = 32 * 1024 * 1024;

/// Maximum number of dead letters listed in a report. The others are only counted.
pub const MAX_NAMED: usize = 1_000;

/// Length of a record key in bytes: group, partition, offset.
const RECORD_KEY_LEN: usize = 13;

/// Length of a sort key in bytes: the record key, followed by the position of the dead
/// letter, inverted so that the latest dead letter sorts first.
const SORT_KEY_LEN: usize = RECORD_KEY_LEN + 12;

/// The dead letters that will be replayed.
#[derive(Debug)]
pub struct Selected {
    filter: Filter,
    /// Bounds of the dead-letter topic at the time of the selection.
    bounds: Vec<kafka::Bounds>,
    /// Current identity of each source topic.
    identities: BTreeMap<String, TopicIdentity>,
    /// Sort keys. If a record has several dead letters, only the latest is replayed,
    /// because it may be the corrected one.
    sort_keys: Sorted<SORT_KEY_LEN>,
    counts: BTreeMap<ConsumerGroup, u64>,
    superseded: Listed,
    /// Number of dead letters whose sink is not configured.
    not_driven: u64,
}

/// A number of dead letters, with the ids of the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Listed {
    count: u64,
    ids: Vec<String>,
}

/// Options of a replay.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Maximum time that a sink may fail.
    pub patience: Duration,
    pub stop: CancellationToken,
}

/// Result of a replay.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Counts by sink.
    pub replayed: BTreeMap<ConsumerGroup, Tally>,
    /// Number of dead letters that their sink rejects again. The first [`MAX_NAMED`] of
    /// them are in `still_rejected`.
    pub still_rejected_count: u64,
    pub still_rejected: Vec<String>,
    /// Number of skipped dead letters from an earlier incarnation of their topic. The
    /// first [`MAX_NAMED`] of them are in `superseded`.
    pub superseded_count: u64,
    pub superseded: Vec<String>,
    /// Number of members of the board, if it was rebuilt for its dead letters.
    pub board: Option<u64>,
}

impl Listed {
    fn add(&mut self, id: DeadLetterId) {
        self.count += 1;
        if self.ids.len() < MAX_NAMED {
            self.ids.push(id.to_string());
        }
    }
}

/// Selects the dead letters that match the filter.
///
/// # Errors
/// If the broker does not respond, or a dead letter named in the filter does not exist.
pub async fn select(
    connections: &Connections,
    scratch: &Scratch,
    filter: Filter,
) -> Result<Selected, DlqError> {
    let settings = connections.settings();
    let mut missing = filter.ids.clone();
    let mut selected = Selected {
        filter,
        bounds: letter_reader::bounds(connections).await?,
        identities: identities(connections).await?,
        sort_keys: Sorted::default(),
        counts: BTreeMap::new(),
        superseded: Listed::default(),
        not_driven: 0,
    };
    let mut sort_keys = Sorting::new(scratch);
    let mut reader = DeadLetterReader::within(connections, &selected.bounds)?;
    while let Some(letter) = reader.next().await? {
        if !selected.filter.matches(&letter) {
            continue;
        }
        missing.remove(&letter.id);
        if !selected.is_current(&letter) {
            selected.superseded.add(letter.id);
            continue;
        }
        let Ok(group) = letter.sink.parse::<ConsumerGroup>() else {
            continue;
        };
        // The address of the store would be a default, where any server may run.
        if !settings.pipeline.sinks.contains(&group.sink()) {
            selected.not_driven += 1;
            continue;
        }
        if through(group).is_some() {
            sort_keys.add(sort_key(group, &letter))?;
        }
        *selected.counts.entry(group).or_default() += 1;
    }
    if let Some(id) = missing.first() {
        return Err(DlqError::NotFound {
            id: *id,
            topic: settings.kafka.dead_letter_topic.clone(),
        });
    }
    selected.sort_keys = sort_keys.finish()?;
    Ok(selected)
}

/// Returns the current identity of each source topic.
async fn identities(
    connections: &Connections,
) -> Result<BTreeMap<String, TopicIdentity>, DlqError> {
    let settings = connections.settings();
    let log = connections.kafka.log(&reader_group(settings, "dlq"))?;
    let mut identities = BTreeMap::new();
    for topic in [events_topic(settings), content_topic(settings)] {
        let identity = log.identity(&topic).await?;
        identities.extend(identity.map(|identity| (topic, identity)));
    }
    Ok(identities)
}

impl Selected {
    /// Returns true if the position of the record is valid in the current incarnation
    /// of its topic.
    fn is_current(&self, letter: &DeadLetter) -> bool {
        self.identities.get(&letter.topic).is_some_and(|identity| {
            let is_partition = (0..identity.partitions).contains(&letter.partition);
            identity.to_string() == letter.generation && is_partition && letter.offset >= 0
        })
    }

    /// Returns the number of dead letters of each sink.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<ConsumerGroup, u64> {
        &self.counts
    }

    /// Returns the number of dead letters that are skipped because their topic was
    /// recreated.
    #[must_use]
    pub fn superseded(&self) -> u64 {
        self.superseded.count
    }

    /// Returns the number of dead letters that are skipped because their sink is not
    /// configured.
    #[must_use]
    pub fn not_driven(&self) -> u64 {
        self.not_driven
    }

    /// Returns true if the replay would call the external system again.
    #[must_use]
    pub fn goes_outside(&self) -> bool {
        self.counts.keys().any(|group| match group {
            ConsumerGroup::Http => true,
            ConsumerGroup::Board | ConsumerGroup::Facts | ConsumerGroup::Content => false,
        })
    }

    /// Replays the selected dead letters.
    ///
    /// # Errors
    /// If a sink halts, or fails for too long. The replay can then be repeated.
    pub async fn replay(
        self,
        connections: &Connections,
        options: &Replay,
        progress: &dyn Progress,
    ) -> Result<Report, DlqError> {
        let bounds = Bounds {
            patience: options.patience,
            stop: options.stop.clone(),
        };
        let mut report = Report::default();
        let mut still_rejected = Listed::default();
        for group in REPLAY_ORDER {
            let Some(total) = self.counts.get(&group).copied() else {
                continue;
            };
            let Some(through) = through(group) else {
                report.board = Some(renew::rebuild(connections, options.patience, progress).await?);
                continue;
            };
            let steps = Steps::new(progress, group.name());
            steps.doing("replaying");
            let mut letters = GroupLetters {
                selected: &self,
                group,
                reader: DeadLetterReader::within(connections, &self.bounds)?,
                rejected: &mut still_rejected,
                steps: &steps,
                read: 0,
                total,
            };
            let work = replay::apply(connections, through, &mut letters, &bounds);
            let tally = Box::pin(work).await?;
            report.replayed.insert(group, tally);
            steps.done("replayed");
        }
        report.still_rejected_count = still_rejected.count;
        report.still_rejected = still_rejected.ids;
        report.superseded_count = self.superseded.count;
        report.superseded = self.superseded.ids;
        Ok(report)
    }
}

/// Provides the selected dead letters of one group in batches.
struct GroupLetters<'a> {
    selected: &'a Selected,
    group: ConsumerGroup,
    reader: DeadLetterReader,
    rejected: &'a mut Listed,
    steps: &'a Steps<'a>,
    read: u64,
    total: u64,
}

impl GroupLetters<'_> {
    /// Returns true if the dead letter is to be applied. If a record has several dead
    /// letters, only the latest one is.
    fn is_selected(&self, letter: &DeadLetter) -> std::io::Result<bool> {
        if letter.sink != self.group.name()
            || !self.selected.filter.matches(letter)
            || !self.selected.is_current(letter)
        {
            return Ok(false);
        }
        let sort_key = sort_key(self.group, letter);
        let (record, _) = sort_key.split_at(RECORD_KEY_LEN);
        let latest = self
            .selected
            .sort_keys
            .first_with(record, &key(&[record]))?;
        Ok(latest == Some(sort_key))
    }
}

impl Batches for GroupLetters<'_> {
    async fn next(&mut self) -> Result<Option<Vec<ReplayRecord>>, ReplayError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(letter) = self.reader.next().await? else {
                break;
            };
            if self.is_selected(&letter).map_err(ReplayError::Disk)? {
                bytes += letter.size();
                batch.push(record(letter));
            }
        }
        self.steps
            .advanced(self.read, Some(self.total), Unit::Records);
        self.read += batch.len() as u64;
        Ok((!batch.is_empty()).then_some(batch))
    }

    fn rejected(&mut self, (partition, offset): (i32, i64)) {
        self.rejected.add(DeadLetterId { partition, offset });
    }
}

/// Returns the sort key of a dead letter: group and record, then its own position in
/// descending order.
fn sort_key(group: ConsumerGroup, letter: &DeadLetter) -> [u8; SORT_KEY_LEN] {
    key(&[
        &[group as u8],
        &letter.partition.field(),
        &letter.offset.field(),
        &(!letter.id.partition).field(),
        &(!letter.id.offset).field(),
    ])
}

/// Returns the record of a dead letter.
fn record(letter: DeadLetter) -> ReplayRecord {
    ReplayRecord {
        id: (letter.id.partition, letter.id.offset),
        partition: letter.partition,
        offset: letter.offset,
        timestamp_ms: letter.timestamp_ms,
        key: letter.key,
        value: letter.value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Seen;

    fn letter(id: (i32, i64), offset: i64) -> DeadLetter {
        let mut letter = DeadLetter::from(Seen {
            partition: id.0,
            offset: id.1,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Vec::new(),
        });
        letter.partition = 0;
        letter.offset = offset;
        letter
    }

    #[test]
    fn the_latest_dead_letter_of_a_record_sorts_first() {
        let sort_key = |id, offset| sort_key(ConsumerGroup::Http, &letter(id, offset));
        assert!(sort_key((0, 9), 1) < sort_key((0, 8), 1));
        assert!(sort_key((0, i64::MAX), 1) < sort_key((0, 0), 1));
        assert!(sort_key((1, 0), 1) < sort_key((0, 8), 1));
        assert!(sort_key((0, 0), 1) < sort_key((0, 9), 2));
    }

    #[test]
    fn every_group_is_replayed_with_its_own_dead_letters() {
        let mut all = ConsumerGroup::ALL;
        all.sort();
        let mut order = REPLAY_ORDER;
        order.sort();
        assert_eq!(order, all);
        let mut prefixes = REPLAY_ORDER
            .map(|group| sort_key(group, &letter((0, 1), 1))[0])
            .to_vec();
        prefixes.sort_unstable();
        prefixes.dedup();
        assert_eq!(prefixes.len(), REPLAY_ORDER.len());
    }
}
