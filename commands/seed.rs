//! `fanout seed`: writes sample content and events, a fixed number or a steady
//! load.

use std::time::Duration;

use clap::Args;
use fanout::{
    operations::seed::{self, Options, Seeded},
    stack::reach::Need,
};
use serde::Serialize;

use crate::{
    arguments::duration,
    context::Context,
    outcome::{Outcome, Verdict},
};

/// Arguments of `fanout seed`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Number of events [default: 2, or as many as rate and duration produce]
    #[arg(long)]
    events: Option<u64>,
    /// Number of contents; every run uses the same ones
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    content: u32,
    /// Events per second; without --events or --duration, until stopped
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Duration of the load
    #[arg(long, value_parser = duration, requires = "rate")]
    duration: Option<Duration>,
    /// Seed of the random generator; the same seed produces the same rows,
    /// except for times
    #[arg(long, default_value_t = 42)]
    rng_seed: u64,
    /// Print what would be written and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    dry_run: bool,
    #[serde(flatten)]
    seeded: &'a Seeded,
}

impl Arguments {
    /// Returns true if the command runs until it is stopped.
    pub fn runs_until_stopped(&self) -> bool {
        self.options().is_endless() && !self.dry_run
    }

    fn options(&self) -> Options {
        Options {
            content: self.content,
            events: self.events,
            rate: self.rate,
            duration: self.duration,
            rng_seed: self.rng_seed,
        }
    }

    pub async fn run(self, context: &Context) -> Outcome {
        let connections = context.connect(&[("postgres", Need::Running)]).await?;
        let printer = context.printer();
        let options = self.options();
        if self.dry_run {
            let total = options.total();
            let plan = serde_json::json!({
                "dry_run": true,
                "content": options.content,
                "content_written": null,
                "events": total,
                "first_id": null,
                "last_id": null,
                "seconds": null,
                "rng_seed": options.rng_seed,
            });
            return printer.conclude("seed", Verdict::Done, &plan, || {
                let events = total.map_or_else(|| "endless".to_owned(), |total| total.to_string());
                format!(
                    "would write {} content rows and {events} events",
                    options.content
                )
            });
        }
        let progress = printer.progress();
        let seeded = seed::seed(&connections, &options, context.stop(), &*progress).await?;
        drop(progress);
        let report = Report {
            dry_run: false,
            seeded: &seeded,
        };
        printer.conclude("seed", Verdict::Done, &report, || human(&seeded))
    }
}

fn human(seeded: &Seeded) -> String {
    let ids = match (seeded.first_id, seeded.last_id) {
        (Some(first), Some(last)) => format!(", ids {first} to {last}"),
        _ => String::new(),
    };
    format!(
        "{} content rows ({} written), {} events in {:.1} s{ids}",
        seeded.content, seeded.content_written, seeded.events, seeded.seconds
    )
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("expected a number above 0".to_owned()),
    }
}
