//! A backfill from the source: a snapshot through the log. A rebuild, which covers the complete
//! source and compares it afterwards, repairs every gap in history.
//!
//! ```text
//! new generation of both topics → connector → snapshot → caught up → compare → settled
//! ```
//!
//! The journal records each step before the next one starts. Every step can be repeated.

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

/// Minimum time that a new connector has to start.
const CONNECTOR_PATIENCE: Duration = Duration::from_secs(60);

/// Interval between two checks for the slot of a new connector.
const POLL: Duration = Duration::from_millis(200);

/// A backfill from the source.
pub(super) struct FromDatabase<'a> {
    pub connections: &'a Connections,
    pub place: &'a Place,
    pub journal: &'a mut Journal,
    pub patience: Duration,
    pub progress: &'a dyn Progress,
    /// Whether history is rebuilt from scratch.
    pub rebuilds: bool,
    pub prunes: bool,
    /// Expected number of rows.
    pub rows: u64,
    /// Whether ClickHouse takes part.
    pub into_clickhouse: bool,
    pub consent: Consented,
}

impl FromDatabase<'_> {
    /// Runs the remaining steps.
    pub(super) async fn run(mut self) -> Result<Database, BackfillError> {
        let rebuild = rebuild(self.connections, self.into_clickhouse)?;
        if self.rebuilds {
            self.check_source().await?;
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

    /// Changes the journal and stores it.
    fn keep(&mut self, change: impl FnOnce(&mut Database)) -> Result<(), BackfillError> {
        change(self.database());
        let saved = self.place.save(self.journal);
        saved.map_err(|source| self.place.unreachable(source))
    }

    /// Returns the generations that this backfill has started.
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

    /// Records the end of the log. The rows of the snapshot come after it.
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

    /// Starts a new generation of both topics, unless the journal's generations are the latest.
    async fn begin_lives(&mut self, rebuild: &Rebuild) -> Result<(), BackfillError> {
        let patience = self.patience;
        if let Some(lives) = self.lives()
            && insist(patience, async || rebuild.is_latest(&lives).await).await?
        {
            return Ok(());
        }
        let steps = Steps::new(self.progress, "history");
        if self.into_clickhouse {
            self.create_tables(rebuild).await?;
        }
        self.consent.ensure_topics(self.connections).await?;
        let lives = insist(patience, async || rebuild.begin().await).await?;
        crash::point("backfill", "lives_begun");
        steps.done(&format!("rebuilding as generation {}", lives.facts));
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

    /// Creates the missing tables, and moves the wrong ones aside.
    async fn create_tables(&self, rebuild: &Rebuild) -> Result<(), BackfillError> {
        let steps = Steps::new(self.progress, "clickhouse");
        steps.doing("checking the tables");
        self.consent.check_tables(self.connections).await?;
        // Creates the missing tables. A wrong table can make this fail, so only the result of
        // the second attempt counts.
        let _ = owned::clickhouse(self.connections).await;
        for aside in insist(self.patience, async || rebuild.move_aside().await).await? {
            steps.doing(&format!("moved a wrong table to {aside}"));
        }
        owned::clickhouse(self.connections).await?;
        steps.done("tables ready");
        Ok(())
    }

    /// Rereads all rows into the log.
    async fn snapshot(&mut self) -> Result<(), BackfillError> {
        if self.database().snapshot_rows.is_some() {
            return Ok(());
        }
        if self.rebuilds {
            let timeout = self.patience.max(CONNECTOR_PATIENCE);
            let mut inspector = Inspector::new(self.connections)?;
            let before = inspector.catalogue().await?;
            let repair = self
                .consent
                .repair_connector(self.connections, timeout, self.progress);
            let is_new = repair.await?;
            if is_new {
                // A new connector takes an initial snapshot before it streams.
                self.wait_for_streaming().await?;
            }
            let latest = inspector.snapshot().await?;
            let source = Fingerprint::of(&before, inspector.expected(), latest);
            let rows = self.rows;
            self.keep(|database| {
                database.source = Some(source);
                database.snapshot_rows = is_new.then_some(rows);
            })?;
            if is_new {
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
            self.keep(|stored| *stored = database)?;
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
                // The next run sends a new signal.
                self.keep(|database| database.signal = None)?;
                Err(error)
            }
        }
    }

    /// Returns an error if the source still loses changes: its snapshot would immediately be
    /// out of date.
    async fn check_source(&self) -> Result<(), BackfillError> {
        let mut inspector = Inspector::new(self.connections)?;
        let catalogue = inspector.catalogue().await?;
        let mut findings = check(&catalogue, inspector.expected());
        findings.retain(|finding| finding.severity <= Severity::Incomplete);
        if findings.is_empty() {
            return Ok(());
        }
        Err(BackfillError::Source(Refusal { findings }))
    }

    /// Waits until a new connector has caught up. It creates its slot only after it is reported
    /// as running.
    async fn wait_for_streaming(&self) -> Result<(), BackfillError> {
        let started = tokio::time::Instant::now();
        loop {
            match barrier::wait(self.connections, &[], self.patience, self.progress).await {
                Err(FenceError::NoSlot { .. } | FenceError::NoTopic { .. })
                    if started.elapsed() < self.patience.max(CONNECTOR_PATIENCE) =>
                {
                    tokio::time::sleep(POLL).await;
                }
                result => return Ok(result.map(|_| ())?),
            }
        }
    }

    /// Waits until ClickHouse has processed the log up to its current end. Gives up if there is
    /// no progress.
    async fn catch_up(&mut self) -> Result<(), BackfillError> {
        if self.database().caught_up {
            return Ok(());
        }
        let sinks = [SinkKind::ClickHouse];
        let (mut best_group, mut best_slot) = (i64::MIN, i64::MAX);
        loop {
            match barrier::wait(self.connections, &sinks, self.patience, self.progress).await {
                Err(FenceError::GroupBehind { partitions, .. })
                    if progress(&partitions) > best_group =>
                {
                    best_group = progress(&partitions);
                }
                Err(FenceError::SlotBehind { bytes, .. }) if bytes < best_slot => {
                    best_slot = bytes;
                }
                result => {
                    result?;
                    crash::point("backfill", "caught_up");
                    return self.keep(|database| database.caught_up = true);
                }
            }
        }
    }

    /// Deletes rows that are missing from the source.
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

/// Records a new baseline: history is complete as of the time when the source was read.
pub(super) async fn record_baseline(
    connections: &Connections,
    source: Option<&Fingerprint>,
) -> Result<(), BackfillError> {
    let mut inspector = Inspector::new(connections)?;
    // If Connect is unreachable, the pipeline's watcher of the source adds the properties later.
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

/// Returns a measure of a group's progress: its distance to the end of the log, negated.
fn progress(partitions: &[barrier::Behind]) -> i64 {
    partitions
        .iter()
        .map(|behind| behind.committed.unwrap_or(0) - behind.end)
        .sum()
}
