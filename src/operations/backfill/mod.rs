//! `backfill`: history applied again, beside the live pipeline and without
//! touching it.
//!
//! From the log it is a bounded replay by the records' own time: each row is
//! written at the position it had the first time, so what is there already
//! wins or stays as it is. From the source it is a snapshot by the events' time
//! that comes through the log; with all of it compared afterwards it mends
//! every break in history. How far it is stands in a [`journal`], and the same
//! command goes on from there.

mod alterations;
mod database;
mod error;
mod journal;
mod log;
mod made_up;
mod plan;
mod prune;
mod request;
mod snapshot;
mod store;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use error::BackfillError;
pub use plan::{Plan, Stretch};
pub use request::{Request, Source, default_sinks};

use self::{
    alterations::Consented,
    database::FromDatabase,
    journal::{Database, Journal, Place},
    log::{Keeper, Topic},
    plan::look,
};
use crate::{
    connections::Connections,
    crash,
    progress::{Progress, steps::Steps},
    runtime::replay::{Bounds, Tally},
    sink_kind::{ConsumerGroup, SinkKind},
    sinks::{
        redis::renew,
        replay::{self, Through},
    },
    spill::scratch::Scratch,
    stack::{Lock, Site},
};

/// What it did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// By sink, since this process began.
    pub replayed: BTreeMap<SinkKind, Tally>,
    /// Rows that were read in the source.
    pub rows: Option<u64>,
    /// Rows that were deleted because the source does not have them.
    pub pruned: Option<u64>,
    /// The same of the contents.
    pub pruned_content: Option<u64>,
    /// Members of the board that was made anew.
    pub board: Option<u64>,
    pub seconds: f64,
}

/// A backfill that knows what it will do.
#[derive(Debug)]
pub struct Backfill {
    connections: Connections,
    request: Request,
    place: Place,
    scratch: Scratch,
    journal: Journal,
    plan: Plan,
    consent: Consented,
    _lock: Option<Lock>,
}

/// Says what a backfill would do; holds nothing and keeps nothing.
///
/// # Errors
/// When the request cannot be met, or a server does not answer.
pub async fn plan(
    site: &Site,
    connections: &Connections,
    request: Request,
) -> Result<Plan, BackfillError> {
    let place = Place::of(&site.dir());
    let mut plan = look(connections, &request, &place).await?.1;
    let consent = Consented::on_record(&site.dir())?;
    plan.alterations = Box::pin(consent.alterations(connections, &request)).await?;
    Ok(plan)
}

/// Holds the project's backfills and says what this one will do. Nothing is
/// kept of it before it runs: an unfinished one is given up only then.
///
/// # Errors
/// When another is at work, the request cannot be met, or a server does not
/// answer.
pub async fn prepare(
    site: &Site,
    connections: &Connections,
    request: Request,
) -> Result<Backfill, BackfillError> {
    let place = Place::of(&site.dir());
    let lock = place.lock()?;
    let (journal, mut plan) = look(connections, &request, &place).await?;
    let consent = Consented::on_record(&site.dir())?;
    plan.alterations = Box::pin(consent.alterations(connections, &request)).await?;
    Ok(Backfill {
        connections: connections.clone(),
        request,
        place,
        scratch: Scratch::of(site.dir()),
        journal,
        plan,
        consent,
        _lock: Some(lock),
    })
}

