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
//! | where changes end, and the servers around them | [`sinks`], [`stack`] |
//! | one module for each server's client crate; the time | [`clients`], [`clock`] |
//! | pure: no network, no clock, no runtime | the rest |

pub mod assets;
pub mod chunk;
pub mod clients;
pub mod clock;
pub mod config;
pub mod crash;
pub mod enrichment;
pub mod escape;
pub mod event;
pub mod failure;
pub mod instant;
pub mod operations;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod project;
pub mod retry;
pub mod secret;
pub mod sink_kind;
pub mod sinks;
pub mod source;
pub mod stack;
pub mod suggest;
pub mod template;
pub mod timestamp;
pub mod version;
pub mod window;
