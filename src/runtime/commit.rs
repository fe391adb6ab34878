//! What a commit says besides its offset, as JSON in its metadata: that fanout
//! made it, which offset it is for, and of which incarnation of the topic.
//!
//! Other tools can move a group's offsets. They write no metadata, or leave the
//! metadata of another offset where it was; so an offset that its metadata does
//! not name was not committed by fanout. Format 1 did not name the offset and is
//! accepted as it is: a group is moved to format 2 by its first new commit.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::fault::Halt;
use crate::kafka::{Bounds, TopicIdentity};

/// Format of the metadata.
pub const FORMAT: u16 = 2;

/// What a group has committed of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed<'a> {
    /// Nothing yet.
    Never,
    /// Nothing any more: it had committed, and the broker no longer knows.
    Lost,
    /// An offset that fanout did not commit.
    Foreign { offset: i64 },
    /// The same, at the very offset that fanout committed last: a tool that sets
    /// a group to where it is does no harm.
    Same { offset: i64 },
    /// What fanout committed last.
    Ours { offset: i64, metadata: &'a str },
}

/// What is noted of a group's commits, apart from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It has committed; how far, only its commits tell.
    Begun,
    /// Its reader ended in good order, and this was its last commit.
    EndedAt(i64),
}

impl<'a> Committed<'a> {
    /// Judges a commit as the broker returns it, by what is noted of the group
    /// in this incarnation of the topic.
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

    /// Why the position cannot be trusted; none where it can, or there is none.
    #[must_use]
    pub fn trouble(self) -> Option<Break> {
        match self {
            Self::Never | Self::Ours { .. } | Self::Same { .. } => None,
            Self::Lost => Some(Break::Lost),
            Self::Foreign { offset } => Some(Break::Moved { offset }),
        }
    }
}

/// What every format has.
#[derive(Deserialize)]
struct Stamp {
    /// Format.
    f: u16,
    /// The offset that it is for; since format 2.
    o: Option<i64>,
}

/// Whether fanout committed this offset.
#[must_use]
pub fn is_ours(offset: i64, metadata: &str) -> bool {
    match serde_json::from_str(metadata) {
        Ok(Stamp { f: 1, .. }) => true,
        Ok(Stamp { f: FORMAT, o }) => o == Some(offset),
        _ => false,
    }
}

/// Why reading cannot simply go on where a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Something else than fanout committed this offset.
    Moved { offset: i64 },
    /// The group's offset expired or was deleted.
    Lost,
    /// The log begins after the offset that is next.
    Gone { next: i64 },
    /// The log ends before the offset that is next: its end was lost.
    Short { next: i64 },
}

/// A partition as it is now, and the group that reads it.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub partition: i32,
    pub bounds: Bounds,
}

