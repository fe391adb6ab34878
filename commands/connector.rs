//! `fanout connector`: applies, shows, restarts, pauses, resumes or deletes the
//! Debezium connector.

use std::time::Duration;

use clap::{Args, Subcommand};
use fanout::{
    connections::Connections,
    source::{
        checks::RECONCILE,
        connector::{self, Applied, ConnectorError, ConnectorStatus, State},
    },
    stack::reach::Need,
    text::escape::escape,
};
use serde::Serialize;

use crate::{
    arguments::duration,
    confirm::confirm,
    context::Context,
    outcome::{CommandError, Outcome, Verdict},
    table::{render, table},
};

/// Message about a connector that another client had reconfigured.
const DRIFTED: &str = "another client had changed what the connector delivers; \
    to recover missed changes, run";

/// Subcommands of `fanout connector`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or update the connector and wait until every task runs
    Apply(Apply),
    /// Show the connector and its tasks; exit code 5 if one does not run
    Status,
    /// Restart the connector and its tasks and wait until they run
    Restart(Change),
    /// Pause the connector; its slot stays, and Postgres retains its log from
    /// there
    Pause(Change),
    /// Resume the connector
    Resume(Change),
    /// Delete the connector; its slot, topics and position stay
    Delete(Delete),
}

#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    change: Change,
    /// First delete the connector's position and start again with a snapshot,
    /// for example after the slot was lost
    #[arg(long, conflicts_with = "dry_run")]
    forget_offsets: bool,
    /// Delete the position without asking
    #[arg(long, requires = "forget_offsets")]
    yes: bool,
}

#[derive(Debug, Args)]
pub struct Delete {
    #[command(flatten)]
    change: Change,
    /// Delete the connector without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub struct Change {
    /// Maximum time to wait
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// Print what would change and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing was changed.
    dry_run: bool,
    action: &'static str,
    applied: Option<Applied>,
    deleted: Option<bool>,
    connector: Option<ConnectorStatus>,
    /// Whether the connector is connected to Postgres; `None` if unknown.
    connected: Option<bool>,
}

impl Command {
    pub async fn run(self, context: &Context) -> Outcome {
        let connections = context.connect(self.servers()).await?;
        let printer = context.printer();
        let progress = printer.progress();
        let mut report = Report {
            dry_run: false,
            action: self.name(),
            applied: None,
            deleted: None,
            connector: None,
            connected: None,
        };
        match self {
            Self::Apply(arguments) => arguments.run(context, &connections, &mut report).await?,
            Self::Status => {
                report.connector = Some(existing(&connections).await?);
                report.connected = connector::is_connected(&connections).await;
            }
            Self::Restart(change) | Self::Pause(change) | Self::Resume(change)
                if change.dry_run =>
            {
                report.dry_run = true;
                report.connector = Some(existing(&connections).await?);
            }
            Self::Delete(arguments) => arguments.run(context, &connections, &mut report).await?,
            Self::Restart(Change { timeout, .. }) => {
                report.connector =
                    Some(connector::restart(&connections, timeout, &*progress).await?);
            }
            Self::Pause(Change { timeout, .. }) => {
                report.connector = Some(connector::pause(&connections, timeout, &*progress).await?);
            }
            Self::Resume(Change { timeout, .. }) => {
                report.connector =
                    Some(connector::resume(&connections, timeout, &*progress).await?);
            }
        }
        drop(progress);
        printer.conclude("connector", report.verdict(), &report, || report.human())
    }

    /// Returns the servers that the subcommand uses. The connector that `apply`
    /// registers connects to Postgres, and its placeholder is stored in Kafka.
    /// With `--forget-offsets`, `apply` itself connects to Postgres to remove a
    /// lost slot.
    fn servers(&self) -> &'static [(&'static str, Need)] {
        match self {
            Self::Apply(Apply {
                forget_offsets: true,
                ..
            }) => &[
                ("connect", Need::Running),
                ("kafka", Need::Running),
                ("postgres", Need::Running),
            ],
            Self::Apply(_) => &[
                ("connect", Need::Running),
                ("kafka", Need::Running),
                ("postgres", Need::NotForeign),
            ],
            _ => &[("connect", Need::Running), ("postgres", Need::NotForeign)],
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::Status => "status",
            Self::Restart(_) => "restart",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::Delete(_) => "delete",
        }
    }
}

