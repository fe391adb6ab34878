//! `fanout up`: the plan, a line for each service, and where everything is.

use std::time::Duration;

use clap::{Args, ValueEnum};
use fanout::{
    escape::{escape, escape_lines},
    operations::{
        source::Consent,
        up::{self, Endpoint, Pull, Report, Request, Review, Up},
    },
    plan::{Plan, Recreate, Step},
    stack::{PortMode, blueprint::Wishes, ports::Moved},
};
use serde::Serialize;

use crate::{
    arguments::duration,
    confirm::agreed,
    context::Context,
    outcome::{Outcome, Verdict},
    table::{render, table},
};

/// The service that `--no-run` leaves out.
const PIPELINE: &str = "pipeline";

/// `--timeout` where it is not given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(180);

/// What to bring up, and how.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only these services and what they need
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// How long a service may take from its start until it serves
    #[arg(long, default_value = "180s", value_parser = duration)]
    timeout: Duration,
    /// Take the configured ports, or free ones where those are taken
    #[arg(long, value_enum, default_value_t)]
    ports: Ports,
    /// Download what is not there, or what is there too
    #[arg(long, value_enum, default_value_t)]
    pull: PullChoice,
    /// Replace running services that differ from their definition
    #[arg(long, value_enum, default_value_t)]
    recreate: RecreateChoice,
    /// Leave the pipeline out: to run `fanout run` by hand
    #[arg(long)]
    no_run: bool,
    /// Print the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Alter servers that are not fanout's own without asking, and create an empty
    /// table where one was dropped
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Ports {
    #[default]
    Fixed,
    Auto,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum PullChoice {
    #[default]
    Missing,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum RecreateChoice {
    #[default]
    Auto,
    Never,
    Force,
}

#[derive(Debug, Serialize)]
struct Planned<'a> {
    dry_run: bool,
    /// Why a new project is run as it is, where nobody has said.
    because: Option<&'a str>,
    /// What would be downloaded first.
    downloads: Vec<&'a str>,
    /// Ports other than the usual ones.
    moved: &'a [Moved],
    /// What was to be changed on servers that ran already.
    #[serde(flatten)]
    review: &'a Review,
    #[serde(flatten)]
    report: &'a Report,
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let config = context.config()?;
        let site = context.site()?;
        let request = self.request(context);
        let printer = context.printer();
        if self.dry_run {
            let up = up::dry_run(site, &config, request).await?;
            if let Some(because) = up.because() {
                printer.note(because);
            }
            let review = up.review(true, &*printer.progress()).await?;
            let report = up.report(false);
            return conclude(context, &up, &up.moved(), &review, &report, true);
        }
        let mut up = up::prepare(site, &config, request).await?;
        let moved = up.moved();
        if let Some(because) = up.because() {
            printer.note(because);
        }
        let review = up.review(false, &*printer.progress()).await?;
        if !up.plan().is_empty() || !review.alterations.is_empty() {
            printer.note(&listing(&up, &moved, &review));
        }
        if self.yes {
            up.agree(&review, Consent::All)?;
        } else if self.is_agreed(context, &review).await {
            up.agree(&review, review.consent())?;
        } else {
            return Err(up.decline(&review).into());
        }
        let report = up.apply(&*printer.progress()).await?;
        conclude(context, &up, &moved, &review, &report, false)
    }

    /// The command as it was typed, without its global flags.
    fn typed(&self) -> String {
        let mut words = vec!["fanout up".to_owned()];
        words.extend(self.services.iter().cloned());
        let seconds = self.timeout.as_secs();
        let flags = [
            (self.ports == Ports::Auto, "--ports auto".to_owned()),
            (self.pull == PullChoice::Always, "--pull always".to_owned()),
            (self.pull == PullChoice::Never, "--pull never".to_owned()),
            (
                self.recreate == RecreateChoice::Never,
                "--recreate never".to_owned(),
            ),
            (
                self.recreate == RecreateChoice::Force,
                "--recreate force".to_owned(),
            ),
            (self.no_run, "--no-run".to_owned()),
            (
                seconds != DEFAULT_TIMEOUT.as_secs(),
                format!("--timeout {seconds}s"),
            ),
        ];
        words.extend(
            flags
                .into_iter()
                .filter_map(|(given, flag)| given.then_some(flag)),
        );
        words.join(" ")
    }

    /// Asks, where something has to be agreed to.
    async fn is_agreed(&self, context: &Context, review: &Review) -> bool {
        if review.to_agree().next().is_none() {
            return true;
        }
        if context.printer().is_quiet() {
            // Nobody agrees to what they were not shown.
            context.printer().warn(&up::listing(review.to_agree()));
        }
        agreed(context, "make these changes?").await
    }

    fn request(&self, context: &Context) -> Request {
        let without = self.no_run.then(|| PIPELINE.to_owned());
        Request {
            wishes: Wishes {
                services: self.services.clone(),
                without: without.into_iter().collect(),
                runtime: context.global().runtime.explicit(),
                ports: match self.ports {
                    Ports::Fixed => PortMode::Fixed,
                    Ports::Auto => PortMode::Auto,
                },
                recreate: match self.recreate {
                    RecreateChoice::Auto => Recreate::Auto,
                    RecreateChoice::Never => Recreate::Never,
                    RecreateChoice::Force => Recreate::Force,
                },
                reinstall: self.pull == PullChoice::Always,
            },
            timeout: self.timeout,
            pull: match self.pull {
                PullChoice::Missing => Pull::Missing,
                PullChoice::Always => Pull::Always,
                PullChoice::Never => Pull::Never,
            },
            consent: Consent::None,
            typed: self.typed(),
        }
    }
}

