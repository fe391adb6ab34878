//! `/metrics`: the status of each sink in Prometheus' text form, made at each
//! scrape from the same numbers.

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

/// One number of each sink.
type Number = fn(&SinkStatus) -> Option<f64>;

impl Collector for Sinks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.counts(&mut encoder)?;
        let gauges: [(&str, &str, Option<Unit>, Number); 6] = [
            (
                "sink_lag_records",
                "Records between the commit and the end of the log, 0 exactly where it is caught up; estimated where not every offset is a record",
                None,
                |sink| sink.lag.map(as_f64),
            ),
            (
                "sink_rate_records",
                "Records done in a second, over the last five",
                None,
                |sink| Some(sink.rate_per_second),
            ),
            (
                "sink_last_write_timestamp",
                "When the store last acknowledged a write",
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
                "1 while what the sink holds is not to be relied on",
                None,
                |sink| Some(f64::from(u8::from(sink.caution.is_some()))),
            ),
            (
                "sink_retrying",
                "1 while the store does not take writes",
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
            "Records done, by what became of them",
            None,
            counter,
        )?;
        for sink in &self.0 {
            let applied = ("applied", "applied", sink.applied);
            let ignored = sink
                .ignored
                .iter()
                .map(|(r, n)| ("ignored", r.as_str(), *n));
            let dead = sink
                .dead_letters
                .iter()
                .map(|(r, n)| ("dead_letter", r.as_str(), *n));
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
            encoder.encode_descriptor("sink_retries", "Failed tries", None, counter)?;
        for sink in &self.0 {
            let labels = [("sink", sink.name.as_str())];
            ConstCounter::new(sink.retries).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
