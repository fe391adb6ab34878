//! Counts all dead letters of all workers in their topic. The count is stored in the
//! project's folder, so that the next count only reads new dead letters. A count is
//! limited in time, however many dead letters there are.

use std::{collections::BTreeMap, fs, io, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::{
    connections::Connections,
    failure::chain,
    kafka::{Bounds, KafkaError, Seen, Stretch},
    operations::dlq::PURGED,
    source::tables::reader_group,
    stack::{ProjectDir, files},
};

/// Format of the file.
const FORMAT: u32 = 1;

/// Maximum duration of one count.
const BUDGET: Duration = Duration::from_secs(2);

/// Maximum number of kinds that are counted separately, because headers may have any
/// text. All others are counted as one more kind.
const MAX_KINDS: usize = 200;

/// Numbers of dead letters by sink and code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeadLetters {
    pub counts: Counts,
    /// Whether all dead letters were counted. If not, the next count continues.
    pub is_complete: bool,
}

/// Numbers of dead letters, by sink and then by code.
pub type Counts = BTreeMap<String, BTreeMap<String, u64>>;

impl DeadLetters {
    /// Returns the number of dead letters of a sink.
    #[must_use]
    pub fn of(&self, sink: &str) -> u64 {
        let counts = self.counts.get(sink).into_iter().flatten();
        counts.map(|(_, letters)| letters).sum()
    }
}

/// Stored count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct StoredCount {
    format: u32,
    /// Incarnation of the dead-letter topic.
    topic: String,
    /// Start offset of the log when counting began, by partition.
    from: BTreeMap<i32, i64>,
    /// Next offset to count, by partition.
    next: BTreeMap<i32, i64>,
    counts: Counts,
}

/// Counts the dead letters, continuing from the stored count.
///
/// # Errors
/// One line about the failure.
pub(super) async fn count(
    connections: &Connections,
    dir: &ProjectDir,
) -> Result<DeadLetters, String> {
    let file = dir.path().join("dead-letters.json");
    let result = continue_count(connections, &file).await;
    result.map_err(|error| chain(&error))
}

async fn continue_count(connections: &Connections, file: &Path) -> Result<DeadLetters, KafkaError> {
    let deadline = Instant::now() + BUDGET;
    let (settings, kafka) = (connections.settings(), &connections.kafka);
    let topic = &settings.kafka.dead_letter_topic;
    let reader = reader_group(settings, "dlq");
    let log = kafka.log(&reader)?;
    let Some(identity) = log.identity(topic).await? else {
        return Ok(DeadLetters {
            is_complete: true,
            ..DeadLetters::default()
        });
    };
    let bounds = log.bounds(topic).await?;
    let stored = StoredCount::load(file);
    let mut count = stored.clone().valid_for(&identity.to_string(), &bounds);
    let stretches = count.remaining(&bounds);
    let mut is_complete = true;
    if !stretches.is_empty() {
        let mut scan = kafka.scan(&reader, topic, &stretches)?;
        loop {
            match timeout_at(deadline, scan.next()).await {
                Ok(Ok(Some(seen))) => count.add(&seen),
                Ok(Ok(None)) => {
                    count.set_end(&bounds);
                    break;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    is_complete = false;
                    break;
                }
            }
        }
    }
    if count != stored
        && let Err(error) = count.save(file)
    {
        // The next count starts at the same offset again.
        tracing::debug!(%error, "cannot store the count of dead letters");
    }
    Ok(DeadLetters {
        counts: count.counts,
        is_complete,
    })
}

