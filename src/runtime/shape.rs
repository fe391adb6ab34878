//! Errors of shape: whether a record that is not of the expected shape is one
//! bad record, to be dead-lettered, or whether every record will be like it from
//! now on, so that the sink has to halt.
//!
//! It halts at once where the source is known to have changed, and otherwise
//! when so many such records come without one between them that is well. Bad
//! values and garbage never halt a sink.

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
    held::Held,
    shared::Shared,
    source::{Reads, SCHEMA_CHANGED, SourceWatch},
};
use crate::{
    debezium::Shape,
    kafka::{TopicIdentity, chunk::Chunk},
    sink_kind::ConsumerGroup,
    source::checks::RESEND,
};

/// So many records in a row that are not of the expected shape halt a sink.
const IN_A_ROW: u32 = 20;

/// What a sink has seen of late, over all of its partitions.
#[derive(Debug)]
pub(crate) struct ShapeGuard {
    watch: SourceWatch,
    reads: Reads,
    in_a_row: AtomicU32,
    /// By partition, the offset that it halts before, and the topic it is of. As
    /// long as there is one, another such record halts at once.
    held: Mutex<BTreeMap<i32, (Uuid, i64)>>,
    kept: Held,
}

/// Where a sink has to halt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The first record that is not done, by its place in the batch.
    pub index: usize,
    shape: Shape,
    /// What is wrong with that record.
    detail: String,
    /// How many in a row were like it; none where one was enough.
    in_a_row: Option<u32>,
}

/// A batch as the guard sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub rejected: &'a [Rejected],
    /// The last record whose columns were read well.
    pub understood: Option<usize>,
}

impl Batch<'_> {
    /// Where its records are not of the expected shape, each once.
    fn shapes(self) -> Vec<Shape> {
        let mut shapes = Vec::new();
        for shape in self.rejected.iter().filter_map(|one| one.shape) {
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
            reads: Reads::of(group, &shared.source, shared.score),
            in_a_row: AtomicU32::default(),
            held: Mutex::default(),
            kept: Held::new(shared.state.clone(), shared.group(group)),
        }
    }

    /// A partition is this worker's from here on: it may have been halted here
    /// before.
    pub(crate) async fn take_over(&self, partition: i32, topic: TopicIdentity, next: i64) {
        match self.kept.load(partition, topic.id).await {
            Ok(Some(offset)) if offset >= next => {
                self.held().insert(partition, (topic.id, offset));
            }
            // It was made up for while somebody else had the partition.
            Ok(Some(_)) => {
                self.release(partition);
                self.in_a_row.store(0, Ordering::Relaxed);
                self.kept.keep(partition, topic.id, None).await;
            }
            Ok(None) => self.release(partition),
            Err(error) => {
                tracing::warn!(partition, %error, "it is not known whether the sink was halted");
            }
        }
    }

    /// Judges a batch. What comes before the place to halt at has to be judged
    /// again, on its own.
    pub(crate) async fn judge(&self, batch: Batch<'_>) -> Option<Cut> {
        let shapes = batch.shapes();
        let changed = !shapes.is_empty()
            && (self.is_held() || self.watch.confirms_change(&self.reads, &shapes).await);
        let before = self.in_a_row.load(Ordering::Relaxed);
        let (cut, after) = judge(batch, before, changed);
        if cut.as_ref().is_none_or(|cut| cut.index == 0) {
            self.in_a_row.store(after, Ordering::Relaxed);
        }
        cut
    }

    /// A partition halts before this offset.
    pub(crate) async fn hold(&self, partition: i32, topic: TopicIdentity, offset: i64) {
        let before = self.held().insert(partition, (topic.id, offset));
        if before != Some((topic.id, offset)) {
            self.kept.keep(partition, topic.id, Some(offset)).await;
        }
    }

    /// A partition goes on from here.
    pub(crate) async fn goes_on(&self, partition: i32, next: i64) {
        let passed = {
            let mut held = self.held();
            let passed = held
                .get(&partition)
                .is_some_and(|(_, offset)| *offset < next);
            passed.then(|| held.remove(&partition)).flatten()
        };
        if let Some((topic_id, _)) = passed {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.kept.keep(partition, topic_id, None).await;
        }
    }

    /// A partition is no longer this worker's.
    pub(super) fn release(&self, partition: i32) {
        self.held().remove(&partition);
    }

    fn is_held(&self) -> bool {
        !self.held().is_empty()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<i32, (Uuid, i64)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command that recovers what a sink misses while records are not of the
/// expected shape. The board has one of its own.
pub(super) fn recovery(group: ConsumerGroup) -> &'static str {
    match group {
        ConsumerGroup::Http => RESEND,
        ConsumerGroup::Board | ConsumerGroup::Facts | ConsumerGroup::Content => RECONCILE,
    }
}

