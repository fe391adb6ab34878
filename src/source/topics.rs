//! The topics that fanout and its connector create, and their settings. This is
//! the single source for both creators, and for the check of existing topics.

use std::collections::BTreeMap;

use super::tables::Source;
use crate::{
    config::Settings,
    kafka::{TopicConfig, TopicSpec},
};

/// The largest record of the source's topics, in bytes: an update of a row with
/// a payload of 10 MB carries it twice, escaped.
pub const LARGEST_RECORD: u32 = 64 * 1024 * 1024;

/// A dead letter carries a record and, in its headers, what is wrong with it.
pub const LARGEST_LETTER: u32 = LARGEST_RECORD + 1024 * 1024;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// How long changes of events are kept.
const RETENTION_MS: i64 = 7 * DAY_MS;

/// How long the tombstone of a content is kept: a worker that is stopped for
/// longer may miss the deletion.
const DELETE_RETENTION_MS: i64 = 30 * DAY_MS;

/// Unlimited retention.
const UNLIMITED: i64 = -1;

/// Prefix of the connector's properties for topic creation.
const CREATION: &str = "topic.creation";

/// The required value of a topic's setting.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Exactly(&'static str),
    /// This number or a larger one; -1 is unlimited.
    AtLeast(i64),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Exactly(text) => (*text).to_owned(),
            Self::AtLeast(number) => number.to_string(),
        }
    }

    fn allows(&self, found: &str) -> bool {
        match self {
            Self::Exactly(text) => found == *text,
            Self::AtLeast(number) => found.parse::<i64>().is_ok_and(|found| {
                found == UNLIMITED || (*number != UNLIMITED && found >= *number)
            }),
        }
    }
}

/// Topics of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    /// The connector's topic creation group; none if it does not create them.
    group: Option<&'static str>,
    partitions: i32,
    settings: Vec<(&'static str, Value)>,
}

const CLEANUP: &str = "cleanup.policy";
const RETENTION: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const DELETE_RETENTION: &str = "delete.retention.ms";
const MAX_BYTES: &str = "max.message.bytes";
const TIMESTAMPS: &str = "message.timestamp.type";

/// The changes of the events, and whatever else the connector creates that is in
/// no other group.
fn facts() -> Kind {
    Kind {
        group: Some("default"),
        partitions: 3,
        settings: vec![
            (CLEANUP, Value::Exactly("delete")),
            (RETENTION, Value::AtLeast(RETENTION_MS)),
            (MAX_BYTES, Value::AtLeast(LARGEST_RECORD.into())),
            (TIMESTAMPS, Value::Exactly("LogAppendTime")),
        ],
    }
}

/// The content. Compacted, because the catalogue is loaded from its start.
fn content() -> Kind {
    Kind {
        group: Some("content"),
        partitions: 1,
        settings: vec![
            (CLEANUP, Value::Exactly("compact")),
            (DELETE_RETENTION, Value::AtLeast(DELETE_RETENTION_MS)),
            (MAX_BYTES, Value::AtLeast(LARGEST_RECORD.into())),
            (TIMESTAMPS, Value::Exactly("LogAppendTime")),
        ],
    }
}

/// The connector's own topics: heartbeats, notifications, messages, signals.
fn inner() -> Kind {
    Kind {
        group: Some("inner"),
        partitions: 1,
        settings: vec![
            (CLEANUP, Value::Exactly("delete")),
            (RETENTION, Value::AtLeast(RETENTION_MS)),
            (TIMESTAMPS, Value::Exactly("LogAppendTime")),
        ],
    }
}

fn dead_letters() -> Kind {
    Kind {
        group: None,
        partitions: 1,
        settings: vec![
            (CLEANUP, Value::Exactly("delete")),
            (RETENTION, Value::AtLeast(UNLIMITED)),
            // The broker's own limit for a partition would delete the oldest.
            (RETENTION_BYTES, Value::AtLeast(UNLIMITED)),
            (MAX_BYTES, Value::AtLeast(LARGEST_LETTER.into())),
        ],
    }
}

