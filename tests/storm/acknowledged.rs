//! Checks that no commit is past what was acknowledged: reads the committed
//! offsets of the groups and, right after each, the contents of the stores. A
//! store may have more than was committed, but never less.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
    time::Duration,
};

use crate::{
    log::{Change, DEAD_LETTERS, Line, Log, PARTITIONS},
    stage::Stage,
};

/// Interval between two observations.
const PAUSE: Duration = Duration::from_millis(400);

/// Range of offsets before the committed one whose rows are checked. A record
/// that a commit has wrongly skipped is near the committed offset.
const REACH: i64 = 200;

pub const SINKS: [&str; 3] = ["clickhouse", "redis", "http"];

/// The offsets that one group had committed, and the state of its store right
/// after.
#[derive(Debug)]
pub struct Observation {
    pub sink: &'static str,
    pub committed: Vec<i64>,
    /// End offset of the dead-letter topic.
    dead_letters_end: i64,
    evidence: Evidence,
}

#[derive(Debug)]
enum Evidence {
    /// The latest stored offset of each event, by partition.
    Rows(Vec<HashMap<i64, i64>>),
    /// The number of calls that the external system had accepted.
    Calls(u64),
    /// Dead letters only.
    None,
}

/// The final state of the log and of the stores.
pub struct FinalState<'a> {
    pub log: &'a Log,
    /// The offset of the first dead letter of a record, by sink, partition and
    /// offset.
    pub dead_letters: &'a HashMap<(&'a str, usize, i64), i64>,
    /// Returns the position of an insert among the accepted calls.
    pub calls: &'a dyn Fn(&crate::log::Event) -> Option<u64>,
}

/// Records observations until the storm ends.
pub fn observe(stage: &Stage) -> Vec<Observation> {
    let broker = stage.broker();
    let mut observations = Vec::new();
    let mut last: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    while !stage.is_over() {
        for sink in SINKS {
            let Ok(committed) = broker.committed(&format!("fanout-{sink}")) else {
                continue;
            };
            let committed: Vec<i64> = committed.iter().map(|offset| offset.unwrap_or(0)).collect();
            if last.get(sink) == Some(&committed) {
                continue;
            }
            let Some(evidence) = evidence(stage, sink, &committed) else {
                continue;
            };
            let Ok(ends) = broker.end_offsets(DEAD_LETTERS, 1) else {
                continue;
            };
            last.insert(sink, committed.clone());
            observations.push(Observation {
                sink,
                committed,
                dead_letters_end: ends[0],
                evidence,
            });
        }
        thread::sleep(PAUSE);
    }
    observations
}

fn evidence(stage: &Stage, sink: &str, committed: &[i64]) -> Option<Evidence> {
    match sink {
        "clickhouse" => stored_rows(stage, committed).ok().map(Evidence::Rows),
        "http" => {
            let page = stage.accepted("limit=1&bodies=false").ok()?;
            page["total"].as_u64().map(Evidence::Calls)
        }
        _ => Some(Evidence::None),
    }
}

fn stored_rows(stage: &Stage, committed: &[i64]) -> Result<Vec<HashMap<i64, i64>>, String> {
    let near: Vec<String> = (0..)
        .zip(committed)
        .map(|(partition, committed)| {
            let from = committed - REACH;
            format!("(_partition = {partition} AND _offset >= {from})")
        })
        .collect();
    let text = stage.clickhouse(&format!(
        "SELECT _partition, event_id, max(_offset) FROM analytics.engagement_enriched_storage
         WHERE {} GROUP BY 1, 2 FORMAT TSV",
        near.join(" OR ")
    ))?;
    let mut rows: Vec<HashMap<i64, i64>> = (0..PARTITIONS).map(|_| HashMap::new()).collect();
    for line in text.lines() {
        let mut cells = line.split('\t').map(str::parse::<i64>);
        let mut next = || cells.next().and_then(Result::ok).ok_or(line.to_owned());
        let partition = usize::try_from(next()?).map_err(|error| error.to_string())?;
        rows[partition].insert(next()?, next()?);
    }
    Ok(rows)
}

impl Observation {
    /// Returns the committed records that the store did not have, by sink,
    /// partition and offset.
    pub fn missing(&self, state: &FinalState<'_>) -> BTreeMap<(&'static str, usize, i64), String> {
        let mut missing = BTreeMap::new();
        for (partition, (lines, committed)) in state.log.iter().zip(&self.committed).enumerate() {
            let below = lines.partition_point(|line| line.offset < *committed);
            let near = lines.partition_point(|line| line.offset < committed - REACH);
            for line in &lines[near..below] {
                if !self.has_record(partition, line, state) {
                    let difference = format!(
                        "{} had committed {committed} of partition {partition} without {line:?}",
                        self.sink
                    );
                    missing.insert((self.sink, partition, line.offset), difference);
                }
            }
        }
        missing
    }

    fn has_record(&self, partition: usize, line: &Line, state: &FinalState<'_>) -> bool {
        let id = match &line.change {
            Change::Ignored => return true,
            Change::Poison => return self.has_dead_letter(partition, line.offset, state),
            Change::Upsert(event) => event.id,
            Change::Delete(id) => *id,
        };
        match (&self.evidence, &line.change) {
            (Evidence::Rows(rows), _) => rows[partition]
                .get(&id)
                .is_some_and(|stored| *stored >= line.offset),
            (Evidence::Calls(total), Change::Upsert(event)) if event.is_insert => {
                (state.calls)(event).is_some_and(|position| position <= *total)
            }
            _ => true,
        }
    }

    fn has_dead_letter(&self, partition: usize, offset: i64, state: &FinalState<'_>) -> bool {
        let dead_letter = state.dead_letters.get(&(self.sink, partition, offset));
        dead_letter.is_some_and(|offset| *offset < self.dead_letters_end)
    }
}
