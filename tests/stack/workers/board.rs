//! Only the lease holder publishes the board.

use serde_json::Value as Json;

#[cfg(feature = "crash-points")]
use std::time::Duration;

#[cfg(feature = "crash-points")]
use nix::sys::signal::{Signal, kill};

use super::{assert_consistent, observe, pipeline_url, sink, start_worker};
use crate::support::{Bench, Event, Record, Stack, Topics, check_equal, eventually};
#[cfg(feature = "crash-points")]
use crate::support::{Clock, Worker};

/// The lease holder, and the board's sequence number and `as_of`, read
/// atomically.
type Published = (Option<String>, Option<i64>, Option<i64>);

fn published(stack: &Stack) -> Published {
    let script = "return {redis.call('GET', '{top10m}:lease'), \
                  redis.call('HGET', '{top10m}:meta', 'seq'), \
                  redis.call('HGET', '{top10m}:meta', 'as_of')}";
    stack.stores.redis(&["EVAL", script, "0"])
}

/// Waits until exactly one of these workers publishes the board and the others
/// stand by. Returns its index.
fn wait_for_publisher(workers: &[&str]) -> usize {
    eventually("one worker publishes and the others stand by", || {
        let states: Vec<Json> = workers
            .iter()
            .map(|url| sink(url, "redis")["state"].clone())
            .collect();
        let running: Vec<usize> = (0..states.len())
            .filter(|index| states[*index] == "running")
            .collect();
        let standby = states.iter().filter(|state| *state == "standby").count();
        match running[..] {
            [index] if standby + 1 == states.len() => Ok(index),
            _ => Err(format!("{states:?}")),
        }
    })
}

pub(super) fn lease(stack: &Stack) {
    let mut others = vec![start_worker(stack, &[]), start_worker(stack, &[])];
    let urls = [pipeline_url(stack), others[0].url(), others[1].url()].map(str::to_owned);
    let [pipeline, first, second] = [&urls[0], &urls[1], &urls[2]];
    assert_eq!(
        wait_for_publisher(&[pipeline, first, second]),
        0,
        "the first worker keeps the lease"
    );
    let seen = observe(
        || published(stack),
        || {
            stack.kill("pipeline");
            let holder = wait_for_publisher(&[first, second]);
            let event = Event::insert(stack);
            event.wait_for_score(event.content, Some(1));
            others[holder].pause();
            let next = &others[1 - holder];
            eventually("the other worker takes over", || {
                check_equal(&0, wait_for_publisher(&[next.url()]))
            });
            event.wait_for_score(event.content, Some(1));
            others[holder].resume();
            assert_eq!(wait_for_publisher(&[next.url(), others[holder].url()]), 0);
            let event = Event::insert(stack);
            event.wait_for_score(event.content, Some(1));
            stack.fanout.run(&["verify"]).ends_with(0);
            stack.repair();
            wait_for_publisher(&[next.url(), others[holder].url(), pipeline]);
            others.remove(holder).stop();
            others.remove(0).stop();
            assert_eq!(wait_for_publisher(&[pipeline]), 0);
        },
    );
    assert_ordered_handover(&seen);
    assert_consistent(stack);
}

/// Asserts that a worker that lost the lease never regains it, and that the
/// board's `as_of` never decreases.
fn assert_ordered_handover(seen: &[Published]) {
    let mut holders: Vec<&str> = Vec::new();
    let (mut seq, mut as_of) = (None, None);
    // The sequence of each holder starts at 1. Until a new holder publishes,
    // the board is its predecessor's.
    let mut is_new_holder = true;
    for (holder, new_seq, new_as_of) in seen {
        assert!(*new_as_of >= as_of, "as_of decreased: {seen:?}");
        if let Some(holder) = holder.as_deref()
            && holders.last() != Some(&holder)
        {
            assert!(
                !holders.contains(&holder),
                "{holder} regained the lease: {seen:?}"
            );
            holders.push(holder);
            is_new_holder = true;
        }
        if *new_as_of > as_of {
            assert!(
                is_new_holder || *new_seq > seq,
                "the sequence number did not increase: {seen:?}"
            );
            is_new_holder = false;
        }
        (seq, as_of) = (*new_seq, *new_as_of);
    }
    assert_eq!(holders.len(), 4, "{holders:?}");
}

