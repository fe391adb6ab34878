//! Offsets that cannot be trusted: moved by another tool, lost, or committed by
//! an earlier release. No event is skipped, no event is resent without
//! confirmation, and the reported command resolves the halt while the pipeline
//! runs.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Bench, Record, Stack, Topics, Worker, check_equal, eventually, records, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    ("commits_of_an_earlier_release_are_adopted", earlier),
    ("moved_offsets_skip_nothing_and_repeat_nothing", moved),
    ("lost_offsets_of_one_partition_are_detected", lost),
];

const SINKS: [&str; 3] = ["redis", "clickhouse", "http"];

/// A project with two events that every sink has processed, and no running
/// worker.
struct Trial<'a> {
    bench: Bench<'a>,
    topics: Topics<'a>,
    topic: String,
    written: i64,
}

impl<'a> Trial<'a> {
    fn new(stack: &'a Stack, project: &str) -> Self {
        let bench = Bench::new(stack, project);
        let mut trial = Self {
            topics: Topics::new(stack),
            topic: bench.events_topic(),
            bench,
            written: 0,
        };
        let worker = trial.bench.run(&[]);
        trial.write(0, 1);
        trial.write(1, 1);
        trial.wait_until_committed();
        worker.stop();
        trial
    }

    /// Writes inserts into a partition.
    fn write(&mut self, partition: i32, count: i64) {
        for _ in 0..count {
            self.bench.insert(partition, self.written);
            self.written += 1;
        }
    }

