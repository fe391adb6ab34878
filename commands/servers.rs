//! Which servers a command talks to: each has to be the project's own or named
//! by the operator before it does.

use fanout::{config::Settings, sink_kind::SinkKind, stack::reach::Need};

/// The stores of these sinks. That one does not run is for the command to find,
/// and to say what follows from it.
pub fn stores(sinks: &[SinkKind]) -> impl Iterator<Item = (&'static str, Need)> {
    sinks.iter().map(|sink| (sink.service(), Need::Ours))
}

/// All that the pipeline's way leads through.
pub fn of_pipeline(settings: &Settings, need: Need) -> Vec<(&'static str, Need)> {
    let source = ["postgres", "kafka", "connect"];
    let stores = stores(&settings.pipeline.sinks).map(|(service, _)| service);
    source
        .into_iter()
        .chain(stores)
        .map(|service| (service, need))
        .collect()
}
