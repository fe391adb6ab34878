//! What the pipeline knows of its source, and what that does to its sinks.
//!
//! Who looks at the source is decided above: it holds the [`SourceWriter`], the
//! sinks the [`SourceWatch`]. A source of an unsupported shape halts every sink
//! that reads the tables or columns concerned; where changes are, or were, lost,
//! these sinks go on and say that they are not to be relied on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Halt,
    retry::halt_for,
    stats::{SOURCE, SinkStats},
};
use crate::{
    config::Score,
    debezium::{ContentTable, CountedTable, DimensionTable, EngagementTable, Shape, columns_read},
    sink_kind::{ConsumerGroup, SinkKind, joined},
    source::{
        checks::{AlteredColumn, Finding, RECONCILE, Severity, Standing},
        tables::Source,
    },
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// The stable name of the halt where the source has changed.
pub(super) const SCHEMA_CHANGED: &str = "schema_changed";

/// How long Postgres may take to confirm a change. The board's lease outlasts it.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);

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

    /// Whether Postgres confirms that records are not of the expected shape
    /// because the source has changed: a column that is read is gone or of
    /// another type now, or one of those that the records are about was altered
    /// since the last reconcile and may have been meanwhile.
    pub(super) async fn confirms_change(&self, reads: &Reads, shapes: &[Shape]) -> bool {
        let Some(standing) = self.look(CONFIRM_WITHIN).await else {
            return false;
        };
        let findings = reads.findings(&standing, Severity::Unsupported);
        findings.iter().any(|one| one.code.is_column_problem()) || reads.altered(&standing, shapes)
    }

    /// Resolves when something else is known.
    async fn changed(&mut self) -> bool {
        self.latest.changed().await.is_ok()
    }
}

/// What a sink reads of the source: by qualified table, the columns.
#[derive(Debug, Clone)]
pub(super) struct Reads(Vec<(String, Vec<&'static str>)>);

impl Reads {
    pub(super) fn of(group: ConsumerGroup, source: &Source, score: Score) -> Self {
        let facts = |columns| (source.facts.qualified(), columns);
        let content = |columns| (source.content.qualified(), columns);
        Self(match (group, score) {
            (ConsumerGroup::Facts, _) => vec![
                facts(columns_read::<EngagementTable>()),
                content(columns_read::<DimensionTable>()),
            ],
            (ConsumerGroup::Content, _) => vec![content(columns_read::<ContentTable>())],
            (ConsumerGroup::Http, _) => vec![facts(columns_read::<EngagementTable>())],
            (ConsumerGroup::Board, Score::Events) => {
                vec![facts(columns_read::<CountedTable<false>>())]
            }
            (ConsumerGroup::Board, Score::Seconds) => {
                vec![facts(columns_read::<CountedTable<true>>())]
            }
        })
    }

    /// Whether a finding is about something that is read: of a column, that one.
    fn concern(&self, finding: &Finding) -> bool {
        let Some(table) = &finding.table else {
            return true;
        };
        let Some((_, columns)) = self.0.iter().find(|(name, _)| name == table) else {
            return false;
        };
        let column = finding.column.as_deref();
        column.is_none_or(|column| columns.contains(&column))
    }

    /// Whether a column that is read, and that a record is not as expected in,
    /// was altered.
    fn altered(&self, standing: &Standing, shapes: &[Shape]) -> bool {
        let mut altered = standing.altered.iter();
        altered.any(|AlteredColumn { table, column }| {
            let mut tables = self.0.iter().filter(|(name, _)| name == table);
            tables.any(|(_, columns)| columns.contains(&column.as_str()))
                && shapes.iter().any(|shape| shape.column() == Some(column))
        })
    }

    /// The findings of one severity that are about something that is read.
    fn findings<'s>(&self, standing: &'s Standing, severity: Severity) -> Vec<&'s Finding> {
        let found = standing.findings.iter();
        found
            .filter(|one| one.severity == severity && self.concern(one))
            .collect()
    }
}

