//! What a backfill will do, before it does anything: the part of the log or of
//! the source that its request means now, and whether it goes on with an earlier
//! one.

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

/// What it will do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Whether it goes on with one that was interrupted, and when that began.
    pub resumes: Option<String>,
    /// Another one that was interrupted, and is never finished once this one
    /// begins.
    pub gives_up: Option<String>,
    pub source: Source,
    /// UTC, or `earliest`.
    pub from: String,
    /// UTC; none is up to now.
    pub to: Option<String>,
    pub sinks: Vec<SinkKind>,
    pub prune: bool,
    /// All history begins anew: what stores have from before counts no more.
    pub rebuilds: bool,
    /// Of the log; the same for each sink that replays it.
    pub partitions: Vec<Stretch>,
    /// Over all partitions, at most so many.
    pub messages: u64,
    /// Of the source.
    pub rows: Option<u64>,
    /// What is altered on servers that are not fanout's own, and wants the
    /// operator's consent.
    pub alterations: Vec<Alteration>,
    /// What an operator should know before.
    pub notes: Vec<String>,
}

/// What is replayed of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stretch {
    pub partition: i32,
    pub from: i64,
    /// One past the last offset.
    pub until: i64,
    /// Offsets in it: at least as many as there are messages.
    pub messages: u64,
}

/// The journal to go on with, or a new one, and what is to be done by it.
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
    // A rebuild makes the topic where it is not there.
    let life = topic.as_ref().map(|topic| topic.identity.to_string());
    let life = life.unwrap_or_default();
    let unfinished = place.load()?;
    let mut notes = Vec::new();
    let mut gives_up = None;
    let kept = match unfinished {
        Some(journal) if journal.request == request.form() && journal.topic == life => {
            resume(journal, topic.as_ref(), &mut notes).await?
        }
        other => {
            gives_up = other.map(|other| {
                let (what, begun) = (other.request, other.begun);
                format!("the unfinished backfill begun at {begun} ({what})")
            });
            None
        }
    };
    let resumes = kept.as_ref().map(|journal| journal.begun.clone());
    let journal = match kept {
        Some(journal) => journal,
        None => begin(connections, request, topic.as_ref(), life, &mut notes).await?,
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

/// The unfinished backfill, where it can go on.
async fn resume(
    journal: Journal,
    topic: Option<&Topic>,
    notes: &mut Vec<String>,
) -> Result<Option<Journal>, BackfillError> {
    let gone = match topic {
        Some(topic) => topic.gone(&journal).await?,
        None => None,
    };
    let Some((partition, next)) = gone else {
        return Ok(Some(journal));
    };
    notes.push(format!(
        "the unfinished backfill of {} cannot go on: the log no longer has offset {next} of \
         partition {partition}, so it begins anew",
        journal.begun
    ));
    Ok(None)
}

/// A journal of which nothing is done.
async fn begin(
    connections: &Connections,
    request: &Request,
    topic: Option<&Topic>,
    life: String,
    notes: &mut Vec<String>,
) -> Result<Journal, BackfillError> {
    let now = now_us();
    let begun = Rfc3339(now).to_string();
    let mut journal = Journal::new(request.form(), life, begun);
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
            // The board reads the log by itself.
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
                    let why = "the log no longer begins at offset 0: what the external system \
                               missed before that only --source database has";
                    notes.push(why.to_owned());
                }
                parts
            }
        };
        journal.replays.insert(sink, parts);
    }
    Ok(journal)
}

/// The note for the operator if a part begins at the last rebuild.
fn left_out(parts: &[Part], starts: &[i64]) -> Option<String> {
    let mut found = (0..).zip(starts);
    let begins_there = found.any(|(partition, start)| {
        let is_it = |part: &&Part| part.partition == partition;
        parts
            .iter()
            .find(is_it)
            .is_some_and(|part| *start > 0 && part.from == *start)
    });
    let why = "what stood in the log before the last rebuild from the source is left out: the \
               source was read anew then";
    begins_there.then(|| why.to_owned())
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
