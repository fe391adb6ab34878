//! Runs a change-data-capture fan-out, whole: Postgres → Debezium on Kafka
//! Connect → Kafka → a pipeline into Redis, ClickHouse and an HTTP API.
//!
//! The library does the work and neither parses arguments nor prints; the
//! binary in `commands/` is its face. Imports point down only:
//!
//! ```text
//! commands → operations → pipeline → { sinks, stack } → clients → the pure bottom
//! ```
//!
//! | layer | modules |
//! |---|---|
//! | what an operator asks for | [`operations`] |
//! | the streaming pipeline (`fanout run`) | [`pipeline`] |
//! | where changes end, and the servers around them | [`runtime`], [`stack`] |
//! | one module for each server's client crate; the time | [`connections`], [`crate::time::clock`] |
//! | pure: no network, no clock, no runtime | the rest |

pub mod assets;
mod audit;
pub mod config;
pub mod connections;
pub mod crash;
pub mod debezium;
pub mod engagement;
pub mod failure;
pub mod kafka;
pub mod operations;
pub mod pipeline;
pub mod progress;
pub mod runtime;
pub mod secret;
pub mod sink_kind;
pub mod sinks;
pub mod source;
pub mod spill;
pub mod stack;
pub mod text;
pub mod time;
pub mod window;
