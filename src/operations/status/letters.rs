//! Dead letters since the beginning, of all workers: counted in their topic. What
//! was counted is kept beside the project's state, so that the next look reads
//! only what has come since, and a look ends in time however many there are.

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

/// How long one look may read.
const BUDGET: Duration = Duration::from_secs(2);

/// Kinds counted apart. Headers are text from outside; the rest is one more.
const MAX_KINDS: usize = 200;

/// How many there are, by sink and code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeadLetters {
    pub counts: Counts,
    /// Whether all were counted; the next look goes on.
    pub is_complete: bool,
}

/// Sink → code → letters.
pub type Counts = BTreeMap<String, BTreeMap<String, u64>>;

impl DeadLetters {
    /// All of a sink's.
    #[must_use]
    pub fn of(&self, sink: &str) -> u64 {
        let counts = self.counts.get(sink).into_iter().flatten();
        counts.map(|(_, letters)| letters).sum()
    }
}

/// What was counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    format: u32,
    /// The incarnation of the topic that the offsets are of.
    topic: String,
    /// By partition: where the log began when counting did, and the offset that
    /// comes next.
    from: BTreeMap<i32, i64>,
    next: BTreeMap<i32, i64>,
    counts: Counts,
}

/// Counts what has come since the last look.
///
/// # Errors
/// What went wrong, as one line.
pub(super) async fn count(
    connections: &Connections,
    dir: &ProjectDir,
) -> Result<DeadLetters, String> {
    let file = dir.path().join("dead-letters.json");
    let counted = look(connections, &file).await;
    counted.map_err(|error| chain(&error))
}

async fn look(connections: &Connections, file: &Path) -> Result<DeadLetters, KafkaError> {
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
    let before = Counted::load(file);
    let mut counted = before.clone().continued(&identity.to_string(), &bounds);
    let stretches = counted.open(&bounds);
    let mut is_complete = true;
    if !stretches.is_empty() {
        let mut scan = kafka.scan(&reader, topic, &stretches)?;
        loop {
            match timeout_at(deadline, scan.next()).await {
                Ok(Ok(Some(seen))) => counted.add(&seen),
                Ok(Ok(None)) => {
                    counted.reached(&bounds);
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
    if counted != before
        && let Err(error) = counted.save(file)
    {
        // The next look counts them again.
        tracing::debug!(%error, "the count of dead letters is not kept");
    }
    Ok(DeadLetters {
        counts: counted.counts,
        is_complete,
    })
}

impl Counted {
    /// What was kept; nothing where that cannot be read.
    fn load(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Writes it whole or not at all. Without a project there is no folder.
    fn save(&self, file: &Path) -> io::Result<()> {
        if !file.parent().is_some_and(Path::exists) {
            return Ok(());
        }
        files::write_atomically(file, &serde_json::to_vec(self)?)
    }

    /// What was counted, where it still is of this log; else nothing. A purge
    /// deletes the beginning of the log, and changes what there is to count.
    fn continued(self, topic: &str, bounds: &[Bounds]) -> Self {
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

    /// What is still to be read.
    fn open(&self, bounds: &[Bounds]) -> Vec<Stretch> {
        let stretch = |(partition, bounds): (i32, &Bounds)| Stretch {
            partition,
            from: self.next.get(&partition).copied().unwrap_or(bounds.start),
            until: Some(bounds.end),
        };
        let all = (0..).zip(bounds).map(stretch);
        all.filter(|stretch| stretch.until.is_some_and(|until| stretch.from < until))
            .collect()
    }

    fn add(&mut self, seen: &Seen) {
        self.next.insert(seen.partition, seen.offset + 1);
        // Of a purged one only its place is left.
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

    /// Everything before these ends was read, also where it ends with markers.
    fn reached(&mut self, bounds: &[Bounds]) {
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
    fn a_look_goes_on_where_the_last_one_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("dead-letters.json");
        let mut counted = Counted::load(&file).continued("t/1", &bounds(0, 3));
        assert_eq!(counted.open(&bounds(0, 3))[0].from, 0);
        counted.add(&letter(0, "http", "http_rejected"));
        counted.add(&letter(1, "http", "bad_uuid"));
        counted.add(&seen(2, &[("fanout-sink", "http"), (PURGED, "now")]));
        counted.save(&file).expect("kept");
        let mut again = Counted::load(&file).continued("t/1", &bounds(0, 5));
        assert_eq!(again, counted);
        assert_eq!(again.open(&bounds(0, 5))[0].from, 3);
        again.add(&letter(3, "redis", "bad_uuid"));
        // The end of the log is a marker.
        again.reached(&bounds(0, 5));
        assert!(again.open(&bounds(0, 5)).is_empty());
        let letters = DeadLetters {
            counts: again.counts,
            is_complete: true,
        };
        assert_eq!((letters.of("http"), letters.of("redis")), (2, 1));
        assert_eq!(letters.of("clickhouse"), 0);
    }

    #[test]
    fn another_log_is_counted_from_its_beginning() {
        let mut counted = Counted::default().continued("t/1", &bounds(0, 9));
        counted.add(&letter(7, "http", "bad_uuid"));
        for (topic, bounds) in [
            ("t/2", bounds(0, 9)),
            ("t/1", bounds(5, 9)),
            ("t/1", bounds(0, 4)),
        ] {
            let fresh = counted.clone().continued(topic, &bounds);
            assert!(fresh.counts.is_empty(), "{topic}");
            assert_eq!(fresh.open(&bounds)[0].from, bounds[0].start);
        }
    }

    #[test]
    fn kinds_that_nobody_knows_are_bounded() {
        let mut counted = Counted::default();
        for number in 0..1_000 {
            counted.add(&letter(number, "http", &format!("code {number}")));
        }
        let kinds: usize = counted.counts.values().map(BTreeMap::len).sum();
        assert_eq!(kinds, MAX_KINDS + 1);
        assert_eq!(counted.counts["other"]["other"], 800);
    }
}