fn state() -> Kind {
    Kind {
        group: None,
        partitions: 1,
        settings: vec![(CLEANUP, Value::Exactly("compact"))],
    }
}

impl Kind {
    /// The operator's own connector properties for this group.
    fn overrides<'s>(&self, settings: &'s Settings) -> BTreeMap<&'s str, &'s String> {
        let Some(group) = self.group else {
            return BTreeMap::new();
        };
        let prefix = format!("{CREATION}.{group}.");
        let properties = settings.connector.properties.iter();
        properties
            .filter_map(|(name, value)| Some((name.strip_prefix(&prefix)?, value)))
            .collect()
    }

    /// The topic to create: the same as the connector would create.
    fn spec(&self, name: String, settings: &Settings) -> TopicSpec {
        let mut config: BTreeMap<String, String> = self
            .settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.text()))
            .collect();
        let mut spec = TopicSpec {
            name,
            partitions: self.partitions,
            replication: settings.kafka.replication_factor,
            config: Vec::new(),
        };
        for (name, value) in self.overrides(settings) {
            match name {
                "partitions" => spec.partitions = value.parse().unwrap_or(spec.partitions),
                "replication.factor" => {
                    spec.replication = value.parse().unwrap_or(spec.replication);
                }
                // These select the group's topics.
                "include" | "exclude" => {}
                _ => {
                    config.insert(name.to_owned(), value.clone());
                }
            }
        }
        spec.config = config.into_iter().collect();
        spec
    }

    /// The settings that differ from what is required. A value that the operator
    /// set for the connector is required exactly.
    fn differences(&self, settings: &Settings, found: &TopicConfig) -> Vec<Difference> {
        let overrides = self.overrides(settings);
        let differs = |(name, value): &(&'static str, Value)| {
            let found = found.get(name)?;
            let (wanted, allowed) = match overrides.get(name) {
                Some(wanted) => ((*wanted).clone(), *wanted == found),
                None => (value.text(), value.allows(found)),
            };
            (!allowed).then(|| Difference {
                setting: (*name).to_owned(),
                found: found.to_owned(),
                wanted,
            })
        };
        self.settings.iter().filter_map(differs).collect()
    }
}

/// A setting of a topic that is not as required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub setting: String,
    pub found: String,
    pub wanted: String,
}

/// The names and kinds of all topics but the connector's own.
fn all(settings: &Settings) -> [(String, Kind); 4] {
    let source = Source::new(&settings.kafka.topic_prefix);
    [
        (source.facts.topic(), facts()),
        (source.content.topic(), content()),
        (settings.kafka.dead_letter_topic.clone(), dead_letters()),
        (settings.kafka.state_topic.clone(), state()),
    ]
}

/// The topics the pipeline stands on, as the connector would create them.
#[must_use]
pub fn specs(settings: &Settings) -> Vec<TopicSpec> {
    all(settings)
        .into_iter()
        .map(|(name, kind)| kind.spec(name, settings))
        .collect()
}

