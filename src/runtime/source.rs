//! Publishes the state of the source database to the sinks, and halts or degrades
//! the sinks that depend on a broken part of it.
//!
//! The caller checks the source and publishes the results through a
//! [`SourceWriter`]; sinks read them through a [`SourceWatch`]. An unsupported
//! schema halts every sink that reads an affected table or column. If changes are
//! being lost, or were lost earlier, these sinks keep running and are reported as
//! degraded.

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

/// Halt code for a changed source schema.
pub(super) const SCHEMA_CHANGED: &str = "schema_changed";

/// Maximum time to wait until Postgres confirms a change. Must be shorter than the
/// board's lease.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of findings listed in a halt or degradation. The others are only counted.
const MAX_REASONS: usize = 3;

/// The latest known state of the source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SourceWatch {
    latest: watch::Receiver<Arc<SourceCheck>>,
    requests: Arc<CheckRequests>,
}

/// Publishes the latest known state of the source. There is one per process.
#[derive(Debug)]
pub struct SourceWriter {
    latest: watch::Sender<Arc<SourceCheck>>,
    requests: Arc<CheckRequests>,
}

/// Result of one source check, with its sequence number.
#[derive(Debug, Default)]
struct SourceCheck {
    number: u64,
    standing: Standing,
    /// Whether Postgres responded, so the findings come from this check.
    has_response: bool,
}

#[derive(Debug, Default)]
struct CheckRequests {
    /// Sequence number of the most recently started check.
    last_started: AtomicU64,
    /// Notified if a check is requested immediately.
    requested: Notify,
}

/// Creates a connected writer and watch. The watch is empty until the first check.
#[must_use]
pub fn source() -> (SourceWriter, SourceWatch) {
    let requests = Arc::<CheckRequests>::default();
    let (sender, receiver) = watch::channel(Arc::default());
    let writer = SourceWriter {
        latest: sender,
        requests: Arc::clone(&requests),
    };
    let watch = SourceWatch {
        latest: receiver,
        requests,
    };
    (writer, watch)
}

impl SourceWriter {
    /// Starts a check and returns its sequence number.
    pub fn begin(&self) -> u64 {
        self.requests.last_started.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Publishes the result of check `number`. `has_response` is true if Postgres
    /// responded.
    pub fn publish(&self, number: u64, standing: Standing, has_response: bool) {
        self.latest.send_replace(Arc::new(SourceCheck {
            number,
            standing,
            has_response,
        }));
    }

    /// Waits until an immediate check is requested.
    pub async fn wait_for_request(&self) {
        self.requests.requested.notified().await;
    }
}

impl SourceWatch {
    /// Returns the latest known state, regardless of its age.
    #[must_use]
    pub fn latest(&self) -> Standing {
        self.latest.borrow().standing.clone()
    }

    /// Requests a new check and returns its result; Postgres is queried after this
    /// call. Returns `None` if no check completes within `timeout` or Postgres does
    /// not respond.
    pub async fn check_now(&self, timeout: Duration) -> Option<Standing> {
        let before = self.requests.last_started.load(Ordering::SeqCst);
        let mut latest = self.latest.clone();
        self.requests.requested.notify_one();
        let next = latest.wait_for(|check| check.number > before);
        let check = tokio::time::timeout(timeout, next).await.ok()?.ok()?;
        check.has_response.then(|| check.standing.clone())
    }

    /// Returns true if Postgres confirms that a schema change explains mismatching
    /// records: a column that the sink reads is missing or has another type, or
    /// a mismatched column was altered since the last reconcile.
    pub(super) async fn confirms_change(&self, reads: &ColumnsRead, shapes: &[Shape]) -> bool {
        let Some(standing) = self.check_now(CONFIRM_TIMEOUT).await else {
            return false;
        };
        let findings = reads.findings(&standing, Severity::Unsupported);
        findings
            .iter()
            .any(|finding| finding.code.is_column_problem())
            || reads.has_altered(&standing, shapes)
    }

