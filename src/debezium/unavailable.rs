//! Placeholders for unavailable values: texts that a connector writes in place of an unchanged
//! value that Postgres stores out of line.
//!
//! A text that a user stores must not be mistaken for a placeholder. Each project therefore has
//! a random placeholder. Records that the connector wrote under an earlier placeholder are
//! recognised by their offsets. The caller stores the document that describes both.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Placeholder of a connector that is configured without one.
pub const DEBEZIUM_DEFAULT: &str = "__debezium_unavailable_value";

/// Part that Debezium's placeholder and all of fanout's placeholders contain.
pub const MARK: &str = "_unavailable_value";

/// Key of the document in the state topic.
pub const STATE_KEY: &str = "unavailable-value";

/// Format of the document.
const FORMAT: u16 = 1;

/// Prefix of the placeholders that fanout chooses.
const PREFIX: &str = "__fanout_unavailable_value_";

/// Prefix of a property that holds the placeholder's bytes in hexadecimal.
const HEX: &str = "hex:";

/// Placeholders of a project, as stored in the state topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placeholders {
    format: u16,
    /// Placeholder that the connector is configured with.
    pub placeholder: String,
    /// Whether the connector was stopped to change the placeholder and must be resumed.
    pub switching: bool,
    /// Placeholders that the connector was configured with before.
    pub earlier: Vec<EarlierPlaceholder>,
}

/// A placeholder that is no longer in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierPlaceholder {
    pub placeholder: String,
    /// End of its records by topic. `None` while more of them may arrive.
    pub until: Option<BTreeMap<String, TopicEnd>>,
}

/// End of the records under an earlier placeholder in one topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicEnd {
    /// Id of the topic. A topic that was recreated later has no such records.
    pub topic_id: Uuid,
    /// One past the last offset, by partition. A partition that was added later has no such
    /// records.
    pub offsets: Vec<i64>,
}

/// Error while reading a stored document.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPlaceholders {
    #[error("unsupported format {0}, expected {FORMAT}")]
    Format(u16),
    #[error("not a placeholder document")]
    Document(#[from] serde_json::Error),
}

impl Placeholders {
    /// Placeholders of a project whose connector never had another one.
    #[must_use]
    pub fn new(placeholder: String) -> Self {
        Self {
            format: FORMAT,
            placeholder,
            switching: false,
            earlier: Vec::new(),
        }
    }

    /// Returns a placeholder that contains this random number.
    #[must_use]
    pub fn choose(random: Uuid) -> String {
        format!("{PREFIX}{}", random.simple())
    }

    /// Returns true if [`Self::choose`] created the placeholder.
    #[must_use]
    pub fn is_chosen(placeholder: &str) -> bool {
        let number = placeholder.strip_prefix(PREFIX);
        number.is_some_and(|number| Uuid::try_parse(number).is_ok())
    }

    /// Parses a stored document.
    ///
    /// # Errors
    /// If the document is malformed or has another format.
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

    /// Returns the document to store.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // Texts and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Records an earlier placeholder and the end of its records in the log. `None` means that
    /// more of them may arrive.
    pub fn add_earlier(&mut self, property: &str, until: Option<BTreeMap<String, TopicEnd>>) {
        let placeholder = placeholder_text(property);
        self.earlier
            .retain(|earlier| earlier.placeholder != placeholder);
        self.earlier.push(EarlierPlaceholder { placeholder, until });
    }

