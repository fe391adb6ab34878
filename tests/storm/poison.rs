//! Writes records into the log that no connector would write.

use std::{thread, time::Duration};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use serde_json::json;

use crate::{log, stage::Stage, support::wait_for};

/// Interval between two records.
const PAUSE: Duration = Duration::from_millis(900);
/// Timeout for a place in the producer's queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// The numbers of records sent.
#[derive(Debug, Default)]
pub struct Sent {
    pub written: u64,
    /// Records whose delivery the broker neither confirmed nor denied.
    pub ambiguous: u64,
}

/// Writes records until the storm ends.
pub fn write(stage: &Stage, seed: u64) -> Sent {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x9015);
    let producer: FutureProducer = ClientConfig::new()
        .set(
            "bootstrap.servers",
            stage.stack.stores.url("FANOUT_KAFKA_BROKERS"),
        )
        .set("reconnect.backoff.max.ms", "500")
        .set("message.timeout.ms", "60000")
        .create()
        .expect("a producer");
    let mut sent = Sent::default();
    while !stage.is_over() {
        thread::sleep(PAUSE);
        // The id may belong to an existing event.
        let id = 1_000_000 + rng.random_range(0..2_000);
        let key = format!("{{\"id\":{id}}}");
        let value = value(rng.random_range(0..7), id);
        let partition = rng.random_range(0..log::PARTITIONS);
        let record = FutureRecord::to(log::EVENTS)
            .partition(partition)
            .key(&key)
            .payload(&value);
        match wait_for(producer.send(record, Timeout::After(QUEUE_TIMEOUT))) {
            Ok(_) => sent.written += 1,
            Err(_) => sent.ambiguous += 1,
        }
    }
    sent
}

fn value(kind: u32, id: i64) -> Vec<u8> {
    let envelope = |op: &str, table: &str, after: serde_json::Value| {
        json!({
            "before": null, "after": after, "op": op, "ts_ms": 1,
            "source": {"name": "cdc", "schema": "public", "table": table, "snapshot": "false"},
        })
        .to_string()
        .into_bytes()
    };
    let after = json!({
        "id": id, "content_id": null, "user_id": null, "event_type": "play",
        "event_ts": "2026-01-01T00:00:00Z", "duration_ms": 1, "device": null, "raw_payload": null,
    });
    match kind {
        0 => b"{\"op\":\"\xff\xfe\"}".to_vec(),
        1 => {
            let mut cut = envelope("c", "engagement_events", after);
            cut.truncate(cut.len() / 2);
            cut
        }
        2 => envelope("x", "engagement_events", after),
        3 => envelope("c", "content", after),
        4 => envelope("u", "engagement_events", serde_json::Value::Null),
        5 => b"[]".to_vec(),
        _ => Vec::new(),
    }
}
