//! `fanout config`: the effective configuration and where each value is from.

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

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print each value and the layer it came from
    Show,
    /// Read everything and say whether it is valid
    Check,
}

#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    value: Json,
    origin: String,
}

impl Command {
    pub fn run(self, context: &Context) -> Outcome {
        let config = match self {
            Self::Show => context.unchecked(BTreeMap::new()),
            Self::Check => context.config(),
        };
        let config = match (config, &self) {
            // What cannot be read is mended by one who sees what there is.
            (Err(error), Self::Show) if !context.printer().is_json() => {
                let values: Vec<Shown> = context.defaults()?.values.iter().map(shown).collect();
                context.printer().data(&listing(&values));
                return Err(error);
            }
            (config, _) => config?,
        };
        let values: Vec<Shown> = config.values.iter().map(shown).collect();
        let report = serde_json::json!({ "values": values });
        let printer = context.printer();
        printer.conclude("config", Verdict::Done, &report, || match self {
            Self::Show => listing(&values),
            Self::Check => format!("{} values, all valid", values.len()),
        })
    }
}

fn shown(value: &Value) -> Shown {
    Shown {
        key: value.key.clone(),
        value: value.masked(),
        origin: value.origin.to_string(),
    }
}

fn listing(values: &[Shown]) -> String {
    let mut table = table(["KEY", "VALUE", "FROM"]);
    for value in values {
        let text = match &value.value {
            Json::String(text) => text.clone(),
            Json::Null => "-".to_owned(),
            other => other.to_string(),
        };
        table.add_row([value.key.as_str(), &text, &value.origin]);
    }
    render(&table)
}
