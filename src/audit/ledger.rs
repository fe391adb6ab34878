//! What the log says must have become of each of its records: the position
//! each row has to stand at, and the calls the external system must have had;
//! and what the stores say of the same. Pure, but for where entries are kept.

use std::io;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    debezium::{Change, FactDecoder, Origin, Record},
    engagement::idempotency,
    spill::bucket::{Entry, Source},
};

/// SHA-256 of a body.
pub type Sha = [u8; 32];

/// The latest change of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latest {
    pub offset: i64,
    pub deleted: bool,
}

/// A change of a row, as the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    pub event: i64,
    pub latest: Latest,
    /// It lies behind the fence.
    pub later: bool,
}

/// The offset that a stored row is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stands {
    pub event: i64,
    pub offset: i64,
    /// The offset that its version was made from.
    pub version_offset: i64,
}

/// A call that the external system may have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub key: Uuid,
    pub sha: Sha,
    pub partition: i32,
    pub offset: i64,
    /// Whether it must have had it.
    pub required: bool,
    /// When its record was appended, in milliseconds since the epoch.
    pub time_ms: i64,
}

/// A call that it has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Had {
    pub key: Uuid,
    pub sha: Sha,
}

/// What one record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// A row is another, or gone; with the call that makes.
    Row(i64, Latest, Option<Call>),
    Ignored,
    /// To be found among the dead letters.
    Rejected {
        /// It is not of the expected shape.
        of_shape: bool,
    },
    /// Rows are gone, and the log does not say which.
    Truncate,
}

/// Reads a record. `snapshots` says whether rows that only a snapshot has shown
/// are sent, too.
pub fn read(decoder: &FactDecoder, record: &Record<'_>, snapshots: bool) -> Made {
    let latest = |deleted| Latest {
        offset: record.offset,
        deleted,
    };
    match decoder.decode(record) {
        Err(reject) => Made::Rejected {
            of_shape: reject.shape.is_some(),
        },
        Ok(Change::Ignored(_)) => Made::Ignored,
        Ok(Change::Truncate { .. }) => Made::Truncate,
        Ok(Change::Delete { id }) => Made::Row(id, latest(true), None),
        Ok(Change::Upsert { origin, row, .. }) => {
            let required = match origin {
                Origin::Insert => true,
                Origin::Snapshot | Origin::IncrementalSnapshot => snapshots,
                Origin::Update => return Made::Row(row.id, latest(false), None),
            };
            let body = idempotency::body(&row);
            let call = Call {
                key: idempotency::idempotency_key(&decoder.source().qualified(), &body),
                sha: digest(&body),
                partition: record.partition,
                offset: record.offset,
                required,
                time_ms: record.timestamp_ms,
            };
            Made::Row(row.id, latest(false), Some(call))
        }
    }
}

/// The body of the call that a record makes.
pub fn body(decoder: &FactDecoder, record: &Record<'_>) -> Option<Vec<u8>> {
    match decoder.decode(record) {
        Ok(Change::Upsert { row, .. }) => Some(idempotency::body(&row)),
        _ => None,
    }
}

/// SHA-256 of a body.
#[must_use]
pub fn digest(body: &[u8]) -> Sha {
    Sha256::digest(body).into()
}

/// Half of a key is as good as all of it for finding a heap.
fn half(key: &Uuid) -> u64 {
    key.as_u64_pair().1
}

/// A field of an entry, from its bytes.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        field.copy_from_slice(found);
    }
    field
}

/// The bytes of an entry, from its fields.
pub(crate) fn joined<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(fields.iter().copied().flatten()) {
        *to = *from;
    }
    bytes
}

impl Entry for Changed {
    type Bytes = [u8; 18];

    fn key(&self) -> u64 {
        self.event.cast_unsigned()
    }

    fn bytes(&self) -> Self::Bytes {
        joined(&[
            &self.event.to_le_bytes(),
            &self.latest.offset.to_le_bytes(),
            &[u8::from(self.latest.deleted), u8::from(self.later)],
        ])
    }

    fn read(from: &mut Source) -> io::Result<Option<Self>> {
        let bytes: Option<[u8; 18]> = from.next()?;
        Ok(bytes.map(|bytes| Self {
            event: i64::from_le_bytes(field(&bytes, 0)),
            latest: Latest {
                offset: i64::from_le_bytes(field(&bytes, 8)),
                deleted: bytes[16] != 0,
            },
            later: bytes[17] != 0,
        }))
    }
}

impl Entry for Stands {
    type Bytes = [u8; 24];

    fn key(&self) -> u64 {
        self.event.cast_unsigned()
    }

