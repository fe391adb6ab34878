//! The hops, followed concurrently, so that a delay of one hop does not add to
//! the time of another.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    error::SmokeError,
    hop::{Hop, Outcome, Place},
    marked::Marked,
};
use crate::{
    config::Settings,
    connections::Connections,
    failure::chain,
    kafka::{KafkaError, Scan, Stretch},
    operations::status,
    sink_kind::SinkKind,
    sinks::{
        inspect::{Arrival, InspectError},
        inspector::Inspector,
    },
    source::{
        connector,
        tables::{content_topic, events_topic, reader_group},
    },
    text::escape::excerpt,
};

/// Pause between two checks.
const POLL: Duration = Duration::from_millis(10);

/// The events topic, read from its end.
#[derive(Debug)]
pub struct Topic {
    scan: Scan,
    name: String,
}

impl Topic {
    /// Starts reading.
    pub async fn watch(connections: &Connections) -> Result<Self, SmokeError> {
        let (settings, kafka) = (connections.settings(), &connections.kafka);
        let name = events_topic(settings);
        let reader = reader_group(settings, "smoke");
        let log = kafka.log(&reader)?;
        let ends = match log.partitions(&name).await? {
            Some(_) => log.ends(&name).await?,
            None => Vec::new(),
        };
        let stretch = |(partition, from): (i32, &i64)| Stretch {
            partition,
            from: *from,
            until: None,
        };
        let stretches: Vec<Stretch> = (0..).zip(&ends).map(stretch).collect();
        let scan = kafka.scan(&reader, &name, &stretches)?;
        Ok(Self { scan, name })
    }
}

/// The event to follow, and the time limits.
pub struct Follow<'a> {
    pub connections: &'a Connections,
    pub settings: &'a Settings,
    pub marked: &'a Marked,
    pub committed: Instant,
    pub deadline: Instant,
    pub budget: Duration,
}

