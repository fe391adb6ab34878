//! The view against the join, row for row and column for column.
//!
//! One walk over everything finds suspects, a stretch of ids at a time. What
//! Postgres changes meanwhile is a suspect too; so each is looked at again
//! behind fences of its own, and counts when it differs twice while Postgres
//! says the same before and after.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Context, VerifyError,
    compare::{Merge, Pair, Row},
    findings::{Check, Findings},
    letters::Letters,
    source::Source,
};
use crate::progress::Unit;

/// Rows of one stretch.
const STRETCH: usize = 10_000;

/// Suspects looked at again; more than these are beyond doubt.
const MAX_SUSPECTS: usize = 10_000;

/// Ids in one question.
const QUESTION: usize = 500;

/// Rounds after which a row that keeps changing is let go.
const MAX_ROUNDS: u32 = 20;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(250);

/// Compares the view with the join as `source` sees it.
pub(super) async fn check(
    context: &Context<'_>,
    source: &Source,
    letters: &Letters,
) -> Result<Findings, VerifyError> {
    let mut findings = Findings::new(Check::Rows);
    let suspects = walk(context, source, &mut findings).await?;
    let confirmed = settle(context, suspects, &mut findings).await?;
    let ids: Vec<i64> = confirmed.iter().map(Pair::id).collect();
    let mut origins = HashMap::new();
    for some in ids.chunks(QUESTION) {
        for origin in context.query.origins_of(some).await? {
            origins.insert(origin.event_id, (origin.partition, origin.offset));
        }
    }
    for pair in confirmed {
        let id = pair.id();
        if letters.explain("clickhouse", id, origins.get(&id).copied()) {
            findings.excuse(&id);
            continue;
        }
        for difference in pair.differences() {
            findings.differs(difference);
        }
    }
    Ok(findings)
}

/// Walks both sides from end to end; gives the ids that do not agree.
async fn walk(
    context: &Context<'_>,
    source: &Source,
    findings: &mut Findings,
) -> Result<Vec<i64>, VerifyError> {
    let mut suspects = Vec::new();
    let mut first = Some(i64::MIN);
    while let Some(from) = first {
        let expected = source.rows(from, STRETCH).await?;
        let is_last = expected.len() < STRETCH;
        let last = match expected.last() {
            Some(row) if !is_last => row.id,
            _ => i64::MAX,
        };
        let mut found = context.query.rows(from, last)?;
        let mut merge = Merge::new(expected);
        let mut visit = |pair: Pair| {
            findings.compared += 1;
            if pair.is_same() {
                return;
            }
            if suspects.len() < MAX_SUSPECTS {
                suspects.push(pair.id());
            } else {
                pair.differences()
                    .into_iter()
                    .for_each(|difference| findings.differs(difference));
            }
        };
        while let Some(row) = found.next().await? {
            merge.found(Row::from(row), &mut visit);
        }
        merge.finish(&mut visit);
        context.steps.advanced(findings.compared, None, Unit::Rows);
        first = last.checked_add(1).filter(|_| !is_last);
    }
    Ok(suspects)
}

/// Looks at the suspects again until each agrees or has differed twice.
async fn settle(
    context: &Context<'_>,
    mut suspects: Vec<i64>,
    findings: &mut Findings,
) -> Result<Vec<Pair>, VerifyError> {
    let mut confirmed = Vec::new();
    let mut times: HashMap<i64, u32> = HashMap::new();
    for _ in 0..MAX_ROUNDS {
        if suspects.is_empty() {
            return Ok(confirmed);
        }
        context
            .steps
            .doing(&format!("looking again at {} rows", suspects.len()));
        sleep(PAUSE).await;
        let before = Source::snapshot(&context.settings.postgres.url).await?;
        context.fence().await?;
        let after = Source::snapshot(&context.settings.postgres.url).await?;
        let mut left = Vec::new();
        for some in suspects.chunks(QUESTION) {
            let (before, after) = (before.rows_of(some).await?, after.rows_of(some).await?);
            let steady = |id: i64| find(&before, id) == find(&after, id);
            let mut merge = Merge::new(before.clone());
            let mut visit = |pair: Pair| {
                if pair.is_same() {
                    return;
                }
                let id = pair.id();
                let seen = times.entry(id).or_default();
                *seen += u32::from(steady(id));
                if *seen >= 2 {
                    confirmed.push(pair);
                } else {
                    left.push(id);
                }
            };
            for row in context.query.rows_of(some).await? {
                merge.found(Row::from(row), &mut visit);
            }
            merge.finish(&mut visit);
        }
        suspects = left;
        if Instant::now() >= context.deadline {
            break;
        }
    }
    if !suspects.is_empty() {
        let note = format!("{} rows kept changing and were not judged", suspects.len());
        findings.note(note);
    }
    Ok(confirmed)
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
}
