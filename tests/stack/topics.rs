//! The settings of topics, no matter which component has created them.

use fanout::{
    config::Settings, connections::Connections, kafka::TopicConfig, source::topics::specs,
};
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Stack, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "the_connector_and_fanout_create_topics_with_the_same_settings",
        same_settings,
    ),
    (
        "up_corrects_and_reports_topic_settings_of_an_earlier_version",
        corrected_settings,
    ),
];

/// Connects to the stack's Kafka, with this topic prefix.
fn connections(stack: &Stack, prefix: &str) -> Connections {
    let mut settings = Settings::default();
    let brokers = stack.stores.url("FANOUT_KAFKA_BROKERS");
    brokers.clone_into(&mut settings.kafka.brokers);
    prefix.clone_into(&mut settings.kafka.topic_prefix);
    Connections::of(&settings)
}

fn config(connections: &Connections, topic: &str) -> TopicConfig {
    let names = [topic.to_owned()];
    let configs = wait_for(connections.kafka.topic_configs(&names));
    configs
        .expect("the broker")
        .remove(topic)
        .unwrap_or_else(|| panic!("{topic} is not there"))
}

fn explicit_settings(config: &TopicConfig) -> Vec<(&str, &str)> {
    config.overrides().collect()
}

fn same_settings(stack: &Stack) {
    let by_connector = connections(stack, "cdc");
    let by_fanout = connections(stack, "alike");
    let (kafka, specs) = (&by_fanout.kafka, specs(by_fanout.settings()));
    wait_for(kafka.ensure_topics(&specs)).expect("create the topics");
    for table in ["content", "engagement_events"] {
        let connectors = config(&by_connector, &format!("cdc.public.{table}"));
        let fanouts = config(&by_fanout, &format!("alike.public.{table}"));
        assert_eq!(
            explicit_settings(&connectors),
            explicit_settings(&fanouts),
            "{table}"
        );
        let name = format!("alike.public.{table}");
        wait_for(kafka.delete_topics(&[name])).expect("delete the topic");
    }
}

fn finding(doctor: &Json, name: &str) -> Json {
    let findings = doctor["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["name"] == name);
    found
        .unwrap_or_else(|| panic!("no finding {name}: {doctor:#}"))
        .clone()
}

fn corrected_settings(stack: &Stack) {
    const CONTENT: &str = "cdc.public.content";
    let all = "kafka: settings of the topics";
    let doctor = || stack.fanout.document(0, &["doctor"]);
    assert_eq!(finding(&doctor(), all)["level"], "pass");
    let connections = connections(stack, "cdc");
    // The settings that earlier versions created, with one set by the operator.
    let before = [
        ("delete.retention.ms", "86400000"),
        ("segment.ms", "123456789"),
    ];
    let found = config(&connections, CONTENT);
    let kafka = &connections.kafka;
    wait_for(kafka.set_topic_config(CONTENT, &found, &before)).expect("change the settings");
    let warning = finding(&doctor(), &format!("kafka: settings of topic {CONTENT}"));
    assert_eq!(warning["level"], "warn", "{warning:#}");
    assert_eq!(
        warning["evidence"], "delete.retention.ms=86400000, not 2592000000",
        "{warning:#}"
    );
    assert_eq!(warning["fix"], "fanout up", "{warning:#}");
    let up = stack.fanout.run(&["up"]).ends_with(0);
    let up = up.says("changed topic cdc.public.content");
    up.says("delete.retention.ms from 86400000 to 2592000000");
    let corrected = config(&connections, CONTENT);
    assert_eq!(corrected.get("delete.retention.ms"), Some("2592000000"));
    assert_eq!(corrected.get("segment.ms"), Some("123456789"));
    assert_eq!(corrected.get("cleanup.policy"), Some("compact"));
    assert_eq!(finding(&doctor(), all)["level"], "pass");
    stack.fanout.run(&["up"]).ends_with(0).says("nothing to do");
}
