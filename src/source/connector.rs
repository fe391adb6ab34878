//! Which of the connector's properties decide what reaches the log, so that a
//! connector that somebody reconfigured behind our back is noticed.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

/// Property → value, or a digest of it.
pub type Properties = BTreeMap<String, String>;

/// Beginnings of properties that change how the connector works and not what
/// it delivers.
const OPERATIONAL: [&str; 17] = [
    "database.",
    "errors.",
    "exactly.once.",
    "extended.headers.",
    "heartbeat.",
    "incremental.snapshot.chunk.",
    "max.",
    "name",
    "poll.interval.",
    "producer.override.",
    "retriable.",
    "signal.poll.",
    "slot.max.",
    "slot.retry.",
    "tasks.max",
    "topic.creation.",
    // Where another one was in use is noted when ours is put back.
    "unavailable.value.placeholder",
];

/// Which database is read, among the properties of the connection.
const DATABASE: &str = "database.dbname";

/// The properties that decide what is delivered, each with a digest of its
/// value: an operator's own may hold secrets.
#[must_use]
pub fn relevant(properties: &Properties) -> Properties {
    let decides = |name: &str| {
        let operational = OPERATIONAL.iter().any(|start| name.starts_with(start));
        name == DATABASE || !operational
    };
    let relevant = properties.iter().filter(|(name, _)| decides(name));
    relevant
        .map(|(name, value)| (name.clone(), digest(value)))
        .collect()
}

/// The names of the properties that differ.
#[must_use]
pub fn drift(then: &Properties, now: &Properties) -> Vec<String> {
    let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| then.get(*name) != now.get(*name));
    differ.cloned().collect()
}

/// The first 64 bits are enough to tell a change.
fn digest(value: &str) -> String {
    let hash = Sha256::digest(value.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    format!("{:016x}", u64::from_be_bytes(first))
}
