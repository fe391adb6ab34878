//! Runs a change-data-capture fan-out: Postgres → Debezium on Kafka Connect → Kafka
//! → a pipeline into Redis, ClickHouse and an HTTP API.
//!
//! The library does the work. It parses no arguments and prints nothing; the binary
//! in `commands/` does both.
//!
//! # Concepts
//!
//! - A **pipeline** reads the log and feeds the sinks. Each sink has its own consumer
//!   groups, so a slow or halted sink does not delay another.
//! - A **sink** turns records into writes of its own kind: rows, the board, HTTP
//!   requests. It implements [`runtime::Sink`], and reports what became of each record.
//! - A **partition** of a sink is the unit of work: one sequential loop that gathers a
//!   batch, delivers it, dead-letters what was rejected, and commits the offset. Workers
//!   share the partitions through the consumer group.
//! - A **barrier** is a marker in the source's log. Once every group has committed past
//!   it, each store reflects everything that was committed before the marker.
//!   `verify` compares behind a barrier ([`runtime::barrier`]).
//! - A **generation** is a period in which offsets can be compared: a recreated topic
//!   starts a new one ([`runtime::GenerationLog`]).
//!
//! ```no_run
//! use fanout::{
//!     config::Settings,
//!     connections::Connections,
//!     pipeline::{Pipeline, Start},
//!     runtime::source,
//!     sink_kind::SinkKind,
//! };
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), fanout::runtime::PipelineError> {
//! let connections = Connections::of(&Settings::default());
//! let stop = CancellationToken::new();
//! // Nothing watches the source here; `fanout run` has a task that does.
//! let (_, source) = source::source();
//! let start = Start {
//!     project: "fanout",
//!     sinks: &[SinkKind::Redis, SinkKind::Http],
//!     project_sinks: &SinkKind::ALL,
//!     source,
//!     creates_topics: false,
//! };
//! let pipeline = Pipeline::start(start, &connections, stop.clone())?;
//! println!("{} sinks", pipeline.reporter().status().sinks.len());
//! stop.cancel();
//! assert!(pipeline.finish().await, "a worker did not stop in time");
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! A module imports only modules of lower layers. `tests/architecture.rs` checks this.
//!
//! | layer, from the top | contents |
//! |---|---|
//! | [`operations`] | the commands: `up`, `verify`, `backfill`, … |
//! | [`pipeline`] | assembles the workers of `fanout run` |
//! | [`sinks`] | one folder per sink: [`sinks::clickhouse`], [`sinks::redis`], [`sinks::http`] |
//! | `audit` | what the audits of all sinks share |
//! | [`runtime`] | what all sinks share: workers, partition loop, retries, dead letters, commits, generations, statistics |
//! | [`source`] | Postgres and the connector |
//! | [`spill`] | sorted sets and temporary files on disk |
//! | [`stack`] | the servers: containers, native processes, external services |
//! | [`connections`] | the one place that connects; one client per server |
//! | [`kafka`] | consumers, producers, topics |
//! | the rest | pure: no network, no clock, no async runtime |

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