impl Backfill {
    /// What it will do.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The operator agrees to what the plan alters on servers that are not
    /// fanout's own.
    pub fn agree(&mut self) {
        self.consent = Consented::default();
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
        self.place
            .save(&self.journal)
            .map_err(|source| self.place.unreachable(source))?;
        crash::point("backfill", "planned");
        let bounds = Bounds { patience, stop };
        let database = match self.request.source {
            Source::Log => None,
            Source::Database => Some(Box::pin(self.read_source(&bounds, progress)).await?),
        };
        let mut replayed = BTreeMap::new();
        for sink in SinkKind::ALL {
            if !self.request.has(sink) {
                continue;
            }
            let through = match sink {
                // It is rebuilt below.
                SinkKind::Redis => continue,
                // It has had the source's rows.
                SinkKind::ClickHouse if database.is_some() => continue,
                SinkKind::ClickHouse => Through::ClickHouse,
                SinkKind::Http => Through::Http {
                    // What the source was read for are its snapshot's rows.
                    include_snapshots: database.is_some(),
                },
            };
            let tally = self.replay(sink, through, &bounds, progress).await?;
            replayed.insert(sink, tally);
        }
        if self.request.has(SinkKind::Http)
            && let Some(all) = made_up::outside(&self.journal, database.as_ref())
        {
            let group = ConsumerGroup::Http;
            made_up::note(&self.connections, group, all, None, patience, &self.consent).await?;
        }
        let mut board = None;
        let sinks = &self.connections.settings().pipeline.sinks;
        let has_board = sinks.contains(&SinkKind::Redis);
        let rebuilds = self.request.rebuilds();
        let wants_board = self.request.has(SinkKind::Redis) || (rebuilds && has_board);
        if let Some(starts) = database.as_ref().and_then(|one| one.starts.clone())
            && self.journal.to_us.is_none()
            && wants_board
        {
            let from_us = self.journal.from_us;
            let all = (starts, from_us.is_none());
            made_up::note(
                &self.connections,
                ConsumerGroup::Board,
                all,
                from_us,
                patience,
                &self.consent,
            )
            .await?;
        }
        if wants_board {
            board = Some(renew::rebuild(&self.connections, patience, progress).await?);
        }
        if rebuilds {
            let source = database.as_ref().and_then(|one| one.source.as_ref());
            database::reconciled(&self.connections, source).await?;
        }
        crash::point("backfill", "forgetting");
        self.place.remove()?;
        let pruned = |count: fn(&Database) -> u64| {
            let database = database.as_ref().filter(|_| self.request.prunes());
            database.map(count)
        };
        Ok(Report {
            replayed,
            rows: database.as_ref().and_then(|one| one.snapshot_rows),
            pruned: pruned(|database| database.pruned),
            pruned_content: pruned(|database| database.pruned_content),
            board,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Has the source read anew; what the external system is to be told of it
    /// is in the journal then.
    async fn read_source(
        &mut self,
        bounds: &Bounds,
        progress: &dyn Progress,
    ) -> Result<Database, BackfillError> {
        let database = FromDatabase {
            connections: &self.connections,
            place: &self.place,
            journal: &mut self.journal,
            patience: bounds.patience,
            progress,
            rebuilds: self.request.rebuilds(),
            prunes: self.request.prunes(),
            rows: self.plan.rows.unwrap_or(0),
            into_clickhouse: self.request.has(SinkKind::ClickHouse),
            consent: self.consent.clone(),
        };
        let database = database.run().await?;
        let outside = SinkKind::Http;
        if self.request.has(outside) && !self.journal.replays.contains_key(&outside) {
            let parts = Topic::since(&self.connections, database.starts.as_deref()).await?;
            self.journal.replays.insert(outside, parts);
        }
        Ok(database)
    }

    async fn replay(
        &mut self,
        sink: SinkKind,
        through: Through,
        bounds: &Bounds,
        progress: &dyn Progress,
    ) -> Result<Tally, BackfillError> {
        let steps = Steps::new(progress, sink.name());
        steps.doing("replaying");
        let mut parts = self.journal.replays.get(&sink).cloned().unwrap_or_default();
        let (connections, places) = (&self.connections, (&self.place, &self.scratch));
        let mut keeper = Keeper::new(connections, places, &mut self.journal, sink, &steps).await?;
        let tally = replay::replay(connections, through, &mut parts, bounds, &mut keeper).await?;
        steps.done("replayed");
        Ok(tally)
    }
}
