//! The topics that fanout and its connector create, and their settings. Both creators and the
//! check of existing topics use these definitions.

use std::collections::BTreeMap;

use super::tables::Source;
use crate::{
    config::Settings,
    kafka::{TopicConfig, TopicSpec},
};

/// The largest record of the source's topics, in bytes. An update of a row with a payload of
/// 10 MB contains the payload twice, escaped.
pub const LARGEST_RECORD: u32 = 64 * 1024 * 1024;

/// The largest dead letter, in bytes: a record, and headers that describe its problem.
pub const LARGEST_DEAD_LETTER: u32 = LARGEST_RECORD + 1024 * 1024;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Retention of the events topic.
const RETENTION_MS: i64 = 7 * DAY_MS;

/// Retention of tombstones in the content topic. A worker that is stopped for longer may miss
/// a deletion.
const DELETE_RETENTION_MS: i64 = 30 * DAY_MS;

/// Unlimited retention.
const UNLIMITED: i64 = -1;

/// Prefix of the connector's properties for topic creation.
const CREATION: &str = "topic.creation";

/// The required value of a topic's setting.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Exactly(&'static str),
    /// This number or a larger one. -1 means unlimited.
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

/// Definition of the topics of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    /// The connector's topic creation group. `None` if the connector does not create them.
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

/// The events topic, and all topics of the connector that belong to no other group.
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

/// The content topic. Compacted, because the content is loaded from the start of the topic.
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

/// The connector's internal topics: heartbeats, notifications, messages, signals.
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
            // The broker's default size limit would delete the oldest dead letters.
            (RETENTION_BYTES, Value::AtLeast(UNLIMITED)),
            (MAX_BYTES, Value::AtLeast(LARGEST_DEAD_LETTER.into())),
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
    /// Returns the operator's connector properties for this group.
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

    /// Returns the topic to create, which equals the one that the connector would create.
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

    /// Returns the settings that differ from the required ones. A value that the operator set
    /// for the connector is required exactly.
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

/// A setting of a topic that differs from the required one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub setting: String,
    pub found: String,
    pub wanted: String,
}

/// Returns the names and kinds of all topics except the connector's internal topics.
fn all(settings: &Settings) -> [(String, Kind); 4] {
    let source = Source::new(&settings.kafka.topic_prefix);
    [
        (source.facts.topic(), facts()),
        (source.content.topic(), content()),
        (settings.kafka.dead_letter_topic.clone(), dead_letters()),
        (settings.kafka.state_topic.clone(), state()),
    ]
}

/// Returns the topics that the pipeline requires, as the connector would create them.
#[must_use]
pub fn specs(settings: &Settings) -> Vec<TopicSpec> {
    all(settings)
        .into_iter()
        .map(|(name, kind)| kind.spec(name, settings))
        .collect()
}

/// Returns the names of [`specs`] and of the connector's internal topics.
#[must_use]
pub fn names(settings: &Settings) -> Vec<String> {
    checked(settings)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

/// Returns the topics that differ from the required ones, and the differing settings.
#[must_use]
pub fn differences(
    settings: &Settings,
    found: &BTreeMap<String, TopicConfig>,
) -> Vec<(String, Vec<Difference>)> {
    let differing = |(name, kind): (String, Kind)| {
        let differences = kind.differences(settings, found.get(&name)?);
        (!differences.is_empty()).then_some((name, differences))
    };
    checked(settings)
        .into_iter()
        .filter_map(differing)
        .collect()
}

fn checked(settings: &Settings) -> Vec<(String, Kind)> {
    let prefix = &settings.kafka.topic_prefix;
    let inner = inner_topics(prefix).map(|name| (name, self::inner()));
    all(settings).into_iter().chain(inner).collect()
}

/// Returns the names of the connector's internal topics.
fn inner_topics(prefix: &str) -> [String; 4] {
    [
        format!("__debezium-heartbeat.{prefix}"),
        format!("{prefix}.notifications"),
        format!("{prefix}.message"),
        format!("{prefix}.public.debezium_signal"),
    ]
}

/// Returns the connector's properties for topic creation.
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

    /// Returns the topic settings of a group in the connector's properties.
    fn connector_settings(settings: &Settings, group: &str) -> Vec<(String, String)> {
        let prefix = format!("{CREATION}.{group}.");
        let mut properties = creation(settings);
        properties.extend(settings.connector.properties.clone());
        let settings = properties.into_iter().filter_map(|(name, value)| {
            let name = name.strip_prefix(&prefix)?.to_owned();
            let excluded = ["partitions", "replication.factor", "include"];
            (!excluded.contains(&name.as_str())).then_some((name, value))
        });
        settings.collect()
    }

    #[test]
    fn fanout_and_the_connector_create_equal_topics() {
        let mut settings = Settings::default();
        for _ in 0..2 {
            for (topic, group) in [
                ("cdc.public.engagement_events", "default"),
                ("cdc.public.content", "content"),
            ] {
                let spec = spec(&settings, topic);
                assert_eq!(spec.config, connector_settings(&settings, group), "{topic}");
                let partitions = format!("{CREATION}.{group}.partitions");
                let mut properties = creation(&settings);
                properties.extend(settings.connector.properties.clone());
                assert_eq!(properties[&partitions], spec.partitions.to_string());
            }
            let overrides = [
                ("topic.creation.default.partitions", "12"),
                ("topic.creation.default.retention.ms", "1000"),
                ("topic.creation.content.min.cleanable.dirty.ratio", "0.1"),
            ];
            for (name, value) in overrides {
                let properties = &mut settings.connector.properties;
                properties.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    #[test]
    fn content_tombstones_are_kept_for_a_month() {
        let spec = spec(&Settings::default(), "cdc.public.content");
        let month = (
            "delete.retention.ms".to_owned(),
            (30 * 24 * 3600 * 1000_i64).to_string(),
        );
        assert!(spec.config.contains(&month), "{spec:?}");
    }

    /// A change would restart the running connector on every upgrade.
    #[test]
    fn the_connectors_properties_are_stable() {
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
            let (name, value) = line.trim().split_once('=').expect("name=value");
            (name.to_owned(), value.to_owned())
        });
        assert_eq!(creation(&Settings::default()), lines.collect());
    }

    #[test]
    fn a_shorter_retention_differs_and_a_longer_one_does_not() {
        let settings = Settings::default();
        let found = |pairs: &[(&str, &str)]| {
            BTreeMap::from([("cdc.public.content".to_owned(), config(pairs))])
        };
        let allowed = [
            ("cleanup.policy", "compact"),
            ("delete.retention.ms", "99999999999"),
            ("max.message.bytes", "67108864"),
            ("message.timestamp.type", "LogAppendTime"),
            ("segment.bytes", "1"),
        ];
        assert_eq!(differences(&settings, &found(&allowed)), []);
        let mut refused = allowed;
        refused[0].1 = "delete";
        refused[1].1 = "86400000";
        let differences = differences(&settings, &found(&refused));
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
        let dead_letters = spec(&Settings::default(), "fanout.dlq");
        let limit = dead_letters
            .config
            .iter()
            .find(|(name, _)| name == MAX_BYTES);
        let limit = limit.and_then(|(_, value)| value.parse::<u32>().ok());
        assert!(limit > Some(LARGEST_RECORD), "{limit:?}");
    }
}
