//! Detects schema mismatches. Decides whether a record with an unexpected shape is a
//! single bad record, which is dead-lettered, or the first of many, which halts the
//! sink.
//!
//! The sink halts immediately if the source schema is known to have changed,
//! otherwise after 20 consecutive mismatches. Invalid values and undecodable records
//! never halt a sink.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use uuid::Uuid;

use super::{
    Delivery, Halt, RECONCILE, Rejected,
    held::HaltStore,
    shared::Shared,
    source::{ColumnsRead, SCHEMA_CHANGED, SourceWatch},
};
use crate::{
    debezium::Shape,
    kafka::{TopicIdentity, chunk::Chunk},
    sink_kind::ConsumerGroup,
    source::checks::RESEND,
};

/// Number of consecutive mismatching records that halts a sink.
const HALT_AFTER_CONSECUTIVE: u32 = 20;

/// Recent mismatches of one sink across its partitions.
#[derive(Debug)]
pub(crate) struct ShapeGuard {
    watch: SourceWatch,
    columns_read: ColumnsRead,
    in_a_row: AtomicU32,
    /// Topic id and offset at which each halted partition stopped. While any partition
    /// is halted, the next mismatch halts immediately.
    halted: Mutex<BTreeMap<i32, (Uuid, i64)>>,
    halt_store: HaltStore,
}

/// The record at which a sink halts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Batch index of the first unprocessed record.
    pub index: usize,
    shape: Shape,
    /// Description of the mismatch of that record.
    detail: String,
    /// Number of consecutive mismatches. `None` if one was enough because the source
    /// has changed.
    in_a_row: Option<u32>,
}

/// The part of a delivery that the guard checks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub rejected: &'a [Rejected],
    /// Index of the last record whose columns were decoded.
    pub understood: Option<usize>,
}

impl Batch<'_> {
    /// Returns the distinct mismatches in the batch.
    fn shapes(self) -> Vec<Shape> {
        let mut shapes = Vec::new();
        for shape in self.rejected.iter().filter_map(|rejected| rejected.shape) {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        shapes
    }
}

impl<'a> From<&'a Delivery> for Batch<'a> {
    fn from(delivery: &'a Delivery) -> Self {
        Self {
            rejected: &delivery.rejected,
            understood: delivery.understood,
        }
    }
}

impl ShapeGuard {
    pub(crate) fn new(group: ConsumerGroup, shared: &Shared) -> Self {
        Self {
            watch: shared.watch.clone(),
            columns_read: ColumnsRead::of(group, &shared.source, shared.score),
            in_a_row: AtomicU32::default(),
            halted: Mutex::default(),
            halt_store: HaltStore::new(shared.state.clone(), shared.group(group)),
        }
    }

    /// Adds an assigned partition, and restores its halt if one is stored.
    pub(crate) async fn take_over(&self, partition: i32, topic: TopicIdentity, next: i64) {
        match self.halt_store.load(partition, topic.id).await {
            Ok(Some(offset)) if offset >= next => {
                self.halted().insert(partition, (topic.id, offset));
            }
            // The halt was resolved by a previous owner of the partition.
            Ok(Some(_)) => {
                self.release(partition);
                self.in_a_row.store(0, Ordering::Relaxed);
                self.halt_store.store(partition, topic.id, None).await;
            }
            Ok(None) => self.release(partition),
            Err(error) => {
                tracing::warn!(partition, %error, "cannot read the stored halt");
            }
        }
    }

    /// Checks a batch. Records before the returned halt point must be delivered and
    /// checked separately.
    pub(crate) async fn judge(&self, batch: Batch<'_>) -> Option<Cut> {
        let shapes = batch.shapes();
        let changed = !shapes.is_empty()
            && (self.is_halted()
                || self
                    .watch
                    .confirms_change(&self.columns_read, &shapes)
                    .await);
        let before = self.in_a_row.load(Ordering::Relaxed);
        let (cut, after) = check(batch, before, changed);
        if cut.as_ref().is_none_or(|cut| cut.index == 0) {
            self.in_a_row.store(after, Ordering::Relaxed);
        }
        cut
    }