impl StoredCount {
    /// Reads the stored count. Returns an empty one if it cannot be read.
    fn load(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Stores the count atomically, unless the project has no folder.
    fn save(&self, file: &Path) -> io::Result<()> {
        if !file.parent().is_some_and(Path::exists) {
            return Ok(());
        }
        files::write_atomically(file, &serde_json::to_vec(self)?)
    }

    /// Returns the count if it is valid for this log, otherwise an empty one. A purge
    /// invalidates the count, because it deletes the start of the log.
    fn valid_for(self, topic: &str, bounds: &[Bounds]) -> Self {
        let starts: BTreeMap<i32, i64> = (0..)
            .zip(bounds.iter().map(|bounds| bounds.start))
            .collect();
        let is_within = (0..).zip(bounds).all(|(partition, bounds)| {
            let next = self.next.get(&partition).copied();
            next.is_none_or(|next| next <= bounds.end)
        });
        if self.format == FORMAT && self.topic == topic && self.from == starts && is_within {
            return self;
        }
        Self {
            format: FORMAT,
            topic: topic.to_owned(),
            next: starts.clone(),
            from: starts,
            counts: Counts::new(),
        }
    }

    /// Returns the ranges that are not counted yet.
    fn remaining(&self, bounds: &[Bounds]) -> Vec<Stretch> {
        let stretch = |(partition, bounds): (i32, &Bounds)| Stretch {
            partition,
            from: self.next.get(&partition).copied().unwrap_or(bounds.start),
            until: Some(bounds.end),
        };
        let stretches = (0..).zip(bounds).map(stretch);
        stretches
            .filter(|stretch| stretch.until.is_some_and(|until| stretch.from < until))
            .collect()
    }

    fn add(&mut self, seen: &Seen) {
        self.next.insert(seen.partition, seen.offset + 1);
        // A purged dead letter has no payload and is not counted.
        if seen.header(PURGED).is_some() {
            return;
        }
        let text = |name: &str| seen.header(name).unwrap_or_default();
        let (mut sink, mut code) = (text("fanout-sink"), text("fanout-code"));
        let kinds: usize = self.counts.values().map(BTreeMap::len).sum();
        let is_known = |codes: &BTreeMap<String, u64>| codes.contains_key(&code);
        if kinds >= MAX_KINDS && !self.counts.get(&sink).is_some_and(is_known) {
            (sink, code) = ("other".to_owned(), "other".to_owned());
        }
        *self
            .counts
            .entry(sink)
            .or_default()
            .entry(code)
            .or_default() += 1;
    }

    /// Records that everything before the ends was counted, including transaction
    /// markers at the end.
    fn set_end(&mut self, bounds: &[Bounds]) {
        for (partition, bounds) in (0..).zip(bounds) {
            let next = self.next.entry(partition).or_default();
            *next = bounds.end.max(*next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(offset: i64, headers: &[(&str, &str)]) -> Seen {
        let owned = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Seen {
            partition: 0,
            offset,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: owned.collect(),
        }
    }

    fn letter(offset: i64, sink: &str, code: &str) -> Seen {
        seen(offset, &[("fanout-sink", sink), ("fanout-code", code)])
    }

    fn bounds(start: i64, end: i64) -> [Bounds; 1] {
        [Bounds { start, end }]
    }

    #[test]
    fn a_count_continues_where_the_last_one_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("dead-letters.json");
        let mut count = StoredCount::load(&file).valid_for("t/1", &bounds(0, 3));
        assert_eq!(count.remaining(&bounds(0, 3))[0].from, 0);
        count.add(&letter(0, "http", "http_rejected"));
        count.add(&letter(1, "http", "bad_uuid"));
        count.add(&seen(2, &[("fanout-sink", "http"), (PURGED, "now")]));
        count.save(&file).expect("store the count");
        let mut loaded = StoredCount::load(&file).valid_for("t/1", &bounds(0, 5));
        assert_eq!(loaded, count);
        assert_eq!(loaded.remaining(&bounds(0, 5))[0].from, 3);
        loaded.add(&letter(3, "redis", "bad_uuid"));
        // The log ends with a marker.
        loaded.set_end(&bounds(0, 5));
        assert!(loaded.remaining(&bounds(0, 5)).is_empty());
        let letters = DeadLetters {
            counts: loaded.counts,
            is_complete: true,
        };
        assert_eq!((letters.of("http"), letters.of("redis")), (2, 1));
        assert_eq!(letters.of("clickhouse"), 0);
    }

    #[test]
    fn another_log_is_counted_from_the_start() {
        let mut count = StoredCount::default().valid_for("t/1", &bounds(0, 9));
        count.add(&letter(7, "http", "bad_uuid"));
        for (topic, bounds) in [
            ("t/2", bounds(0, 9)),
            ("t/1", bounds(5, 9)),
            ("t/1", bounds(0, 4)),
        ] {
            let fresh = count.clone().valid_for(topic, &bounds);
            assert!(fresh.counts.is_empty(), "{topic}");
            assert_eq!(fresh.remaining(&bounds)[0].from, bounds[0].start);
        }
    }

    #[test]
    fn the_number_of_kinds_is_bounded() {
        let mut count = StoredCount::default();
        for number in 0..1_000 {
            count.add(&letter(number, "http", &format!("code {number}")));
        }
        let kinds: usize = count.counts.values().map(BTreeMap::len).sum();
        assert_eq!(kinds, MAX_KINDS + 1);
        assert_eq!(count.counts["other"]["other"], 800);
    }
}
