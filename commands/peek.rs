//! `fanout peek`: the latest of what is really there.

use std::time::Duration;

use clap::{Args, ValueEnum};
use fanout::{
    escape::{ellipsis, escape},
    operations::peek::{Item, Peek, Place, equivalent},
    sink_kind::SinkKind,
    stack::reach::Need,
};
use serde_json::json;

use crate::{
    arguments::up_to,
    context::Context,
    outcome::{Outcome, Verdict},
};

/// The widest an item is shown to people.
const WIDTH: usize = 1_000;

/// Between two looks for what is new.
const INTERVAL: Duration = Duration::from_millis(500);

/// Where to look and how far back.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Records of the log, rows of the view, members of the board, or calls
    place: Where,
    /// How many, at most 1000
    #[arg(long, short = 'n', default_value_t = 5, value_parser = up_to::<1_000>)]
    count: usize,
    /// Go on with what is new
    #[arg(long, short)]
    follow: bool,
    /// Another topic than the events' [with kafka]
    #[arg(long)]
    topic: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Where {
    Kafka,
    #[value(name = "clickhouse")]
    ClickHouse,
    Redis,
    Http,
}

impl From<Where> for Place {
    fn from(place: Where) -> Self {
        match place {
            Where::Kafka => Self::Kafka,
            Where::ClickHouse => Self::Sink(SinkKind::ClickHouse),
            Where::Redis => Self::Sink(SinkKind::Redis),
            Where::Http => Self::Sink(SinkKind::Http),
        }
    }
}

impl Arguments {
    pub fn goes_on(&self) -> bool {
        self.follow
    }

    pub async fn run(self, context: &Context) -> Outcome {
        let place = Place::from(self.place);
        let server = [(place.service(), Need::Running)];
        let connections = context.servers(&server).await?;
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
                () = tokio::time::sleep(INTERVAL) => {}
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
