//! `fanout env`: prints shell variables, for `eval "$(fanout env
//! --show-secrets)"`.

use clap::Args;
use fanout::operations::env;
use serde::Serialize;

use crate::{
    context::Context,
    outcome::{Outcome, Verdict},
};

/// Arguments of `fanout env`.
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
    pub async fn run(self, context: &Context) -> Outcome {
        let config = context.config()?;
        let state = context.recorded_state(&config).await?;
        let variables = env::variables(&config, state.as_ref(), self.show_secrets)?;
        let report = Report { variables };
        let printer = context.printer();
        if self.show_secrets {
            printer.print_verbatim();
        }
        printer.conclude("env", Verdict::Done, &report, || {
            let lines = report.variables.iter().filter_map(env::export_line);
            let lines: Vec<String> = lines.collect();
            lines.join("\n")
        })
    }
}
