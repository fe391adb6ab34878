//! What a backfill will do, before it does anything: the request, the part of
//! the log or of the source that it means now, and whether it goes on with an
//! earlier one.

use serde::Serialize;

use super::{
    BackfillError,
    journal::{Journal, Place},
    log::Topic,
    snapshot,
};
use crate::{
    clock::now_us,
    config::Settings,
    instant::{Resolved, TimeSpec},
    operations::{fence::events_topic, up::Alteration},
    pipeline::replay::Part,
    sink_kind::{SinkKind, Sinks, joined},
    timestamp::Rfc3339,
};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub from: TimeSpec,
    /// None is up to now.
    pub to: Option<TimeSpec>,
    pub source: Source,
    pub sinks: Sinks,
    /// Also delete from ClickHouse what the source does not have.
    pub prune: bool,
}

/// Where history is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The topic: what happened, by the time of the records.
    Log,
    /// Postgres: what there is, by the time of the events.
    Database,
}

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
    /// All history begins anew: what stood in ClickHouse before counts no more.
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

impl Request {
    /// The one form by which a journal knows its request.
    pub(super) fn form(&self) -> String {
        let to = self
            .to
            .map_or_else(|| "now".to_owned(), |to| to.to_string());
        let sinks = joined(&self.sinks, ",");
        let prune = if self.prune { ", pruned" } else { "" };
        format!(
            "{} .. {to} from {:?} into {sinks}{prune}",
            self.from, self.source
        )
    }

    /// Checks what can be judged before a server is asked.
    ///
    /// # Errors
    /// When it asks for what there cannot be: no time, no such sink.
    pub fn check(&self, now_us: i64) -> Result<(), BackfillError> {
        self.check_range(now_us)?;
        match self.sinks.unknown() {
            Some(unknown) => Err(BackfillError::Usage(unknown.to_string())),
            None if self.sinks.is_empty() => {
                Err(BackfillError::Usage("no sink is named".to_owned()))
            }
            None if self.prune && !self.is_compared() => {
                let why = "--prune compares clickhouse with postgres: it wants --source database";
                Err(BackfillError::Usage(why.to_owned()))
            }
            None => Ok(()),
        }
    }

    fn check_range(&self, now_us: i64) -> Result<(), BackfillError> {
        let from = self.from.resolve(now_us);
        let to = self.to.map(|to| to.resolve(now_us));
        let problem = match (from.micros(), to.map(|to| (to, to.micros()))) {
            (Some(start), _) if start >= now_us => format!("--from {from} is in the future"),
            (_, Some((_, None))) => "--to earliest leaves nothing to replay".to_owned(),
            (Some(start), Some((to, Some(end)))) if start == end => {
                format!("the range is empty: --from and --to are both {to}")
            }
            (Some(start), Some((to, Some(end)))) if start > end => {
                format!("the range runs backwards: --from {from} is after --to {to}")
            }
            _ => return Ok(()),
        };
        Err(BackfillError::Usage(problem))
    }

    /// Whether all of history is asked for, and so begins anew.
    pub(super) fn rebuilds(&self) -> bool {
        self.prune && self.from == TimeSpec::Earliest && self.to.is_none()
    }

    /// Whether topics that are missing are made: where it is noted that a sink has
    /// had its history.
    pub(super) fn makes_topics(&self) -> bool {
        let is_noted = |sink: &SinkKind| match sink {
            SinkKind::Redis | SinkKind::Http => true,
            SinkKind::ClickHouse => false,
        };
        self.rebuilds() || self.sinks.iter().any(is_noted)
    }

    /// Whether ClickHouse can be compared with the source afterwards.
    fn is_compared(&self) -> bool {
        self.source == Source::Database && self.has(SinkKind::ClickHouse)
    }

    pub(super) fn has(&self, sink: SinkKind) -> bool {
        self.sinks.contains(&sink)
    }
}

/// The journal to go on with, or a new one, and what is to be done by it.
pub(super) async fn look(
    settings: &Settings,
    request: &Request,
    place: &Place,
) -> Result<(Journal, Plan), BackfillError> {
    let topic = Topic::find(settings).await?;
    if topic.is_none() && !request.rebuilds() {
        let topic = events_topic(settings);
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
        None => begin(settings, request, topic.as_ref(), life, &mut notes).await?,
    };
    let rows = match request.source {
        Source::Log => None,
        Source::Database => Some(snapshot::count(settings, journal.times()).await?),
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
        prune: request.prune,
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
    settings: &Settings,
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
                let starts = topic.life_starts(settings).await?;
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

/// What an operator is told where a part begins with the last rebuild.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-02T03:04:05Z.
    const NOW: i64 = 1_767_323_045_000_000;

    fn request(sinks: &[&str]) -> Request {
        let sinks: Vec<String> = sinks.iter().map(|sink| (*sink).to_owned()).collect();
        Request {
            from: TimeSpec::Ago(7_200_000_000),
            to: None,
            source: Source::Log,
            prune: false,
            sinks: sinks.into(),
        }
    }

    #[test]
    fn a_request_has_one_form_and_its_sinks_are_checked() {
        let both = request(&["clickhouse", "http"]);
        assert_eq!(both.form(), "2h ago .. now from Log into clickhouse,http");
        assert!(both.check(NOW).is_ok());
        assert!(request(&[]).check(NOW).is_err());
        let future = Request {
            from: "0s".parse().expect("a time"),
            ..request(&["htp"])
        };
        let error = future.check(NOW).expect_err("in the future");
        assert!(error.to_string().contains("in the future"), "{error}");
        let error = request(&["htp"]).check(NOW).expect_err("no such sink");
        assert_eq!(
            error.to_string(),
            "unknown sink \"htp\", expected one of redis, clickhouse, http (did you mean \"http\"?)"
        );
    }

    #[test]
    fn a_range_that_holds_no_time_is_refused() {
        let range = |from: &str, to: Option<&str>| Request {
            from: from.parse().expect("a time"),
            to: to.map(|to| to.parse().expect("a time")),
            ..request(&["clickhouse"])
        };
        for (from, to) in [("3h", Some("2h")), ("earliest", Some("1h")), ("1h", None)] {
            assert!(range(from, to).check(NOW).is_ok(), "{from} {to:?}");
        }
        for (from, to, says) in [
            ("2h", Some("3h"), "the range runs backwards"),
            ("2h", Some("2h"), "the range is empty"),
            ("2h", Some("earliest"), "--to earliest"),
            ("earliest", Some("earliest"), "--to earliest"),
            ("0s", None, "in the future"),
            ("2100-01-01T00:00:00Z", None, "in the future"),
        ] {
            let error = range(from, to).check(NOW).expect_err("refused");
            assert!(error.to_string().contains(says), "{from} {to:?}: {error}");
        }
    }
}
