//! Brings stored rows up to the catalogue: looks up which rows know less of
//! their content than the catalogue does, and writes those again, one bounded
//! statement after the other, so that neither new facts nor a commit wait for
//! all rows of a content.
//!
//! How far a pass is, is written nowhere: a row that was written again is not
//! found any more. A pass that ends early, by a crash or because its partition
//! is given away, is repeated by whoever takes over, who finds what is left.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use uuid::Uuid;

use super::{
    catalogue::{Catalogue, Reached},
    classify::{clickhouse, is_too_slow},
    client::Store,
    pace::{Breadth, Pace, Window},
    position::position,
    stale::{Enrichment, StaleRow, StaleRows},
};
use crate::{connections::clickhouse::ClickHouseError, crash, runtime::Fault};

/// Rows that are looked up before any is written, in statements' worth: what
/// many contents changed at once is then written in the order of the table.
const LOOKED_UP: usize = 10;

/// What the partitions of one process share.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Held by the partition whose pass is under way.
    turn: Arc<AsyncMutex<()>>,
    /// The partitions that this process has.
    held: Mutex<BTreeSet<i32>>,
    /// Those that want the turn, in their order, and when each last asked.
    waiting: Mutex<VecDeque<(i32, Instant)>>,
}

/// Whoever has not asked again for so long does not hold the others up: it may
/// be halted, or gone.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// A partition that this process has, until dropped.
#[derive(Debug)]
pub(super) struct Held {
    turns: Arc<Turns>,
    partition: i32,
}

/// The right to re-enrich.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "held, not looked at")] OwnedMutexGuard<()>);

impl Turns {
    fn held(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(self: &Arc<Self>, partition: i32) -> Held {
        self.held().insert(partition);
        Held {
            turns: Arc::clone(self),
            partition,
        }
    }

    /// The turn, unless another partition has it or has asked for it before. A
    /// pass is for the rows of all partitions that the process has, so whoever
    /// comes next finds little left.
    pub(super) fn take(&self, partition: i32) -> Option<Turn> {
        let mut waiting = self.waiting();
        let free = Arc::clone(&self.turn).try_lock_owned().ok();
        // As long as another has the turn they may wait for that.
        if free.is_some() {
            waiting.retain(|(_, asked)| asked.elapsed() < FORGOTTEN);
        }
        match waiting.iter_mut().find(|(one, _)| *one == partition) {
            Some((_, asked)) => *asked = Instant::now(),
            None => waiting.push_back((partition, Instant::now())),
        }
        if waiting.front().is_none_or(|(first, _)| *first != partition) {
            return None;
        }
        let turn = free?;
        waiting.pop_front();
        Some(Turn(turn))
    }

    /// Resolves when nobody has the turn.
    pub(super) async fn is_free(&self, partition: i32) {
        drop(self.turn.lock().await);
        // It has asked all the while.
        if let Some((_, asked)) = self.waiting().iter_mut().find(|(one, _)| *one == partition) {
            *asked = Instant::now();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(i32, Instant)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.turns.held().remove(&self.partition);
        let mut waiting = self.turns.waiting();
        waiting.retain(|(one, _)| *one != self.partition);
    }
}

/// Where statements go, and what rows are enriched with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach<'a> {
    pub(super) store: &'a Store,
    pub(super) catalogue: &'a Catalogue,
    /// Generation of the content topic.
    pub(super) generation: u16,
}

/// One pass over the rows of contents that have changed.
#[derive(Debug)]
pub(super) struct Pass {
    _turn: Turn,
    /// Up to where rows know the catalogue when the pass is done.
    target: Reached,
    partitions: Vec<i32>,
    /// Contents that are still to be looked up.
    contents: Vec<Uuid>,
    /// Contents being looked up, and where among the ids.
    lookup: Vec<Uuid>,
    window: Window,
    breadth: Breadth,
    /// Rows to be written, by event id.
    stale: VecDeque<StaleRow>,
    /// Whether `stale` is in that order.
    sorted: bool,
    pace: Pace,
}

impl Pass {
    /// `most` is how many rows one statement writes at most.
    pub(super) fn new(
        turn: Turn,
        held: &Held,
        target: Reached,
        contents: Vec<Uuid>,
        most: usize,
    ) -> Self {
        let own = BTreeSet::from([held.partition]);
        Self {
            _turn: turn,
            target,
            partitions: held.turns.held().union(&own).copied().collect(),
            contents,
            lookup: Vec::new(),
            window: Window::default(),
            breadth: Breadth::default(),
            stale: VecDeque::new(),
            sorted: true,
            pace: Pace::new(most),
        }
    }

    /// Up to where rows know the catalogue, once all is done.
    pub(super) fn done(&self) -> Option<&Reached> {
        let done = !self.has_lookups() && self.stale.is_empty();
        done.then_some(&self.target)
    }

    /// What is left, for people.
    pub(super) fn left(&self) -> String {
        let contents = self.contents.len() + self.lookup.len();
        let mut left = String::from("re-enriching stored rows:");
        if !self.stale.is_empty() {
            left.push_str(&format!(" {} to write", self.stale.len()));
        }
        if contents > 0 {
            let separator = if self.stale.is_empty() { "" } else { "," };
            let plural = if contents == 1 { "" } else { "s" };
            left.push_str(&format!(
                "{separator} {contents} content{plural} to look up"
            ));
        }
        left
    }

