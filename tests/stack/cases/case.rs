//! One test case: the records to write and their expected effect.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use crate::support::Record;

/// The sinks that consume events.
pub const SINKS: [&str; 3] = ["clickhouse", "redis", "http"];

/// Records captured from Debezium.
const CAPTURED: &str = include_str!("../../data/debezium-3.6.3.jsonl");

/// The content of every valid neighbour.
pub const GOOD: Uuid = Uuid::from_u128(0x600d);

/// The first id used by the cases, far from the ids in the source.
const FIRST_ID: i64 = 1_000_000_000;

/// The number of ids reserved for one case.
const IDS: i64 = 10;

/// The type and the length of a content.
pub type Fields = (Option<&'static str>, Option<i32>);

/// The fields of every content unless a case sets others.
pub const VIDEO: Fields = (Some("video"), Some(100));

/// The outcome of a record in one sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Applied,
    Ignored(&'static str),
    Dead(&'static str),
}

/// A record and its outcome in each sink.
#[derive(Debug, Clone)]
pub struct Sent {
    pub record: Record,
    /// The outcomes in the order of [`SINKS`].
    fates: [Fate; 3],
}

/// The event that a case is about.
#[derive(Debug, Clone)]
pub struct Subject {
    pub prefix: &'static str,
    pub id: i64,
    pub content: Uuid,
    /// Another content, of 200 s.
    pub other: Uuid,
    /// The `event_ts` of the event.
    pub time: Timestamp,
}

/// A change of the content after all other records, and the row that results
/// from it.
#[derive(Debug, Clone)]
pub struct Later {
    pub content: Fields,
    pub row: Json,
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    /// The id of the event whose row is checked.
    pub id: i64,
    pub content: Uuid,
    /// The records in log order, including the neighbours.
    pub sent: Vec<Sent>,
    /// The contents that exist before the records are written.
    pub catalogue: Vec<(Uuid, Fields)>,
    /// The expected row, or `None` if there must be none.
    pub row: Option<Json>,
    /// Content and duration of each event on the board.
    pub counted: Vec<(Uuid, i32)>,
    /// Contents of the events that only a board of events can count.
    pub without_duration: Vec<Uuid>,
    /// Event ids of the expected calls, one per idempotency key.
    pub calls: Vec<i64>,
    /// Whether one of the records has unknown columns.
    pub has_extra_fields: bool,
    pub later: Option<Later>,
}

impl Subject {
    pub fn new(prefix: &'static str, number: i64) -> Self {
        let bits = u128::from(number.unsigned_abs());
        Self {
            prefix,
            id: FIRST_ID + IDS * number,
            content: Uuid::from_u128((0xca5e << 64) | bits),
            other: Uuid::from_u128((0xca5f << 64) | bits),
            time: Timestamp::now(),
        }
    }

    /// Returns the same event with another id.
    pub fn with_id(&self, id: i64) -> Self {
        Self { id, ..self.clone() }
    }

    /// Returns the same event at another time.
    pub fn at(&self, seconds_from_now: i64) -> Self {
        let time = self.time + SignedDuration::from_secs(seconds_from_now);
        Self {
            time,
            ..self.clone()
        }
    }

    /// Returns the event's row as the connector writes it: 1.5 s of a content
    /// of 100 s.
    pub fn after(&self) -> Json {
        json!({
            "id": self.id,
            "content_id": self.content,
            "user_id": "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
            "event_type": "play",
            "event_ts": self.time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
            "duration_ms": 1500,
            "device": "ios",
            "raw_payload": r#"{"a": 1}"#,
        })
    }

    /// Returns the stored row of this event.
    pub fn row(&self) -> Json {
        json!({
            "event_id": self.id,
            "content_id": self.content,
            "user_id": "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
            "event_type": "play",
            "event_ts": self.time.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string(),
            "duration_ms": 1500,
            "engagement_seconds": "1.5",
            "engagement_pct": "0.02",
            "device": "ios",
            "raw_payload": r#"{"a": 1}"#,
            "content_type": "video",
            "length_seconds": 100,
        })
    }

    /// Returns a Debezium envelope with these rows.
    pub fn envelope(&self, op: &str, before: Json, after: Json) -> Json {
        envelope(self.prefix, "engagement_events", op, before, after)
    }

    /// Returns a record with this value and the event's key.
    pub fn record(&self, value: &Json) -> Record {
        record(&json!({"id": self.id}), value)
    }
}

impl Sent {
    fn all(record: Record, fate: Fate) -> Self {
        Self {
            record,
            fates: [fate; 3],
        }
    }

    /// Returns a record that every sink rejects with this code.
    pub fn dead(code: &'static str, record: Record) -> Self {
        Self::all(record, Fate::Dead(code))
    }

    /// Returns a record that changes no row.
    pub fn ignored(reason: &'static str, record: Record) -> Self {
        Self::all(record, Fate::Ignored(reason))
    }

    pub fn applied(record: Record) -> Self {
        Self::all(record, Fate::Applied)
    }

    pub fn insert(subject: &Subject, after: Json) -> Self {
        Self::applied(subject.record(&subject.envelope("c", Json::Null, after)))
    }

    pub fn update(subject: &Subject, before: Json, after: Json) -> Self {
        let record = subject.record(&subject.envelope("u", before, after));
        Self::applied(record).http(Fate::Ignored("update"))
    }

    pub fn delete(subject: &Subject, before: Json) -> Self {
        let record = subject.record(&subject.envelope("d", before, Json::Null));
        Self::applied(record).http(Fate::Ignored("delete"))
    }

    /// Returns the tombstone that follows a delete.
    pub fn tombstone(subject: &Subject) -> Self {
        let record = Record {
            value: None,
            ..subject.record(&Json::Null)
        };
        Self::ignored("tombstone", record)
    }

    /// Sets the outcome for the board.
    pub fn redis(mut self, fate: Fate) -> Self {
        self.fates[1] = fate;
        self
    }

    /// Sets the outcome for the external system.
    pub fn http(mut self, fate: Fate) -> Self {
        self.fates[2] = fate;
        self
    }

    pub fn fate(&self, sink: &str) -> Fate {
        let index = SINKS.iter().position(|name| *name == sink);
        self.fates[index.expect("a sink")]
    }
}

impl Case {
    /// Builds a case and surrounds it with its neighbours.
    pub fn of(name: &'static str, subject: Subject, build: impl Fn(&Subject) -> Self) -> Self {
        let mut case = build(&subject);
        case.name = name;
        for (index, id) in [(0, subject.id + 1), (case.sent.len() + 1, subject.id + 2)] {
            let neighbour = Subject {
                content: GOOD,
                ..subject.with_id(id)
            };
            case.sent
                .insert(index, Sent::insert(&neighbour, neighbour.after()));
            case.counted.push((GOOD, 1500));
            case.calls.push(id);
        }
        case
    }

    /// Returns a case whose records have no effect.
    pub fn no_effect(subject: &Subject, sent: Vec<Sent>) -> Self {
        Self {
            name: "",
            id: subject.id,
            content: subject.content,
            sent,
            catalogue: vec![(subject.content, VIDEO)],
            row: None,
            counted: Vec::new(),
            without_duration: Vec::new(),
            calls: Vec::new(),
            has_extra_fields: false,
            later: None,
        }
    }

    /// Returns a case with one record that is rejected.
    pub fn dead(subject: &Subject, code: &'static str, value: &Json) -> Self {
        Self::no_effect(subject, vec![Sent::dead(code, subject.record(value))])
    }

    /// Returns a case with one insert that is rejected.
    pub fn dead_insert(subject: &Subject, code: &'static str, after: Json) -> Self {
        Self::dead(subject, code, &subject.envelope("c", Json::Null, after))
    }

    /// Makes the board apply the records that the other sinks reject, because
    /// the invalid part is not read by the board.
    pub fn with_board(mut self) -> Self {
        for sent in &mut self.sent {
            if matches!(sent.fate("clickhouse"), Fate::Dead(_)) {
                *sent = sent.clone().redis(Fate::Applied);
            }
        }
        let content = self.content;
        self.counted(&[(content, 1500)])
    }

    /// Makes only a board of events apply the records; a board of seconds
    /// rejects them.
    pub fn with_event_board(mut self) -> Self {
        self.without_duration = vec![self.content];
        self.with_board().counted(&[])
    }

    /// Returns a case whose records result in the subject's row, one event on
    /// the board, and one call.
    pub fn applied(subject: &Subject, sent: Vec<Sent>) -> Self {
        Self {
            row: Some(subject.row()),
            counted: vec![(subject.content, 1500)],
            calls: vec![subject.id],
            ..Self::no_effect(subject, sent)
        }
    }

    /// Returns a case with one insert with these columns changed, in the event
    /// and in its row.
    pub fn insert(subject: &Subject, columns: Json) -> Self {
        let after = with(subject.after(), columns.clone());
        Self::applied(subject, vec![Sent::insert(subject, after)]).row(columns)
    }

    /// Changes columns of the expected row.
    pub fn row(mut self, columns: Json) -> Self {
        self.row = self.row.map(|row| with(row, columns));
        self
    }

    /// Replaces the fields of the content, or removes the content.
    pub fn catalogue(mut self, fields: Option<Fields>) -> Self {
        let fields = fields.map(|fields| (self.content, fields));
        self.catalogue = fields.into_iter().collect();
        self
    }

    /// Replaces the events on the board.
    pub fn counted(mut self, counted: &[(Uuid, i32)]) -> Self {
        self.counted = counted.to_vec();
        self
    }

    /// Sets the number of calls for the event.
    pub fn calls(mut self, calls: usize) -> Self {
        self.calls = vec![self.id; calls];
        self
    }

    /// Changes the content afterwards, and these columns of the row with it.
    pub fn later(mut self, content: Fields, columns: Json) -> Self {
        let row = self.row.clone().expect("a row");
        let row = with(row, columns);
        self.later = Some(Later { content, row });
        self
    }
}

/// Returns the object with some members replaced.
pub fn with(mut object: Json, members: Json) -> Json {
    let (Json::Object(object_members), Json::Object(members)) = (&mut object, members) else {
        panic!("not two objects");
    };
    object_members.extend(members);
    object
}

/// Returns the object without one member.
pub fn without(mut object: Json, member: &str) -> Json {
    let members = object.as_object_mut().expect("an object");
    members.shift_remove(member).expect("the member exists");
    object
}

/// Returns a record with a JSON key and a JSON value.
pub fn record(key: &Json, value: &Json) -> Record {
    Record {
        key: Some(key.to_string().into_bytes()),
        value: Some(value.to_string().into_bytes()),
    }
}

/// Returns a record of the content topic.
pub fn content(prefix: &str, id: Uuid, (content_type, length_seconds): Fields) -> Record {
    let row = json!({
        "id": id, "slug": id, "title": "a test", "content_type": content_type,
        "length_seconds": length_seconds, "publish_ts": "2026-01-01T00:00:00.000000Z",
    });
    let value = envelope(prefix, "content", "c", Json::Null, row);
    record(&json!({"id": id}), &value)
}

/// Returns a Debezium envelope with these rows.
fn envelope(prefix: &str, table: &str, op: &str, before: Json, after: Json) -> Json {
    let source = with(
        CAPTURED_INSERT["source"].clone(),
        json!({"name": prefix, "table": table}),
    );
    let members = json!({"before": before, "after": after, "source": source, "op": op});
    with(Json::Object(CAPTURED_INSERT.clone()), members)
}

/// The value of the first captured insert of an event.
static CAPTURED_INSERT: LazyLock<Map<String, Json>> = LazyLock::new(|| {
    let value = |line: &str| {
        let record: Json = serde_json::from_str(line).ok()?;
        let value: Json = serde_json::from_str(record["value"].as_str()?).ok()?;
        let insert = record["topic"] == "cdc.public.engagement_events" && value["op"] == "c";
        insert.then(|| value.as_object().cloned())?
    };
    CAPTURED.lines().find_map(value).expect("an insert")
});
