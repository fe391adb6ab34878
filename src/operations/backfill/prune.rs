//! Deletes from ClickHouse what the source no longer has: where a delete was
//! lost there is no record that would.
//!
//! A row is deleted with a version above its own and below any later record's,
//! so a row that comes back meanwhile stays, and looking once is enough.

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

/// Rows of one range.
const RANGE: u64 = 10_000;

/// A comparison under way.
pub(super) struct Prune<'a> {
    store: &'a Store,
    client: Client,
    times: Times,
    steps: &'a Steps<'a>,
    total: u64,
    compared: u64,
}

/// What one range came to.
pub(super) struct Range {
    /// The last id in it; none where there was nothing left.
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

    /// Compares the next range of ids and deletes what is not in the source.
    pub(super) async fn range(&mut self, after: Option<i64>) -> Result<Range, BackfillError> {
        let stored = self.store.live_after(after, self.times, RANGE).await?;
        let (Some(first), Some(last)) = (stored.first(), stored.last()) else {
            return Ok(Range {
                last: None,
                deleted: 0,
            });
        };
        let sql = "SELECT id FROM public.engagement_events WHERE id BETWEEN $1 AND $2";
        // Read after what is stored: what is not there now is gone.
        let bounds: [&(dyn postgres::ToSql + Sync); 2] = [&first.event_id, &last.event_id];
        let rows = self.client.query(sql, &bounds).await?;
        let mut live = HashSet::with_capacity(rows.len());
        for row in rows {
            live.insert(row.try_get::<_, i64>(0)?);
        }
        let now = now_ms();
        let gone: Vec<FactRow<'static>> = gone(&stored, &live)
            .filter_map(|place| delete(place, now))
            .collect();
        if !gone.is_empty() {
            self.store.insert_facts(&gone).await?;
        }
        self.compared += stored.len() as u64;
        let total = self.total.max(self.compared);
        self.steps.advanced(self.compared, Some(total), Unit::Rows);
        Ok(Range {
            last: Some(last.event_id),
            deleted: gone.len() as u64,
        })
    }

    /// The same for the contents, all of them.
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
        let gone: Vec<ContentRow<'static>> = stored
            .iter()
            .filter(|place| !live.contains(&place.id))
            // Of two rows of one version the later one holds, and the next
            // record's is above.
            .map(|place| ContentRow::deleted(place.id, place.version, now))
            .collect();
        if !gone.is_empty() {
            self.store.insert_content(&gone).await?;
        }
        Ok(gone.len() as u64)
    }
}

/// The stored rows that the source does not have.
fn gone<'s>(stored: &'s [PlaceRow], live: &HashSet<i64>) -> impl Iterator<Item = &'s PlaceRow> {
    stored
        .iter()
        .filter(|place| !live.contains(&place.event_id))
}

/// The row that deletes a row. One whose version is none is left alone.
fn delete(place: &PlaceRow, now_ms: i64) -> Option<FactRow<'static>> {
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
    reason = "columns of fanout's own begin with one"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engagement::version::Position;

    proptest! {
        #[test]
        fn what_deletes_a_row_is_above_it_and_below_every_later_change(
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
            let row = delete(&place, 9).expect("a version");
            prop_assert!(row._version > place.version);
            let next = Position::new(generation, offset + later).expect("a position");
            prop_assert!(row._version < Version::new(next, None).get());
            let anew = Position::new(generation + 1, 0).expect("a position");
            prop_assert!(row._version < Version::new(anew, None).get());
            prop_assert_eq!((row.event_id, row._deleted, row._partition), (7, 1, 2));
        }
    }

    #[test]
    fn what_the_source_has_stays() {
        let place = |event_id| PlaceRow {
            event_id,
            version: 0,
            partition: 0,
            offset: 0,
            record_ms: 0,
        };
        let stored = [place(1), place(2), place(3)];
        let live = HashSet::from([1, 3, 9]);
        let ids: Vec<i64> = gone(&stored, &live).map(|place| place.event_id).collect();
        assert_eq!(ids, [2]);
        assert_eq!(delete(&stored[0], 0).map(|row| row.event_id), None);
    }
}
