//! A row of `content`.

use std::borrow::Cow;

use uuid::Uuid;

use super::cell::Cell;
use super::decode::{Columns, Table, parse_uuid, shown};
use super::reject::Reject;

/// One piece of content, its columns in the table's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content<'a> {
    pub id: Uuid,
    pub slug: Cow<'a, str>,
    pub title: Cow<'a, str>,
    pub content_type: Option<Cow<'a, str>>,
    pub length_seconds: Option<i32>,
    /// Microseconds since the epoch.
    pub publish_ts: i64,
}

/// The table `content`.
#[derive(Debug, Clone, Copy)]
pub enum ContentTable {}

impl Table for ContentTable {
    type Row<'a> = Content<'a>;
    type Id = Uuid;

    const TOMBSTONE_DELETES: bool = true;

    const COLUMNS: &'static [&'static str] = &[
        "id",
        "slug",
        "title",
        "content_type",
        "length_seconds",
        "publish_ts",
    ];

    fn id(cell: &Cell<'_>) -> Result<Uuid, String> {
        parse_uuid(cell).ok_or_else(|| format!("id is no UUID: {}", shown(cell)))
    }

    fn row<'a>(id: Uuid, columns: &mut Columns<'a>) -> Result<Content<'a>, Reject> {
        Ok(Content {
            id,
            slug: columns.required_text(1)?,
            title: columns.required_text(2)?,
            content_type: columns.text(3)?,
            length_seconds: columns.integer(4)?,
            publish_ts: columns.time(5)?,
        })
    }
}
