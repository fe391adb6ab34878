//! The audit of the external system: the calls that fanout's stub has received,
//! against the inserts in the log. Other systems cannot be asked.

use std::{collections::HashMap, fmt::Write as _, io, time::Duration};

use serde::Deserialize;
use uuid::Uuid;

use crate::{
    audit::{
        Audit,
        error::VerifyError,
        findings::{Check, Difference, Findings, MAX_SHOWN},
        ledger::{Call, Had, Sha},
        log::{Told, Walk},
        store::Answer,
        truth::Truth,
    },
    connections::{
        Connections,
        web::{Method, Web, WebError},
    },
    sink_kind::SinkKind,
    spill::{
        bucket::{Heap, Spill},
        scratch::Scratch,
    },
    time::timestamp::{MICROS_PER_MILLI, Rfc3339},
};

/// The name that the stub gives itself in `GET /events`. Other systems cannot be
/// asked for their events.
pub const SYSTEM: &str = "fanout-stub";

/// Number of calls in one answer.
const PAGE: usize = 1_000;

const TIMEOUT: Duration = Duration::from_secs(30);

/// How far the broker's clock may be ahead of the stub's, in microseconds.
const CLOCK_SLACK_US: i64 = 60_000_000;

/// Length of the body that is shown of a missing call, in characters.
const EXCERPT: usize = 300;

#[derive(Debug, Deserialize)]
struct Page {
    system: String,
    next: Option<u64>,
    /// Calls received up to this time may have been forgotten, in microseconds since
    /// the epoch.
    #[serde(default)]
    forgotten_until_us: Option<i64>,
    events: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    key: String,
    sha256: String,
}

/// Keys that the log does not contain: their number, and the first of them.
#[derive(Debug, Default)]
struct Unknown {
    count: u64,
    shown: Vec<String>,
}

/// The calls that the stub has received.
#[derive(Debug)]
struct Journal {
    had: Spill<Had>,
    /// Keys that are not of the form that the pipeline makes.
    foreign: Unknown,
    /// Calls received up to this time may have been forgotten, in microseconds since
    /// the epoch.
    forgotten_until_us: Option<i64>,
}

/// The audit of the calls.
pub(crate) struct CallAudit;

impl Audit for CallAudit {
    fn check(&self) -> Check {
        Check::External
    }

    fn audit<'a>(&'a self, truth: &'a mut Truth<'_>) -> Answer<'a, Findings> {
        Box::pin(check(truth))
    }
}

impl Unknown {
    fn add(&mut self, key: &str) {
        self.count += 1;
        if self.shown.len() < MAX_SHOWN {
            self.shown.push(key.to_owned());
        }
    }
}

/// Lists the calls that the stub has received. Returns `None` if the external system is
/// not fanout's stub.
async fn journal(
    connections: &Connections,
    scratch: &Scratch,
    heaps: usize,
) -> Result<Option<Journal>, VerifyError> {
    let web = connections.external.client(TIMEOUT)?;
    let mut journal = Journal {
        had: Spill::new(scratch, heaps)?,
        foreign: Unknown::default(),
        forgotten_until_us: None,
    };
    let mut after = Some(0);
    while let Some(place) = after {
        let page = match page(&web, &format!("after={place}")).await? {
            Some(page) => page,
            None if place == 0 => return Ok(None),
            // It was the stub before, so its list is incomplete.
            None => return Err(VerifyError::StubDocument),
        };
        for listed in page.events {
            let sha = sha(&listed.sha256).ok_or(VerifyError::StubDocument)?;
            match Uuid::parse_str(&listed.key) {
                Ok(key) => journal.had.push(&Had { key, sha })?,
                Err(_) => journal.foreign.add(&listed.key),
            }
        }
        // The stub may have forgotten more since the page before.
        journal.forgotten_until_us = journal.forgotten_until_us.max(page.forgotten_until_us);
        after = page.next;
    }
    Ok(Some(journal))
}

