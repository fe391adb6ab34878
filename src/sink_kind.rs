//! The closed sets of sinks and of their consumer groups. Code that depends on the
//! sink matches on it without a wildcard, so that the compiler finds every place that
//! has to handle a new one.
//!
//! The names are only used at the edges: in arguments, documents, headers, log fields
//! and group ids.

use std::{cmp::Ordering, fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

use crate::text::suggest::unknown;

/// A sink: a store, or the external system, that receives changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// The leaderboard.
    Redis,
    /// The enriched events and the content mirror.
    ClickHouse,
    /// The external system.
    Http,
}

/// A consumer group of the pipeline: one worker with separate commits, lag, halts and
/// dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ConsumerGroup {
    /// Counts the events of the window.
    #[serde(rename = "redis")]
    Board,
    /// Enriches the events.
    #[serde(rename = "clickhouse")]
    Facts,
    /// Delivers the events to the external system.
    #[serde(rename = "http")]
    Http,
    /// Mirrors the content in ClickHouse.
    #[serde(rename = "content")]
    Content,
}

/// Implements the names of both sets from one list. It does not compile if a variant is
/// missing.
macro_rules! named {
    ($set:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $set {
            /// All variants, in display order.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Returns the name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl fmt::Display for $set {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.name())
            }
        }

        /// Orders by name, which is the order of the keys in documents.
        impl Ord for $set {
            fn cmp(&self, other: &Self) -> Ordering {
                self.name().cmp(other.name())
            }
        }

        impl PartialOrd for $set {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl FromStr for $set {
            type Err = UnknownSink;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let variant = Self::ALL.into_iter().find(|variant| variant.name() == text);
                variant.ok_or_else(|| UnknownSink::new(text, &Self::ALL.map(Self::name)))
            }
        }
    };
}

named!(SinkKind {
    Redis => "redis",
    ClickHouse => "clickhouse",
    Http => "http",
});

named!(ConsumerGroup {
    Board => "redis",
    Facts => "clickhouse",
    Http => "http",
    Content => "content",
});

impl SinkKind {
    /// Returns the service of the stack that the sink writes to.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::ClickHouse => "clickhouse",
            Self::Http => "stub",
        }
    }

    /// Returns the consumer group that reads the events for the sink.
    #[must_use]
    pub fn events_group(self) -> ConsumerGroup {
        match self {
            Self::Redis => ConsumerGroup::Board,
            Self::ClickHouse => ConsumerGroup::Facts,
            Self::Http => ConsumerGroup::Http,
        }
    }
}

impl ConsumerGroup {
    /// Returns the sink of the group.
    #[must_use]
    pub fn sink(self) -> SinkKind {
        match self {
            Self::Board => SinkKind::Redis,
            Self::Facts | Self::Content => SinkKind::ClickHouse,
            Self::Http => SinkKind::Http,
        }
    }

    /// Returns the group id with a prefix, such as `fanout-clickhouse`.
    #[must_use]
    pub fn id(self, prefix: &str) -> String {
        format!("{prefix}-{self}")
    }
}

/// Error for an unknown sink name, with the known names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", unknown("sink", name, known))]
pub struct UnknownSink {
    name: String,
    known: Vec<&'static str>,
}

impl UnknownSink {
    fn new(name: &str, known: &[&'static str]) -> Self {
        Self {
            name: name.to_owned(),
            known: known.to_vec(),
        }
    }
}

/// Sinks named by an operator, in that order. An unknown name is stored and refused
/// later, because a higher configuration layer may override it, and other mistakes are
/// reported first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Sinks {
    kinds: Vec<SinkKind>,
    unknown: Option<UnknownSink>,
}

impl Sinks {
    /// Returns all sinks.
    #[must_use]
    pub fn all() -> Self {
        Self {
            kinds: SinkKind::ALL.to_vec(),
            unknown: None,
        }
    }

    /// Returns the first unknown name. The caller must refuse it.
    #[must_use]
    pub fn unknown(&self) -> Option<&UnknownSink> {
        self.unknown.as_ref()
    }
}

impl From<Vec<String>> for Sinks {
    fn from(names: Vec<String>) -> Self {
        let mut sinks = Self {
            kinds: Vec::with_capacity(names.len()),
            unknown: None,
        };
        for name in names {
            match name.parse::<SinkKind>() {
                Ok(kind) => sinks.kinds.push(kind),
                Err(error) => {
                    sinks.unknown.get_or_insert(error);
                }
            }
        }
        sinks
    }
}

impl Deref for Sinks {
    type Target = [SinkKind];

    fn deref(&self) -> &[SinkKind] {
        &self.kinds
    }
}

impl Serialize for Sinks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.kinds.serialize(serializer)
    }
}

