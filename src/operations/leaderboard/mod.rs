//! The published board with titles, and the events behind a score.

mod error;
mod explanation;
mod remark;
mod titles;
mod watch;

use std::time::Duration;

pub use error::LeaderboardError;
pub use explanation::{Explanation, explain};
pub use remark::Remark;
pub use watch::{Entry, Leaderboard, Watch};

/// Time limit of a request to the sink that has the board.
const TIMEOUT: Duration = Duration::from_secs(5);
