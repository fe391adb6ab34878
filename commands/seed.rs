//! `fanout seed`: made-up content and events, some or many or a steady load.

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

/// What to write.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How many events [default: 2, or what rate and duration make]
    #[arg(long)]
    events: Option<u64>,
    /// How many pieces of content, always the same ones
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    content: u32,
    /// Events in a second; without an end, until it is stopped
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// How long the load goes on
    #[arg(long, value_parser = duration, requires = "rate")]
    duration: Option<Duration>,
    /// The same seed makes the same rows, times aside
    #[arg(long, default_value_t = 42)]
    rng_seed: u64,
    /// Say what would be written, and write nothing
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
    /// Whether it goes on until it is stopped.
    pub fn goes_on(&self) -> bool {
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
        let connections = context.servers(&[("postgres", Need::Running)]).await?;
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
