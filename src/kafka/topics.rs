//! Management of topics: creating missing topics, listing topics, and deleting them together
//! with the groups that read them.

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

/// Timeout of an administrative request.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Specification of a topic to create.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub replication: u16,
    /// Topic settings by their Kafka names.
    pub config: Vec<(String, String)>,
}

/// Settings of an existing topic, by their Kafka names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// The effective values.
    values: BTreeMap<String, String>,
    /// Names of the settings that were set for this topic.
    overrides: BTreeSet<String>,
}

impl TopicConfig {
    /// Returns a setting's value, or `None` if the broker does not know it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Returns the settings that were set for this topic.
    pub fn overrides(&self) -> impl Iterator<Item = (&str, &str)> {
        self.overrides
            .iter()
            .filter_map(|name| Some((name.as_str(), self.get(name)?)))
    }
}

/// Collects effective settings, none of which is set for the topic itself.
impl FromIterator<(String, String)> for TopicConfig {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(values: I) -> Self {
        Self {
            values: values.into_iter().collect(),
            overrides: BTreeSet::new(),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ADMIN_TIMEOUT))
}

/// Administrative operations on topics and groups. Each operation creates a client.
impl Kafka {
    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.client_config().set("log_level", "3").create()
    }

    /// Returns the names of all topics and of all consumer groups. Blocking.
    ///
    /// # Errors
    /// If no broker responds.
    pub fn list_topics_and_groups(&self) -> Result<(Vec<String>, Vec<String>), KafkaError> {
        let admin = self.admin()?;
        let metadata = admin.inner().fetch_metadata(None, ADMIN_TIMEOUT)?;
        let groups = admin.inner().fetch_group_list(None, ADMIN_TIMEOUT)?;
        let topics = metadata
            .topics()
            .iter()
            .map(|topic| topic.name().to_owned());
        let groups = groups.groups().iter().map(|group| group.name().to_owned());
        Ok((topics.collect(), groups.collect()))
    }

    /// Deletes topics. Missing topics are not an error.
    ///
    /// # Errors
    /// If no broker responds or a deletion is refused.
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

    /// Deletes the records before an offset in each partition.
    ///
    /// # Errors
    /// If no broker responds or the deletion is refused.
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
        // Errors are reported for each partition, even if they concern the whole request.
        deleted
            .elements()
            .iter()
            .try_for_each(TopicPartitionListElem::error)
    }

    /// Deletes consumer groups. Missing groups are not an error.
    ///
    /// # Errors
    /// If no broker responds, or a group still has members.
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

    /// Creates the topics that do not exist. Existing topics are not changed.
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

    /// Returns the settings of those topics that exist.
    ///
    /// # Errors
    /// If no broker responds.
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
                    config.overrides.insert(entry.name.clone());
                }
                config.values.insert(entry.name, value);
            }
            configs.insert(name, config);
        }
        Ok(configs)
    }

    /// Changes settings of a topic. `found` is its result of [`Self::topic_configs`].
    ///
    /// # Errors
    /// If no broker responds, or the change is refused.
    pub async fn set_topic_config(
        &self,
        name: &str,
        found: &TopicConfig,
        changes: &[(&str, &str)],
    ) -> Result<(), KafkaError> {
        // A setting that is omitted would be reset to its default.
        let kept = found
            .overrides()
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
