//! What an operator asks for: one module a verb, each a function over the
//! connections that reports through a progress and returns what it did.

mod ahead;
pub mod backfill;
pub mod board;
pub mod check;
pub mod connector;
pub mod dlq;
pub mod doctor;
pub mod down;
pub mod eligible;
pub mod env;
pub mod fence;
pub mod leaderboard;
pub mod logs;
pub mod objects;
pub mod peek;
pub mod reset;
pub mod role;
pub mod run;
pub mod scratch;
pub mod seed;
pub mod smoke;
mod sorted;
pub mod source;
pub mod status;
mod steps;
pub mod stub;
pub mod topics;
pub mod up;
pub mod verify;
