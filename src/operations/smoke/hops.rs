//! The hops, each watched on its own, so that one's delay does not show as
//! another's.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    error::SmokeError,
    hop::{Hop, Outcome, Place},
    marked::Marked,
};
use crate::{
    config::Settings,
    connections::{Connections, web::Method},
    failure::chain,
    kafka::{Scan, Stretch},
    operations::{status, stub},
    sinks::redis::BoardKeys,
    source::{
        connector,
        tables::{content_topic, events_topic, reader_group},
    },
    text::escape::excerpt,
};

/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// The events' topic, watched from its end on.
#[derive(Debug)]
pub struct Topic {
    scan: Scan,
    name: String,
}

impl Topic {
    /// Begins to watch.
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

/// What to follow, and since when.
pub struct Follow<'a> {
    pub connections: &'a Connections,
    pub settings: &'a Settings,
    pub marked: &'a Marked,
    pub committed: Instant,
    pub deadline: Instant,
    pub budget: Duration,
}

/// What a look has found.
enum Look {
    Yes(String),
    /// And what there is instead.
    NotYet(String),
}

impl Follow<'_> {
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
            Ok::<_, crate::kafka::KafkaError>(None)
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

    /// Nothing came: the connector knows why.
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

    pub async fn clickhouse(&self) -> Hop {
        if let Some(hop) = self.not_driven(Place::ClickHouse) {
            return hop;
        }
        let query = match self.connections.clickhouse.query() {
            Ok(query) => query,
            Err(error) => {
                return broken(Place::ClickHouse, chain(&error), Some("fanout config show"));
            }
        };
        let ids = [self.marked.event_id];
        self.until(Place::ClickHouse, async || {
            let rows = query.rows_of(&ids).await.map_err(|error| chain(&error))?;
            let Some(row) = rows.first() else {
                return Ok(Look::NotYet("no row".to_owned()));
            };
            let wrong = Marked::wrong(row);
            Ok(if wrong.is_empty() {
                Look::Yes("the row with its derived fields".to_owned())
            } else {
                Look::NotYet(wrong.join(", "))
            })
        })
        .await
    }

    pub async fn redis(&self) -> Hop {
        if let Some(hop) = self.not_driven(Place::Redis) {
            return hop;
        }
        let keys = BoardKeys::new(&self.settings.board.key);
        let patience = Duration::from_millis(self.settings.redis.request_timeout_ms);
        let connected = self.connections.redis.board(keys, patience).await;
        let reader = match connected {
            Ok(reader) => reader,
            Err(error) => return broken(Place::Redis, chain(&error), Some("fanout up redis")),
        };
        let expected = Marked::score(self.settings.board.score);
        let mut hop = self
            .until(Place::Redis, async || {
                let mut reader = reader.clone();
                let score = reader.score(self.marked.content_id).await;
                Ok(match score.map_err(|error| chain(&error))? {
                    Some(score) if score == expected => Look::Yes(format!("score {score}")),
                    Some(score) => Look::NotYet(format!("score {score}, not {expected}")),
                    None => Look::NotYet("not on the board".to_owned()),
                })
            })
            .await;
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

    pub async fn http(&self) -> Hop {
        if let Some(hop) = self.not_driven(Place::Http) {
            return hop;
        }
        let web = match self.connections.external.client(Duration::from_secs(5)) {
            Ok(web) => web,
            Err(error) => return broken(Place::Http, chain(&error), None),
        };
        let key = self.marked.idempotency_key();
        let query = format!("?key={key}");
        let first = web.send(Method::GET, &query, None).await;
        if let Ok(answer) = &first
            && serde_json::from_str::<Calls>(&answer.body).is_err()
        {
            let why = "the external system is not fanout's stub and cannot be asked";
            return skipped(Place::Http, why);
        }
        self.until(Place::Http, async || {
            let answer = web.send(Method::GET, &query, None).await;
            let answer = answer.map_err(|error| chain(&error))?;
            let calls = serde_json::from_str::<Calls>(&answer.body);
            Ok(match calls {
                Ok(calls) if !calls.events.is_empty() => Look::Yes(format!("key {key}")),
                _ => Look::NotYet(format!("no call under key {key}")),
            })
        })
        .await
    }

    /// A sink that the configuration leaves out is not followed.
    fn not_driven(&self, place: Place) -> Option<Hop> {
        let sinks = &self.settings.pipeline.sinks;
        let driven = sinks.iter().any(|sink| Place::of(*sink) == place);
        (!driven).then(|| skipped(place, "not among the configured sinks"))
    }

    /// Looks again and again.
    async fn until(&self, place: Place, look: impl AsyncFn() -> Result<Look, String>) -> Hop {
        let mut last = String::new();
        loop {
            match timeout_at(self.deadline, look()).await {
                Ok(Ok(Look::Yes(evidence))) => return self.ok(place, evidence),
                Ok(Ok(Look::NotYet(instead))) => last = instead,
                Ok(Err(reason)) => last = excerpt(&reason),
                Err(_) => {}
            }
            if Instant::now() >= self.deadline {
                return self.missed(place, &last).await;
            }
            sleep(POLL).await;
        }
    }

    /// It did not come: the sink may know why.
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

/// The stub's list, as far as it matters here.
#[derive(Debug)]
struct Calls {
    events: Vec<serde_json::Value>,
}

impl<'de> Deserialize<'de> for Calls {
    /// Only the list of fanout's own stub.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct List {
            system: String,
            events: Vec<serde_json::Value>,
        }
        let list = List::deserialize(deserializer)?;
        if list.system != stub::SYSTEM {
            return Err(serde::de::Error::custom("another system"));
        }
        Ok(Self {
            events: list.events,
        })
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

/// What the hint for a silent topic is about.
fn topics(settings: &Settings) -> String {
    format!("{} and {}", events_topic(settings), content_topic(settings))
}
