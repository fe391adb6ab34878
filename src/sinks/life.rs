//! Which life of a topic a commit is of. Offsets begin anew with a recreated
//! topic; a commit that was made, or arrives, while it is made anew may be of
//! the life before.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clients::kafka::TopicIdentity;

/// Format of the commits' metadata.
const FORMAT: u16 = 1;

/// What a commit says besides its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicLife {
    /// Format: 1.
    f: u16,
    /// The topic's id.
    t: Uuid,
}

impl TopicLife {
    fn new(topic: Uuid) -> Self {
        Self {
            f: FORMAT,
            t: topic,
        }
    }

    /// Whether a commit that says this is of the same life, as far as it says.
    #[must_use]
    pub fn allows(self, text: &str) -> bool {
        text.is_empty() || serde_json::from_str::<Self>(text).is_ok_and(|other| other == self)
    }

    /// The offsets of commits, by partition; none for one of another life.
    #[must_use]
    pub fn offsets(self, commits: Vec<Option<(i64, String)>>) -> Vec<Option<i64>> {
        let offset = |commit: Option<(i64, String)>| {
            let (offset, _) = commit.filter(|(_, said)| self.allows(said))?;
            Some(offset)
        };
        commits.into_iter().map(offset).collect()
    }

    /// As metadata.
    #[must_use]
    pub fn text(self) -> String {
        // A number and a UUID always serialise.
        serde_json::to_string(&self).unwrap_or_default()
    }
}

impl From<TopicIdentity> for TopicLife {
    fn from(identity: TopicIdentity) -> Self {
        Self::new(identity.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_commit_keeps_its_form() {
        let life = TopicLife::new(Uuid::from_u128(7));
        let text = r#"{"f":1,"t":"00000000-0000-0000-0000-000000000007"}"#;
        assert_eq!(life.text(), text);
        assert!(life.allows(text));
    }

    #[test]
    fn a_commit_of_another_life_of_the_topic_does_not_count() {
        let life = TopicLife::new(Uuid::from_u128(7));
        let other = TopicLife::new(Uuid::from_u128(8)).text();
        assert!(!life.allows(&other));
        assert!(!life.allows(r#"{"f":2,"t":"00000000-0000-0000-0000-000000000007"}"#));
        assert!(life.allows(""), "made before commits said so");
        let commits = vec![Some((5, other)), Some((5, life.text())), None];
        assert_eq!(life.offsets(commits), [None, Some(5), None]);
    }
}
