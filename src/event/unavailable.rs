//! The placeholders: texts that a connector writes in place of a value it did
//! not have, which Postgres stores out of line and which did not change.
//!
//! A text that a user stores must not be taken for one. So each project has a
//! placeholder that nobody can guess; what the connector wrote before it was
//! configured with that one is told apart by its place in the log. Where the
//! document that says so is kept is decided above.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The placeholder of a connector that was not given another.
pub const DEBEZIUMS_OWN: &str = "__debezium_unavailable_value";

/// What every placeholder that fanout chooses, and Debezium's own, has in it.
pub const MARK: &str = "_unavailable_value";

/// The key of the document in the state topic.
pub const STATE_KEY: &str = "unavailable-value";

/// Format of the document.
const FORMAT: u16 = 1;

/// What a placeholder of fanout's begins with.
const PREFIX: &str = "__fanout_unavailable_value_";

/// What Debezium takes for the beginning of bytes in hexadecimal.
const HEX: &str = "hex:";

/// The placeholders of a project, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placeholders {
    format: u16,
    /// What the connector is configured with.
    pub placeholder: String,
    /// The connector was stopped for another placeholder, and has to be resumed.
    pub switching: bool,
    /// What it was configured with before.
    pub earlier: Vec<Earlier>,
}

/// A placeholder that is not in use any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    pub placeholder: String,
    /// By topic, where its records end; none as long as they may still come.
    pub until: Option<BTreeMap<String, Until>>,
}

