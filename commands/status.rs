//! `fanout status`: services, connector, slot, sinks, and where it is stuck.

use std::time::Duration;

use clap::Args;
use fanout::{
    escape::escape,
    instant::Age,
    operations::status::{DeadLetters, Report, ServiceStatus, status},
    pipeline::status::{SinkState, SinkStatus},
    source::{Severity, Standing},
};

use crate::{
    context::Context,
    outcome::{CommandError, Outcome, Verdict},
    printer::Printer,
    table::{render, table},
};

/// Between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Clears the terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// What to show.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Show it again every two seconds, until interrupted
    #[arg(short, long)]
    watch: bool,
    /// End with 5 where anything does not work
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

impl Arguments {
    /// Whether it runs until it is stopped.
    pub fn goes_on(&self) -> bool {
        self.watch
    }

    pub async fn run(self, context: &Context) -> Outcome {
        if self.watch {
            return watch(context).await;
        }
        let report = look(context).await?;
        let verdict = match (self.check, &report.stuck) {
            (true, Some(_)) => Verdict::CheckFalse,
            _ => Verdict::Done,
        };
        let printer = context.printer();
        printer.conclude("status", verdict, &report, || page(&report, printer))
    }
}

async fn look(context: &Context) -> Result<Report, CommandError> {
    // Anew at every look: ports may have changed since.
    let config = context.config()?;
    context.known(&config).await?;
    let site = context.site()?;
    // Many questions at once: on the heap.
    Ok(Box::pin(status(&site, &config)).await?)
}

async fn watch(context: &Context) -> Outcome {
    let printer = context.printer();
    loop {
        let report = tokio::select! {
            report = look(context) => report?,
            () = context.stop().cancelled() => return Ok(Verdict::Done),
        };
        if printer.is_json() {
            // As a single look has it: that something is stuck is an answer.
            printer.document("status", true, &report);
        } else if printer.colors() {
            printer.data(&format!("{CLEAR}{}", page(&report, printer)));
        } else {
            printer.data(&format!("{}\n", page(&report, printer)));
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            () = context.stop().cancelled() => return Ok(Verdict::Done),
        }
    }
}

fn page(report: &Report, printer: &Printer) -> String {
    let mut parts = vec![services(&report.services), source(report)];
    if !report.sinks.is_empty() {
        let troubles = report
            .sinks
            .iter()
            .filter_map(|sink| trouble(sink, printer));
        let table = std::iter::once(sinks(report));
        parts.push(table.chain(troubles).collect::<Vec<_>>().join("\n"));
    } else if let Some(letters) = &report.dead_letters {
        parts.extend(of_absent_sinks(letters));
    }
    if let Some(stuck) = &report.stuck {
        let why = escape(&stuck.why);
        parts.push(format!(
            "stuck at {}: {why}\n\nhint: {}",
            escape(&stuck.at),
            escape(&printer.hint(&stuck.remedy))
        ));
    }
    parts.join("\n\n")
}

fn services(services: &[ServiceStatus]) -> String {
    let some_in_containers = services.iter().any(|one| one.container.is_some());
    let what = if some_in_containers {
        "PID, CONTAINER"
    } else {
        "PID"
    };
    let mut table = table(["SERVICE", "STATE", "RUNTIME", "FOR", what, "URL"]);
    for service in services {
        let pid = service.pid.map(|pid| pid.to_string());
        let what = pid.or_else(|| service.container.clone());
        table.add_row([
            service.name.as_str(),
            service.state.name(),
            service.runtime.name(),
            &service.since_ms.map_or("-".to_owned(), age),
            what.as_deref().unwrap_or("-"),
            &service.url.to_string(),
        ]);
    }
    render(&table)
}

/// The connector, its slot and the source, a line each; of the source each thing
/// that is wrong.
fn source(report: &Report) -> String {
    let unknown = |problem: &Option<String>, none: &str| match problem {
        Some(problem) => format!("unknown: {}", escape(problem)),
        None => none.to_owned(),
    };
    let connector = match &report.connector {
        Some(connector) => format!("{}: {}", connector.name, connector.summary()),
        None => unknown(&report.connector_problem, "not registered"),
    };
    let slot = match &report.slot {
        Some(slot) => {
            let reader = if slot.active { "active" } else { "inactive" };
            let lag = slot
                .lag_bytes
                .map_or("unknown".to_owned(), |bytes| bytes.to_string());
            format!("{}: {reader}, {lag} bytes behind", slot.name)
        }
        None => unknown(&report.slot_problem, "none"),
    };
    let mut text = format!("connector  {connector}\nslot       {slot}");
    for line in report.source.iter().flat_map(findings) {
        text.push_str(&format!("\nsource     {line}"));
    }
    text
}

