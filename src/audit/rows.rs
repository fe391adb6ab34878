//! The rows of a store against the join in Postgres, row for row and column for
//! column.
//!
//! One walk over all ids finds suspects. It compares the sums of both sides, one
//! range of ids at a time, and reads the rows only where the sums differ. Postgres
//! may have changed a suspect in the meantime, so every suspect is looked at again
//! behind another barrier. It counts as a difference if it differs twice while
//! Postgres holds still. There may be any number of suspects, most of them excused
//! by dead letters, so they are judged in batches.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    compare::{Merge, Pair},
    context::Context,
    dimension::Unchanged,
    error::VerifyError,
    findings::{Check, Findings, MAX_SHOWN},
    letters::Letters,
    row::TextRow,
    snapshot::Snapshot,
    store::RowStore,
    truth::Truth,
};
use crate::progress::Unit;

/// Rows of one range.
const STRETCH: i64 = 10_000;

/// Suspects that are judged together, as soon as a range has brought this many.
const BATCH: usize = 10_000;

/// After this many differences the store is wrong beyond doubt, and further
/// suspects are not looked at again.
const BEYOND_DOUBT: u64 = 10_000;

/// Ids in one query.
const QUESTION: usize = 500;

/// Rounds after which a row that keeps changing is left unjudged.
const MAX_ROUNDS: u32 = 20;

/// Number of times that a suspect has to differ while Postgres holds still.
const LOOKS: u32 = 2;

/// Pause before each round.
const PAUSE: Duration = Duration::from_millis(250);

/// Compares the rows of a store with the join in Postgres.
pub(crate) async fn check(
    store: &dyn RowStore,
    truth: &mut Truth<'_>,
) -> Result<Findings, VerifyError> {
    let context = truth.context;
    context.steps.doing("comparing rows");
    let snapshot = match truth.snapshot.take() {
        Some(snapshot) => snapshot,
        // Another store has been compared with the first snapshot.
        None => Snapshot::take(&context.connections.postgres).await?,
    };
    let mut walk = Walk {
        store,
        context,
        snapshot: &snapshot,
        letters: truth.letters,
        suspects: Vec::new(),
        contents: BTreeMap::new(),
        findings: Findings::new(Check::Rows),
    };
    walk.run().await?;
    for (content, record) in walk.contents {
        walk.findings.note(format!(
            "content {content} is what it was before {record}, which is a dead letter"
        ));
    }
    Ok(walk.findings)
}

/// Walks both sides from end to end.
struct Walk<'a> {
    store: &'a dyn RowStore,
    context: &'a Context<'a>,
    snapshot: &'a Snapshot,
    letters: &'a Letters,
    /// Ids that differ and are not judged yet.
    suspects: Vec<i64>,
    /// The first contents whose latest change is a dead letter, with its record.
    contents: BTreeMap<Uuid, String>,
    findings: Findings,
}

impl Walk<'_> {
    async fn run(&mut self) -> Result<(), VerifyError> {
        let (context, snapshot) = (self.context, self.snapshot);
        let total = snapshot.count().await?;
        let mut first = Some(i64::MIN);
        while let Some(from) = first {
            let boundary = snapshot.last_of(from, STRETCH).await?;
            let last = boundary.unwrap_or(i64::MAX);
            let expected = snapshot.sum(from, last).await?;
            if expected == self.store.sum(from, last).await? {
                self.findings.compared += expected.rows;
            } else {
                self.compare((from, last)).await?;
            }
            let compared = self.findings.compared;
            let total = total.max(compared);
            context.steps.advanced(compared, Some(total), Unit::Rows);
            if self.suspects.len() >= BATCH {
                self.judge().await?;
            }
            first = boundary.and_then(|last| last.checked_add(1));
        }
        self.judge().await
    }

    /// Compares the rows of one range, one by one.
    async fn compare(&mut self, (first, last): (i64, i64)) -> Result<(), VerifyError> {
        let mut merge = Merge::new(self.snapshot.rows(first, last).await?);
        let mut found = self.store.rows(first, last)?;
        let sink = self.store.sink();
        let (suspects, findings) = (&mut self.suspects, &mut self.findings);
        let mut looked_up = Ok(());
        let mut visit = |pair: Pair| {
            findings.compared += 1;
            if pair.is_same() {
                return;
            }
            if findings.differences < BEYOND_DOUBT {
                suspects.push(pair.id());
                return;
            }
            let excused = match &pair {
                Pair::Missing(row) => self.letters.explain(sink, row.id, None),
                _ => Ok(false),
            };
            match excused {
                Ok(true) => findings.excuse(&pair.id()),
                Ok(false) => {
                    for difference in pair.differences() {
                        findings.differs(difference);
                    }
                }
                Err(error) => looked_up = Err(error),
            }
        };
        while let Some(piece) = found.try_next().await? {
            for row in piece {
                merge.found(row, &mut visit);
            }
        }
        merge.finish(&mut visit);
        Ok(looked_up?)
    }

    /// Looks at the suspects so far again, and judges each of them.
    async fn judge(&mut self) -> Result<(), VerifyError> {
        let suspects = std::mem::take(&mut self.suspects);
        let findings = &mut self.findings;
        let confirmed = settle(self.store, self.context, suspects, findings).await?;
        let ids: Vec<i64> = confirmed.iter().map(Pair::id).collect();
        let mut origins = HashMap::new();
        for origin in self.store.origins_of(&ids).await? {
            origins.insert(origin.event_id, (origin.partition, origin.offset));
        }
        let unchanged = Unchanged::find(self.context, self.letters, &confirmed).await?;
        for pair in confirmed {
            let id = pair.id();
            let origin = origins.get(&id).copied();
            if self.letters.explain(self.store.sink(), id, origin)? {
                findings.excuse(&id);
                continue;
            }
            if let Some((content, record)) = unchanged.explain(&pair) {
                findings.excuse(&id);
                if self.contents.len() < MAX_SHOWN {
                    self.contents.insert(content, record.to_string());
                }
                continue;
            }
            for difference in pair.differences() {
                findings.differs(difference);
            }
        }
        Ok(())
    }
}

