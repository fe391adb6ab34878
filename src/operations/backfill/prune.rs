//! Deletes rows from ClickHouse that are missing from the source, because a lost delete has no
//! record in the log.
//!
//! A row is deleted with a version above its own and below that of any later record. A row that
//! is inserted again in the meantime therefore stays, and one comparison is enough.

use std::collections::HashSet;

use uuid::Uuid;

use super::error::BackfillError;
use crate::{
    connections::{
        Connections,
        postgres::{self, Client},
    },
    engagement::version::Version,
    progress::{Unit, steps::Steps},
    sinks::clickhouse::{ContentPlace, ContentRow, FactRow, PlaceRow, Store, Times},
    time::clock::now_ms,
};

/// Number of rows per range.
const RANGE: u64 = 10_000;

/// A running comparison.
pub(super) struct Prune<'a> {
    store: &'a Store,
    client: Client,
    times: Times,
    steps: &'a Steps<'a>,
    total: u64,
    compared: u64,
}

/// Result of one range.
pub(super) struct Range {
    /// Last id in the range. `None` if no ids are left.
    pub last: Option<i64>,
    pub deleted: u64,
}

impl<'a> Prune<'a> {
    pub(super) async fn new(
        connections: &Connections,
        store: &'a Store,
        times: Times,
        steps: &'a Steps<'a>,
    ) -> Result<Self, BackfillError> {
        Ok(Self {
            client: connections.postgres.connect().await?,
            total: store.count_live(times).await?,
            compared: 0,
            store,
            times,
            steps,
        })
    }

    /// Compares the next range of ids and deletes the rows that are missing from the source.
    pub(super) async fn range(&mut self, after: Option<i64>) -> Result<Range, BackfillError> {
        let stored = self.store.live_after(after, self.times, RANGE).await?;
        let (Some(first), Some(last)) = (stored.first(), stored.last()) else {
            return Ok(Range {
                last: None,
                deleted: 0,
            });
        };
        let sql = "SELECT id FROM public.engagement_events WHERE id BETWEEN $1 AND $2";
        // The source is read after ClickHouse, so a row missing from it is deleted.
        let bounds: [&(dyn postgres::ToSql + Sync); 2] = [&first.event_id, &last.event_id];
        let rows = self.client.query(sql, &bounds).await?;
        let mut live = HashSet::with_capacity(rows.len());
        for row in rows {
            live.insert(row.try_get::<_, i64>(0)?);
        }
        let now = now_ms();
        let deletions: Vec<FactRow<'static>> = missing(&stored, &live)
            .filter_map(|place| deletion(place, now))
            .collect();
        if !deletions.is_empty() {
            self.store.insert_facts(&deletions).await?;
        }
        self.compared += stored.len() as u64;
        let total = self.total.max(self.compared);
        self.steps.advanced(self.compared, Some(total), Unit::Rows);
        Ok(Range {
            last: Some(last.event_id),
            deleted: deletions.len() as u64,
        })
    }

    /// Compares all contents and deletes those that are missing from the source.
    pub(super) async fn content(&self) -> Result<u64, BackfillError> {
        let mut after = None;
        let mut deleted = 0;
        loop {
            let stored = self.store.live_content_after(after, RANGE).await?;
            let Some(last) = stored.last() else {
                return Ok(deleted);
            };
            after = Some(last.id);
            deleted += self.content_range(&stored).await?;
        }
    }

    async fn content_range(&self, stored: &[ContentPlace]) -> Result<u64, BackfillError> {
        let ids: Vec<Uuid> = stored.iter().map(|place| place.id).collect();
        let sql = "SELECT id FROM public.content WHERE id = ANY ($1)";
        let mut live = HashSet::with_capacity(ids.len());
        for row in self.client.query(sql, &[&ids]).await? {
            live.insert(row.try_get::<_, Uuid>(0)?);
        }
        let now = now_ms();
        let deletions: Vec<ContentRow<'static>> = stored
            .iter()
            .filter(|place| !live.contains(&place.id))
            // Of two rows with the same version the later one counts, and the next record has
            // a higher version.
            .map(|place| ContentRow::deleted(place.id, place.version, now))
            .collect();
        if !deletions.is_empty() {
            self.store.insert_content(&deletions).await?;
        }
        Ok(deletions.len() as u64)
    }
}

/// Returns the stored rows that are missing from the source.
fn missing<'s>(stored: &'s [PlaceRow], live: &HashSet<i64>) -> impl Iterator<Item = &'s PlaceRow> {
    stored
        .iter()
        .filter(|place| !live.contains(&place.event_id))
}

/// Returns the row that deletes a row. Returns `None` for a row without a valid version.
fn deletion(place: &PlaceRow, now_ms: i64) -> Option<FactRow<'static>> {
    let version = Version::from_stored(place.version).ok()?;
    Some(FactRow {
        processed_at: now_ms,
        _partition: place.partition,
        _offset: place.offset,
        _record_ts: place.record_ms,
        ..FactRow::deleted(place.event_id, Version::last_of(version.fact()).get())
    })
}

#[cfg(test)]
#[expect(
    clippy::used_underscore_binding,
    reason = "fanout's internal columns start with an underscore"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engagement::version::Position;

    proptest! {
        #[test]
        fn a_deletion_is_above_its_row_and_below_every_later_change(
            generation in 1..9_u16, offset in 0..1_000_i64,
            content in proptest::option::of((1..9_u16, 0..1_000_i64)),
            later in 1..1_000_i64,
        ) {
            let fact = Position::new(generation, offset).expect("a position");
            let content = content.map(|(g, o)| Position::new(g, o).expect("a position"));
            let place = PlaceRow {
                event_id: 7,
                version: Version::new(fact, content).get(),
                partition: 2,
                offset,
                record_ms: 5,
            };
            let row = deletion(&place, 9).expect("a version");
            prop_assert!(row._version > place.version);
            let next = Position::new(generation, offset + later).expect("a position");
            prop_assert!(row._version < Version::new(next, None).get());
            let rebuilt = Position::new(generation + 1, 0).expect("a position");
            prop_assert!(row._version < Version::new(rebuilt, None).get());
            prop_assert_eq!((row.event_id, row._deleted, row._partition), (7, 1, 2));
        }
    }

    #[test]
    fn rows_of_the_source_are_not_deleted() {
        let place = |event_id| PlaceRow {
            event_id,
            version: 0,
            partition: 0,
            offset: 0,
            record_ms: 0,
        };
        let stored = [place(1), place(2), place(3)];
        let live = HashSet::from([1, 3, 9]);
        let missing = missing(&stored, &live).map(|place| place.event_id);
        assert_eq!(missing.collect::<Vec<i64>>(), [2]);
        assert_eq!(deletion(&stored[0], 0).map(|row| row.event_id), None);
    }
}
