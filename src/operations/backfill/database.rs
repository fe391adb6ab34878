//! History from the source itself: a snapshot through the log; and, where all
//! of it is asked for with a comparison after it, the rebuild that mends every
//! break in history.
//!
//! ```text
//! a new life of both topics → connector → snapshot → caught up → compare → settled
//! ```
//!
//! Each step is in the journal before the next begins, and each can be
//! repeated.

use std::time::Duration;

use super::{
    alterations::Consented,
    error::BackfillError,
    journal::{Database, Journal, Place},
    prune::Prune,
    snapshot::Snapshot,
    store::{insist, rebuild},
};
use crate::{
    connections::Connections,
    crash,
    progress::{Progress, steps::Steps},
    runtime::barrier::{self, FenceError},
    sink_kind::SinkKind,
    sinks::clickhouse::{Lives, Rebuild, Store, owned},
    source::{
        Inspector, Refusal,
        checks::{Fingerprint, Severity, check},
        tables::{events_topic, reader_group},
    },
};

/// How long it may take until a connector runs that just began.
const CONNECTOR_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks for a slot that a new connector makes.
const POLL: Duration = Duration::from_millis(200);

/// A backfill from the source.
pub(super) struct FromDatabase<'a> {
    pub connections: &'a Connections,
    pub place: &'a Place,
    pub journal: &'a mut Journal,
    pub patience: Duration,
    pub progress: &'a dyn Progress,
    /// Where the events' topic ended before.
    pub rebuilds: bool,
    pub prunes: bool,
    /// Rows to be expected.
    pub rows: u64,
    /// Whether ClickHouse is waited for.
    pub into_clickhouse: bool,
    pub consent: Consented,
}

