//! Checks of the settings of existing topics.

use std::time::Duration;

use tokio::time::timeout;

use super::finding::Finding;
use crate::{
    connections::Connections,
    operations::topics::{self, Differing},
};

/// Timeout of the broker.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the findings of the topics. `is_ours` is true if the broker belongs to the project.
pub(super) async fn examine(connections: &Connections, is_ours: bool) -> Vec<Finding> {
    let name = "kafka: settings of the topics";
    let differing = match timeout(TIMEOUT, topics::check(connections)).await {
        Ok(Ok(differing)) => differing,
        Ok(Err(error)) => {
            let evidence = format!("cannot read the settings: {error}");
            return vec![Finding::warn(name, evidence, "fanout status")];
        }
        Err(_) => {
            let evidence = format!("no response within {} s", TIMEOUT.as_secs());
            return vec![Finding::warn(name, evidence, "fanout status")];
        }
    };
    if differing.is_empty() {
        return vec![Finding::pass(name, "as required")];
    }
    let brokers = connections.kafka.brokers();
    differing
        .iter()
        .map(|differing| finding(differing, is_ours, brokers))
        .collect()
}

fn finding((topic, differences): &Differing, is_ours: bool, brokers: &str) -> Finding {
    let fix = if is_ours {
        "fanout up".to_owned()
    } else {
        let settings: Vec<String> = differences
            .iter()
            .map(|difference| format!("{}={}", difference.setting, difference.wanted))
            .collect();
        format!(
            "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics \
             --entity-name {topic} --add-config {}",
            settings.join(",")
        )
    };
    let name = format!("kafka: settings of topic {topic}");
    Finding::warn(name, topics::evidence(differences), fix)
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};
    use crate::source::topics::Difference;

    #[test]
    fn the_fix_is_up_for_a_managed_broker_and_kafka_configs_for_another() {
        let difference = Difference {
            setting: "retention.ms".to_owned(),
            found: "1".to_owned(),
            wanted: "604800000".to_owned(),
        };
        let differing = ("cdc.public.content".to_owned(), vec![difference]);
        let managed = finding(&differing, true, "broker:9092");
        assert_eq!(managed.level, Level::Warn);
        assert_eq!(managed.evidence, "retention.ms=1, not 604800000");
        assert_eq!(managed.fix.as_deref(), Some("fanout up"));
        let fix = finding(&differing, false, "broker:9092").fix;
        let fix = fix.expect("a command");
        assert!(
            fix.ends_with("--entity-name cdc.public.content --add-config retention.ms=604800000"),
            "{fix}"
        );
    }
}
