//! `fanout verify`: checks that every store matches the source.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use fanout::{
    operations::verify::{self, Check, Difference, Findings, Kind, Report},
    stack::reach::Need,
    text::escape::{ellipsis, escape},
};
use serde_json::json;

use crate::{
    arguments::duration,
    context::Context,
    outcome::{Outcome, Verdict},
    servers::pipeline_servers,
    table::{render, table},
};

/// Maximum width of one side of a difference.
const SIDE_WIDTH: usize = 60;

/// Arguments of `fanout verify`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Maximum time to wait until every sink has caught up
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let config = context.config()?;
        let mut servers = pipeline_servers(&config.settings, Need::NotForeign);
        servers.extend([("postgres", Need::Running), ("kafka", Need::Running)]);
        let connections = context.connect_with(&config, &servers).await?;
        let printer = context.printer();
        let progress = printer.progress();
        let scratch = context.scratch()?;
        let report = verify::verify(&connections, &scratch, self.timeout, &*progress).await?;
        drop(progress);
        let verdict = if report.holds() {
            Verdict::Done
        } else {
            Verdict::CheckFalse
        };
        let document = json!({
            "fence": report.fence,
            "checks": report.checks,
            "differences": report.checks.iter().map(|findings| findings.differences).sum::<u64>(),
        });
        printer.conclude("verify", verdict, &document, || show(&report))
    }
}

fn show(report: &Report) -> String {
    let mut checks = table(["CHECK", "COMPARED", "DIFFERENCES", "EXCUSED", ""]);
    for findings in &report.checks {
        let result = if findings.differences > 0 {
            "FAILED"
        } else if findings.unjudged > 0 {
            "NOT CHECKED"
        } else if findings.skipped {
            "skipped"
        } else {
            "ok"
        };
        checks.add_row([
            name(findings.check),
            &findings.compared.to_string(),
            &findings.differences.to_string(),
            &findings.excused.to_string(),
            result,
        ]);
    }
    let mut text = render(&checks);
    for findings in &report.checks {
        push_notes(findings, &mut text);
    }
    if report
        .checks
        .iter()
        .any(|findings| findings.differences > 0)
    {
        let mut differences = table(["CHECK", "ID", "WHAT", "EXPECTED", "FOUND"]);
        for difference in report.checks.iter().flat_map(|findings| &findings.shown) {
            differences.add_row(row(difference));
        }
        text.push_str("\n\n");
        text.push_str(&render(&differences));
        for findings in &report.checks {
            let hidden = findings.differences - findings.shown.len() as u64;
            if hidden > 0 {
                // Writing into a string cannot fail.
                let _ = write!(text, "\nand {hidden} more of {}", name(findings.check));
            }
        }
    }
    text
}

/// Appends the notes of a check and the differences that dead letters excuse.
fn push_notes(findings: &Findings, text: &mut String) {
    for note in &findings.notes {
        let _ = write!(text, "\nnote: {}: {}", name(findings.check), escape(note));
    }
    if findings.excused > 0 {
        let ids = findings.excused_ids.join(", ");
        let more = if findings.excused > findings.excused_ids.len() as u64 {
            ", …"
        } else {
            ""
        };
        let _ = write!(
            text,
            "\nnote: {}: excused by dead letters: {}{more}",
            name(findings.check),
            escape(&ids)
        );
    }
}

fn name(check: Check) -> &'static str {
    match check {
        Check::Rows => "clickhouse rows",
        Check::Board => "redis board",
        Check::External => "external calls",
        Check::Records => "log records",
    }
}

fn row(difference: &Difference) -> [String; 5] {
    let side = |text: &Option<String>| match text {
        Some(text) => ellipsis(&escape(text), SIDE_WIDTH).into_owned(),
        None => "-".to_owned(),
    };
    let description = match (difference.kind, &difference.what) {
        (Kind::Missing, _) => "missing",
        (Kind::Extra, _) => "extra",
        (Kind::Differs, Some(description)) => description,
        (Kind::Differs, None) => "differs",
    };
    [
        name(difference.check).to_owned(),
        escape(&difference.id).into_owned(),
        escape(description).into_owned(),
        side(&difference.expected),
        side(&difference.found),
    ]
}