/// Tells every sink what is known of the source, until told to stop.
pub(crate) async fn follow(
    mut watch: SourceWatch,
    (source, score): (Source, Score),
    project_sinks: Vec<SinkKind>,
    sinks: Vec<Arc<SinkStats>>,
    stop: CancellationToken,
) {
    loop {
        let standing = watch.latest();
        for stats in &sinks {
            let reads = Reads::of(stats.group(), &source, score);
            match halt(&standing, &reads) {
                Some(halt) => halt_for(stats, SOURCE, halt),
                None => stats.unhalt(SOURCE),
            }
            let caution = caution(&standing, &reads, stats.group(), &project_sinks);
            stats.set_caution(SOURCE, caution);
        }
        tokio::select! {
            goes_on = watch.changed() => if !goes_on { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Why what reads this has to stop.
fn halt(standing: &Standing, reads: &Reads) -> Option<Halt> {
    let findings = reads.findings(standing, Severity::Unsupported);
    let first = findings.first()?;
    let code = if first.code.is_column_problem() {
        SCHEMA_CHANGED
    } else {
        "source_unsupported"
    };
    Some(Halt {
        code: code.to_owned(),
        reason: reason(&findings),
        remedy: first.remedy.clone(),
    })
}

/// Why what reads this is not to be relied on.
fn caution(
    standing: &Standing,
    reads: &Reads,
    group: ConsumerGroup,
    project_sinks: &[SinkKind],
) -> Option<Halt> {
    let severities = [
        Severity::Incomplete,
        Severity::Unreconciled,
        Severity::Impaired,
    ];
    severities.into_iter().find_map(|severity| {
        let findings = reads.findings(standing, severity);
        let first = findings.first()?;
        let mut remedy = first.remedy.clone();
        match group {
            // A reconcile tells the external system nothing unless it is named.
            ConsumerGroup::Http if remedy == RECONCILE => {
                let sinks = [SinkKind::ClickHouse, SinkKind::Http];
                let has = |sink: &SinkKind| *sink == SinkKind::Http || project_sinks.contains(sink);
                let sinks: Vec<SinkKind> = sinks.into_iter().filter(has).collect();
                remedy.push_str(" --sinks ");
                remedy.push_str(&joined(&sinks, ","));
            }
            ConsumerGroup::Board
            | ConsumerGroup::Facts
            | ConsumerGroup::Http
            | ConsumerGroup::Content => {}
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
    use crate::source::checks::Code;

    fn standing(findings: Vec<Finding>) -> Standing {
        Standing {
            findings,
            ..Standing::default()
        }
    }

    fn missing(table: &str, column: &str) -> Standing {
        let what = format!("column {column} of {table} is missing");
        let finding = Finding::new(
            Code::ColumnMissing,
            Severity::Unsupported,
            what,
            "rename it",
        );
        Standing {
            findings: vec![finding.of_table(table).of_column(column)],
            ..Standing::default()
        }
    }

    fn halted(standing: &Standing, group: ConsumerGroup, score: Score) -> Option<String> {
        let reads = Reads::of(group, &Source::new("cdc"), score);
        halt(standing, &reads).map(|halt| halt.code)
    }

    #[test]
    fn a_column_that_is_gone_halts_those_who_read_it() {
        let of = |standing: &Standing, score| {
            let mut halted = ConsumerGroup::ALL.to_vec();
            halted.retain(|group| self::halted(standing, *group, score).is_some());
            halted.sort();
            halted
                .into_iter()
                .map(ConsumerGroup::name)
                .collect::<Vec<_>>()
        };
        let events = "public.engagement_events";
        for (table, column, score, expected) in [
            (events, "device", Score::Events, vec!["clickhouse", "http"]),
            (
                events,
                "duration_ms",
                Score::Events,
                vec!["clickhouse", "http"],
            ),
            (
                events,
                "duration_ms",
                Score::Seconds,
                vec!["clickhouse", "http", "redis"],
            ),
            (
                events,
                "event_ts",
                Score::Events,
                vec!["clickhouse", "http", "redis"],
            ),
            ("public.content", "title", Score::Events, vec!["content"]),
            (
                "public.content",
                "length_seconds",
                Score::Events,
                vec!["clickhouse", "content"],
            ),
        ] {
            assert_eq!(of(&missing(table, column), score), expected, "{column}");
        }
    }

    #[test]
    fn a_table_that_is_gone_halts_all_who_read_it() {
        let what = "table public.content does not exist";
        let finding = Finding::new(
            Code::TableMissing,
            Severity::Unsupported,
            what,
            "restore it",
        );
        let standing = Standing {
            findings: vec![finding.of_table("public.content")],
            ..Standing::default()
        };
        let code = halted(&standing, ConsumerGroup::Facts, Score::Events);
        assert_eq!(code.as_deref(), Some("source_unsupported"));
        let of_board = halted(&standing, ConsumerGroup::Board, Score::Events);
        assert_eq!(of_board, None);
    }

    #[tokio::test]
    async fn a_change_is_confirmed_by_a_look_of_after_the_question() {
        let (writer, watch) = source();
        let reads = Reads::of(ConsumerGroup::Http, &Source::new("cdc"), Score::Events);
        let number = writer.begin();
        let asked = tokio::spawn(async move {
            let confirmed = watch.confirms_change(&reads, &[]).await;
            // Nobody looks any more.
            (confirmed, watch.confirms_change(&reads, &[]).await)
        });
        writer.wanted().await;
        // Begun before the question: it says nothing.
        writer.publish(number, missing("public.engagement_events", "id"), true);
        let number = writer.begin();
        writer.publish(number, missing("public.engagement_events", "device"), true);
        drop(writer);
        assert_eq!(asked.await.ok(), Some((true, false)));
    }

    #[tokio::test]
    async fn a_column_that_was_altered_and_altered_back_confirms_what_lacks_it() {
        let reads = Reads::of(ConsumerGroup::Http, &Source::new("cdc"), Score::Events);
        let altered = |table: &str| Standing {
            altered: vec![AlteredColumn {
                table: table.to_owned(),
                column: "device".to_owned(),
            }],
            ..Standing::default()
        };
        let events = "public.engagement_events";
        for (table, shapes, expected) in [
            (events, &[Shape::Column("device")][..], true),
            (
                events,
                &[Shape::Column("id"), Shape::Column("device")],
                true,
            ),
            (events, &[Shape::Column("id")], false),
            (events, &[Shape::Envelope], false),
            (events, &[], false),
            ("public.content", &[Shape::Column("device")], false),
        ] {
            let (writer, watch) = source();
            let asked = async { watch.confirms_change(&reads, shapes).await };
            let answered = async {
                writer.wanted().await;
                writer.publish(writer.begin(), altered(table), true);
            };
            let (confirmed, ()) = tokio::join!(asked, answered);
            assert_eq!(confirmed, expected, "{table} {shapes:?}");
        }
    }

    #[test]
    fn the_worst_is_the_caution_and_the_rest_is_counted() {
        let unreconciled = || {
            Finding::new(
                Code::SourceChanged,
                Severity::Unreconciled,
                "changed",
                RECONCILE,
            )
        };
        let mut all = vec![Finding::new(
            Code::PublicationMissing,
            Severity::Incomplete,
            "it is gone",
            "fanout up",
        )];
        let caution_of = |all: &[Finding], group, sinks: &[SinkKind]| {
            let reads = Reads::of(group, &Source::new("cdc"), Score::Events);
            caution(&standing(all.to_vec()), &reads, group, sinks).expect("a caution")
        };
        let caution = |all: &[Finding], group| caution_of(all, group, &SinkKind::ALL);
        all.extend((0..5).map(|_| unreconciled()));
        let found = caution(&all, ConsumerGroup::Board);
        assert_eq!(found.code, "publication_missing");
        all.remove(0);
        let found = caution(&all, ConsumerGroup::Board);
        assert!(found.reason.ends_with("; and 2 more"), "{}", found.reason);
        assert_eq!(found.remedy, RECONCILE);
        let outside = caution(&all, ConsumerGroup::Http).remedy;
        assert_eq!(outside, format!("{RECONCILE} --sinks clickhouse,http"));
        let lean = [SinkKind::Redis, SinkKind::Http];
        let outside = caution_of(&all, ConsumerGroup::Http, &lean).remedy;
        assert_eq!(outside, format!("{RECONCILE} --sinks http"));
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
