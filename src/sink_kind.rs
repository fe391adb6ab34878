//! The closed set of sinks, and of the consumer groups that feed them. Whatever
//! depends on which one it is matches on it without a wildcard, so the compiler
//! names every place that has to decide something about a new one.
//!
//! Names are for the edges: arguments, documents, headers, log fields and the ids
//! of groups.

use std::{cmp::Ordering, fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

use crate::text::suggest::unknown;

/// Where changes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// The board.
    Redis,
    /// The enriched events and the mirror of the content.
    ClickHouse,
    /// The external system.
    Http,
}

/// A consumer group of the pipeline: one worker with its own commits, lag, halts
/// and dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ConsumerGroup {
    /// Counts the events of the window.
    #[serde(rename = "redis")]
    Board,
    /// Enriches the events.
    #[serde(rename = "clickhouse")]
    Facts,
    /// Tells the external system of the events.
    #[serde(rename = "http")]
    Http,
    /// Mirrors the content in ClickHouse.
    #[serde(rename = "content")]
    Content,
}

/// What both sets have, from one list: it does not compile without every variant.
macro_rules! named {
    ($set:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $set {
            /// All of them, in the order in which they are listed.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// As it is written.
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

        /// By name: documents that are keyed by it have their keys in that order.
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
                let found = Self::ALL.into_iter().find(|one| one.name() == text);
                found.ok_or_else(|| UnknownSink::new(text, &Self::ALL.map(Self::name)))
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
    /// The service of the stack that it writes to.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::ClickHouse => "clickhouse",
            Self::Http => "stub",
        }
    }

    /// The group that reads the events for it.
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
    /// The sink that it feeds.
    #[must_use]
    pub fn sink(self) -> SinkKind {
        match self {
            Self::Board => SinkKind::Redis,
            Self::Facts | Self::Content => SinkKind::ClickHouse,
            Self::Http => SinkKind::Http,
        }
    }

    /// Its id under a prefix: `fanout-clickhouse`.
    #[must_use]
    pub fn id(self, prefix: &str) -> String {
        format!("{prefix}-{self}")
    }
}

/// A name that no sink has, with those there are.
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

/// Sinks as an operator names them, in that order. An unknown name is kept and
/// refused later: a higher layer of the configuration may overrule it, and other
/// mistakes are reported before it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Sinks {
    kinds: Vec<SinkKind>,
    unknown: Option<UnknownSink>,
}

impl Sinks {
    /// All there are.
    #[must_use]
    pub fn all() -> Self {
        Self {
            kinds: SinkKind::ALL.to_vec(),
            unknown: None,
        }
    }

    /// The first unknown name. Whoever reads the names has to refuse it.
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

/// Whether a service is a store that none of these sinks writes to.
#[must_use]
pub fn is_idle_store(service: &str, sinks: &[SinkKind]) -> bool {
    let is_store_of = |sink: &SinkKind| sink.service() == service;
    SinkKind::ALL.iter().any(is_store_of) && !sinks.iter().any(is_store_of)
}

/// Their names: `redis,http` where the separator is a comma.
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
    fn the_names_and_their_order_are_what_they_always_were() {
        let sinks = SinkKind::ALL.map(SinkKind::name);
        assert_eq!(sinks, ["redis", "clickhouse", "http"]);
        let groups = ConsumerGroup::ALL.map(ConsumerGroup::name);
        assert_eq!(groups, ["redis", "clickhouse", "http", "content"]);
        let services = SinkKind::ALL.map(SinkKind::service);
        assert_eq!(services, ["redis", "clickhouse", "stub"]);
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
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
    fn a_name_that_no_sink_has_is_told_with_those_there_are() {
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
    fn a_document_by_sink_has_its_keys_in_the_order_of_the_names() {
        let by_sink: BTreeMap<SinkKind, u8> = SinkKind::ALL.into_iter().zip(1..).collect();
        let text = serde_json::to_string(&by_sink).expect("a document");
        assert_eq!(text, r#"{"clickhouse":2,"http":3,"redis":1}"#);
        let read: BTreeMap<SinkKind, u8> = serde_json::from_str(&text).expect("its own form");
        assert_eq!(read, by_sink);
        let by_group: BTreeMap<ConsumerGroup, u8> =
            ConsumerGroup::ALL.into_iter().zip(1..).collect();
        let text = serde_json::to_string(&by_group).expect("a document");
        assert_eq!(text, r#"{"clickhouse":2,"content":4,"http":3,"redis":1}"#);
    }

    #[test]
    fn each_sink_has_a_group_of_its_own_for_the_events() {
        for sink in SinkKind::ALL {
            let group = sink.events_group();
            assert_eq!((group.sink(), group.name()), (sink, sink.name()));
        }
        assert_eq!(ConsumerGroup::Content.sink(), SinkKind::ClickHouse);
        assert_eq!(ConsumerGroup::Content.id("blue-2"), "blue-2-content");
    }

    #[test]
    fn a_store_is_idle_where_no_sink_writes_to_it() {
        let sinks = [SinkKind::Redis, SinkKind::Http];
        let idle = |service: &&str| is_idle_store(service, &sinks);
        let services = ["postgres", "kafka", "redis", "clickhouse", "stub"];
        let idle: Vec<&str> = services.into_iter().filter(idle).collect();
        assert_eq!(idle, ["clickhouse"]);
    }

    #[test]
    fn sinks_keep_the_order_they_are_named_in_and_the_first_unknown_name() {
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Sinks::from(names)
        };
        let sinks = named(&["http", "redis", "http"]);
        assert_eq!(joined(&sinks, ","), "http,redis,http");
        assert_eq!(sinks.unknown(), None);
        let text = serde_json::to_string(&sinks).expect("names");
        assert_eq!(text, r#"["http","redis","http"]"#);
        assert_eq!(serde_json::from_str::<Sinks>(&text).ok(), Some(sinks));
        let sinks = named(&["s3", "http", "kafka"]);
        let unknown = sinks.unknown().expect("a name that no sink has");
        assert!(unknown.to_string().starts_with("unknown sink \"s3\""));
        assert_eq!(joined(&sinks, ","), "http");
    }
}
