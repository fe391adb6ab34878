//! `make bench`: replays real Debezium records into each sink and compares each
//! rate with the plain read rate of librdkafka on the same topic.
//!
//! The benchmark starts a real stack and removes it afterwards. Rates differ
//! between machines, so compare the ratios.
//!
//! The cost of dead letters is also a ratio: the same log without and with one
//! invalid record per hundred, measured alternately.
//!
//! `BENCH_EVENTS` sets the number of events (default 300,000). `BENCH_ONLY`
//! selects measurements by name.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints its results and panics on errors"
)]

mod support;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use fanout::{
    config::Settings,
    connections::Connections,
    debezium::{FactDecoder, Record, SourceTable},
    pipeline::{Pipeline, Start},
    progress::Silent,
    runtime::{barrier, source},
    sink_kind::SinkKind,
    sinks::clickhouse::owned,
    source::tables::Source,
    source::topics,
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use support::{Stack, is_selected};
use tokio_util::sync::CancellationToken;

const MEASUREMENTS: [&str; 5] = ["decode", "clickhouse", "redis", "http", "poison"];

/// Number of runs of each measurement. The best one counts; all are printed.
const RUNS: usize = 3;

fn main() {
    // `cargo test --benches` and similar commands only check that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if !MEASUREMENTS.into_iter().any(is_enabled) {
        return;
    }
    let stack = Stack::up(env!("CARGO_BIN_EXE_fanout"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure_all(&stack));
}

/// An external system without any events, stopped when dropped.
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
            .expect("start fanout");
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
        // The process may have exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_enabled(name: &str) -> bool {
    is_selected(name).unwrap_or(true)
}

async fn measure_all(stack: &Stack) {
    let settings = stack.settings();
    let events = std::env::var("BENCH_EVENTS").unwrap_or_else(|_| "300000".to_owned());
    stack.fanout(&["seed", "--content", "200", "--events", &events]);
    let connections = Connections::of(&settings);
    let fence = barrier::wait(&connections, &[], Duration::from_secs(600), &Silent)
        .await
        .expect("read all records");
    let topic = fanout::source::tables::events_topic(&settings);
    let content = fence.content;
    let ends = fence.events;

    let bare = best("bare read", None, || bare_read(&settings, &topic, &ends));
    let records = bare.records;
    let bare = bare.rate;
    if is_enabled("decode") {
        let log = collect(&settings, &topic, &ends);
        best("decode, one thread", Some(("bare", bare)), || decode(&log));
    }
    for (name, sinks) in [
        ("clickhouse", "clickhouse"),
        ("redis", "redis"),
        ("http", "http"),
    ] {
        if is_enabled(name) {
            sink(stack, &settings, name, sinks, &ends, (records, bare)).await;
        }
    }
    if is_enabled("poison") {
        let log = Log {
            events: collect(&settings, &topic, &ends),
            content: collect(
                &settings,
                &fanout::source::tables::content_topic(&settings),
                &content,
            ),
        };
        // The board comes first, because it needs recent events.
        for sink in ["redis", "clickhouse", "http"] {
            poison(stack, &settings, sink, &log).await;
        }
    }
}

/// Result of one run.
#[derive(Debug, Clone, Copy)]
struct Measurement {
    records: usize,
    bytes: usize,
    elapsed: Duration,
    rate: f64,
}

impl Measurement {
    fn new(records: usize, bytes: usize, elapsed: Duration) -> Self {
        Self {
            records,
            bytes,
            elapsed,
            rate: records as f64 / elapsed.as_secs_f64(),
        }
    }
}

fn best(name: &str, baseline: Baseline, mut run: impl FnMut() -> Measurement) -> Measurement {
    let runs: Vec<Measurement> = (0..RUNS).map(|_| run()).collect();
    report(name, baseline, &runs)
}

