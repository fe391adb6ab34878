//! Dead letters through their sink again, each at the position its record had.
//! Never into the source topic: to every other reader it would be a new change.
//!
//! The topic is read once to choose the letters, and once more for each sink to
//! apply them, so that no more than a batch is in memory.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{error::DlqError, filter::Filter};
use crate::{
    connections::Connections,
    kafka::{self, TopicIdentity},
    progress::{Progress, Unit, steps::Steps},
    runtime::{
        letter::{Letter, LetterId},
        letter_reader::{self, Reader},
        replay::{Batches, Bounds, Kept, ReplayError, Tally},
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

/// The groups in the order in which their letters are replayed: content before
/// the events that are enriched with it.
const ORDER: [ConsumerGroup; ConsumerGroup::ALL.len()] = [
    ConsumerGroup::Content,
    ConsumerGroup::Facts,
    ConsumerGroup::Http,
    ConsumerGroup::Board,
];

/// Through what a group's letters are replayed; none where the board is rebuilt
/// instead: it is made of the log, where the records still are.
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

/// What is applied at once, in letters and in bytes.
const BATCH: usize = 5_000;
const BATCH_BYTES: usize = 32 * 1024 * 1024;

/// Letters that are named in a report; the rest is counted.
pub const MAX_NAMED: usize = 1_000;

/// Sink, partition and offset of a record.
const RECORD: usize = 13;

/// The same with the letter's own partition and offset, the latest letter first.
const LETTER: usize = RECORD + 12;

/// The letters that will be replayed.
#[derive(Debug)]
pub struct Selected {
    filter: Filter,
    /// What has come since is not of it.
    bounds: Vec<kafka::Bounds>,
    lives: BTreeMap<String, TopicIdentity>,
    /// By the number of their group. Of several letters of one record, only the
    /// latest is replayed: it may be the mended one.
    letters: Sorted<LETTER>,
    counts: BTreeMap<ConsumerGroup, u64>,
    superseded: Named,
    /// Letters of sinks that are not configured.
    not_driven: u64,
}

/// Letters, counted, and the first of them by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Named {
    count: u64,
    ids: Vec<String>,
}

/// How to go about it.
#[derive(Debug, Clone)]
pub struct Replay {
    /// How long a sink may refuse.
    pub patience: Duration,
    pub stop: CancellationToken,
}

/// What became of the letters.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// By sink.
    pub replayed: BTreeMap<ConsumerGroup, Tally>,
    /// Letters that their sink rejects as before: how many, and the first
    /// [`MAX_NAMED`] of them.
    pub still_rejected_count: u64,
    pub still_rejected: Vec<String>,
    /// Letters of an earlier life of their topic, left alone, likewise.
    pub superseded_count: u64,
    pub superseded: Vec<String>,
    /// Members of the board that was made anew for its letters.
    pub board: Option<u64>,
}

impl Named {
    fn add(&mut self, id: LetterId) {
        self.count += 1;
        if self.ids.len() < MAX_NAMED {
            self.ids.push(id.to_string());
        }
    }
}

/// Finds the letters that the filter takes.
///
/// # Errors
/// When the broker does not answer, or a letter that was named is not there.
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
        lives: lives(connections).await?,
        letters: Sorted::default(),
        counts: BTreeMap::new(),
        superseded: Named::default(),
        not_driven: 0,
    };
    let mut letters = Sorting::new(scratch);
    let mut reader = Reader::within(connections, &selected.bounds)?;
    while let Some(letter) = reader.next().await? {
        if !selected.filter.takes(&letter) {
            continue;
        }
        missing.remove(&letter.id);
        if !selected.lives_on(&letter) {
            selected.superseded.add(letter.id);
            continue;
        }
        let Ok(group) = letter.sink.parse::<ConsumerGroup>() else {
            continue;
        };
        // Where its store would be is a default, and anything may be there.
        if !settings.pipeline.sinks.contains(&group.sink()) {
            selected.not_driven += 1;
            continue;
        }
        if through(group).is_some() {
            letters.add(place(group, &letter))?;
        }
        *selected.counts.entry(group).or_default() += 1;
    }
    if let Some(id) = missing.first() {
        return Err(DlqError::NoLetter {
            id: *id,
            topic: settings.kafka.dead_letter_topic.clone(),
        });
    }
    selected.letters = letters.finish()?;
    Ok(selected)
}

async fn lives(connections: &Connections) -> Result<BTreeMap<String, TopicIdentity>, DlqError> {
    let settings = connections.settings();
    let log = connections.kafka.log(&reader_group(settings, "dlq"))?;
    let mut lives = BTreeMap::new();
    for topic in [events_topic(settings), content_topic(settings)] {
        let identity = log.identity(&topic).await?;
        lives.extend(identity.map(|identity| (topic, identity)));
    }
    Ok(lives)
}

