//! A separate project on the stack's servers. No connector writes to its
//! topics, tables or board.

use std::fs;

use fanout::{config::Settings, connections::Connections, sinks::clickhouse::owned};
use serde_json::Value as Json;

use super::{
    Fanout, Producer, Record, Stack, Stores, Stub, Topics, Worker, Written, accepted_by,
    eventually, set_faults, wait_for,
};

/// The project with its external system and a producer for its topics.
pub struct Bench<'a> {
    stack: &'a Stack,
    fanout: Fanout,
    settings: Settings,
    stub: Stub,
    producer: Producer,
}

impl<'a> Bench<'a> {
    /// Creates the project's tables and starts its external system.
    pub fn new(stack: &'a Stack, project: &str) -> Self {
        Self::in_clickhouse(stack, project, stack.stores.url("FANOUT_CLICKHOUSE_URL"))
    }

    /// Creates the project with its tables in another ClickHouse.
    pub fn in_clickhouse(stack: &'a Stack, project: &str, clickhouse: &str) -> Self {
        let name = project.parse().expect("a project name");
        let mut settings = Settings::for_project(&name);
        settings.clickhouse.url = clickhouse.into();
        wait_for(owned::clickhouse(&Connections::of(&settings))).expect("create the tables");
        let data = stack.fanout.home().join(format!("stub-of-{project}"));
        fs::create_dir(&data).expect("create a folder");
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

    /// Returns the URL of the project's external system.
    pub fn external(&self) -> &str {
        &self.stub.url
    }

    /// Returns the prefix of the project's topics.
    pub fn prefix(&self) -> &str {
        &self.settings.kafka.topic_prefix
    }

    pub fn events_topic(&self) -> String {
        format!("{}.public.engagement_events", self.prefix())
    }

    /// Returns the consumer group of one of the project's sinks.
    pub fn group(&self, sink: &str) -> String {
        format!("{}-{sink}", self.settings.kafka.group_prefix)
    }

    pub fn dead_letter_topic(&self) -> String {
        self.settings.kafka.dead_letter_topic.clone()
    }

    /// Starts the project's pipeline and waits until every sink is running, so
    /// that the topics exist.
    pub fn run(&self, arguments: &[&str]) -> Worker {
        let worker = Worker::start(self.stack, &self.fanout, arguments);
        eventually("every sink runs", || {
            let status = worker.status();
            let sinks = status["sinks"].as_array().expect("sinks");
            let run = sinks.iter().all(|sink| sink["state"] == "running");
            run.then_some(())
                .ok_or_else(|| format!("{status:#}\n{}", worker.log_tail()))
        });
        worker
    }

    /// Starts the project's pipeline with the sinks `clickhouse` and `http`
    /// without waiting for them, because they may halt.
    pub fn run_halted(&self) -> Worker {
        Worker::start(self.stack, &self.fanout, &["--sinks", "clickhouse,http"])
    }

    /// Starts a pipeline that keeps a board of seconds from the same topics.
    pub fn run_seconds_board(&self) -> Worker {
        let fanout = self
            .fanout
            .with("FANOUT_KAFKA_GROUP_PREFIX", "seconds")
            .with("FANOUT_KAFKA_DEAD_LETTER_TOPIC", "seconds.dlq")
            .with("FANOUT_BOARD_KEY", "seconds")
            .with("FANOUT_BOARD_SCORE", "seconds");
        Worker::start(self.stack, &fanout, &["--sinks", "redis"])
    }

    /// Writes into a partition of the events topic.
    pub fn write_event(&self, partition: i32, record: &Record) -> Written {
        self.producer.write(&self.events_topic(), partition, record)
    }

    /// Writes into the dead-letter topic.
    pub fn write_dead_letter(&self, record: &Record, headers: &[(&str, String)]) -> Written {
        let topic = &self.settings.kafka.dead_letter_topic;
        self.producer.write_with(topic, 0, record, headers)
    }

    pub fn state_topic(&self) -> &str {
        &self.settings.kafka.state_topic
    }

    /// Deletes a key from the project's state topic.
    pub fn delete_state(&self, key: &str) {
        let record = Record {
            key: Some(key.as_bytes().to_vec()),
            value: None,
        };
        self.producer.write(self.state_topic(), 0, &record);
    }

    /// Executes a statement in the project's database.
    pub fn clickhouse(&self, statement: &str) -> String {
        let database = &self.settings.clickhouse.database;
        let statement = statement.replace("{db}", database);
        let url = &self.settings.clickhouse.url;
        Stores::clickhouse_at(url.reveal(), &statement)
            .trim()
            .to_owned()
    }

    /// Sets how the project's external system misbehaves from now on.
    pub fn set_faults(&self, faults: &Json) {
        let url = format!("{}/faults", self.stub.url);
        let client = reqwest::Client::new();
        let response = wait_for(client.put(url).json(faults).send()).expect("reach the stub");
        assert!(response.status().is_success(), "{response:?}");
    }

    /// Returns the end offset of a partition of the events topic.
    pub fn end_offset(&self, partition: usize) -> i64 {
        Topics::new(self.stack).end_offsets(&self.events_topic())[partition]
    }

    /// Writes the insert of an event.
    pub fn insert(&self, partition: i32, id: i64) -> Written {
        self.write_event(partition, &Record::insert(self.prefix(), id))
    }

    /// Deletes records as retention would.
    pub fn delete_before(&self, partition: i32, offset: i64) {
        Topics::new(self.stack).delete_before(&self.events_topic(), partition, offset);
    }

    /// Writes into the content topic.
    pub fn write_content(&self, record: &Record) {
        let topic = format!("{}.public.content", self.prefix());
        self.producer.write(&topic, 0, record);
    }

    /// Returns the rows of the project's view.
    pub fn rows(&self, condition: &str) -> Vec<Json> {
        let database = &self.settings.clickhouse.database;
        self.stack.stores.rows(database, condition)
    }

    /// Replaces the failures that the project's external system injects, for
    /// example `status=503&retry_after_seconds=1`. An empty query removes them.
    pub fn inject_faults(&self, query: &str) {
        set_faults(&self.stub.url, query);
    }

    /// Returns the calls that the project's external system has accepted.
    pub fn accepted(&self) -> Vec<Json> {
        accepted_by(&self.stub.url)
    }
}
