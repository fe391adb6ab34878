//! Runs one sink that consumes through a consumer group: opens the sink, joins the
//! group, and runs one task per assigned partition until shutdown.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Committed, Fault, KnownPlaceholders, Notes, PartitionSink as _, Sink,
    dead_letter::DeadLetters,
    is_ours,
    partition::{Batching, PartitionLoop},
    retry::{RetryPolicy, Shutdown},
    shape::ShapeGuard,
    shared::Shared,
    stats::{Phase, SinkStats, WHOLE_SINK},
    watch::Watch,
};
use crate::{
    crash,
    kafka::{Assignment, KafkaError, Log, Membership, Rebalance, TopicIdentity},
    runtime::retry::ticks,
    sink_kind::ConsumerGroup,
};

/// Interval at which the worker checks for an overdue commit.
const STUCK_COMMIT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Worker of one sink.
pub(crate) struct GroupWorker<S> {
    pub(crate) group: ConsumerGroup,
    pub(crate) topic: String,
    pub(crate) log: Log,
    pub(crate) shared: Shared,
    pub(crate) sink: Arc<S>,
    pub(crate) stats: Arc<SinkStats>,
    pub(crate) guard: Arc<ShapeGuard>,
    pub(crate) batching: Batching,
}

/// A running partition loop and its handles.
struct PartitionTask {
    number: i32,
    shutdown: Shutdown,
    /// Cancelled when the partition is lost; draining is then pointless.
    lost: CancellationToken,
    handle: JoinHandle<()>,
}

