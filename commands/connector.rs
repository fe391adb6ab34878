//! `fanout connector`: the Debezium connector, applied, looked at, restarted,
//! paused, resumed, deleted.

use std::time::Duration;

use clap::{Args, Subcommand};
use fanout::{
    escape::escape,
    operations::connector::{self, Applied, ConnectorError, ConnectorStatus},
    template::Values,
};
use serde::Serialize;

use crate::{
    arguments::duration,
    context::Context,
    exit::{Outcome, Verdict},
    table::{render, table},
};

/// What to do with the connector.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make it what the configuration says and wait until every task runs
    Apply(Apply),
    /// Show it and every task; 5 when one does not run
    Status,
    /// Restart it and its tasks and wait until they run
    Restart(Wait),
    /// Pause it; its slot stays, and Postgres keeps the log from there
    Pause(Wait),
    /// Let it go on
    Resume(Wait),
    /// Remove it; slot, topics and its position stay
    Delete(Wait),
}

#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    wait: Wait,
    /// Show what would change, and change nothing
    #[arg(long, conflicts_with = "forget_offsets")]
    dry_run: bool,
    /// Forget the connector's position first, and begin again with a snapshot:
    /// for a slot that is gone
    #[arg(long)]
    forget_offsets: bool,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// How long to wait for it
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Serialize)]
struct Report {
    applied: Option<Applied>,
    deleted: Option<bool>,
    connector: Option<ConnectorStatus>,
}

impl Command {
    pub async fn run(self, context: &Context) -> Outcome {
        let settings = context.config()?.settings;
        let printer = context.printer();
        let progress = printer.progress();
        let mut report = Report {
            applied: None,
            deleted: None,
            connector: None,
        };
        match self {
            Self::Apply(arguments) => {
                let timeout = arguments.wait.timeout;
                let none = Values::new();
                if arguments.forget_offsets {
                    connector::forget_offsets(&settings, timeout, &*progress).await?;
                }
                report.applied = Some(if arguments.dry_run {
                    connector::plan(&settings, &none, timeout).await?
                } else {
                    connector::apply(&settings, &none, timeout, &*progress).await?
                });
                report.connector = connector::status(&settings).await?;
            }
            Self::Status => {
                let found = connector::status(&settings).await?;
                let missing = || ConnectorError::Missing {
                    name: settings.connector.name.clone(),
                };
                report.connector = Some(found.ok_or_else(missing)?);
            }
            Self::Restart(Wait { timeout }) => {
                report.connector = Some(connector::restart(&settings, timeout, &*progress).await?);
            }
            Self::Pause(Wait { timeout }) => {
                report.connector = Some(connector::pause(&settings, timeout, &*progress).await?);
            }
            Self::Resume(Wait { timeout }) => {
                report.connector = Some(connector::resume(&settings, timeout, &*progress).await?);
            }
            Self::Delete(Wait { timeout }) => {
                report.deleted = Some(connector::delete(&settings, timeout).await?);
            }
        }
        drop(progress);
        printer.conclude("connector", report.verdict(), &report, || report.human())
    }
}

impl Report {
    /// A connector that was only looked at is judged; a paused one is as its
    /// operator wants it.
    fn verdict(&self) -> Verdict {
        match &self.connector {
            Some(status) if status.failure().is_some() => Verdict::CheckFalse,
            _ => Verdict::Done,
        }
    }

    fn human(&self) -> String {
        if let Some(deleted) = self.deleted {
            let text = if deleted { "deleted" } else { "there was none" };
            return text.to_owned();
        }
        let mut text = match &self.applied {
            Some(Applied::Created) => "created\n".to_owned(),
            Some(Applied::Updated { changed }) => format!("updated: {}\n", changed.join(", ")),
            Some(Applied::Unchanged) => "unchanged\n".to_owned(),
            None => String::new(),
        };
        if let Some(status) = &self.connector {
            text.push_str(&listing(status));
        }
        text
    }
}

fn listing(status: &ConnectorStatus) -> String {
    let mut table = table(["NAME", "STATE", "WORKER", "CAUSE"]);
    let or_dash = |text: &Option<String>| {
        let text = text.as_deref().unwrap_or("-");
        escape(text).into_owned()
    };
    table.add_row([
        escape(&status.name).into_owned(),
        status.state.to_string(),
        or_dash(&status.worker),
        or_dash(&status.cause),
    ]);
    for task in &status.tasks {
        table.add_row([
            format!("task {}", task.id),
            task.state.to_string(),
            or_dash(&task.worker),
            or_dash(&task.cause),
        ]);
    }
    render(&table)
}
