//! Stretches of the log through a sink once more, beside the live pipeline and
//! by an assignment of their own: nothing is committed, and what is written
//! carries the positions it had the first time, so that repeating is harmless.

mod error;
mod part;
pub(crate) mod run;
mod work;

pub use error::ReplayError;
pub use part::Part;
pub(crate) use run::{Kepts, Parts, Run, Work};
pub use work::{Batches, Bounds, Kept, Tally, Watch};