impl<S: Sink> GroupWorker<S> {
    /// Runs until shutdown. If the sink cannot continue, the worker leaves the group,
    /// reopens the sink and rejoins.
    pub(crate) async fn run(self) {
        let mut attempt = 0;
        while !self.shared.stop.is_cancelled() {
            let Some(identity) = self.wait_for_topic().await else {
                return;
            };
            if !self.open().await {
                return;
            }
            let dead_letters = DeadLetters::new(self.shared.producer.clone(), self.group, identity);
            let group = self.shared.group(self.group);
            let joined = self.shared.kafka.join(&group, &self.topic);
            let result = match joined {
                Ok((membership, events)) => {
                    self.serve(membership, events, identity, &dead_letters)
                        .await
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => attempt = 0,
                Err(error) => {
                    self.stats.failed(WHOLE_SINK, &format!("kafka: {error}"));
                    self.pause(self.shared.retry_policy.delay(attempt)).await;
                    attempt += 1;
                }
            }
        }
    }

    /// Waits until the topic exists. Returns `None` if shut down first.
    async fn wait_for_topic(&self) -> Option<TopicIdentity> {
        let mut attempt = 0;
        loop {
            let identity = tokio::select! {
                identity = self.log.identity(&self.topic) => identity,
                () = self.shared.stop.cancelled() => return None,
            };
            let reason = match identity {
                Ok(Some(identity)) => return Some(identity),
                Ok(None) => format!("waiting for topic {}", self.topic),
                Err(error) => format!("waiting for kafka: {error}"),
            };
            self.stats.set_phase(Phase::Starting(reason));
            if !self.pause(self.shared.retry_policy.delay(attempt)).await {
                return None;
            }
            attempt += 1;
        }
    }

    /// Opens the sink, retrying until it succeeds. Returns false if shut down first.
    async fn open(&self) -> bool {
        self.stats
            .set_phase(Phase::Starting("opening the store".to_owned()));
        let mut attempt = 0;
        loop {
            let open = async {
                self.shared.placeholders.load().await?;
                self.sink.open().await
            };
            let result = tokio::select! {
                result = open => result,
                () = self.shared.stop.cancelled() => return false,
            };
            let wait = match result {
                Ok(()) => {
                    self.stats.unhalt(WHOLE_SINK);
                    self.stats.recovered(WHOLE_SINK);
                    return true;
                }
                Err(fault) => {
                    self.shared
                        .retry_policy
                        .report_fault(&self.stats, WHOLE_SINK, fault, attempt)
                }
            };
            if !self.pause(wait).await {
                return false;
            }
            attempt += 1;
        }
    }

    /// Sleeps for `wait`. Returns false if shut down in the meantime.
    async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            () = sleep(wait) => true,
            () = self.shared.stop.cancelled() => false,
        }
    }

    /// Handles rebalances until shutdown or a restart request, then drains the
    /// partitions and leaves the group.
    ///
    /// # Errors
    /// If an assigned partition could not be started.
    async fn serve(
        &self,
        membership: Membership,
        mut events: mpsc::Receiver<Rebalance>,
        identity: TopicIdentity,
        dead_letters: &DeadLetters,
    ) -> Result<(), KafkaError> {
        let mut tasks: HashMap<i32, PartitionTask> = HashMap::new();
        let restart = self.shared.stop.child_token();
        let topic_gone = CancellationToken::new();
        self.stats.set_phase(Phase::Starting(format!(
            "joining {}",
            self.shared.group(self.group)
        )));
        // A separate task, so that a slow broker delays neither a rebalance nor the
        // shutdown.
        let watch = Watch {
            log: self.log.clone(),
            topic: self.topic.clone(),
            identity,
            sink: Arc::clone(&self.sink),
            stats: Arc::clone(&self.stats),
            notes: self.shared.notes(self.group),
            recorded: <_>::default(),
            restart: restart.clone(),
            topic_gone: topic_gone.clone(),
        };
        let _watch = AbortOnDropHandle::new(tokio::spawn(watch.run()));
        let mut result = Ok(());
        let mut ticks = ticks(STUCK_COMMIT_CHECK_INTERVAL);
        loop {
            tokio::select! {
                // Detects an overdue commit whose task has already ended. Running
                // tasks detect their own overdue commits.
                _ = ticks.tick() => if membership.is_stuck() {
                    let reason = "kafka: commit timed out";
                    tracing::warn!(sink = self.group.name(), reason, "rejoining the group");
                    self.stats.failed(WHOLE_SINK, reason);
                    break;
                },
                event = events.recv() => match event {
                    Some(Rebalance::Failed(error)) => {
                        result = Err(error);
                        break;
                    }
                    Some(event) => {
                        self.rebalance(event, &mut tasks, identity, dead_letters, &restart).await;
                    }
                    None => break,
                },
                () = restart.cancelled() => break,
                () = topic_gone.cancelled() => break,
            }
        }
        crash::point(self.group.name(), "leaving");
        if topic_gone.is_cancelled() {
            // The topic was recreated: abort the tasks instead of draining them.
            for task in tasks.values() {
                task.lost.cancel();
            }
        }
        self.stop_tasks(tasks.into_values().collect()).await;
        // Leaving triggers a revocation, but no task is left to drain.
        drop(events);
        let leave = tokio::task::spawn_blocking(|| membership.leave()).await;
        if let Err(error) = leave {
            tracing::debug!(%error, "cannot leave the group cleanly");
        }
        result
    }

    async fn rebalance(
        &self,
        event: Rebalance,
        tasks: &mut HashMap<i32, PartitionTask>,
        identity: TopicIdentity,
        dead_letters: &DeadLetters,
        restart: &CancellationToken,
    ) {
        match event {
            Rebalance::Assigned(assignments) => {
                self.stats.set_phase(Phase::Running);
                self.stats.recovered(WHOLE_SINK);
                for assignment in assignments {
                    let number = assignment.partition.number();
                    let dead_letters = dead_letters.clone();
                    let task = self.start(assignment, identity, dead_letters, restart.clone());
                    tasks.insert(number, task);
                }
            }
            Rebalance::Revoked { partitions, done } => {
                tracing::info!(sink = self.group.name(), ?partitions, "partitions revoked");
                crash::point(self.group.name(), "revoked");
                let revoked = partitions
                    .iter()
                    .filter_map(|number| tasks.remove(number))
                    .collect();
                self.stop_tasks(revoked).await;
                crash::point(self.group.name(), "drained");
                drop(done);
            }
            Rebalance::Fault(error) | Rebalance::Failed(error) => {
                tracing::debug!(sink = self.group.name(), %error, "consumer group error");
            }
        }
    }

    /// Starts the task of an assigned partition.
    fn start(
        &self,
        assignment: Assignment,
        identity: TopicIdentity,
        dead_letters: DeadLetters,
        restart: CancellationToken,
    ) -> PartitionTask {
        let shutdown = Shutdown {
            stop: self.shared.stop.child_token(),
            restart,
        };
        let context = PartitionContext {
            sink: Arc::clone(&self.sink),
            notes: self.shared.notes(self.group),
            identity,
            stats: Arc::clone(&self.stats),
            retry_policy: self.shared.retry_policy,
            batching: self.batching,
            dead_letters,
            placeholders: self.shared.placeholders.clone(),
            guard: Arc::clone(&self.guard),
            shutdown: shutdown.clone(),
        };
        PartitionTask {
            number: assignment.partition.number(),
            shutdown,
            lost: assignment.partition.fence().clone(),
            handle: tokio::spawn(context.run(assignment)),
        }
    }

    /// Stops tasks and waits until they have drained. A task that has lost its
    /// partition is aborted: the new owner processes its records again.
    async fn stop_tasks(&self, tasks: Vec<PartitionTask>) {
        for task in &tasks {
            task.shutdown.stop.cancel();
        }
        for mut task in tasks {
            let result = tokio::select! {
                result = &mut task.handle => result,
                () = task.lost.cancelled() => {
                    task.handle.abort();
                    let result = task.handle.await;
                    self.guard.release(task.number);
                    self.stats.released(task.number);
                    let sink = self.group.name();
                    tracing::info!(sink, partition = task.number, "partition lost");
                    result
                }
            };
            match result {
                Err(error) if !error.is_cancelled() => {
                    tracing::error!(%error, "partition task panicked");
                }
                _ => {}
            }
        }
    }
}