fn conclude(
    context: &Context,
    up: &Up,
    moved: &[Moved],
    review: &Review,
    report: &Report,
    dry_run: bool,
) -> Outcome {
    let planned = Planned {
        dry_run,
        because: up.because(),
        downloads: up.downloads(),
        moved,
        review,
        report,
    };
    context
        .printer()
        .conclude("up", Verdict::Done, &planned, || {
            if dry_run {
                listing(up, moved, review)
            } else if report.changed {
                format!(
                    "{}{}",
                    altered(report, context),
                    endpoints(&report.services)
                )
            } else {
                format!("nothing to do\n\n{}", endpoints(&report.services))
            }
        })
}

/// The plan, with what is downloaded for it and which ports it takes instead.
fn listing(up: &Up, moved: &[Moved], review: &Review) -> String {
    let mut text = steps(up.plan());
    let downloads = up.downloads();
    if !downloads.is_empty() {
        text.push_str("\nto be installed first: ");
        text.push_str(&downloads.join(", "));
    }
    for one in moved {
        text.push('\n');
        text.push_str(&escape(&one.to_string()));
    }
    if !review.alterations.is_empty() {
        let altered = up::listing(review.alterations.iter());
        text.push_str(&format!(
            "\n\nchanges on servers that run already\n{}",
            escape_lines(&altered)
        ));
    }
    for unknown in &review.unknown {
        text.push_str(&format!("\nrequirements unknown: {}", escape(unknown)));
    }
    text
}

fn steps(plan: &Plan) -> String {
    let mut table = table(["SERVICE", "RUNTIME", "ACTION"]);
    for Step {
        service,
        runtime,
        action,
    } in &plan.steps
    {
        let because = action.because().join(", ");
        let action = if because.is_empty() {
            action.name().to_owned()
        } else {
            format!("{}: {because}", action.name())
        };
        table.add_row([service.as_str(), runtime.name(), &action]);
    }
    render(&table)
}

/// What was made or repaired, and what recovers the changes missed until then.
fn altered(report: &Report, context: &Context) -> String {
    let mut text = String::new();
    for one in &report.altered {
        let (service, what) = (&one.service, escape_lines(&one.what));
        text.push_str(&format!("{service}: {what}\n"));
    }
    if let Some(remedy) = report.remedy {
        let remedy = context.printer().hint(remedy);
        text.push_str(&format!(
            "\nchanges made before this repair may be missing; to recover them: {remedy}\n"
        ));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn endpoints(services: &[Endpoint]) -> String {
    let mut table = table(["SERVICE", "URL", "WHAT IT IS"]);
    for service in services {
        table.add_row([&service.name, &service.url.to_string(), &service.about]);
    }
    render(&table)
}