impl Reading<'_> {
    /// Whether reading can go on at `next`.
    pub fn check(&self, next: i64) -> Result<i64, Break> {
        if next < self.bounds.start {
            return Err(Break::Gone { next });
        }
        if next > self.bounds.end {
            return Err(Break::Short { next });
        }
        Ok(next)
    }

    /// The break as an operator is told of it. `effect` completes "so …".
    #[must_use]
    pub fn halt(&self, broken: Break, effect: &str, remedy: &str) -> Halt {
        let Self {
            group,
            topic,
            partition,
            bounds: Bounds { start, end },
        } = self;
        let place = format!("partition {partition} of {topic}");
        let (code, reason) = match broken {
            Break::Moved { offset } => (
                "offsets_moved",
                format!(
                    "{place}: group {group} is at offset {offset}, which fanout did not commit"
                ),
            ),
            Break::Lost => (
                "offsets_lost",
                format!("{place}: the offset of group {group} has expired or was deleted"),
            ),
            Break::Gone { next } => (
                "retention_passed",
                format!(
                    "{place} begins at offset {start} and group {group} continues at {next}: the \
                     records between were deleted before they were read"
                ),
            ),
            Break::Short { next } => (
                "log_shortened",
                format!(
                    "{place} ends at offset {end} and group {group} continues at {next}: the log \
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

/// Of which incarnation of a topic a commit is. Offsets begin at 0 again in a
/// recreated topic; a commit that was made, or arrives, while it is recreated
/// may be of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicLife {
    topic: Uuid,
}

/// The metadata of the board's and the HTTP sink's commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Text {
    /// Format.
    f: u16,
    /// The topic's id.
    t: Uuid,
    /// The offset that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<i64>,
    /// When the latest record before it was appended, in milliseconds since the
    /// epoch, as far as that is known and matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<i64>,
}

impl TopicLife {
    /// The topic's id.
    #[must_use]
    pub fn topic(self) -> Uuid {
        self.topic
    }

    /// The incarnation that metadata names.
    #[must_use]
    pub fn read(metadata: &str) -> Option<Self> {
        let text: Text = serde_json::from_str(metadata).ok()?;
        Some(Self { topic: text.t })
    }

    /// Whether metadata names this incarnation, whatever offset it is for.
    #[must_use]
    pub fn is_of(self, metadata: &str) -> bool {
        Self::read(metadata) == Some(self)
    }

    /// When the latest record before a commit was appended, where it says.
    #[must_use]
    pub fn appended_ms(metadata: &str) -> Option<i64> {
        serde_json::from_str::<Text>(metadata).ok()?.a
    }

    /// Whether fanout committed this offset, in this incarnation.
    #[must_use]
    pub fn committed(self, offset: i64, metadata: &str) -> bool {
        is_ours(offset, metadata) && self.is_of(metadata)
    }

    /// The offsets that fanout committed in this incarnation, by partition.
    #[must_use]
    pub fn offsets(self, commits: &[Option<(i64, String)>]) -> Vec<Option<i64>> {
        let own = |commit: &Option<(i64, String)>| {
            let (offset, metadata) = commit.as_ref()?;
            self.committed(*offset, metadata).then_some(*offset)
        };
        commits.iter().map(own).collect()
    }

    /// The metadata of a commit of `next`.
    #[must_use]
    pub fn text(self, next: i64, appended_ms: Option<i64>) -> String {
        let text = Text {
            f: FORMAT,
            t: self.topic,
            o: Some(next),
            a: appended_ms,
        };
        // Numbers and a UUID always serialise.
        serde_json::to_string(&text).unwrap_or_default()
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

    fn life(topic: u128) -> TopicLife {
        TopicLife {
            topic: Uuid::from_u128(topic),
        }
    }

    #[test]
    fn the_metadata_of_a_commit_keeps_its_form() {
        let text = format!(r#"{{"f":2,"t":"{ID}","o":5}}"#);
        assert_eq!(life(7).text(5, None), text);
        let timed = format!(r#"{{"f":2,"t":"{ID}","o":5,"a":1700}}"#);
        assert_eq!(life(7).text(5, Some(1700)), timed);
        assert_eq!(TopicLife::appended_ms(&timed), Some(1700));
        assert!(life(7).committed(5, &text) && life(7).committed(5, &timed));
    }

    #[test]
    fn what_the_first_format_says_is_still_fanouts() {
        let http = format!(r#"{{"f":1,"t":"{ID}"}}"#);
        assert!(life(7).committed(5, &http) && life(7).committed(6, &http));
        assert!(!life(8).committed(5, &http));
        assert!(is_ours(5, r#"{"f":1,"g":2,"c":[7,9]}"#));
    }

    #[test]
    fn a_commit_of_another_incarnation_of_the_topic_does_not_count() {
        let other = life(8).text(5, None);
        assert!(is_ours(5, &other) && !life(7).committed(5, &other));
    }

    #[test]
    fn what_other_tools_commit_is_foreign() {
        let kept = life(7).text(5, None);
        for (offset, metadata) in [
            (5, ""),
            (0, ""),
            (6, kept.as_str()),
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
    fn a_break_names_the_group_the_place_and_the_effect() {
        let reading = Reading {
            group: "fanout-http",
            topic: "t",
            partition: 1,
            bounds: Bounds { start: 4, end: 9 },
        };
        let halt = reading.halt(Break::Moved { offset: 9 }, "it waits", "mend it");
        assert_eq!(halt.code, "offsets_moved");
        assert_eq!(
            halt.reason,
            "partition 1 of t: group fanout-http is at offset 9, which fanout did not commit, so \
             it waits"
        );
    }

    proptest! {
        #[test]
        fn only_the_offset_that_is_named_is_ours(next in 0..i64::MAX, other in 0..i64::MAX) {
            let text = life(7).text(next, None);
            prop_assert!(is_ours(next, &text));
            prop_assert_eq!(is_ours(other, &text), other == next);
        }

        #[test]
        fn reading_goes_on_only_within_the_log(
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
