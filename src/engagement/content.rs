//! Rows of `content`, as each reader needs them.

use std::borrow::Cow;

use uuid::Uuid;

use crate::debezium::{
    cell::{Cell, ColumnSet},
    columns::{Columns, describe, parse_uuid},
    decode::{BadId, Table},
    reject::Reject,
};

/// Columns of the source table. No reader uses `slug` and `publish_ts`.
const COLUMNS: &[&str] = &[
    "id",
    "slug",
    "title",
    "content_type",
    "length_seconds",
    "publish_ts",
];
const ID: usize = 0;
const TITLE: usize = 2;
const CONTENT_TYPE: usize = 3;
const LENGTH_SECONDS: usize = 4;

/// Columns that are never null and are read by some reader.
const NEVER_NULL: ColumnSet = ColumnSet::of(&[ID, TITLE]);

/// One content item, for readers that display it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content<'a> {
    pub id: Uuid,
    pub title: Cow<'a, str>,
    pub content_type: Option<Cow<'a, str>>,
    pub length_seconds: Option<i32>,
}

/// The table `content`, for readers that display it.
#[derive(Debug, Clone, Copy)]
pub enum ContentTable {}

impl Table for ContentTable {
    type Row<'a> = Content<'a>;
    type Id = Uuid;

    const COLUMNS: &'static [&'static str] = COLUMNS;
    const READ: ColumnSet = ColumnSet::of(&[ID, TITLE, CONTENT_TYPE, LENGTH_SECONDS]);
    const NEVER_NULL: ColumnSet = NEVER_NULL;
    const TOMBSTONE_DELETES: bool = true;

    fn id(cell: &Cell<'_>) -> Result<Uuid, BadId> {
        read_id(cell)
    }

    fn row<'a>(id: Uuid, columns: &mut Columns<'a, '_>) -> Result<Content<'a>, Reject> {
        Ok(Content {
            id,
            title: columns.required_text(TITLE)?,
            content_type: columns.text(CONTENT_TYPE)?,
            length_seconds: columns.integer(LENGTH_SECONDS)?,
        })
    }
}

/// The columns of a content item that enrich an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dimension<'a> {
    pub id: Uuid,
    pub content_type: Option<Cow<'a, str>>,
    pub length_seconds: Option<i32>,
}

/// The table `content`, for enrichment.
#[derive(Debug, Clone, Copy)]
pub enum DimensionTable {}

impl Table for DimensionTable {
    type Row<'a> = Dimension<'a>;
    type Id = Uuid;

    const COLUMNS: &'static [&'static str] = COLUMNS;
    const READ: ColumnSet = ColumnSet::of(&[ID, CONTENT_TYPE, LENGTH_SECONDS]);
    const NEVER_NULL: ColumnSet = NEVER_NULL;
    const TOMBSTONE_DELETES: bool = true;

    fn id(cell: &Cell<'_>) -> Result<Uuid, BadId> {
        read_id(cell)
    }

    fn row<'a>(id: Uuid, columns: &mut Columns<'a, '_>) -> Result<Dimension<'a>, Reject> {
        Ok(Dimension {
            id,
            content_type: columns.text(CONTENT_TYPE)?,
            length_seconds: columns.integer(LENGTH_SECONDS)?,
        })
    }
}

fn read_id(cell: &Cell<'_>) -> Result<Uuid, BadId> {
    parse_uuid(cell).ok_or_else(|| BadId {
        detail: format!("id is not a UUID: {}", describe(cell)),
        is_shape_error: !matches!(cell, Cell::Null | Cell::Text(_)),
    })
}