impl Follow<'_> {
    /// Follows the event into its topic.
    pub async fn kafka(&self, topic: Result<Topic, SmokeError>) -> Hop {
        let mut topic = match topic {
            Ok(topic) => topic,
            Err(error) => return broken(Place::Kafka, chain(&error), Some("fanout up kafka")),
        };
        let key = format!("{{\"id\":{}}}", self.marked.event_id);
        let found = async {
            while let Some(seen) = topic.scan.next().await? {
                if seen.key.as_deref() == Some(key.as_bytes()) {
                    return Ok(Some(seen));
                }
            }
            Ok::<_, KafkaError>(None)
        };
        match timeout_at(self.deadline, found).await {
            Ok(Ok(Some(seen))) => {
                let (partition, offset) = (seen.partition, seen.offset);
                self.ok(Place::Kafka, format!("{}/{partition}@{offset}", topic.name))
            }
            Ok(Ok(None)) => {
                let evidence = format!("there is no topic {}", topic.name);
                broken(Place::Kafka, evidence, Some("fanout connector apply"))
            }
            Ok(Err(error)) => broken(Place::Kafka, chain(&error), Some("fanout status")),
            Err(_) => self.silent_topic().await,
        }
    }

    /// Asks the connector why no record has arrived.
    async fn silent_topic(&self) -> Hop {
        let status = match connector::status(self.connections).await {
            Ok(Some(status)) => status,
            Ok(None) => {
                let evidence = "there is no connector".to_owned();
                return broken(Place::Kafka, evidence, Some("fanout connector apply"));
            }
            Err(error) => return broken(Place::Kafka, chain(&error), Some("fanout up connect")),
        };
        let evidence = match status.failure() {
            Some(cause) => format!("the connector has failed: {}", excerpt(&cause)),
            None => format!(
                "nothing in {}; the connector says: {}",
                topics(self.settings),
                status.summary()
            ),
        };
        broken(Place::Kafka, evidence, Some("fanout connector status"))
    }

    /// Follows the event into a sink, unless the configuration leaves it out.
    pub async fn sink(&self, kind: SinkKind) -> Hop {
        let place = Place::Sink(kind);
        if !self.settings.pipeline.sinks.contains(&kind) {
            return skipped(place, "not among the configured sinks");
        }
        let inspector = match Inspector::connect(kind, self.connections, None).await {
            Ok(inspector) => inspector,
            Err(error) => {
                let hint = connect_hint(kind, &error);
                return broken(place, chain(error.cause()), hint.as_deref());
            }
        };
        let event = self.marked.expected(self.settings.board.score);
        if let Some(why) = inspector.why_unsearchable(&event).await {
            return skipped(place, why);
        }
        let hop = self
            .until(place, async || {
                let found = inspector.find(&event).await;
                found.map_err(|error| chain(error.cause()))
            })
            .await;
        // The latency budget applies to the board.
        if kind == SinkKind::Redis {
            self.within_budget(hop)
        } else {
            hop
        }
    }

    /// Returns the hop as broken if the event arrived later than the budget
    /// allows.
    fn within_budget(&self, mut hop: Hop) -> Hop {
        let budget = self.budget.as_secs_f64() * 1_000.0;
        if let Some(millis) = hop.millis
            && millis > budget
        {
            hop.outcome = Outcome::Broken;
            hop.evidence = format!("{}, after {millis:.0} ms of {budget:.0}", hop.evidence);
            hop.hint = Some("fanout status".to_owned());
        }
        hop
    }

    /// Checks repeatedly until the event has arrived or the deadline has passed.
    async fn until(&self, place: Place, look: impl AsyncFn() -> Result<Arrival, String>) -> Hop {
        let mut last = String::new();
        loop {
            match timeout_at(self.deadline, look()).await {
                Ok(Ok(Arrival::Arrived(evidence))) => return self.ok(place, evidence),
                Ok(Ok(Arrival::NotYet(instead))) => last = instead,
                Ok(Err(reason)) => last = excerpt(&reason),
                Err(_) => {}
            }
            if Instant::now() >= self.deadline {
                return self.missed(place, &last).await;
            }
            sleep(POLL).await;
        }
    }

    /// Returns the hop of an event that did not arrive, with the reason that the
    /// pipeline reports for the sink.
    async fn missed(&self, place: Place, last: &str) -> Hop {
        let waited = self.committed.elapsed().as_secs();
        let mut evidence = format!("{last} after {waited} s");
        let mut hint = "fanout status".to_owned();
        match status::pipeline(&self.connections.pipeline).await {
            Ok(status) => {
                let sink = status.sinks.iter().find(|sink| sink.name == place.name());
                match sink.and_then(|sink| sink.halt.as_ref()) {
                    Some(halt) => {
                        evidence = format!("{evidence}; the sink has halted: {}", halt.reason);
                        hint.clone_from(&halt.remedy);
                    }
                    None => {
                        if let Some(detail) = sink.and_then(|sink| sink.detail.as_ref()) {
                            evidence = format!("{evidence}; the sink says: {}", excerpt(detail));
                        }
                    }
                }
            }
            Err(reason) => {
                evidence = format!(
                    "{evidence}; the pipeline does not answer: {}",
                    excerpt(&reason)
                );
                "fanout up".clone_into(&mut hint);
            }
        }
        broken(place, evidence, Some(&hint))
    }

    fn ok(&self, place: Place, evidence: String) -> Hop {
        Hop {
            place,
            outcome: Outcome::Ok,
            millis: Some(self.committed.elapsed().as_secs_f64() * 1_000.0),
            evidence,
            hint: None,
        }
    }
}

/// Returns what to run if the connection to a sink cannot be made.
fn connect_hint(kind: SinkKind, error: &InspectError) -> Option<String> {
    match error {
        InspectError::Url(_) => Some("fanout config show".to_owned()),
        InspectError::ClickHouse(_) | InspectError::Redis(_) => {
            Some(format!("fanout up {}", kind.service()))
        }
        InspectError::Web(_) | InspectError::NoList { .. } => None,
    }
}

fn broken(place: Place, evidence: String, hint: Option<&str>) -> Hop {
    Hop {
        place,
        outcome: Outcome::Broken,
        millis: None,
        evidence,
        hint: hint.map(str::to_owned),
    }
}

fn skipped(place: Place, why: &str) -> Hop {
    Hop {
        place,
        outcome: Outcome::Skipped,
        millis: None,
        evidence: why.to_owned(),
        hint: None,
    }
}

/// Names both topics, for the evidence of a topic without records.
fn topics(settings: &Settings) -> String {
    format!("{} and {}", events_topic(settings), content_topic(settings))
}
