//! Topics as things: made where they are missing, listed, removed with the
//! groups that read them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, OwnedResourceSpecifier,
        ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    topic_partition_list::TopicPartitionListElem,
};

use super::Kafka;

/// How long a broker may take to do what it is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// A topic as it should be created.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub replication: u16,
    /// Topic settings by their Kafka names.
    pub config: Vec<(String, String)>,
}

/// The settings of a topic that is there, by their Kafka names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// As they are in force.
    values: BTreeMap<String, String>,
    /// Those that were set for this topic.
    own: BTreeSet<String>,
}

impl TopicConfig {
    /// A setting's value; none where the broker does not know it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The settings that were set for this topic.
    pub fn own(&self) -> impl Iterator<Item = (&str, &str)> {
        self.own
            .iter()
            .filter_map(|name| Some((name.as_str(), self.get(name)?)))
    }
}

/// Settings that are all in force and none the topic's own.
impl FromIterator<(String, String)> for TopicConfig {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(values: I) -> Self {
        Self {
            values: values.into_iter().collect(),
            own: BTreeSet::new(),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE))
}

/// What is done to topics and groups, each by a client of its own.
impl Kafka {
    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.client_config().set("log_level", "3").create()
    }

    /// The names of all topics and of all consumer groups. Blocking.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn list_topics_and_groups(&self) -> Result<(Vec<String>, Vec<String>), KafkaError> {
        let admin = self.admin()?;
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
    pub async fn delete_topics(&self, names: &[String]) -> Result<(), KafkaError> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if names.is_empty() {
            return Ok(());
        }
        for result in self.admin()?.delete_topics(&names, &options()).await? {
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
        &self,
        topic: &str,
        offsets: &[(i32, i64)],
    ) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for &(partition, offset) in offsets {
            list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        }
        let deleted = self.admin()?.delete_records(&list, &options()).await?;
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
    pub async fn delete_groups(&self, names: &[String]) -> Result<(), KafkaError> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if names.is_empty() {
            return Ok(());
        }
        for result in self.admin()?.delete_groups(&names, &options()).await? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
                Err((_, code)) => return Err(KafkaError::AdminOp(code)),
            }
        }
        Ok(())
    }

    /// Creates those of `topics` that do not exist; leaves the others as they are.
    pub async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), KafkaError> {
        // librdkafka refuses an empty request.
        if topics.is_empty() {
            return Ok(());
        }
        let admin = self.admin()?;
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|topic| NewTopic {
                name: &topic.name,
                num_partitions: topic.partitions,
                replication: TopicReplication::Fixed(i32::from(topic.replication)),
                config: topic
                    .config
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
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

    /// The settings of these topics, of those that are there.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn topic_configs(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, TopicConfig>, KafkaError> {
        let topics: Vec<ResourceSpecifier<'_>> = names
            .iter()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let described = self.admin()?.describe_configs(&topics, &options()).await?;
        let mut configs = BTreeMap::new();
        for resource in described {
            let resource = match resource {
                Ok(resource) => resource,
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => continue,
                Err(code) => return Err(KafkaError::AdminOp(code)),
            };
            let OwnedResourceSpecifier::Topic(name) = resource.specifier else {
                continue;
            };
            let mut config = TopicConfig::default();
            for entry in resource.entries {
                let Some(value) = entry.value else { continue };
                if entry.source == ConfigSource::DynamicTopic {
                    config.own.insert(entry.name.clone());
                }
                config.values.insert(entry.name, value);
            }
            configs.insert(name, config);
        }
        Ok(configs)
    }

    /// Sets settings of a topic; `found` is what [`Self::topic_configs`] said of it.
    ///
    /// # Errors
    /// When no broker answers, or it is refused.
    pub async fn set_topic_config(
        &self,
        name: &str,
        found: &TopicConfig,
        changes: &[(&str, &str)],
    ) -> Result<(), KafkaError> {
        // What is left out would go back to its default.
        let kept = found
            .own()
            .filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        let mut config = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (name, value) in kept.chain(changes.iter().copied()) {
            config = config.set(name, value);
        }
        for altered in self.admin()?.alter_configs([&config], &options()).await? {
            altered.map_err(|(_, code)| KafkaError::AdminOp(code))?;
        }
        Ok(())
    }
}