/// Returns true if a service is a store that none of these sinks writes to.
#[must_use]
pub fn is_idle_store(service: &str, sinks: &[SinkKind]) -> bool {
    let writes_to = |sink: &SinkKind| sink.service() == service;
    SinkKind::ALL.iter().any(writes_to) && !sinks.iter().any(writes_to)
}

/// Returns the names with a separator, such as `redis,http`.
#[must_use]
pub fn joined(sinks: &[SinkKind], separator: &str) -> String {
    let names: Vec<&str> = sinks.iter().map(|sink| sink.name()).collect();
    names.join(separator)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_names_and_their_order_are_stable() {
        let sinks = SinkKind::ALL.map(SinkKind::name);
        assert_eq!(sinks, ["redis", "clickhouse", "http"]);
        let groups = ConsumerGroup::ALL.map(ConsumerGroup::name);
        assert_eq!(groups, ["redis", "clickhouse", "http", "content"]);
        let services = SinkKind::ALL.map(SinkKind::service);
        assert_eq!(services, ["redis", "clickhouse", "stub"]);
    }

    #[test]
    fn a_displayed_name_can_be_parsed() {
        for sink in SinkKind::ALL {
            assert_eq!(sink.to_string().parse(), Ok(sink));
            let document = serde_json::to_value(sink).expect("a name");
            assert_eq!(document, sink.name());
            assert_eq!(
                serde_json::from_value::<SinkKind>(document).ok(),
                Some(sink)
            );
        }
        for group in ConsumerGroup::ALL {
            assert_eq!(group.to_string().parse(), Ok(group));
            let document = serde_json::to_value(group).expect("a name");
            assert_eq!(document, group.name());
        }
    }

    #[test]
    fn an_unknown_name_is_reported_with_the_known_ones() {
        let error = "htp".parse::<SinkKind>().expect_err("no sink");
        assert_eq!(
            error.to_string(),
            "unknown sink \"htp\", expected one of redis, clickhouse, http (did you mean \"http\"?)"
        );
        for text in ["", "Redis", "content", "bigquery"] {
            assert!(text.parse::<SinkKind>().is_err(), "{text:?}");
        }
        let error = "s3".parse::<ConsumerGroup>().expect_err("no group");
        assert_eq!(
            error.to_string(),
            "unknown sink \"s3\", expected one of redis, clickhouse, http, content"
        );
    }

    #[test]
    fn the_keys_of_a_document_are_ordered_by_name() {
        let by_sink: BTreeMap<SinkKind, u8> = SinkKind::ALL.into_iter().zip(1..).collect();
        let text = serde_json::to_string(&by_sink).expect("a document");
        assert_eq!(text, r#"{"clickhouse":2,"http":3,"redis":1}"#);
        let read: BTreeMap<SinkKind, u8> = serde_json::from_str(&text).expect("a valid document");
        assert_eq!(read, by_sink);
        let by_group: BTreeMap<ConsumerGroup, u8> =
            ConsumerGroup::ALL.into_iter().zip(1..).collect();
        let text = serde_json::to_string(&by_group).expect("a document");
        assert_eq!(text, r#"{"clickhouse":2,"content":4,"http":3,"redis":1}"#);
    }

    #[test]
    fn each_sink_has_a_separate_group_for_the_events() {
        for sink in SinkKind::ALL {
            let group = sink.events_group();
            assert_eq!((group.sink(), group.name()), (sink, sink.name()));
        }
        assert_eq!(ConsumerGroup::Content.sink(), SinkKind::ClickHouse);
        assert_eq!(ConsumerGroup::Content.id("blue-2"), "blue-2-content");
    }

    #[test]
    fn a_store_without_a_sink_is_idle() {
        let sinks = [SinkKind::Redis, SinkKind::Http];
        let idle = |service: &&str| is_idle_store(service, &sinks);
        let services = ["postgres", "kafka", "redis", "clickhouse", "stub"];
        let idle: Vec<&str> = services.into_iter().filter(idle).collect();
        assert_eq!(idle, ["clickhouse"]);
    }

    #[test]
    fn sinks_keep_their_order_and_the_first_unknown_name() {
        let parse = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Sinks::from(names)
        };
        let sinks = parse(&["http", "redis", "http"]);
        assert_eq!(joined(&sinks, ","), "http,redis,http");
        assert_eq!(sinks.unknown(), None);
        let text = serde_json::to_string(&sinks).expect("names");
        assert_eq!(text, r#"["http","redis","http"]"#);
        assert_eq!(serde_json::from_str::<Sinks>(&text).ok(), Some(sinks));
        let sinks = parse(&["s3", "http", "kafka"]);
        let unknown = sinks.unknown().expect("an unknown name");
        assert!(unknown.to_string().starts_with("unknown sink \"s3\""));
        assert_eq!(joined(&sinks, ","), "http");
    }
}
