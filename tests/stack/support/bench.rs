//! A project of its own on the stack's servers: topics, tables and a board that
//! no connector writes to.

use std::fs;

use fanout::{clients::Connections, config::Settings, operations::objects};
use serde_json::Value as Json;

use super::{
    Fanout, Producer, Record, Stack, Stores, Stub, Topics, Worker, Written, accepted_by,
    eventually, set_faults, wait_for,
};

/// The project.
pub struct Bench<'a> {
    stack: &'a Stack,
    fanout: Fanout,
    settings: Settings,
    stub: Stub,
    producer: Producer,
}

impl<'a> Bench<'a> {
    /// Makes its tables and starts its external system.
    pub fn new(stack: &'a Stack, project: &str) -> Self {
        Self::on(stack, project, stack.stores.url("FANOUT_CLICKHOUSE_URL"))
    }

    /// The same with its tables in another ClickHouse.
    pub fn on(stack: &'a Stack, project: &str, clickhouse: &str) -> Self {
        let name = project.parse().expect("a name");
        let mut settings = Settings::for_project(&name);
        settings.clickhouse.url = clickhouse.into();
        wait_for(objects::clickhouse(&Connections::of(&settings))).expect("the tables");
        let data = stack.fanout.home().join(format!("stub-of-{project}"));
        fs::create_dir(&data).expect("a folder");
        let stub = Stub::start(stack, &data);
        let mut fanout = stack.fanout.with("FANOUT_PROJECT", project);
        for (variable, url) in stack.stores.servers() {
            fanout = fanout.with(variable, url);
        }
        Self {
            fanout: fanout
                .with("FANOUT_EXTERNAL_URL", &stub.url)
                .with("FANOUT_CLICKHOUSE_URL", clickhouse),
            stack,
            settings,
            stub,
            producer: Producer::new(stack),
        }
    }

    pub fn stack(&self) -> &Stack {
        self.stack
    }

    pub fn fanout(&self) -> &Fanout {
        &self.fanout
    }

    /// Where its external system is.
    pub fn external(&self) -> &str {
        &self.stub.url
    }

    /// First part of its topics' names.
    pub fn prefix(&self) -> &str {
        &self.settings.kafka.topic_prefix
    }

    pub fn events_topic(&self) -> String {
        format!("{}.public.engagement_events", self.prefix())
    }

    /// The group of one of its sinks.
    pub fn group(&self, sink: &str) -> String {
        format!("{}-{sink}", self.settings.kafka.group_prefix)
    }

    pub fn letters_topic(&self) -> String {
        self.settings.kafka.dead_letter_topic.clone()
    }

    /// Starts its pipeline and waits until every sink is past its start, so
    /// that the topics are there.
    pub fn run(&self, arguments: &[&str]) -> Worker {
        let worker = Worker::start(self.stack, &self.fanout, arguments);
        eventually("every sink runs", || {
            let status = worker.status();
            let sinks = status["sinks"].as_array().expect("sinks");
            let run = sinks.iter().all(|sink| sink["state"] == "running");
            run.then_some(())
                .ok_or_else(|| format!("{status:#}\n{}", worker.said()))
        });
        worker
    }

    /// Starts its pipeline with the HTTP sink alone beside ClickHouse's, which may
    /// halt.
    pub fn run_halted(&self) -> Worker {
        Worker::start(self.stack, &self.fanout, &["--sinks", "clickhouse,http"])
    }

    /// The command line of a board of seconds over the same topics.
    pub fn seconds(&self) -> Worker {
        let fanout = self
            .fanout
            .with("FANOUT_KAFKA_GROUP_PREFIX", "seconds")
            .with("FANOUT_KAFKA_DEAD_LETTER_TOPIC", "seconds.dlq")
            .with("FANOUT_BOARD_KEY", "seconds")
            .with("FANOUT_BOARD_SCORE", "seconds");
        Worker::start(self.stack, &fanout, &["--sinks", "redis"])
    }

    /// Writes into a partition of the events' topic.
    pub fn event(&self, partition: i32, record: &Record) -> Written {
        self.producer.write(&self.events_topic(), partition, record)
    }

    /// Writes into the topic of dead letters.
    pub fn letter(&self, record: &Record, headers: &[(&str, String)]) -> Written {
        let topic = &self.settings.kafka.dead_letter_topic;
        self.producer.write_with(topic, 0, record, headers)
    }

    pub fn state_topic(&self) -> &str {
        &self.settings.kafka.state_topic
    }

    /// Removes a key from its state topic.
    pub fn forget(&self, key: &str) {
        let record = Record {
            key: Some(key.as_bytes().to_vec()),
            value: None,
        };
        self.producer.write(self.state_topic(), 0, &record);
    }

    /// A statement in its database.
    pub fn clickhouse(&self, question: &str) -> String {
        let database = &self.settings.clickhouse.database;
        let question = question.replace("{db}", database);
        let url = &self.settings.clickhouse.url;
        Stores::clickhouse_at(url.reveal(), &question)
            .trim()
            .to_owned()
    }

    /// How its external system misbehaves from now on.
    pub fn set_faults(&self, faults: &Json) {
        let url = format!("{}/faults", self.stub.url);
        let client = reqwest::Client::new();
        let answer = wait_for(client.put(url).json(faults).send()).expect("the stub");
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// One past the last record of a partition of the events' topic.
    pub fn end(&self, partition: usize) -> i64 {
        Topics::of(self.stack).ends(&self.events_topic())[partition]
    }

    /// Writes the insert of an event.
    pub fn insert(&self, partition: i32, id: i64) -> Written {
        self.event(partition, &Record::insert(self.prefix(), id))
    }

    /// Removes records as retention would.
    pub fn delete_before(&self, partition: i32, offset: i64) {
        Topics::of(self.stack).delete_before(&self.events_topic(), partition, offset);
    }

    /// Writes into the content topic.
    pub fn content(&self, record: &Record) {
        let topic = format!("{}.public.content", self.prefix());
        self.producer.write(&topic, 0, record);
    }

    /// The rows of its view.
    pub fn rows(&self, condition: &str) -> Vec<Json> {
        let database = &self.settings.clickhouse.database;
        self.stack.stores.rows(database, condition)
    }

    /// Orders failures of its external system, in place of those before:
    /// `status=503&retry_after_seconds=1`, or nothing for none.
    pub fn faults(&self, query: &str) {
        set_faults(&self.stub.url, query);
    }

    /// What its external system has accepted.
    pub fn accepted(&self) -> Vec<Json> {
        accepted_by(&self.stub.url)
    }
}
