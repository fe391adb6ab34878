//! What the pipeline knows of its source, and what that does to its sinks.
//!
//! Who looks at the source is decided above: it holds the [`SourceWriter`], the
//! sinks the [`SourceWatch`]. A source of an unsupported shape halts every sink
//! that reads the tables concerned; where changes are, or were, lost, these
//! sinks go on and say that they are not to be relied on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Shared, Source,
    stats::{SOURCE, SinkStats},
};
use crate::{
    event::SourceTable,
    pipeline::patience::halt_for,
    sinks::Halt,
    source::{Finding, RECONCILE, Severity, Standing},
};
use tokio::sync::{Notify, watch};

/// What changes of the source are told of one sink at most; the rest is
/// counted.
const MOST_REASONS: usize = 3;

/// The latest that is known of the source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SourceWatch {
    latest: watch::Receiver<Arc<Look>>,
    asked: Arc<Asked>,
}

/// Where the latest that is known of the source is written to; one for each
/// process.
#[derive(Debug)]
pub struct SourceWriter {
    latest: watch::Sender<Arc<Look>>,
    asked: Arc<Asked>,
}

/// A look at the source, and which one it was.
#[derive(Debug, Default)]
struct Look {
    number: u64,
    standing: Standing,
    /// Postgres answered: the findings are of this look.
    answered: bool,
}

#[derive(Debug, Default)]
struct Asked {
    /// The number of the look that has begun last.
    begun: AtomicU64,
    /// Somebody does not want to wait for the next one.
    now: Notify,
}

/// A writer and its watch. Until the first look nothing is known.
#[must_use]
pub fn source() -> (SourceWriter, SourceWatch) {
    let asked = Arc::<Asked>::default();
    let (sender, receiver) = watch::channel(Arc::default());
    let writer = SourceWriter {
        latest: sender,
        asked: Arc::clone(&asked),
    };
    let watch = SourceWatch {
        latest: receiver,
        asked,
    };
    (writer, watch)
}

impl SourceWriter {
    /// Begins a look; returns its number.
    pub fn begin(&self) -> u64 {
        self.asked.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Publishes what the look of this number has seen; `answered` says whether
    /// Postgres did.
    pub fn publish(&self, number: u64, standing: Standing, answered: bool) {
        self.latest.send_replace(Arc::new(Look {
            number,
            standing,
            answered,
        }));
    }

    /// Resolves when somebody wants a look at once.
    pub async fn wanted(&self) {
        self.asked.now.notified().await;
    }
}

impl SourceWatch {
    /// What is known now, however old it is.
    #[must_use]
    pub fn latest(&self) -> Standing {
        self.latest.borrow().standing.clone()
    }

    /// Has the source looked at now and returns what was seen: Postgres is
    /// asked after this call. None where nobody has looked within `patience`,
    /// or Postgres did not answer.
    pub async fn look(&self, patience: Duration) -> Option<Standing> {
        let before = self.asked.begun.load(Ordering::SeqCst);
        let mut latest = self.latest.clone();
        self.asked.now.notify_one();
        let fresh = latest.wait_for(|look| look.number > before);
        let look = tokio::time::timeout(patience, fresh).await.ok()?.ok()?;
        look.answered.then(|| look.standing.clone())
    }

