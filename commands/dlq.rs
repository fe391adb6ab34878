//! `fanout dlq`: lists, shows, replays or purges dead letters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use clap::{Args, Subcommand};
use fanout::{
    connections::Connections,
    operations::dlq::{self, DlqError, Filter, Listing, Purged, Report, Selected},
    runtime::{DeadLetter, DeadLetterId},
    sink_kind::ConsumerGroup,
    stack::reach::Need,
    text::escape::{ellipsis, escape},
};
use serde_json::{Value as Json, json};

use crate::{
    arguments::{duration, up_to},
    confirm::confirm,
    context::Context,
    outcome::{Outcome, Verdict},
    servers::stores,
    table::{plural, render, table},
};

/// Maximum width of an error in a table.
const ERROR_WIDTH: usize = 60;

/// Subcommands of `fanout dlq`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the latest dead letters and count them by sink and code
    Ls(List),
    /// Show one dead letter with its original bytes
    Show {
        /// ID as listed: partition:offset
        id: DeadLetterId,
    },
    /// Apply dead letters through their sinks again, each at the position of
    /// its record
    Replay(Replay),
    /// Delete the bytes of all dead letters
    Purge(Purge),
}

#[derive(Debug, Args)]
pub struct List {
    /// List only dead letters of this sink
    #[arg(long)]
    sink: Option<String>,
    /// List only dead letters with this code
    #[arg(long)]
    code: Option<String>,
    /// Number of dead letters, at most 100000
    #[arg(long, short = 'n', default_value_t = 20, value_parser = up_to::<100_000>)]
    limit: usize,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// Replay only these, IDs as listed: partition:offset
    #[arg(value_name = "ID")]
    ids: Vec<DeadLetterId>,
    /// Replay only dead letters of this sink
    #[arg(long)]
    sink: Option<String>,
    /// Replay only dead letters with this code
    #[arg(long)]
    code: Option<String>,
    /// Call the external system without asking
    #[arg(long)]
    yes: bool,
    /// Print what would be replayed and replay nothing
    #[arg(long)]
    dry_run: bool,
    /// Maximum time for which a sink may fail
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
pub struct Purge {
    /// Purge without asking
    #[arg(long)]
    yes: bool,
    /// Print what would be purged and purge nothing
    #[arg(long)]
    dry_run: bool,
}

impl Command {
    pub async fn run(self, context: &Context) -> Outcome {
        let printer = context.printer();
        let filter = self.filter()?;
        let config = context.config()?;
        let mut servers = vec![("kafka", Need::Running)];
        if let Self::Replay(_) = &self {
            servers.extend(stores(&config.settings.pipeline.sinks));
        }
        let connections = context.connect_with(&config, &servers).await?;
        match self {
            Self::Ls(arguments) => {
                let listing = dlq::list(&connections, &filter, arguments.limit).await?;
                let latest: Vec<Json> = listing.latest.iter().map(document).collect();
                let report = json!({
                    "action": "ls",
                    "counts": listing.counts,
                    "letters": latest,
                    "purged": listing.purged,
                });
                printer.conclude("dlq", Verdict::Done, &report, || list(&listing))
            }
            Self::Show { id } => {
                let letter = dlq::find(&connections, id).await?;
                printer.print_verbatim();
                let report = json!({ "action": "show", "letter": document(&letter) });
                printer.conclude("dlq", Verdict::Done, &report, || show(&letter))
            }
            Self::Replay(arguments) => arguments.run(context, &connections, filter).await,
            Self::Purge(arguments) => arguments.run(context, &connections).await,
        }
    }
}

impl Command {
    /// Returns the filter that the arguments specify.
    fn filter(&self) -> Result<Filter, DlqError> {
        match self {
            Self::Ls(List { sink, code, .. }) => {
                Filter::new(BTreeSet::new(), sink.clone(), code.clone())
            }
            Self::Replay(Replay {
                ids, sink, code, ..
            }) => Filter::new(ids.iter().copied().collect(), sink.clone(), code.clone()),
            Self::Show { .. } | Self::Purge(_) => Ok(Filter::default()),
        }
    }
}

impl Replay {
    async fn run(self, context: &Context, connections: &Connections, filter: Filter) -> Outcome {
        let selected = dlq::select(connections, &context.scratch()?, filter).await?;
        let printer = context.printer();
        if self.dry_run {
            let report = replay_document(true, selected.counts(), None);
            return printer.conclude("dlq", Verdict::Done, &report, || counts(&selected));
        }
        printer.note(&counts(&selected));
        let selection = selected.counts().clone();
        if selected.goes_outside() {
            let action = "call the external system again";
            confirm(context, self.yes, "yes", action).await?;
        }
        let progress = printer.progress();
        let options = dlq::Replay {
            patience: self.timeout,
            stop: context.stop().clone(),
        };
        let work = Box::pin(selected.replay(connections, &options, &*progress));
        let report = work.await?;
        drop(progress);
        let document = replay_document(false, &selection, Some(&report));
        printer.conclude("dlq", Verdict::Done, &document, || replayed(&report))
    }
}

fn replay_document(
    dry_run: bool,
    selected: &BTreeMap<ConsumerGroup, u64>,
    done: Option<&Report>,
) -> Json {
    json!({ "action": "replay", "dry_run": dry_run, "selected": selected, "done": done })
}

impl Purge {
    async fn run(self, context: &Context, connections: &Connections) -> Outcome {
        let printer = context.printer();
        let listing = dlq::list(connections, &Filter::default(), 0).await?;
        if self.dry_run {
            let report = purge_document(true, &listing, None);
            return printer.conclude("dlq", Verdict::Done, &report, || tally(&listing));
        }
        printer.note(&tally(&listing));
        if !listing.counts.is_empty() {
            let action = "delete the bytes of every dead letter";
            confirm(context, self.yes, "yes", action).await?;
        }
        let progress = printer.progress();
        let purged = dlq::purge(connections, &context.scratch()?, &*progress).await?;
        drop(progress);
        let report = purge_document(false, &listing, Some(purged));
        printer.conclude("dlq", Verdict::Done, &report, || {
            let letters = purged.letters;
            format!("purged {letters} dead letter{}", plural(letters))
        })
    }
}

fn purge_document(dry_run: bool, listing: &Listing, done: Option<Purged>) -> Json {
    json!({ "action": "purge", "dry_run": dry_run, "counts": listing.counts, "done": done })
}

/// Formats the number of selected dead letters: `3 of clickhouse, 3 of http`.
fn counts(selected: &Selected) -> String {
    let counts = selected.counts();
    let mut parts: Vec<String> = counts
        .iter()
        .map(|(sink, count)| format!("{count} of {sink}"))
        .collect();
    if selected.superseded() > 0 {
        let superseded = selected.superseded();
        parts.push(format!(
            "{superseded} of an earlier incarnation of their topic, skipped"
        ));
    }
    if selected.not_driven() > 0 {
        let not_driven = selected.not_driven();
        parts.push(format!(
            "{not_driven} of sinks that are not configured, skipped"
        ));
    }
    if parts.is_empty() {
        return "no dead letters".to_owned();
    }
    parts.join(", ")
}

fn replayed(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .replayed
        .iter()
        .map(|(sink, tally)| {
            let ignored: u64 = tally.ignored.values().sum();
            let rejected: u64 = tally.rejected.values().sum();
            let applied = tally.applied;
            format!("{sink}: {applied} applied, {ignored} ignored, {rejected} still rejected")
        })
        .collect();
    if let Some(members) = report.board {
        lines.push(format!("redis: rebuilt, {members} members"));
    }
    lines.join("\n")
}

/// Returns a dead letter as JSON. Bytes that are not UTF-8 appear as lossily
/// decoded text and, in full, in hexadecimal.
fn document(letter: &DeadLetter) -> Json {
    let text = |bytes: &Option<Vec<u8>>| {
        let text = bytes.as_deref().map(String::from_utf8_lossy);
        text.map(std::borrow::Cow::into_owned)
    };
    json!({
        "id": letter.id.to_string(),
        "sink": letter.sink,
        "code": letter.code,
        "error": letter.error,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "generation": letter.generation,
        "time": letter.time,
        "key": text(&letter.key),
        "value": text(&letter.value),
        "key_hex": hex(letter.key.as_deref()),
        "value_hex": hex(letter.value.as_deref()),
        "value_bytes": letter.value_bytes,
        "truncated": letter.truncated,
    })
}

/// Returns the bytes in hexadecimal if they are not UTF-8.
fn hex(bytes: Option<&[u8]>) -> Option<String> {
    let bytes = bytes.filter(|bytes| std::str::from_utf8(bytes).is_err())?;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

fn list(listing: &Listing) -> String {
    if listing.counts.is_empty() {
        return tally(listing);
    }
    let mut letters = table(["ID", "TIME", "SINK", "CODE", "RECORD", "ERROR"]);
    for letter in &listing.latest {
        letters.add_row([
            letter.id.to_string(),
            escape(&letter.time).into_owned(),
            escape(&letter.sink).into_owned(),
            escape(&letter.code).into_owned(),
            escape(&position(letter)).into_owned(),
            ellipsis(&escape(&letter.error), ERROR_WIDTH).into_owned(),
        ]);
    }
    format!("{}\n\n{}", render(&letters), tally(listing))
}

/// Formats the number of dead letters by sink and code.
fn tally(listing: &Listing) -> String {
    let purged = match listing.purged {
        0 => String::new(),
        purged => format!("\n{purged} were purged"),
    };
    if listing.counts.is_empty() {
        return format!("no dead letters{purged}");
    }
    let mut counts = table(["SINK", "CODE", "LETTERS"]);
    for count in &listing.counts {
        counts.add_row([
            escape(&count.sink).into_owned(),
            escape(&count.code).into_owned(),
            count.letters.to_string(),
        ]);
    }
    format!("{}{purged}", render(&counts))
}

fn position(letter: &DeadLetter) -> String {
    format!("{}/{}@{}", letter.topic, letter.partition, letter.offset)
}

fn show(letter: &DeadLetter) -> String {
    let bytes = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => escape(&String::from_utf8_lossy(bytes)).into_owned(),
        None => "null".to_owned(),
    };
    let mut table = table(["", ""]);
    for (name, value) in [
        ("id", letter.id.to_string()),
        ("time", escape(&letter.time).into_owned()),
        ("sink", escape(&letter.sink).into_owned()),
        ("code", escape(&letter.code).into_owned()),
        ("error", escape(&letter.error).into_owned()),
        ("record", escape(&position(letter)).into_owned()),
        ("generation", escape(&letter.generation).into_owned()),
        ("key", bytes(&letter.key)),
        ("value", bytes(&letter.value)),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    render(&table).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn only_invalid_utf_8_is_shown_in_hexadecimal() {
        assert_eq!(hex(Some(b"\xff\x00a")).as_deref(), Some("ff0061"));
        assert_eq!(hex(Some("é".as_bytes())), None);
        assert_eq!(hex(None), None);
    }
}
