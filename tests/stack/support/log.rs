//! The log, written to and read directly.

use std::{collections::BTreeSet, time::Duration};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
        TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    metadata::MetadataPartition,
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};

use serde_json::json;

use super::{Stack, eventually, wait_for};

/// A record's bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// What nobody understands.
    pub fn garbage() -> Self {
        Self {
            key: None,
            value: Some(b"{".to_vec()),
        }
    }

    /// An event as the connector of this prefix writes its insert.
    pub fn insert(prefix: &str, id: i64) -> Self {
        let now = jiff::Timestamp::now();
        let value = json!({
            "before": null,
            "after": {
                "id": id, "content_id": null, "user_id": null, "event_type": "play",
                "event_ts": now.to_string(), "duration_ms": 1500, "device": "ios",
                "raw_payload": null,
            },
            "source": {
                "connector": "postgresql", "name": prefix, "snapshot": "false", "db": "app",
                "schema": "public", "table": "engagement_events", "lsn": 1000 + id,
            },
            "op": "c",
            "ts_ms": now.as_millisecond(),
        });
        Self {
            key: Some(json!({ "id": id }).to_string().into_bytes()),
            value: Some(value.to_string().into_bytes()),
        }
    }
}

/// Where a record came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written {
    pub partition: i32,
    pub offset: i64,
}

/// How long one question to the broker may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Writes records as the connector would.
pub struct Producer(FutureProducer);

impl Producer {
    pub fn new(stack: &Stack) -> Self {
        let producer = ClientConfig::new()
            .set(
                "bootstrap.servers",
                stack.stores.url("FANOUT_KAFKA_BROKERS"),
            )
            .set("enable.idempotence", "true")
            .set("message.max.bytes", (64 * 1024 * 1024).to_string())
            .create();
        Self(producer.expect("a producer"))
    }

    /// Appends one record to one partition and waits until it is there.
    pub fn write(&self, topic: &str, partition: i32, record: &Record) -> Written {
        self.write_with(topic, partition, record, &[])
    }

    /// The same with headers.
    pub fn write_with(
        &self,
        topic: &str,
        partition: i32,
        record: &Record,
        headers: &[(&str, String)],
    ) -> Written {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| {
                let value = Some(value);
                headers.insert(Header { key, value })
            });
        let mut message: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic)
            .partition(partition)
            .headers(headers);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        let delivered = wait_for(self.0.send(message, Timeout::After(PATIENCE)));
        let delivered = delivered.unwrap_or_else(|(error, _)| panic!("{topic}: {error}"));
        Written {
            partition: delivered.partition,
            offset: delivered.offset,
        }
    }
}

/// Does to topics and groups what only an operator, or time, does.
pub struct Topics<'a> {
    stack: &'a Stack,
    admin: AdminClient<DefaultClientContext>,
}

impl<'a> Topics<'a> {
    pub fn of(stack: &'a Stack) -> Self {
        let brokers = stack.stores.url("FANOUT_KAFKA_BROKERS");
        let admin = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .create();
        Self {
            stack,
            admin: admin.expect("an admin"),
        }
    }