/// Where the records under a placeholder end in one topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Until {
    /// A topic that was recreated since has none of them.
    pub topic_id: Uuid,
    /// By partition, one past the last offset. A partition that was added since
    /// has none of them.
    pub offsets: Vec<i64>,
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPlaceholders {
    #[error("it is of format {0}, not {FORMAT}")]
    Format(u16),
    #[error("it is no document of this kind")]
    Document(#[from] serde_json::Error),
}

impl Placeholders {
    /// Of a project whose connector never had another placeholder.
    #[must_use]
    pub fn new(placeholder: String) -> Self {
        Self {
            format: FORMAT,
            placeholder,
            switching: false,
            earlier: Vec::new(),
        }
    }

    /// A placeholder made of a number that nobody can guess.
    #[must_use]
    pub fn choose(random: Uuid) -> String {
        format!("{PREFIX}{}", random.simple())
    }

    /// Whether [`Self::choose`] has made it.
    #[must_use]
    pub fn is_chosen(placeholder: &str) -> bool {
        let number = placeholder.strip_prefix(PREFIX);
        number.is_some_and(|number| Uuid::try_parse(number).is_ok())
    }

    /// Reads a kept document.
    ///
    /// # Errors
    /// When it is of another format.
    pub fn read(bytes: &[u8]) -> Result<Self, InvalidPlaceholders> {
        #[derive(Deserialize)]
        struct Format {
            format: u16,
        }
        match serde_json::from_slice::<Format>(bytes)?.format {
            FORMAT => Ok(serde_json::from_slice(bytes)?),
            other => Err(InvalidPlaceholders::Format(other)),
        }
    }

    /// The document to keep.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // Texts and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Notes that records under another placeholder may stand in the log up to
    /// here; without an end, that they may still come.
    pub fn add_earlier(&mut self, property: &str, until: Option<BTreeMap<String, Until>>) {
        let placeholder = text_of(property);
        self.earlier.retain(|one| one.placeholder != placeholder);
        self.earlier.push(Earlier { placeholder, until });
    }

    /// What has to be taken for a placeholder in this topic.
    #[must_use]
    pub fn known_in(&self, topic: &str, topic_id: Uuid) -> Vec<Known> {
        let earlier = self.earlier.iter().filter_map(|one| {
            let before = match &one.until {
                None => None,
                Some(until) => {
                    let until = until.get(topic)?;
                    Some((until.topic_id == topic_id).then(|| until.offsets.clone())?)
                }
            };
            Some(Known {
                placeholder: one.placeholder.clone(),
                before,
            })
        });
        let current = Known {
            placeholder: self.placeholder.clone(),
            before: None,
        };
        std::iter::once(current).chain(earlier).collect()
    }
}

/// The text that a connector writes under this property.
fn text_of(property: &str) -> String {
    let bytes = property.strip_prefix(HEX).and_then(|digits| {
        let digit = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        (0..digits.len()).step_by(2).map(digit).collect()
    });
    bytes.map_or_else(
        || property.to_owned(),
        |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

/// A placeholder and the part of a topic in which it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    placeholder: String,
    /// By partition, the first offset after it; none is no end.
    before: Option<Vec<i64>>,
}

impl Known {
    fn holds_at(&self, partition: i32, offset: i64) -> bool {
        let Some(before) = &self.before else {
            return true;
        };
        let end = usize::try_from(partition)
            .ok()
            .and_then(|at| before.get(at));
        end.is_some_and(|end| offset < *end)
    }
}

/// What is known of the placeholders of one topic, shared by its decoders.
#[derive(Debug, Clone)]
pub struct Unavailable(Arc<RwLock<Vec<Known>>>);

impl Default for Unavailable {
    /// A connector that fanout did not configure has Debezium's own.
    fn default() -> Self {
        Self(Arc::new(RwLock::new(vec![Known {
            placeholder: DEBEZIUMS_OWN.to_owned(),
            before: None,
        }])))
    }
}

impl Unavailable {
    /// From now on these are the placeholders.
    pub fn replace(&self, known: Vec<Known>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Whether this text, in a record at this place, is a placeholder.
    #[must_use]
    pub fn includes(&self, text: &str, partition: i32, offset: i64) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .any(|one| one.placeholder == text && one.holds_at(partition, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "cdc.public.engagement_events";
    const ID: Uuid = Uuid::from_u128(7);

    fn switched() -> Placeholders {
        let mut placeholders = Placeholders::new("mine".to_owned());
        let until = Until {
            topic_id: ID,
            offsets: vec![5, 0],
        };
        let until = BTreeMap::from([(TOPIC.to_owned(), until)]);
        placeholders.add_earlier(DEBEZIUMS_OWN, Some(until));
        placeholders
    }

    fn unavailable(placeholders: &Placeholders, topic: &str, id: Uuid) -> Unavailable {
        let unavailable = Unavailable::default();
        unavailable.replace(placeholders.known_in(topic, id));
        unavailable
    }

    #[test]
    fn an_earlier_placeholder_ends_where_its_records_do() {
        let placeholders = switched();
        let here = unavailable(&placeholders, TOPIC, ID);
        assert!(here.includes(DEBEZIUMS_OWN, 0, 4));
        assert!(!here.includes(DEBEZIUMS_OWN, 0, 5));
        assert!(!here.includes(DEBEZIUMS_OWN, 1, 0), "it had no record then");
        assert!(!here.includes(DEBEZIUMS_OWN, 2, 0), "an added partition");
        for (partition, offset) in [(0, 0), (0, 9), (2, 0)] {
            assert!(here.includes("mine", partition, offset));
        }
        let recreated = unavailable(&placeholders, TOPIC, Uuid::from_u128(8));
        assert!(!recreated.includes(DEBEZIUMS_OWN, 0, 4));
        let other = unavailable(&placeholders, "cdc.public.content", ID);
        assert!(!other.includes(DEBEZIUMS_OWN, 0, 4));
    }

    #[test]
    fn as_long_as_a_switch_is_not_done_both_are_placeholders() {
        let mut placeholders = Placeholders::new("mine".to_owned());
        placeholders.add_earlier(DEBEZIUMS_OWN, None);
        let here = unavailable(&placeholders, TOPIC, ID);
        assert!(here.includes(DEBEZIUMS_OWN, 2, 900) && here.includes("mine", 2, 900));
    }

    #[test]
    fn without_a_document_debeziums_own_is_the_one() {
        let here = Unavailable::default();
        assert!(here.includes(DEBEZIUMS_OWN, 0, 0) && !here.includes("mine", 0, 0));
    }

    #[test]
    fn the_document_keeps_its_form() {
        let text = concat!(
            r#"{"format":1,"placeholder":"mine","switching":false,"earlier":[{"placeholder":"#,
            r#""__debezium_unavailable_value","until":{"cdc.public.engagement_events":"#,
            r#"{"topic_id":"00000000-0000-0000-0000-000000000007","offsets":[5,0]}}}]}"#
        );
        assert_eq!(String::from_utf8(switched().bytes()).as_deref(), Ok(text));
        assert_eq!(Placeholders::read(text.as_bytes()).ok(), Some(switched()));
    }

    #[test]
    fn a_document_of_another_format_is_not_guessed_at() {
        let read = |text: &str| Placeholders::read(text.as_bytes());
        let newer = read(r#"{"format":2,"placeholders":[]}"#);
        assert!(matches!(newer, Err(InvalidPlaceholders::Format(2))));
        assert!(matches!(
            read("text"),
            Err(InvalidPlaceholders::Document(_))
        ));
    }

    #[test]
    fn a_chosen_placeholder_is_known_as_one() {
        let chosen = Placeholders::choose(Uuid::from_u128(0xfeed));
        assert!(chosen.contains(MARK) && DEBEZIUMS_OWN.contains(MARK));
        assert!(Placeholders::is_chosen(&chosen));
        for other in [DEBEZIUMS_OWN, PREFIX, "", "hex:41"] {
            assert!(!Placeholders::is_chosen(other), "{other}");
        }
    }

    #[test]
    fn a_property_in_hexadecimal_is_the_text_of_its_bytes() {
        let mut placeholders = Placeholders::new("mine".to_owned());
        for (property, text) in [("hex:4142", "AB"), ("hex:4", "hex:4"), ("hex", "hex")] {
            placeholders.add_earlier(property, None);
            placeholders.add_earlier(property, None);
            let last = placeholders.earlier.pop().expect("it was added");
            assert_eq!(
                (last.placeholder.as_str(), placeholders.earlier.len()),
                (text, 0)
            );
        }
    }
}
