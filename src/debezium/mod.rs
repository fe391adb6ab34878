//! Records of the source topics and the changes that they describe.
//!
//! Owns the step from bytes to a typed [`Change`]: Debezium's envelope with and without a
//! schema, the columns of both source tables, and the body and idempotency key that the
//! external system receives for each event. Each reader decodes only the columns that it needs,
//! so an invalid value in another column does not affect it. Decoding depends only on the
//! record and on the known [`unavailable`] placeholders. The sinks decide what to do with a
//! change, the pipeline what to do with a [`Reject`].

pub(crate) mod cell;
mod change;
pub(crate) mod columns;
pub(crate) mod decode;
mod document;
mod envelope;
mod key;
pub(crate) mod reject;
mod schema;
#[cfg(test)]
mod tests;
pub mod unavailable;

use uuid::Uuid;

pub use crate::engagement::{
    content::{Content, ContentTable, Dimension, DimensionTable},
    event::{Counted, CountedTable, Engagement, EngagementTable},
};
pub use change::{Change, Ignored, Origin, Record};
pub use decode::{Decoder, SourceTable, Table, columns_read};
pub use reject::{Reject, RejectCode, Shape};
pub use unavailable::Unavailable;

/// A change of `engagement_events`.
pub type FactChange<'a> = Change<Engagement<'a>, i64>;

/// A change of `content`.
pub type ContentChange<'a> = Change<Content<'a>, Uuid>;

/// Decodes `engagement_events`.
pub type FactDecoder = Decoder<EngagementTable>;

/// Decodes `content` for readers that display it.
pub type ContentDecoder = Decoder<ContentTable>;

/// Decodes `content` for enrichment.
pub type DimensionDecoder = Decoder<DimensionTable>;
