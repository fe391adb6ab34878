//! A project is one stack with one name. The names of everything that outlives a run and could
//! collide with another project are derived here.

use std::{fmt, str::FromStr};

use crate::sink_kind::ConsumerGroup;

/// The default project, whose derived names are the documented ones.
pub const DEFAULT: &str = "fanout";

/// Maximum length of a name. Postgres allows 63 bytes for a slot, and the longest derived name
/// has 9 bytes more.
const MAX_LENGTH: usize = 40;

/// A valid project name: `[a-z][a-z0-9-]*`, at most 40 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Project(String);

/// Error for an invalid project name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid project name `{0}`: expected 1 to 40 of a-z, 0-9 and `-`, starting with a letter")]
pub struct InvalidProject(String);

impl FromStr for Project {
    type Err = InvalidProject;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = text.bytes();
        let is_start_valid = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
        let is_rest_valid =
            bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if is_start_valid && is_rest_valid && text.len() <= MAX_LENGTH {
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
    /// Returns the name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if the derived names are the documented ones.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT
    }

    /// Returns `plain` for the default project, and `plain` + `separator` + name for others.
    fn suffixed(&self, plain: &str, separator: char) -> String {
        if self.is_default() {
            plain.to_owned()
        } else {
            format!("{plain}{separator}{}", self.0)
        }
    }

    /// Like [`Self::suffixed`], for names in which only `_` may join words.
    fn identifier(&self, plain: &str) -> String {
        self.suffixed(plain, '_').replace('-', "_")
    }

    /// Returns the prefix of the connector's topics: `cdc`.
    #[must_use]
    pub fn topic_prefix(&self) -> String {
        self.suffixed("cdc", '-')
    }

    /// Returns the name of the connector: `pg-engagement-cdc`.
    #[must_use]
    pub fn connector(&self) -> String {
        self.suffixed("pg-engagement-cdc", '-')
    }

    /// Returns the replication slot: `dbz_slot`.
    #[must_use]
    pub fn slot(&self) -> String {
        self.identifier("dbz_slot")
    }

    /// Returns the publication: `dbz_pub`.
    #[must_use]
    pub fn publication(&self) -> String {
        self.identifier("dbz_pub")
    }

    /// Returns the ClickHouse database: `analytics`.
    #[must_use]
    pub fn clickhouse_database(&self) -> String {
        self.identifier("analytics")
    }

    /// Returns the Redis key of the board: `top10m`.
    #[must_use]
    pub fn board_key(&self) -> String {
        self.suffixed("top10m", ':')
    }

    /// Returns the id of a consumer group: `fanout-clickhouse`.
    #[must_use]
    pub fn group(&self, group: ConsumerGroup) -> String {
        group.id(&self.0)
    }

    /// Returns the topic of dead letters: `fanout.dlq`.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dlq", self.0)
    }

    /// Returns the compacted topic for the state that all workers share: `fanout.state`.
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
    fn another_project_shares_no_name_with_the_default() {
        let project: Project = "blue-2".parse().expect("a valid name");
        assert_eq!(project.topic_prefix(), "cdc-blue-2");
        assert_eq!(project.slot(), "dbz_slot_blue_2");
        assert_eq!(project.clickhouse_database(), "analytics_blue_2");
        assert_eq!(project.board_key(), "top10m:blue-2");
        assert_eq!(project.group(ConsumerGroup::Board), "blue-2-redis");
    }

    #[test]
    fn a_name_that_some_server_refuses_is_invalid() {
        for text in ["", "-a", "1a", "A", "a_b", "a.b", "a/b", &"a".repeat(41)] {
            assert!(text.parse::<Project>().is_err(), "{text:?} was accepted");
        }
    }
}