/// What is wrong with the source; one line where nothing is.
fn findings(source: &Standing) -> Vec<String> {
    let mut lines: Vec<String> = source
        .findings
        .iter()
        .map(|finding| format!("{}: {}", severity(finding.severity), escape(&finding.what)))
        .collect();
    if let Some(problem) = &source.problem {
        lines.push(format!("not seen in full: {}", escape(problem)));
    }
    if lines.is_empty() {
        lines.push("as expected".to_owned());
    }
    lines
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Unsupported => "unsupported",
        Severity::Incomplete => "losing changes",
        Severity::Unreconciled => "not reconciled",
        Severity::Impaired => "impaired",
    }
}

fn state(state: SinkState) -> String {
    let name = serde_json::to_value(state).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}

fn sinks(report: &Report) -> String {
    let mut table = table([
        "SINK",
        "STATE",
        "LAG",
        "RATE",
        "LAST WRITE",
        "APPLIED",
        "RETRIES",
        "DEAD LETTERS",
    ]);
    for sink in &report.sinks {
        table.add_row([
            sink.name.clone(),
            state(sink.state),
            lag(sink),
            format!("{:.0}/s", sink.rate_per_second),
            sink.last_write_ms
                .map_or("-".to_owned(), |ms| format!("{} ago", age(ms))),
            sink.applied.to_string(),
            sink.retries.to_string(),
            dead_letters(report, &sink.name),
        ]);
    }
    render(&table)
}

/// The dead letters where no worker says which sinks there are: `dead letters
/// clickhouse 1, http 4`.
fn of_absent_sinks(letters: &DeadLetters) -> Option<String> {
    let sinks = letters.counts.keys();
    let counts = sinks.map(|sink| format!("{} {}", escape(sink), shown(letters, sink)));
    let counts: Vec<String> = counts.collect();
    (!counts.is_empty()).then(|| format!("dead letters  {}", counts.join(", ")))
}

/// Nothing is known where Kafka does not answer.
fn dead_letters(report: &Report, sink: &str) -> String {
    let letters = report.dead_letters.as_ref();
    letters.map_or("-".to_owned(), |letters| shown(letters, sink))
}

fn shown(letters: &DeadLetters, sink: &str) -> String {
    let count = letters.of(sink);
    if letters.is_complete {
        count.to_string()
    } else {
        format!("{count} or more")
    }
}

/// `~` before a number that is estimated from offsets.
pub fn lag(sink: &SinkStatus) -> String {
    let about = if sink.lag_is_estimate { "~" } else { "" };
    sink.lag
        .map_or("-".to_owned(), |lag| format!("{about}{lag}"))
}

/// Why a sink does not go on, and what mends it; or with what it is busy besides
/// new records.
fn trouble(sink: &SinkStatus, printer: &Printer) -> Option<String> {
    let name = &sink.name;
    if let Some(halt) = &sink.halt {
        let (reason, remedy) = (escape(&halt.reason), printer.hint(&halt.remedy));
        return Some(format!("{name} halted: {reason}; {}", escape(&remedy)));
    }
    if let Some(caution) = &sink.caution {
        let (reason, remedy) = (escape(&caution.reason), printer.hint(&caution.remedy));
        return Some(format!("{name} is degraded: {reason}; {}", escape(&remedy)));
    }
    if sink.state == SinkState::Running {
        let detail = sink.detail.as_deref()?;
        return Some(format!("{name}: {}", escape(detail)));
    }
    if sink.state != SinkState::Retrying {
        return None;
    }
    let detail = sink.detail.as_deref().unwrap_or("no reason given");
    Some(format!("{name} is retrying: {}", escape(detail)))
}

/// How long ago a moment is, in milliseconds since the epoch.
fn age(since_ms: i64) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    let millis = u64::try_from(now - since_ms).unwrap_or_default();
    Age(Duration::from_millis(millis)).to_string()
}
