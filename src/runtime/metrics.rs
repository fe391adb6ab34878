//! `/metrics`: the status of each sink in the text format of Prometheus, created
//! from the same numbers as `/status` at each scrape.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::Reporter;
use super::status::{SinkState, SinkStatus};

/// Encodes the metrics of a pipeline.
pub(super) fn render(reporter: &Reporter) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("fanout");
    registry.register_collector(Box::new(Sinks(reporter.status().sinks)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Sinks(Vec<SinkStatus>);

/// Reads one metric of a sink.
type Metric = fn(&SinkStatus) -> Option<f64>;

impl Collector for Sinks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.counts(&mut encoder)?;
        let gauges: [(&str, &str, Option<Unit>, Metric); 6] = [
            (
                "sink_lag_records",
                "Records between the committed offset and the end of the log; 0 if and only if \
                 caught up; estimated if not every offset is a record",
                None,
                |sink| sink.lag.map(as_f64),
            ),
            (
                "sink_rate_records",
                "Records processed per second, over the last five seconds",
                None,
                |sink| Some(sink.rate_per_second),
            ),
            (
                "sink_last_write_timestamp",
                "Time of the last acknowledged write",
                Some(Unit::Seconds),
                |sink| {
                    sink.last_write_ms
                        .map(|ms| as_f64(ms.cast_unsigned()) / 1000.0)
                },
            ),
            (
                "sink_halted",
                "1 while the sink waits for an operator",
                None,
                |sink| Some(f64::from(u8::from(sink.state == SinkState::Halted))),
            ),
            (
                "sink_degraded",
                "1 while the stored data is unreliable",
                None,
                |sink| Some(f64::from(u8::from(sink.degradation.is_some()))),
            ),
            (
                "sink_retrying",
                "1 while writes to the store fail",
                None,
                |sink| Some(f64::from(u8::from(sink.state == SinkState::Retrying))),
            ),
        ];
        for (name, help, unit, number) in gauges {
            let mut family = encoder.encode_descriptor(
                name,
                help,
                unit.as_ref(),
                prometheus_client::metrics::MetricType::Gauge,
            )?;
            for sink in &self.0 {
                if let Some(value) = number(sink) {
                    let labels = [("sink", sink.name.as_str())];
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Sinks {
    fn counts(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counter = prometheus_client::metrics::MetricType::Counter;
        let mut family = encoder.encode_descriptor(
            "sink_records",
            "Processed records, by outcome",
            None,
            counter,
        )?;
        for sink in &self.0 {
            let applied = ("applied", "applied", sink.applied);
            let ignored = sink
                .ignored
                .iter()
                .map(|(reason, count)| ("ignored", reason.as_str(), *count));
            let dead = sink
                .dead_letters
                .iter()
                .map(|(code, count)| ("dead_letter", code.as_str(), *count));
            for (outcome, reason, count) in std::iter::once(applied).chain(ignored).chain(dead) {
                let labels = [
                    ("sink", sink.name.as_str()),
                    ("outcome", outcome),
                    ("reason", reason),
                ];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family =
            encoder.encode_descriptor("sink_retries", "Failed attempts", None, counter)?;
        for sink in &self.0 {
            let labels = [("sink", sink.name.as_str())];
            ConstCounter::new(sink.retries).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of Prometheus are floats"
)]
fn as_f64(number: u64) -> f64 {
    number as f64
}
