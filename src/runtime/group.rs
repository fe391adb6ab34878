//! The worker of one sink whose partitions a consumer group spreads: opens the
//! sink, joins the group, and runs one loop for each partition that it is
//! given, until told to stop.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Committed, Fault, KnownPlaceholders, Notes, PartitionSink as _, Sink,
    dead_letter::DeadLetters,
    is_ours,
    partition::{Batching, Loop},
    retry::{Ending, Patience},
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

/// A commit that is overdue is looked for this often.
const STUCK_INTERVAL: Duration = Duration::from_secs(1);

/// One sink's worker.
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

/// A partition's loop and how to end it.
struct Running {
    number: i32,
    ending: Ending,
    /// Cancelled when there is no use in draining any more.
    fence: CancellationToken,
    task: JoinHandle<()>,
}

impl<S: Sink> GroupWorker<S> {
    /// Runs until told to stop. A sink that cannot go on where it stands leaves
    /// the group, and joins it again once it could be opened anew.
    pub(crate) async fn run(self) {
        let mut attempt = 0;
        while !self.shared.stop.is_cancelled() {
            let Some(identity) = self.wait_for_topic().await else {
                return;
            };
            if !self.open().await {
                return;
            }
            let letters = DeadLetters::new(self.shared.producer.clone(), self.group, identity);
            let group = self.shared.group(self.group);
            let joined = self.shared.kafka.join(&group, &self.topic);
            let left = match joined {
                Ok((membership, events)) => {
                    self.serve(membership, events, identity, &letters).await
                }
                Err(error) => Err(error),
            };
            match left {
                Ok(()) => attempt = 0,
                Err(error) => {
                    self.stats.failed(WHOLE_SINK, &format!("kafka: {error}"));
                    self.pause(self.shared.patience.delay(attempt)).await;
                    attempt += 1;
                }
            }
        }
    }

    /// Waits until the topic exists; none when told to stop before.
    async fn wait_for_topic(&self) -> Option<TopicIdentity> {
        let mut attempt = 0;
        loop {
            let identity = tokio::select! {
                identity = self.log.identity(&self.topic) => identity,
                () = self.shared.stop.cancelled() => return None,
            };
            let what = match identity {
                Ok(Some(identity)) => return Some(identity),
                Ok(None) => format!("waiting for topic {}", self.topic),
                Err(error) => format!("waiting for kafka: {error}"),
            };
            self.stats.set_phase(Phase::Starting(what));
            if !self.pause(self.shared.patience.delay(attempt)).await {
                return None;
            }
            attempt += 1;
        }
    }

    /// Opens the sink, as often as it takes; false when told to stop before.
    async fn open(&self) -> bool {
        self.stats
            .set_phase(Phase::Starting("opening the store".to_owned()));
        let mut attempt = 0;
        loop {
            let open = async {
                self.shared.placeholders.load().await?;
                self.sink.open().await
            };
            let opened = tokio::select! {
                opened = open => opened,
                () = self.shared.stop.cancelled() => return false,
            };
            let wait = match opened {
                Ok(()) => {
                    self.stats.unhalt(WHOLE_SINK);
                    self.stats.recovered(WHOLE_SINK);
                    return true;
                }
                Err(fault) => self
                    .shared
                    .patience
                    .endure(&self.stats, WHOLE_SINK, fault, attempt),
            };
            if !self.pause(wait).await {
                return false;
            }
            attempt += 1;
        }
    }