    /// Resolves when something else is known.
    async fn changed(&mut self) -> bool {
        self.latest.changed().await.is_ok()
    }
}

/// The tables that a sink reads, by their qualified names.
pub(super) fn tables_of(sink: &str, source: &Source) -> Vec<String> {
    let name = |table: &SourceTable| format!("{}.{}", table.schema, table.table);
    match sink {
        "clickhouse" => vec![name(&source.facts), name(&source.content)],
        "content" => vec![name(&source.content)],
        _ => vec![name(&source.facts)],
    }
}

/// Tells every sink what is known of the source, until told to stop.
pub(super) async fn follow(shared: Shared, sinks: Vec<Arc<SinkStats>>) {
    let Shared {
        mut watch,
        source,
        stop,
        ..
    } = shared;
    loop {
        let standing = watch.latest();
        for stats in &sinks {
            let tables = tables_of(stats.name(), &source);
            match halt(&standing, &tables) {
                Some(halt) => halt_for(stats, SOURCE, halt),
                None => stats.unhalt(SOURCE),
            }
            stats.set_caution(SOURCE, caution(&standing, &tables, stats.name()));
        }
        tokio::select! {
            goes_on = watch.changed() => if !goes_on { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Why what reads these tables has to stop.
fn halt(standing: &Standing, tables: &[String]) -> Option<Halt> {
    let findings: Vec<&Finding> = standing.of(Severity::Unsupported, tables).collect();
    let first = findings.first()?;
    let code = if first.code.is_of_a_column() {
        "schema_changed"
    } else {
        "source_unsupported"
    };
    Some(Halt {
        code: code.to_owned(),
        reason: reason(&findings),
        remedy: first.remedy.clone(),
    })
}

/// Why what reads these tables is not to be relied on.
fn caution(standing: &Standing, tables: &[String], sink: &str) -> Option<Halt> {
    let severities = [
        Severity::Incomplete,
        Severity::Unreconciled,
        Severity::Impaired,
    ];
    severities.into_iter().find_map(|severity| {
        let findings: Vec<&Finding> = standing.of(severity, tables).collect();
        let first = findings.first()?;
        let mut remedy = first.remedy.clone();
        if sink == "http" && remedy == RECONCILE {
            // A reconcile tells the external system nothing unless it is named.
            remedy.push_str(" --sinks clickhouse,http");
        }
        Some(Halt {
            code: first.code.name(),
            reason: reason(&findings),
            remedy,
        })
    })
}

fn reason(findings: &[&Finding]) -> String {
    let mut whats: Vec<&str> = findings.iter().map(|one| one.what.as_str()).collect();
    let more = whats.len().saturating_sub(MOST_REASONS);
    whats.truncate(MOST_REASONS);
    let mut text = whats.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Code;

    fn tables(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("public.{name}")).collect()
    }

    fn standing(findings: Vec<Finding>) -> Standing {
        Standing {
            findings,
            ..Standing::default()
        }
    }

    fn finding(code: Code, severity: Severity, table: Option<&str>) -> Finding {
        let finding = Finding::new(code, severity, code.name(), RECONCILE);
        Finding {
            table: table.map(|name| format!("public.{name}")),
            ..finding
        }
    }

    #[test]
    fn only_what_reads_a_table_halts_for_it() {
        let wrong = finding(Code::TableKind, Severity::Unsupported, Some("content"));
        let standing = standing(vec![wrong]);
        let halted = halt(&standing, &tables(&["engagement_events", "content"]));
        assert_eq!(halted.expect("halted").code, "source_unsupported");
        assert_eq!(halt(&standing, &tables(&["engagement_events"])), None);
    }

    #[test]
    fn a_column_that_changed_is_told_as_such() {
        let gone = finding(Code::ColumnMissing, Severity::Unsupported, Some("content"));
        let halted = halt(&standing(vec![gone]), &tables(&["content"]));
        assert_eq!(halted.expect("halted").code, "schema_changed");
    }

    #[test]
    fn the_worst_is_the_caution_and_the_rest_is_counted() {
        let unreconciled = |table| finding(Code::SourceChanged, Severity::Unreconciled, table);
        let mut all = vec![finding(
            Code::PublicationMissing,
            Severity::Incomplete,
            None,
        )];
        let caution = |all: &[Finding], sink| {
            let tables = tables(&["engagement_events"]);
            caution(&standing(all.to_vec()), &tables, sink).expect("a caution")
        };
        all.extend((0..5).map(|_| unreconciled(None)));
        assert_eq!(caution(&all, "redis").code, "publication_missing");
        all.remove(0);
        let found = caution(&all, "redis");
        assert!(found.reason.ends_with("; and 2 more"), "{}", found.reason);
        assert_eq!(found.remedy, RECONCILE);
        let outside = caution(&all, "http").remedy;
        assert_eq!(outside, format!("{RECONCILE} --sinks clickhouse,http"));
    }

    #[tokio::test]
    async fn a_look_that_is_asked_for_is_one_that_begins_later() {
        let (writer, watch) = source();
        let patience = Duration::from_secs(60);
        let early = writer.begin();
        let asking = tokio::spawn(async move { watch.look(patience).await });
        writer.wanted().await;
        let wrong = finding(Code::ColumnMissing, Severity::Unsupported, None);
        writer.publish(early, Standing::default(), true);
        let number = writer.begin();
        writer.publish(number, standing(vec![wrong.clone()]), true);
        let seen = asking.await.expect("no panic").expect("an answer");
        assert_eq!(seen.findings, [wrong]);
    }

    #[tokio::test]
    async fn a_look_at_a_postgres_that_does_not_answer_tells_nothing() {
        let (writer, watch) = source();
        let asking = tokio::spawn(async move { watch.look(Duration::from_secs(60)).await });
        writer.wanted().await;
        let number = writer.begin();
        writer.publish(number, Standing::default(), false);
        assert_eq!(asking.await.expect("no panic"), None);
    }
}
