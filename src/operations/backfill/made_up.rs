//! Tells a sink that it has had its history otherwise, and where to read on: what
//! ends its halt, or its caution, on a running pipeline.

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

/// Up to where the external system has had every insert; none where this
/// backfill was not of everything. The log alone has everything only where
/// nothing of it was deleted, and nothing of an earlier topic.
pub(super) fn outside(journal: &Journal, database: Option<&Database>) -> Option<(Vec<i64>, bool)> {
    if journal.from_us.is_some() || journal.to_us.is_some() {
        return None;
    }
    if let Some(database) = database {
        return Some((database.starts.clone()?, true));
    }
    let parts = journal.replays.get(&SinkKind::Http)?;
    let is_whole = parts.iter().all(|part| part.from == 0);
    is_whole.then(|| (parts.iter().map(|part| part.until).collect(), false))
}

/// Notes it for a group: before `next`, by partition, nothing is missing. Insists
/// for as long as `patience`.
pub(super) async fn note(
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
    fn only_a_backfill_of_everything_makes_up_for_history() {
        let whole = journal(vec![Part::new(0, 0, 5), Part::new(1, 0, 0)]);
        assert_eq!(outside(&whole, None), Some((vec![5, 0], false)));
        let cut = journal(vec![Part::new(0, 2, 5), Part::new(1, 0, 7)]);
        assert_eq!(outside(&cut, None), None);
        let database = Database {
            starts: Some(vec![3, 4]),
            ..Database::default()
        };
        assert_eq!(outside(&cut, Some(&database)), Some((vec![3, 4], true)));
        let mut recent = whole;
        recent.from_us = Some(1);
        assert_eq!(outside(&recent, None), None);
        assert_eq!(outside(&recent, Some(&database)), None);
    }
}
