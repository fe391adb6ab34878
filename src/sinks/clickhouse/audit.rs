//! The view against the join, row for row and column for column.
//!
//! One walk over everything finds suspects, a stretch of ids at a time: both
//! sides say what its rows come to, and only where that differs are the rows
//! themselves read. What Postgres changes meanwhile is a suspect too; so each is
//! looked at again behind fences of its own, and counts when it differs twice
//! while Postgres says the same before and after. There may be any number of
//! suspects, most of them excused by dead letters: they are judged a batch at a
//! time.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    compare::{Merge, Pair, Row},
    dimension::Unchanged,
    truth::Source,
};
use crate::{
    audit::{
        context::Context,
        error::VerifyError,
        findings::{Check, Findings, MAX_SHOWN},
        letters::Letters,
    },
    progress::Unit,
    sink_kind::SinkKind,
};

/// Rows of one stretch.
const STRETCH: i64 = 10_000;

/// Suspects that are looked at again together, once a stretch has brought as
/// many.
const BATCH: usize = 10_000;

/// After so many differences the store is wrong beyond doubt, and what differs
/// besides is not looked at again.
const BEYOND_DOUBT: u64 = 10_000;

/// Ids in one question.
const QUESTION: usize = 500;

/// Rounds after which a row that keeps changing is let go.
const MAX_ROUNDS: u32 = 20;

/// So often a suspect has to differ while Postgres holds still.
const LOOKS: u32 = 2;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(250);

/// Compares the view with the join as `source` sees it.
pub(crate) async fn check(
    context: &Context<'_>,
    source: &Source,
    letters: &Letters,
) -> Result<Findings, VerifyError> {
    let mut walk = Walk {
        context,
        source,
        letters,
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
    context: &'a Context<'a>,
    source: &'a Source,
    letters: &'a Letters,
    /// Ids that do not agree and are not judged yet.
    suspects: Vec<i64>,
    /// Contents whose last change is a dead letter, and that letter's record; a
    /// few of them.
    contents: BTreeMap<Uuid, String>,
    findings: Findings,
}

impl Walk<'_> {
    async fn run(&mut self) -> Result<(), VerifyError> {
        let (context, source) = (self.context, self.source);
        let total = source.count().await?;
        let mut first = Some(i64::MIN);
        while let Some(from) = first {
            let boundary = source.last_of(from, STRETCH).await?;
            let last = boundary.unwrap_or(i64::MAX);
            let expected = source.sum(from, last).await?;
            if expected == context.query.sum(from, last).await? {
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

    /// Compares the rows of one stretch, one by one.
    async fn compare(&mut self, (first, last): (i64, i64)) -> Result<(), VerifyError> {
        let mut merge = Merge::new(self.source.rows(first, last).await?);
        let mut found = self.context.query.rows(first, last)?;
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
                Pair::Missing(row) => self.letters.explain(SinkKind::ClickHouse, row.id, None),
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
        while let Some(row) = found.next().await? {
            merge.found(Row::from(row), &mut visit);
        }
        merge.finish(&mut visit);
        Ok(looked_up?)
    }

    /// Looks again at the suspects so far, and says of each what it is.
    async fn judge(&mut self) -> Result<(), VerifyError> {
        let suspects = std::mem::take(&mut self.suspects);
        let findings = &mut self.findings;
        let confirmed = settle(self.context, suspects, findings).await?;
        let ids: Vec<i64> = confirmed.iter().map(Pair::id).collect();
        let mut origins = HashMap::new();
        for origin in self.context.query.origins_of(&ids).await? {
            origins.insert(origin.event_id, (origin.partition, origin.offset));
        }
        let unchanged = Unchanged::find(self.context, self.letters, &confirmed).await?;
        for pair in confirmed {
            let id = pair.id();
            let origin = origins.get(&id).copied();
            if self.letters.explain(SinkKind::ClickHouse, id, origin)? {
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

/// What was seen of the suspects, round by round.
#[derive(Debug, Default)]
struct Trial {
    /// How often each differed while Postgres held still.
    times: HashMap<i64, u32>,
    confirmed: Vec<Pair>,
    /// To be looked at again, and whether Postgres held still this time.
    left: Vec<(Pair, bool)>,
}

impl Trial {
    /// Two sides as they were seen between two looks at Postgres.
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

    /// Whether this round may be the last, the time being over or not: one look
    /// alone cannot tell a difference from a record under way.
    fn may_end(round: u32, over: bool) -> bool {
        over && round >= LOOKS
    }

    /// Judges what is left when the time is over: what differs although
    /// Postgres held still is a difference; the rest nobody can tell.
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

/// Looks at the suspects again until each agrees or has differed twice.
async fn settle(
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
        let before = Source::snapshot(&context.connections.postgres).await?;
        context.fence().await?;
        let after = Source::snapshot(&context.connections.postgres).await?;
        trial.left.clear();
        for some in suspects.chunks(QUESTION) {
            let (before, after) = (before.rows_of(some).await?, after.rows_of(some).await?);
            let steady = |id: i64| find(&before, id) == find(&after, id);
            let mut merge = Merge::new(before.clone());
            let mut visit = |pair: Pair| {
                let held = steady(pair.id());
                trial.look(pair, held);
            };
            for row in context.query.rows_of(some).await? {
                merge.found(Row::from(row), &mut visit);
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

fn find(rows: &[Row], id: i64) -> Option<&Row> {
    let place = rows.binary_search_by_key(&id, |row| row.id).ok()?;
    rows.get(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_found_by_its_id() {
        let row = |id| Row {
            id,
            cells: Default::default(),
        };
        let rows = [row(1), row(5), row(9)];
        assert_eq!(find(&rows, 5).map(|row| row.id), Some(5));
        assert_eq!(find(&rows, 4), None);
    }

    fn missing(id: i64) -> Pair {
        Pair::Missing(Row {
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
