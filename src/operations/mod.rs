//! What an operator asks for: one module a verb, each a function over the
//! connections that reports through a progress and returns what it did.

pub mod backfill;
pub mod check;
pub mod dlq;
pub mod doctor;
pub mod down;
pub mod env;
pub mod leaderboard;
pub mod logs;
mod owned;
pub mod peek;
pub mod reset;
pub mod run;
pub mod seed;
pub mod smoke;
pub mod status;
pub mod stub;
pub mod topics;
pub mod up;
pub mod verify;
