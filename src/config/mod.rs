//! Configuration: defaults < the project's recorded ports < `fanout.yaml` < environment
//! (`FANOUT_…`) < flags. Each value records the layer that it comes from.
//!
//! The caller passes the file's text and the environment in [`Layers`], so the same inputs
//! always give the same settings. This module reads only the files that `FANOUT_…_FILE`
//! variables name.

pub(crate) mod connection;
mod connector_secrets;
mod error;
mod layers;
pub mod project;
mod rules;
mod settings;

pub use layers::{Config, Layers, Origin, Value, load, variable};
pub use settings::{
    Board, ClickHouse, Compression, Connect, Connector, Console, External, Http, Kafka, Limits,
    Pipeline, Postgres, Redis, Runtime, Score, Service, Settings,
};
