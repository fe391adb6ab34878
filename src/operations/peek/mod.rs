//! The latest of what is really there, unprocessed: records of the log, rows
//! of the view, members of the board, calls of the external system.

mod latest;

use std::{fmt, time::Duration};

use serde_json::{Value as Json, json};

use self::latest::Latest;
use crate::{
    config::Settings,
    connections::{
        Connections,
        clickhouse::{ClickHouseError, InvalidUrl},
        redis::RedisError,
        web::{Method, Web, WebError},
    },
    failure::{Failure, Kind},
    kafka::{Bounds, KafkaError, Log, Seen, Stretch},
    sink_kind::SinkKind,
    sinks::{
        clickhouse::Query,
        redis::{BoardKeys, BoardReader},
    },
    source::tables::{events_topic, reader_group},
    text::suggest::unknown,
    time::timestamp::{MICROS_PER_MILLI, Rfc3339},
};

/// A transaction ends with a marker that is no record: to find so many records
/// twice as many offsets are read, and a few more.
const MARKERS: i64 = 16;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Kafka,
    Sink(SinkKind),
}

/// One thing that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Where and when, in few words.
    pub head: String,
    /// The thing as it is; nothing of it is safe to show.
    pub body: String,
    pub document: Json,
}

/// Why it cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    #[error("cannot read records from kafka")]
    Kafka(#[from] KafkaError),
    #[error("topic {topic} does not exist")]
    NoTopic { topic: String },
    #[error("{}", unknown("topic", name, known))]
    UnknownTopic { name: String, known: Vec<String> },
    #[error("cannot read rows from clickhouse")]
    ClickHouse(#[from] ClickHouseError),
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    #[error("cannot read the board from redis")]
    Redis(#[from] RedisError),
    #[error("the external system does not answer")]
    Web(#[from] WebError),
    #[error("the external system does not list its calls: it answers {status}")]
    NoList { status: u16 },
}

impl Failure for PeekError {
    fn kind(&self) -> Kind {
        match self {
            Self::Url(_) | Self::UnknownTopic { .. } => Kind::Usage,
            Self::NoTopic { .. } | Self::NoList { .. } => Kind::Failed,
            _ => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::NoTopic { .. } | Self::UnknownTopic { .. } => "no_topic",
            Self::ClickHouse(_) => "clickhouse",
            Self::Url(_) => "clickhouse_url",
            Self::Redis(_) => "redis",
            Self::Web(_) => "external",
            Self::NoList { .. } => "external_no_list",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoTopic { .. } => "fanout connector apply",
            Self::UnknownTopic { .. } => "fanout peek --help",
            Self::Url(_) => "fanout config show",
            Self::NoList { .. } => return None,
            _ => "fanout status",
        };
        Some(hint.to_owned())
    }
}

impl Place {
    /// The service that is looked into.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Sink(sink) => sink.service(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kafka => "kafka",
            Self::Sink(sink) => sink.name(),
        })
    }
}

/// The same look with common tools, under the variables of `fanout env`.
#[must_use]
pub fn equivalent(settings: &Settings, place: Place, topic: Option<&str>, count: usize) -> String {
    match place {
        Place::Kafka => {
            let events = events_topic(settings);
            let topic = topic.unwrap_or(&events);
            format!(
                "kcat -b \"$FANOUT_KAFKA_BROKERS\" -C -t {topic} -o -{count} -e -X isolation.level=read_committed"
            )
        }
        Place::Sink(SinkKind::ClickHouse) => {
            let sql = rows_sql(settings, count, None);
            format!("curl -s \"$FANOUT_CLICKHOUSE_URL\" --data-binary '{sql} FORMAT JSONEachRow'")
        }
        Place::Sink(SinkKind::Redis) => {
            let (key, last) = (&settings.board.key, count.saturating_sub(1));
            format!("redis-cli -u \"$FANOUT_REDIS_URL\" ZREVRANGE {key} 0 {last} WITHSCORES")
        }
        Place::Sink(SinkKind::Http) => {
            // A token in the path stays masked; nobody else is to type it.
            let path = settings.external.events_path.to_string();
            let separator = if path.contains('?') { '&' } else { '?' };
            format!("curl -s \"$FANOUT_EXTERNAL_URL{path}{separator}limit={count}\"")
        }
    }
}

/// Looks once, and then again for what is new.
#[derive(Debug)]
pub struct Peek {
    connections: Connections,
    looker: Looker,
}

