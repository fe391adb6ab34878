//! A row of `engagement_events`.

use std::borrow::Cow;

use uuid::Uuid;

use super::cell::Cell;
use super::decode::{Columns, Table, shown};
use super::reject::Reject;

/// One engagement event, its eight columns in the table's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engagement<'a> {
    pub id: i64,
    pub content_id: Option<Uuid>,
    pub user_id: Option<Uuid>,
    pub event_type: Option<Cow<'a, str>>,
    /// Microseconds since the epoch.
    pub event_ts: i64,
    pub duration_ms: Option<i32>,
    pub device: Option<Cow<'a, str>>,
    /// The text of a JSON document, as Postgres wrote it.
    pub raw_payload: Option<Cow<'a, str>>,
}

/// The table `engagement_events`.
#[derive(Debug, Clone, Copy)]
pub enum EngagementTable {}

impl Table for EngagementTable {
    type Row<'a> = Engagement<'a>;
    type Id = i64;

    const TOMBSTONE_DELETES: bool = false;

    const COLUMNS: &'static [&'static str] = &[
        "id",
        "content_id",
        "user_id",
        "event_type",
        "event_ts",
        "duration_ms",
        "device",
        "raw_payload",
    ];

    fn id(cell: &Cell<'_>) -> Result<i64, String> {
        match cell {
            Cell::Integer(id) => Ok(*id),
            other => Err(format!("id is no 64-bit integer: {}", shown(other))),
        }
    }

    fn row<'a>(id: i64, columns: &mut Columns<'a>) -> Result<Engagement<'a>, Reject> {
        Ok(Engagement {
            id,
            content_id: columns.uuid(1)?,
            user_id: columns.uuid(2)?,
            event_type: columns.text(3)?,
            event_ts: columns.time(4)?,
            duration_ms: columns.integer(5)?,
            device: columns.text(6)?,
            raw_payload: columns.json(7)?,
        })
    }
}
