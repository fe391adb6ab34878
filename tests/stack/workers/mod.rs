//! Several workers of one project: they share the partitions, take over from
//! each other whatever becomes of one, and nothing is lost, undone or published
//! by one that has lost its right to.

mod board;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::{Signal, kill};
use serde_json::Value as Json;

use crate::{
    Test,
    support::{
        Event, Going, Held, Stack, Topics, Worker, content, eventually, same, status_of, tail,
        wait_for,
    },
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("they_share_the_partitions_whoever_comes_and_goes", shared),
    ("one_that_was_held_still_commits_nothing_late", late),
    (
        "one_publishes_the_board_and_the_others_stand_by",
        board::lease,
    ),
    #[cfg(feature = "crash-points")]
    (
        "a_clock_that_is_ahead_and_set_back_leaves_the_board_right",
        board::set_back,
    ),
    (
        "a_stray_commit_of_the_boards_does_no_harm",
        board::stray_commits,
    ),
    (
        "what_a_killed_one_owes_is_enriched_by_the_next",
        owed_enrichment,
    ),
    ("a_slow_sink_stays_in_its_group", slow_sink),
    ("one_that_does_not_drain_is_fenced", fenced),
    ("a_commit_without_an_answer_is_given_up", unanswered),
    ("a_truncate_halts_them_all", truncate),
];

const EVENTS: &str = "cdc.public.engagement_events";
const CONTENT: &str = "cdc.public.content";

/// The sinks whose partitions are spread.
const SPREAD: [&str; 2] = ["clickhouse", "http"];

/// Starts another worker of the stack's own project.
fn another(stack: &Stack, arguments: &[&str]) -> Worker {
    Worker::start(stack, &stack.fanout, arguments)
}

/// Where the stack's own pipeline serves its HTTP.
fn own(stack: &Stack) -> &str {
    stack.stores.url("FANOUT_HTTP_URL")
}

/// What the worker at `url` says of a sink; null where it says nothing.
fn sink(url: &str, name: &str) -> Json {
    let status = status_of(url);
    let mut sinks = status["sinks"].as_array().into_iter().flatten();
    let sink = sinks.find(|sink| sink["name"] == name);
    sink.cloned().unwrap_or_default()
}

/// The partitions that are its own, of a sink that runs.
fn owned(url: &str, name: &str) -> Result<BTreeSet<i64>, String> {
    let sink = sink(url, name);
    if sink["state"] != "running" {
        return Err(format!("{url}: {sink}"));
    }
    let partitions = sink["partitions"].as_array().expect("partitions");
    let numbers = partitions.iter().map(|one| one["partition"].as_i64());
    Ok(numbers.map(|number| number.expect("a number")).collect())
}

/// Waits until these workers, and no other, have all partitions, each at least
/// one and none the same; gives what each has, by sink.
fn share(workers: &[&str]) -> Vec<BTreeMap<&'static str, BTreeSet<i64>>> {
    eventually("they share the partitions", || {
        let mut all = Vec::new();
        for url in workers {
            let mut sinks = BTreeMap::new();
            for name in SPREAD {
                sinks.insert(name, owned(url, name)?);
            }
            all.push(sinks);
        }
        for name in SPREAD {
            let mut numbers: Vec<i64> = all.iter().flat_map(|one| one[name].clone()).collect();
            numbers.sort_unstable();
            let idle = all.iter().any(|one| one[name].is_empty());
            if idle || numbers != [0, 1, 2] {
                return Err(format!("{all:?}"));
            }
        }
        Ok(all)
    })
}

/// What a worker's log says of the partitions of a sink: those it was given, in
/// order, and those that were taken from it.
fn moves(log: &str, sink: &str) -> (Vec<i64>, Vec<i64>) {
    let (mut given, mut taken) = (Vec::new(), Vec::new());
    for line in log.lines() {
        // Written as JSON by one and as text by another.
        let line = line.replace(['"', '\\', ' '], "").replace(':', "=");
        if !line.contains(&format!("sink={sink}")) {
            continue;
        }
        let numbers = |key: &str| -> Vec<i64> {
            let rest = line.split_once(key).map_or("", |(_, rest)| rest);
            let rest = rest.trim_start_matches('[');
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != ',');
            let list = rest[..end.unwrap_or(rest.len())].split(',');
            list.filter_map(|number| number.parse().ok()).collect()
        };
        if line.contains("partitionassigned") {
            given.extend(numbers("partition=").first());
        } else if line.contains("partitionsrevoked") {
            taken.extend(numbers("partitions="));
        }
    }
    (given, taken)
}