    /// Records that a partition is halted at `offset`.
    pub(crate) async fn hold(&self, partition: i32, topic: TopicIdentity, offset: i64) {
        let before = self.halted().insert(partition, (topic.id, offset));
        if before != Some((topic.id, offset)) {
            self.halt_store
                .store(partition, topic.id, Some(offset))
                .await;
        }
    }

    /// Clears the halt of a partition once `next` is past it.
    pub(crate) async fn goes_on(&self, partition: i32, next: i64) {
        let passed = {
            let mut halted = self.halted();
            let passed = halted
                .get(&partition)
                .is_some_and(|(_, offset)| *offset < next);
            passed.then(|| halted.remove(&partition)).flatten()
        };
        if let Some((topic_id, _)) = passed {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.halt_store.store(partition, topic_id, None).await;
        }
    }

    /// Removes a revoked partition.
    pub(super) fn release(&self, partition: i32) {
        self.halted().remove(&partition);
    }

    fn is_halted(&self) -> bool {
        !self.halted().is_empty()
    }

    fn halted(&self) -> MutexGuard<'_, BTreeMap<i32, (Uuid, i64)>> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the command that recovers records missed because of a mismatch.
pub(super) fn recovery(group: ConsumerGroup) -> &'static str {
    match group {
        ConsumerGroup::Http => RESEND,
        ConsumerGroup::Board | ConsumerGroup::Facts | ConsumerGroup::Content => RECONCILE,
    }
}

/// Returns true if any record of a delivery has an unexpected shape.
pub(super) fn has_mismatch(delivery: &Delivery) -> bool {
    let mut rejected = delivery.rejected.iter();
    rejected.any(|rejected| rejected.shape.is_some())
}

/// Ignores mismatching records before the offset `reconciled`. They were recovered
/// from the source.
pub(super) fn ignore_reconciled(delivery: &mut Delivery, batch: &Chunk, reconciled: i64) {
    let before = delivery.rejected.len();
    delivery.rejected.retain(|rejected| {
        let offset = batch.get(rejected.index).map(|record| record.offset);
        rejected.shape.is_none() || offset >= Some(reconciled)
    });
    for _ in delivery.rejected.len()..before {
        delivery.ignore("reconciled");
    }
}

/// Returns the halt point, if any, and the number of consecutive mismatches at the end
/// of the batch. `before` is that number at its start.
fn check(batch: Batch<'_>, before: u32, changed: bool) -> (Option<Cut>, u32) {
    let mut in_a_row = before;
    // The first mismatch of the current run.
    let mut first: Option<&Rejected> = None;
    for rejected in batch.rejected {
        let Some(shape) = rejected.shape else {
            continue;
        };
        if rejected.after != first.and_then(|first| first.after) {
            (in_a_row, first) = (0, None);
        }
        in_a_row = in_a_row.saturating_add(1);
        let first = *first.get_or_insert(rejected);
        if changed || in_a_row >= HALT_AFTER_CONSECUTIVE {
            let cut = Cut {
                index: first.index,
                shape,
                detail: first.detail.clone(),
                in_a_row: (!changed).then_some(in_a_row),
            };
            return (Some(cut), in_a_row);
        }
    }
    let run_start = first.map(|first| first.after);
    let has_ended = batch.understood.is_some() && run_start != Some(batch.understood);
    (None, if has_ended { 0 } else { in_a_row })
}