/// Whether any record of a delivery is not of the expected shape.
pub(super) fn concerns(delivery: &Delivery) -> bool {
    let mut rejected = delivery.rejected.iter();
    rejected.any(|rejected| rejected.shape.is_some())
}

/// Ignores records that are not of the expected shape, where they stand before
/// this offset: the source has made up for them.
pub(super) fn leave_out(delivery: &mut Delivery, batch: &Chunk, reconciled: i64) {
    let before = delivery.rejected.len();
    delivery.rejected.retain(|rejected| {
        let offset = batch.get(rejected.index).map(|record| record.offset);
        rejected.shape.is_none() || offset >= Some(reconciled)
    });
    for _ in delivery.rejected.len()..before {
        delivery.ignore("reconciled");
    }
}

/// Where to halt, and how many in a row there are at the end of the batch, of
/// which there were `before` at its start.
fn judge(batch: Batch<'_>, before: u32, changed: bool) -> (Option<Cut>, u32) {
    let mut in_a_row = before;
    // The first of those in a row, and what they come after.
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
        if changed || in_a_row >= IN_A_ROW {
            let cut = Cut {
                index: first.index,
                shape,
                detail: first.detail.clone(),
                in_a_row: (!changed).then_some(in_a_row),
            };
            return (Some(cut), in_a_row);
        }
    }
    let last = first.map(|first| first.after);
    let ended = batch.understood.is_some() && last != Some(batch.understood);
    (None, if ended { 0 } else { in_a_row })
}

impl Cut {
    /// The halt before the record at this place, which `command` recovers from.
    pub(crate) fn halt(&self, place: &str, command: &str) -> Halt {
        let Self { shape, detail, .. } = self;
        let reason = match self.in_a_row {
            Some(count) => format!(
                "{count} consecutive records do not have the expected shape, the first at \
                 {place}: {detail}"
            ),
            None => format!("record {place} does not have the expected shape: {detail}"),
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

    /// A batch by its records: `.` is well, `x` of another shape, `v` has a bad
    /// value, and anything else says nothing.
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

    /// Where to halt, and what is carried on to the next batch.
    fn judged(text: &str, before: u32, changed: bool) -> (Option<usize>, u32) {
        let (rejected, understood) = batch(text);
        let batch = Batch {
            rejected: &rejected,
            understood,
        };
        let (cut, after) = judge(batch, before, changed);
        (cut.map(|cut| cut.index), after)
    }

    fn xs(count: usize) -> String {
        "x".repeat(count)
    }

    #[test]
    fn twenty_in_a_row_halt_before_the_first_of_them() {
        let one = |text: &str| judged(text, 0, false).0;
        assert_eq!(one(&xs(19)), None);
        assert_eq!(one(&xs(20)), Some(0));
        assert_eq!(one(&format!("..{}", xs(20))), Some(2));
        assert_eq!(one(&format!("{}.{}", xs(19), xs(19))), None);
        assert_eq!(one(&format!("x.{}", xs(20))), Some(2));
        // What says nothing of the columns neither counts nor ends a row.
        assert_eq!(one(&"xvd".repeat(20)), Some(0));
        assert_eq!(one(&"v".repeat(100)), None);
    }

    #[test]
    fn a_row_goes_on_over_batches_and_ends_with_a_good_record() {
        for (text, before, after) in [
            ("x", 0, 1),
            ("dv", 7, 7),
            ("", 7, 7),
            (".", 7, 0),
            (".x", 7, 1),
            ("x.", 7, 0),
            ("xx.xv", 7, 1),
        ] {
            assert_eq!(judged(text, before, false), (None, after), "{text}");
        }
        assert_eq!(judged("vx", 19, false).0, Some(1));
        assert_eq!(judged(".x", 19, false), (None, 1));
    }

    #[test]
    fn one_is_enough_where_the_source_has_changed() {
        assert_eq!(judged("..x..", 0, true).0, Some(2));
        assert_eq!(judged("v.v", 0, true), (None, 0));
    }

    #[test]
    fn the_halt_names_the_column_and_the_way_out() {
        let (rejected, understood) = batch(&xs(20));
        let batch = Batch {
            rejected: &rejected,
            understood,
        };
        let cut = judge(batch, 0, false).0.expect("a cut");
        let place = "cdc.public.engagement_events/0@7";
        let halt = cut.halt(place, recovery(ConsumerGroup::Facts));
        assert_eq!(halt.code, "schema_changed");
        assert_eq!(halt.remedy, RECONCILE);
        let halt_of_http = cut.halt(place, recovery(ConsumerGroup::Http));
        assert!(halt_of_http.remedy.ends_with("--sinks http"));
        assert_eq!(
            halt.reason,
            "20 consecutive records do not have the expected shape, the first at \
             cdc.public.engagement_events/0@7: record 0"
        );
    }
}