/// The names of [`specs`] and of the connector's own topics.
#[must_use]
pub fn names(settings: &Settings) -> Vec<String> {
    checked(settings)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

/// The topics that differ from what is required, and in which settings.
#[must_use]
pub fn differences(
    settings: &Settings,
    found: &BTreeMap<String, TopicConfig>,
) -> Vec<(String, Vec<Difference>)> {
    let of = |(name, kind): (String, Kind)| {
        let differences = kind.differences(settings, found.get(&name)?);
        (!differences.is_empty()).then_some((name, differences))
    };
    checked(settings).into_iter().filter_map(of).collect()
}

fn checked(settings: &Settings) -> Vec<(String, Kind)> {
    let prefix = &settings.kafka.topic_prefix;
    let inner = inner_topics(prefix).map(|name| (name, self::inner()));
    all(settings).into_iter().chain(inner).collect()
}

/// The connector's own topics.
fn inner_topics(prefix: &str) -> [String; 4] {
    [
        format!("__debezium-heartbeat.{prefix}"),
        format!("{prefix}.notifications"),
        format!("{prefix}.message"),
        format!("{prefix}.public.debezium_signal"),
    ]
}

/// The connector's properties for topic creation.
#[must_use]
pub fn creation(settings: &Settings) -> BTreeMap<String, String> {
    let prefix = &settings.kafka.topic_prefix;
    let quoted = |name: &str| name.replace('.', "\\.");
    let mut properties = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        properties.insert(format!("{CREATION}.{name}"), value);
    };
    set("groups", "content,inner".to_owned());
    let replication = settings.kafka.replication_factor;
    set("default.replication.factor", replication.to_string());
    let source = Source::new(prefix);
    set("content.include", quoted(&source.content.topic()));
    let [_, notifications, messages, signals] = inner_topics(prefix).map(|name| quoted(&name));
    let heartbeats = "__debezium-heartbeat\\..*";
    set(
        "inner.include",
        format!("{heartbeats},{notifications},{messages},{signals}"),
    );
    for kind in [facts(), content(), inner()] {
        let Some(group) = kind.group else { continue };
        set(&format!("{group}.partitions"), kind.partitions.to_string());
        for (name, value) in &kind.settings {
            set(&format!("{group}.{name}"), value.text());
        }
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> TopicConfig {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn spec(settings: &Settings, name: &str) -> TopicSpec {
        let specs = specs(settings);
        let spec = specs.into_iter().find(|spec| spec.name == name);
        spec.expect("the topic")
    }

    /// The connector's topic settings of a group.
    fn told_connector(settings: &Settings, group: &str) -> Vec<(String, String)> {
        let prefix = format!("{CREATION}.{group}.");
        let mut properties = creation(settings);
        properties.extend(settings.connector.properties.clone());
        let told = properties.into_iter().filter_map(|(name, value)| {
            let name = name.strip_prefix(&prefix)?.to_owned();
            let counts = ["partitions", "replication.factor", "include"];
            (!counts.contains(&name.as_str())).then_some((name, value))
        });
        told.collect()
    }

    #[test]
    fn whoever_creates_a_topic_creates_the_same() {
        let mut settings = Settings::default();
        for _ in 0..2 {
            for (topic, group) in [
                ("cdc.public.engagement_events", "default"),
                ("cdc.public.content", "content"),
            ] {
                let spec = spec(&settings, topic);
                assert_eq!(spec.config, told_connector(&settings, group), "{topic}");
                let partitions = format!("{CREATION}.{group}.partitions");
                let mut told = creation(&settings);
                told.extend(settings.connector.properties.clone());
                assert_eq!(told[&partitions], spec.partitions.to_string());
            }
            let own = [
                ("topic.creation.default.partitions", "12"),
                ("topic.creation.default.retention.ms", "1000"),
                ("topic.creation.content.min.cleanable.dirty.ratio", "0.1"),
            ];
            for (name, value) in own {
                let properties = &mut settings.connector.properties;
                properties.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    #[test]
    fn deletions_of_content_are_kept_for_a_month_by_either_creator() {
        let spec = spec(&Settings::default(), "cdc.public.content");
        let month = (
            "delete.retention.ms".to_owned(),
            (30 * 24 * 3600 * 1000_i64).to_string(),
        );
        assert!(spec.config.contains(&month), "{spec:?}");
    }

    /// So that an upgrade does not restart a running connector.
    #[test]
    fn the_connectors_properties_have_not_changed() {
        let text = "topic.creation.groups=content,inner
            topic.creation.default.partitions=3
            topic.creation.default.replication.factor=1
            topic.creation.default.cleanup.policy=delete
            topic.creation.default.retention.ms=604800000
            topic.creation.default.max.message.bytes=67108864
            topic.creation.default.message.timestamp.type=LogAppendTime
            topic.creation.content.include=cdc\\.public\\.content
            topic.creation.content.partitions=1
            topic.creation.content.cleanup.policy=compact
            topic.creation.content.delete.retention.ms=2592000000
            topic.creation.content.max.message.bytes=67108864
            topic.creation.content.message.timestamp.type=LogAppendTime
            topic.creation.inner.include=__debezium-heartbeat\\..*,cdc\\.notifications,cdc\\.message,cdc\\.public\\.debezium_signal
            topic.creation.inner.partitions=1
            topic.creation.inner.cleanup.policy=delete
            topic.creation.inner.retention.ms=604800000
            topic.creation.inner.message.timestamp.type=LogAppendTime";
        let lines = text.lines().map(|line| {
            let (name, value) = line.trim().split_once('=').expect("a pair");
            (name.to_owned(), value.to_owned())
        });
        assert_eq!(creation(&Settings::default()), lines.collect());
    }

    #[test]
    fn keeping_less_than_required_differs_and_keeping_more_does_not() {
        let settings = Settings::default();
        let found = |pairs: &[(&str, &str)]| {
            BTreeMap::from([("cdc.public.content".to_owned(), config(pairs))])
        };
        let fine = [
            ("cleanup.policy", "compact"),
            ("delete.retention.ms", "99999999999"),
            ("max.message.bytes", "67108864"),
            ("message.timestamp.type", "LogAppendTime"),
            ("segment.bytes", "1"),
        ];
        assert_eq!(differences(&settings, &found(&fine)), []);
        let mut old = fine;
        old[0].1 = "delete";
        old[1].1 = "86400000";
        let differences = differences(&settings, &found(&old));
        let difference = |setting: &str, found: &str, wanted: &str| Difference {
            setting: setting.to_owned(),
            found: found.to_owned(),
            wanted: wanted.to_owned(),
        };
        let wanted = vec![
            difference("cleanup.policy", "delete", "compact"),
            difference("delete.retention.ms", "86400000", "2592000000"),
        ];
        assert_eq!(differences, [("cdc.public.content".to_owned(), wanted)]);
    }

    #[test]
    fn unlimited_satisfies_every_minimum_and_only_itself_satisfies_unlimited() {
        assert!(Value::AtLeast(RETENTION_MS).allows("-1"));
        assert!(Value::AtLeast(UNLIMITED).allows("-1"));
        assert!(!Value::AtLeast(UNLIMITED).allows("604800000"));
        assert!(!Value::AtLeast(RETENTION_MS).allows("none"));
    }

    #[test]
    fn a_value_set_by_the_operator_is_required_exactly() {
        let mut settings = Settings::default();
        let name = "topic.creation.default.retention.ms";
        let properties = &mut settings.connector.properties;
        properties.insert(name.to_owned(), "1000".to_owned());
        let topic = "cdc.public.engagement_events".to_owned();
        let found = |value: &str| {
            let pairs = [("retention.ms", value), ("cleanup.policy", "delete")];
            BTreeMap::from([(topic.clone(), config(&pairs))])
        };
        assert_eq!(differences(&settings, &found("1000")), []);
        let [(name, differences)] = &differences(&settings, &found("604800000"))[..] else {
            panic!("one topic differs");
        };
        assert_eq!((name, differences[0].wanted.as_str()), (&topic, "1000"));
    }

    #[test]
    fn a_dead_letter_may_be_larger_than_its_record() {
        let letters = spec(&Settings::default(), "fanout.dlq");
        let limit = letters.config.iter().find(|(name, _)| name == MAX_BYTES);
        let limit = limit.and_then(|(_, value)| value.parse::<u32>().ok());
        assert!(limit > Some(LARGEST_RECORD), "{limit:?}");
    }
}