/// What is wrong with a required call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Missing,
    /// It was received with another body, which has this digest.
    Otherwise(Sha),
}

/// The number of calls that were compared.
#[derive(Debug, Default, PartialEq, Eq)]
struct Compared {
    judged: u64,
    /// Calls that the stub may have received and forgotten.
    forgotten: u64,
}

/// Compares one heap of each side. Adds the calls that are wrong, and the keys that
/// the log does not contain.
fn compare(
    had: impl Iterator<Item = io::Result<Had>>,
    calls: impl Iterator<Item = io::Result<Call>>,
    is_judged: impl Fn(&Call) -> bool,
    may_be_forgotten: impl Fn(&Call) -> bool,
    wrong: &mut Vec<(Call, Wrong)>,
    unknown: &mut Unknown,
) -> io::Result<Compared> {
    let mut known: HashMap<Uuid, (Sha, bool)> = HashMap::new();
    for had in had {
        let Had { key, sha } = had?;
        known.insert(key, (sha, false));
    }
    let mut compared = Compared::default();
    for call in calls {
        let call = call?;
        let received = known.get_mut(&call.key).map(|(sha, in_log)| {
            *in_log = true;
            *sha
        });
        if !call.required || !is_judged(&call) {
            continue;
        }
        if received.is_none() && may_be_forgotten(&call) {
            compared.forgotten += 1;
            continue;
        }
        compared.judged += 1;
        match received {
            Some(sha) if sha == call.sha => {}
            Some(sha) => wrong.push((call, Wrong::Otherwise(sha))),
            None => wrong.push((call, Wrong::Missing)),
        }
    }
    for (key, _) in known.iter().filter(|(_, (_, in_log))| !in_log) {
        unknown.add(&key.to_string());
    }
    Ok(compared)
}

/// Compares the calls that the external system has received with the inserts in the
/// log: one call for each insert, under its key and with its body, and no others.
async fn check(truth: &mut Truth<'_>) -> Result<Findings, VerifyError> {
    let (context, heaps) = (truth.context, truth.log.heaps());
    context.steps.doing("reading the log");
    let Some(journal) = journal(context.connections, context.scratch, heaps).await? else {
        return Ok(Findings::skipped(
            Check::External,
            "the external system is not fanout's stub and cannot be asked",
        ));
    };
    let told = truth.log.calls().await?;
    compare_all(&truth.log, journal, told).await
}

/// Compares all heaps, and judges the calls that are wrong.
async fn compare_all(
    walk: &Walk<'_>,
    journal: Journal,
    told: Told,
) -> Result<Findings, VerifyError> {
    let mut findings = Findings::new(Check::External);
    let mut unknown = journal.foreign;
    let until = journal.forgotten_until_us;
    let may_be_forgotten = |call: &Call| {
        let received_us = call.time_ms.saturating_mul(MICROS_PER_MILLI);
        until.is_some_and(|until| received_us <= until.saturating_add(CLOCK_SLACK_US))
    };
    let had: Vec<Heap<Had>> = journal.had.heaps()?;
    for (had, calls) in had.into_iter().zip(told.calls.heaps()?) {
        let mut wrong = Vec::new();
        let is_judged = |call: &Call| call.offset < walk.end(call.partition);
        let found = compare(
            had,
            calls,
            is_judged,
            may_be_forgotten,
            &mut wrong,
            &mut unknown,
        )?;
        findings.compared += found.judged;
        findings.forgotten += found.forgotten;
        for (call, how) in wrong {
            judge(walk, &call, how, &mut findings).await?;
        }
    }
    let forgotten = findings.forgotten;
    if let Some(until) = until.filter(|_| forgotten > 0) {
        let until = Rfc3339(until);
        findings.note(format!(
            "{forgotten} calls are not judged: the stub keeps none from before {until}"
        ));
    }
    if unknown.count > 0 && !told.is_whole {
        let count = unknown.count;
        findings.note(format!(
            "{count} keys are not judged: the log no longer has all of history"
        ));
    } else {
        for key in &unknown.shown {
            findings.differs(Difference::extra(Check::External, key, &"a call"));
        }
        findings.differences += unknown.count - unknown.shown.len() as u64;
    }
    Ok(findings)
}