    /// Waits until every sink has committed the end of the topic, in the
    /// current metadata format.
    fn wait_until_committed(&self) {
        let ends = self.topics.end_offsets(&self.topic);
        for sink in SINKS {
            eventually(&format!("{sink} has committed the end"), || {
                let commits = self.commits(sink);
                let is_done = commits.iter().zip(&ends).all(|((offset, metadata), end)| {
                    (offset == end && metadata.contains(r#""f":2"#)) || (*end == 0 && *offset <= 0)
                });
                is_done.then_some(()).ok_or_else(|| format!("{commits:?}"))
            });
        }
    }

    fn commits(&self, sink: &str) -> Vec<(i64, String)> {
        self.topics.commits(&self.bench.group(sink), &self.topic)
    }

    /// Returns the ids of the events that the external system has received.
    fn delivered(&self) -> BTreeSet<i64> {
        let calls = self.bench.accepted();
        let ids = calls.iter().map(|call| call["body"]["id"].as_i64());
        ids.map(|id| id.expect("an id")).collect()
    }

    fn written_ids(&self) -> BTreeSet<i64> {
        (0..self.written).collect()
    }

    fn wait_for_all_rows(&self) {
        eventually("every row is stored", || {
            let rows = self.bench.rows("1").len();
            check_equal(&self.written, i64::try_from(rows).expect("few"))
        });
    }

    /// Commits the current offsets of each sink again, with changed metadata.
    fn recommit(&self, change: impl Fn(&str) -> String) {
        for sink in SINKS {
            let group = self.bench.group(sink);
            for (partition, (offset, metadata)) in (0..).zip(self.commits(sink)) {
                let commit = (offset, &*change(&metadata));
                self.topics.commit(&group, &self.topic, partition, commit);
            }
        }
    }

    /// Starts a worker and asserts that it resumes from the commits and resends
    /// nothing.
    fn resume(&self) -> Worker {
        let worker = self.bench.run(&[]);
        self.wait_until_committed();
        assert_eq!(worker.sink("http")["applied"], 0, "nothing is resent");
        worker
    }

    /// Runs the remedy of the halt, and waits until the sink has resumed and
    /// caught up.
    fn run_remedy(&self, worker: &Worker) {
        let remedy = worker.sink("http")["halt"]["remedy"].clone();
        let arguments: Vec<&str> = remedy.as_str().expect("a command").split(' ').collect();
        self.bench.fanout().run(&arguments[1..]).ends_with(0);
        eventually("http resumes", || {
            let sink = worker.sink("http");
            let is_caught_up = sink["state"] == "running" && sink["lag"] == 0;
            is_caught_up.then_some(()).ok_or_else(|| sink.to_string())
        });
        check_equal(&self.written_ids(), self.delivered()).expect("every insert is accepted");
        // A confirmation covers only one gap.
        let key = format!("{}/made-up", self.bench.group("http")).into_bytes();
        eventually("the confirmation is consumed", || {
            let records = records(self.bench.stack(), self.bench.state_topic());
            let last = records
                .into_iter()
                .rfind(|record| record.key.as_ref() == Some(&key));
            check_equal(&Some(None), last.map(|record| record.value))
        });
    }
}

/// Waits until the HTTP sink halts with this code and remedy, and asserts that
/// the worker is unhealthy.
fn wait_for_halt(worker: &Worker, code: &str, remedy: &str) {
    eventually(&format!("http halts with {code}"), || {
        let halt = worker.sink("http")["halt"].clone();
        let found = (halt["code"].clone(), halt["remedy"].clone());
        check_equal(&(Json::from(code), Json::from(remedy)), found)
    });
    let health = format!("{}/healthz", worker.url());
    let response = wait_for(reqwest::get(health)).expect("reach the worker");
    assert_eq!(response.status(), 503);
}

/// Returns the metadata of a commit without the fields that format 1 lacked.
fn first_format(metadata: &str) -> String {
    let mut metadata: Json = serde_json::from_str(metadata).expect("metadata");
    let fields = metadata.as_object_mut().expect("an object");
    fields.insert("f".to_owned(), Json::from(1));
    fields.retain(|name, _| matches!(name.as_str(), "f" | "t" | "g" | "c"));
    metadata.to_string()
}

/// State that releases before the state topic kept in groups without members is
/// used until it is recorded in the state topic.
fn earlier(stack: &Stack) {
    let mut trial = Trial::new(stack, "earlier");
    trial.recommit(first_format);
    let key = format!("{}/topic", trial.bench.group("http"));
    trial.bench.delete_state(&key);
    let other = r#"{"f":1,"t":"00000000-0000-0000-0000-000000000007"}"#;
    let (incarnations, dead_letters) = (
        trial.bench.group("http-lives"),
        trial.bench.dead_letter_topic(),
    );
    trial
        .topics
        .commit(&incarnations, &dead_letters, 0, (0, other));
    let worker = trial.resume();
    let degradation = || worker.sink("http")["caution"]["code"].clone();
    eventually("http reports topic_changed", || {
        check_equal(&Json::from("topic_changed"), degradation())
    });
    let backfilled = trial.bench.group("http-mended");
    for (partition, (_, metadata)) in (0..).zip(trial.commits("http")) {
        let metadata = first_format(&metadata);
        let commit = (0, metadata.as_str());
        trial
            .topics
            .commit(&backfilled, &trial.topic, partition, commit);
    }
    eventually("the backfill is recognised", || {
        check_equal(&Json::Null, degradation())
    });
    trial.write(0, 1);
    trial.wait_until_committed();
    check_equal(&trial.written_ids(), trial.delivered()).expect("every insert is accepted");
    worker.stop();
    // Equivalent to `kafka-consumer-groups --reset-offsets --to-current`.
    trial.recommit(|_| String::new());
    let worker = trial.resume();
    for sink in SINKS {
        assert_eq!(worker.sink(sink)["caution"], Json::Null, "{sink}");
    }
    worker.stop();
}

/// Equivalent to `kafka-consumer-groups --reset-offsets --to-latest` while no
/// worker runs.
fn moved(stack: &Stack) {
    let mut trial = Trial::new(stack, "moved");
    let old_metadata = trial.commits("http")[0].1.clone();
    trial.write(0, 30);
    trial.bench.write_event(0, &Record::undecodable());
    let end = trial.topics.end_offsets(&trial.topic)[0];
    // A tool may keep the metadata of the old offset.
    for (sink, metadata) in [
        ("redis", ""),
        ("clickhouse", ""),
        ("http", old_metadata.as_str()),
    ] {
        let group = trial.bench.group(sink);
        trial
            .topics
            .commit(&group, &trial.topic, 0, (end, metadata));
    }
    let worker = trial.bench.run(&["--sinks", "redis,clickhouse"]);
    let is_logged = |sink: &str, text: &str| {
        let log = worker.log();
        let mut lines = log.lines().filter(|line| line.contains(sink));
        lines.any(|line| line.contains(text))
    };
    trial.wait_for_all_rows();
    for sink in ["redis", "clickhouse"] {
        assert!(
            is_logged(sink, "offsets_moved"),
            "{sink}: {}",
            worker.log_tail()
        );
        eventually(&format!("{sink} is no longer degraded"), || {
            check_equal(&Json::Null, worker.sink(sink)["caution"].clone())
        });
    }
    eventually("the undecodable record is dead-lettered", || {
        let listed = ["dlq", "ls", "--sink", "redis"];
        let listed = trial.bench.fanout().document(0, &listed);
        check_equal(&Some(1), listed["letters"].as_array().map(Vec::len))
    });
    worker.stop();
    let worker = trial.bench.run_halted();
    let remedy = "fanout backfill --from earliest --sinks http";
    wait_for_halt(&worker, "offsets_moved", remedy);
    assert_eq!(
        trial.delivered().len(),
        2,
        "nothing is sent before the remedy has run"
    );
    trial.run_remedy(&worker);
    worker.stop();
    trial.write(0, 1);
    let end = trial.topics.end_offsets(&trial.topic)[0];
    let group = trial.bench.group("http");
    trial.topics.commit(&group, &trial.topic, 0, (end, ""));
    let worker = trial.bench.run_halted();
    wait_for_halt(&worker, "offsets_moved", remedy);
    worker.stop();
}

/// Equivalent to `kafka-consumer-groups --delete-offsets`, followed by
/// retention.
fn lost(stack: &Stack) {
    let mut trial = Trial::new(stack, "lost");
    for sink in ["http", "clickhouse"] {
        let group = trial.bench.group(sink);
        let commits = trial.commits(sink);
        eventually("the group is deleted", || {
            trial.topics.delete_groups(&[&group])
        });
        for (partition, (offset, metadata)) in (0..).zip(commits).skip(1) {
            let commit = (offset, metadata.as_str());
            trial.topics.commit(&group, &trial.topic, partition, commit);
        }
    }
    trial.write(0, 3);
    let worker = trial.bench.run_halted();
    let remedy = "fanout backfill --from earliest --sinks http";
    wait_for_halt(&worker, "offsets_lost", remedy);
    trial.wait_for_all_rows();
    trial.run_remedy(&worker);
    worker.stop();
    // If the start of the log is missing, only the source can be read.
    let group = trial.bench.group("http");
    eventually("the group is deleted", || {
        trial.topics.delete_groups(&[&group])
    });
    trial.bench.delete_before(0, 1);
    let worker = trial.bench.run_halted();
    let remedy = "fanout backfill --from earliest --source database --sinks http";
    wait_for_halt(&worker, "offsets_lost", remedy);
    worker.stop();
}
