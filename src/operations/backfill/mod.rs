//! `backfill`: applies history again, independently of the running pipeline.
//!
//! A backfill from the log replays a range of records, selected by the records' own time. Each
//! row is written at its original position, so newer rows win and equal rows do not change. A
//! backfill from the source takes a snapshot, selected by the events' time, whose rows come
//! through the log. A backfill of the complete source with a comparison afterwards repairs
//! every gap in history. The progress is stored in a [`journal`], from which the same command
//! resumes.

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

/// Result of a backfill.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Counts of replayed records by sink, since this process started.
    pub replayed: BTreeMap<SinkKind, Tally>,
    /// Number of rows that were read from the source.
    pub rows: Option<u64>,
    /// Number of events that were deleted because they are missing from the source.
    pub pruned: Option<u64>,
    /// Number of contents that were deleted because they are missing from the source.
    pub pruned_content: Option<u64>,
    /// Number of members of the rebuilt board.
    pub board: Option<u64>,
    pub seconds: f64,
}

/// A backfill that is planned and not started yet.
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

/// Returns the plan of a backfill. Takes no lock and stores nothing.
///
/// # Errors
/// If the request cannot be fulfilled, or a server does not respond.
pub async fn plan(
    site: &Site,
    connections: &Connections,
    request: Request,
) -> Result<Plan, BackfillError> {
    let place = Place::new(&site.dir());
    let mut plan = look(connections, &request, &place).await?.1;
    let consent = Consented::on_record(&site.dir())?;
    plan.alterations = Box::pin(consent.alterations(connections, &request)).await?;
    Ok(plan)
}

/// Locks the project's backfills and plans this one. Stores nothing before the backfill runs,
/// so an unfinished backfill is not abandoned yet.
///
/// # Errors
/// If another backfill is running, the request cannot be fulfilled, or a server does not
/// respond.
pub async fn prepare(
    site: &Site,
    connections: &Connections,
    request: Request,
) -> Result<Backfill, BackfillError> {
    let place = Place::new(&site.dir());
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
    /// Returns the plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Records that the operator agrees to the plan's changes on external servers.
    pub fn agree(&mut self) {
        self.consent = Consented::default();
    }

    /// Runs the backfill. `patience` is the limit for how long a server may refuse or not
    /// respond; the backfill as a whole has no time limit.
    ///
    /// # Errors
    /// If a sink halts, a server refuses for too long, or `stop` is cancelled. The next run
    /// resumes from the stored progress.
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
                // The board is rebuilt below.
                SinkKind::Redis => continue,
                // The snapshot's rows have already arrived through the log.
                SinkKind::ClickHouse if database.is_some() => continue,
                SinkKind::ClickHouse => Through::ClickHouse,
                SinkKind::Http => Through::Http {
                    // After a snapshot, its rows are the ones to send.
                    include_snapshots: database.is_some(),
                },
            };
            let tally = self.replay(sink, through, &bounds, progress).await?;
            replayed.insert(sink, tally);
        }
        if self.request.has(SinkKind::Http)
            && let Some(range) = made_up::http_range(&self.journal, database.as_ref())
        {
            made_up::record(
                &self.connections,
                ConsumerGroup::Http,
                range,
                None,
                patience,
                &self.consent,
            )
            .await?;
        }
        let mut board = None;
        let sinks = &self.connections.settings().pipeline.sinks;
        let has_board = sinks.contains(&SinkKind::Redis);
        let rebuilds = self.request.rebuilds();
        let rebuilds_board = self.request.has(SinkKind::Redis) || (rebuilds && has_board);
        if let Some(starts) = database.as_ref().and_then(|state| state.starts.clone())
            && self.journal.to_us.is_none()
            && rebuilds_board
        {
            let from_us = self.journal.from_us;
            let range = (starts, from_us.is_none());
            made_up::record(
                &self.connections,
                ConsumerGroup::Board,
                range,
                from_us,
                patience,
                &self.consent,
            )
            .await?;
        }
        if rebuilds_board {
            board = Some(renew::rebuild(&self.connections, patience, progress).await?);
        }
        if rebuilds {
            let source = database.as_ref().and_then(|state| state.source.as_ref());
            database::record_baseline(&self.connections, source).await?;
        }
        crash::point("backfill", "forgetting");
        self.place.remove()?;
        let pruned = |count: fn(&Database) -> u64| {
            let database = database.as_ref().filter(|_| self.request.prunes());
            database.map(count)
        };
        Ok(Report {
            replayed,
            rows: database.as_ref().and_then(|state| state.snapshot_rows),
            pruned: pruned(|database| database.pruned),
            pruned_content: pruned(|database| database.pruned_content),
            board,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Rereads the source. Adds the offset ranges to replay to the external system to the
    /// journal.
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
        let http = SinkKind::Http;
        if self.request.has(http) && !self.journal.replays.contains_key(&http) {
            let parts = Topic::since(&self.connections, database.starts.as_deref()).await?;
            self.journal.replays.insert(http, parts);
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
