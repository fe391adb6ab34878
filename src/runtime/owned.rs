//! What fanout owns in Kafka: its topics, those of its connector, and the
//! consumer groups of the pipeline.

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use tokio::task::{JoinError, spawn_blocking};

use super::{lives_group, mended_group};
use crate::{
    config::{Settings, project::Project},
    connections::Connections,
    failure::{Failure, Kind},
    kafka::{Kafka, KafkaError},
    sink_kind::ConsumerGroup,
    source::{
        RecordsError,
        topics::{names, specs},
    },
    stack::owned::{Change, ExternalError, Object, Owned, OwnedError, Removal, Removing, Upcoming},
};

const SERVICE: &str = "kafka";

/// Kinds of objects.
const TOPIC: &str = "topic";
const GROUP: &str = "group";

/// The objects in Kafka.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KafkaObjects;

impl Owned for KafkaObjects {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn removal(&self) -> Removal {
        Removal::Last
    }

    fn objects<'a>(
        &'a self,
        connections: &'a Connections,
        project: &'a Project,
    ) -> BoxFuture<'a, Result<Vec<Object>, OwnedError>> {
        Box::pin(objects(connections, project))
    }

    fn changes<'a>(&'a self, up: Upcoming<'a>) -> BoxFuture<'a, Result<Vec<Change>, OwnedError>> {
        Box::pin(changes(up))
    }

    fn remove<'a>(
        &'a self,
        objects: &'a [Object],
        reset: Removing<'a>,
    ) -> BoxFuture<'a, Result<(), OwnedError>> {
        Box::pin(remove(objects, &reset.connections.kafka))
    }
}

fn external(error: KafkaError) -> OwnedError {
    ExternalError::server(SERVICE, error).into()
}

fn named(objects: &[Object], kind: &str) -> Vec<String> {
    let of_kind = objects.iter().filter(|object| object.kind == kind);
    of_kind.map(|object| object.name.clone()).collect()
}

async fn objects(connections: &Connections, project: &Project) -> Result<Vec<Object>, OwnedError> {
    let (settings, kafka) = (connections.settings(), connections.kafka.clone());
    let listed = spawn_blocking(move || kafka.list_topics_and_groups()).await;
    let (topics, groups) = listed.map_err(ExternalError::Task)?.map_err(external)?;
    let (own_topics, own_groups) = (own_topics(project, settings), own_groups(settings));
    let topics = topics
        .into_iter()
        .filter(|name| own_topics.contains(name))
        .map(|name| Object::new(SERVICE, TOPIC, name));
    let groups = groups
        .into_iter()
        .filter(|name| own_groups.contains(name))
        .map(|name| Object::new(SERVICE, GROUP, name));
    Ok(topics.chain(groups).collect())
}

/// In a Kafka that fanout runs, the topics need no review.
async fn changes(up: Upcoming<'_>) -> Result<Vec<Change>, OwnedError> {
    if !up.is_external(SERVICE) || !up.includes("connect") {
        return Ok(Vec::new());
    }
    let missing = missing_topics(up).await?.into_iter();
    let changes = missing.map(|topic| Change::new(creation(&topic)));
    Ok(changes.collect())
}

/// Removes the groups first, then the topics.
async fn remove(objects: &[Object], kafka: &Kafka) -> Result<(), OwnedError> {
    let (groups, topics) = (named(objects, GROUP), named(objects, TOPIC));
    kafka.delete_groups(&groups).await.map_err(external)?;
    kafka.delete_topics(&topics).await.map_err(external)?;
    Ok(())
}

/// Returns the names of all topics of the project. Another connector may share
/// the prefix, so no other topic with it belongs to the project.
fn own_topics(project: &Project, settings: &Settings) -> BTreeSet<String> {
    let topics = names(settings).into_iter();
    topics.chain(connect_topics(project)).collect()
}

/// Returns the names of the topics in which a Connect that fanout runs stores
/// its state.
fn connect_topics(project: &Project) -> [String; 3] {
    ["configs", "offsets", "status"].map(|inner| format!("{project}-connect-{inner}"))
}

/// Returns the names of the groups that the pipeline commits for.
fn own_groups(settings: &Settings) -> BTreeSet<String> {
    let prefix = &settings.kafka.group_prefix;
    let mut groups = BTreeSet::new();
    for group in ConsumerGroup::ALL {
        groups.insert(group.id(prefix));
        groups.extend(note_groups(prefix, group));
    }
    groups
}

/// Returns the names of the groups in which earlier releases stored their notes
/// about this group.
fn note_groups(prefix: &str, group: ConsumerGroup) -> Vec<String> {
    match group {
        ConsumerGroup::Board => vec![mended_group(prefix, group)],
        ConsumerGroup::Http => vec![mended_group(prefix, group), lives_group(prefix, group)],
        ConsumerGroup::Facts | ConsumerGroup::Content => Vec::new(),
    }
}

/// Returns the missing topics that this `up`, or a service that it starts, will
/// create.
///
/// # Errors
/// If no broker responds.
pub(crate) async fn missing_topics(up: Upcoming<'_>) -> Result<Vec<String>, OwnedError> {
    let settings = &up.blueprint.settings;
    let kafka = up.connections.kafka.clone();
    let listed = spawn_blocking(move || kafka.list_topics_and_groups()).await;
    let listed = listed.map_err(|error| OwnedError::new(LostTask(error)))?;
    let (existing, _) = listed.map_err(|error| OwnedError::new(RecordsError::from(error)))?;
    let mut missing = if up.blueprint.state.has_agreed(SERVICE) {
        // The connector creates the others when it first needs them.
        let specs = specs(settings).into_iter();
        specs.map(|spec| spec.name).collect()
    } else {
        own_topics(&up.site.project, settings)
    };
    if !up.includes("connect") || up.is_external("connect") {
        let inner = connect_topics(&up.site.project);
        missing.retain(|topic| !inner.contains(topic));
    }
    missing.retain(|topic| !existing.contains(topic));
    Ok(missing.into_iter().collect())
}

/// Describes the creation of a topic.
#[must_use]
pub(crate) fn creation(topic: &str) -> String {
    format!("create topic {topic}")
}

/// Error for a request whose task panicked or was cancelled.
#[derive(Debug, thiserror::Error)]
#[error("a task of this program was lost")]
struct LostTask(#[source] JoinError);

impl Failure for LostTask {
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    fn code(&self) -> &'static str {
        "task"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_project_makes_is_its_own() {
        let topics = own_topics(&Project::default(), &Settings::default());
        for ours in [
            "cdc.public.content",
            "cdc.public.engagement_events",
            "cdc.public.debezium_signal",
            "cdc.message",
            "cdc.notifications",
            "__debezium-heartbeat.cdc",
            "fanout.dlq",
            "fanout-connect-offsets",
        ] {
            assert!(topics.contains(ours), "{ours} is not in {topics:?}");
        }
        for others in ["cdc.public.orders", "cdc.billing.invoices", "cdc"] {
            assert!(!topics.contains(others), "{others} is somebody else's");
        }
        let groups: Vec<String> = own_groups(&Settings::default()).into_iter().collect();
        assert_eq!(
            groups,
            [
                "fanout-clickhouse",
                "fanout-content",
                "fanout-http",
                "fanout-http-lives",
                "fanout-http-mended",
                "fanout-redis",
                "fanout-redis-mended",
            ]
        );
    }
}
