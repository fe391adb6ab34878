//! Configuration: defaults < the project's recorded ports < `fanout.yaml` <
//! environment (`FANOUT_…`) < flags. Each value knows the layer it came from.
//!
//! The caller hands over the file's text and the environment in [`Layers`], so
//! the same inputs always give the same settings; only what a `FANOUT_…_FILE`
//! variable names is read here.

mod connector_secrets;
mod error;
mod layers;
mod rules;
mod settings;

pub use error::ConfigError;
pub use layers::{Config, Layers, Origin, Value, load, variable};
pub use settings::{
    Board, ClickHouse, Compression, Connect, Connector, Console, External, Http, Kafka, Limits,
    Pipeline, Postgres, Redis, Runtime, Score, Service, Settings,
};