    fn bytes(&self) -> Self::Bytes {
        joined(&[
            &self.event.to_le_bytes(),
            &self.offset.to_le_bytes(),
            &self.version_offset.to_le_bytes(),
        ])
    }

    fn read(from: &mut Source) -> io::Result<Option<Self>> {
        let bytes: Option<[u8; 24]> = from.next()?;
        Ok(bytes.map(|bytes| Self {
            event: i64::from_le_bytes(field(&bytes, 0)),
            offset: i64::from_le_bytes(field(&bytes, 8)),
            version_offset: i64::from_le_bytes(field(&bytes, 16)),
        }))
    }
}

impl Entry for Call {
    type Bytes = [u8; 69];

    fn key(&self) -> u64 {
        half(&self.key)
    }

    fn bytes(&self) -> Self::Bytes {
        joined(&[
            self.key.as_bytes(),
            &self.sha,
            &self.partition.to_le_bytes(),
            &self.offset.to_le_bytes(),
            &[u8::from(self.required)],
            &self.time_ms.to_le_bytes(),
        ])
    }

    fn read(from: &mut Source) -> io::Result<Option<Self>> {
        let bytes: Option<[u8; 69]> = from.next()?;
        Ok(bytes.map(|bytes| Self {
            key: Uuid::from_bytes(field(&bytes, 0)),
            sha: field(&bytes, 16),
            partition: i32::from_le_bytes(field(&bytes, 48)),
            offset: i64::from_le_bytes(field(&bytes, 52)),
            required: bytes[60] != 0,
            time_ms: i64::from_le_bytes(field(&bytes, 61)),
        }))
    }
}

impl Entry for Had {
    type Bytes = [u8; 48];

    fn key(&self) -> u64 {
        half(&self.key)
    }

    fn bytes(&self) -> Self::Bytes {
        joined(&[self.key.as_bytes(), &self.sha])
    }

    fn read(from: &mut Source) -> io::Result<Option<Self>> {
        let bytes: Option<[u8; 48]> = from.next()?;
        Ok(bytes.map(|bytes| Self {
            key: Uuid::from_bytes(field(&bytes, 0)),
            sha: field(&bytes, 16),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        debezium::SourceTable,
        spill::bucket::{Spill, scratch},
    };

    fn made(offset: i64, op: &str, id: i64) -> Made {
        let decoder = FactDecoder::new(SourceTable {
            prefix: "cdc".to_owned(),
            schema: "public".to_owned(),
            table: "engagement_events".to_owned(),
        });
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
            partition: 2,
            offset,
            timestamp_ms: 0,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
        };
        let made = read(&decoder, &record, false);
        if let Made::Row(_, _, Some(call)) = &made {
            let body = body(&decoder, &record).expect("a body");
            assert_eq!(call.sha, digest(&body));
        }
        made
    }

    #[test]
    fn each_kind_of_record_makes_what_it_has_to() {
        let latest = |offset, deleted| Latest { offset, deleted };
        let Made::Row(7, stored, Some(inserted)) = made(1, "c", 7) else {
            panic!("an insert makes a row and a call");
        };
        assert_eq!(stored, latest(1, false));
        assert!(inserted.required && (inserted.partition, inserted.offset) == (2, 1));
        assert_eq!(made(2, "u", 7), Made::Row(7, latest(2, false), None));
        let read = made(3, "r", 8);
        assert!(matches!(
            read,
            Made::Row(
                8,
                _,
                Some(Call {
                    required: false,
                    ..
                })
            )
        ));
        assert_eq!(made(5, "d", 8), Made::Row(8, latest(5, true), None));
        assert_eq!(made(6, "x", 8), Made::Rejected { of_shape: false });
    }

    fn put_away<E: Entry + std::fmt::Debug + PartialEq>(entry: &E) {
        let (_home, scratch) = scratch();
        let mut spill = Spill::new(&scratch, 1).expect("a file");
        spill.push(entry).expect("space");
        let mut heap = spill.heaps().expect("a file").remove(0);
        assert_eq!(heap.next().expect("one").expect("an entry"), *entry);
        assert!(heap.next().is_none());
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let (key, sha) = (Uuid::new_v4(), digest(b"a body"));
        put_away(&Had { key, sha });
        for flag in [false, true] {
            put_away(&Call {
                key,
                sha,
                partition: i32::MAX,
                offset: i64::MAX - 1,
                required: flag,
                time_ms: -7,
            });
            put_away(&Changed {
                event: i64::MIN,
                latest: Latest {
                    offset: 9,
                    deleted: flag,
                },
                later: !flag,
            });
        }
        put_away(&Stands {
            event: -1,
            offset: 2,
            version_offset: 3,
        });
    }
}