/// Adds the difference of a call that is wrong, unless a dead letter excuses it.
async fn judge(
    walk: &Walk<'_>,
    call: &Call,
    how: Wrong,
    findings: &mut Findings,
) -> Result<(), VerifyError> {
    let (partition, offset) = (call.partition, call.offset);
    if walk.letters.has(SinkKind::Http, partition, offset)? {
        findings.excuse(&call.key);
        return Ok(());
    }
    let difference = match how {
        Wrong::Missing => {
            let mut what = format!("{}@{}", call.partition, call.offset);
            // The body is read from the log again only if it is shown.
            if findings.shown.len() < MAX_SHOWN
                && let Some(body) = walk.body(call.partition, call.offset).await?
            {
                let body = String::from_utf8_lossy(&body);
                what.push(' ');
                what.extend(body.chars().take(EXCERPT));
            }
            Difference::missing(Check::External, &call.key, &what)
        }
        Wrong::Otherwise(found) => {
            let text = |sha: &[u8]| Some(format!("sha256 {}", hex(sha)));
            let (expected, found) = (text(&call.sha), text(&found));
            Difference::of(Check::External, &call.key, "body", expected, found)
        }
    };
    findings.differs(difference);
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

async fn page(web: &Web, which: &str) -> Result<Option<Page>, WebError> {
    let query = format!("?limit={PAGE}&bodies=false&{which}");
    let answer = web.send(Method::GET, &query, None).await?;
    let page = serde_json::from_str::<Page>(&answer.body).ok();
    Ok(page.filter(|page| answer.is_success() && page.system == SYSTEM))
}

fn sha(text: &str) -> Option<Sha> {
    let mut sha = Sha::default();
    for (byte, at) in sha.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(sha)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_from_its_hexadecimal() {
        let sha = sha(&"0fA1".repeat(16)).expect("64 digits");
        assert_eq!(sha[..2], [0x0f, 0xa1]);
        assert_eq!(super::sha("0f"), None);
        assert_eq!(super::sha(&"zz".repeat(32)), None);
    }

    #[test]
    fn a_call_is_looked_up_by_key_and_body() {
        let key = |number| Uuid::from_u128(number);
        let call = |number, sha: u8, offset, required| Call {
            key: key(number),
            sha: [sha; 32],
            partition: 0,
            offset,
            required,
            time_ms: offset,
        };
        let had = [1, 2, 3, 9].map(|number| {
            Ok(Had {
                key: key(number),
                sha: [1; 32],
            })
        });
        let calls = [
            call(1, 1, 0, true),
            call(2, 7, 1, true),
            // Received, but not required.
            call(3, 7, 2, false),
            call(4, 1, 3, true),
            call(5, 1, 4, false),
            // Behind the barrier.
            call(6, 1, 50, true),
            // Forgotten by the stub.
            call(7, 1, 0, true),
        ];
        let (mut wrong, mut unknown) = (Vec::new(), Unknown::default());
        let judged = compare(
            had.into_iter(),
            calls.into_iter().map(Ok),
            |call| call.offset < 50,
            |call| call.time_ms < 1,
            &mut wrong,
            &mut unknown,
        );
        let compared = Compared {
            judged: 3,
            forgotten: 1,
        };
        assert_eq!(judged.expect("entries"), compared);
        let wrong: Vec<_> = wrong.iter().map(|(call, how)| (call.key, *how)).collect();
        let otherwise = Wrong::Otherwise([1; 32]);
        assert_eq!(wrong, [(key(2), otherwise), (key(4), Wrong::Missing)]);
        assert_eq!(
            (unknown.count, &unknown.shown),
            (1, &vec![key(9).to_string()])
        );
    }
}