/// Returns the status of the connector, or an error if it is not registered.
async fn existing(connections: &Connections) -> Result<ConnectorStatus, ConnectorError> {
    let missing = || ConnectorError::Missing {
        name: connections.settings().connector.name.clone(),
    };
    connector::status(connections).await?.ok_or_else(missing)
}

impl Apply {
    async fn run(
        &self,
        context: &Context,
        connections: &Connections,
        report: &mut Report,
    ) -> Result<(), CommandError> {
        let Change { timeout, dry_run } = self.change;
        let progress = context.printer().progress();
        let settings = connections.settings();
        let overrides = connector::overrides(&context.site()?, settings)?;
        let name = &settings.connector.name;
        if self.forget_offsets {
            let action = format!("permanently delete the position of connector {name}");
            confirm(context, self.yes, name, &action).await?;
            connector::forget_offsets(connections, timeout, &*progress).await?;
        }
        report.dry_run = dry_run;
        report.applied = Some(if dry_run {
            connector::plan(connections, &overrides, timeout).await?
        } else {
            connector::apply(connections, &overrides, timeout, &*progress).await?
        });
        report.connector = connector::status(connections).await?;
        Ok(())
    }
}

impl Delete {
    async fn run(
        &self,
        context: &Context,
        connections: &Connections,
        report: &mut Report,
    ) -> Result<(), CommandError> {
        let Change { timeout, dry_run } = self.change;
        report.dry_run = dry_run;
        if dry_run {
            report.connector = connector::status(connections).await?;
            report.deleted = Some(report.connector.is_some());
            return Ok(());
        }
        let name = &connections.settings().connector.name;
        let action = format!("delete connector {name}");
        confirm(context, self.yes, name, &action).await?;
        report.deleted = Some(connector::delete(connections, timeout).await?);
        Ok(())
    }
}

impl Report {
    /// Returns the verdict: a connector must run, unless it was paused or
    /// stopped on purpose.
    fn verdict(&self) -> Verdict {
        let is_healthy = |status: &ConnectorStatus| {
            let is_paused = matches!(status.state, State::Paused | State::Stopped);
            status.is_running() || is_paused && status.failure().is_none()
        };
        let is_disconnected = |status: &ConnectorStatus| {
            status.state == State::Running && self.connected == Some(false)
        };
        match &self.connector {
            Some(status) if !self.dry_run && !is_healthy(status) => Verdict::CheckFalse,
            Some(status) if is_disconnected(status) => Verdict::CheckFalse,
            _ => Verdict::Done,
        }
    }

    fn human(&self) -> String {
        if let Some(deleted) = self.deleted {
            let text = match (deleted, self.dry_run) {
                (true, true) => "would delete the connector",
                (true, false) => "deleted",
                (false, _) => "no connector to delete",
            };
            return text.to_owned();
        }
        let would = if self.dry_run { "would be " } else { "" };
        let mut text = match &self.applied {
            Some(Applied::Created) => format!("{would}created\n"),
            Some(Applied::Updated { changed, drifted }) => {
                let mut text = format!("{would}updated: {}\n", changed.join(", "));
                if *drifted {
                    text.push_str(&format!("{DRIFTED}: {RECONCILE}\n"));
                }
                text
            }
            Some(Applied::Unchanged) => "unchanged\n".to_owned(),
            None if self.dry_run => format!("would {} the connector\n", self.action),
            None => String::new(),
        };
        if let Some(status) = &self.connector {
            text.push_str(&listing(status));
            if status.state == State::Running && self.connected == Some(false) {
                text.push_str("\nnot connected to postgres");
            }
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
