//! The plan of a backfill: the range of the log or of the source that its request selects, and
//! the unfinished backfill that it resumes, if any.

use serde::Serialize;

use super::{
    error::BackfillError,
    journal::{Journal, Place},
    log::Topic,
    request::{Request, Source},
    snapshot,
};
use crate::{
    connections::Connections,
    operations::up::Alteration,
    runtime::replay::Part,
    sink_kind::SinkKind,
    source::tables::events_topic,
    time::{clock::now_us, instant::Resolved, timestamp::Rfc3339},
};

/// Plan of a backfill.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Start time of the interrupted backfill that this one resumes.
    pub resumes: Option<String>,
    /// Another interrupted backfill, which is abandoned when this one starts.
    pub gives_up: Option<String>,
    pub source: Source,
    /// UTC, or `earliest`.
    pub from: String,
    /// UTC. `None` means up to now.
    pub to: Option<String>,
    pub sinks: Vec<SinkKind>,
    pub prune: bool,
    /// Whether history is rebuilt from scratch. Earlier rows in the stores then no longer
    /// count.
    pub rebuilds: bool,
    /// Offset ranges to replay from the log, equal for all sinks.
    pub partitions: Vec<Stretch>,
    /// Upper bound for the number of messages in all partitions.
    pub messages: u64,
    /// Number of rows to read from the source.
    pub rows: Option<u64>,
    /// Changes on external servers that require the operator's consent.
    pub alterations: Vec<Alteration>,
    /// Notes for the operator.
    pub notes: Vec<String>,
}

/// Offset range to replay from one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stretch {
    pub partition: i32,
    pub from: i64,
    /// One past the last offset.
    pub until: i64,
    /// Number of offsets in the range, which is an upper bound for the number of messages.
    pub messages: u64,
}

/// Returns the journal to resume, or a new one, and its plan.
pub(super) async fn look(
    connections: &Connections,
    request: &Request,
    place: &Place,
) -> Result<(Journal, Plan), BackfillError> {
    let topic = Topic::find(connections).await?;
    if topic.is_none() && !request.rebuilds() {
        let topic = events_topic(connections.settings());
        return Err(BackfillError::NoTopic { topic });
    }
    // A rebuild creates a missing topic.
    let incarnation = topic.as_ref().map(|topic| topic.identity.to_string());
    let incarnation = incarnation.unwrap_or_default();
    let unfinished = place.load()?;
    let mut notes = Vec::new();
    let mut gives_up = None;
    let resumed = match unfinished {
        Some(journal) if journal.request == request.form() && journal.topic == incarnation => {
            resume(journal, topic.as_ref(), &mut notes).await?
        }
        abandoned => {
            gives_up = abandoned.map(|journal| {
                let (request, begun) = (journal.request, journal.begun);
                format!("the unfinished backfill started at {begun} ({request})")
            });
            None
        }
    };
    let resumes = resumed.as_ref().map(|journal| journal.begun.clone());
    let journal = match resumed {
        Some(journal) => journal,
        None => {
            begin(
                connections,
                request,
                topic.as_ref(),
                incarnation,
                &mut notes,
            )
            .await?
        }
    };
    let rows = match request.source {
        Source::Log => None,
        Source::Database => Some(snapshot::count(connections, journal.times()).await?),
    };
    let parts = journal.replays.values().next();
    let partitions: Vec<Stretch> = parts.into_iter().flatten().map(Stretch::of).collect();
    let plan = Plan {
        resumes,
        gives_up,
        source: request.source,
        from: journal
            .from_us
            .map_or(Resolved::Earliest, Resolved::At)
            .to_string(),
        to: journal.to_us.map(|to| Rfc3339(to).to_string()),
        sinks: request.sinks.to_vec(),
        prune: request.prunes(),
        rebuilds: request.rebuilds(),
        messages: partitions.iter().map(|stretch| stretch.messages).sum(),
        partitions,
        rows,
        alterations: Vec::new(),
        notes,
    };
    Ok((journal, plan))
}

/// Returns the unfinished backfill, or `None` if the log no longer has records that it needs.
async fn resume(
    journal: Journal,
    topic: Option<&Topic>,
    notes: &mut Vec<String>,
) -> Result<Option<Journal>, BackfillError> {
    let missing = match topic {
        Some(topic) => topic.missing(&journal).await?,
        None => None,
    };
    let Some((partition, next)) = missing else {
        return Ok(Some(journal));
    };
    notes.push(format!(
        "the unfinished backfill of {} starts from scratch: the log no longer has offset {next} \
         of partition {partition}",
        journal.begun
    ));
    Ok(None)
}

/// Creates the journal of a new backfill.
async fn begin(
    connections: &Connections,
    request: &Request,
    topic: Option<&Topic>,
    incarnation: String,
    notes: &mut Vec<String>,
) -> Result<Journal, BackfillError> {
    let now = now_us();
    let begun = Rfc3339(now).to_string();
    let mut journal = Journal::new(request.form(), incarnation, begun);
    journal.from_us = request.from.resolve(now).micros();
    journal.to_us = request.to.and_then(|to| to.resolve(now).micros());
    let (Source::Log, Some(topic)) = (request.source, topic) else {
        return Ok(journal);
    };
    for sink in SinkKind::ALL {
        if !request.has(sink) {
            continue;
        }
        let parts = match sink {
            // A rebuild of the board reads the log itself.
            SinkKind::Redis => continue,
            SinkKind::ClickHouse => {
                let starts = topic.life_starts(connections).await?;
                let parts = topic
                    .parts(request, journal.from_us, journal.to_us, &starts)
                    .await?;
                notes.extend(left_out(&parts, &starts));
                parts
            }
            SinkKind::Http => {
                let parts = topic
                    .parts(request, journal.from_us, journal.to_us, &[])
                    .await?;
                let is_cut = parts.iter().any(|part| part.from > 0);
                if is_cut && journal.from_us.is_none() {
                    let note = "the log no longer starts at offset 0: earlier events that the \
                                external system missed can be read only with --source database";
                    notes.push(note.to_owned());
                }
                parts
            }
        };
        journal.replays.insert(sink, parts);
    }
    Ok(journal)
}

/// Returns a note for the operator if a range starts at the last rebuild.
fn left_out(parts: &[Part], starts: &[i64]) -> Option<String> {
    let starts_at_rebuild = (0..).zip(starts).any(|(partition, start)| {
        let mut parts = parts.iter();
        parts
            .find(|part| part.partition == partition)
            .is_some_and(|part| *start > 0 && part.from == *start)
    });
    let note = "records from before the last rebuild are skipped, because the rebuild has reread \
                the source";
    starts_at_rebuild.then(|| note.to_owned())
}

impl Stretch {
    fn of(part: &Part) -> Self {
        Self {
            partition: part.partition,
            from: part.from,
            until: part.until,
            messages: part.len(),
        }
    }
}