    /// Returns the placeholders that are valid in this topic.
    #[must_use]
    pub fn known_in(&self, topic: &str, topic_id: Uuid) -> Vec<Known> {
        let earlier = self.earlier.iter().filter_map(|earlier| {
            let before = match &earlier.until {
                None => None,
                Some(until) => {
                    let until = until.get(topic)?;
                    Some((until.topic_id == topic_id).then(|| until.offsets.clone())?)
                }
            };
            Some(Known {
                placeholder: earlier.placeholder.clone(),
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

/// Returns the text that a connector writes if it is configured with this property.
fn placeholder_text(property: &str) -> String {
    let bytes = property.strip_prefix(HEX).and_then(|digits| {
        let digit = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        (0..digits.len()).step_by(2).map(digit).collect()
    });
    bytes.map_or_else(
        || property.to_owned(),
        |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

/// A placeholder and the part of a topic in which it is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    placeholder: String,
    /// End offset by partition. `None` means that there is no end.
    before: Option<Vec<i64>>,
}

impl Known {
    fn is_valid_at(&self, partition: i32, offset: i64) -> bool {
        let Some(before) = &self.before else {
            return true;
        };
        let end = usize::try_from(partition)
            .ok()
            .and_then(|index| before.get(index));
        end.is_some_and(|end| offset < *end)
    }
}

/// Known placeholders of one topic, shared by its decoders.
#[derive(Debug, Clone)]
pub struct Unavailable(Arc<RwLock<Vec<Known>>>);

impl Default for Unavailable {
    /// Returns Debezium's placeholder, which a connector has unless fanout configured it.
    fn default() -> Self {
        Self(Arc::new(RwLock::new(vec![Known {
            placeholder: DEBEZIUM_DEFAULT.to_owned(),
            before: None,
        }])))
    }
}

impl Unavailable {
    /// Replaces the known placeholders.
    pub fn replace(&self, known: Vec<Known>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Returns true if this text is a placeholder in a record with this offset.
    #[must_use]
    pub fn includes(&self, text: &str, partition: i32, offset: i64) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .any(|known| known.placeholder == text && known.is_valid_at(partition, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "cdc.public.engagement_events";
    const ID: Uuid = Uuid::from_u128(7);

    fn switched() -> Placeholders {
        let mut placeholders = Placeholders::new("mine".to_owned());
        let until = TopicEnd {
            topic_id: ID,
            offsets: vec![5, 0],
        };
        let until = BTreeMap::from([(TOPIC.to_owned(), until)]);
        placeholders.add_earlier(DEBEZIUM_DEFAULT, Some(until));
        placeholders
    }

    fn unavailable(placeholders: &Placeholders, topic: &str, id: Uuid) -> Unavailable {
        let unavailable = Unavailable::default();
        unavailable.replace(placeholders.known_in(topic, id));
        unavailable
    }

    #[test]
    fn an_earlier_placeholder_is_valid_only_up_to_the_end_of_its_records() {
        let placeholders = switched();
        let here = unavailable(&placeholders, TOPIC, ID);
        assert!(here.includes(DEBEZIUM_DEFAULT, 0, 4));
        assert!(!here.includes(DEBEZIUM_DEFAULT, 0, 5));
        assert!(
            !here.includes(DEBEZIUM_DEFAULT, 1, 0),
            "the partition was empty"
        );
        assert!(!here.includes(DEBEZIUM_DEFAULT, 2, 0), "an added partition");
        for (partition, offset) in [(0, 0), (0, 9), (2, 0)] {
            assert!(here.includes("mine", partition, offset));
        }
        let recreated = unavailable(&placeholders, TOPIC, Uuid::from_u128(8));
        assert!(!recreated.includes(DEBEZIUM_DEFAULT, 0, 4));
        let other = unavailable(&placeholders, "cdc.public.content", ID);
        assert!(!other.includes(DEBEZIUM_DEFAULT, 0, 4));
    }

    #[test]
    fn during_a_switch_both_placeholders_are_valid() {
        let mut placeholders = Placeholders::new("mine".to_owned());
        placeholders.add_earlier(DEBEZIUM_DEFAULT, None);
        let here = unavailable(&placeholders, TOPIC, ID);
        assert!(here.includes(DEBEZIUM_DEFAULT, 2, 900) && here.includes("mine", 2, 900));
    }

    #[test]
    fn without_a_document_only_debeziums_placeholder_is_valid() {
        let here = Unavailable::default();
        assert!(here.includes(DEBEZIUM_DEFAULT, 0, 0) && !here.includes("mine", 0, 0));
    }

    #[test]
    fn the_document_format_is_stable() {
        let text = concat!(
            r#"{"format":1,"placeholder":"mine","switching":false,"earlier":[{"placeholder":"#,
            r#""__debezium_unavailable_value","until":{"cdc.public.engagement_events":"#,
            r#"{"topic_id":"00000000-0000-0000-0000-000000000007","offsets":[5,0]}}}]}"#
        );
        assert_eq!(String::from_utf8(switched().bytes()).as_deref(), Ok(text));
        assert_eq!(Placeholders::read(text.as_bytes()).ok(), Some(switched()));
    }

    #[test]
    fn a_document_with_another_format_is_refused() {
        let read = |text: &str| Placeholders::read(text.as_bytes());
        let newer = read(r#"{"format":2,"placeholders":[]}"#);
        assert!(matches!(newer, Err(InvalidPlaceholders::Format(2))));
        assert!(matches!(
            read("text"),
            Err(InvalidPlaceholders::Document(_))
        ));
    }

    #[test]
    fn a_chosen_placeholder_is_recognised() {
        let chosen = Placeholders::choose(Uuid::from_u128(0xfeed));
        assert!(chosen.contains(MARK) && DEBEZIUM_DEFAULT.contains(MARK));
        assert!(Placeholders::is_chosen(&chosen));
        for other in [DEBEZIUM_DEFAULT, PREFIX, "", "hex:41"] {
            assert!(!Placeholders::is_chosen(other), "{other}");
        }
    }

    #[test]
    fn a_hexadecimal_property_is_decoded_to_text() {
        let mut placeholders = Placeholders::new("mine".to_owned());
        for (property, text) in [("hex:4142", "AB"), ("hex:4", "hex:4"), ("hex", "hex")] {
            placeholders.add_earlier(property, None);
            placeholders.add_earlier(property, None);
            let last = placeholders
                .earlier
                .pop()
                .expect("the placeholder was added");
            assert_eq!(
                (last.placeholder.as_str(), placeholders.earlier.len()),
                (text, 0)
            );
        }
    }
}
