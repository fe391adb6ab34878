//! Checks and repairs the settings of existing topics. They can differ from fanout's settings if
//! an earlier version created the topics, or a broker with automatic topic creation. Topics are
//! repaired if the broker belongs to the project, and only reported otherwise.

use std::collections::BTreeMap;

use crate::{
    connections::Connections,
    kafka::{KafkaError, TopicConfig},
    source::topics::{Difference, differences, names},
};

/// A topic and its differing settings.
pub type Differing = (String, Vec<Difference>);

/// Result of [`repair`].
#[derive(Debug, Default)]
pub struct Repair {
    changed: Vec<Differing>,
    /// Topics that were not changed, because the broker does not belong to the project.
    unchanged: Vec<Differing>,
    failed: Option<KafkaError>,
}

impl Repair {
    /// Returns the changes, one line per topic.
    pub fn changes(&self) -> impl Iterator<Item = String> {
        self.changed.iter().map(|(topic, differences)| {
            let changes = differences.iter().map(|difference| {
                let Difference {
                    setting,
                    found,
                    wanted,
                } = difference;
                format!("{setting} from {found} to {wanted}")
            });
            let changes: Vec<String> = changes.collect();
            format!("changed topic {topic}: {}", changes.join(", "))
        })
    }

    /// Returns notes about the topics that were not changed, one line each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let unchanged = self.unchanged.iter().map(|(topic, differences)| {
            format!(
                "kafka: topic {topic} has {}; not changed, because this broker does not belong to \
                 the project (fanout doctor)",
                evidence(differences)
            )
        });
        let failed = self.failed.iter();
        let failed =
            failed.map(|error| format!("kafka: cannot check the settings of the topics: {error}"));
        unchanged.chain(failed).collect()
    }
}

/// Formats differences in one line: `retention.ms=1, not 2; cleanup.policy=delete, not compact`.
#[must_use]
pub fn evidence(differences: &[Difference]) -> String {
    let format = |difference: &Difference| {
        let Difference {
            setting,
            found,
            wanted,
        } = difference;
        format!("{setting}={found}, not {wanted}")
    };
    let texts: Vec<String> = differences.iter().map(format).collect();
    texts.join("; ")
}

/// Returns the existing topics whose settings differ.
///
/// # Errors
/// If no broker responds.
pub async fn check(connections: &Connections) -> Result<Vec<Differing>, KafkaError> {
    let configs = configs(connections).await?;
    Ok(differences(connections.settings(), &configs))
}

/// Checks the topics and, if the broker belongs to the project, repairs them.
pub async fn repair(connections: &Connections, is_ours: bool) -> Repair {
    let mut repair = Repair::default();
    let result = try_to_repair(connections, is_ours, &mut repair).await;
    repair.failed = result.err();
    repair
}

async fn try_to_repair(
    connections: &Connections,
    is_ours: bool,
    repair: &mut Repair,
) -> Result<(), KafkaError> {
    let configs = configs(connections).await?;
    let differing = differences(connections.settings(), &configs);
    if !is_ours {
        repair.unchanged = differing;
        return Ok(());
    }
    for (topic, differences) in differing {
        let Some(config) = configs.get(&topic) else {
            continue;
        };
        let changes: Vec<(&str, &str)> = differences
            .iter()
            .map(|difference| (difference.setting.as_str(), difference.wanted.as_str()))
            .collect();
        let kafka = &connections.kafka;
        kafka.set_topic_config(&topic, config, &changes).await?;
        repair.changed.push((topic, differences));
    }
    Ok(())
}

async fn configs(connections: &Connections) -> Result<BTreeMap<String, TopicConfig>, KafkaError> {
    let names = names(connections.settings());
    connections.kafka.topic_configs(&names).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differing() -> Differing {
        let difference = Difference {
            setting: "delete.retention.ms".to_owned(),
            found: "86400000".to_owned(),
            wanted: "2592000000".to_owned(),
        };
        ("cdc.public.content".to_owned(), vec![difference])
    }

    #[test]
    fn changed_and_unchanged_topics_are_reported() {
        let changed = Repair {
            changed: vec![differing()],
            ..Repair::default()
        };
        let change = "changed topic cdc.public.content: delete.retention.ms from 86400000 to \
                      2592000000";
        assert_eq!(changed.changes().collect::<Vec<_>>(), [change]);
        assert!(changed.notes().is_empty());
        let unchanged = Repair {
            unchanged: vec![differing()],
            ..Repair::default()
        };
        assert_eq!(unchanged.changes().count(), 0);
        assert_eq!(
            unchanged.notes(),
            [
                "kafka: topic cdc.public.content has delete.retention.ms=86400000, not \
                 2592000000; not changed, because this broker does not belong to the project \
                 (fanout doctor)"
            ]
        );
    }
}
