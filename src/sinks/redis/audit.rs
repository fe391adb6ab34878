//! The audit of Redis: the board against the events of its window in Postgres.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Display,
    io,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    BoardKeys, BoardReader, BoardView, Meta,
    ahead::{self, Ahead},
    apart,
    eligible::{self, Moment, Sum, Sums},
};
use crate::{
    audit::{
        Audit,
        context::Context,
        error::VerifyError,
        findings::{Check, Difference, Findings},
        letters::Letters,
        snapshot::Snapshot,
        store::Answer,
        truth::Truth,
    },
    config::Score,
    runtime::barrier::Fence,
    time::{clock::now_us, timestamp::Rfc3339},
};

/// Pause between two looks at a board that is not ready yet.
const PAUSE: Duration = Duration::from_millis(100);

/// Number of rounds in a row that a difference has to be seen in.
const ROUNDS: u32 = 3;

/// Minimum time to wait for a board from after the barrier, even after the deadline.
const AT_LEAST: Duration = Duration::from_secs(2);

/// Number of events set apart by dead letters that are looked up at once.
const PIECE: usize = 10_000;

/// The audit of the board.
pub(crate) struct BoardAudit;

impl Audit for BoardAudit {
    fn check(&self) -> Check {
        Check::Board
    }

    fn may_fail(&self) -> bool {
        true
    }

    fn audit<'a>(&'a self, truth: &'a mut Truth<'_>) -> Answer<'a, Findings> {
        Box::pin(check(truth.context, truth.letters))
    }
}

/// Compares the board with Postgres.
async fn check(context: &Context<'_>, letters: &Letters) -> Result<Findings, VerifyError> {
    let keys = BoardKeys::new(&context.settings.board.key);
    let timeout = Duration::from_millis(context.settings.redis.request_timeout_ms);
    let mut reader = context.connections.redis.board(keys, timeout).await?;
    let mut round = 1;
    loop {
        let before = Snapshot::take(&context.connections.postgres).await?;
        let fence = context.fence().await?;
        context.steps.doing("waiting for a fresh board");
        let (view, meta) = fresh(&mut reader, now_us(), context.deadline).await?;
        let findings = compare(context, (&before, &fence), letters, &view, meta).await?;
        if findings.differences == 0 || round == ROUNDS {
            return Ok(findings);
        }
        round += 1;
        sleep(PAUSE).await;
    }
}

/// Waits for a complete board as of `since_us` or later. A board that no worker
/// publishes any more is taken as it is, because behind the barrier there is nothing
/// left to publish. So is a board that stays ahead of the clock.
async fn fresh(
    reader: &mut BoardReader,
    since_us: i64,
    deadline: Instant,
) -> Result<(BoardView, Meta), VerifyError> {
    let deadline = deadline.max(Instant::now() + AT_LEAST);
    loop {
        let view = reader.read(None).await?;
        let is_late = Instant::now() >= deadline;
        let reason = match view.meta {
            Some(meta) if meta.complete && meta.is_ahead_of(now_us()) && !is_late => {
                "it is ahead of this machine's clock"
            }
            Some(meta) if meta.complete && (meta.as_of_us >= since_us || view.lease.is_none()) => {
                return Ok((view, meta));
            }
            Some(meta) if !meta.complete => "it does not hold all events of its window yet",
            Some(_) => "it is older than the fence",
            None => "it has never been published",
        };
        if is_late {
            return Err(VerifyError::BoardNotReady { reason });
        }
        sleep(PAUSE).await;
    }
}

