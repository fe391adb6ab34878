//! A project is one stack under one name. Everything that outlives a run and
//! could collide with another project's derives its name here.

use std::{fmt, str::FromStr};

use crate::sink_kind::ConsumerGroup;

/// The default project, whose derived names are the documented ones.
pub const DEFAULT: &str = "fanout";

/// The longest name: Postgres allows 63 bytes for a slot, and the longest
/// derived one has 9 more.
const MAX_LENGTH: usize = 40;

/// A valid project name: `[a-z][a-z0-9-]*`, at most 40 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Project(String);

/// Why a text is no project name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no project name: it takes 1 to 40 of a-z, 0-9 and `-`, beginning with a letter")]
pub struct InvalidProject(String);

impl FromStr for Project {
    type Err = InvalidProject;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = text.bytes();
        let starts_well = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
        let goes_on_well =
            bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if starts_well && goes_on_well && text.len() <= MAX_LENGTH {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidProject(text.to_owned()))
        }
    }
}

impl Default for Project {
    fn default() -> Self {
        Self(DEFAULT.to_owned())
    }
}

impl fmt::Display for Project {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Project {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether its names are the documented ones.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT
    }

    /// `plain` for the default project, `plain` + `separator` + name for others.
    fn suffixed(&self, plain: &str, separator: char) -> String {
        if self.is_default() {
            plain.to_owned()
        } else {
            format!("{plain}{separator}{}", self.0)
        }
    }

    /// Like [`Self::suffixed`], for names where only `_` may join words.
    fn identifier(&self, plain: &str) -> String {
        self.suffixed(plain, '_').replace('-', "_")
    }

    /// Prefix of the connector's topics: `cdc`.
    #[must_use]
    pub fn topic_prefix(&self) -> String {
        self.suffixed("cdc", '-')
    }

    /// Name of the connector: `pg-engagement-cdc`.
    #[must_use]
    pub fn connector(&self) -> String {
        self.suffixed("pg-engagement-cdc", '-')
    }

    /// Replication slot: `dbz_slot`.
    #[must_use]
    pub fn slot(&self) -> String {
        self.identifier("dbz_slot")
    }

    /// Publication: `dbz_pub`.
    #[must_use]
    pub fn publication(&self) -> String {
        self.identifier("dbz_pub")
    }

    /// ClickHouse database: `analytics`.
    #[must_use]
    pub fn clickhouse_database(&self) -> String {
        self.identifier("analytics")
    }

    /// Redis key of the board: `top10m`.
    #[must_use]
    pub fn board_key(&self) -> String {
        self.suffixed("top10m", ':')
    }

    /// Id of a consumer group: `fanout-clickhouse`.
    #[must_use]
    pub fn group(&self, group: ConsumerGroup) -> String {
        group.id(&self.0)
    }

    /// Topic of dead letters: `fanout.dlq`.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.0)
    }

    /// Compacted topic of what every worker has to know: `fanout.state`.
    #[must_use]
    pub fn state_topic(&self) -> String {
        format!("{}.state", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_project_has_the_documented_names() {
        let project = Project::default();
        assert_eq!(project.topic_prefix(), "cdc");
        assert_eq!(project.slot(), "dbz_slot");
        assert_eq!(project.publication(), "dbz_pub");
        assert_eq!(project.clickhouse_database(), "analytics");
        assert_eq!(project.board_key(), "top10m");
        assert_eq!(project.group(ConsumerGroup::Facts), "fanout-clickhouse");
        assert_eq!(project.dead_letter_topic(), "fanout.dlq");
        assert_eq!(project.state_topic(), "fanout.state");
    }

    #[test]
    fn another_project_shares_no_name_with_it() {
        let project: Project = "blue-2".parse().expect("a valid name");
        assert_eq!(project.topic_prefix(), "cdc-blue-2");
        assert_eq!(project.slot(), "dbz_slot_blue_2");
        assert_eq!(project.clickhouse_database(), "analytics_blue_2");
        assert_eq!(project.board_key(), "top10m:blue-2");
        assert_eq!(project.group(ConsumerGroup::Board), "blue-2-redis");
    }

    #[test]
    fn what_no_server_would_take_is_no_name() {
        for text in ["", "-a", "1a", "A", "a_b", "a.b", "a/b", &"a".repeat(41)] {
            assert!(text.parse::<Project>().is_err(), "{text:?} was accepted");
        }
    }
}