    /// Waits; false when told to stop meanwhile.
    async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            () = sleep(wait) => true,
            () = self.shared.stop.cancelled() => false,
        }
    }

    /// Answers the group until told to stop or to begin again, then drains and
    /// leaves it.
    ///
    /// # Errors
    /// When it is left because an assignment could not be taken up.
    async fn serve(
        &self,
        membership: Membership,
        mut events: mpsc::Receiver<Rebalance>,
        identity: TopicIdentity,
        letters: &DeadLetters,
    ) -> Result<(), KafkaError> {
        let mut running: HashMap<i32, Running> = HashMap::new();
        let again = self.shared.stop.child_token();
        let gone = CancellationToken::new();
        self.stats.set_phase(Phase::Starting(format!(
            "joining {}",
            self.shared.group(self.group)
        )));
        // Apart, so that a slow broker holds up neither a rebalance nor the end.
        let watch = Watch {
            log: self.log.clone(),
            topic: self.topic.clone(),
            identity,
            sink: Arc::clone(&self.sink),
            stats: Arc::clone(&self.stats),
            notes: self.shared.notes(self.group),
            noted: <_>::default(),
            again: again.clone(),
            gone: gone.clone(),
        };
        let _watch = AbortOnDropHandle::new(tokio::spawn(watch.run()));
        let mut failed = Ok(());
        let mut ticks = ticks(STUCK_INTERVAL);
        loop {
            tokio::select! {
                // Made by a loop that was ended before it was overdue: the others
                // notice theirs themselves.
                _ = ticks.tick() => if membership.is_stuck() {
                    let reason = "kafka: a commit has had no answer";
                    tracing::warn!(sink = self.group.name(), reason, "joining again");
                    self.stats.failed(WHOLE_SINK, reason);
                    break;
                },
                event = events.recv() => match event {
                    Some(Rebalance::Failed(error)) => {
                        failed = Err(error);
                        break;
                    }
                    Some(event) => {
                        self.rebalance(event, &mut running, identity, letters, &again).await;
                    }
                    None => break,
                },
                () = again.cancelled() => break,
                () = gone.cancelled() => break,
            }
        }
        crash::point(self.group.name(), "leaving");
        if gone.is_cancelled() {
            // What was done there is nobody's any more.
            for one in running.values() {
                one.fence.cancel();
            }
        }
        self.end(running.into_values().collect()).await;
        // The revocation that leaving causes has nobody left to wait for.
        drop(events);
        let left = tokio::task::spawn_blocking(|| membership.leave()).await;
        if let Err(error) = left {
            tracing::debug!(%error, "the group was not left orderly");
        }
        failed
    }

    async fn rebalance(
        &self,
        event: Rebalance,
        running: &mut HashMap<i32, Running>,
        identity: TopicIdentity,
        letters: &DeadLetters,
        again: &CancellationToken,
    ) {
        match event {
            Rebalance::Assigned(claims) => {
                self.stats.set_phase(Phase::Running);
                self.stats.recovered(WHOLE_SINK);
                for claim in claims {
                    let number = claim.partition.number();
                    let started = self.start(claim, identity, letters.clone(), again.clone());
                    running.insert(number, started);
                }
            }
            Rebalance::Revoked { partitions, done } => {
                tracing::info!(sink = self.group.name(), ?partitions, "partitions revoked");
                crash::point(self.group.name(), "revoked");
                let ended = partitions
                    .iter()
                    .filter_map(|number| running.remove(number))
                    .collect();
                self.end(ended).await;
                crash::point(self.group.name(), "drained");
                drop(done);
            }
            Rebalance::Fault(error) | Rebalance::Failed(error) => {
                tracing::debug!(sink = self.group.name(), %error, "kafka");
            }
        }
    }

    /// Starts a partition's loop.
    fn start(
        &self,
        claim: Assignment,
        identity: TopicIdentity,
        letters: DeadLetters,
        again: CancellationToken,
    ) -> Running {
        let ending = Ending {
            stop: self.shared.stop.child_token(),
            again,
        };
        let hold = Hold {
            sink: Arc::clone(&self.sink),
            notes: self.shared.notes(self.group),
            identity,
            stats: Arc::clone(&self.stats),
            patience: self.shared.patience,
            batching: self.batching,
            letters,
            placeholders: self.shared.placeholders.clone(),
            guard: Arc::clone(&self.guard),
            ending: ending.clone(),
        };
        Running {
            number: claim.partition.number(),
            ending,
            fence: claim.partition.fence().clone(),
            task: tokio::spawn(hold.run(claim)),
        }
    }

    /// Ends loops and waits until they have drained, or until their partitions
    /// are somebody else's: then what they have in hand is, too.
    async fn end(&self, running: Vec<Running>) {
        for one in &running {
            one.ending.stop.cancel();
        }
        for mut one in running {
            let ended = tokio::select! {
                ended = &mut one.task => ended,
                () = one.fence.cancelled() => {
                    one.task.abort();
                    let ended = one.task.await;
                    self.guard.release(one.number);
                    self.stats.released(one.number);
                    let sink = self.group.name();
                    tracing::info!(sink, partition = one.number, "partition lost");
                    ended
                }
            };
            match ended {
                Err(error) if !error.is_cancelled() => {
                    tracing::error!(%error, "a partition's loop failed");
                }
                _ => {}
            }
        }
    }
}