/// The observations of the suspects, over all rounds.
#[derive(Debug, Default)]
struct Trial {
    /// How often each suspect differed while Postgres held still.
    times: HashMap<i64, u32>,
    confirmed: Vec<Pair>,
    /// Suspects to be looked at again, and whether Postgres held still in this
    /// round.
    left: Vec<(Pair, bool)>,
}

impl Trial {
    /// Adds an observation: `steady` if Postgres held still around it.
    fn look(&mut self, pair: Pair, steady: bool) {
        if pair.is_same() {
            return;
        }
        let seen = self.times.entry(pair.id()).or_default();
        *seen += u32::from(steady);
        if *seen >= LOOKS {
            self.confirmed.push(pair);
        } else {
            self.left.push((pair, steady));
        }
    }

    /// Whether this round may be the last. Even after the deadline, one round alone
    /// cannot tell a difference from a record under way.
    fn may_end(round: u32, over: bool) -> bool {
        over && round >= LOOKS
    }

    /// Judges the suspects that are left after the last round. Those that differed
    /// while Postgres held still are differences. The others stay unjudged.
    fn end(mut self, findings: &mut Findings) -> Vec<Pair> {
        let (steady, moving): (Vec<_>, Vec<_>) = self.left.into_iter().partition(|(_, held)| *held);
        self.confirmed
            .extend(steady.into_iter().map(|(pair, _)| pair));
        if !moving.is_empty() {
            findings.unjudged += moving.len() as u64;
            let note = format!("{} rows kept changing and were not judged", moving.len());
            findings.note(note);
        }
        self.confirmed
    }
}

/// Looks at the suspects again until each of them agrees or has differed twice.
async fn settle(
    store: &dyn RowStore,
    context: &Context<'_>,
    mut suspects: Vec<i64>,
    findings: &mut Findings,
) -> Result<Vec<Pair>, VerifyError> {
    let mut trial = Trial::default();
    for round in 1..=MAX_ROUNDS {
        if suspects.is_empty() {
            break;
        }
        context
            .steps
            .doing(&format!("looking again at {} rows", suspects.len()));
        sleep(PAUSE).await;
        let before = Snapshot::take(&context.connections.postgres).await?;
        context.fence().await?;
        let after = Snapshot::take(&context.connections.postgres).await?;
        trial.left.clear();
        for some in suspects.chunks(QUESTION) {
            let (before, after) = (before.rows_of(some).await?, after.rows_of(some).await?);
            let steady = |id: i64| find(&before, id) == find(&after, id);
            let mut merge = Merge::new(before.clone());
            let mut visit = |pair: Pair| {
                let held = steady(pair.id());
                trial.look(pair, held);
            };
            for row in store.rows_of(some).await? {
                merge.found(row, &mut visit);
            }
            merge.finish(&mut visit);
        }
        suspects = trial.left.iter().map(|(pair, _)| pair.id()).collect();
        if Trial::may_end(round, Instant::now() >= context.deadline) {
            break;
        }
    }
    Ok(trial.end(findings))
}

fn find(rows: &[TextRow], id: i64) -> Option<&TextRow> {
    let place = rows.binary_search_by_key(&id, |row| row.id).ok()?;
    rows.get(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_id() {
        let row = |id| TextRow {
            id,
            cells: Default::default(),
        };
        let rows = [row(1), row(5), row(9)];
        assert_eq!(find(&rows, 5).map(|row| row.id), Some(5));
        assert_eq!(find(&rows, 4), None);
    }

    fn missing(id: i64) -> Pair {
        Pair::Missing(TextRow {
            id,
            cells: Default::default(),
        })
    }

    #[test]
    fn the_time_being_over_spares_no_second_look() {
        assert!(!Trial::may_end(1, true));
        assert!(Trial::may_end(2, true));
        assert!(!Trial::may_end(2, false));
    }

    #[test]
    fn a_second_look_makes_a_suspect_a_difference() {
        let mut trial = Trial::default();
        trial.look(missing(1), true);
        assert!(trial.confirmed.is_empty());
        trial.left.clear();
        trial.look(missing(1), true);
        assert_eq!(trial.confirmed, [missing(1)]);
    }

    #[test]
    fn what_is_left_at_the_end_never_passes() {
        let mut trial = Trial::default();
        trial.look(missing(1), true);
        trial.look(missing(2), false);
        let mut findings = Findings::new(Check::Rows);
        assert_eq!(trial.end(&mut findings), [missing(1)]);
        assert_eq!(findings.unjudged, 1);
        assert!(!findings.holds());
    }
}