/// The log of the stack's own pipeline since it was so long.
fn own_log(stack: &Stack, since: usize) -> String {
    let log = fs::read_to_string(stack.file("logs/pipeline.log")).expect("its log");
    log[since..].to_owned()
}

/// Everything agrees, and every insert was told.
fn agrees(stack: &Stack) {
    let report = stack.fanout.document(0, &["verify"]);
    let checks = report["checks"].as_array().expect("checks");
    for check in checks {
        assert_ne!(check["compared"], 0, "{report:#}");
    }
}

/// The external system answers an event only after so long.
fn delay(stack: &Stack, milliseconds: u64) {
    let url = stack.stores.url("FANOUT_EXTERNAL_URL");
    let url = format!("{url}/faults?delay_ms={milliseconds}");
    let answer = wait_for(reqwest::Client::new().put(url).send());
    assert_eq!(answer.expect("the stub").status(), 200);
}

/// Looks on in a thread of its own until `work` is done; gives what was seen,
/// without repetitions.
fn watched<T: PartialEq + Send>(look: impl Fn() -> T + Sync, work: impl FnOnce()) -> Vec<T> {
    let (seen, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let found = look();
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.last() != Some(&found) {
                    seen.push(found);
                }
                drop(seen);
                thread::sleep(Duration::from_millis(10));
            }
        });
        let _done = Done(&done);
        work();
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the looking, also where the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the worker has calls on their way to a slow external system.
fn has_calls_on_their_way(url: &str) {
    eventually("it has calls on their way", || {
        let lag = sink(url, "http")["lag"].as_u64();
        (lag > Some(50))
            .then_some(())
            .ok_or_else(|| format!("{lag:?}"))
    });
}

fn load(stack: &Stack) -> Going {
    Going::start(stack, &["seed", "--rate", "200", "--content", "20"])
}

fn shared(stack: &Stack) {
    share(&[own(stack)]);
    let since = eventually("its log says so too", || {
        let log = own_log(stack, 0);
        let all = |name: &&str| moves(&log, name).0.len() >= 3;
        SPREAD
            .iter()
            .all(all)
            .then_some(log.len())
            .ok_or_else(|| log.clone())
    });
    let load = load(stack);
    let second = another(stack, &[]);
    let two = share(&[own(stack), second.url()]);
    for name in SPREAD {
        let (given, taken) = moves(&own_log(stack, since), name);
        let moved: Vec<i64> = two[1][name].iter().copied().collect();
        assert_eq!((given, taken), (vec![], moved), "{name}: no other moved");
    }
    let third = another(stack, &[]);
    let three = share(&[own(stack), second.url(), third.url()]);
    for name in SPREAD {
        let (given, taken) = moves(&second.log(), name);
        let kept = three[1][name].iter().all(|one| two[1][name].contains(one));
        assert!(
            kept && given.len() == two[1][name].len(),
            "{two:?}\n{three:?}"
        );
        assert_eq!(taken.len(), given.len() - three[1][name].len(), "{name}");
    }
    let stopped = second.stop();
    assert_eq!(stopped["drained"], true, "{stopped:#}");
    share(&[own(stack), third.url()]);
    for name in SPREAD {
        let (given, taken) = moves(&third.log(), name);
        let distinct: BTreeSet<i64> = given.iter().copied().collect();
        assert_eq!(distinct.len(), given.len(), "{name} {given:?} {taken:?}");
    }
    third.kill();
    share(&[own(stack)]);
    load.stop();
    agrees(stack);
}

/// By group and partition, what is committed.
fn commits(stack: &Stack) -> Vec<(&'static str, Vec<i64>)> {
    let topics = Topics::of(stack);
    let groups = ["fanout-clickhouse", "fanout-http"];
    let commits = groups.map(|group| {
        let commits = topics.commits(group, EVENTS).into_iter();
        (group, commits.map(|(offset, _)| offset).collect())
    });
    commits.to_vec()
}

