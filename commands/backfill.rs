//! `fanout backfill`: history applied again: first what that will be, then a
//! bar.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, ValueEnum};
use fanout::{
    clock::now_us,
    config::Settings,
    escape::{escape, escape_lines},
    instant::TimeSpec,
    operations::{
        backfill::{self, Plan, Report, Request, Source, default_sinks},
        up::listing,
    },
    sink_kind::{SinkKind, joined},
    stack::reach::Need,
};
use serde::Serialize;

use crate::{
    arguments::duration,
    confirm::confirm,
    context::Context,
    outcome::{Outcome, Verdict},
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
    /// [default: clickhouse, or redis where clickhouse is not configured]
    #[arg(long, value_delimiter = ',', value_name = "SINK")]
    sinks: Vec<String>,
    /// Then delete from ClickHouse what the source does not have. With `--from
    /// earliest` history begins anew: the remedy for every break in it
    #[arg(long)]
    prune: bool,
    /// Say what would be replayed, and replay nothing
    #[arg(long)]
    dry_run: bool,
    /// Give up another unfinished backfill, and alter servers that are not
    /// fanout's own, without asking
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
        let config = context.config()?;
        let configured = &config.settings.pipeline.sinks;
        let request = self.request(configured);
        request.check(now_us(), configured)?;
        let servers = servers(&request, &config.settings);
        let connections = context.connections(&config, &servers).await?;
        let site = context.site()?;
        let printer = context.printer();
        if self.dry_run {
            let plan = backfill::plan(&site, &connections, request).await?;
            let document = Document {
                dry_run: true,
                plan: &plan,
                done: None,
            };
            return printer.conclude("backfill", Verdict::Done, &document, || show(&plan));
        }
        let mut backfill = backfill::prepare(&site, &connections, request).await?;
        let plan = backfill.plan().clone();
        printer.note(&show(&plan));
        if let Some(what) = to_confirm(&plan) {
            if printer.is_quiet() && !plan.alterations.is_empty() {
                // Nobody agrees to what they were not shown.
                printer.warn(&escape_lines(&listing(plan.alterations.iter())));
            }
            confirm(context, self.yes, "yes", &what).await?;
        }
        if self.yes || !plan.alterations.is_empty() {
            backfill.agree();
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

    fn request(&self, configured: &[SinkKind]) -> Request {
        Request {
            from: self.from,
            to: self.to,
            source: match self.source {
                From::Log => Source::Log,
                From::Database => Source::Database,
            },
            sinks: match self.sinks.as_slice() {
                [] => default_sinks(configured),
                named => named.to_vec().into(),
            },
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

/// What the operator has to agree to.
fn to_confirm(plan: &Plan) -> Option<String> {
    let gives_up = plan.gives_up.as_ref();
    let gives_up = gives_up.map(|unfinished| format!("give up {unfinished}"));
    let mut servers: Vec<&str> = Vec::new();
    for one in &plan.alterations {
        if !servers.contains(&one.service.as_str()) {
            servers.push(&one.service);
        }
    }
    let alters = format!(
        "alter servers that are not fanout's own ({})",
        servers.join(", ")
    );
    let alters = (!servers.is_empty()).then_some(alters);
    let parts: Vec<String> = gives_up.into_iter().chain(alters).collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

/// What it will do, before it does it.
fn show(plan: &Plan) -> String {
    let to = plan.to.as_deref().unwrap_or("now");
    let sinks = joined(&plan.sinks, ", ");
    let mut text = format!("from {} to {to}, into {sinks}", plan.from);
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
        text.push_str("\nhistory begins anew");
        if plan.sinks.contains(&SinkKind::ClickHouse) {
            text.push_str(": what clickhouse holds now counts no more");
        }
    }
    if plan.prune {
        text.push_str("\nthen what the source does not have is deleted from clickhouse");
    }
    if !plan.alterations.is_empty() {
        let altered = escape_lines(&listing(plan.alterations.iter()));
        let _ = write!(text, "\n\nchanges on servers that run already\n{altered}");
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

#[cfg(test)]
mod tests {
    use fanout::operations::up::Alteration;

    use super::*;

    #[test]
    fn what_is_given_up_and_altered_is_confirmed_in_one_question() {
        let mut plan = Plan {
            resumes: None,
            gives_up: None,
            source: Source::Database,
            from: "earliest".to_owned(),
            to: None,
            sinks: vec![SinkKind::ClickHouse],
            prune: true,
            rebuilds: true,
            partitions: Vec::new(),
            messages: 0,
            rows: None,
            alterations: Vec::new(),
            notes: Vec::new(),
        };
        assert_eq!(to_confirm(&plan), None);
        plan.gives_up = Some("the old one".to_owned());
        assert_eq!(to_confirm(&plan).as_deref(), Some("give up the old one"));
        let alteration = |service: &str| Alteration {
            service: service.to_owned(),
            external: true,
            what: "create topic t".to_owned(),
            why: None,
            needs_consent: true,
        };
        plan.alterations = ["kafka", "kafka", "connect"].map(alteration).into();
        assert_eq!(
            to_confirm(&plan).as_deref(),
            Some(
                "give up the old one and alter servers that are not fanout's own (kafka, connect)"
            )
        );
        assert!(show(&plan).contains("kafka, not fanout's own:\n  create topic t"));
    }
}