impl Cut {
    /// Returns the halt for the record at `position`. `command` is the remedy.
    pub(crate) fn halt(&self, position: &str, command: &str) -> Halt {
        let Self { shape, detail, .. } = self;
        let reason = match self.in_a_row {
            Some(count) => format!(
                "{count} consecutive records do not have the expected shape, the first at \
                 {position}: {detail}"
            ),
            None => format!("record {position} does not have the expected shape: {detail}"),
        };
        let remedy = match shape {
            Shape::Column(_) => command.to_owned(),
            Shape::Envelope => format!("remove the connector's transform, then {command}"),
        };
        Halt {
            code: SCHEMA_CHANGED.to_owned(),
            reason,
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Shape = Shape::Column("device");

    /// Builds a batch with one record per character: `.` is valid, `x` has an
    /// unexpected shape, `v` has an invalid value, and any other record is ignored.
    fn batch(text: &str) -> (Vec<Rejected>, Option<usize>) {
        let mut understood = None;
        let mut rejected = Vec::new();
        for (index, kind) in text.chars().enumerate() {
            match kind {
                '.' => understood = Some(index),
                'x' | 'v' => rejected.push(Rejected {
                    index,
                    code: "code",
                    detail: format!("record {index}"),
                    shape: (kind == 'x').then_some(DEVICE),
                    after: understood,
                }),
                _ => {}
            }
        }
        (rejected, understood)
    }

    /// Returns the index of the halt, and the count carried over to the next batch.
    fn check_text(text: &str, before: u32, changed: bool) -> (Option<usize>, u32) {
        let (rejected, understood) = batch(text);
        let batch = Batch {
            rejected: &rejected,
            understood,
        };
        let (cut, after) = check(batch, before, changed);
        (cut.map(|cut| cut.index), after)
    }

    fn xs(count: usize) -> String {
        "x".repeat(count)
    }

    #[test]
    fn twenty_consecutive_mismatches_halt_at_the_first() {
        let halt_index = |text: &str| check_text(text, 0, false).0;
        assert_eq!(halt_index(&xs(19)), None);
        assert_eq!(halt_index(&xs(20)), Some(0));
        assert_eq!(halt_index(&format!("..{}", xs(20))), Some(2));
        assert_eq!(halt_index(&format!("{}.{}", xs(19), xs(19))), None);
        assert_eq!(halt_index(&format!("x.{}", xs(20))), Some(2));
        // Records that show nothing about the columns neither count towards a run nor
        // end it.
        assert_eq!(halt_index(&"xvd".repeat(20)), Some(0));
        assert_eq!(halt_index(&"v".repeat(100)), None);
    }

    #[test]
    fn a_run_continues_across_batches_and_ends_at_a_valid_record() {
        for (text, before, after) in [
            ("x", 0, 1),
            ("dv", 7, 7),
            ("", 7, 7),
            (".", 7, 0),
            (".x", 7, 1),
            ("x.", 7, 0),
            ("xx.xv", 7, 1),
        ] {
            assert_eq!(check_text(text, before, false), (None, after), "{text}");
        }
        assert_eq!(check_text("vx", 19, false).0, Some(1));
        assert_eq!(check_text(".x", 19, false), (None, 1));
    }

    #[test]
    fn one_mismatch_halts_if_the_source_has_changed() {
        assert_eq!(check_text("..x..", 0, true).0, Some(2));
        assert_eq!(check_text("v.v", 0, true), (None, 0));
    }

    #[test]
    fn the_halt_has_the_first_record_and_the_remedy() {
        let (rejected, understood) = batch(&xs(20));
        let batch = Batch {
            rejected: &rejected,
            understood,
        };
        let cut = check(batch, 0, false).0.expect("a halt");
        let position = "cdc.public.engagement_events/0@7";
        let halt = cut.halt(position, recovery(ConsumerGroup::Facts));
        assert_eq!(halt.code, "schema_changed");
        assert_eq!(halt.remedy, RECONCILE);
        let http_halt = cut.halt(position, recovery(ConsumerGroup::Http));
        assert!(http_halt.remedy.ends_with("--sinks http"));
        assert_eq!(
            halt.reason,
            "20 consecutive records do not have the expected shape, the first at \
             cdc.public.engagement_events/0@7: record 0"
        );
    }
}
