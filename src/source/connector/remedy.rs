//! What mends a connector that has failed, by the root cause that it gives.

use crate::source::checks::RECONCILE;

/// What mends a slot that is gone: a new one, a snapshot of what there is, and a
/// comparison that finds what was deleted meanwhile.
pub const SLOT_LOST: &str = RECONCILE;

/// What mends a row whose record is larger than the way to Kafka lets pass.
/// It is in Postgres' log: changing the row does not take it out of there.
pub const TOO_LARGE: &str = "raise max.message.bytes of the topic with Kafka's own tools, and \
     connector.properties.\"producer.override.max.request.size\" in fanout.yaml, \
     then fanout connector apply and fanout connector restart";

/// Any other failure passes, or is told in Connect's log.
const RESTART: &str = "fanout connector restart";

/// The next thing to do about a failure.
#[must_use]
pub fn remedy(cause: &str) -> &'static str {
    if says_slot_is_lost(cause) {
        SLOT_LOST
    } else if says_record_is_too_large(cause) {
        TOO_LARGE
    } else {
        RESTART
    }
}

/// Whether a failure says that the replication slot has gone while Connect
/// still knows a position in it.
#[must_use]
pub fn says_slot_is_lost(cause: &str) -> bool {
    cause.contains("no longer available on the server")
}

/// Whether a failure says that a record is larger than the producer sends or
/// the broker takes.
#[must_use]
pub fn says_record_is_too_large(cause: &str) -> bool {
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
