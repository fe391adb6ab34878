//! `fanout smoke`: follows a test event through every hop.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use fanout::{
    failure::{Failure, Kind},
    operations::smoke::{self, Options, Outcome as HopOutcome, Report},
    stack::reach::Need,
    text::escape::escape,
};
use serde_json::json;

use crate::{
    arguments::duration,
    context::Context,
    outcome::{Outcome, Verdict},
    printer::Printer,
    servers::pipeline_servers,
    table::{render, table},
};

/// Arguments of `fanout smoke`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Maximum time to wait for all hops
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Maximum latency from the commit in Postgres to the board
    #[arg(long, default_value = "5s", value_parser = duration)]
    latency_budget: Duration,
    /// Also write a JUnit report
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// Error of writing the JUnit report.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
struct JunitError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl Failure for JunitError {
    fn kind(&self) -> Kind {
        Kind::Environment
    }

    fn code(&self) -> &'static str {
        "junit_file"
    }

    fn hint(&self) -> Option<String> {
        Some("give a file in a writable folder: --junit FILE".to_owned())
    }
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let config = context.config()?;
        let mut servers = pipeline_servers(&config.settings, Need::NotForeign);
        servers.push(("postgres", Need::Running));
        let connections = context.connect_with(&config, &servers).await?;
        let printer = context.printer();
        let progress = printer.progress();
        let options = Options {
            timeout: self.timeout,
            latency_budget: self.latency_budget,
        };
        let report = smoke::smoke(&connections, options, &*progress).await?;
        drop(progress);
        if let Some(path) = self.junit {
            let junit = smoke::junit(&report);
            let result = std::fs::write(&path, printer.secrets().redact(&junit).as_bytes());
            result.map_err(|source| JunitError { path, source })?;
        }
        let broken = report.broken();
        let verdict = match broken {
            Some(_) => Verdict::CheckFalse,
            None => Verdict::Done,
        };
        let document = json!({
            "event_id": report.event_id,
            "content_id": report.content_id,
            "latency_budget_ms": report.latency_budget_ms,
            "hops": report.hops,
            "broken": broken.map(|hop| hop.place.name()),
        });
        printer.conclude("smoke", verdict, &document, || show(&report, printer))
    }
}

fn show(report: &Report, printer: &Printer) -> String {
    let mut hops = table(["HOP", "", "MS", "EVIDENCE"]);
    for hop in &report.hops {
        let outcome = match hop.outcome {
            HopOutcome::Ok => "ok",
            HopOutcome::Broken => "BROKEN",
            HopOutcome::Skipped => "skipped",
        };
        hops.add_row([
            hop.place.name().to_owned(),
            outcome.to_owned(),
            hop.millis
                .map_or_else(|| "-".to_owned(), |millis| format!("{millis:.0}")),
            escape(&hop.evidence).into_owned(),
        ]);
    }
    let mut text = format!("event {}\n{}", report.event_id, render(&hops));
    if let Some(hop) = report.broken() {
        let line = format!("\n\nfirst broken hop: {}", hop.place.name());
        text.push_str(&line);
        if let Some(hint) = &hop.hint {
            text.push_str("\nhint: ");
            text.push_str(&escape(&printer.hint(hint)));
        }
    }
    text
}