async fn compare(
    context: &Context<'_>,
    (before, fence): (&Snapshot, &Fence),
    letters: &Letters,
    view: &BoardView,
    meta: Meta,
) -> Result<Findings, VerifyError> {
    let board = &context.settings.board;
    let mut findings = Findings::new(Check::Board);
    if meta.window_seconds != board.window_seconds {
        let (expected, found) = (board.window_seconds, meta.window_seconds);
        findings.differs(property("window_seconds", &expected, &found));
    }
    // The board may be right as of its own moment and still be wrong now.
    let now = now_us();
    if meta.is_ahead_of(now) {
        let (expected, found) = (Rfc3339(now), Rfc3339(meta.as_of_us));
        findings.differs(property("as_of", &format!("at most {expected}"), &found));
    }
    if view.cardinality != view.members.len() as u64 {
        findings.differs(property("members", &view.members.len(), &view.cardinality));
    }
    if view.lease.is_none() {
        findings.note("no worker publishes the board: it was judged as it stands");
    }
    let moment = Moment {
        as_of_us: meta.as_of_us,
        window_seconds: board.window_seconds,
    };
    let (connections, scratch) = (context.connections, context.scratch);
    // The log has every change that this snapshot sees, because the snapshot was taken
    // before the barrier.
    let ahead = ahead::ahead(connections, scratch, before.client(), moment, None).await?;
    let ahead = excluded(ahead, letters, &mut findings)?;
    let after = Snapshot::take(&connections.postgres).await?;
    let mut least = eligible::sums(before.client(), moment).await?;
    let mut most = eligible::sums(after.client(), moment).await?;
    let mut sides = [(before, &mut least), (&after, &mut most)];
    leave_out(&mut sides, letters, moment, ahead).await?;
    let (at_fence, at_end) = apart::sums(context, letters, moment, fence).await?;
    least.add(&at_fence);
    most.add(&at_end);
    judge(&least.0, &most.0, &view.members, board.score, &mut findings);
    Ok(findings)
}

/// Returns the events that the board may lack because of the time of their record.
/// Events of unknown time are unjudged, unless dead letters set them apart: the log
/// tells more about those.
fn excluded(ahead: Ahead, letters: &Letters, findings: &mut Findings) -> io::Result<Vec<i64>> {
    let Ahead { mut ids, unknown } = ahead;
    let sinks = apart::sinks();
    let mut unjudged: u64 = 0;
    for id in &unknown {
        unjudged += u64::from(!letters.has_event(&sinks, *id)?);
    }
    if unjudged > 0 {
        findings.unjudged += unjudged;
        findings.note(format!(
            "{unjudged} events of the window cannot be judged: the log no longer has their records"
        ));
    }
    ids.extend(unknown);
    Ok(ids)
}

/// Subtracts the events that lie too far ahead from the sums, and the events that
/// dead letters set apart, whose sums are taken from the log. There may be many of
/// the latter, so they are subtracted in pieces.
async fn leave_out(
    sides: &mut [(&Snapshot, &mut Sums)],
    letters: &Letters,
    moment: Moment,
    ahead: Vec<i64>,
) -> Result<(), VerifyError> {
    for (source, sums) in sides.iter_mut() {
        sums.subtract(&eligible::sums_of(source.client(), moment, &ahead).await?);
    }
    let ahead: HashSet<i64> = ahead.into_iter().collect();
    let sinks = apart::sinks();
    let mut from = Some(i64::MIN);
    while let Some(first) = from {
        let mut piece = letters.events(&sinks, first, PIECE)?;
        from = piece.last().and_then(|last| last.checked_add(1));
        piece.retain(|id| !ahead.contains(id));
        for (source, sums) in sides.iter_mut() {
            sums.subtract(&eligible::sums_of(source.client(), moment, &piece).await?);
        }
    }
    Ok(())
}

fn property(what: &str, expected: &dyn Display, found: &dyn Display) -> Difference {
    let (expected, found) = (Some(expected.to_string()), Some(found.to_string()));
    Difference::of(Check::Board, &"board", what, expected, found)
}

