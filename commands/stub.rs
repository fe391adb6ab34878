//! `fanout stub`: runs the mock external system in the foreground.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use fanout::{
    config::Limits,
    operations::stub::{Faults, Keep, Options, Stub},
};
use serde::Serialize;

use crate::{
    arguments::duration_or_zero,
    context::Context,
    outcome::{Outcome, Verdict},
};

/// Arguments of `fanout stub`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Address to listen on; port 0 selects a free port
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// Folder for the accepted events [default: the project's]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Number of events to keep; the oldest are deleted together with their
    /// keys
    #[arg(long, value_name = "N", default_value_t = Limits::default().stub_events,
        value_parser = clap::value_parser!(u64).range(1..))]
    keep_events: u64,
    /// Size of the events to keep, in MiB
    #[arg(long, value_name = "N", default_value_t = Limits::default().stub_mib,
        value_parser = clap::value_parser!(u64).range(1..))]
    keep_mib: u64,
    /// Fraction of the requests to fail, from 0 to 1
    #[arg(long, value_name = "RATE", value_parser = rate)]
    fail_rate: Option<f64>,
    /// Status of failures [default: 503]; without a rate, every request fails
    #[arg(long, value_parser = clap::value_parser!(u16).range(200..600))]
    status: Option<u16>,
    /// Delay before each response to an event
    #[arg(long, default_value = "0", value_parser = duration_or_zero)]
    delay: Duration,
}

#[derive(Debug, Serialize)]
struct Listening {
    url: String,
    data: PathBuf,
    /// Events accepted by earlier runs.
    known: u64,
    faults: Faults,
}

impl Arguments {
    pub async fn run(self, context: &Context) -> Outcome {
        let data = if let Some(data) = self.data {
            data
        } else {
            let project = context.home()?.project(context.project());
            project.all_data().join("stub")
        };
        let faults = Faults {
            fail_rate: self.fail_rate,
            status: self.status,
            retry_after_seconds: None,
            delay_ms: u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX),
        };
        let stub = Stub::bind(Options {
            listen: self.listen,
            data: data.clone(),
            keep: Keep {
                events: self.keep_events,
                bytes: self.keep_mib.saturating_mul(1 << 20),
            },
            faults: faults.clone(),
        })
        .await?;
        let listening = Listening {
            url: format!("http://{}", stub.address()),
            data,
            known: stub.known(),
            faults,
        };
        let printer = context.printer();
        if stub.torn() > 0 {
            let torn = stub.torn();
            printer.note(&format!("discarded {torn} bytes of an incomplete event"));
        }
        let url = &listening.url;
        let known = listening.known;
        printer.note(&format!("listening on {url}, {known} events known"));
        if printer.is_json() {
            printer.document("stub", true, &listening);
        }
        stub.serve(context.stop().clone()).await?;
        Ok(Verdict::Done)
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}
