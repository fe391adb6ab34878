//! `fanout up`: prints the plan, applies it, and lists the endpoints.

use std::time::Duration;

use clap::{Args, ValueEnum};
use fanout::{
    operations::up::{self, Endpoint, Pull, Report, Request, Review, Up},
    source::Consent,
    stack::{
        PortMode,
        blueprint::UpOptions,
        plan::{Plan, Recreate, Step},
        ports::ReassignedPort,
    },
    text::escape::{escape, escape_lines},
};
use serde::Serialize;

use crate::{
    arguments::duration,
    confirm::ask_yes_or_no,
    context::Context,
    outcome::{Outcome, Verdict},
    table::{render, table},
};

/// The service that `--no-run` excludes.
const PIPELINE: &str = "pipeline";

/// Default of `--timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(180);

/// Arguments of `fanout up`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Start only these services and their dependencies
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Maximum time to wait for a service to become ready
    #[arg(long, default_value = "180s", value_parser = duration)]
    timeout: Duration,
    /// Use the configured ports, or (auto) free ports instead of ports in use
    #[arg(long, value_enum, default_value_t)]
    ports: Ports,
    /// When to download images and binaries
    #[arg(long, value_enum, default_value_t)]
    pull: PullChoice,
    /// When to replace running services: if their definition changed (auto),
    /// never, or always (force)
    #[arg(long, value_enum, default_value_t)]
    recreate: RecreateChoice,
    /// Do not start the pipeline; start it yourself with `fanout run`
    #[arg(long)]
    no_run: bool,
    /// Print the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Without asking, alter external servers and recreate dropped tables empty
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
    /// Why this runtime was chosen for a new project, if none was requested.
    because: Option<&'a str>,
    /// Downloads needed before the start.
    downloads: Vec<&'a str>,
    /// Ports used instead of the default ones.
    moved: &'a [ReassignedPort],
    /// Changes to servers that were already running.
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
            if let Some(reason) = up.because() {
                printer.note(reason);
            }
            let review = up.review(true, &*printer.progress()).await?;
            let report = up.report(false);
            return conclude(context, &up, &up.moved(), &review, &report, true);
        }
        let mut up = up::prepare(site, &config, request).await?;
        let moved = up.moved();
        if let Some(reason) = up.because() {
            printer.note(reason);
        }
        let review = up.review(false, &*printer.progress()).await?;
        if !up.plan().is_empty() || !review.alterations.is_empty() {
            printer.note(&listing(&up, &moved, &review));
        }
        if self.yes {
            up.agree(&review, Consent::All)?;
        } else if self.is_confirmed(context, &review).await {
            up.agree(&review, review.consent())?;
        } else {
            return Err(up.decline(&review).into());
        }
        let report = up.apply(&*printer.progress()).await?;
        conclude(context, &up, &moved, &review, &report, false)
    }

    /// Returns the command line without its global flags.
    fn command_line(&self) -> String {
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
                .filter_map(|(is_given, flag)| is_given.then_some(flag)),
        );
        words.join(" ")
    }

    /// Asks for confirmation if a change requires it. Returns true if the
    /// changes may be made.
    async fn is_confirmed(&self, context: &Context, review: &Review) -> bool {
        if review.to_agree().next().is_none() {
            return true;
        }
        if context.printer().is_quiet() {
            // Show the changes even with `--quiet`: the user must see what they
            // confirm.
            context.printer().warn(&up::listing(review.to_agree()));
        }
        ask_yes_or_no(context, "make these changes?").await
    }

    fn request(&self, context: &Context) -> Request {
        let excluded = self.no_run.then(|| PIPELINE.to_owned());
        Request {
            options: UpOptions {
                services: self.services.clone(),
                excluded: excluded.into_iter().collect(),
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
            typed: self.command_line(),
        }
    }
}

fn conclude(
    context: &Context,
    up: &Up,
    moved: &[ReassignedPort],
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
                    alterations(report, context),
                    endpoints(&report.services)
                )
            } else {
                format!("nothing to do\n\n{}", endpoints(&report.services))
            }
        })
}

/// Formats the plan with its downloads, reassigned ports and alterations.
fn listing(up: &Up, moved: &[ReassignedPort], review: &Review) -> String {
    let mut text = steps(up.plan());
    let downloads = up.downloads();
    if !downloads.is_empty() {
        text.push_str("\nwill be downloaded first: ");
        text.push_str(&downloads.join(", "));
    }
    for port in moved {
        text.push('\n');
        text.push_str(&escape(&port.to_string()));
    }
    if !review.alterations.is_empty() {
        let alterations = up::listing(review.alterations.iter());
        text.push_str(&format!(
            "\n\nchanges to running servers\n{}",
            escape_lines(&alterations)
        ));
    }
    for unknown in &review.unknown {
        text.push_str(&format!(
            "\ncannot determine all changes: {}",
            escape(unknown)
        ));
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
        let reasons = action.reasons().join(", ");
        let action = if reasons.is_empty() {
            action.name().to_owned()
        } else {
            format!("{}: {reasons}", action.name())
        };
        table.add_row([service.as_str(), runtime.name(), &action]);
    }
    render(&table)
}

/// Lists what was created or repaired, and the command that recovers changes
/// missed before the repair.
fn alterations(report: &Report, context: &Context) -> String {
    let mut text = String::new();
    for alteration in &report.altered {
        let (service, change) = (&alteration.service, escape_lines(&alteration.what));
        text.push_str(&format!("{service}: {change}\n"));
    }
    if let Some(remedy) = report.remedy {
        let remedy = context.printer().hint(remedy);
        text.push_str(&format!(
            "\nchanges made before this repair may be missing; to recover them, run: {remedy}\n"
        ));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn endpoints(services: &[Endpoint]) -> String {
    let mut table = table(["SERVICE", "URL", "DESCRIPTION"]);
    for service in services {
        table.add_row([&service.name, &service.url.to_string(), &service.about]);
    }
    render(&table)
}