impl FromDatabase<'_> {
    /// Does what is left of it.
    pub(super) async fn run(mut self) -> Result<Database, BackfillError> {
        let rebuild = rebuild(self.connections, self.into_clickhouse)?;
        if self.rebuilds {
            self.source_is_sound().await?;
            self.begin_lives(&rebuild).await?;
        } else {
            self.begin().await?;
        }
        self.snapshot().await?;
        if self.into_clickhouse {
            self.catch_up().await?;
        }
        if let Some(store) = rebuild.store().filter(|_| self.prunes) {
            self.prune(store).await?;
        }
        if self.rebuilds
            && let Some(lives) = self.lives()
        {
            crash::point("backfill", "settling");
            insist(self.patience, async || rebuild.settle(&lives).await).await?;
        }
        Ok(self.database().clone())
    }

    fn database(&mut self) -> &mut Database {
        self.journal.database.get_or_insert_default()
    }

    /// Changes the journal and keeps it.
    fn keep(&mut self, change: impl FnOnce(&mut Database)) -> Result<(), BackfillError> {
        change(self.database());
        let saved = self.place.save(self.journal);
        saved.map_err(|source| self.place.unreachable(source))
    }

    /// The generation that this has begun.
    fn lives(&mut self) -> Option<Lives> {
        let database = self.database();
        let (facts, content) = database.lives?;
        let starts = database.starts.clone()?;
        Some(Lives {
            facts,
            content,
            starts,
        })
    }

    /// Keeps where the log ends: what is read of the source comes after it.
    async fn begin(&mut self) -> Result<(), BackfillError> {
        if self.database().starts.is_some() {
            return Ok(());
        }
        let settings = self.connections.settings();
        let reader = reader_group(settings, "backfill");
        let log = self.connections.kafka.log(&reader)?;
        let ends = log.ends(&events_topic(settings)).await?;
        self.keep(|database| database.starts = Some(ends))
    }

    /// Begins a new life of both topics, unless the journal's are the latest.
    async fn begin_lives(&mut self, rebuild: &Rebuild) -> Result<(), BackfillError> {
        let patience = self.patience;
        if let Some(lives) = self.lives()
            && insist(patience, async || rebuild.is_latest(&lives).await).await?
        {
            return Ok(());
        }
        let steps = Steps::new(self.progress, "history");
        if self.into_clickhouse {
            self.make_tables(rebuild).await?;
        }
        self.consent.ensure_topics(self.connections).await?;
        let lives = insist(patience, async || rebuild.begin().await).await?;
        crash::point("backfill", "lives_begun");
        steps.done(&format!("history begins anew, generation {}", lives.facts));
        self.keep(|database| {
            *database = Database {
                lives: Some((lives.facts, lives.content)),
                starts: Some(lives.starts),
                ..Database::default()
            };
        })?;
        crash::point("backfill", "lives_kept");
        Ok(())
    }

    /// Makes the tables that are missing, and moves those aside that are wrong.
    async fn make_tables(&self, rebuild: &Rebuild) -> Result<(), BackfillError> {
        let steps = Steps::new(self.progress, "clickhouse");
        steps.doing("looking at the tables");
        self.consent.check_tables(self.connections).await?;
        // Whatever is not there yet; with a wrong table this may fail, and the
        // second time it counts.
        let _ = owned::clickhouse(self.connections).await;
        for aside in insist(self.patience, async || rebuild.move_aside().await).await? {
            steps.doing(&format!("moved a table that was not right to {aside}"));
        }
        owned::clickhouse(self.connections).await?;
        steps.done("the tables are right");
        Ok(())
    }

    /// Has all rows written into the log once more.
    async fn snapshot(&mut self) -> Result<(), BackfillError> {
        if self.database().snapshot_rows.is_some() {
            return Ok(());
        }
        if self.rebuilds {
            let timeout = self.patience.max(CONNECTOR_PATIENCE);
            let mut inspector = Inspector::new(self.connections)?;
            let before = inspector.catalogue().await?;
            let mended = self
                .consent
                .mend_connector(self.connections, timeout, self.progress);
            let begins_anew = mended.await?;
            if begins_anew {
                // It reads everything by itself, before it goes on.
                self.until_it_streams().await?;
            }
            let latest = inspector.snapshot().await?;
            let source = Fingerprint::of(&before, inspector.expected(), latest);
            let rows = self.rows;
            self.keep(|database| {
                database.source = Some(source);
                database.snapshot_rows = begins_anew.then_some(rows);
            })?;
            if begins_anew {
                return Ok(());
            }
        }
        let steps = Steps::new(self.progress, "snapshot");
        let times = self.journal.times();
        let snapshot = Snapshot {
            connections: self.connections,
            times,
            with_content: self.rebuilds,
            rows: self.rows,
            patience: self.patience,
            steps: &steps,
        };
        if self.database().signal.is_none() {
            let mut database = self.database().clone();
            snapshot.begin(&mut database).await?;
            self.keep(|kept| *kept = database)?;
            crash::point("backfill", "signal_kept");
        }
        let from = self.database().notifications_from;
        let id = self.database().signal.clone().unwrap_or_default();
        match snapshot.follow(&id, from).await {
            Ok(rows) => {
                crash::point("backfill", "snapshot_read");
                steps.done(&format!("{rows} rows read"));
                self.keep(|database| database.snapshot_rows = Some(rows))
            }
            Err(error) => {
                // Nobody follows it any more: the next run asks anew.
                self.keep(|database| database.signal = None)?;
                Err(error)
            }
        }
    }

    /// What is read anew from a source that still loses changes is out of date at
    /// once.
    async fn source_is_sound(&self) -> Result<(), BackfillError> {
        let mut inspector = Inspector::new(self.connections)?;
        let catalogue = inspector.catalogue().await?;
        let mut findings = check(&catalogue, inspector.expected());
        findings.retain(|finding| finding.severity <= Severity::Incomplete);
        if findings.is_empty() {
            return Ok(());
        }
        Err(BackfillError::Source(Refusal { findings }))
    }

    /// A connector that has just begun makes its slot after it says it runs.
    async fn until_it_streams(&self) -> Result<(), BackfillError> {
        let started = tokio::time::Instant::now();
        loop {
            match barrier::wait(self.connections, &[], self.patience, self.progress).await {
                Err(FenceError::NoSlot { .. } | FenceError::NoTopic { .. })
                    if started.elapsed() < self.patience.max(CONNECTOR_PATIENCE) =>
                {
                    tokio::time::sleep(POLL).await;
                }
                waited => return Ok(waited.map(|_| ())?),
            }
        }
    }

    /// Waits until ClickHouse has all that is in the log now, as long as it
    /// gets any nearer.
    async fn catch_up(&mut self) -> Result<(), BackfillError> {
        if self.database().caught_up {
            return Ok(());
        }
        let sinks = [SinkKind::ClickHouse];
        let (mut nearest, mut slot) = (i64::MIN, i64::MAX);
        loop {
            match barrier::wait(self.connections, &sinks, self.patience, self.progress).await {
                Err(FenceError::GroupBehind { partitions, .. })
                    if committed(&partitions) > nearest =>
                {
                    nearest = committed(&partitions);
                }
                Err(FenceError::SlotBehind { bytes, .. }) if bytes < slot => slot = bytes,
                waited => {
                    waited?;
                    crash::point("backfill", "caught_up");
                    return self.keep(|database| database.caught_up = true);
                }
            }
        }
    }

    /// Deletes what the source does not have.
    async fn prune(&mut self, store: &Store) -> Result<(), BackfillError> {
        if self.database().pruned_all {
            return Ok(());
        }
        let steps = Steps::new(self.progress, "prune");
        steps.doing("comparing ids");
        let times = self.journal.times();
        let mut prune = Prune::new(self.connections, store, times, &steps).await?;
        loop {
            let after = self.database().pruned_to;
            let range = prune.range(after).await?;
            let Some(last) = range.last else { break };
            crash::point("backfill", "pruning");
            self.keep(|database| {
                database.pruned_to = Some(last);
                database.pruned += range.deleted;
            })?;
        }
        if self.rebuilds {
            let contents = prune.content().await?;
            self.keep(|database| database.pruned_content += contents)?;
        }
        crash::point("backfill", "pruned");
        let pruned = self.database().pruned;
        steps.done(&format!("{pruned} rows deleted"));
        self.keep(|database| database.pruned_all = true)
    }
}

/// Keeps that history is complete again, as of when the source was read.
pub(super) async fn reconciled(
    connections: &Connections,
    source: Option<&Fingerprint>,
) -> Result<(), BackfillError> {
    let mut inspector = Inspector::new(connections)?;
    // Who watches the source fills it in where Connect cannot be asked now.
    let connector = inspector.connector().await.ok().flatten();
    let source = if let Some(source) = source {
        source.clone()
    } else {
        let catalogue = inspector.catalogue().await?;
        let latest = inspector.snapshot().await?;
        Fingerprint::of(&catalogue, inspector.expected(), latest)
    };
    inspector.records().begin(source, connector).await?;
    Ok(())
}

/// How much of the log a group has done.
fn committed(partitions: &[barrier::Behind]) -> i64 {
    partitions
        .iter()
        .map(|behind| behind.committed.unwrap_or(0) - behind.end)
        .sum()
}
