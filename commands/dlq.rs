//! `fanout dlq`: what was rejected, by whom and why.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use fanout::{
    escape::{ellipsis, escape},
    operations::dlq::{self, Filter, Letter, LetterId, Listing},
};
use serde_json::{Value as Json, json};

use crate::{
    context::Context,
    exit::{Outcome, Verdict},
    table::{render, table},
};

/// The widest an error is shown in a table.
const ERROR_WIDTH: usize = 60;

/// What to do with the dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the latest, and how many there are of each kind
    Ls(List),
    /// Show one with its original bytes
    Show {
        /// As listed: partition:offset
        id: LetterId,
    },
}

#[derive(Debug, Args)]
pub struct List {
    /// Only those of this sink
    #[arg(long)]
    sink: Option<String>,
    /// Only those with this code
    #[arg(long)]
    code: Option<String>,
    /// How many
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
}

impl Command {
    pub async fn run(self, context: &Context) -> Outcome {
        let settings = context.config()?.settings;
        let printer = context.printer();
        match self {
            Self::Ls(arguments) => {
                let filter = Filter {
                    sink: arguments.sink,
                    code: arguments.code,
                };
                let listing = dlq::list(&settings, &filter, arguments.limit).await?;
                let latest: Vec<Json> = listing.latest.iter().map(document).collect();
                let report = json!({ "counts": listing.counts, "letters": latest });
                printer.conclude("dlq", Verdict::Done, &report, || list(&listing))
            }
            Self::Show { id } => {
                let letter = dlq::find(&settings, id).await?;
                let report = json!({ "letter": document(&letter) });
                printer.conclude("dlq", Verdict::Done, &report, || show(&letter))
            }
        }
    }
}

/// Bytes that are no text come as what they can be read as, and whole in
/// hexadecimal besides.
fn document(letter: &Letter) -> Json {
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
    })
}

/// The bytes in hexadecimal, where they are no text.
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
        return "no dead letters".to_owned();
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
    let mut counts = table(["SINK", "CODE", "LETTERS"]);
    for count in &listing.counts {
        counts.add_row([
            escape(&count.sink).into_owned(),
            escape(&count.code).into_owned(),
            count.letters.to_string(),
        ]);
    }
    format!("{}\n\n{}", render(&letters), render(&counts))
}

fn position(letter: &Letter) -> String {
    format!("{}/{}@{}", letter.topic, letter.partition, letter.offset)
}

fn show(letter: &Letter) -> String {
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
    fn only_bytes_that_are_no_text_come_in_hexadecimal() {
        assert_eq!(hex(Some(b"\xff\x00a")).as_deref(), Some("ff0061"));
        assert_eq!(hex(Some("é".as_bytes())), None);
        assert_eq!(hex(None), None);
    }
}
