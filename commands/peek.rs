//! `fanout peek`: shows the latest raw items of a store.

use std::time::Duration;

use clap::{Args, ValueEnum};
use fanout::{
    operations::peek::{Item, Peek, Place, equivalent},
    sink_kind::SinkKind,
    stack::reach::Need,
    text::escape::{ellipsis, escape},
};
use serde_json::json;

use crate::{
    arguments::up_to,
    context::Context,
    outcome::{Outcome, Verdict},
};

/// Maximum width of an item in text output.
const WIDTH: usize = 1_000;

/// Poll interval of `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// Arguments of `fanout peek`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Records of the topic, rows of the view, members of the board, or calls
    place: PlaceChoice,
    /// Number of items, at most 1000
    #[arg(long, short = 'n', default_value_t = 5, value_parser = up_to::<1_000>)]
    count: usize,
    /// Keep printing new items until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Topic to read instead of the events topic [with kafka]
    #[arg(long)]
    topic: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PlaceChoice {
    Kafka,
    #[value(name = "clickhouse")]
    ClickHouse,
    Redis,
    Http,
}

impl From<PlaceChoice> for Place {
    fn from(place: PlaceChoice) -> Self {
        match place {
            PlaceChoice::Kafka => Self::Kafka,
            PlaceChoice::ClickHouse => Self::Sink(SinkKind::ClickHouse),
            PlaceChoice::Redis => Self::Sink(SinkKind::Redis),
            PlaceChoice::Http => Self::Sink(SinkKind::Http),
        }
    }
}

impl Arguments {
    pub fn runs_until_stopped(&self) -> bool {
        self.follow
    }

    pub async fn run(self, context: &Context) -> Outcome {
        let place = Place::from(self.place);
        let server = [(place.service(), Need::Running)];
        let connections = context.connect(&server).await?;
        let printer = context.printer();
        if printer.verbosity() > 0 {
            let topic = self.topic.as_deref();
            let settings = connections.settings();
            printer.note(&equivalent(settings, place, topic, self.count));
        }
        printer.print_verbatim();
        let mut peek = Peek::start(&connections, place, self.topic).await?;
        let items = peek.look(self.count).await?;
        if !self.follow {
            let documents: Vec<_> = items.iter().map(|item| &item.document).collect();
            let report = json!({ "place": place.to_string(), "items": documents });
            return printer.conclude("peek", Verdict::Done, &report, || {
                if items.is_empty() {
                    return "nothing yet".to_owned();
                }
                items.iter().map(|item| line(item) + "\n").collect()
            });
        }
        let show = |items: &[Item]| {
            for item in items {
                if printer.is_json() {
                    let report = json!({ "place": place.to_string(), "items": [item.document] });
                    printer.document("peek", true, &report);
                } else {
                    printer.data(&line(item));
                }
            }
        };
        show(&items);
        loop {
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                () = context.stop().cancelled() => return Ok(Verdict::Done),
            }
            show(&peek.look(self.count.max(100)).await?);
        }
    }
}

fn line(item: &Item) -> String {
    let body = escape(&item.body);
    format!("{}  {}", escape(&item.head), ellipsis(&body, WIDTH))
}
