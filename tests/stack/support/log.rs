//! Direct access to the log: writes and reads records.

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

/// The key and value of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// Returns a record that cannot be decoded.
    pub fn undecodable() -> Self {
        Self {
            key: None,
            value: Some(b"{".to_vec()),
        }
    }

    /// Returns the insert of an event as the connector with this prefix writes
    /// it.
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

/// The position of a written record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written {
    pub partition: i32,
    pub offset: i64,
}

/// Timeout of one request to the broker.
const TIMEOUT: Duration = Duration::from_secs(20);

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

    /// Appends one record to one partition and waits for the acknowledgement.
    pub fn write(&self, topic: &str, partition: i32, record: &Record) -> Written {
        self.write_with(topic, partition, record, &[])
    }

    /// Appends one record with headers.
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
        let delivered = wait_for(self.0.send(message, Timeout::After(TIMEOUT)));
        let delivered = delivered.unwrap_or_else(|(error, _)| panic!("{topic}: {error}"));
        Written {
            partition: delivered.partition,
            offset: delivered.offset,
        }
    }
}

/// Changes topics and groups as an operator or retention would.
pub struct Topics<'a> {
    stack: &'a Stack,
    admin: AdminClient<DefaultClientContext>,
}

impl<'a> Topics<'a> {
    pub fn new(stack: &'a Stack) -> Self {
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
        AdminOptions::new().operation_timeout(Some(TIMEOUT))
    }

    /// Deletes the records of a partition before an offset, as retention would.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .expect("a partition");
        let deleted = self.admin.delete_records(&list, &Self::options());
        let deleted = wait_for(deleted).expect("the broker responds");
        for element in deleted.elements() {
            element
                .error()
                .unwrap_or_else(|error| panic!("{topic}: {error}"));
        }
    }

    /// Sets the cleanup policy of a topic, with the other settings of a source
    /// topic.
    pub fn set_cleanup(&self, topic: &str, policy: &str) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic))
            .set("message.timestamp.type", "LogAppendTime")
            .set("max.message.bytes", "67108864")
            .set("cleanup.policy", policy);
        let altered = wait_for(self.admin.alter_configs([&config], &Self::options()));
        for result in altered.expect("the broker responds") {
            result.unwrap_or_else(|(_, code)| panic!("{topic}: {code}"));
        }
    }

    /// Deletes a topic and creates it again with the same name.
    pub fn recreate(&self, topic: &str, partitions: i32) {
        let deleted = wait_for(self.admin.delete_topics(&[topic], &Self::options()));
        deleted.expect("the broker responds");
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
        eventually(&format!("{topic} is recreated"), || {
            let created = wait_for(self.admin.create_topics([&new], &Self::options()));
            let created = created.map_err(|error| error.to_string())?;
            match &created[0] {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
                Err((_, code)) => Err(code.to_string()),
            }
        });
    }

    /// Increases the number of partitions of a topic.
    pub fn add_partitions(&self, topic: &str, partitions: usize) {
        let more = NewPartitions::new(topic, partitions);
        let added = wait_for(self.admin.create_partitions([&more], &Self::options()));
        for result in added.expect("the broker responds") {
            result.expect("the partitions");
        }
    }

    /// Deletes groups. Fails for a group that has members.
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

    /// Returns the ids of a group's members, or an error unless the group is
    /// stable.
    pub fn members(&self, group: &str) -> Result<Vec<String>, String> {
        let list = self.admin.inner().fetch_group_list(Some(group), TIMEOUT);
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

    /// Creates a client that reads and commits a group's offsets without
    /// joining the group.
    fn group_client(&self, group: &str) -> BaseConsumer {
        ClientConfig::new()
            .set(
                "bootstrap.servers",
                self.stack.stores.url("FANOUT_KAFKA_BROKERS"),
            )
            .set("group.id", group)
            .create()
            .expect("a consumer")
    }

    /// Commits for a group without members, as another tool or a former lease
    /// holder would.
    pub fn commit(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
        (offset, metadata): (i64, &str),
    ) {
        let consumer = self.group_client(group);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .expect("a partition");
        list.find_partition(topic, partition)
            .expect("just added")
            .set_metadata(metadata);
        eventually(&format!("{group} has a coordinator"), || {
            let committed = consumer.commit(&list, CommitMode::Sync);
            committed.map_err(|error| error.to_string())
        });
    }

    /// Returns the offset and metadata that a group has committed for each
    /// partition of a topic.
    pub fn commits(&self, group: &str, topic: &str) -> Vec<(i64, String)> {
        let consumer = self.group_client(group);
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT);
        let metadata = metadata.unwrap_or_else(|error| panic!("{topic}: {error}"));
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition(topic, partition.id());
        }
        let committed = eventually(&format!("{group} has a coordinator"), || {
            let committed = consumer.committed_offsets(list.clone(), TIMEOUT);
            committed.map_err(|error| error.to_string())
        });
        let elements = committed.elements();
        let commit = elements.iter().map(|element| {
            let offset = element.offset().to_raw().unwrap_or(-1);
            (offset.max(-1), element.metadata().to_owned())
        });
        commit.collect()
    }

    /// Returns the end offset of each partition.
    pub fn end_offsets(&self, topic: &str) -> Vec<i64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set(
                "bootstrap.servers",
                self.stack.stores.url("FANOUT_KAFKA_BROKERS"),
            )
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer");
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT);
        let metadata = metadata.unwrap_or_else(|error| panic!("{topic}: {error}"));
        let partitions = metadata.topics()[0].partitions().iter();
        let end = |partition: i32| {
            let bounds = consumer.fetch_watermarks(topic, partition, TIMEOUT);
            bounds.unwrap_or_else(|error| panic!("{topic}: {error}")).1
        };
        partitions.map(|partition| end(partition.id())).collect()
    }
}

/// Returns all records that a topic has now, partition by partition.
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
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT);
    let metadata = metadata.unwrap_or_else(|error| panic!("{topic}: {error}"));
    let partitions = metadata.topics()[0].partitions();
    let mut start = TopicPartitionList::new();
    for partition in partitions {
        start
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .expect("a partition");
    }
    consumer.assign(&start).expect("an assignment");
    let mut records = Vec::new();
    let mut unread: BTreeSet<i32> = partitions.iter().map(MetadataPartition::id).collect();
    while !unread.is_empty() {
        match consumer.poll(TIMEOUT) {
            Some(Ok(message)) => records.push(Record {
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
            }),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => panic!("{topic}: {error}"),
            None => panic!("{topic}: the end was not reached"),
        }
    }
    records
}
