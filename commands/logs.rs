//! `fanout logs`: what the services say, each line under its service's name.

use std::time::Duration;

use clap::Args;
use fanout::{
    escape::escape,
    failure::{Failure, Kind},
    instant::{Resolved, TimeSpec},
    operations::logs::{Line, Logs, Selection},
    stack::reach,
};
use serde::Serialize;

use crate::{
    context::Context,
    outcome::{Outcome, Verdict},
};

/// How often a log that is followed is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Lines of each service where neither a time nor a number is given.
const DEFAULT_TAIL: usize = 100;

/// Which lines to show.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Go on with what is written from now on, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only lines since then: RFC 3339, `10m`, `2h ago`
    #[arg(long, value_name = "TIME")]
    since: Option<TimeSpec>,
    /// The last so many lines of each service [default: 100, or all with --since];
    /// 0 shows only what comes, with --follow
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// The instant that was meant, RFC 3339.
    since: Option<String>,
    lines: Vec<Line>,
}

/// Arguments that ask for no line at all.
#[derive(Debug, thiserror::Error)]
enum NothingAsked {
    #[error("--since {since} is in the future")]
    Future { since: Resolved },
    #[error("--tail 0 shows nothing without --follow")]
    NoTail,
}

impl Failure for NothingAsked {
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
    fn check(&self, since: Option<Resolved>, now_us: i64) -> Result<(), NothingAsked> {
        match since {
            Some(since @ Resolved::At(time)) if time > now_us => {
                Err(NothingAsked::Future { since })
            }
            _ if self.tail == Some(0) && !self.follow => Err(NothingAsked::NoTail),
            _ => Ok(()),
        }
    }

    /// Whether it runs until it is stopped.
    pub fn goes_on(&self) -> bool {
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
        reach::recorded(&site)?;
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

/// `redis      | Ready to accept connections`.
fn text(line: &Line, width: usize) -> String {
    // A tab is the one control that lines of logs are full of.
    let untabbed = line.line.replace('\t', "    ");
    format!("{:width$} | {}", line.service, escape(&untabbed))
}
