//! What looks after a membership of a group while its partitions are worked on:
//! reads the log's ends for the lag, notes what the group has committed, and
//! checks that history still is the one that the sink was opened for.

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

/// Ends are read this often.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The sink's checks are made at each so many looks at the ends.
const CHECK_EVERY: u32 = 3;

/// Looks after a membership.
pub(super) struct Watch<S> {
    pub log: Log,
    pub topic: String,
    /// The topic as it was when the group was joined.
    pub identity: TopicIdentity,
    pub sink: Arc<S>,
    pub stats: Arc<SinkStats>,
    pub notes: Notes,
    /// Partitions of which it is noted that the group has committed.
    pub noted: BTreeSet<i32>,
    /// To be cancelled where the sink has to be opened again.
    pub again: CancellationToken,
    /// To be cancelled where the offsets in hand are of a topic that is no
    /// more.
    pub gone: CancellationToken,
}

impl<S: Sink> Watch<S> {
    /// Reads the ends, for the lag, and now and then looks whether history is
    /// still the same.
    pub(super) async fn run(mut self) {
        let mut ticks = ticks(WATCH_INTERVAL);
        for look in 0_u32.. {
            ticks.tick().await;
            match self.log.ends(&self.topic).await {
                Ok(ends) => self.stats.set_ends(&ends),
                Err(error) => self.stats.lost_sight(&format!("kafka: {error}")),
            }
            self.note_commits().await;
            if look % CHECK_EVERY == 0 {
                self.look_at_topic().await;
                self.look_at_sink().await;
            }
        }
    }

    /// Notes of which partitions the group has committed, so that a commit that
    /// is missing later is known to be lost.
    async fn note_commits(&mut self) {
        let own = self.stats.own_commits();
        self.noted.retain(|partition| own.contains(partition));
        for partition in own {
            if self.noted.contains(&partition) {
                continue;
            }
            let topic = self.identity.id;
            let noted = self.notes.note_committed(partition, topic, Noted::Begun);
            match noted.await {
                Ok(()) => {
                    self.noted.insert(partition);
                }
                Err(fault) => {
                    tracing::debug!(sink = self.stats.name(), partition, ?fault, "not noted");
                }
            }
        }
    }

    /// A member does not always notice that its topic was made anew.
    async fn look_at_topic(&self) {
        match self.log.identity(&self.topic).await {
            Ok(Some(identity)) if identity.id != self.identity.id => {
                tracing::warn!(sink = self.stats.name(), "the topic is another");
                self.gone.cancel();
            }
            Ok(Some(identity)) if identity != self.identity => self.again.cancel(),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(sink = self.stats.name(), %error, "topic not looked at");
            }
        }
    }

    async fn look_at_sink(&self) {
        match self.sink.check().await {
            Ok(standing) => {
                self.stats.unhalt(WHOLE_SINK);
                self.stats.set_caution(WHOLE_SINK, standing.caution);
                if !standing.same {
                    tracing::warn!(sink = self.stats.name(), "history has begun anew");
                    self.again.cancel();
                }
            }
            Err(Fault::Halt(halt)) => {
                halt_for(&self.stats, WHOLE_SINK, halt);
                self.again.cancel();
            }
            Err(Fault::Retry { reason, .. }) => {
                tracing::debug!(sink = self.stats.name(), reason, "not checked");
            }
        }
    }
}
