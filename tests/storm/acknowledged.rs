//! Committed never past acknowledged: looks at what the groups have committed
//! and, right after each, at what the stores have. A store may have more by
//! then, never less.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
    time::Duration,
};

use crate::{
    log::{Change, LETTERS, Line, Log, PARTITIONS},
    stage::Stage,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(400);

/// Offsets below the committed one whose rows are looked at: what a commit may
/// wrongly have skipped is near it.
const REACH: i64 = 200;

pub const SINKS: [&str; 3] = ["clickhouse", "redis", "http"];

/// What one group had committed, and what was there right after.
#[derive(Debug)]
pub struct Look {
    pub sink: &'static str,
    pub committed: Vec<i64>,
    /// End of the dead letters.
    letters: i64,
    evidence: Evidence,
}

#[derive(Debug)]
enum Evidence {
    /// The latest offset stored of each event, by partition.
    Rows(Vec<HashMap<i64, i64>>),
    /// How many calls the external system had accepted.
    Calls(u64),
    /// Only the dead letters.
    None,
}

/// What the end of the storm knows.
pub struct Known<'a> {
    pub log: &'a Log,
    /// Where the first letter of a record stands, by sink and position.
    pub letters: &'a HashMap<(&'a str, usize, i64), i64>,
    /// The place among the accepted calls of each insert, by id and row.
    pub calls: &'a dyn Fn(&crate::log::Event) -> Option<u64>,
}

/// Looks until the storm is over.
pub fn look(stage: &Stage) -> Vec<Look> {
    let broker = stage.broker();
    let mut looks = Vec::new();
    let mut last: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    while !stage.is_over() {
        for sink in SINKS {
            let Ok(committed) = broker.committed(&format!("fanout-{sink}")) else {
                continue;
            };
            let committed: Vec<i64> = committed.iter().map(|one| one.unwrap_or(0)).collect();
            if last.get(sink) == Some(&committed) {
                continue;
            }
            let Some(evidence) = evidence(stage, sink, &committed) else {
                continue;
            };
            let Ok(letters) = broker.ends(LETTERS, 1) else {
                continue;
            };
            last.insert(sink, committed.clone());
            looks.push(Look {
                sink,
                committed,
                letters: letters[0],
                evidence,
            });
        }
        thread::sleep(PAUSE);
    }
    looks
}

fn evidence(stage: &Stage, sink: &str, committed: &[i64]) -> Option<Evidence> {
    match sink {
        "clickhouse" => rows(stage, committed).ok().map(Evidence::Rows),
        "http" => {
            let page = stage.accepted("limit=1&bodies=false").ok()?;
            page["total"].as_u64().map(Evidence::Calls)
        }
        _ => Some(Evidence::None),
    }
}

fn rows(stage: &Stage, committed: &[i64]) -> Result<Vec<HashMap<i64, i64>>, String> {
    let near: Vec<String> = (0..)
        .zip(committed)
        .map(|(partition, committed)| {
            let from = committed - REACH;
            format!("(_partition = {partition} AND _offset >= {from})")
        })
        .collect();
    let answer = stage.clickhouse(&format!(
        "SELECT _partition, event_id, max(_offset) FROM analytics.engagement_enriched_storage
         WHERE {} GROUP BY 1, 2 FORMAT TSV",
        near.join(" OR ")
    ))?;
    let mut rows: Vec<HashMap<i64, i64>> = (0..PARTITIONS).map(|_| HashMap::new()).collect();
    for line in answer.lines() {
        let mut cells = line.split('\t').map(str::parse::<i64>);
        let mut next = || cells.next().and_then(Result::ok).ok_or(line.to_owned());
        let partition = usize::try_from(next()?).map_err(|error| error.to_string())?;
        rows[partition].insert(next()?, next()?);
    }
    Ok(rows)
}

impl Look {
    /// What was committed and was not there, by sink and position.
    pub fn missing(&self, known: &Known<'_>) -> BTreeMap<(&'static str, usize, i64), String> {
        let mut missing = BTreeMap::new();
        for (partition, (lines, committed)) in known.log.iter().zip(&self.committed).enumerate() {
            let below = lines.partition_point(|line| line.offset < *committed);
            let near = lines.partition_point(|line| line.offset < committed - REACH);
            for line in &lines[near..below] {
                if !self.holds(partition, line, known) {
                    let what = format!(
                        "{} had committed {committed} of partition {partition} without {line:?}",
                        self.sink
                    );
                    missing.insert((self.sink, partition, line.offset), what);
                }
            }
        }
        missing
    }

    fn holds(&self, partition: usize, line: &Line, known: &Known<'_>) -> bool {
        let id = match &line.change {
            Change::Ignored => return true,
            Change::Poison => return self.has_letter(partition, line.offset, known),
            Change::Upsert(event) => event.id,
            Change::Delete(id) => *id,
        };
        match (&self.evidence, &line.change) {
            (Evidence::Rows(rows), _) => rows[partition]
                .get(&id)
                .is_some_and(|stored| *stored >= line.offset),
            (Evidence::Calls(total), Change::Upsert(event)) if event.is_insert => {
                (known.calls)(event).is_some_and(|place| place <= *total)
            }
            _ => true,
        }
    }

    fn has_letter(&self, partition: usize, offset: i64, known: &Known<'_>) -> bool {
        let letter = known.letters.get(&(self.sink, partition, offset));
        letter.is_some_and(|place| *place < self.letters)
    }
}
