//! How far the sinks are behind, over all workers: by what their groups have
//! committed, whoever has the partitions.

use std::collections::BTreeMap;

use crate::{
    clients::kafka::{KafkaError, Log},
    config::Settings,
    operations::fence::{consumer, content_topic, events_topic, group},
    pipeline::status::{SinkStatus, Status},
};

/// Sink → offsets between what is committed and the end of its log, for the
/// sinks of which this worker has not all partitions. At most so many records
/// are behind; 0 is exact.
///
/// # Errors
/// When the broker does not answer.
pub(super) async fn of_all_workers(
    settings: &Settings,
    pipeline: Option<&Status>,
) -> Result<BTreeMap<String, u64>, KafkaError> {
    let mut lags = BTreeMap::new();
    for sink in pipeline.iter().flat_map(|status| &status.sinks) {
        if let Some(lag) = of(settings, sink).await? {
            lags.insert(sink.name.clone(), lag);
        }
    }
    Ok(lags)
}

/// None where the worker knows it all by itself, or nobody does yet.
async fn of(settings: &Settings, sink: &SinkStatus) -> Result<Option<u64>, KafkaError> {
    let topic = match sink.name.as_str() {
        "content" => content_topic(settings),
        _ => events_topic(settings),
    };
    let log = Log::new(&consumer(settings), &group(settings, &sink.name))?;
    let Some(partitions) = log.partitions(&topic).await? else {
        return Ok(None);
    };
    let partitions = usize::try_from(partitions).unwrap_or(0);
    if sink.partitions.len() >= partitions {
        return Ok(None);
    }
    let ends = log.ends(&topic).await?;
    let commits = log.commits(&topic, ends.len()).await?;
    Ok(Some(behind(&ends, &commits)))
}

fn behind(ends: &[i64], commits: &[Option<(i64, String)>]) -> u64 {
    let of = |(end, commit): (&i64, &Option<(i64, String)>)| {
        let committed = commit.as_ref().map_or(0, |(offset, _)| *offset);
        u64::try_from(end - committed).unwrap_or(0)
    };
    ends.iter().zip(commits).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_other_workers_count() {
        let commit = |offset| Some((offset, String::new()));
        assert_eq!(behind(&[5, 7, 0], &[commit(5), commit(4), None]), 3);
        assert_eq!(behind(&[5, 7], &[commit(5), None]), 7);
        assert_eq!(behind(&[5], &[commit(6)]), 0);
    }
}
