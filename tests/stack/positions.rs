//! Positions that cannot be trusted: moved by another tool, lost, or made by an
//! earlier release. Nothing is skipped, nothing is sent again without consent,
//! and the command that is named mends it while the pipeline runs.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::{
    Test,
    support::{Bench, Record, Stack, Topics, Worker, eventually, records, same, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("what_an_earlier_release_committed_is_taken_over", earlier),
    ("moved_offsets_skip_nothing_and_repeat_nothing", moved),
    ("lost_offsets_of_one_partition_are_noticed", lost),
];

const SINKS: [&str; 3] = ["redis", "clickhouse", "http"];

/// A project with two events that every sink has, and no worker.
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
            topics: Topics::of(stack),
            topic: bench.events_topic(),
            bench,
            written: 0,
        };
        let worker = trial.bench.run(&[]);
        trial.write(0, 1);
        trial.write(1, 1);
        trial.is_done();
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

    /// Waits until every sink has committed all there is, each in the present
    /// format.
    fn is_done(&self) {
        let ends = self.topics.ends(&self.topic);
        for sink in SINKS {
            eventually(&format!("{sink} is done"), || {
                let commits = self.commits(sink);
                let done = commits.iter().zip(&ends).all(|((offset, says), end)| {
                    (offset == end && says.contains(r#""f":2"#)) || (*end == 0 && *offset <= 0)
                });
                done.then_some(()).ok_or_else(|| format!("{commits:?}"))
            });
        }
    }

    fn commits(&self, sink: &str) -> Vec<(i64, String)> {
        self.topics.commits(&self.bench.group(sink), &self.topic)
    }

    /// What the external system has had: each id, and the number of calls.
    fn told(&self) -> BTreeSet<i64> {
        let calls = self.bench.accepted();
        let ids = calls.iter().map(|call| call["body"]["id"].as_i64());
        ids.map(|id| id.expect("an id")).collect()
    }

    fn everything(&self) -> BTreeSet<i64> {
        (0..self.written).collect()
    }

    fn has_all_rows(&self) {
        eventually("every row is there", || {
            let rows = self.bench.rows("1").len();
            same(&self.written, i64::try_from(rows).expect("few"))
        });
    }

    /// Commits for each sink where it is, with other words.
    fn recommits(&self, says: impl Fn(&str) -> String) {
        for sink in SINKS {
            let group = self.bench.group(sink);
            for (partition, (offset, said)) in (0..).zip(self.commits(sink)) {
                let commit = (offset, &*says(&said));
                self.topics.commit(&group, &self.topic, partition, commit);
            }
        }
    }

    /// Starts a worker, which goes on where the commits are.
    fn goes_on(&self) -> Worker {
        let worker = self.bench.run(&[]);
        self.is_done();
        assert_eq!(worker.sink("http")["applied"], 0, "nothing is sent again");
        worker
    }

    /// Runs the command that the halt names, and waits until the sink goes on.
    fn mends(&self, worker: &Worker) {
        let remedy = worker.sink("http")["halt"]["remedy"].clone();
        let words: Vec<&str> = remedy.as_str().expect("a command").split(' ').collect();
        self.bench.fanout().run(&words[1..]).ends_with(0);
        eventually("http goes on", || {
            let sink = worker.sink("http");
            let well = sink["state"] == "running" && sink["lag"] == 0;
            well.then_some(()).ok_or_else(|| sink.to_string())
        });
        same(&self.everything(), self.told()).expect("every insert is accepted");
        // Consent is good for one break.
        let key = format!("{}/made-up", self.bench.group("http")).into_bytes();
        eventually("the consent is used up", || {
            let records = records(self.bench.stack(), self.bench.state_topic());
            let last = records
                .into_iter()
                .rfind(|one| one.key.as_ref() == Some(&key));
            same(&Some(None), last.map(|one| one.value))
        });
    }
}

/// Waits until the HTTP sink halts for this, is unhealthy, and names this
/// remedy.
fn halts(worker: &Worker, code: &str, remedy: &str) {
    eventually(&format!("http halts for {code}"), || {
        let halt = worker.sink("http")["halt"].clone();
        let found = (halt["code"].clone(), halt["remedy"].clone());
        same(&(Json::from(code), Json::from(remedy)), found)
    });
    let health = format!("{}/healthz", worker.url());
    let answer = wait_for(reqwest::get(health)).expect("it serves");
    assert_eq!(answer.status(), 503);
}

/// What the metadata of a commit says, without what format 1 did not have.
fn first_format(says: &str) -> String {
    let mut metadata: Json = serde_json::from_str(says).expect("metadata");
    let fields = metadata.as_object_mut().expect("an object");
    fields.insert("f".to_owned(), Json::from(1));
    fields.retain(|name, _| matches!(name.as_str(), "f" | "t" | "g" | "c"));
    metadata.to_string()
}

/// What releases before the state topic kept in groups without members counts
/// until it is noted there.
fn earlier(stack: &Stack) {
    let mut trial = Trial::new(stack, "earlier");
    trial.recommits(first_format);
    let note = format!("{}/topic", trial.bench.group("http"));
    trial.bench.forget(&note);
    let other = r#"{"f":1,"t":"00000000-0000-0000-0000-000000000007"}"#;
    let (lives, letters) = (trial.bench.group("http-lives"), trial.bench.letters_topic());
    trial.topics.commit(&lives, &letters, 0, (0, other));
    let worker = trial.goes_on();
    let caution = || worker.sink("http")["caution"]["code"].clone();
    eventually("the topic is another", || {
        same(&Json::from("topic_changed"), caution())
    });
    let mended = trial.bench.group("http-mended");
    for (partition, (_, says)) in (0..).zip(trial.commits("http")) {
        let says = first_format(&says);
        let commit = (0, says.as_str());
        trial
            .topics
            .commit(&mended, &trial.topic, partition, commit);
    }
    eventually("it was made up for", || same(&Json::Null, caution()));
    trial.write(0, 1);
    trial.is_done();
    same(&trial.everything(), trial.told()).expect("every insert is accepted");
    worker.stop();
    // As `kafka-consumer-groups --reset-offsets --to-current` does.
    trial.recommits(|_| String::new());
    let worker = trial.goes_on();
    for sink in SINKS {
        assert_eq!(worker.sink(sink)["caution"], Json::Null, "{sink}");
    }
    worker.stop();
}

/// As `kafka-consumer-groups --reset-offsets --to-latest` does, with nobody at
/// work.
fn moved(stack: &Stack) {
    let mut trial = Trial::new(stack, "moved");
    let kept = trial.commits("http")[0].1.clone();
    trial.write(0, 30);
    trial.bench.event(0, &Record::garbage());
    let end = trial.topics.ends(&trial.topic)[0];
    // One tool leaves the metadata of the old offset.
    for (sink, says) in [("redis", ""), ("clickhouse", ""), ("http", kept.as_str())] {
        let group = trial.bench.group(sink);
        trial.topics.commit(&group, &trial.topic, 0, (end, says));
    }
    let worker = trial.bench.run(&["--sinks", "redis,clickhouse"]);
    let said = |sink: &str, what: &str| {
        let log = worker.log();
        let mut lines = log.lines().filter(|line| line.contains(sink));
        lines.any(|line| line.contains(what))
    };
    trial.has_all_rows();
    for sink in ["redis", "clickhouse"] {
        assert!(said(sink, "offsets_moved"), "{sink}: {}", worker.said());
        eventually("it is in order again", || {
            same(&Json::Null, worker.sink(sink)["caution"].clone())
        });
    }
    eventually("no dead letter is missing", || {
        let listed = ["dlq", "ls", "--sink", "redis"];
        let listed = trial.bench.fanout().document(0, &listed);
        same(&Some(1), listed["letters"].as_array().map(Vec::len))
    });
    worker.stop();
    let worker = trial.bench.run_halted();
    let remedy = "fanout backfill --from earliest --sinks http";
    halts(&worker, "offsets_moved", remedy);
    assert_eq!(trial.told().len(), 2, "nothing is sent before it is mended");
    trial.mends(&worker);
    worker.stop();
    trial.write(0, 1);
    let end = trial.topics.ends(&trial.topic)[0];
    let group = trial.bench.group("http");
    trial.topics.commit(&group, &trial.topic, 0, (end, ""));
    let worker = trial.bench.run_halted();
    halts(&worker, "offsets_moved", remedy);
    worker.stop();
}

/// As `kafka-consumer-groups --delete-offsets` does, and retention.
fn lost(stack: &Stack) {
    let mut trial = Trial::new(stack, "lost");
    for sink in ["http", "clickhouse"] {
        let group = trial.bench.group(sink);
        let kept = trial.commits(sink);
        eventually("the group is gone", || {
            trial.topics.delete_groups(&[&group])
        });
        for (partition, (offset, says)) in (0..).zip(kept).skip(1) {
            let commit = (offset, says.as_str());
            trial.topics.commit(&group, &trial.topic, partition, commit);
        }
    }
    trial.write(0, 3);
    let worker = trial.bench.run_halted();
    let remedy = "fanout backfill --from earliest --sinks http";
    halts(&worker, "offsets_lost", remedy);
    trial.has_all_rows();
    trial.mends(&worker);
    worker.stop();
    // Without the log's head there is only the source.
    let group = trial.bench.group("http");
    eventually("the group is gone", || {
        trial.topics.delete_groups(&[&group])
    });
    trial.bench.delete_before(0, 1);
    let worker = trial.bench.run_halted();
    let remedy = "fanout backfill --from earliest --source database --sinks http";
    halts(&worker, "offsets_lost", remedy);
    worker.stop();
}
