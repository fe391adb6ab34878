//! `fanout down`: stops the stack, or some of its services, and prints where
//! the data stays.

use std::time::Duration;

use clap::Args;
use fanout::{
    operations::down::{self, Report},
    stack::{State, reach},
};

use crate::{
    arguments::duration,
    context::Context,
    outcome::{Outcome, Verdict},
};

/// Arguments of `fanout down`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Stop only these services; services that need them keep running
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Maximum time for each service to stop before it is killed
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Print what would be stopped and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let site = context.site()?;
        let printer = context.printer();
        let report = if self.dry_run {
            down::dry_run(&site, &self.services).await?
        } else {
            down::down(&site, &self.services, self.timeout, &*printer.progress()).await?
        };
        if report.stopped.is_empty() && matches!(State::load(&site.dir()), Ok(None)) {
            return Err(reach::never_up(&site).into());
        }
        if !report.dependents.is_empty() {
            printer.note(&running_dependents(&report));
        }
        printer.conclude("down", Verdict::Done, &report, || {
            summary(&report, &self.services)
        })
    }
}

/// Describes the services that keep running although they need a stopped one.
fn running_dependents(report: &Report) -> String {
    let (keep, need) = match (report.dependents.len(), report.dry_run) {
        (1, false) => ("keeps", "needs"),
        (_, false) => ("keep", "need"),
        (1, true) => ("would keep", "needs"),
        (_, true) => ("would keep", "need"),
    };
    let dependents = report.dependents.join(", ");
    let stopped = report.stopped.join(", ");
    format!("{dependents} {keep} running and {need} {stopped}")
}

fn summary(report: &Report, requested: &[String]) -> String {
    let names = report.stopped.join(", ");
    let data = if report.volumes.is_empty() {
        report.data.display().to_string()
    } else {
        let volumes = report.volumes.join(", ");
        format!("{} and the volumes {volumes}", report.data.display())
    };
    match (report.stopped.is_empty(), report.dry_run) {
        (true, _) => match requested {
            [] => "nothing is running".to_owned(),
            [service] => format!("{service} is not running"),
            services => format!("none of {} is running", services.join(", ")),
        },
        (false, true) => format!("would stop {names}; the data stays in {data}"),
        (false, false) => format!("stopped {names}; the data stays in {data}"),
    }
}