/// What each place has to remember between two looks.
#[derive(Debug)]
enum Looker {
    Kafka {
        topic: String,
        log: Log,
        ends: Vec<i64>,
    },
    ClickHouse {
        query: Query,
        /// `processed_at` of the latest row shown.
        latest: Option<String>,
    },
    Redis {
        reader: BoardReader,
        seq: Option<u64>,
    },
    Http {
        web: Web,
        seq: Option<u64>,
    },
}

impl Peek {
    /// Connects. `topic` is another than the events'.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn start(
        connections: &Connections,
        place: Place,
        topic: Option<String>,
    ) -> Result<Self, PeekError> {
        let settings = connections.settings();
        let looker = match place {
            Place::Kafka => Looker::Kafka {
                topic: topic.unwrap_or_else(|| events_topic(settings)),
                log: connections.kafka.log(&reader_group(settings, "peek"))?,
                ends: Vec::new(),
            },
            Place::Sink(SinkKind::ClickHouse) => Looker::ClickHouse {
                query: connections.clickhouse.query()?,
                latest: None,
            },
            Place::Sink(SinkKind::Redis) => {
                let keys = BoardKeys::new(&settings.board.key);
                Looker::Redis {
                    reader: connections.redis.board(keys, TIMEOUT).await?,
                    seq: None,
                }
            }
            Place::Sink(SinkKind::Http) => Looker::Http {
                web: connections.external.client(TIMEOUT)?,
                seq: None,
            },
        };
        Ok(Self {
            connections: connections.clone(),
            looker,
        })
    }

    /// At the first look the latest `count`, oldest first; then what is new.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn look(&mut self, count: usize) -> Result<Vec<Item>, PeekError> {
        let settings = self.connections.settings();
        match &mut self.looker {
            Looker::Kafka { topic, log, ends } => {
                records(&self.connections, topic, log, ends, count).await
            }
            Looker::ClickHouse { query, latest } => rows(settings, query, latest, count).await,
            Looker::Redis { reader, seq } => members(reader, seq, count).await,
            Looker::Http { web, seq } => calls(web, seq, count).await,
        }
    }
}

async fn records(
    connections: &Connections,
    topic: &str,
    log: &Log,
    ends: &mut Vec<i64>,
    count: usize,
) -> Result<Vec<Item>, PeekError> {
    if log.partitions(topic).await?.is_none() {
        return Err(no_topic(connections, topic).await?);
    }
    let bounds = log.bounds(topic).await?;
    let first = ends.is_empty();
    let back = i64::try_from(count).unwrap_or(i64::MAX / 4) * 2 + MARKERS;
    let stretch = |(place, bounds): (usize, &Bounds)| Stretch {
        partition: i32::try_from(place).unwrap_or(i32::MAX),
        from: match ends.get(place) {
            Some(end) => *end,
            None => bounds.start.max(bounds.end.saturating_sub(back)),
        },
        until: Some(bounds.end),
    };
    let stretches: Vec<Stretch> = bounds.iter().enumerate().map(stretch).collect();
    let reader = reader_group(connections.settings(), "peek");
    let mut scan = connections.kafka.scan(&reader, topic, &stretches)?;
    *ends = bounds.iter().map(|bounds| bounds.end).collect();
    let mut seen = Latest::default();
    while let Some(record) = scan.next().await? {
        seen.add(record);
        if first {
            seen.keep(count);
        } else if seen.is_full() {
            // The rest comes with the next look.
            *ends = seen.next_after(&stretches);
            break;
        }
    }
    Ok(seen.records().map(|seen| record(topic, seen)).collect())
}

/// What is wrong with a topic that does not exist: the events' own is still to
/// come, any other is a mistake.
async fn no_topic(connections: &Connections, topic: &str) -> Result<PeekError, KafkaError> {
    let name = topic.to_owned();
    if topic == events_topic(connections.settings()) {
        return Ok(PeekError::NoTopic { topic: name });
    }
    let kafka = connections.kafka.clone();
    let listed = tokio::task::spawn_blocking(move || kafka.list_topics_and_groups()).await;
    let (topics, _) = listed.unwrap_or(Err(KafkaError::Canceled))?;
    let is_inner = |topic: &String| topic.starts_with("__");
    Ok(PeekError::UnknownTopic {
        name,
        known: topics
            .into_iter()
            .filter(|topic| !is_inner(topic))
            .collect(),
    })
}

