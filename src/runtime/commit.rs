//! The metadata of a commit: JSON that identifies fanout, the offset, and the
//! incarnation of the topic.
//!
//! Other tools can change a group's offsets. They write no metadata, or keep the
//! metadata of another offset. An offset that differs from the one in its metadata
//! was therefore not committed by fanout. Format 1 had no offset and is accepted for
//! any offset; the first new commit of a group has format 2.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fault::Halt;
use crate::kafka::{Bounds, TopicIdentity};

/// Format of the metadata.
pub const FORMAT: u16 = 2;

/// Commit of a group for a partition, compared with the recorded state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed<'a> {
    /// The group has never committed.
    Never,
    /// The group had committed, but the broker no longer has the offset.
    Lost,
    /// An offset that was not committed by fanout.
    Foreign { offset: i64 },
    /// An offset that was not committed by fanout but equals fanout's last commit. A
    /// tool that sets a group to its current offset does no harm.
    Same { offset: i64 },
    /// An offset that was committed by fanout.
    Ours { offset: i64, metadata: &'a str },
}

/// Recorded state of a group's commits, stored separately from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// The group has committed. Only the commit itself has the offset.
    Begun,
    /// The reader shut down cleanly after committing this offset.
    EndedAt(i64),
}

impl<'a> Committed<'a> {
    /// Classifies a commit as returned by the broker. `noted` is the recorded state of
    /// the group in the current incarnation of the topic.
    #[must_use]
    pub fn of(commit: Option<(i64, &'a str)>, noted: Option<Noted>) -> Self {
        match commit {
            Some((offset, metadata)) if is_ours(offset, metadata) => {
                Self::Ours { offset, metadata }
            }
            Some((offset, _)) if noted == Some(Noted::EndedAt(offset)) => Self::Same { offset },
            Some((offset, _)) => Self::Foreign { offset },
            None if noted.is_some() => Self::Lost,
            None => Self::Never,
        }
    }

    /// Returns why the offset cannot be trusted. `None` if it can, or if there is none.
    #[must_use]
    pub fn trouble(self) -> Option<Break> {
        match self {
            Self::Never | Self::Ours { .. } | Self::Same { .. } => None,
            Self::Lost => Some(Break::Lost),
            Self::Foreign { offset } => Some(Break::Moved { offset }),
        }
    }
}

/// The fields that are common to all formats.
#[derive(Deserialize)]
struct Stamp {
    /// Format.
    f: u16,
    /// The committed offset, since format 2.
    o: Option<i64>,
}

/// Returns true if fanout committed this offset.
#[must_use]
pub fn is_ours(offset: i64, metadata: &str) -> bool {
    match serde_json::from_str(metadata) {
        Ok(Stamp { f: 1, .. }) => true,
        Ok(Stamp { f: FORMAT, o }) => o == Some(offset),
        _ => false,
    }
}

/// Reason why reading cannot simply resume at the offset of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Another tool committed this offset.
    Moved { offset: i64 },
    /// The group's offset expired or was deleted.
    Lost,
    /// The log starts after the next offset.
    Gone { next: i64 },
    /// The log ends before the next offset: its end was lost.
    Short { next: i64 },
}

/// A partition with its current bounds, and the group that reads it.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub partition: i32,
    pub bounds: Bounds,
}

impl Reading<'_> {
    /// Checks that reading can resume at `next`.
    pub fn check(&self, next: i64) -> Result<i64, Break> {
        if next < self.bounds.start {
            return Err(Break::Gone { next });
        }
        if next > self.bounds.end {
            return Err(Break::Short { next });
        }
        Ok(next)
    }

    /// Returns the halt for an offset problem. `effect` completes the sentence
    /// "…, so …".
    #[must_use]
    pub fn halt(&self, broken: Break, effect: &str, remedy: &str) -> Halt {
        let Self {
            group,
            topic,
            partition,
            bounds: Bounds { start, end },
        } = self;
        let subject = format!("partition {partition} of {topic}");
        let (code, reason) = match broken {
            Break::Moved { offset } => (
                "offsets_moved",
                format!(
                    "{subject}: group {group} is at offset {offset}, which fanout did not commit"
                ),
            ),
            Break::Lost => (
                "offsets_lost",
                format!("{subject}: the offset of group {group} has expired or was deleted"),
            ),
            Break::Gone { next } => (
                "retention_passed",
                format!(
                    "{subject} starts at offset {start} and group {group} continues at {next}: the \
                     records between were deleted before they were read"
                ),
            ),
            Break::Short { next } => (
                "log_shortened",
                format!(
                    "{subject} ends at offset {end} and group {group} continues at {next}: the log \
                     has lost its end"
                ),
            ),
        };
        Halt {
            code: code.to_owned(),
            reason: format!("{reason}, so {effect}"),
            remedy: remedy.to_owned(),
        }
    }
}

/// The incarnation of a topic that a commit belongs to. Offsets restart at 0 in a
/// recreated topic. A commit that is made or arrives while the topic is being
/// recreated may belong to the previous incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicLife {
    topic: Uuid,
}

/// Metadata of a commit of the board or of the HTTP sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Metadata {
    /// Format.
    f: u16,
    /// The topic's id.
    t: Uuid,
    /// The committed offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<i64>,
    /// Append time of the latest record before the offset, in milliseconds since the
    /// epoch, if known and relevant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<i64>,
}

impl TopicLife {
    /// Returns the topic's id.
    #[must_use]
    pub fn topic(self) -> Uuid {
        self.topic
    }

