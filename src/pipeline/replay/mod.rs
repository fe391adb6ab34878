//! Stretches of the log through a sink once more, beside the live pipeline and
//! by an assignment of their own: nothing is committed, and what is written
//! carries the positions it had the first time, so that repeating is harmless.

mod error;
mod part;
mod run;
mod work;

pub use error::ReplayError;
pub use part::Part;
pub use work::{Batches, Bounds, Kept, Tally, Through, Watch};

use self::run::{Kepts, Parts, run};
use crate::clients::Connections;

/// Replays the parts that are not done, one after the other.
///
/// # Errors
/// When the sink halts or refuses for too long, or the log cannot be read.
/// What was stored by then has been told to `watch`.
pub async fn replay(
    connections: &Connections,
    through: Through,
    parts: &mut [Part],
    bounds: &Bounds,
    watch: &mut dyn Watch,
) -> Result<Tally, ReplayError> {
    run(connections, through, Parts(parts, watch), bounds).await
}

/// Applies records at the places they had. Returns what became of them.
///
/// # Errors
/// When the sink halts or refuses for too long, or the records cannot be read.
pub async fn apply(
    connections: &Connections,
    through: Through,
    batches: &mut impl Batches,
    bounds: &Bounds,
) -> Result<Tally, ReplayError> {
    run(connections, through, Kepts(batches), bounds).await
}