fn record(topic: &str, seen: &Seen) -> Item {
    let text = |bytes: &Option<Vec<u8>>| {
        let text = bytes.as_deref().map(String::from_utf8_lossy);
        text.map(std::borrow::Cow::into_owned)
    };
    let (key, value) = (text(&seen.key), text(&seen.value));
    let time = Rfc3339(seen.timestamp_ms * MICROS_PER_MILLI).to_string();
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "null".to_owned());
    Item {
        head: format!("{topic}/{}@{} {time}", seen.partition, seen.offset),
        body: format!("{} {}", shown(&key), shown(&value)),
        document: json!({
            "topic": topic,
            "partition": seen.partition,
            "offset": seen.offset,
            "time": time,
            "key": key,
            "value": value,
        }),
    }
}

fn rows_sql(settings: &Settings, count: usize, after: Option<&str>) -> String {
    let database = &settings.clickhouse.database;
    let Some(after) = after else {
        return format!(
            "SELECT * FROM {database}.engagement_enriched \
             ORDER BY processed_at DESC, event_id DESC LIMIT {count}"
        );
    };
    // What the server gave comes back to it: only its digits and signs. The
    // oldest first, and all of one moment, so that the next look misses none.
    format!(
        "SELECT * FROM {database}.engagement_enriched WHERE processed_at > '{after}' \
         ORDER BY processed_at LIMIT {count} WITH TIES"
    )
}

async fn rows(
    settings: &Settings,
    query: &Query,
    latest: &mut Option<String>,
    count: usize,
) -> Result<Vec<Item>, PeekError> {
    let sql = rows_sql(settings, count, latest.as_deref());
    let mut lines = query.json_lines(&sql).await?;
    if latest.is_none() {
        lines.reverse();
    }
    let mut items = Vec::new();
    for line in lines {
        let document: Json = serde_json::from_str(&line).unwrap_or_default();
        let processed_at = document["processed_at"].as_str().unwrap_or_default();
        let is_time = |byte: u8| byte.is_ascii_digit() || b"-:. ".contains(&byte);
        if !processed_at.is_empty() && processed_at.bytes().all(is_time) {
            *latest = Some(processed_at.to_owned());
        }
        items.push(Item {
            head: processed_at.to_owned(),
            body: line,
            document,
        });
    }
    Ok(items)
}

async fn members(
    reader: &mut BoardReader,
    seq: &mut Option<u64>,
    count: usize,
) -> Result<Vec<Item>, PeekError> {
    let view = reader.read(Some(count)).await?;
    let now = view.meta.map(|meta| meta.seq);
    if seq.is_some() && *seq == now {
        return Ok(Vec::new());
    }
    *seq = now;
    let member = |(member, score): (String, i64)| Item {
        head: score.to_string(),
        document: json!({ "member": member, "score": score }),
        body: member,
    };
    Ok(view.members.into_iter().map(member).collect())
}

async fn calls(web: &Web, seq: &mut Option<u64>, count: usize) -> Result<Vec<Item>, PeekError> {
    let after = seq.map(|seq| format!("&after={seq}"));
    let query = format!("?limit={count}{}", after.unwrap_or_default());
    let answer = web.send(Method::GET, &query, None).await?;
    let mut document = answer.json();
    let Some(Json::Array(events)) = document.get_mut("events").map(Json::take) else {
        let status = answer.status;
        return Err(PeekError::NoList { status });
    };
    let mut items: Vec<Item> = events.into_iter().map(call).collect();
    if seq.is_none() {
        items.reverse();
    }
    let last = items.last().and_then(|item| item.document["seq"].as_u64());
    *seq = last.or(*seq).or(Some(0));
    Ok(items)
}

fn call(document: Json) -> Item {
    let received = document["received_us"].as_i64().unwrap_or_default();
    let key = document["key"].as_str().unwrap_or_default();
    Item {
        head: Rfc3339(received).to_string(),
        body: format!("{key} {}", document["body"]),
        document,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_equivalents_name_no_secret() {
        let mut settings = Settings::default();
        settings.clickhouse.url = "http://app:geheim@127.0.0.1:1".into();
        let sinks = SinkKind::ALL.map(Place::Sink);
        for place in sinks.into_iter().chain([Place::Kafka]) {
            let command = equivalent(&settings, place, None, 5);
            assert!(!command.contains("geheim"), "{command}");
        }
        let command = equivalent(&settings, Place::Kafka, Some("x"), 5);
        assert!(command.contains("-t x -o -5"), "{command}");
    }
}
