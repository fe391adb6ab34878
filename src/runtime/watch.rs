//! Background task of a group membership: reads the end offsets for the lag,
//! records which partitions the group has committed, and checks that the topic and
//! the sink are still those that were opened.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Fault, Noted, Notes, Sink,
    retry::halt_for,
    stats::{SinkStats, WHOLE_SINK},
};
use crate::{
    kafka::{Log, TopicIdentity},
    runtime::retry::ticks,
};

/// Interval at which the end offsets are read.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The topic and the sink are checked on every nth reading of the end offsets.
const CHECK_EVERY: u32 = 3;

/// Watches a group membership.
pub(super) struct Watch<S> {
    pub log: Log,
    pub topic: String,
    /// Identity of the topic when the group was joined.
    pub identity: TopicIdentity,
    pub sink: Arc<S>,
    pub stats: Arc<SinkStats>,
    pub notes: Notes,
    /// Partitions whose first commit is recorded.
    pub recorded: BTreeSet<i32>,
    /// Cancelled if the sink has to be reopened.
    pub restart: CancellationToken,
    /// Cancelled if the topic was recreated, so that the current offsets are
    /// meaningless.
    pub topic_gone: CancellationToken,
}

impl<S: Sink> Watch<S> {
    /// Runs until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut ticks = ticks(WATCH_INTERVAL);
        for round in 0_u32.. {
            ticks.tick().await;
            match self.log.ends(&self.topic).await {
                Ok(ends) => self.stats.set_ends(&ends),
                Err(error) => self.stats.lost_sight(&format!("kafka: {error}")),
            }
            self.record_commits().await;
            if round % CHECK_EVERY == 0 {
                self.check_topic().await;
                self.check_sink().await;
            }
        }
    }

    /// Records the partitions that the group has committed, so that a missing offset
    /// is later recognised as lost.
    async fn record_commits(&mut self) {
        let committed = self.stats.own_commits();
        self.recorded
            .retain(|partition| committed.contains(partition));
        for partition in committed {
            if self.recorded.contains(&partition) {
                continue;
            }
            let topic = self.identity.id;
            let write = self.notes.note_committed(partition, topic, Noted::Begun);
            match write.await {
                Ok(()) => {
                    self.recorded.insert(partition);
                }
                Err(fault) => {
                    let sink = self.stats.name();
                    tracing::debug!(sink, partition, ?fault, "cannot record the commit");
                }
            }
        }
    }

    /// Checks whether the topic was recreated or has more partitions: a group member
    /// does not always notice.
    async fn check_topic(&self) {
        match self.log.identity(&self.topic).await {
            Ok(Some(identity)) if identity.id != self.identity.id => {
                tracing::warn!(sink = self.stats.name(), "the topic was recreated");
                self.topic_gone.cancel();
            }
            Ok(Some(identity)) if identity != self.identity => self.restart.cancel(),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(sink = self.stats.name(), %error, "cannot check the topic");
            }
        }
    }

    /// Asks the sink whether it has to be reopened.
    async fn check_sink(&self) {
        match self.sink.check().await {
            Ok(health) => {
                self.stats.unhalt(WHOLE_SINK);
                self.stats.set_degradation(WHOLE_SINK, health.degradation);
                if !health.is_current {
                    tracing::warn!(sink = self.stats.name(), "the generation has changed");
                    self.restart.cancel();
                }
            }
            Err(Fault::Halt(halt)) => {
                halt_for(&self.stats, WHOLE_SINK, halt);
                self.restart.cancel();
            }
            Err(Fault::Retry { reason, .. }) => {
                tracing::debug!(sink = self.stats.name(), reason, "cannot check the sink");
            }
        }
    }
}
