//! `fanout run`: runs the pipeline in the foreground.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use fanout::{
    config::{Origin, Settings},
    operations::run::{Options, Report, Run, may_create_topics},
    progress::{Event, Progress},
    runtime::Reporter,
    runtime::status::{SinkState, SinkStatus},
    sink_kind::SinkKind,
    stack::reach::Need,
};

use crate::{
    arguments::duration,
    context::Context,
    logging,
    outcome::{Outcome, Verdict},
    servers::pipeline_servers,
    status::lag,
};

/// Port of the HTTP server if none is configured.
const DEFAULT_PORT: u16 = 9464;

/// Arguments of `fanout run`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Sinks to run [default: redis,clickhouse,http]
    #[arg(long, value_delimiter = ',', value_name = "SINK")]
    sinks: Vec<String>,
    /// Exit when everything that is in the source now has reached the sinks
    #[arg(long)]
    until_idle: bool,
    /// Maximum time to become idle [default: no limit]
    #[arg(long, requires = "until_idle", value_parser = duration)]
    timeout: Option<Duration>,
    /// Address that serves /healthz, /metrics and /status [default:
    /// 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS")]
    http_addr: Option<SocketAddr>,
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let mut flags = BTreeMap::new();
        if !self.sinks.is_empty() {
            let sinks = ("--sinks".to_owned(), self.sinks.join(","));
            flags.insert("pipeline.sinks".to_owned(), sinks);
        }
        let config = context.config_with_flags(flags)?;
        let mut servers = pipeline_servers(&config.settings, Need::NotForeign);
        if self.until_idle {
            // Without `--until-idle`, a worker waits for stopped services: a
            // worker that is restarted together with Kafka must not exit
            // permanently.
            servers.push(("kafka", Need::Running));
        }
        let connections = context.connect_with(&config, &servers).await?;
        let settings = connections.settings();
        let url = config.values.iter().find(|value| value.key == "http.url");
        let is_url_configured =
            url.is_some_and(|url| !matches!(url.origin, Origin::Default | Origin::Project));
        let printer = context.printer();
        let progress = printer.progress();
        let _reporter = logging::start(printer, &progress);
        let configured = configured_address(settings.http.url.reveal());
        let run = Run::start(
            context.project(),
            &connections,
            Options {
                project_sinks: project_sinks(context, settings),
                sinks: settings.pipeline.sinks.to_vec(),
                listen: self.http_addr.unwrap_or(configured),
                any_port: self.http_addr.is_none() && !is_url_configured,
                until_idle: self.until_idle,
                timeout: self.timeout,
                creates_topics: may_create_topics(&context.site()?)?,
            },
            context.stop().clone(),
        )
        .await?;
        printer.note(&format!(
            "serving {0}/healthz, /metrics and /status",
            run.url()
        ));
        if printer.has_bars() {
            tokio::spawn(show_status(run.reporter(), progress.clone()));
        }
        let report = run.finish(&*progress).await?;
        printer.conclude("run", Verdict::Done, &report, || summary(&report))
    }
}

/// Returns the sinks of the project, ignoring `--sinks`.
fn project_sinks(context: &Context, settings: &Settings) -> Vec<SinkKind> {
    let config = context.unchecked_config(BTreeMap::new());
    let sinks = config.map(|config| config.settings.pipeline.sinks.to_vec());
    // The file may have invalid sink names that `--sinks` overrides.
    sinks.unwrap_or_else(|_| settings.pipeline.sinks.to_vec())
}

/// Returns the local address with the port of the configured URL, or with the
/// default port.
fn configured_address(url: &str) -> SocketAddr {
    let port = url::Url::parse(url).ok().and_then(|url| url.port());
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(DEFAULT_PORT)))
}

/// Shows a line for each sink and keeps it up to date.
async fn show_status(reporter: Reporter, progress: std::sync::Arc<dyn Progress>) {
    loop {
        for sink in &reporter.status().sinks {
            progress.report(Event::Doing {
                task: &sink.name,
                what: &line(sink),
            });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn line(sink: &SinkStatus) -> String {
    let state = match sink.state {
        SinkState::Starting => "starting",
        SinkState::Running => "running",
        SinkState::Standby => "standby",
        SinkState::Retrying => "retrying",
        SinkState::Halted => "HALTED",
        SinkState::Stopped => "stopped",
    };
    let lag = lag(sink);
    let mut line = format!(
        "{state:<8} lag {lag}, {}/s, {} applied",
        sink.rate_per_second, sink.applied
    );
    if let Some(detail) = &sink.detail {
        line.push_str(": ");
        line.push_str(&fanout::text::escape::escape(detail));
    }
    line
}

fn summary(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .status
        .sinks
        .iter()
        .map(|sink| {
            let ignored: u64 = sink.ignored.values().sum();
            let dead: u64 = sink.dead_letters.values().sum();
            format!(
                "{}: {} applied, {ignored} ignored, {dead} dead-lettered",
                sink.name, sink.applied
            )
        })
        .collect();
    if !report.drained {
        lines.push(
            "records in flight were not finished in time and will be processed again".to_owned(),
        );
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use fanout::sink_kind::joined;

    use super::*;

    #[test]
    fn the_help_lists_all_sinks() {
        let mut command = Arguments::augment_args(clap::Command::new("run").term_width(0));
        let help = command.render_help().to_string();
        let default = format!("[default: {}]", joined(&SinkKind::ALL, ","));
        assert!(help.contains(&default), "{help}");
    }
}
