//! Where the external system's history stands: what was deleted from the log
//! before it was sent is noticed, unless it was made up for from the source.

use crate::{clients::kafka::Log, sinks::Fault};

/// What makes up for inserts that the log lost before they were sent.
const REMEDY: &str = "fanout backfill --from earliest --source database --sinks http";

/// The log, as far as this sink asks for it.
#[derive(Debug)]
pub struct History {
    topic: String,
    log: Log,
    /// Knows up to where the log's gaps were made up for from the source.
    mended: Log,
}

impl History {
    /// `mended` asks for the commits of [`crate::sinks::mended_group`].
    pub fn new(topic: String, log: Log, mended: Log) -> Self {
        Self { topic, log, mended }
    }

    /// Where to read on. What this sink promises are the inserts in the log; of
    /// those that it lost before they were sent only the source still knows.
    pub(super) async fn begin(&self, partition: i32, committed: Option<i64>) -> Result<i64, Fault> {
        let kafka = |error| Fault::retry(format!("kafka: {error}"));
        let bounds = self.log.bounds(&self.topic).await.map_err(kafka)?;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let (start, end) = bounds
            .get(place)
            .map_or((0, 0), |bounds| (bounds.start, bounds.end));
        match committed {
            Some(next) if next < start => {
                let mended = self.mended.committed(&self.topic, bounds.len()).await;
                let mended = mended.map_err(kafka)?.get(place).copied().flatten();
                if mended.is_some_and(|mended| start <= mended) {
                    return Ok(start);
                }
                let reason = format!(
                    "partition {partition} of {} begins at offset {start}, and offset {next} is \
                     next: what lies between was deleted before it was sent",
                    self.topic
                );
                Err(Fault::halt("retention_passed", reason, REMEDY))
            }
            // Of a topic of this name that is no more.
            Some(next) if next > end => Ok(start),
            Some(next) => Ok(next),
            None => Ok(start),
        }
    }
}