impl Selected {
    /// Whether the letter's position is one of its topic as it is now.
    fn lives_on(&self, letter: &Letter) -> bool {
        self.lives.get(&letter.topic).is_some_and(|life| {
            let is_partition = (0..life.partitions).contains(&letter.partition);
            life.to_string() == letter.generation && is_partition && letter.offset >= 0
        })
    }

    /// How many letters of each sink.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<ConsumerGroup, u64> {
        &self.counts
    }

    /// How many are left alone.
    #[must_use]
    pub fn superseded(&self) -> u64 {
        self.superseded.count
    }

    /// How many are left alone because their sink is not configured.
    #[must_use]
    pub fn not_driven(&self) -> u64 {
        self.not_driven
    }

    /// Whether the external system would be called again.
    #[must_use]
    pub fn goes_outside(&self) -> bool {
        self.counts.keys().any(|group| match group {
            ConsumerGroup::Http => true,
            ConsumerGroup::Board | ConsumerGroup::Facts | ConsumerGroup::Content => false,
        })
    }

    /// Replays them.
    ///
    /// # Errors
    /// When a sink halts, or refuses for too long. Again is harmless.
    pub async fn replay(
        self,
        connections: &Connections,
        how: &Replay,
        progress: &dyn Progress,
    ) -> Result<Report, DlqError> {
        let bounds = Bounds {
            patience: how.patience,
            stop: how.stop.clone(),
        };
        let mut report = Report::default();
        let mut still_rejected = Named::default();
        for group in ORDER {
            let Some(total) = self.counts.get(&group).copied() else {
                continue;
            };
            let Some(through) = through(group) else {
                report.board = Some(renew::rebuild(connections, how.patience, progress).await?);
                continue;
            };
            let steps = Steps::new(progress, group.name());
            steps.doing("replaying");
            let mut letters = OfGroup {
                selected: &self,
                group,
                reader: Reader::within(connections, &self.bounds)?,
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

/// The letters of one group, a batch at a time.
struct OfGroup<'a> {
    selected: &'a Selected,
    group: ConsumerGroup,
    reader: Reader,
    rejected: &'a mut Named,
    steps: &'a Steps<'a>,
    read: u64,
    total: u64,
}

impl OfGroup<'_> {
    /// Whether the letter is to be applied: of several of one record, the latest.
    fn takes(&self, letter: &Letter) -> std::io::Result<bool> {
        if letter.sink != self.group.name()
            || !self.selected.filter.takes(letter)
            || !self.selected.lives_on(letter)
        {
            return Ok(false);
        }
        let own = place(self.group, letter);
        let (record, _) = own.split_at(RECORD);
        let latest = self.selected.letters.first_with(record, &key(&[record]))?;
        Ok(latest == Some(own))
    }
}

impl Batches for OfGroup<'_> {
    async fn next(&mut self) -> Result<Option<Vec<Kept>>, ReplayError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(letter) = self.reader.next().await? else {
                break;
            };
            if self.takes(&letter).map_err(ReplayError::Disk)? {
                bytes += letter.size();
                batch.push(kept(letter));
            }
        }
        self.steps
            .advanced(self.read, Some(self.total), Unit::Records);
        self.read += batch.len() as u64;
        Ok((!batch.is_empty()).then_some(batch))
    }

    fn rejected(&mut self, (partition, offset): (i32, i64)) {
        self.rejected.add(LetterId { partition, offset });
    }
}

/// Of which group and record a letter is, and where it is itself, in descending
/// order.
fn place(group: ConsumerGroup, letter: &Letter) -> [u8; LETTER] {
    key(&[
        &[group as u8],
        &letter.partition.field(),
        &letter.offset.field(),
        &(!letter.id.partition).field(),
        &(!letter.id.offset).field(),
    ])
}

fn kept(letter: Letter) -> Kept {
    Kept {
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

    fn letter(own: (i32, i64), offset: i64) -> Letter {
        let mut letter = Letter::from(Seen {
            partition: own.0,
            offset: own.1,
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
    fn the_latest_letter_of_a_record_comes_first() {
        let place = |own, offset| place(ConsumerGroup::Http, &letter(own, offset));
        assert!(place((0, 9), 1) < place((0, 8), 1));
        assert!(place((0, i64::MAX), 1) < place((0, 0), 1));
        assert!(place((1, 0), 1) < place((0, 8), 1));
        assert!(place((0, 0), 1) < place((0, 9), 2));
    }

    #[test]
    fn each_group_has_its_turn_and_its_own_letters() {
        let mut all = ConsumerGroup::ALL;
        all.sort();
        let mut order = ORDER;
        order.sort();
        assert_eq!(order, all);
        let mut places = ORDER
            .map(|group| place(group, &letter((0, 1), 1))[0])
            .to_vec();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), ORDER.len());
    }
}