    /// One statement. After a fault the same rows are taken again, fewer of
    /// them where they were too many.
    pub(super) async fn step(&mut self, reach: Reach<'_>) -> Result<(), Fault> {
        if self.has_lookups() && self.stale.len() < LOOKED_UP * self.pace.most() {
            return self.look_up(reach).await;
        }
        self.write(reach).await
    }

    fn has_lookups(&self) -> bool {
        !self.contents.is_empty() || !self.lookup.is_empty()
    }

    async fn look_up(&mut self, reach: Reach<'_>) -> Result<(), Fault> {
        if self.lookup.is_empty() {
            let rest = self.contents.len().saturating_sub(self.breadth.contents());
            self.lookup = self.contents.split_off(rest);
            self.window = Window::default();
        }
        let contents: Vec<(Uuid, u64)> = self
            .lookup
            .iter()
            .filter_map(|id| Some((*id, reach.catalogue.get(id)?)))
            .map(|(id, known)| Ok((id, position(reach.generation, known.offset)?.get())))
            .collect::<Result<_, Fault>>()?;
        let limit = LOOKED_UP * self.pace.most();
        let found = reach.store.stale_rows(StaleRows {
            partitions: &self.partitions,
            contents: &contents,
            after: self.window.after(),
            until: self.window.until(),
            limit,
        });
        let found = match found.await {
            Ok(found) => found,
            Err(error) => return Err(self.look_up_less(reach, &error).await),
        };
        match found.last() {
            Some(last) if found.len() >= limit => self.window.found_up_to(last.event_id),
            _ => {
                if !self.window.finished() {
                    self.lookup.clear();
                    self.breadth.found();
                }
            }
        }
        self.sorted &= self.stale.is_empty() || found.is_empty();
        self.stale.extend(found);
        crash::point("clickhouse", "looked_up");
        Ok(())
    }

    /// The lookup was not answered: the next one is of less, where it was too
    /// slow.
    async fn look_up_less(&mut self, reach: Reach<'_>, error: &ClickHouseError) -> Fault {
        if is_too_slow(error) {
            self.breadth.too_slow();
            if self.lookup.len() > 1 {
                let rest = self
                    .lookup
                    .split_off(self.breadth.contents().min(self.lookup.len()));
                self.contents.extend(rest);
            } else if let Ok(Some(bounds)) = reach.store.event_bounds().await {
                self.window.too_slow(bounds);
            }
        }
        clickhouse(error)
    }

    async fn write(&mut self, reach: Reach<'_>) -> Result<(), Fault> {
        if !mem::replace(&mut self.sorted, true) {
            let stale = self.stale.make_contiguous();
            stale.sort_unstable();
        }
        let count = self.next_rows();
        let rows = self.stale.range(..count);
        let mut events: Vec<i64> = rows.clone().map(|row| row.event_id).collect();
        events.dedup();
        let contents: BTreeSet<Uuid> = rows.map(|row| row.content_id).collect();
        let enrichments: Vec<Enrichment> = contents
            .into_iter()
            .filter_map(|id| Some((id, reach.catalogue.get(&id)?)))
            .map(|(content_id, known)| {
                Ok(Enrichment {
                    content_id,
                    content_offset: position(reach.generation, known.offset)?.get(),
                    content_type: known.content_type.as_deref().map(str::to_owned),
                    length_seconds: known.length_seconds,
                })
            })
            .collect::<Result<_, Fault>>()?;
        crash::point("clickhouse", "re_enriching");
        let started = Instant::now();
        if let Err(error) = reach.store.reenrich(&events, &enrichments).await {
            if is_too_slow(&error) {
                self.pace.too_slow();
            }
            return Err(clickhouse(&error));
        }
        if count >= self.pace.rows() {
            self.pace.took(started.elapsed());
        }
        self.stale.drain(..count);
        crash::point("clickhouse", "re_enriched");
        Ok(())
    }

    /// How many rows the next statement is of: all rows of an event are in one.
    fn next_rows(&self) -> usize {
        let count = self.pace.rows().min(self.stale.len());
        let Some(last) = count.checked_sub(1).and_then(|last| self.stale.get(last)) else {
            return 0;
        };
        let more = self.stale.range(count..);
        count + more.take_while(|row| row.event_id == last.event_id).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_asked_first_has_the_next_turn() {
        let turns = Turns::default();
        let first = turns.take(0);
        assert!(first.is_some());
        assert!(turns.take(1).is_none());
        assert!(turns.take(0).is_none());
        drop(first);
        // The one that has just had it would be quicker.
        assert!(turns.take(0).is_none());
        let second = turns.take(1);
        assert!(second.is_some());
        drop(second);
        assert!(turns.take(0).is_some());
    }

    #[test]
    fn whoever_asks_no_more_is_forgotten() {
        let turns = Turns::default();
        let long_ago = Instant::now().checked_sub(FORGOTTEN).expect("a while");
        turns.waiting().push_back((1, long_ago));
        assert!(turns.take(0).is_some());
    }
}
