//! How far the sinks are behind, over all workers: by what their groups have
//! committed, whoever has the partitions.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::{
    connections::Connections,
    kafka::{Bounds, KafkaError},
    runtime::{
        status::{SinkStatus, Status},
        worker_status::PATIENCE,
    },
    sink_kind::ConsumerGroup,
    source::tables::{content_topic, events_topic, group},
};

/// Sink → offsets between what is committed and the end of its log, for the
/// sinks of which this worker has not all partitions; none where the broker
/// does not say. At most so many records are behind; 0 is exact.
pub(super) async fn of_all_workers(
    connections: &Connections,
    pipeline: Option<&Status>,
) -> BTreeMap<String, Option<u64>> {
    let sinks = pipeline.into_iter().flat_map(|status| &status.sinks);
    let asked = sinks.map(|sink| async move {
        let lag = match timeout(PATIENCE, of(connections, sink)).await {
            Ok(Ok(Some(lag))) => Some(lag),
            Ok(Ok(None)) => return None,
            Ok(Err(error)) => {
                tracing::debug!(%error, sink = %sink.name, "its lag is unknown");
                None
            }
            Err(_) => None,
        };
        Some((sink.name.clone(), lag))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// The same where the broker cannot be asked.
pub(super) fn unknown(pipeline: Option<&Status>) -> BTreeMap<String, Option<u64>> {
    let sinks = pipeline.into_iter().flat_map(|status| &status.sinks);
    sinks.map(|sink| (sink.name.clone(), None)).collect()
}

/// None where the worker knows it all by itself, or nobody does yet; so too for a
/// sink of another version that this one does not know.
async fn of(connections: &Connections, sink: &SinkStatus) -> Result<Option<u64>, KafkaError> {
    let Ok(kind) = sink.name.parse::<ConsumerGroup>() else {
        return Ok(None);
    };
    let settings = connections.settings();
    let topic = match kind {
        ConsumerGroup::Board | ConsumerGroup::Facts | ConsumerGroup::Http => events_topic(settings),
        ConsumerGroup::Content => content_topic(settings),
    };
    let log = connections.kafka.log(&group(settings, kind))?;
    let Some(partitions) = log.partitions(&topic).await? else {
        return Ok(None);
    };
    let partitions = usize::try_from(partitions).unwrap_or(0);
    if sink.partitions.len() >= partitions {
        return Ok(None);
    }
    let bounds = log.bounds(&topic).await?;
    let commits = log.commits(&topic, bounds.len()).await?;
    Ok(Some(behind(&bounds, &commits)))
}

fn behind(bounds: &[Bounds], commits: &[Option<(i64, String)>]) -> u64 {
    let of = |(bounds, commit): (&Bounds, &Option<(i64, String)>)| {
        // What was deleted from the log is not read any more.
        let committed = commit.as_ref().map_or(0, |(offset, _)| *offset);
        u64::try_from(bounds.end - committed.max(bounds.start)).unwrap_or(0)
    };
    bounds.iter().zip(commits).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_other_workers_count() {
        let commit = |offset| Some((offset, String::new()));
        let to = |end| Bounds { start: 0, end };
        let commits = [commit(5), commit(4), None];
        assert_eq!(behind(&[to(5), to(7), to(0)], &commits), 3);
        assert_eq!(behind(&[to(5), to(7)], &[commit(5), None]), 7);
        assert_eq!(behind(&[to(5)], &[commit(6)]), 0);
    }

    #[test]
    fn records_that_the_log_no_longer_has_do_not_count() {
        let bounds = [Bounds { start: 4, end: 7 }];
        assert_eq!(behind(&bounds, &[None]), 3);
        assert_eq!(behind(&bounds, &[Some((2, String::new()))]), 3);
        assert_eq!(behind(&bounds, &[Some((5, String::new()))]), 2);
    }
}
