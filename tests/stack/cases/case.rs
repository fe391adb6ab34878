//! One case: what is written, and what has to become of it.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use crate::support::Record;

/// The sinks that take events.
pub const SINKS: [&str; 3] = ["clickhouse", "redis", "http"];

/// Debezium's records as they were captured.
const CAPTURED: &str = include_str!("../../data/debezium-3.6.3.jsonl");

/// Every good neighbour is of this content.
pub const GOOD: Uuid = Uuid::from_u128(0x600d);

/// The first id of the events here, far from the source's.
const FIRST_ID: i64 = 1_000_000_000;

/// Ids of one case.
const IDS: i64 = 10;

/// The type and the length of a content.
pub type Fields = (Option<&'static str>, Option<i32>);

/// What every content is unless a case says otherwise.
pub const VIDEO: Fields = (Some("video"), Some(100));

/// What becomes of a record in one sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Applied,
    Ignored(&'static str),
    Dead(&'static str),
}

/// A record and its fate in each sink.
#[derive(Debug, Clone)]
pub struct Sent {
    pub record: Record,
    /// In the order of [`SINKS`].
    fates: [Fate; 3],
}

/// The event a case is about.
#[derive(Debug, Clone)]
pub struct Subject {
    pub prefix: &'static str,
    pub id: i64,
    pub content: Uuid,
    /// Another content, of 200 s.
    pub other: Uuid,
    /// When the event was.
    pub time: Timestamp,
}

/// What content becomes after all else, and the row with it.
#[derive(Debug, Clone)]
pub struct Later {
    pub content: Fields,
    pub row: Json,
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    /// The event whose row is looked at.
    pub id: i64,
    pub content: Uuid,
    /// In the order of the log, neighbours included.
    pub sent: Vec<Sent>,
    /// What is in the catalogue.
    pub catalogue: Vec<(Uuid, Fields)>,
    /// The row; none where there is none.
    pub row: Option<Json>,
    /// Content and duration of each event on the board.
    pub counted: Vec<(Uuid, i32)>,
    /// Content of each event that only a board of events can count.
    pub without_duration: Vec<Uuid>,
    /// The event of each call, once for each key.
    pub calls: Vec<i64>,
    /// A record of it has columns that nobody knows.
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

    /// The same event under another id.
    pub fn with_id(&self, id: i64) -> Self {
        Self { id, ..self.clone() }
    }

    /// The same event at another time.
    pub fn at(&self, seconds_from_now: i64) -> Self {
        let time = self.time + SignedDuration::from_secs(seconds_from_now);
        Self {
            time,
            ..self.clone()
        }
    }

    /// The event as the connector writes it: 1.5 s of a content of 100 s.
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

    /// The row that this becomes.
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

    /// A change of the event: Debezium's envelope around these rows.
    pub fn envelope(&self, op: &str, before: Json, after: Json) -> Json {
        envelope(self.prefix, "engagement_events", op, before, after)
    }

    /// The record of a value under the event's key.
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

    /// Nobody understands it.
    pub fn dead(code: &'static str, record: Record) -> Self {
        Self::all(record, Fate::Dead(code))
    }

    /// It changes no row.
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

    /// The null value that follows a delete.
    pub fn tombstone(subject: &Subject) -> Self {
        let record = Record {
            value: None,
            ..subject.record(&Json::Null)
        };
        Self::ignored("tombstone", record)
    }

    /// The same, otherwise for the board.
    pub fn redis(mut self, fate: Fate) -> Self {
        self.fates[1] = fate;
        self
    }

    /// The same, otherwise for the external system.
    pub fn http(mut self, fate: Fate) -> Self {
        self.fates[2] = fate;
        self
    }

    pub fn fate(&self, sink: &str) -> Fate {
        let place = SINKS.iter().position(|name| *name == sink);
        self.fates[place.expect("a sink")]
    }
}

impl Case {
    /// Builds a case and puts its neighbours around it.
    pub fn of(name: &'static str, subject: Subject, build: impl Fn(&Subject) -> Self) -> Self {
        let mut case = build(&subject);
        case.name = name;
        for (place, id) in [(0, subject.id + 1), (case.sent.len() + 1, subject.id + 2)] {
            let neighbour = Subject {
                content: GOOD,
                ..subject.with_id(id)
            };
            case.sent
                .insert(place, Sent::insert(&neighbour, neighbour.after()));
            case.counted.push((GOOD, 1500));
            case.calls.push(id);
        }
        case
    }

    /// Records that come to nothing.
    pub fn nothing(subject: &Subject, sent: Vec<Sent>) -> Self {
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

    /// One record that nobody understands.
    pub fn dead(subject: &Subject, code: &'static str, value: &Json) -> Self {
        Self::nothing(subject, vec![Sent::dead(code, subject.record(value))])
    }

    /// One insert that nobody understands.
    pub fn dead_insert(subject: &Subject, code: &'static str, after: Json) -> Self {
        Self::dead(subject, code, &subject.envelope("c", Json::Null, after))
    }

    /// The same, and the board takes the records that the others reject: what is
    /// wrong with them is nothing that it reads.
    pub fn but_counted(mut self) -> Self {
        for sent in &mut self.sent {
            if matches!(sent.fate("clickhouse"), Fate::Dead(_)) {
                *sent = sent.clone().redis(Fate::Applied);
            }
        }
        let content = self.content;
        self.counted(&[(content, 1500)])
    }

    /// The same where a board of seconds rejects the record, too.
    pub fn but_counted_as_event(mut self) -> Self {
        self.without_duration = vec![self.content];
        self.but_counted().counted(&[])
    }

    /// Records that come to the subject's row, counted once and told once.
    pub fn applied(subject: &Subject, sent: Vec<Sent>) -> Self {
        Self {
            row: Some(subject.row()),
            counted: vec![(subject.content, 1500)],
            calls: vec![subject.id],
            ..Self::nothing(subject, sent)
        }
    }

    /// One insert with these columns otherwise, and the row with the same.
    pub fn insert(subject: &Subject, columns: Json) -> Self {
        let after = with(subject.after(), columns.clone());
        Self::applied(subject, vec![Sent::insert(subject, after)]).row(columns)
    }

    /// The same with these columns otherwise in the row.
    pub fn row(mut self, columns: Json) -> Self {
        self.row = self.row.map(|row| with(row, columns));
        self
    }

    /// The same with another content in the catalogue.
    pub fn catalogue(mut self, fields: Option<Fields>) -> Self {
        let fields = fields.map(|fields| (self.content, fields));
        self.catalogue = fields.into_iter().collect();
        self
    }

    /// The same with these events on the board.
    pub fn counted(mut self, counted: &[(Uuid, i32)]) -> Self {
        self.counted = counted.to_vec();
        self
    }

    /// The same with so many calls for the event.
    pub fn calls(mut self, calls: usize) -> Self {
        self.calls = vec![self.id; calls];
        self
    }

    /// The same, and its content changes afterwards, and with it the row.
    pub fn later(mut self, content: Fields, columns: Json) -> Self {
        let row = self.row.clone().expect("a row");
        let row = with(row, columns);
        self.later = Some(Later { content, row });
        self
    }
}

/// An object with some members otherwise.
pub fn with(mut object: Json, members: Json) -> Json {
    let (Json::Object(object_members), Json::Object(members)) = (&mut object, members) else {
        panic!("not two objects");
    };
    object_members.extend(members);
    object
}

/// An object without a member.
pub fn without(mut object: Json, member: &str) -> Json {
    let members = object.as_object_mut().expect("an object");
    members.shift_remove(member).expect("it was there");
    object
}

/// A record of two JSON documents.
pub fn record(key: &Json, value: &Json) -> Record {
    Record {
        key: Some(key.to_string().into_bytes()),
        value: Some(value.to_string().into_bytes()),
    }
}

/// A record of the content topic.
pub fn content(prefix: &str, id: Uuid, (content_type, length_seconds): Fields) -> Record {
    let row = json!({
        "id": id, "slug": id, "title": "a test", "content_type": content_type,
        "length_seconds": length_seconds, "publish_ts": "2026-01-01T00:00:00.000000Z",
    });
    let value = envelope(prefix, "content", "c", Json::Null, row);
    record(&json!({"id": id}), &value)
}

/// Debezium's envelope around these rows.
fn envelope(prefix: &str, table: &str, op: &str, before: Json, after: Json) -> Json {
    let source = with(
        CAPTURED_INSERT["source"].clone(),
        json!({"name": prefix, "table": table}),
    );
    let members = json!({"before": before, "after": after, "source": source, "op": op});
    with(Json::Object(CAPTURED_INSERT.clone()), members)
}

/// The first insert of an event that was captured.
static CAPTURED_INSERT: LazyLock<Map<String, Json>> = LazyLock::new(|| {
    let value = |line: &str| {
        let record: Json = serde_json::from_str(line).ok()?;
        let value: Json = serde_json::from_str(record["value"].as_str()?).ok()?;
        let insert = record["topic"] == "cdc.public.engagement_events" && value["op"] == "c";
        insert.then(|| value.as_object().cloned())?
    };
    CAPTURED.lines().find_map(value).expect("an insert")
});
