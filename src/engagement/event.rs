//! Rows of `engagement_events`, as each reader needs them.

use std::borrow::Cow;

use uuid::Uuid;

use crate::debezium::{
    cell::{Cell, ColumnSet},
    columns::{Columns, describe},
    decode::{BadId, Table},
    reject::Reject,
};

/// Columns of the source table.
const COLUMNS: &[&str] = &[
    "id",
    "content_id",
    "user_id",
    "event_type",
    "event_ts",
    "duration_ms",
    "device",
    "raw_payload",
];
const ID: usize = 0;
const CONTENT_ID: usize = 1;
const USER_ID: usize = 2;
const EVENT_TYPE: usize = 3;
const EVENT_TS: usize = 4;
const DURATION_MS: usize = 5;
const DEVICE: usize = 6;
const RAW_PAYLOAD: usize = 7;

/// Columns that are never null.
const NEVER_NULL: ColumnSet = ColumnSet::of(&[ID, EVENT_TS]);

/// One engagement event with its eight columns in the table's order.
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
    /// The text of a JSON document, exactly as Postgres wrote it.
    pub raw_payload: Option<Cow<'a, str>>,
}

/// The table `engagement_events` with all columns.
#[derive(Debug, Clone, Copy)]
pub enum EngagementTable {}

impl Table for EngagementTable {
    type Row<'a> = Engagement<'a>;
    type Id = i64;

    const COLUMNS: &'static [&'static str] = COLUMNS;
    const READ: ColumnSet = ColumnSet::ALL;
    const NEVER_NULL: ColumnSet = NEVER_NULL;
    const TOMBSTONE_DELETES: bool = false;

    fn id(cell: &Cell<'_>) -> Result<i64, BadId> {
        read_id(cell)
    }

    fn row<'a>(id: i64, columns: &mut Columns<'a, '_>) -> Result<Engagement<'a>, Reject> {
        Ok(Engagement {
            id,
            content_id: columns.uuid(CONTENT_ID)?,
            user_id: columns.uuid(USER_ID)?,
            event_type: columns.text(EVENT_TYPE)?,
            event_ts: columns.time(EVENT_TS)?,
            duration_ms: columns.integer(DURATION_MS)?,
            device: columns.text(DEVICE)?,
            raw_payload: columns.json(RAW_PAYLOAD)?,
        })
    }
}

/// The columns of an event that a board counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub id: i64,
    pub content_id: Option<Uuid>,
    /// Microseconds since the epoch.
    pub event_ts: i64,
    /// Also `None` if the board does not count durations.
    pub duration_ms: Option<i32>,
}

/// The table `engagement_events` as a board reads it. Durations are read only by a board that
/// counts them.
#[derive(Debug, Clone, Copy)]
pub enum CountedTable<const DURATIONS: bool> {}

impl<const DURATIONS: bool> Table for CountedTable<DURATIONS> {
    type Row<'a> = Counted;
    type Id = i64;

    const COLUMNS: &'static [&'static str] = COLUMNS;
    const READ: ColumnSet = if DURATIONS {
        ColumnSet::of(&[ID, CONTENT_ID, EVENT_TS, DURATION_MS])
    } else {
        ColumnSet::of(&[ID, CONTENT_ID, EVENT_TS])
    };
    const NEVER_NULL: ColumnSet = NEVER_NULL;
    const TOMBSTONE_DELETES: bool = false;

    fn id(cell: &Cell<'_>) -> Result<i64, BadId> {
        read_id(cell)
    }

    fn row(id: i64, columns: &mut Columns<'_, '_>) -> Result<Counted, Reject> {
        Ok(Counted {
            id,
            content_id: columns.uuid(CONTENT_ID)?,
            event_ts: columns.time(EVENT_TS)?,
            duration_ms: if DURATIONS {
                columns.integer(DURATION_MS)?
            } else {
                None
            },
        })
    }
}

fn read_id(cell: &Cell<'_>) -> Result<i64, BadId> {
    match cell {
        Cell::Integer(id) => Ok(*id),
        other => Err(BadId {
            detail: format!("id is not a 64-bit integer: {}", describe(other)),
            is_shape_error: !matches!(other, Cell::Null | Cell::Number(_)),
        }),
    }
}
