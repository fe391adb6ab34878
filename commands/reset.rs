//! `fanout reset`: lists everything that the project owns, asks for
//! confirmation, and removes it.

use std::time::Duration;

use clap::Args;
use fanout::operations::reset::{self, Inventory, Reset};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::{
    arguments::duration,
    confirm::confirm,
    context::Context,
    outcome::{CommandError, Outcome, Verdict},
};

/// Arguments of `fanout reset`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Remove without asking
    #[arg(long)]
    yes: bool,
    /// Print what would be removed and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Maximum time for each service to stop before it is killed
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    removed: Inventory,
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let config = context.config_for_reset()?;
        let site = context.site()?;
        let removed = if self.dry_run {
            reset::inventory(&site, &config).await?
        } else {
            let reset = reset::prepare(site, &config).await?;
            self.remove(context, &reset).await?;
            reset.inventory().clone()
        };
        if removed.is_empty() {
            context.recorded_state(&config).await?;
        }
        let report = Report {
            dry_run: self.dry_run,
            removed,
        };
        let printer = context.printer();
        printer.conclude("reset", Verdict::Done, &report, || {
            match (report.removed.is_empty(), report.dry_run) {
                (true, _) => "nothing to remove".to_owned(),
                (false, true) => listing(&report.removed),
                (false, false) => format!("removed project {}", context.project()),
            }
        })
    }
}

impl Arguments {
    async fn remove(&self, context: &Context, reset: &Reset) -> Result<(), CommandError> {
        if reset.inventory().is_empty() {
            return Ok(());
        }
        let printer = context.printer();
        let listing = listing(reset.inventory());
        if self.yes {
            printer.note(&listing);
        } else {
            // Shown even with `--quiet`: the user must see what they confirm.
            printer.warn(&listing);
        }
        let project = context.project().as_str();
        let action = format!("remove all of project {project}");
        confirm(context, self.yes, project, &action).await?;
        Ok(reset.apply(self.timeout, &*printer.progress()).await?)
    }
}

fn listing(inventory: &Inventory) -> String {
    let mut lines = Vec::new();
    for service in &inventory.running {
        lines.push(format!("process   {service}"));
    }
    let engine_objects = [
        ("container", &inventory.containers),
        ("volume", &inventory.volumes),
        ("network", &inventory.networks),
    ];
    for (kind, names) in engine_objects {
        lines.extend(names.iter().map(|name| format!("{kind:<9} {name}")));
    }
    if let Some(folder) = &inventory.folder {
        let size = HumanBytes(inventory.folder_bytes);
        lines.push(format!("folder    {} ({size})", folder.display()));
    }
    for owned in &inventory.external {
        let kind = owned.kind.to_lowercase();
        lines.push(format!("{kind:<9} {} in {}", owned.name, owned.service));
    }
    lines.join("\n")
}
