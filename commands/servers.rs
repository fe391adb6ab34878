//! The servers that a command uses. Before it connects, each of them must
//! belong to the project or be named in the configuration.

use fanout::{config::Settings, sink_kind::SinkKind, stack::reach::Need};

/// Returns the stores of these sinks. They may be stopped: the command itself
/// detects and reports that.
pub fn stores(sinks: &[SinkKind]) -> impl Iterator<Item = (&'static str, Need)> {
    sinks.iter().map(|sink| (sink.service(), Need::NotForeign))
}

/// Returns all servers of the pipeline, from the source to the sinks.
pub fn pipeline_servers(settings: &Settings, need: Need) -> Vec<(&'static str, Need)> {
    let source = ["postgres", "kafka", "connect"];
    let stores = stores(&settings.pipeline.sinks).map(|(service, _)| service);
    source
        .into_iter()
        .chain(stores)
        .map(|service| (service, need))
        .collect()
}
