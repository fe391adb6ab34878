//! What the log says must have become of each of its records: the position
//! each row has to stand at, and the calls the external system must have had.
//! Pure.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::event::{Change, FactDecoder, Origin, Record, idempotency};

/// SHA-256 of a body.
pub type Sha = [u8; 32];

/// The latest change of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latest {
    pub offset: i64,
    pub deleted: bool,
}

/// One partition's records, added up.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Event → its latest change.
    pub latest: HashMap<i64, Latest>,
    pub applied: u64,
    pub ignored: u64,
    pub rejected: u64,
}

/// A call that the external system may have had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub key: Uuid,
    pub body: Vec<u8>,
    /// Whether it must have had it.
    pub required: bool,
}

/// What one record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Applied or ignored, with the call it makes.
    Taken(Option<Call>),
    /// To be found among the dead letters.
    Rejected,
    /// Rows are gone, and the log does not say which.
    Truncate,
}

impl Ledger {
    /// Adds a record. `snapshots` says whether rows that only a snapshot has
    /// shown are sent, too.
    pub fn add(&mut self, decoder: &FactDecoder, record: &Record<'_>, snapshots: bool) -> Entry {
        let offset = record.offset;
        match decoder.decode(record) {
            Err(_) => {
                self.rejected += 1;
                Entry::Rejected
            }
            Ok(Change::Ignored(_)) => {
                self.ignored += 1;
                Entry::Taken(None)
            }
            Ok(Change::Truncate { .. }) => Entry::Truncate,
            Ok(Change::Delete { id }) => {
                self.apply(id, offset, true);
                Entry::Taken(None)
            }
            Ok(Change::Upsert { origin, row, .. }) => {
                self.apply(row.id, offset, false);
                let required = match origin {
                    Origin::Insert => true,
                    Origin::Snapshot | Origin::IncrementalSnapshot => snapshots,
                    Origin::Update => return Entry::Taken(None),
                };
                let body = idempotency::body(&row);
                let table = decoder.source().qualified();
                Entry::Taken(Some(Call {
                    key: idempotency::idempotency_key(&table, &body),
                    body,
                    required,
                }))
            }
        }
    }

    fn apply(&mut self, id: i64, offset: i64, deleted: bool) {
        self.applied += 1;
        self.latest.insert(id, Latest { offset, deleted });
    }
}

/// What the external system says it has had.
#[derive(Debug, Default)]
pub struct Calls {
    /// Key → digest of its body, and whether the log knows it.
    had: HashMap<Uuid, (Sha, bool)>,
    /// Keys that no pipeline makes.
    pub foreign: Vec<String>,
}

/// How a call was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    Yes,
    No,
    /// Under another body, of this digest.
    Otherwise(Sha),
}

impl Calls {
    /// Adds a call that was had.
    pub fn had(&mut self, key: &str, sha: Sha) {
        match Uuid::parse_str(key) {
            Ok(key) => {
                self.had.insert(key, (sha, false));
            }
            Err(_) => self.foreign.push(key.to_owned()),
        }
    }

    /// Looks a call of the log up, and remembers that the log knows it.
    pub fn received(&mut self, call: &Call) -> Received {
        let Some((sha, known)) = self.had.get_mut(&call.key) else {
            return Received::No;
        };
        *known = true;
        if *sha == digest(&call.body) {
            Received::Yes
        } else {
            Received::Otherwise(*sha)
        }
    }

    /// The keys that the log does not know.
    pub fn unknown(&self) -> impl Iterator<Item = String> + '_ {
        let unknown = self.had.iter().filter(|(_, (_, known))| !known);
        unknown
            .map(|(key, _)| key.to_string())
            .chain(self.foreign.iter().cloned())
    }
}

/// SHA-256 of a body.
#[must_use]
pub fn digest(body: &[u8]) -> Sha {
    Sha256::digest(body).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SourceTable;

    fn decoder() -> FactDecoder {
        FactDecoder::new(SourceTable {
            prefix: "cdc".to_owned(),
            schema: "public".to_owned(),
            table: "engagement_events".to_owned(),
        })
    }

    fn add(ledger: &mut Ledger, offset: i64, op: &str, id: i64) -> Entry {
        let row = format!(
            r#"{{"id":{id},"content_id":null,"user_id":null,"event_type":"play","event_ts":"2026-01-01T00:00:00Z","duration_ms":1,"device":null,"raw_payload":null}}"#
        );
        let (before, after) = if op == "d" {
            (row.as_str(), "null")
        } else {
            ("null", row.as_str())
        };
        let value = format!(
            r#"{{"before":{before},"after":{after},"op":"{op}","source":{{"name":"cdc","schema":"public","table":"engagement_events","snapshot":"false"}}}}"#
        );
        let key = format!(r#"{{"id":{id}}}"#);
        let record = Record {
            topic: "cdc.public.engagement_events",
            partition: 0,
            offset,
            timestamp_ms: 0,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
        };
        ledger.add(&decoder(), &record, false)
    }

    #[test]
    fn the_latest_change_of_each_event_is_kept() {
        let mut ledger = Ledger::default();
        let inserted = add(&mut ledger, 1, "c", 7);
        assert!(matches!(
            inserted,
            Entry::Taken(Some(Call { required: true, .. }))
        ));
        assert_eq!(add(&mut ledger, 2, "u", 7), Entry::Taken(None));
        let read = add(&mut ledger, 3, "r", 8);
        assert!(matches!(
            read,
            Entry::Taken(Some(Call {
                required: false,
                ..
            }))
        ));
        assert_eq!(add(&mut ledger, 5, "d", 8), Entry::Taken(None));
        assert_eq!(add(&mut ledger, 6, "x", 8), Entry::Rejected);
        assert_eq!(
            ledger.latest[&7],
            Latest {
                offset: 2,
                deleted: false
            }
        );
        assert_eq!(
            ledger.latest[&8],
            Latest {
                offset: 5,
                deleted: true
            }
        );
        assert_eq!((ledger.applied, ledger.rejected), (4, 1));
    }

    #[test]
    fn a_call_is_looked_up_by_key_and_body() {
        let mut ledger = Ledger::default();
        let Entry::Taken(Some(call)) = add(&mut ledger, 1, "c", 7) else {
            panic!("an insert makes a call");
        };
        let mut calls = Calls::default();
        assert_eq!(calls.received(&call), Received::No);
        calls.had(&call.key.to_string(), digest(b"other"));
        calls.had("curl", digest(b"1"));
        assert_eq!(calls.unknown().count(), 2);
        assert_eq!(calls.received(&call), Received::Otherwise(digest(b"other")));
        assert_eq!(calls.unknown().collect::<Vec<_>>(), ["curl"]);
        calls.had(&call.key.to_string(), digest(&call.body));
        assert_eq!(calls.received(&call), Received::Yes);
    }
}
