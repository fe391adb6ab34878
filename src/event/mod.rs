//! The records of the source topics and what they mean.
//!
//! Owns the step from bytes to a typed [`Change`]: Debezium's envelope, with
//! and without a schema, the columns of both source tables, and the one body
//! and idempotency key each event has outside. Each reader decodes the columns
//! that it needs and no others, so what is wrong with another column does not
//! concern it. A function of the record and of the known [`unavailable`]
//! placeholders: what becomes of a change is the sinks' business, what becomes
//! of a [`Reject`] the pipeline's.

mod cell;
mod change;
mod columns;
mod content;
mod decode;
mod document;
mod engagement;
mod envelope;
pub mod idempotency;
mod key;
mod reject;
mod schema;
#[cfg(test)]
mod tests;
pub mod unavailable;

use uuid::Uuid;

pub use change::{Change, Ignored, Origin, Record};
pub use content::{Content, ContentTable, Dimension, DimensionTable};
pub use decode::{Decoder, SourceTable, Table, columns_read};
pub use engagement::{Counted, CountedTable, Engagement, EngagementTable};
pub use reject::{Reject, RejectCode, Shape};
pub use unavailable::Unavailable;

/// A change of `engagement_events`.
pub type FactChange<'a> = Change<Engagement<'a>, i64>;

/// A change of `content`.
pub type ContentChange<'a> = Change<Content<'a>, Uuid>;

/// Decodes `engagement_events`.
pub type FactDecoder = Decoder<EngagementTable>;

/// Decodes `content` for those who show it.
pub type ContentDecoder = Decoder<ContentTable>;

/// Decodes `content` for enrichment.
pub type DimensionDecoder = Decoder<DimensionTable>;
