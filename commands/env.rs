//! `fanout env`: `eval "$(fanout env --show-secrets)"`.

use clap::Args;
use fanout::operations::env;
use serde::Serialize;

use crate::{
    context::Context,
    exit::{Outcome, Verdict},
};

/// What to show.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Show passwords instead of masking them
    #[arg(long)]
    show_secrets: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    variables: Vec<env::Variable>,
}

impl Arguments {
    pub fn run(self, context: &Context) -> Outcome {
        let config = context.config()?;
        let variables = env::variables(&config.settings, self.show_secrets);
        let report = Report { variables };
        let printer = context.printer();
        if self.show_secrets {
            printer.print_verbatim();
        }
        printer.conclude("env", Verdict::Done, &report, || {
            let lines: Vec<String> = report.variables.iter().map(env::export_line).collect();
            lines.join("\n")
        })
    }
}
