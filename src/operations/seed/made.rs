//! Generated rows that look real. Apart from times, the same seed generates the same rows.

use std::io::Write as _;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use crate::time::timestamp::Rfc3339;

/// Namespace of the ids of generated content.
const NAMESPACE: Uuid = Uuid::from_u128(0x5eed_f00d_0c07_4e17_9d1c_fa70_0000_0001);

/// Publication time of the first content: 2026-01-01. Each further one is an hour earlier.
const FIRST_PUBLISHED_US: i64 = 1_767_225_600_000_000;
const HOUR_US: i64 = 3_600_000_000;

/// Maximum age of an event.
const MAX_AGE_US: i64 = 30_000_000;

const TOPICS: [&str; 12] = [
    "Tides",
    "Mountain Weather",
    "Slow Bread",
    "Night Trains",
    "Letterpress",
    "City Trees",
    "Deep Sea Cables",
    "Old Maps",
    "Bicycle Repair",
    "Radio Drama",
    "Lighthouses",
    "Salt",
];
const KINDS: [&str; 3] = ["podcast", "newsletter", "video"];
const DEVICES: [&str; 6] = [
    "ios",
    "android",
    "web-chrome",
    "web-safari",
    "smart-tv",
    "web-firefox",
];
const NETWORKS: [&str; 4] = ["wifi", "5g", "4g", "ethernet"];

/// A row of `content`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub id: Uuid,
    pub slug: String,
    pub title: String,
    pub content_type: &'static str,
    /// `None` for a newsletter.
    pub length_seconds: Option<i32>,
    /// RFC 3339.
    pub publish_ts: String,
}

/// Returns the content with this number, which is always the same.
#[must_use]
pub fn piece(number: u32) -> Piece {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(number));
    let content_type = KINDS[number as usize % KINDS.len()];
    let topic = TOPICS[number as usize % TOPICS.len()];
    let volume = number as usize / TOPICS.len() + 1;
    let length = rng.random_range(60..5_400);
    Piece {
        id: id(number),
        slug: format!("{}-{number}", topic.to_lowercase().replace(' ', "-")),
        title: format!("{topic}, No. {volume}"),
        content_type,
        length_seconds: (content_type != "newsletter").then_some(length),
        publish_ts: Rfc3339(FIRST_PUBLISHED_US - i64::from(number) * HOUR_US).to_string(),
    }
}

/// Returns the id of the content with this number.
fn id(number: u32) -> Uuid {
    Uuid::new_v5(&NAMESPACE, &number.to_be_bytes())
}

/// A row of `engagement_events`, without its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub content_id: Option<Uuid>,
    pub user_id: Uuid,
    pub event_type: &'static str,
    /// Age of the event, in microseconds.
    pub age_us: i64,
    /// `None` for a click.
    pub duration_ms: Option<i32>,
    pub device: Option<&'static str>,
    /// A JSON document without tab, line feed or backslash.
    pub raw_payload: String,
}

/// Generator of events.
#[derive(Debug)]
pub struct Maker {
    rng: ChaCha8Rng,
    pieces: u32,
}

impl Maker {
    /// Creates a generator of events that refer to the first `pieces` contents, or to no content
    /// if that is 0.
    #[must_use]
    pub fn new(seed: u64, pieces: u32) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            pieces,
        }
    }

    /// Generates the next event.
    pub fn event(&mut self) -> Made {
        let rng = &mut self.rng;
        // The smaller of two random numbers makes the first contents more popular.
        let number = (self.pieces > 0).then(|| {
            let first = rng.random_range(0..self.pieces);
            first.min(rng.random_range(0..self.pieces))
        });
        let event_type = match rng.random_range(0..100) {
            0..50 => "play",
            50..70 => "pause",
            70..85 => "finish",
            _ => "click",
        };
        let duration = rng.random_range(500..1_800_000);
        let position = rng.random_range(0..5_400_000);
        Made {
            content_id: number.map(id),
            user_id: uuid::Builder::from_random_bytes(rng.random()).into_uuid(),
            event_type,
            age_us: rng.random_range(0..MAX_AGE_US),
            duration_ms: (event_type != "click").then_some(duration),
            device: rng.random_bool(0.97).then(|| pick(rng, &DEVICES)),
            raw_payload: format!(
                r#"{{"app": "{}.{}", "network": "{}", "position_ms": {position}}}"#,
                rng.random_range(3..6),
                rng.random_range(0..20),
                pick(rng, &NETWORKS),
            ),
        }
    }
}

impl Made {
    /// Appends the row in the text format of `COPY`, with columns in the table's order.
    pub fn copy_line(&self, id: i64, now_us: i64, out: &mut Vec<u8>) {
        let text = |value: Option<String>| value.unwrap_or_else(|| "\\N".to_owned());
        // Writing into a vector cannot fail.
        let _ = writeln!(
            out,
            "{id}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            text(self.content_id.map(|id| id.to_string())),
            self.user_id,
            self.event_type,
            Rfc3339(now_us - self.age_us),
            text(self.duration_ms.map(|duration| duration.to_string())),
            text(self.device.map(str::to_owned)),
            self.raw_payload,
        );
    }
}

fn pick<const N: usize>(rng: &mut ChaCha8Rng, choices: &[&'static str; N]) -> &'static str {
    choices[rng.random_range(0..N)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_generates_the_same_events() {
        let events = |seed| {
            let mut maker = Maker::new(seed, 10);
            [(); 50].map(|()| maker.event())
        };
        assert_eq!(events(42), events(42));
        assert_ne!(events(42), events(43));
    }

    #[test]
    fn a_content_is_always_the_same_and_has_a_unique_slug() {
        let slugs: std::collections::BTreeSet<String> =
            (0..500).map(|number| piece(number).slug).collect();
        assert_eq!(slugs.len(), 500);
        assert_eq!(piece(3), piece(3));
        assert_eq!(
            piece(0).id.to_string(),
            "6e762018-5a80-5381-853d-fe8ba609c970"
        );
    }

    #[test]
    fn a_line_has_the_eight_columns_and_its_payload_is_json() {
        let mut maker = Maker::new(1, 0);
        for id in 0..200 {
            let made = maker.event();
            let mut line = Vec::new();
            made.copy_line(id, 1_767_225_600_000_000, &mut line);
            let line = String::from_utf8(line).expect("text");
            let cells: Vec<&str> = line.trim_end_matches('\n').split('\t').collect();
            assert_eq!(cells.len(), 8, "{line}");
            assert_eq!(cells[1], "\\N");
            serde_json::from_str::<serde_json::Value>(cells[7]).expect("json");
            assert!(!line.contains("\\\\"));
        }
    }
}
