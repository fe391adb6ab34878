//! What a number in a time column counts, where the record's schema says so.

use serde::Deserialize;

use crate::timestamp::MICROS_PER_MILLI;

/// A unit of time since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeUnit {
    Millis,
    Micros,
    Nanos,
}

impl TimeUnit {
    /// The time in microseconds, down to the microsecond before it.
    pub(super) fn to_micros(self, value: i64) -> Option<i64> {
        match self {
            Self::Millis => value.checked_mul(MICROS_PER_MILLI),
            Self::Micros => Some(value),
            Self::Nanos => Some(value.div_euclid(1_000)),
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp" => {
                Some(Self::Millis)
            }
            "io.debezium.time.MicroTimestamp" => Some(Self::Micros),
            "io.debezium.time.NanoTimestamp" => Some(Self::Nanos),
            _ => None,
        }
    }
}

/// The unit of a column of `after`, read from the record's own schema.
/// `None` where there is no schema or it names no unit.
pub(super) fn unit_of(schema: Option<&str>, column: &str) -> Option<TimeUnit> {
    let envelope: Field = serde_json::from_str(schema?).ok()?;
    let name = envelope.field("after")?.field(column)?.name.as_deref()?;
    TimeUnit::named(name)
}

#[derive(Deserialize)]
struct Field {
    #[serde(rename = "field")]
    member: Option<String>,
    name: Option<String>,
    fields: Option<Vec<Field>>,
}

impl Field {
    fn field(&self, name: &str) -> Option<&Self> {
        let fields = self.fields.as_deref()?;
        fields
            .iter()
            .find(|field| field.member.as_deref() == Some(name))
    }
}