/// Name and value of a rate to compare with.
type Baseline = Option<(&'static str, f64)>;

/// Prints and returns the best run, with its ratio to the baseline and all
/// runs.
fn report(name: &str, baseline: Baseline, runs: &[Measurement]) -> Measurement {
    let best = runs
        .iter()
        .copied()
        .max_by(|a, b| a.rate.total_cmp(&b.rate))
        .expect("at least one run");
    let ratio = baseline.map_or("1.00".to_owned(), |(baseline, rate)| {
        format!("{:.2} of {baseline}", best.rate / rate)
    });
    let rates: Vec<String> = runs.iter().map(|run| format!("{:.0}", run.rate)).collect();
    let size = match best.bytes / best.records.max(1) {
        0 => String::new(),
        bytes => format!(" of {bytes} bytes"),
    };
    println!(
        "{name:<22} {:>9.0} records/s  {ratio:<14} {} records{size}, {:.2} s; runs: {}",
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
    consumer.assign(&list).expect("assign the partitions");
    consumer
}

/// Calls `handle` with each record of the topic.
fn read(settings: &Settings, topic: &str, ends: &[i64], mut handle: impl FnMut(&Record<'_>)) {
    let consumer = consumer(settings, topic, ends.len());
    let mut finished = vec![false; ends.len()];
    while !finished.iter().all(|is_finished| *is_finished) {
        match consumer
            .poll(Duration::from_secs(10))
            .expect("receive a record")
        {
            Ok(message) => handle(&Record {
                topic: message.topic(),
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
                key: message.key(),
                value: message.payload(),
            }),
            Err(KafkaError::PartitionEOF(partition)) => {
                finished[usize::try_from(partition).expect("a partition")] = true;
            }
            Err(error) => panic!("cannot read the topic: {error}"),
        }
    }
}

fn bare_read(settings: &Settings, topic: &str, ends: &[i64]) -> Measurement {
    let started = Instant::now();
    let (mut records, mut bytes) = (0, 0);
    read(settings, topic, ends, |record| {
        records += 1;
        bytes += record.value.map_or(0, <[u8]>::len);
    });
    Measurement::new(records, bytes, started.elapsed())
}

/// An owned record.
struct OwnedRecord {
    partition: i32,
    offset: i64,
    key: Vec<u8>,
    value: Vec<u8>,
}

fn collect(settings: &Settings, topic: &str, ends: &[i64]) -> Vec<OwnedRecord> {
    let mut records = Vec::new();
    read(settings, topic, ends, |record| {
        records.push(OwnedRecord {
            partition: record.partition,
            offset: record.offset,
            key: record.key.unwrap_or_default().to_vec(),
            value: record.value.unwrap_or_default().to_vec(),
        });
    });
    records
}

fn decode(records: &[OwnedRecord]) -> Measurement {
    let decoder = FactDecoder::new(SourceTable {
        prefix: "cdc".to_owned(),
        schema: "public".to_owned(),
        table: "engagement_events".to_owned(),
    });
    let started = Instant::now();
    let mut bytes = 0;
    for record in records {
        let change = decoder.decode(&Record {
            topic: "cdc.public.engagement_events",
            partition: 0,
            offset: record.offset,
            timestamp_ms: 0,
            key: Some(&record.key),
            value: Some(&record.value),
        });
        bytes += record.value.len();
        std::hint::black_box(change.expect("a real record decodes"));
    }
    Measurement::new(records.len(), bytes, started.elapsed())
}

/// Replays the complete topic into one sink, with new names in each run.
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
            owned::clickhouse(&connections).await.expect("tables");
        }
        // A new external system, because known keys are cheaper to handle.
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

/// An invalid record is written after every n-th record.
const POISON_EVERY: usize = 100;

/// The records of both topics, which are copied to topics with other names.
struct Log {
    events: Vec<OwnedRecord>,
    content: Vec<OwnedRecord>,
}

impl Log {
    /// Writes the records to topics with the prefix of these settings. Returns
    /// the end offsets of the events topic.
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
            for (number, record) in records.iter().enumerate() {
                let value = String::from_utf8_lossy(&record.value);
                let value = value.replacen("\"name\":\"cdc\"", &name, 1);
                write(record.partition, &record.key, value.as_bytes());
                if is_events && with_poison && number % POISON_EVERY == 0 {
                    write(
                        record.partition,
                        &record.key,
                        &value.as_bytes()[..value.len() / 2],
                    );
                }
            }
        }
        producer.flush(Duration::from_secs(60)).expect("flush");
        ends
    }
}

/// Sends a record. Waits while the producer's queue is full.
fn send(producer: &BaseProducer, topic: &str, partition: i32, key: &[u8], value: &[u8]) {
    let mut record = BaseRecord::to(topic).partition(partition).key(key);
    record = record.payload(value);
    while let Err((error, rejected)) = producer.send(record) {
        let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
        assert!(is_full, "{error}");
        producer.poll(Duration::from_millis(10));
        record = rejected;
    }
}

/// Measures one sink alternately without and with invalid records.
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
                owned::clickhouse(&connections).await.expect("tables");
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
    let baseline = Some(("clean", clean.rate));
    let poisoned = report(&format!("{sink}, 1 % poison"), baseline, poisoned);
    let cost = 100.0 * (1.0 - poisoned.rate / clean.rate);
    println!("{sink}: 1 % poison costs {cost:.1} % of the throughput");
}

async fn replay(settings: &Settings, sink: &str, ends: &[i64]) -> Measurement {
    let stop = CancellationToken::new();
    let started = Instant::now();
    let kind: SinkKind = sink.parse().expect("a sink");
    let start = Start {
        project: "bench",
        sinks: &[kind],
        project_sinks: &[kind],
        // There is no source to watch.
        source: source::source().1,
        creates_topics: true,
    };
    let connections = Connections::of(settings);
    let pipeline = Pipeline::start(start, &connections, stop.clone()).expect("start the pipeline");
    let reporter = pipeline.reporter();
    let mut assigned: Option<Instant> = None;
    loop {
        let status = reporter.status();
        let sink = status
            .sinks
            .iter()
            .find(|status| status.name == sink)
            .expect("the sink's status");
        assert!(sink.halt.is_none(), "halted: {:?}", sink.halt);
        let committed: BTreeMap<i32, i64> = sink
            .partitions
            .iter()
            .filter_map(|partition| Some((partition.partition, partition.committed?)))
            .collect();
        if assigned.is_none() && !sink.partitions.is_empty() {
            assigned = Some(Instant::now());
        }
        let is_done = (0..).zip(ends).all(|(partition, end)| {
            committed
                .get(&partition)
                .is_some_and(|committed| committed >= end)
        });
        if is_done {
            let records = usize::try_from(sink.applied).expect("a count");
            // Measured from the first assignment, to exclude joining the group.
            let elapsed = assigned.unwrap_or(started).elapsed();
            stop.cancel();
            pipeline.finish().await;
            return Measurement::new(records, 0, elapsed);
        }
        assert!(
            started.elapsed() < Duration::from_secs(600),
            "not finished in time: {status:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
