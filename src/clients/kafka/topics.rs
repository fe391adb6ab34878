//! Topics as things: made where they are missing, listed, removed with the
//! groups that read them.

use std::time::Duration;

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};

/// How long a broker may take to do what it is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// A topic as it should be created.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    /// Topic settings by their Kafka names.
    pub config: Vec<(&'static str, String)>,
}

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("log_level", "3")
        .create()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE))
}

/// The names of all topics and of all consumer groups. Blocking.
///
/// # Errors
/// When no broker answers.
pub fn list_topics_and_groups(brokers: &str) -> Result<(Vec<String>, Vec<String>), KafkaError> {
    let admin = admin(brokers)?;
    let metadata = admin.inner().fetch_metadata(None, PATIENCE)?;
    let groups = admin.inner().fetch_group_list(None, PATIENCE)?;
    let topics = metadata
        .topics()
        .iter()
        .map(|topic| topic.name().to_owned());
    let groups = groups.groups().iter().map(|group| group.name().to_owned());
    Ok((topics.collect(), groups.collect()))
}

/// Deletes topics; one that is not there is no error.
///
/// # Errors
/// When no broker answers or one is refused.
pub async fn delete_topics(brokers: &str, names: &[String]) -> Result<(), KafkaError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        return Ok(());
    }
    for result in admin(brokers)?.delete_topics(&names, &options()).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
        }
    }
    Ok(())
}

/// Deletes the records of partitions that stand before an offset.
///
/// # Errors
/// When no broker answers or it is refused.
pub async fn delete_before(
    brokers: &str,
    topic: &str,
    offsets: &[(i32, i64)],
) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for &(partition, offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    let deleted = admin(brokers)?.delete_records(&list, &options()).await?;
    // What is wrong is said of each partition, also where it is of all.
    deleted
        .elements()
        .iter()
        .try_for_each(TopicPartitionListElem::error)
}

/// Deletes consumer groups; one that is not there is no error.
///
/// # Errors
/// When no broker answers, or a group still has members.
pub async fn delete_groups(brokers: &str, names: &[String]) -> Result<(), KafkaError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        return Ok(());
    }
    for result in admin(brokers)?.delete_groups(&names, &options()).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
        }
    }
    Ok(())
}

/// Creates those of `topics` that do not exist; leaves the others as they are.
pub async fn ensure_topics(
    brokers: &str,
    replication: u16,
    topics: &[TopicSpec],
) -> Result<(), KafkaError> {
    let admin = admin(brokers)?;
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|topic| NewTopic {
            name: &topic.name,
            num_partitions: topic.partitions,
            replication: TopicReplication::Fixed(i32::from(replication)),
            config: topic
                .config
                .iter()
                .map(|(key, value)| (*key, value.as_str()))
                .collect(),
        })
        .collect();
    for result in admin.create_topics(&new, &options()).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
        }
    }
    Ok(())
}