/// What it takes to hold a partition.
struct Hold<S> {
    sink: Arc<S>,
    notes: Notes,
    /// The topic as it was when the group was joined.
    identity: TopicIdentity,
    stats: Arc<SinkStats>,
    patience: Patience,
    batching: Batching,
    letters: DeadLetters,
    placeholders: KnownPlaceholders,
    guard: Arc<ShapeGuard>,
    ending: Ending,
}

impl<S: Sink> Hold<S> {
    /// Has the sink take the partition over, then runs its loop.
    async fn run(self, mut claim: Assignment) {
        let number = claim.partition.number();
        // Where another tool has moved the group to says nothing of the lag.
        let found = claim.committed.as_ref();
        let found = found.filter(|(offset, metadata)| is_ours(*offset, metadata));
        let found = found.map(|(offset, _)| *offset);
        self.stats.claimed(number, found);
        let Some(sink) = self.claim(&claim).await else {
            self.stats.released(number);
            return;
        };
        let begin = sink.begin().unwrap_or(claim.start);
        if begin != claim.start
            && let Err(error) = claim.partition.seek(begin).await
        {
            let reason = format!("kafka: partition {number} cannot be read from {begin}: {error}");
            tracing::warn!(sink = self.stats.name(), reason, "joining again");
            self.stats.released(number);
            self.ending.again.cancel();
            return;
        }
        tracing::info!(
            sink = self.stats.name(),
            partition = number,
            found,
            begin,
            "partition assigned"
        );
        self.guard.take_over(number, self.identity, begin).await;
        crash::point(self.stats.name(), "claimed");
        Loop {
            committer: claim.partition.committer(),
            partition: claim.partition,
            sink,
            batching: self.batching,
            stats: self.stats,
            letters: self.letters,
            notes: self.notes,
            placeholders: self.placeholders,
            guard: self.guard,
            topic: self.identity,
            patience: self.patience,
            ending: self.ending,
            found: claim.committed,
            committed: begin,
            done: 0,
            halted: None,
            rest: None,
            unsettled: None,
        }
        .run()
        .await;
    }

    async fn claim_once(&self, claim: &Assignment) -> Result<S::Partition, Fault> {
        let number = claim.partition.number();
        let found = claim.committed.as_ref();
        let found = found.map(|(offset, metadata)| (*offset, metadata.as_str()));
        let noted = self.notes.committed(number, self.identity.id).await?;
        self.sink.claim(number, Committed::of(found, noted)).await
    }

    /// As often as it takes; none when told to stop before.
    async fn claim(&self, claim: &Assignment) -> Option<S::Partition> {
        let number = claim.partition.number();
        let mut attempt = 0;
        loop {
            let claimed = tokio::select! {
                claimed = self.claim_once(claim) => claimed,
                () = self.ending.stop.cancelled() => return None,
            };
            let wait = match claimed {
                Ok(sink) => {
                    self.stats.unhalt(number);
                    self.stats.recovered(number);
                    return Some(sink);
                }
                Err(fault) => self.patience.endure(&self.stats, number, fault, attempt),
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.ending.stop.cancelled() => return None,
            }
            attempt += 1;
        }
    }
}
