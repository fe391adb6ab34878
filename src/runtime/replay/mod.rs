//! Replays parts of the log through a sink, independent of the running pipeline and
//! with separate consumers. Nothing is committed, and records are written with their
//! original positions, so that repeating a replay is harmless.

mod error;
mod part;
pub(crate) mod run;
mod work;

pub use error::ReplayError;
pub use part::Part;
pub(crate) use run::{Kepts, Parts, Run, Work};
pub use work::{Batches, Bounds, ReplayRecord, Tally, Watch};
