//! The connector's properties that determine what reaches the log, so that an external
//! reconfiguration of the connector is noticed.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

/// Values of properties, or digests of the values, by property name.
pub type Properties = BTreeMap<String, String>;

/// Prefixes of the properties that affect how the connector works, but not what it delivers.
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
    // When fanout restores its own value, it records where another one was in use.
    "unavailable.value.placeholder",
];

/// The property that selects the database, among those of the connection.
const DATABASE: &str = "database.dbname";

/// Returns the properties that determine what is delivered, with digests of their values,
/// because an operator's properties may contain secrets.
#[must_use]
pub fn relevant(properties: &Properties) -> Properties {
    let is_relevant = |name: &str| {
        let is_operational = OPERATIONAL.iter().any(|start| name.starts_with(start));
        name == DATABASE || !is_operational
    };
    let relevant = properties.iter().filter(|(name, _)| is_relevant(name));
    relevant
        .map(|(name, value)| (name.clone(), digest(value)))
        .collect()
}

/// Returns the names of the properties that differ.
#[must_use]
pub fn drift(then: &Properties, now: &Properties) -> Vec<String> {
    let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| then.get(*name) != now.get(*name));
    differ.cloned().collect()
}

/// Returns the first 64 bits of a hash, which suffice to detect a change.
fn digest(value: &str) -> String {
    let hash = Sha256::digest(value.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    format!("{:016x}", u64::from_be_bytes(first))
}
