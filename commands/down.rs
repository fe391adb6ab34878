//! `fanout down`: stops the stack and says where its data stays.

use std::time::Duration;

use clap::Args;
use fanout::operations::down::{self, Report};

use crate::{
    arguments::duration,
    context::Context,
    exit::{Outcome, Verdict},
};

/// How to stop.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How long each service may take before it is killed
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Say what would be stopped and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let site = context.site()?;
        let printer = context.printer();
        let report = if self.dry_run {
            down::dry_run(&site).await?
        } else {
            down::down(&site, self.timeout, &*printer.progress()).await?
        };
        printer.conclude("down", Verdict::Done, &report, || summary(&report))
    }
}

fn summary(report: &Report) -> String {
    let names = report.stopped.join(", ");
    let data = if report.volumes.is_empty() {
        report.data.display().to_string()
    } else {
        let volumes = report.volumes.join(", ");
        format!("{} and the volumes {volumes}", report.data.display())
    };
    match (report.stopped.is_empty(), report.dry_run) {
        (true, _) => "nothing is running".to_owned(),
        (false, true) => format!("would stop {names}; the data stays in {data}"),
        (false, false) => format!("stopped {names}; the data stays in {data}"),
    }
}