/// The clock of the board's worker is first set 20 minutes ahead and then
/// corrected.
#[cfg(feature = "crash-points")]
pub(super) fn set_back(stack: &Stack) {
    let clock = Clock::new();
    kill(stack.pid("pipeline"), Signal::SIGTERM).expect("stop the pipeline");
    let fanout = stack.fanout.with("FANOUT_CLOCK_FILE", &clock.file());
    let worker = Worker::start(stack, &fanout, &[]);
    let before = Event::insert(stack);
    before.wait_for_score(before.content, Some(1));
    clock.set(Duration::from_secs(20 * 60));
    before.wait_for_score(before.content, None);
    let during = Event::insert(stack);
    during.wait_for_column("device", &Json::from("ios"));
    let shown = stack.fanout.document(0, &["leaderboard"]);
    assert_eq!(shown["remark"]["code"], "ahead_of_clock", "{shown:#}");
    let report = stack.fanout.document(5, &["verify", "--timeout", "5s"]);
    let found = report.to_string();
    assert!(found.contains(r#""what":"as_of""#), "{report:#}");
    clock.set(Duration::ZERO);
    before.wait_for_score(before.content, Some(1));
    during.wait_for_score(during.content, Some(1));
    stack.fanout.run(&["verify"]).ends_with(0);
    let log = worker.log();
    assert!(
        log.contains("the clock was set back"),
        "{}",
        worker.log_tail()
    );
    worker.stop();
    stack.repair();
    assert_consistent(stack);
}

/// The board's group has no members, so Kafka accepts commits from a former
/// lease holder.
pub(super) fn stray_commits(stack: &Stack) {
    let undecodable = Record::undecodable();
    let bench = Bench::new(stack, "stray");
    let (topics, topic) = (Topics::new(stack), bench.events_topic());
    let group = bench.group("redis");
    let committed = || topics.commits(&group, &topic).swap_remove(0);
    let wait_for_commit = |end: i64| {
        eventually(&format!("the group has committed offset {end}"), || {
            let (offset, metadata) = committed();
            check_equal(&end, offset).map(|_| metadata)
        })
    };
    let dead_letters = || {
        let listed = bench
            .fanout()
            .document(0, &["dlq", "ls", "--sink", "redis"]);
        let letters = listed["letters"].as_array().expect("letters");
        letters.len()
    };
    let worker = bench.run(&["--sinks", "redis"]);
    bench.write_event(0, &undecodable);
    eventually("the record is dead-lettered", || {
        check_equal(&1, dead_letters())
    });
    let metadata = wait_for_commit(1);
    // First a late commit of a former lease holder, then a commit of another
    // tool.
    for (offset, changed) in [
        (0, metadata.replace(r#""o":1"#, r#""o":0"#)),
        (7, metadata.clone()),
    ] {
        topics.commit(&group, &topic, 0, (offset, &changed));
        assert_eq!(
            wait_for_commit(1),
            metadata,
            "the commit is corrected without a new record"
        );
    }
    worker.stop();
    let end = bench.write_event(0, &undecodable).offset + 1;
    let other = r#"{"f":1,"t":"00000000-0000-0000-0000-000000000007"}"#;
    topics.commit(&group, &topic, 0, (end, other));
    let worker = bench.run(&["--sinks", "redis"]);
    // The commit of another incarnation is ignored, so both records are read,
    // the first one again.
    eventually("a commit of another incarnation is ignored", || {
        check_equal(&3, dead_letters())
    });
    eventually("fanout has committed its own offset again", || {
        let (offset, metadata) = committed();
        let is_own = offset == end && metadata.contains(&format!(r#""o":{end}"#));
        is_own.then_some(()).ok_or(metadata)
    });
    worker.stop();
}