/// What is committed never goes back.
fn forward(seen: &[Vec<(&'static str, Vec<i64>)>]) {
    for (before, after) in seen.iter().zip(&seen[1..]) {
        for ((group, before), (_, after)) in before.iter().zip(after) {
            let back = before.iter().zip(after).any(|(was, is)| is < was);
            assert!(!back, "{group} goes back: {before:?} {after:?}");
        }
    }
}

/// It is held still with calls on their way, for longer than its session.
fn late(stack: &Stack) {
    let second = another(stack, &["--sinks", "clickhouse,http"]);
    share(&[own(stack), second.url()]);
    let seen = watched(
        || commits(stack),
        || {
            delay(stack, 2_000);
            let seed = ["seed", "--events", "400", "--content", "20"];
            stack.fanout.run(&seed).ends_with(0);
            has_calls_on_their_way(second.url());
            second.pause();
            share(&[own(stack)]);
            delay(stack, 0);
            let ends = Topics::of(stack).ends(EVENTS);
            eventually("its partitions are done by the other", || {
                let all = commits(stack);
                let done = all.iter().all(|(_, next)| *next == ends);
                done.then_some(())
                    .ok_or_else(|| format!("{ends:?} {all:?}"))
            });
            second.resume();
            share(&[own(stack), second.url()]);
        },
    );
    assert!(second.log().contains("partition lost"), "{}", second.said());
    forward(&seen);
    let applied = || sink(second.url(), "http")["applied"].as_u64();
    let before = applied();
    let load = load(stack);
    eventually("it goes on", || {
        let now = applied();
        (now > before)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    });
    load.stop();
    second.stop();
    share(&[own(stack)]);
    agrees(stack);
}

/// How far the rows of each partition are enriched, by their commits.
fn enriched(stack: &Stack) -> Vec<i64> {
    let commits = Topics::of(stack).commits("fanout-clickhouse", EVENTS);
    let reached = commits.iter().map(|(_, metadata)| {
        let metadata: Json = serde_json::from_str(metadata).expect("metadata");
        metadata["c"][0].as_i64().expect("an offset")
    });
    reached.collect()
}

fn owed_enrichment(stack: &Stack) {
    let content = content(stack, 100);
    let events = 20;
    stack.stores.postgres(&format!(
        "INSERT INTO engagement_events (content_id, event_type, event_ts, duration_ms, device)
         SELECT '{content}', 'play', now(), 65000, 'ios' FROM generate_series(1, {events})"
    ));
    let rows = |percent: &str| {
        let found = stack
            .stores
            .rows("analytics", &format!("content_id = '{content}'"));
        let right = found
            .iter()
            .filter(|row| row["engagement_pct"] == percent)
            .count();
        same(&events, right)
    };
    eventually("its rows are enriched", || rows("0.65"));
    let clickhouse = stack.pid("clickhouse");
    let other = another(stack, &["--sinks", "clickhouse"]);
    eventually("it has partitions", || {
        let owned = owned(other.url(), "clickhouse")?;
        (!owned.is_empty()).then_some(()).ok_or_else(String::new)
    });
    let topics = Topics::of(stack);
    let before = topics.ends(CONTENT);
    let held = Held::after_stopping(clickhouse);
    stack.stores.postgres(&format!(
        "UPDATE content SET length_seconds = 650 WHERE id = '{content}'"
    ));
    let end = eventually("the change is in the log", || {
        let now = topics.ends(CONTENT);
        (now > before)
            .then_some(now[0])
            .ok_or_else(|| format!("{now:?}"))
    });
    // Both owners are in the middle of enriching, and neither comes back; nor
    // does what they have asked for.
    stack.kill("pipeline");
    other.kill();
    kill(clickhouse, Signal::SIGKILL).expect("it runs");
    drop(held);
    let owed = enriched(stack);
    assert!(owed.iter().all(|reached| *reached < end), "{owed:?} {end}");
    stack.fanout.run(&["up", "--no-run"]).ends_with(0);
    eventually("its rows are as they were", || rows("0.65"));
    let next = another(stack, &["--sinks", "clickhouse"]);
    eventually("its rows are enriched by the next", || rows("0.1"));
    eventually("the commits say so", || {
        let reached = enriched(stack);
        let all = reached.iter().all(|reached| *reached >= end);
        all.then_some(())
            .ok_or_else(|| format!("{reached:?} {end}"))
    });
    next.stop();
    stack.mend();
    agrees(stack);
}

fn slow_sink(stack: &Stack) {
    let topics = Topics::of(stack);
    let members = || topics.members("fanout-http");
    let before = eventually("the group is at rest", members);
    let since = own_log(stack, 0).len();
    delay(stack, 3_000);
    let seed = ["seed", "--events", "300", "--content", "20"];
    stack.fanout.run(&seed).ends_with(0);
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    let lag = || sink(own(stack), "http")["lag"].as_u64();
    eventually("its lag is seen", || {
        let lag = lag();
        (lag > Some(64))
            .then_some(())
            .ok_or_else(|| format!("{lag:?}"))
    });
    let well = sink(own(stack), "clickhouse");
    assert_eq!(well["state"], "running", "{well}");
    eventually("it has drained", || same(&Some(0), lag()));
    delay(stack, 0);
    assert_eq!(members(), Ok(before));
    assert_eq!(moves(&own_log(stack, since), "http"), (vec![], vec![]));
    agrees(stack);
}

/// What it has in hand takes longer than the group waits.
fn fenced(stack: &Stack) {
    share(&[own(stack)]);
    let since = own_log(stack, 0).len();
    let applied = || sink(own(stack), "http")["applied"].as_u64();
    let before = applied();
    delay(stack, 6_000);
    // While the first are on their way, the rest gathers behind them.
    for events in ["30", "1500"] {
        let seed = ["seed", "--events", events, "--content", "20"];
        stack.fanout.run(&seed).ends_with(0);
    }
    eventually("it has the rest in hand", || {
        let now = applied();
        (now > before)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    });
    let second = another(stack, &["--sinks", "http"]);
    let seen = watched(
        || commits(stack),
        || {
            eventually("the other has partitions all the same", || {
                let owned = owned(second.url(), "http")?;
                (!owned.is_empty())
                    .then_some(())
                    .ok_or_else(|| "none".to_owned())
            });
            delay(stack, 0);
            let ends = Topics::of(stack).ends(EVENTS);
            eventually("both drain", || same(&ends, commits(stack)[1].1.clone()));
        },
    );
    let log = own_log(stack, since);
    let mut lost = log.lines().filter(|line| line.contains("partition lost"));
    assert!(lost.any(|line| line.contains("http")), "{log}");
    forward(&seen);
    second.stop();
    share(&[own(stack)]);
    agrees(stack);
}

/// The broker is held still with calls on their way, for longer than a commit
/// may take: nothing waits for the answer for good, which librdkafka may have
/// lost. Where no commit was on its way at that moment, it is held once more.
fn unanswered(stack: &Stack) {
    share(&[own(stack)]);
    let is_given_up = (0..5).any(|_| {
        let since = own_log(stack, 0).len();
        delay(stack, 3_000);
        let seed = ["seed", "--events", "400", "--content", "20"];
        stack.fanout.run(&seed).ends_with(0);
        has_calls_on_their_way(own(stack));
        let held = Held::after_stopping(stack.pid("kafka"));
        // They end, and are committed, within the session.
        delay(stack, 0);
        let is_given_up = (0..60).any(|_| {
            thread::sleep(Duration::from_millis(500));
            own_log(stack, since).contains("a commit has had no answer")
        });
        drop(held);
        share(&[own(stack)]);
        is_given_up
    });
    assert!(is_given_up, "{}", tail(&own_log(stack, 0), 30));
    let topics = Topics::of(stack);
    for group in ["fanout-clickhouse", "fanout-http"] {
        eventually("the consumer that was given up has left", || {
            same(&1, topics.members(group)?.len())
        });
    }
    stack.is_well();
    agrees(stack);
}

fn truncate(stack: &Stack) {
    let second = another(stack, &[]);
    share(&[own(stack), second.url()]);
    stack.stores.postgres("TRUNCATE engagement_events");
    for url in [own(stack), second.url()] {
        eventually("it halts", || {
            let sink = sink(url, "clickhouse");
            let halted = sink["halt"]["code"] == "truncated";
            let remedy = sink["halt"]["remedy"].as_str().unwrap_or_default();
            (halted && remedy.starts_with("fanout backfill"))
                .then_some(())
                .ok_or_else(|| sink.to_string())
        });
    }
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    event.is_told();
    let third = another(stack, &["--sinks", "clickhouse"]);
    eventually("one that comes later halts as well", || {
        let sink = sink(third.url(), "clickhouse");
        same(&Json::from("truncated"), sink["halt"]["code"].clone())
    });
    third.stop();
    stack
        .fanout
        .run(&[
            "backfill", "--from", "earliest", "--source", "database", "--prune",
        ])
        .ends_with(0);
    share(&[own(stack), second.url()]);
    event.becomes("engagement_pct", &Json::from("0.65"));
    agrees(stack);
    second.stop();
    share(&[own(stack)]);
    stack.is_well();
}