    fn options() -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(PATIENCE))
    }

    /// Removes the records of a partition before an offset, as retention would.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .expect("a partition");
        let deleted = self.admin.delete_records(&list, &Self::options());
        let deleted = wait_for(deleted).expect("the broker answers");
        for element in deleted.elements() {
            element
                .error()
                .unwrap_or_else(|error| panic!("{topic}: {error}"));
        }
    }

    /// Gives a topic this clean-up policy, and otherwise the settings of a source
    /// topic.
    pub fn set_cleanup(&self, topic: &str, policy: &str) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic))
            .set("message.timestamp.type", "LogAppendTime")
            .set("max.message.bytes", "67108864")
            .set("cleanup.policy", policy);
        let altered = wait_for(self.admin.alter_configs([&config], &Self::options()));
        for result in altered.expect("the broker answers") {
            result.unwrap_or_else(|(_, code)| panic!("{topic}: {code}"));
        }
    }

    /// Deletes a topic and makes one of the same name.
    pub fn recreate(&self, topic: &str, partitions: i32) {
        let deleted = wait_for(self.admin.delete_topics(&[topic], &Self::options()));
        deleted.expect("the broker answers");
        let settings = [
            ("message.timestamp.type", "LogAppendTime"),
            ("max.message.bytes", "67108864"),
        ];
        let new = NewTopic {
            name: topic,
            num_partitions: partitions,
            replication: TopicReplication::Fixed(1),
            config: settings.into(),
        };
        eventually(&format!("{topic} is there again"), || {
            let made = wait_for(self.admin.create_topics([&new], &Self::options()));
            let made = made.map_err(|error| error.to_string())?;
            match &made[0] {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
                Err((_, code)) => Err(code.to_string()),
            }
        });
    }

    /// Gives a topic more partitions.
    pub fn add_partitions(&self, topic: &str, partitions: usize) {
        let more = NewPartitions::new(topic, partitions);
        let added = wait_for(self.admin.create_partitions([&more], &Self::options()));
        for result in added.expect("the broker answers") {
            result.expect("the partitions");
        }
    }

    /// Deletes groups; those with members cannot be.
    pub fn delete_groups(&self, groups: &[&str]) -> Result<(), String> {
        let deleted = wait_for(self.admin.delete_groups(groups, &Self::options()));
        for result in deleted.map_err(|error| error.to_string())? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
                Err((group, code)) => return Err(format!("{group}: {code}")),
            }
        }
        Ok(())
    }

    /// The ids of a group's members, where it is at rest.
    pub fn members(&self, group: &str) -> Result<Vec<String>, String> {
        let list = self.admin.inner().fetch_group_list(Some(group), PATIENCE);
        let list = list.map_err(|error| error.to_string())?;
        let found = list.groups().iter().find(|found| found.name() == group);
        let found = found.ok_or("no such group")?;
        if found.state() != "Stable" {
            return Err(found.state().to_owned());
        }
        let members = found.members().iter();
        let mut ids: Vec<String> = members.map(|member| member.id().to_owned()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Asks and commits for a group, and does not join it.
    fn of_group(&self, group: &str) -> BaseConsumer {
        ClientConfig::new()
            .set(
                "bootstrap.servers",
                self.stack.stores.url("FANOUT_KAFKA_BROKERS"),
            )
            .set("group.id", group)
            .create()
            .expect("a consumer")
    }

    /// Commits for a group without members, as another tool would, or a worker
    /// whose time is over.
    pub fn commit(&self, group: &str, topic: &str, partition: i32, (offset, says): (i64, &str)) {
        let consumer = self.of_group(group);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .expect("a partition");
        list.find_partition(topic, partition)
            .expect("just added")
            .set_metadata(says);
        eventually(&format!("{group} has a coordinator"), || {
            let committed = consumer.commit(&list, CommitMode::Sync);
            committed.map_err(|error| error.to_string())
        });
    }

    /// What a group has committed of each partition of a topic, with what it
    /// says to that.
    pub fn commits(&self, group: &str, topic: &str) -> Vec<(i64, String)> {
        let consumer = self.of_group(group);
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE);
        let metadata = metadata.unwrap_or_else(|error| panic!("{topic}: {error}"));
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition(topic, partition.id());
        }
        let committed = eventually(&format!("{group} has a coordinator"), || {
            let committed = consumer.committed_offsets(list.clone(), PATIENCE);
            committed.map_err(|error| error.to_string())
        });
        let elements = committed.elements();
        let commit = elements.iter().map(|element| {
            let offset = element.offset().to_raw().unwrap_or(-1);
            (offset.max(-1), element.metadata().to_owned())
        });
        commit.collect()
    }

    /// One past the last committed record of each partition.
    pub fn ends(&self, topic: &str) -> Vec<i64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set(
                "bootstrap.servers",
                self.stack.stores.url("FANOUT_KAFKA_BROKERS"),
            )
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE);
        let metadata = metadata.unwrap_or_else(|error| panic!("{topic}: {error}"));
        let partitions = metadata.topics()[0].partitions().iter();
        let end = |partition: i32| {
            let bounds = consumer.fetch_watermarks(topic, partition, PATIENCE);
            bounds.unwrap_or_else(|error| panic!("{topic}: {error}")).1
        };
        partitions.map(|partition| end(partition.id())).collect()
    }
}

/// All that stands in a topic now, partition by partition.
pub fn records(stack: &Stack, topic: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set(
            "bootstrap.servers",
            stack.stores.url("FANOUT_KAFKA_BROKERS"),
        )
        .set("group.id", "fanout-tests")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE);
    let metadata = metadata.unwrap_or_else(|error| panic!("{topic}: {error}"));
    let partitions = metadata.topics()[0].partitions();
    let mut from_the_start = TopicPartitionList::new();
    for partition in partitions {
        from_the_start
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .expect("a partition");
    }
    consumer.assign(&from_the_start).expect("an assignment");
    let mut records = Vec::new();
    let mut unread: BTreeSet<i32> = partitions.iter().map(MetadataPartition::id).collect();
    while !unread.is_empty() {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => records.push(Record {
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
            }),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => panic!("{topic}: {error}"),
            None => panic!("{topic}: its end did not come"),
        }
    }
    records
}