/// Compares the score of each member with the sum of its events. If the sum in
/// Postgres changed while the board was read, the score may be any value from the
/// earlier sum to the later one.
fn judge(
    before: &HashMap<Uuid, Sum>,
    after: &HashMap<Uuid, Sum>,
    members: &[(String, i64)],
    by: Score,
    findings: &mut Findings,
) {
    let mut board: HashMap<Uuid, i64> = HashMap::new();
    for (member, score) in members {
        match Uuid::parse_str(member) {
            Ok(id) => {
                board.insert(id, *score);
            }
            Err(_) => findings.differs(Difference::extra(Check::Board, member, score)),
        }
    }
    let contents: BTreeSet<Uuid> = board
        .keys()
        .chain(before.keys())
        .chain(after.keys())
        .copied()
        .collect();
    let score = |sums: &HashMap<Uuid, Sum>, id| sums.get(id).map(|sum| sum.score(by));
    for id in &contents {
        findings.compared += 1;
        let (before, after) = (score(before, id), score(after, id));
        let found = board.get(id).copied();
        if (before.min(after)..=before.max(after)).contains(&found) {
            continue;
        }
        findings.differs(match (after, found) {
            (Some(expected), None) => Difference::missing(Check::Board, id, &expected),
            (None, Some(found)) => Difference::extra(Check::Board, id, &found),
            (expected, found) => {
                let text = |score: Option<i64>| score.map(|score| score.to_string());
                Difference::of(Check::Board, id, "score", text(expected), text(found))
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::findings::Kind;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    fn sums(of: &[(Uuid, i64)]) -> HashMap<Uuid, Sum> {
        let sum = |(id, events): &(Uuid, i64)| {
            let sum = Sum {
                events: *events,
                duration_ms: events * 1_500,
            };
            (*id, sum)
        };
        of.iter().map(sum).collect()
    }

    fn judged(
        before: &HashMap<Uuid, Sum>,
        after: &HashMap<Uuid, Sum>,
        board: &[(Uuid, i64)],
    ) -> Vec<(Kind, String)> {
        let members: Vec<_> = board
            .iter()
            .map(|(id, score)| (id.to_string(), *score))
            .collect();
        let mut findings = Findings::new(Check::Board);
        judge(before, after, &members, Score::Events, &mut findings);
        let short = |difference: Difference| (difference.kind, difference.id);
        findings.shown.into_iter().map(short).collect()
    }

    #[test]
    fn every_kind_of_difference_is_noticed() {
        let quiet = sums(&[(A, 3)]);
        assert!(judged(&quiet, &quiet, &[(A, 3)]).is_empty());
        assert_eq!(judged(&quiet, &quiet, &[(A, 2)])[0].0, Kind::Differs);
        assert_eq!(judged(&quiet, &quiet, &[])[0].0, Kind::Missing);
        let extra = judged(&quiet, &quiet, &[(A, 3), (B, 0)]);
        assert_eq!(extra, [(Kind::Extra, B.to_string())]);
    }

    #[test]
    fn a_member_that_is_no_content_is_extra() {
        let mut findings = Findings::new(Check::Board);
        let none = HashMap::new();
        judge(
            &none,
            &none,
            &[("x".to_owned(), 1)],
            Score::Events,
            &mut findings,
        );
        assert_eq!(findings.shown[0].kind, Kind::Extra);
    }

    #[test]
    fn what_moves_may_be_anywhere_between() {
        let (before, after) = (sums(&[(A, 3)]), sums(&[(A, 5), (B, 1)]));
        for score in 3..=5 {
            assert!(judged(&before, &after, &[(A, score)]).is_empty());
            assert!(judged(&before, &after, &[(A, score), (B, 1)]).is_empty());
        }
        assert_eq!(judged(&before, &after, &[(A, 2)])[0].0, Kind::Differs);
        assert_eq!(judged(&before, &after, &[(A, 6)])[0].0, Kind::Differs);
        assert_eq!(
            judged(&before, &after, &[(A, 3), (B, 2)])[0].0,
            Kind::Differs
        );
    }

    #[test]
    fn seconds_are_judged_by_the_sum() {
        let quiet = sums(&[(A, 3)]);
        let mut findings = Findings::new(Check::Board);
        let members = [(A.to_string(), 4)];
        judge(&quiet, &quiet, &members, Score::Seconds, &mut findings);
        assert_eq!(findings.differences, 0);
    }
}
