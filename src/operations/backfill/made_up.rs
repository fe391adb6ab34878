//! Records for a sink that its history was backfilled, and the offsets from which it continues.
//! On a running pipeline, this ends the sink's halt or degradation.

use std::time::Duration;

use super::{
    alterations::Consented,
    error::BackfillError,
    journal::{Database, Journal},
    store::insist,
};
use crate::{
    connections::Connections,
    crash,
    runtime::{Backfilled, Notes},
    sink_kind::{ConsumerGroup, SinkKind},
    source::tables::{self, events_topic},
};

/// Returns the offsets before which the external system has received every insert, and whether
/// the source was read. Returns `None` if the backfill did not cover all of history. A replay of
/// the log covers it only if every partition still starts at offset 0.
pub(super) fn http_range(
    journal: &Journal,
    database: Option<&Database>,
) -> Option<(Vec<i64>, bool)> {
    if journal.from_us.is_some() || journal.to_us.is_some() {
        return None;
    }
    if let Some(database) = database {
        return Some((database.starts.clone()?, true));
    }
    let parts = journal.replays.get(&SinkKind::Http)?;
    let is_complete = parts.iter().all(|part| part.from == 0);
    is_complete.then(|| (parts.iter().map(|part| part.until).collect(), false))
}

/// Records for a group that no event before the offsets `next`, by partition, is missing.
/// Retries for as long as `patience`.
pub(super) async fn record(
    connections: &Connections,
    group: ConsumerGroup,
    (next, whole): (Vec<i64>, bool),
    since_us: Option<i64>,
    patience: Duration,
    consent: &Consented,
) -> Result<(), BackfillError> {
    let settings = connections.settings();
    let group = tables::group(settings, group);
    let log = connections.kafka.log(&group)?;
    let topic = events_topic(settings);
    let Some(identity) = log.identity(&topic).await? else {
        return Err(BackfillError::NoTopic { topic });
    };
    consent.ensure_topics(connections).await?;
    let topic = &settings.kafka.state_topic;
    let state = connections.kafka.state(&group, topic)?;
    let notes = Notes::new(state, &group);
    let made_up = Backfilled::new(identity.id, next, whole, since_us);
    insist(patience, async || notes.note_backfilled(&made_up).await).await?;
    crash::point("backfill", "mended");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::replay::Part;

    fn journal(parts: Vec<Part>) -> Journal {
        let mut journal = Journal::new("x".to_owned(), "t/3".to_owned(), "now".to_owned());
        journal.replays.insert(SinkKind::Http, parts);
        journal
    }

    #[test]
    fn only_a_complete_backfill_replaces_history() {
        let complete = journal(vec![Part::new(0, 0, 5), Part::new(1, 0, 0)]);
        assert_eq!(http_range(&complete, None), Some((vec![5, 0], false)));
        let partial = journal(vec![Part::new(0, 2, 5), Part::new(1, 0, 7)]);
        assert_eq!(http_range(&partial, None), None);
        let database = Database {
            starts: Some(vec![3, 4]),
            ..Database::default()
        };
        assert_eq!(
            http_range(&partial, Some(&database)),
            Some((vec![3, 4], true))
        );
        let mut recent = complete;
        recent.from_us = Some(1);
        assert_eq!(http_range(&recent, None), None);
        assert_eq!(http_range(&recent, Some(&database)), None);
    }
}
