//! Dead letters through their sink again, each at the position its record had.
//! Never into the source topic: to every other reader it would be a new change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{DlqError, Filter, Letter, LetterId, for_each};
use crate::{
    clients::kafka::Log,
    config::Settings,
    operations::{
        backfill::rebuild_board,
        fence::{consumer, content_topic, events_topic, group},
        steps::Steps,
    },
    pipeline::replay::{self, Bounds, Kept, Tally, Through},
    progress::Progress,
};

/// The sinks that letters are of, in the order in which they are replayed.
const SINKS: [(&str, Through); 3] = [
    ("content", Through::Content),
    ("clickhouse", Through::ClickHouse),
    (
        "http",
        Through::Http {
            include_snapshots: false,
        },
    ),
];

/// The letters that will be replayed.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    letters: Vec<Letter>,
    /// Letters of another life of their topic: the positions there are not
    /// these.
    superseded: Vec<LetterId>,
}

/// How to go about it.
#[derive(Debug, Clone)]
pub struct Replay {
    /// How long a sink may refuse.
    pub patience: Duration,
    pub stop: CancellationToken,
}

/// What became of the letters.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// By sink.
    pub replayed: BTreeMap<String, Tally>,
    /// Letters that their sink rejects as before.
    pub still_rejected: Vec<String>,
    /// Letters of an earlier life of their topic, left alone.
    pub superseded: Vec<String>,
    /// Members of the board that was made anew for its letters.
    pub board: Option<u64>,
}

/// Finds the letters that the filter takes.
///
/// # Errors
/// When the broker does not answer, or a letter that was named is not there.
pub async fn select(settings: &Settings, filter: &Filter) -> Result<Selected, DlqError> {
    let mut found = Vec::new();
    for_each(settings, |letter| {
        if filter.takes(&letter) {
            found.push(letter);
        }
    })
    .await?;
    let ids: BTreeSet<LetterId> = found.iter().map(|letter| letter.id).collect();
    if let Some(id) = filter.ids.iter().find(|id| !ids.contains(id)) {
        return Err(DlqError::NoLetter {
            id: *id,
            topic: settings.kafka.dead_letter_topic.clone(),
        });
    }
    let log = Log::new(&consumer(settings), &group(settings, "dlq"))?;
    let mut lives = BTreeMap::new();
    for topic in [events_topic(settings), content_topic(settings)] {
        let identity = log.identity(&topic).await?;
        lives.insert(topic, identity.map(|identity| identity.to_string()));
    }
    let lives = |letter: &Letter| {
        let life = lives.get(&letter.topic).and_then(Option::as_ref);
        life == Some(&letter.generation) && letter.partition >= 0 && letter.offset >= 0
    };
    let (letters, others): (Vec<Letter>, Vec<Letter>) = found.into_iter().partition(lives);
    Ok(Selected {
        letters,
        superseded: others.iter().map(|letter| letter.id).collect(),
    })
}

impl Selected {
    /// How many letters of each sink.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for letter in &self.letters {
            *counts.entry(letter.sink.clone()).or_default() += 1;
        }
        counts
    }

    /// How many are left alone.
    #[must_use]
    pub fn superseded(&self) -> usize {
        self.superseded.len()
    }

    /// Whether the external system would be called again.
    #[must_use]
    pub fn goes_outside(&self) -> bool {
        self.letters.iter().any(|letter| letter.sink == "http")
    }

    /// Replays them.
    ///
    /// # Errors
    /// When a sink halts, or refuses for too long. Again is harmless.
    pub async fn replay(
        self,
        settings: &Settings,
        how: &Replay,
        progress: &dyn Progress,
    ) -> Result<Report, DlqError> {
        let mut report = Report {
            superseded: self.superseded.iter().map(LetterId::to_string).collect(),
            ..Report::default()
        };
        let bounds = Bounds {
            patience: how.patience,
            stop: how.stop.clone(),
        };
        for (sink, through) in SINKS {
            let of_sink: Vec<&Letter> = self.of(sink).collect();
            if of_sink.is_empty() {
                continue;
            }
            let steps = Steps::new(progress, sink);
            steps.doing("replaying");
            let records: Vec<Kept> = of_sink.iter().map(|letter| kept(letter)).collect();
            let work = replay::apply(settings, through, &records, &bounds);
            let (tally, rejected) = Box::pin(work).await?;
            let rejected: BTreeSet<(i32, i64)> = rejected.into_iter().collect();
            let again = of_sink
                .iter()
                .filter(|letter| rejected.contains(&(letter.partition, letter.offset)));
            report
                .still_rejected
                .extend(again.map(|letter| letter.id.to_string()));
            report.replayed.insert(sink.to_owned(), tally);
            steps.done("replayed");
        }
        if self.of("redis").next().is_some() {
            // The board is made of the log, where the records still are.
            report.board = Some(rebuild_board(settings, how.patience, progress).await?);
        }
        Ok(report)
    }

    fn of(&self, sink: &str) -> impl Iterator<Item = &Letter> {
        self.letters
            .iter()
            .filter(move |letter| letter.sink == sink)
    }
}

fn kept(letter: &Letter) -> Kept {
    Kept {
        partition: letter.partition,
        offset: letter.offset,
        timestamp_ms: letter.timestamp_ms,
        key: letter.key.clone(),
        value: letter.value.clone(),
    }
}
