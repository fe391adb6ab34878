//! `fanout backfill`: replays history: prints the plan, then shows the
//! progress.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, ValueEnum};
use fanout::{
    config::Settings,
    operations::{
        backfill::{self, Plan, Report, Request, Source, default_sinks},
        up::listing,
    },
    sink_kind::{SinkKind, joined},
    stack::reach::Need,
    text::escape::{escape, escape_lines},
    time::{clock::now_us, instant::TimeSpec},
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

/// Arguments of `fanout backfill`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Start of the range: RFC 3339, `2h`, `2h ago`, `earliest`
    #[arg(long, value_name = "TIME")]
    from: TimeSpec,
    /// End of the range [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<TimeSpec>,
    /// Read changes from the log, selected by record time, or current rows from
    /// the source, selected by event time
    #[arg(long, value_enum, default_value_t)]
    source: SourceChoice,
    /// Sinks to backfill; the external system is only called again if it is
    /// listed [default: clickhouse, or redis if clickhouse is not configured]
    #[arg(long, value_delimiter = ',', value_name = "SINK")]
    sinks: Vec<String>,
    /// Finally delete rows from ClickHouse that are not in the source. With
    /// `--from earliest`, history is rebuilt from scratch, which repairs every
    /// gap in it
    #[arg(long)]
    prune: bool,
    /// Print what would be replayed and replay nothing
    #[arg(long)]
    dry_run: bool,
    /// Without asking, abandon another unfinished backfill and alter external
    /// servers
    #[arg(long)]
    yes: bool,
    /// Maximum time without progress while a server fails or does not respond
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

/// `--source`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum SourceChoice {
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
        let connections = context.connect_with(&config, &servers).await?;
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
        if let Some(action) = action_to_confirm(&plan) {
            if printer.is_quiet() && !plan.alterations.is_empty() {
                // Show the changes even with `--quiet`: the user must see what
                // they confirm.
                printer.warn(&escape_lines(&listing(plan.alterations.iter())));
            }
            confirm(context, self.yes, "yes", &action).await?;
        }
        if self.yes || !plan.alterations.is_empty() {
            backfill.agree();
        }
        let progress = printer.progress();
        let stop = context.stop().clone();
        // The future is large, so it is boxed.
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
                SourceChoice::Log => Source::Log,
                SourceChoice::Database => Source::Database,
            },
            sinks: match self.sinks.as_slice() {
                [] => default_sinks(configured),
                sinks => sinks.to_vec().into(),
            },
            prune: self.prune,
        }
    }
}

/// Returns the servers that the backfill uses.
fn servers(request: &Request, settings: &Settings) -> Vec<(&'static str, Need)> {
    let mut servers = vec![("kafka", Need::Running)];
    if request.source == Source::Database {
        servers.extend([("postgres", Need::Running), ("connect", Need::NotForeign)]);
        // The content mirror is read, and the board is rebuilt.
        servers.extend(stores(&settings.pipeline.sinks));
    }
    servers.extend(stores(&request.sinks));
    servers
}

/// Returns the action that the operator must confirm, if any.
fn action_to_confirm(plan: &Plan) -> Option<String> {
    let unfinished = plan.gives_up.as_ref();
    let abandon = unfinished.map(|unfinished| format!("abandon {unfinished}"));
    let mut servers: Vec<&str> = Vec::new();
    for alteration in &plan.alterations {
        if !servers.contains(&alteration.service.as_str()) {
            servers.push(&alteration.service);
        }
    }
    let alter = format!("alter external servers ({})", servers.join(", "));
    let alter = (!servers.is_empty()).then_some(alter);
    let actions: Vec<String> = abandon.into_iter().chain(alter).collect();
    (!actions.is_empty()).then(|| actions.join(" and "))
}

/// Formats the plan.
fn show(plan: &Plan) -> String {
    let to = plan.to.as_deref().unwrap_or("now");
    let sinks = joined(&plan.sinks, ", ");
    let mut text = format!("from {} to {to}, into {sinks}", plan.from);
    if let Some(start) = &plan.resumes {
        // Writing into a string cannot fail.
        let _ = write!(text, "\nresumes the backfill started at {start}");
    }
    if let Some(unfinished) = &plan.gives_up {
        let _ = write!(text, "\nabandons {}", escape(unfinished));
    }
    if let Some(rows) = plan.rows {
        let _ = write!(text, "\nrereads {rows} rows from the source");
    }
    if plan.rebuilds {
        text.push_str("\nrebuilds history from scratch");
        if plan.sinks.contains(&SinkKind::ClickHouse) {
            text.push_str(": rows that are now in clickhouse no longer count");
        }
    }
    if plan.prune {
        text.push_str("\nthen deletes rows from clickhouse that are not in the source");
    }
    if !plan.alterations.is_empty() {
        let alterations = escape_lines(&listing(plan.alterations.iter()));
        let _ = write!(text, "\n\nchanges to running servers\n{alterations}");
    }
    if !plan.partitions.is_empty() {
        let mut partitions = table(["PARTITION", "FROM", "UNTIL", "MESSAGES"]);
        for range in &plan.partitions {
            partitions.add_row([
                range.partition.to_string(),
                range.from.to_string(),
                range.until.to_string(),
                range.messages.to_string(),
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
    fn one_question_confirms_abandoning_and_altering() {
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
        assert_eq!(action_to_confirm(&plan), None);
        plan.gives_up = Some("the old one".to_owned());
        assert_eq!(
            action_to_confirm(&plan).as_deref(),
            Some("abandon the old one")
        );
        let alteration = |service: &str| Alteration {
            service: service.to_owned(),
            external: true,
            what: "create topic t".to_owned(),
            why: None,
            needs_consent: true,
        };
        plan.alterations = ["kafka", "kafka", "connect"].map(alteration).into();
        assert_eq!(
            action_to_confirm(&plan).as_deref(),
            Some("abandon the old one and alter external servers (kafka, connect)")
        );
        assert!(show(&plan).contains("kafka, not fanout's own:\n  create topic t"));
    }
}
