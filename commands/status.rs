//! `fanout status`: shows services, connector, slot and sinks, and what blocks
//! them.

use std::time::Duration;

use clap::Args;
use fanout::{
    operations::status::{DeadLetters, Report, ServiceStatus, status},
    runtime::status::{SinkState, SinkStatus},
    source::checks::{Severity, Standing},
    text::escape::escape,
    time::instant::Age,
};

use crate::{
    context::Context,
    outcome::{CommandError, Outcome, Verdict},
    printer::Printer,
    table::{render, table},
};

/// Refresh interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Escape codes that clear the terminal and move the cursor to the upper left
/// corner.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Arguments of `fanout status`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Refresh every two seconds until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Exit with 5 if anything does not work
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

impl Arguments {
    /// Returns true if the command runs until it is stopped.
    pub fn runs_until_stopped(&self) -> bool {
        self.watch
    }

    pub async fn run(self, context: &Context) -> Outcome {
        if self.watch {
            return watch(context).await;
        }
        let report = fetch_report(context).await?;
        let verdict = match (self.check, &report.stuck) {
            (true, Some(_)) => Verdict::CheckFalse,
            _ => Verdict::Done,
        };
        let printer = context.printer();
        printer.conclude("status", verdict, &report, || page(&report, printer))
    }
}

async fn fetch_report(context: &Context) -> Result<Report, CommandError> {
    // Loaded at every refresh, because ports may have changed.
    let config = context.config()?;
    context.recorded_state(&config).await?;
    let site = context.site()?;
    // The future holds many concurrent requests, so it is boxed.
    Ok(Box::pin(status(&site, &config)).await?)
}

async fn watch(context: &Context) -> Outcome {
    let printer = context.printer();
    loop {
        let report = tokio::select! {
            report = fetch_report(context) => report?,
            () = context.stop().cancelled() => return Ok(Verdict::Done),
        };
        if printer.is_json() {
            // As without `--watch`: a blocked pipeline is a valid result.
            printer.document("status", true, &report);
        } else if printer.has_colors() {
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
        let remarks = report.sinks.iter().filter_map(|sink| remark(sink, printer));
        let table = std::iter::once(sinks(report));
        parts.push(table.chain(remarks).collect::<Vec<_>>().join("\n"));
    } else if let Some(dead_letters) = &report.dead_letters {
        parts.extend(dead_letters_by_sink(dead_letters));
    }
    if let Some(stuck) = &report.stuck {
        let reason = escape(&stuck.why);
        parts.push(format!(
            "blocked at {}: {reason}\n\nhint: {}",
            escape(&stuck.at),
            escape(&printer.hint(&stuck.remedy))
        ));
    }
    parts.join("\n\n")
}

fn services(services: &[ServiceStatus]) -> String {
    let has_containers = services.iter().any(|service| service.container.is_some());
    let process_heading = if has_containers {
        "PID, CONTAINER"
    } else {
        "PID"
    };
    let mut table = table(["SERVICE", "STATE", "RUNTIME", "FOR", process_heading, "URL"]);
    for service in services {
        let pid = service.pid.map(|pid| pid.to_string());
        let process = pid.or_else(|| service.container.clone());
        table.add_row([
            service.name.as_str(),
            service.state.name(),
            service.runtime.name(),
            &service.since_ms.map_or("-".to_owned(), age),
            process.as_deref().unwrap_or("-"),
            &service.url.to_string(),
        ]);
    }
    render(&table)
}

/// Formats the connector, its slot and each finding about the source, one line
/// each.
fn source(report: &Report) -> String {
    let unknown = |problem: &Option<String>, absent: &str| match problem {
        Some(problem) => format!("unknown: {}", escape(problem)),
        None => absent.to_owned(),
    };
    let connector = match &report.connector {
        Some(connector) => format!("{}: {}", connector.name, connector.summary()),
        None => unknown(&report.connector_problem, "not registered"),
    };
    let slot = match &report.slot {
        Some(slot) => {
            let state = if slot.active { "active" } else { "inactive" };
            let lag = slot
                .lag_bytes
                .map_or("unknown".to_owned(), |bytes| bytes.to_string());
            format!("{}: {state}, {lag} bytes behind", slot.name)
        }
        None => unknown(&report.slot_problem, "none"),
    };
    let mut text = format!("connector  {connector}\nslot       {slot}");
    for line in report.source.iter().flat_map(findings) {
        text.push_str(&format!("\nsource     {line}"));
    }
    text
}

/// Returns the findings about the source, or one line if there are none.
fn findings(source: &Standing) -> Vec<String> {
    let mut lines: Vec<String> = source
        .findings
        .iter()
        .map(|finding| format!("{}: {}", severity(finding.severity), escape(&finding.what)))
        .collect();
    if let Some(problem) = &source.problem {
        lines.push(format!("incompletely checked: {}", escape(problem)));
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

/// Formats the dead letters of a project whose worker does not report its
/// sinks: `dead letters  clickhouse 1, http 4`.
fn dead_letters_by_sink(dead_letters: &DeadLetters) -> Option<String> {
    let sinks = dead_letters.counts.keys();
    let counts = sinks.map(|sink| format!("{} {}", escape(sink), count(dead_letters, sink)));
    let counts: Vec<String> = counts.collect();
    (!counts.is_empty()).then(|| format!("dead letters  {}", counts.join(", ")))
}

/// Formats the number of a sink's dead letters, or `-` if Kafka is unreachable.
fn dead_letters(report: &Report, sink: &str) -> String {
    let dead_letters = report.dead_letters.as_ref();
    dead_letters.map_or("-".to_owned(), |letters| count(letters, sink))
}

fn count(dead_letters: &DeadLetters, sink: &str) -> String {
    let count = dead_letters.of(sink);
    if dead_letters.is_complete {
        count.to_string()
    } else {
        format!("{count} or more")
    }
}

/// Formats the lag of a sink, with `~` if it is estimated from offsets.
pub fn lag(sink: &SinkStatus) -> String {
    let prefix = if sink.lag_is_estimate { "~" } else { "" };
    sink.lag
        .map_or("-".to_owned(), |lag| format!("{prefix}{lag}"))
}

/// Describes why a sink is halted, degraded or retrying, with the remedy, or
/// what else it is busy with besides new records.
fn remark(sink: &SinkStatus, printer: &Printer) -> Option<String> {
    let name = &sink.name;
    if let Some(halt) = &sink.halt {
        let (reason, remedy) = (escape(&halt.reason), printer.hint(&halt.remedy));
        return Some(format!("{name} halted: {reason}; {}", escape(&remedy)));
    }
    if let Some(degradation) = &sink.degradation {
        let reason = escape(&degradation.reason);
        let remedy = printer.hint(&degradation.remedy);
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

/// Formats the time since an instant, given in milliseconds since the epoch.
fn age(since_ms: i64) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    let millis = u64::try_from(now - since_ms).unwrap_or_default();
    Age(Duration::from_millis(millis)).to_string()
}