/// Everything that a partition task needs.
struct PartitionContext<S> {
    sink: Arc<S>,
    notes: Notes,
    /// Identity of the topic when the group was joined.
    identity: TopicIdentity,
    stats: Arc<SinkStats>,
    retry_policy: RetryPolicy,
    batching: Batching,
    dead_letters: DeadLetters,
    placeholders: KnownPlaceholders,
    guard: Arc<ShapeGuard>,
    shutdown: Shutdown,
}

impl<S: Sink> PartitionContext<S> {
    /// Claims the partition in the sink, then runs the partition loop.
    async fn run(self, mut assignment: Assignment) {
        let number = assignment.partition.number();
        // Ignore an offset that another tool committed: it says nothing about the lag.
        let commit = assignment.committed.as_ref();
        let commit = commit.filter(|(offset, metadata)| is_ours(*offset, metadata));
        let committed = commit.map(|(offset, _)| *offset);
        self.stats.claimed(number, committed);
        let Some(sink) = self.claim(&assignment).await else {
            self.stats.released(number);
            return;
        };
        let start = sink.begin().unwrap_or(assignment.start);
        if start != assignment.start
            && let Err(error) = assignment.partition.seek(start).await
        {
            let reason =
                format!("kafka: cannot seek partition {number} to offset {start}: {error}");
            tracing::warn!(sink = self.stats.name(), reason, "rejoining the group");
            self.stats.released(number);
            self.shutdown.restart.cancel();
            return;
        }
        tracing::info!(
            sink = self.stats.name(),
            partition = number,
            committed,
            start,
            "partition assigned"
        );
        self.guard.take_over(number, self.identity, start).await;
        crash::point(self.stats.name(), "claimed");
        PartitionLoop {
            committer: assignment.partition.committer(),
            partition: assignment.partition,
            sink,
            batching: self.batching,
            stats: self.stats,
            dead_letters: self.dead_letters,
            notes: self.notes,
            placeholders: self.placeholders,
            guard: self.guard,
            topic: self.identity,
            retry_policy: self.retry_policy,
            shutdown: self.shutdown,
            group_commit: assignment.committed,
            committed: start,
            processed: 0,
            halt: None,
            split_off: None,
            flush_retry: None,
        }
        .run()
        .await;
    }

    async fn claim_once(&self, assignment: &Assignment) -> Result<S::Partition, Fault> {
        let number = assignment.partition.number();
        let commit = assignment.committed.as_ref();
        let commit = commit.map(|(offset, metadata)| (*offset, metadata.as_str()));
        let noted = self.notes.committed(number, self.identity.id).await?;
        self.sink.claim(number, Committed::of(commit, noted)).await
    }

    /// Claims the partition, retrying until it succeeds. Returns `None` if shut down
    /// first.
    async fn claim(&self, assignment: &Assignment) -> Option<S::Partition> {
        let number = assignment.partition.number();
        let mut attempt = 0;
        loop {
            let result = tokio::select! {
                result = self.claim_once(assignment) => result,
                () = self.shutdown.stop.cancelled() => return None,
            };
            let wait = match result {
                Ok(sink) => {
                    self.stats.unhalt(number);
                    self.stats.recovered(number);
                    return Some(sink);
                }
                Err(fault) => self
                    .retry_policy
                    .report_fault(&self.stats, number, fault, attempt),
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.shutdown.stop.cancelled() => return None,
            }
            attempt += 1;
        }
    }
}
