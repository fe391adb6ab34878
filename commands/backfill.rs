//! `fanout backfill`: history applied again: first what that will be, then a
//! bar.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, ValueEnum};
use fanout::{
    clock::now_us,
    config::Settings,
    escape::escape,
    instant::TimeSpec,
    operations::backfill::{self, Plan, Report, Request, Source},
    stack::reach::Need,
};
use serde::Serialize;

use crate::{
    arguments::duration,
    confirm::confirm,
    context::Context,
    exit::{Outcome, Verdict},
    servers::stores,
    table::{render, table},
};

/// Which history, from where, into what.
#[derive(Debug, Args)]
pub struct Arguments {
    /// From when on: RFC 3339, `2h`, `2h ago`, `earliest`
    #[arg(long, value_name = "TIME")]
    from: TimeSpec,
    /// Up to when [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<TimeSpec>,
    /// Read what happened from the log, by its records' time, or what there is
    /// from the source, by its events' time
    #[arg(long, value_enum, default_value_t)]
    source: From,
    /// Which sinks; the external system is told again only when it is named
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "SINK",
        default_value = "clickhouse"
    )]
    sinks: Vec<String>,
    /// Then delete from ClickHouse what the source does not have. With `--from
    /// earliest` history begins anew: the remedy for every break in it
    #[arg(long)]
    prune: bool,
    /// Say what would be replayed, and replay nothing
    #[arg(long)]
    dry_run: bool,
    /// Give up another backfill that is not finished, without asking
    #[arg(long)]
    yes: bool,
    /// How long a server may refuse, or have nothing to say
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

/// `--source`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum From {
    #[default]
    Log,
    Database,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    dry_run: bool,
    plan: &'a Plan,
    done: Option<&'a Report>,
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let request = self.request();
        request.check(now_us())?;
        let config = context.config()?;
        context
            .reach(&config, &servers(&request, &config.settings))
            .await?;
        let settings = config.settings;
        let site = context.site()?;
        let printer = context.printer();
        if self.dry_run {
            let plan = backfill::plan(&site, &settings, request).await?;
            let document = Document {
                dry_run: true,
                plan: &plan,
                done: None,
            };
            return printer.conclude("backfill", Verdict::Done, &document, || show(&plan));
        }
        let backfill = backfill::prepare(&site, &settings, request).await?;
        let plan = backfill.plan().clone();
        printer.note(&show(&plan));
        if let Some(unfinished) = &plan.gives_up {
            let what = format!("give up {unfinished}");
            confirm(context, self.yes, "yes", &what).await?;
        }
        let progress = printer.progress();
        let stop = context.stop().clone();
        // Long work with much in hand: on the heap.
        let work = Box::pin(backfill.run(self.timeout, stop, &*progress));
        let report = work.await?;
        drop(progress);
        let document = Document {
            dry_run: false,
            plan: &plan,
            done: Some(&report),
        };
        printer.conclude("backfill", Verdict::Done, &document, || summary(&report))
    }

    fn request(&self) -> Request {
        Request {
            from: self.from,
            to: self.to,
            source: match self.source {
                From::Log => Source::Log,
                From::Database => Source::Database,
            },
            sinks: self.sinks.clone(),
            prune: self.prune,
        }
    }
}

/// What it talks to.
fn servers(request: &Request, settings: &Settings) -> Vec<(&'static str, Need)> {
    let mut servers = vec![("kafka", Need::Running)];
    if request.source == Source::Database {
        servers.extend([("postgres", Need::Running), ("connect", Need::Ours)]);
        // The mirror of the content, and the board that is made anew.
        servers.extend(stores(&settings.pipeline.sinks));
    }
    servers.extend(stores(&request.sinks));
    servers
}

/// What it will do, before it does it.
fn show(plan: &Plan) -> String {
    let to = plan.to.as_deref().unwrap_or("now");
    let mut text = format!("from {} to {to}, into {}", plan.from, plan.sinks.join(", "));
    if let Some(begun) = &plan.resumes {
        // Writing into a string cannot fail.
        let _ = write!(text, "\nresumes the one begun at {begun}");
    }
    if let Some(unfinished) = &plan.gives_up {
        let _ = write!(text, "\ngives up {}", escape(unfinished));
    }
    if let Some(rows) = plan.rows {
        let _ = write!(text, "\n{rows} rows of the source are read anew");
    }
    if plan.rebuilds {
        text.push_str("\nhistory begins anew: what clickhouse holds now counts no more");
    }
    if plan.prune {
        text.push_str("\nthen what the source does not have is deleted from clickhouse");
    }
    if !plan.partitions.is_empty() {
        let mut partitions = table(["PARTITION", "FROM", "UNTIL", "MESSAGES"]);
        for stretch in &plan.partitions {
            partitions.add_row([
                stretch.partition.to_string(),
                stretch.from.to_string(),
                stretch.until.to_string(),
                stretch.messages.to_string(),
            ]);
        }
        let _ = write!(text, "\n{}", render(&partitions));
    }
    for note in &plan.notes {
        let _ = write!(text, "\nnote: {}", escape(note));
    }
    text
}

fn summary(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .replayed
        .iter()
        .map(|(sink, tally)| {
            let ignored: u64 = tally.ignored.values().sum();
            let rejected: u64 = tally.rejected.values().sum();
            let applied = tally.applied;
            format!("{sink}: {applied} applied, {ignored} ignored, {rejected} rejected")
        })
        .collect();
    if let Some(rows) = report.rows {
        lines.push(format!("source: {rows} rows read"));
    }
    if let (Some(rows), Some(contents)) = (report.pruned, report.pruned_content) {
        lines.push(format!("pruned: {rows} rows, {contents} contents"));
    }
    if let Some(members) = report.board {
        lines.push(format!("redis: rebuilt, {members} members"));
    }
    lines.push(format!("done in {:.1} s", report.seconds));
    lines.join("\n")
}