    /// Returns the incarnation in the metadata of a commit.
    #[must_use]
    pub fn read(metadata: &str) -> Option<Self> {
        let metadata: Metadata = serde_json::from_str(metadata).ok()?;
        Some(Self { topic: metadata.t })
    }

    /// Returns true if the metadata belongs to this incarnation, whatever its offset.
    #[must_use]
    pub fn is_of(self, metadata: &str) -> bool {
        Self::read(metadata) == Some(self)
    }

    /// Returns the append time of the latest record before a commit, if the metadata
    /// has it.
    #[must_use]
    pub fn appended_ms(metadata: &str) -> Option<i64> {
        serde_json::from_str::<Metadata>(metadata).ok()?.a
    }

    /// Returns true if fanout committed this offset in this incarnation.
    #[must_use]
    pub fn committed(self, offset: i64, metadata: &str) -> bool {
        is_ours(offset, metadata) && self.is_of(metadata)
    }

    /// Returns the offsets that fanout committed in this incarnation, indexed by
    /// partition.
    #[must_use]
    pub fn offsets(self, commits: &[Option<(i64, String)>]) -> Vec<Option<i64>> {
        let own_offset = |commit: &Option<(i64, String)>| {
            let (offset, metadata) = commit.as_ref()?;
            self.committed(*offset, metadata).then_some(*offset)
        };
        commits.iter().map(own_offset).collect()
    }

    /// Returns the metadata for a commit of `next`.
    #[must_use]
    pub fn text(self, next: i64, appended_ms: Option<i64>) -> String {
        let metadata = Metadata {
            f: FORMAT,
            t: self.topic,
            o: Some(next),
            a: appended_ms,
        };
        // Numbers and a UUID always serialise.
        serde_json::to_string(&metadata).unwrap_or_default()
    }
}

impl From<TopicIdentity> for TopicLife {
    fn from(identity: TopicIdentity) -> Self {
        Self { topic: identity.id }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "00000000-0000-0000-0000-000000000007";

    fn incarnation(topic: u128) -> TopicLife {
        TopicLife {
            topic: Uuid::from_u128(topic),
        }
    }

    #[test]
    fn the_format_of_the_metadata_is_stable() {
        let text = format!(r#"{{"f":2,"t":"{ID}","o":5}}"#);
        assert_eq!(incarnation(7).text(5, None), text);
        let timed = format!(r#"{{"f":2,"t":"{ID}","o":5,"a":1700}}"#);
        assert_eq!(incarnation(7).text(5, Some(1700)), timed);
        assert_eq!(TopicLife::appended_ms(&timed), Some(1700));
        assert!(incarnation(7).committed(5, &text) && incarnation(7).committed(5, &timed));
    }

    #[test]
    fn metadata_of_the_first_format_is_still_accepted() {
        let http = format!(r#"{{"f":1,"t":"{ID}"}}"#);
        assert!(incarnation(7).committed(5, &http) && incarnation(7).committed(6, &http));
        assert!(!incarnation(8).committed(5, &http));
        assert!(is_ours(5, r#"{"f":1,"g":2,"c":[7,9]}"#));
    }

    #[test]
    fn a_commit_of_another_incarnation_is_ignored() {
        let other = incarnation(8).text(5, None);
        assert!(is_ours(5, &other) && !incarnation(7).committed(5, &other));
    }

    #[test]
    fn commits_of_other_tools_are_foreign() {
        let stale = incarnation(7).text(5, None);
        for (offset, metadata) in [
            (5, ""),
            (0, ""),
            (6, stale.as_str()),
            (5, "{}"),
            (5, r#"{"f":3,"o":5}"#),
            (5, "committed by hand"),
        ] {
            for noted in [None, Some(Noted::Begun), Some(Noted::EndedAt(4))] {
                let found = Committed::of(Some((offset, metadata)), noted);
                assert_eq!(found, Committed::Foreign { offset }, "{metadata}");
            }
            let noted = Some(Noted::EndedAt(offset));
            let found = Committed::of(Some((offset, metadata)), noted);
            assert_eq!(found, Committed::Same { offset }, "{metadata}");
        }
        for noted in [Noted::Begun, Noted::EndedAt(4)] {
            assert_eq!(Committed::of(None, Some(noted)), Committed::Lost);
        }
        assert_eq!(Committed::of(None, None), Committed::Never);
    }

    #[test]
    fn the_halt_has_the_group_the_partition_and_the_effect() {
        let reading = Reading {
            group: "fanout-http",
            topic: "t",
            partition: 1,
            bounds: Bounds { start: 4, end: 9 },
        };
        let halt = reading.halt(Break::Moved { offset: 9 }, "the sink waits", "fix it");
        assert_eq!(halt.code, "offsets_moved");
        assert_eq!(
            halt.reason,
            "partition 1 of t: group fanout-http is at offset 9, which fanout did not commit, so \
             the sink waits"
        );
    }

    proptest! {
        #[test]
        fn metadata_is_only_valid_for_its_own_offset(next in 0..i64::MAX, other in 0..i64::MAX) {
            let text = incarnation(7).text(next, None);
            prop_assert!(is_ours(next, &text));
            prop_assert_eq!(is_ours(other, &text), other == next);
        }

        #[test]
        fn reading_resumes_only_within_the_log(
            start in 0..50_i64, length in 0..50_i64, next in 0..120_i64,
        ) {
            let bounds = Bounds { start, end: start + length };
            let reading = Reading { group: "g", topic: "t", partition: 0, bounds };
            let expected = if next < start {
                Err(Break::Gone { next })
            } else if next > bounds.end {
                Err(Break::Short { next })
            } else {
                Ok(next)
            };
            prop_assert_eq!(reading.check(next), expected);
        }
    }
}
