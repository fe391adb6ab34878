//! The unit of a numeric time column, as given by the record's schema.

use serde::Deserialize;

use crate::time::timestamp::MICROS_PER_MILLI;

/// A unit of time since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeUnit {
    Millis,
    Micros,
    Nanos,
}

impl TimeUnit {
    /// Converts a time to microseconds, rounding down.
    pub(super) fn to_micros(self, value: i64) -> Option<i64> {
        match self {
            Self::Millis => value.checked_mul(MICROS_PER_MILLI),
            Self::Micros => Some(value),
            Self::Nanos => Some(value.div_euclid(1_000)),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
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

/// Returns the unit of a column of `after`, read from the record's schema. Returns `None` if
/// there is no schema or it gives no unit.
pub(super) fn unit_of(schema: Option<&str>, column: &str) -> Option<TimeUnit> {
    let envelope: Field = serde_json::from_str(schema?).ok()?;
    let name = envelope.field("after")?.field(column)?.name.as_deref()?;
    TimeUnit::from_name(name)
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
