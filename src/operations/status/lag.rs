//! Lag of the sinks over all workers, computed from the committed offsets of their
//! groups, whichever worker owns the partitions.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::{
    connections::Connections,
    kafka::{Bounds, KafkaError},
    runtime::{
        status::{SinkStatus, Status},
        worker_status::TIMEOUT,
    },
    sink_kind::ConsumerGroup,
    source::tables::{content_topic, events_topic, group},
};

/// Returns the offsets between the commits and the end of the log, by sink, for the
/// sinks of which this worker does not own all partitions. `None` if Kafka does not
/// respond. The number is an upper bound of the lag in records; 0 is exact.
pub(super) async fn of_all_workers(
    connections: &Connections,
    pipeline: Option<&Status>,
) -> BTreeMap<String, Option<u64>> {
    let sinks = pipeline.into_iter().flat_map(|status| &status.sinks);
    let lags = sinks.map(|sink| async move {
        let lag = match timeout(TIMEOUT, lag_of(connections, sink)).await {
            Ok(Ok(Some(lag))) => Some(lag),
            Ok(Ok(None)) => return None,
            Ok(Err(error)) => {
                tracing::debug!(%error, sink = %sink.name, "cannot read the lag");
                None
            }
            Err(_) => None,
        };
        Some((sink.name.clone(), lag))
    });
    join_all(lags).await.into_iter().flatten().collect()
}

/// Returns an unknown lag for every sink, for use if Kafka is unreachable.
pub(super) fn unknown(pipeline: Option<&Status>) -> BTreeMap<String, Option<u64>> {
    let sinks = pipeline.into_iter().flat_map(|status| &status.sinks);
    sinks.map(|sink| (sink.name.clone(), None)).collect()
}

/// Returns the lag of one sink. `None` if the worker owns all partitions and knows the
/// lag, if the topic does not exist, or if this version does not know the sink.
async fn lag_of(connections: &Connections, sink: &SinkStatus) -> Result<Option<u64>, KafkaError> {
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
    let lag = |(bounds, commit): (&Bounds, &Option<(i64, String)>)| {
        // Deleted records are not counted.
        let committed = commit.as_ref().map_or(0, |(offset, _)| *offset);
        u64::try_from(bounds.end - committed.max(bounds.start)).unwrap_or(0)
    };
    bounds.iter().zip(commits).map(lag).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_other_workers_are_counted() {
        let commit = |offset| Some((offset, String::new()));
        let until = |end| Bounds { start: 0, end };
        let commits = [commit(5), commit(4), None];
        assert_eq!(behind(&[until(5), until(7), until(0)], &commits), 3);
        assert_eq!(behind(&[until(5), until(7)], &[commit(5), None]), 7);
        assert_eq!(behind(&[until(5)], &[commit(6)]), 0);
    }

    #[test]
    fn deleted_records_are_not_counted() {
        let bounds = [Bounds { start: 4, end: 7 }];
        assert_eq!(behind(&bounds, &[None]), 3);
        assert_eq!(behind(&bounds, &[Some((2, String::new()))]), 3);
        assert_eq!(behind(&bounds, &[Some((5, String::new()))]), 2);
    }
}
