//! `fanout logs`: shows service logs, each line with the name of its service.

use std::time::Duration;

use clap::Args;
use fanout::{
    failure::{Failure, Kind},
    operations::logs::{Line, Logs, Selection},
    stack::reach,
    text::escape::escape,
    time::instant::{Resolved, TimeSpec},
};
use serde::Serialize;

use crate::{
    context::Context,
    outcome::{Outcome, Verdict},
};

/// Interval between two reads of a followed log.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Default of `--tail` without `--since`.
const DEFAULT_TAIL: usize = 100;

/// Arguments of `fanout logs`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Show only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Keep printing new lines until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Show only lines since this time: RFC 3339, `10m`, `2h ago`
    #[arg(long, value_name = "TIME")]
    since: Option<TimeSpec>,
    /// Number of lines of each service, counted from the end [default: 100, or
    /// all with --since]; 0 with --follow shows only new lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Resolved `--since`, RFC 3339.
    since: Option<String>,
    lines: Vec<Line>,
}

/// Arguments that select no lines.
#[derive(Debug, thiserror::Error)]
enum NoLines {
    #[error("--since {since} is in the future")]
    Future { since: Resolved },
    #[error("--tail 0 shows nothing without --follow")]
    NoTail,
}

impl Failure for NoLines {
    fn kind(&self) -> Kind {
        Kind::Usage
    }

    fn code(&self) -> &'static str {
        "usage"
    }

    fn hint(&self) -> Option<String> {
        Some("fanout logs --help".to_owned())
    }
}

impl Arguments {
    fn check(&self, since: Option<Resolved>, now_us: i64) -> Result<(), NoLines> {
        match since {
            Some(since @ Resolved::At(time)) if time > now_us => Err(NoLines::Future { since }),
            _ if self.tail == Some(0) && !self.follow => Err(NoLines::NoTail),
            _ => Ok(()),
        }
    }

    /// Returns true if the command runs until it is stopped.
    pub fn runs_until_stopped(&self) -> bool {
        self.follow
    }

    pub async fn run(self, context: &Context) -> Outcome {
        let now_us = jiff::Timestamp::now().as_microsecond();
        let since = self.since.map(|since| since.resolve(now_us));
        self.check(since, now_us)?;
        let since_us = match since {
            Some(Resolved::At(time)) => Some(time),
            Some(Resolved::Earliest) | None => None,
        };
        let printer = context.printer();
        if let Some(since) = since {
            printer.note(&format!("since {since}"));
        }
        let selection = Selection {
            services: self.services,
            since_us,
            tail: self.tail.or(self.since.is_none().then_some(DEFAULT_TAIL)),
        };
        let site = context.site()?;
        let mut logs = Logs::open(&site, &selection).await?;
        reach::load_recorded_state(&site)?;
        let mut lines = logs.so_far(&selection).await?;
        if self.follow {
            show(context, &logs, &lines);
            return follow(context, logs).await;
        }
        lines.extend(logs.rest());
        let report = Report {
            since: since.map(|since| since.to_string()),
            lines,
        };
        printer.conclude("logs", Verdict::Done, &report, || {
            let lines: Vec<String> = report
                .lines
                .iter()
                .map(|line| text(line, logs.width()))
                .collect();
            lines.join("\n")
        })
    }
}

async fn follow(context: &Context, mut logs: Logs) -> Outcome {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            () = context.stop().cancelled() => return Ok(Verdict::Done),
        }
        let lines = logs.more()?;
        show(context, &logs, &lines);
    }
}

fn show(context: &Context, logs: &Logs, lines: &[Line]) {
    let printer = context.printer();
    for line in lines {
        if printer.is_json() {
            let report = Report {
                since: None,
                lines: vec![line.clone()],
            };
            printer.document("logs", true, &report);
        } else {
            printer.data(&text(line, logs.width()));
        }
    }
}

/// Formats a line: `redis      | Ready to accept connections`.
fn text(line: &Line, width: usize) -> String {
    // Tabs are common in logs, so they are expanded instead of escaped.
    let expanded = line.line.replace('\t', "    ");
    format!("{:width$} | {}", line.service, escape(&expanded))
}
