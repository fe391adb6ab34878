//! `fanout leaderboard`: shows the board, once or repeatedly, or the events
//! behind a score.

use std::time::Duration;

use clap::Args;
use fanout::{
    config::Settings,
    operations::leaderboard::{self, Explanation, Leaderboard, Watch},
    sink_kind::SinkKind,
    stack::reach::Need,
    text::escape::{ellipsis, escape},
    time::{instant::Age, timestamp::Rfc3339},
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    arguments::{duration, up_to},
    context::Context,
    outcome::{Outcome, Verdict},
    printer::Printer,
    table::{render, table},
};

/// Maximum width of a title.
const TITLE_WIDTH: usize = 40;

/// Escape codes that clear the terminal before a refresh.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Arguments of `fanout leaderboard`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Number of rows, at most 10000
    #[arg(long, short = 'n', default_value_t = 10, value_parser = up_to::<10_000>)]
    limit: usize,
    /// Refresh at this interval until interrupted [default interval: 1s]
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "1s",
        value_parser = duration)]
    watch: Option<Duration>,
    /// List the events behind the score of this content
    #[arg(long, value_name = "CONTENT_ID", conflicts_with = "watch")]
    explain: Option<Uuid>,
}

impl Arguments {
    pub fn runs_until_stopped(&self) -> bool {
        self.watch.is_some()
    }

    pub async fn run(self, context: &Context) -> Outcome {
        let config = context.config()?;
        let servers = self.servers(&config.settings);
        let connections = context.connect_with(&config, &servers).await?;
        let printer = context.printer();
        if let Some(content) = self.explain {
            let scratch = context.scratch()?;
            let explanation = leaderboard::explain(&connections, &scratch, content).await?;
            let report = json!({ "explanation": explanation });
            return printer.conclude("leaderboard", Verdict::Done, &report, || {
                explain(&explanation)
            });
        }
        let mut watch = Watch::start(context.project(), &connections).await?;
        let Some(interval) = self.watch else {
            let board = watch.look(self.limit).await?;
            return printer.conclude("leaderboard", Verdict::Done, &board, || {
                show(&board, printer)
            });
        };
        loop {
            let board = watch.look(self.limit).await?;
            if printer.is_json() {
                printer.document("leaderboard", true, &board);
            } else {
                let clear = if printer.has_colors() { CLEAR } else { "" };
                printer.data(&format!("{clear}{}\n", show(&board, printer)));
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = context.stop().cancelled() => return Ok(Verdict::Done),
            }
        }
    }
}

impl Arguments {
    /// Returns the servers that the command uses: Redis has the board, and
    /// Postgres has the events. Record times come from ClickHouse if it is a
    /// sink, else from the log.
    fn servers(&self, settings: &Settings) -> Vec<(&'static str, Need)> {
        let mut servers = vec![("redis", Need::Running), ("postgres", Need::NotForeign)];
        if settings.pipeline.sinks.contains(&SinkKind::ClickHouse) {
            servers.push(("clickhouse", Need::NotForeign));
        } else if self.explain.is_some() {
            servers.push(("kafka", Need::Running));
        }
        servers
    }
}

fn show(board: &Leaderboard, printer: &Printer) -> String {
    let mut text = String::new();
    if !board.rows.is_empty() {
        let mut table = table(["#", "TITLE", "TYPE", "SCORE", "CHANGE", "CONTENT"]);
        let or_dash = |text: &Option<String>| {
            let text = text.as_deref().unwrap_or("-");
            ellipsis(&escape(text), TITLE_WIDTH).into_owned()
        };
        for entry in &board.rows {
            let change = entry.change.filter(|change| *change != 0);
            table.add_row([
                entry.rank.to_string(),
                or_dash(&entry.title),
                or_dash(&entry.content_type),
                entry.score.to_string(),
                change.map_or_else(|| "-".to_owned(), |change| format!("{change:+}")),
                escape(&entry.content_id).into_owned(),
            ]);
        }
        text.push_str(&render(&table));
        text.push_str("\n\n");
    }
    if let (Some(meta), Some(age_ms)) = (board.meta, board.age_ms) {
        let age = Age(Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)));
        text.push_str(&format!(
            "{} of {} shown, window of {} s as of {}, {age} old",
            board.rows.len(),
            board.members,
            meta.window_seconds,
            Rfc3339(meta.as_of_us),
        ));
    }
    if let Some(remark) = &board.remark {
        let hint = remark.hint.as_deref();
        let hint = hint.map(|hint| format!("\nhint: {}", escape(&printer.hint(hint))));
        let line = format!("\n{}{}", escape(&remark.text), hint.unwrap_or_default());
        text.push_str(&line);
    }
    text.trim_start().to_owned()
}

fn explain(explanation: &Explanation) -> String {
    let title = explanation.title.as_deref().unwrap_or("-");
    let board = explanation.board;
    let mut text = format!(
        "{}: board score {}, source score {} from {} events, window of {} s as of {}\n\n",
        ellipsis(&escape(title), TITLE_WIDTH),
        board.map_or_else(|| "none".to_owned(), |score| score.to_string()),
        explanation.source,
        explanation.total,
        explanation.window_seconds,
        Rfc3339(explanation.as_of_us),
    );
    let mut table = table(["EVENT", "TIME", "TYPE", "DURATION MS", "DEVICE", ""]);
    for event in &explanation.events {
        let or_dash = |text: &Option<String>| {
            let text = text.as_deref().unwrap_or("-");
            ellipsis(&escape(text), 20).into_owned()
        };
        let duration = event.duration_ms.map(|duration| duration.to_string());
        let remark = if event.ahead {
            "not counted: too far ahead of its record"
        } else {
            ""
        };
        table.add_row([
            event.id.to_string(),
            event.event_ts.clone(),
            or_dash(&event.event_type),
            or_dash(&duration),
            or_dash(&event.device),
            remark.to_owned(),
        ]);
    }
    text.push_str(&render(&table));
    text
}