    /// Waits for the next update. Returns false once the writer is dropped.
    async fn changed(&mut self) -> bool {
        self.latest.changed().await.is_ok()
    }
}

/// Source columns that a sink reads, by qualified table name.
#[derive(Debug, Clone)]
pub(super) struct ColumnsRead(Vec<(String, Vec<&'static str>)>);

impl ColumnsRead {
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

    /// Returns true if a finding affects a table or column that the sink reads.
    fn is_affected_by(&self, finding: &Finding) -> bool {
        let Some(table) = &finding.table else {
            return true;
        };
        let Some((_, columns)) = self.0.iter().find(|(name, _)| name == table) else {
            return false;
        };
        let column = finding.column.as_deref();
        column.is_none_or(|column| columns.contains(&column))
    }

    /// Returns true if a mismatched column that the sink reads was altered.
    fn has_altered(&self, standing: &Standing, shapes: &[Shape]) -> bool {
        let mut altered = standing.altered.iter();
        altered.any(|AlteredColumn { table, column }| {
            let mut tables = self.0.iter().filter(|(name, _)| name == table);
            tables.any(|(_, columns)| columns.contains(&column.as_str()))
                && shapes.iter().any(|shape| shape.column() == Some(column))
        })
    }

    /// Returns the findings of the given severity that affect the sink.
    fn findings<'s>(&self, standing: &'s Standing, severity: Severity) -> Vec<&'s Finding> {
        let findings = standing.findings.iter();
        findings
            .filter(|finding| finding.severity == severity && self.is_affected_by(finding))
            .collect()
    }
}

/// Updates the halt and degradation of every sink from the source, until cancelled.
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
            let reads = ColumnsRead::of(stats.group(), &source, score);
            match halt(&standing, &reads) {
                Some(halt) => halt_for(stats, SOURCE, halt),
                None => stats.unhalt(SOURCE),
            }
            let degradation = degradation(&standing, &reads, stats.group(), &project_sinks);
            stats.set_degradation(SOURCE, degradation);
        }
        tokio::select! {
            is_open = watch.changed() => if !is_open { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Returns the halt of a sink that reads these columns, if any.
fn halt(standing: &Standing, reads: &ColumnsRead) -> Option<Halt> {
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

/// Returns the degradation of a sink that reads these columns, if any.
fn degradation(
    standing: &Standing,
    reads: &ColumnsRead,
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
            // A reconcile skips the HTTP sink unless `--sinks` names it.
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
    let mut messages: Vec<&str> = findings
        .iter()
        .map(|finding| finding.what.as_str())
        .collect();
    let more = messages.len().saturating_sub(MAX_REASONS);
    messages.truncate(MAX_REASONS);
    let mut text = messages.join("; ");
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
        let message = format!("column {column} of {table} is missing");
        let finding = Finding::new(
            Code::ColumnMissing,
            Severity::Unsupported,
            message,
            "rename it",
        );
        Standing {
            findings: vec![finding.of_table(table).of_column(column)],
            ..Standing::default()
        }
    }

    fn halted(standing: &Standing, group: ConsumerGroup, score: Score) -> Option<String> {
        let reads = ColumnsRead::of(group, &Source::new("cdc"), score);
        halt(standing, &reads).map(|halt| halt.code)
    }

    #[test]
    fn a_missing_column_halts_the_sinks_that_read_it() {
        let halted_groups = |standing: &Standing, score| {
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
            let halted = halted_groups(&missing(table, column), score);
            assert_eq!(halted, expected, "{column}");
        }
    }

    #[test]
    fn a_missing_table_halts_the_sinks_that_read_it() {
        let message = "table public.content does not exist";
        let finding = Finding::new(
            Code::TableMissing,
            Severity::Unsupported,
            message,
            "restore it",
        );
        let standing = Standing {
            findings: vec![finding.of_table("public.content")],
            ..Standing::default()
        };
        let code = halted(&standing, ConsumerGroup::Facts, Score::Events);
        assert_eq!(code.as_deref(), Some("source_unsupported"));
        let board_halt = halted(&standing, ConsumerGroup::Board, Score::Events);
        assert_eq!(board_halt, None);
    }

    #[tokio::test]
    async fn only_a_check_started_after_the_request_confirms_a_change() {
        let (writer, watch) = source();
        let reads = ColumnsRead::of(ConsumerGroup::Http, &Source::new("cdc"), Score::Events);
        let number = writer.begin();
        let confirmations = tokio::spawn(async move {
            let confirmed = watch.confirms_change(&reads, &[]).await;
            // The writer is dropped, so no further check completes.
            (confirmed, watch.confirms_change(&reads, &[]).await)
        });
        writer.wait_for_request().await;
        // This check started before the request, so it does not count.
        writer.publish(number, missing("public.engagement_events", "id"), true);
        let number = writer.begin();
        writer.publish(number, missing("public.engagement_events", "device"), true);
        drop(writer);
        assert_eq!(confirmations.await.ok(), Some((true, false)));
    }

    #[tokio::test]
    async fn a_column_altered_and_restored_explains_records_without_it() {
        let reads = ColumnsRead::of(ConsumerGroup::Http, &Source::new("cdc"), Score::Events);
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
            let confirmation = async { watch.confirms_change(&reads, shapes).await };
            let check = async {
                writer.wait_for_request().await;
                writer.publish(writer.begin(), altered(table), true);
            };
            let (confirmed, ()) = tokio::join!(confirmation, check);
            assert_eq!(confirmed, expected, "{table} {shapes:?}");
        }
    }

    #[test]
    fn the_worst_finding_is_the_degradation_and_the_others_are_counted() {
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
            "publication fanout is missing",
            "fanout up",
        )];
        let degradation_of = |all: &[Finding], group, sinks: &[SinkKind]| {
            let reads = ColumnsRead::of(group, &Source::new("cdc"), Score::Events);
            degradation(&standing(all.to_vec()), &reads, group, sinks)
                .expect("the sink is degraded")
        };
        let degradation = |all: &[Finding], group| degradation_of(all, group, &SinkKind::ALL);
        all.extend((0..5).map(|_| unreconciled()));
        let reported = degradation(&all, ConsumerGroup::Board);
        assert_eq!(reported.code, "publication_missing");
        all.remove(0);
        let reported = degradation(&all, ConsumerGroup::Board);
        assert!(
            reported.reason.ends_with("; and 2 more"),
            "{}",
            reported.reason
        );
        assert_eq!(reported.remedy, RECONCILE);
        let http_remedy = degradation(&all, ConsumerGroup::Http).remedy;
        assert_eq!(http_remedy, format!("{RECONCILE} --sinks clickhouse,http"));
        let without_clickhouse = [SinkKind::Redis, SinkKind::Http];
        let http_remedy = degradation_of(&all, ConsumerGroup::Http, &without_clickhouse).remedy;
        assert_eq!(http_remedy, format!("{RECONCILE} --sinks http"));
    }

    #[tokio::test]
    async fn a_check_without_a_response_from_postgres_returns_none() {
        let (writer, watch) = source();
        let check = tokio::spawn(async move { watch.check_now(Duration::from_secs(60)).await });
        writer.wait_for_request().await;
        let number = writer.begin();
        writer.publish(number, Standing::default(), false);
        assert_eq!(check.await.expect("no panic"), None);
    }
}
