//! `fanout config`: shows the effective configuration and the origin of each
//! value, or checks it.

use std::collections::BTreeMap;

use clap::Subcommand;
use fanout::config::Value;
use serde::Serialize;
use serde_json::Value as Json;

use crate::{
    context::Context,
    outcome::{Outcome, Verdict},
    table::{render, table},
};

/// Subcommands of `fanout config`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print each value and the layer that it comes from
    Show,
    /// Check that the configuration is valid
    Check,
}

#[derive(Debug, Serialize)]
struct Entry {
    key: String,
    value: Json,
    origin: String,
}

impl Command {
    pub fn run(self, context: &Context) -> Outcome {
        let config = match self {
            Self::Show => context.unchecked_config(BTreeMap::new()),
            Self::Check => context.config(),
        };
        let config = match (config, &self) {
            // The defaults help to fix a configuration that cannot be loaded.
            (Err(error), Self::Show) if !context.printer().is_json() => {
                let defaults = context.default_config()?;
                let values: Vec<Entry> = defaults.values.iter().map(entry).collect();
                context.printer().data(&listing(&values));
                return Err(error);
            }
            (config, _) => config?,
        };
        let values: Vec<Entry> = config.values.iter().map(entry).collect();
        let report = serde_json::json!({ "values": values });
        let printer = context.printer();
        printer.conclude("config", Verdict::Done, &report, || match self {
            Self::Show => listing(&values),
            Self::Check => format!("{} values, all valid", values.len()),
        })
    }
}

fn entry(value: &Value) -> Entry {
    Entry {
        key: value.key.clone(),
        value: value.masked(),
        origin: value.origin.to_string(),
    }
}

fn listing(values: &[Entry]) -> String {
    let mut table = table(["KEY", "VALUE", "FROM"]);
    for entry in values {
        let text = match &entry.value {
            Json::String(text) => text.clone(),
            Json::Null => "-".to_owned(),
            other => other.to_string(),
        };
        table.add_row([entry.key.as_str(), &text, &entry.origin]);
    }
    render(&table)
}
