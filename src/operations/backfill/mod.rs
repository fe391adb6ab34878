//! `backfill`: history applied again, beside the live pipeline and without
//! touching it.
//!
//! From the log it is a bounded replay by the records' own time: each row is
//! written at the position it had the first time, so what is there already
//! wins or stays as it is. How far it is stands in a [`journal`], and the same
//! command goes on from there.

mod board;
mod error;
mod journal;
mod log;

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use error::BackfillError;

use self::{
    journal::{Journal, Place},
    log::{Keeper, Topic},
};
use super::steps::Steps;
use crate::{
    clock::now_us,
    config::{SINKS, Settings},
    instant::{Resolved, TimeSpec},
    pipeline::replay::{self, Bounds, Part, Tally, Through},
    progress::Progress,
    stack::{Lock, Site},
    timestamp::Rfc3339,
};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub from: TimeSpec,
    /// None is up to now.
    pub to: Option<TimeSpec>,
    pub source: Source,
    /// Any of `clickhouse`, `redis`, `http`.
    pub sinks: Vec<String>,
}

/// Where history is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The topic: what happened, by the time of the records.
    Log,
}

/// What it will do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Whether it goes on with one that was interrupted, and when that began.
    pub resumes: Option<String>,
    pub source: Source,
    /// UTC, or `earliest`.
    pub from: String,
    /// UTC; none is up to now.
    pub to: Option<String>,
    pub sinks: Vec<String>,
    /// Of the log; the same for each sink that replays it.
    pub partitions: Vec<Stretch>,
    /// Over all partitions, at most so many.
    pub messages: u64,
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

/// What it did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// By sink, since this process began.
    pub replayed: BTreeMap<String, Tally>,
    /// Members of the board that was made anew.
    pub board: Option<u64>,
    pub seconds: f64,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "log" => Ok(Self::Log),
            _ => Err("expected log".to_owned()),
        }
    }
}

impl Request {
    /// The one form by which a journal knows its request.
    fn form(&self) -> String {
        let to = self
            .to
            .map_or_else(|| "now".to_owned(), |to| to.to_string());
        let sinks = self.sinks.join(",");
        format!("{} .. {to} from {:?} into {sinks}", self.from, self.source)
    }

    fn check(&self) -> Result<(), BackfillError> {
        let unknown = self
            .sinks
            .iter()
            .find(|sink| !SINKS.contains(&sink.as_str()));
        match unknown {
            Some(sink) => Err(BackfillError::Usage(format!(
                "{sink} is no sink; there are {}",
                SINKS.join(", ")
            ))),
            None if self.sinks.is_empty() => {
                Err(BackfillError::Usage("no sink is named".to_owned()))
            }
            None => Ok(()),
        }
    }

    fn has(&self, sink: &str) -> bool {
        self.sinks.iter().any(|name| name == sink)
    }
}

/// A backfill that knows what it will do.
#[derive(Debug)]
pub struct Backfill {
    settings: Settings,
    request: Request,
    place: Place,
    journal: Journal,
    plan: Plan,
    _lock: Option<Lock>,
}

/// Says what a backfill would do; holds nothing and keeps nothing.
///
/// # Errors
/// When the request cannot be met, or a server does not answer.
pub async fn plan(
    site: &Site,
    settings: &Settings,
    request: Request,
) -> Result<Plan, BackfillError> {
    request.check()?;
    let place = Place::of(&site.dir());
    Ok(look(settings, &request, &place).await?.1)
}

/// Holds the project's backfills and says what this one will do.
///
/// # Errors
/// When another is at work, the request cannot be met, or a server does not
/// answer.
pub async fn prepare(
    site: &Site,
    settings: &Settings,
    request: Request,
) -> Result<Backfill, BackfillError> {
    request.check()?;
    let place = Place::of(&site.dir());
    let lock = place.lock()?;
    let (journal, plan) = look(settings, &request, &place).await?;
    place
        .save(&journal)
        .map_err(|source| place.unreachable(source))?;
    Ok(Backfill {
        settings: settings.clone(),
        request,
        place,
        journal,
        plan,
        _lock: Some(lock),
    })
}

