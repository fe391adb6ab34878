//! `make bench`: replays real Debezium records into each sink, each beside the
//! bare reading rate of librdkafka on the same topic in the same run.
//!
//! The stack is a real one, started for the run and removed after it. Rates
//! differ from machine to machine; the ratios are what is worth comparing.
//!
//! What dead letters cost is a ratio too: the same log clean, and with a record
//! in a hundred that nobody understands, by turns.
//!
//! `BENCH_EVENTS` sets how many events there are (default 300,000),
//! `BENCH_ONLY` picks measurements by name.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark reports and gives up"
)]

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use fanout::{
    clients::Connections,
    config::Settings,
    event::{FactDecoder, Record, SourceTable},
    operations::{fence, objects},
    pipeline::{Pipeline, Source, Start, source, topics},
    progress::Silent,
    sink_kind::SinkKind,
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use support::{Stack, chosen};
use tokio_util::sync::CancellationToken;

const MEASUREMENTS: [&str; 5] = ["decode", "clickhouse", "redis", "http", "poison"];

/// Each measurement is made so often; the best counts, the others are shown.
const RUNS: usize = 3;

fn main() {
    // `cargo test --benches` and the like only want to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if !MEASUREMENTS.into_iter().any(wanted) {
        return;
    }
    let stack = Stack::up(env!("CARGO_BIN_EXE_fanout"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure_all(&stack));
}

/// An external system that has seen nothing yet; ends when dropped.
struct External {
    url: String,
    process: Child,
}

impl External {
    fn start(stack: &Stack, run: &str) -> Self {
        let data = format!("external-{run}");
        let arguments = [
            "--output",
            "json",
            "stub",
            "--listen",
            "127.0.0.1:0",
            "--data",
            &data,
        ];
        let mut command = stack.command(&arguments);
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("fanout starts");
        let mut line = String::new();
        let stdout = process.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let listening: serde_json::Value = serde_json::from_str(&line).expect("a document");
        let url = listening["url"].as_str().expect("a url").to_owned();
        Self { url, process }
    }
}

impl Drop for External {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wanted(name: &str) -> bool {
    chosen(name).unwrap_or(true)
}

async fn measure_all(stack: &Stack) {
    let settings = stack.settings();
    let events = std::env::var("BENCH_EVENTS").unwrap_or_else(|_| "300000".to_owned());
    stack.fanout(&["seed", "--content", "200", "--events", &events]);
    let connections = Connections::of(&settings);
    let fence = fence::wait(&connections, &[], Duration::from_secs(600), &Silent)
        .await
        .expect("all is in the log");
    let topic = fence::events_topic(&settings);
    let content = fence.content;
    let ends = fence.events;

    let bare = best("bare read", None, || bare_read(&settings, &topic, &ends));
    let records = bare.records;
    let bare = bare.rate;
    if wanted("decode") {
        let kept = collect(&settings, &topic, &ends);
        best("decode, one thread", Some(("bare", bare)), || decode(&kept));
    }
    for (name, sinks) in [
        ("clickhouse", "clickhouse"),
        ("redis", "redis"),
        ("http", "http"),
    ] {
        if wanted(name) {
            sink(stack, &settings, name, sinks, &ends, (records, bare)).await;
        }
    }
    if wanted("poison") {
        let log = Log {
            events: collect(&settings, &topic, &ends),
            content: collect(&settings, &fence::content_topic(&settings), &content),
        };
        // The board's events have to be young.
        for sink in ["redis", "clickhouse", "http"] {
            poison(stack, &settings, sink, &log).await;
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Measured {
    records: usize,
    bytes: usize,
    elapsed: Duration,
    rate: f64,
}

impl Measured {
    fn new(records: usize, bytes: usize, elapsed: Duration) -> Self {
        Self {
            records,
            bytes,
            elapsed,
            rate: records as f64 / elapsed.as_secs_f64(),
        }
    }
}

fn best(name: &str, of: Of, mut run: impl FnMut() -> Measured) -> Measured {
    let runs: Vec<Measured> = (0..RUNS).map(|_| run()).collect();
    report(name, of, &runs)
}

/// A rate to compare with, and what it is of.
type Of = Option<(&'static str, f64)>;

/// Prints a line: the best run, its ratio to another rate, and all runs.
fn report(name: &str, of: Of, runs: &[Measured]) -> Measured {
    let best = runs
        .iter()
        .copied()
        .max_by(|one, other| one.rate.total_cmp(&other.rate))
        .expect("at least one run");
    let ratio = of.map_or("1.00".to_owned(), |(what, rate)| {
        format!("{:.2} of {what}", best.rate / rate)
    });
    let rates: Vec<String> = runs.iter().map(|run| format!("{:.0}", run.rate)).collect();
    let each = match best.bytes / best.records.max(1) {
        0 => String::new(),
        bytes => format!(" of {bytes} bytes"),
    };
    println!(
        "{name:<22} {:>9.0} records/s  {ratio:<14} {} records{each}, {:.2} s; runs: {}",
        best.rate,
        best.records,
        best.elapsed.as_secs_f64(),
        rates.join(", ")
    );
    best
}

fn consumer(settings: &Settings, topic: &str, partitions: usize) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &settings.kafka.brokers)
        .set("group.id", "fanout-bench-bare")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set(
            "queued.max.messages.kbytes",
            settings.kafka.prefetch_kbytes.to_string(),
        )
        .set("queued.min.messages", "100000")
        .set("fetch.message.max.bytes", (4 * 1024 * 1024).to_string())
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in (0..).take(partitions) {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&list).expect("assigned");
    consumer
}

/// Calls `take` with each record of the topic.
fn read(settings: &Settings, topic: &str, ends: &[i64], mut take: impl FnMut(&Record<'_>)) {
    let consumer = consumer(settings, topic, ends.len());
    let mut at_end = vec![false; ends.len()];
    while !at_end.iter().all(|end| *end) {
        match consumer
            .poll(Duration::from_secs(10))
            .expect("records arrive")
        {
            Ok(message) => take(&Record {
                topic: message.topic(),
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
                key: message.key(),
                value: message.payload(),
            }),
            Err(KafkaError::PartitionEOF(partition)) => {
                at_end[usize::try_from(partition).expect("a partition")] = true;
            }
            Err(error) => panic!("reading failed: {error}"),
        }
    }
}

fn bare_read(settings: &Settings, topic: &str, ends: &[i64]) -> Measured {
    let started = Instant::now();
    let (mut records, mut bytes) = (0, 0);
    read(settings, topic, ends, |record| {
        records += 1;
        bytes += record.value.map_or(0, <[u8]>::len);
    });
    Measured::new(records, bytes, started.elapsed())
}

/// A record on its own.
struct Kept {
    partition: i32,
    offset: i64,
    key: Vec<u8>,
    value: Vec<u8>,
}

fn collect(settings: &Settings, topic: &str, ends: &[i64]) -> Vec<Kept> {
    let mut kept = Vec::new();
    read(settings, topic, ends, |record| {
        kept.push(Kept {
            partition: record.partition,
            offset: record.offset,
            key: record.key.unwrap_or_default().to_vec(),
            value: record.value.unwrap_or_default().to_vec(),
        });
    });
    kept
}

fn decode(records: &[Kept]) -> Measured {
    let decoder = FactDecoder::new(SourceTable {
        prefix: "cdc".to_owned(),
        schema: "public".to_owned(),
        table: "engagement_events".to_owned(),
    });
    let started = Instant::now();
    let mut bytes = 0;
    for kept in records {
        let change = decoder.decode(&Record {
            topic: "cdc.public.engagement_events",
            partition: 0,
            offset: kept.offset,
            timestamp_ms: 0,
            key: Some(&kept.key),
            value: Some(&kept.value),
        });
        bytes += kept.value.len();
        std::hint::black_box(change.expect("a real record decodes"));
    }
    Measured::new(records.len(), bytes, started.elapsed())
}

/// Replays the whole topic into one sink, under fresh names each time.
async fn sink(
    stack: &Stack,
    settings: &Settings,
    name: &str,
    sink: &str,
    ends: &[i64],
    (records, bare): (usize, f64),
) {
    let mut runs = Vec::new();
    for run in 0..RUNS {
        let mut settings = settings.clone();
        settings.kafka.group_prefix = format!("bench{run}");
        settings.kafka.state_topic = format!("bench{run}.state");
        settings.clickhouse.database = format!("bench{run}");
        settings.board.key = format!("bench{run}");
        if sink == "clickhouse" {
            let connections = Connections::of(&settings);
            objects::clickhouse(&connections).await.expect("tables");
        }
        // A system that has seen the keys before has less to do.
        let external = if sink == "http" {
            let external = External::start(stack, &run.to_string());
            settings.external.url = external.url.as_str().into();
            Some(external)
        } else {
            None
        };
        let measured = replay(&settings, sink, ends).await;
        assert_eq!(
            measured.records, records,
            "{sink}: not every record was applied"
        );
        runs.push(measured);
        drop(external);
    }
    report(name, Some(("bare", bare)), &runs);
}

/// Of so many records one is followed by one that nobody understands.
const POISON_EVERY: usize = 100;

/// Both topics, to be written again under other names.
struct Log {
    events: Vec<Kept>,
    content: Vec<Kept>,
}

impl Log {
    /// Writes it under the prefix of these settings; returns where the events
    /// end then.
    async fn copy(&self, settings: &Settings, with_poison: bool) -> Vec<i64> {
        let kafka = &settings.kafka;
        let source = Source::new(&kafka.topic_prefix);
        let connections = Connections::of(settings);
        let specs = topics::specs(settings);
        connections
            .kafka
            .ensure_topics(&specs)
            .await
            .expect("topics");
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &kafka.brokers)
            .set("linger.ms", "20")
            .create()
            .expect("a producer");
        let name = format!("\"name\":\"{}\"", kafka.topic_prefix);
        let mut ends = vec![0; 3];
        for (topic, records) in [
            (source.content.topic(), &self.content),
            (source.facts.topic(), &self.events),
        ] {
            let is_events = topic == source.facts.topic();
            let mut write = |partition: i32, key: &[u8], value: &[u8]| {
                send(&producer, &topic, partition, key, value);
                if is_events {
                    ends[usize::try_from(partition).expect("a partition")] += 1;
                }
            };
            for (number, kept) in records.iter().enumerate() {
                let value = String::from_utf8_lossy(&kept.value);
                let value = value.replacen("\"name\":\"cdc\"", &name, 1);
                write(kept.partition, &kept.key, value.as_bytes());
                if is_events && with_poison && number % POISON_EVERY == 0 {
                    write(
                        kept.partition,
                        &kept.key,
                        &value.as_bytes()[..value.len() / 2],
                    );
                }
            }
        }
        producer.flush(Duration::from_secs(60)).expect("written");
        ends
    }
}

/// Hands a record over, waiting where there are too many on their way.
fn send(producer: &BaseProducer, topic: &str, partition: i32, key: &[u8], value: &[u8]) {
    let mut record = BaseRecord::to(topic).partition(partition).key(key);
    record = record.payload(value);
    while let Err((error, again)) = producer.send(record) {
        let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
        assert!(full, "{error}");
        producer.poll(Duration::from_millis(10));
        record = again;
    }
}

/// One sink over the same log clean and with poison, by turns.
async fn poison(stack: &Stack, settings: &Settings, sink: &str, log: &Log) {
    let mut rates = [Vec::new(), Vec::new()];
    for run in 0..RUNS {
        for (with_poison, runs) in [false, true].into_iter().zip(&mut rates) {
            let kind = if with_poison { "poison" } else { "clean" };
            let name = format!("{sink}{run}{kind}");
            let mut settings = settings.clone();
            settings.kafka.topic_prefix.clone_from(&name);
            settings.kafka.dead_letter_topic = format!("{name}.dlq");
            settings.kafka.group_prefix.clone_from(&name);
            settings.kafka.state_topic = format!("{name}.state");
            settings.clickhouse.database.clone_from(&name);
            settings.board.key.clone_from(&name);
            if sink == "clickhouse" {
                let connections = Connections::of(&settings);
                objects::clickhouse(&connections).await.expect("tables");
            }
            let external = External::start(stack, &name);
            settings.external.url = external.url.as_str().into();
            let ends = log.copy(&settings, with_poison).await;
            let measured = replay(&settings, sink, &ends).await;
            assert_eq!(measured.records, log.events.len(), "{name}");
            runs.push(measured);
        }
    }
    let [clean, poisoned] = &rates;
    let clean = report(&format!("{sink}, clean"), None, clean);
    let of = Some(("clean", clean.rate));
    let poisoned = report(&format!("{sink}, 1 % poison"), of, poisoned);
    let cost = 100.0 * (1.0 - poisoned.rate / clean.rate);
    println!("{sink}: 1 % poison costs {cost:.1} % of the throughput");
}

async fn replay(settings: &Settings, sink: &str, ends: &[i64]) -> Measured {
    let stop = CancellationToken::new();
    let started = Instant::now();
    let kind: SinkKind = sink.parse().expect("a sink");
    let start = Start {
        project: "bench",
        sinks: &[kind],
        project_sinks: &[kind],
        // Nobody looks at a source: there is none.
        source: source::source().1,
        creates_topics: true,
    };
    let connections = Connections::of(settings);
    let pipeline = Pipeline::start(start, &connections, stop.clone()).expect("the pipeline starts");
    let reporter = pipeline.reporter();
    let mut first: Option<Instant> = None;
    loop {
        let status = reporter.status();
        let sink = status
            .sinks
            .iter()
            .find(|status| status.name == sink)
            .expect("the sink is there");
        assert!(sink.halt.is_none(), "halted: {:?}", sink.halt);
        let committed: BTreeMap<i32, i64> = sink
            .partitions
            .iter()
            .filter_map(|partition| Some((partition.partition, partition.committed?)))
            .collect();
        if first.is_none() && !sink.partitions.is_empty() {
            first = Some(Instant::now());
        }
        let done = (0..).zip(ends).all(|(partition, end)| {
            committed
                .get(&partition)
                .is_some_and(|committed| committed >= end)
        });
        if done {
            let records = usize::try_from(sink.applied).expect("a count");
            // From the first assignment: joining a group is not throughput.
            let elapsed = first.unwrap_or(started).elapsed();
            stop.cancel();
            pipeline.finish().await;
            return Measured::new(records, 0, elapsed);
        }
        assert!(
            started.elapsed() < Duration::from_secs(600),
            "not done: {status:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
