//! Remedies for a failed connector, by root cause.

use crate::source::checks::RECONCILE;

/// Remedy for a lost slot: a new slot, a snapshot of the source, and a comparison that finds
/// the rows deleted in the meantime.
pub const SLOT_LOST: &str = RECONCILE;

/// Remedy for a record that exceeds a size limit of the producer or the broker. Changing the
/// row does not help, because the record is already in Postgres' WAL.
pub const TOO_LARGE: &str = "raise max.message.bytes of the topic with Kafka's own tools, and \
     connector.properties.\"producer.override.max.request.size\" in fanout.yaml, \
     then fanout connector apply and fanout connector restart";

/// Remedy for all other failures. If a restart does not help, Connect's log shows the cause.
const RESTART: &str = "fanout connector restart";

/// Returns the remedy for a failure.
#[must_use]
pub fn remedy(cause: &str) -> &'static str {
    if is_slot_lost(cause) {
        SLOT_LOST
    } else if is_record_too_large(cause) {
        TOO_LARGE
    } else {
        RESTART
    }
}

/// Returns true if the failure is a lost slot: Connect has a position that the slot no longer
/// contains.
#[must_use]
pub fn is_slot_lost(cause: &str) -> bool {
    cause.contains("no longer available on the server")
}

/// Returns true if the failure is a record that exceeds a limit of the producer or the broker.
#[must_use]
pub fn is_record_too_large(cause: &str) -> bool {
    cause.contains("max.request.size") || cause.contains("larger than the max message size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_remedy() {
        for (cause, expected) in [
            (
                "The offset of slot 'dbz_slot' is no longer available on the server.",
                SLOT_LOST,
            ),
            (
                "The message is 81000123 bytes when serialized which is larger than 67108864, \
                 which is the value of the max.request.size configuration.",
                TOO_LARGE,
            ),
            (
                "The request included a message larger than the max message size the server \
                 will accept.",
                TOO_LARGE,
            ),
            ("FATAL: database \"x\" does not exist", RESTART),
        ] {
            assert_eq!(remedy(cause), expected, "{cause}");
        }
    }
}
