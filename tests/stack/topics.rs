//! The settings of topics, whoever has created them.

use fanout::{
    clients::{Connections, kafka::TopicConfig},
    config::Settings,
    pipeline::topics::specs,
};
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Stack, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    (
        "a_topic_of_the_connectors_and_one_of_fanouts_are_alike",
        whoever_creates_it,
    ),
    (
        "topics_of_an_earlier_fanout_are_set_right_by_up_which_says_so",
        set_right,
    ),
];

/// To the stack's Kafka, for topics under this prefix.
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

fn own(config: &TopicConfig) -> Vec<(&str, &str)> {
    config.own().collect()
}

fn whoever_creates_it(stack: &Stack) {
    let by_connector = connections(stack, "cdc");
    let by_fanout = connections(stack, "alike");
    let (kafka, specs) = (&by_fanout.kafka, specs(by_fanout.settings()));
    wait_for(kafka.ensure_topics(&specs)).expect("the topics");
    for table in ["content", "engagement_events"] {
        let connectors = config(&by_connector, &format!("cdc.public.{table}"));
        let fanouts = config(&by_fanout, &format!("alike.public.{table}"));
        assert_eq!(own(&connectors), own(&fanouts), "{table}");
        let name = format!("alike.public.{table}");
        wait_for(kafka.delete_topics(&[name])).expect("deleted");
    }
}

fn finding(doctor: &Json, name: &str) -> Json {
    let findings = doctor["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["name"] == name);
    found
        .unwrap_or_else(|| panic!("no finding {name}: {doctor:#}"))
        .clone()
}

fn set_right(stack: &Stack) {
    const CONTENT: &str = "cdc.public.content";
    let all = "kafka: settings of the topics";
    let doctor = || stack.fanout.document(0, &["doctor"]);
    assert_eq!(finding(&doctor(), all)["level"], "pass");
    let connections = connections(stack, "cdc");
    // As fanout created it before, but for the operator's own wish.
    let before = [
        ("delete.retention.ms", "86400000"),
        ("segment.ms", "123456789"),
    ];
    let found = config(&connections, CONTENT);
    let kafka = &connections.kafka;
    wait_for(kafka.set_topic_config(CONTENT, &found, &before)).expect("set");
    let told = finding(&doctor(), &format!("kafka: settings of topic {CONTENT}"));
    assert_eq!(told["level"], "warn", "{told:#}");
    assert_eq!(
        told["evidence"], "delete.retention.ms=86400000, not 2592000000",
        "{told:#}"
    );
    assert_eq!(told["fix"], "fanout up", "{told:#}");
    let up = stack.fanout.run(&["up"]).ends_with(0);
    let up = up.says("changed topic cdc.public.content");
    up.says("delete.retention.ms from 86400000 to 2592000000");
    let mended = config(&connections, CONTENT);
    assert_eq!(mended.get("delete.retention.ms"), Some("2592000000"));
    assert_eq!(mended.get("segment.ms"), Some("123456789"));
    assert_eq!(mended.get("cleanup.policy"), Some("compact"));
    assert_eq!(finding(&doctor(), all)["level"], "pass");
    stack.fanout.run(&["up"]).ends_with(0).says("nothing to do");
}