/// The journal to go on with, or a new one, and what is to be done by it.
async fn look(
    settings: &Settings,
    request: &Request,
    place: &Place,
) -> Result<(Journal, Plan), BackfillError> {
    let topic = Topic::look(settings).await?;
    let life = topic.identity.to_string();
    let unfinished = place.load()?;
    let same = |journal: &Journal| journal.request == request.form() && journal.topic == life;
    let mut notes = Vec::new();
    let (journal, resumes) = match unfinished {
        Some(journal) if same(&journal) => {
            let begun = journal.begun.clone();
            (journal, Some(begun))
        }
        other => {
            if let Some(other) = other {
                let (what, begun) = (other.request, other.begun);
                notes.push(format!(
                    "an unfinished backfill of {begun} ({what}) is given up for this one"
                ));
            }
            (begin(request, &topic).await?, None)
        }
    };
    let parts = journal.replays.values().next();
    let partitions: Vec<Stretch> = parts.into_iter().flatten().map(Stretch::of).collect();
    let plan = Plan {
        resumes,
        source: request.source,
        from: journal
            .from_us
            .map_or(Resolved::Earliest, Resolved::At)
            .to_string(),
        to: journal.to_us.map(|to| Rfc3339(to).to_string()),
        sinks: request.sinks.clone(),
        messages: partitions.iter().map(|stretch| stretch.messages).sum(),
        partitions,
        notes,
    };
    Ok((journal, plan))
}

/// A journal of which nothing is done.
async fn begin(request: &Request, topic: &Topic) -> Result<Journal, BackfillError> {
    let now = now_us();
    let begun = Rfc3339(now).to_string();
    let mut journal = Journal::new(request.form(), topic.identity.to_string(), begun);
    journal.from_us = request.from.resolve(now).micros();
    journal.to_us = request.to.and_then(|to| to.resolve(now).micros());
    let parts = topic.parts(request, journal.from_us, journal.to_us).await?;
    for sink in request.sinks.iter().filter(|sink| *sink != "redis") {
        journal.replays.insert(sink.clone(), parts.clone());
    }
    Ok(journal)
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

impl Backfill {
    /// What it will do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Does it. `patience` bounds how long a server may refuse or say nothing,
    /// not the work.
    ///
    /// # Errors
    /// When a sink halts, a server refuses for too long, or it was told to
    /// stop: what is done by then is kept, and the next run goes on.
    pub async fn run(
        mut self,
        patience: Duration,
        stop: CancellationToken,
        progress: &dyn Progress,
    ) -> Result<Report, BackfillError> {
        let started = std::time::Instant::now();
        let bounds = Bounds { patience, stop };
        let mut replayed = BTreeMap::new();
        for (sink, through) in [
            ("clickhouse", Through::ClickHouse),
            (
                "http",
                Through::Http {
                    include_snapshots: false,
                },
            ),
        ] {
            if self.request.has(sink) {
                let tally = self.replay(sink, through, &bounds, progress).await?;
                replayed.insert(sink.to_owned(), tally);
            }
        }
        let mut board = None;
        if self.request.has("redis") {
            board = Some(rebuild_board(&self.settings, patience, progress).await?);
        }
        self.place.remove()?;
        Ok(Report {
            replayed,
            board,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    async fn replay(
        &mut self,
        sink: &str,
        through: Through,
        bounds: &Bounds,
        progress: &dyn Progress,
    ) -> Result<Tally, BackfillError> {
        let steps = Steps::new(progress, sink);
        steps.doing("replaying");
        let mut parts = self.journal.replays.get(sink).cloned().unwrap_or_default();
        let (settings, place) = (&self.settings, &self.place);
        let mut keeper = Keeper::new(settings, place, &mut self.journal, sink, &steps).await?;
        let tally = replay::replay(settings, through, &mut parts, bounds, &mut keeper).await?;
        steps.done("replayed");
        Ok(tally)
    }
}

/// Has the board made anew; returns its members.
///
/// # Errors
/// When nobody publishes it within `timeout`, or Redis does not answer.
pub async fn rebuild_board(
    settings: &Settings,
    timeout: Duration,
    progress: &dyn Progress,
) -> Result<u64, BackfillError> {
    let steps = Steps::new(progress, "redis");
    let members = board::rebuild(settings, timeout, &steps).await?;
    steps.done("rebuilt");
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sinks: &[&str]) -> Request {
        Request {
            from: TimeSpec::Ago(7_200_000_000),
            to: None,
            source: Source::Log,
            sinks: sinks.iter().map(|sink| (*sink).to_owned()).collect(),
        }
    }

    #[test]
    fn a_request_has_one_form_and_its_sinks_are_checked() {
        let both = request(&["clickhouse", "http"]);
        assert_eq!(both.form(), "2h ago .. now from Log into clickhouse,http");
        assert!(both.check().is_ok());
        assert!(request(&[]).check().is_err());
        let error = request(&["bigquery"]).check().expect_err("no such sink");
        assert!(error.to_string().contains("bigquery is no sink"), "{error}");
    }
}
