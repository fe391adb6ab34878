//! The board has one publisher: who holds the lease.

use serde_json::Value as Json;

#[cfg(feature = "crash-points")]
use std::time::Duration;

#[cfg(feature = "crash-points")]
use nix::sys::signal::{Signal, kill};

use super::{agrees, another, own, sink, watched};
use crate::support::{Bench, Event, Record, Stack, Topics, eventually, same};
#[cfg(feature = "crash-points")]
use crate::support::{Clock, Worker};

/// Who holds the lease, and the board's sequence number and moment, as of one
/// moment.
type Published = (Option<String>, Option<i64>, Option<i64>);

fn published(stack: &Stack) -> Published {
    let script = "return {redis.call('GET', '{top10m}:lease'), \
                  redis.call('HGET', '{top10m}:meta', 'seq'), \
                  redis.call('HGET', '{top10m}:meta', 'as_of')}";
    stack.stores.redis(&["EVAL", script, "0"])
}

/// Waits until one of these publishes the board and the others stand by; says
/// which.
fn publishes(workers: &[&str]) -> usize {
    eventually("one publishes and the others stand by", || {
        let states: Vec<Json> = workers
            .iter()
            .map(|url| sink(url, "redis")["state"].clone())
            .collect();
        let running: Vec<usize> = (0..states.len())
            .filter(|place| states[*place] == "running")
            .collect();
        let standby = states.iter().filter(|state| *state == "standby").count();
        match running[..] {
            [one] if standby + 1 == states.len() => Ok(one),
            _ => Err(format!("{states:?}")),
        }
    })
}

pub(super) fn lease(stack: &Stack) {
    let mut others = vec![another(stack, &[]), another(stack, &[])];
    let urls = [own(stack), others[0].url(), others[1].url()].map(str::to_owned);
    let [own, first, second] = [&urls[0], &urls[1], &urls[2]];
    assert_eq!(publishes(&[own, first, second]), 0, "who was there first");
    let seen = watched(
        || published(stack),
        || {
            stack.kill("pipeline");
            let holder = publishes(&[first, second]);
            let event = Event::insert(stack);
            event.scores(event.content, Some(1));
            others[holder].pause();
            let next = &others[1 - holder];
            eventually("the other takes over", || {
                same(&0, publishes(&[next.url()]))
            });
            event.scores(event.content, Some(1));
            others[holder].resume();
            assert_eq!(publishes(&[next.url(), others[holder].url()]), 0);
            let event = Event::insert(stack);
            event.scores(event.content, Some(1));
            stack.fanout.run(&["verify"]).ends_with(0);
            stack.mend();
            publishes(&[next.url(), others[holder].url(), own]);
            others.remove(holder).stop();
            others.remove(0).stop();
            assert_eq!(publishes(&[own]), 0);
        },
    );
    one_after_the_other(&seen);
    agrees(stack);
}

/// A holder that has lost the lease never has it again, and the board only ever
/// grows younger.
fn one_after_the_other(seen: &[Published]) {
    let mut holders: Vec<&str> = Vec::new();
    let (mut seq, mut as_of) = (None, None);
    // Each counts from one; at first the board is still its predecessor's.
    let mut begins_anew = true;
    for (holder, now_seq, now_as_of) in seen {
        assert!(*now_as_of >= as_of, "the board grows older: {seen:?}");
        if let Some(holder) = holder.as_deref()
            && holders.last() != Some(&holder)
        {
            assert!(!holders.contains(&holder), "{holder} is back: {seen:?}");
            holders.push(holder);
            begins_anew = true;
        }
        if *now_as_of > as_of {
            assert!(begins_anew || *now_seq > seq, "an old board: {seen:?}");
            begins_anew = false;
        }
        (seq, as_of) = (*now_seq, *now_as_of);
    }
    assert_eq!(holders.len(), 4, "{holders:?}");
}

/// The board's worker has a clock of its own: twenty minutes ahead, then right.
#[cfg(feature = "crash-points")]
pub(super) fn set_back(stack: &Stack) {
    let clock = Clock::new();
    kill(stack.pid("pipeline"), Signal::SIGTERM).expect("it runs");
    let fanout = stack.fanout.with("FANOUT_CLOCK_FILE", &clock.file());
    let worker = Worker::start(stack, &fanout, &[]);
    let before = Event::insert(stack);
    before.scores(before.content, Some(1));
    clock.set(Duration::from_secs(20 * 60));
    before.scores(before.content, None);
    let meanwhile = Event::insert(stack);
    meanwhile.becomes("device", &Json::from("ios"));
    let shown = stack.fanout.document(0, &["leaderboard"]);
    assert_eq!(shown["remark"]["code"], "ahead_of_clock", "{shown:#}");
    let report = stack.fanout.document(5, &["verify", "--timeout", "5s"]);
    let found = report.to_string();
    assert!(found.contains(r#""what":"as_of""#), "{report:#}");
    clock.set(Duration::ZERO);
    before.scores(before.content, Some(1));
    meanwhile.scores(meanwhile.content, Some(1));
    stack.fanout.run(&["verify"]).ends_with(0);
    let log = worker.log();
    assert!(log.contains("the clock was set back"), "{}", worker.said());
    worker.stop();
    stack.mend();
    agrees(stack);
}

/// The board's group has no members: what somebody commits whose time is over
/// is not refused.
pub(super) fn stray_commits(stack: &Stack) {
    let poison = Record::garbage();
    let bench = Bench::new(stack, "stray");
    let (topics, topic) = (Topics::of(stack), bench.events_topic());
    let group = bench.group("redis");
    let committed = || topics.commits(&group, &topic).swap_remove(0);
    let is_at = |end: i64| {
        eventually("the group is at the end", || {
            let (offset, said) = committed();
            same(&end, offset).map(|_| said)
        })
    };
    let letters = || {
        let listed = bench
            .fanout()
            .document(0, &["dlq", "ls", "--sink", "redis"]);
        let letters = listed["letters"].as_array().expect("letters");
        letters.len()
    };
    let worker = bench.run(&["--sinks", "redis"]);
    bench.event(0, &poison);
    eventually("it is dead-lettered", || same(&1, letters()));
    let said = is_at(1);
    // As a late commit of an earlier holder, then as another tool's.
    for (offset, says) in [(0, said.replace(r#""o":1"#, r#""o":0"#)), (7, said.clone())] {
        topics.commit(&group, &topic, 0, (offset, &says));
        assert_eq!(is_at(1), said, "it is set right though nothing came");
    }
    worker.stop();
    let end = bench.event(0, &poison).offset + 1;
    let other = r#"{"f":1,"t":"00000000-0000-0000-0000-000000000007"}"#;
    topics.commit(&group, &topic, 0, (end, other));
    let worker = bench.run(&["--sinks", "redis"]);
    // So all counts that this life has, the first once more.
    eventually("of another life, it does not count", || same(&3, letters()));
    eventually("the commit is its own again", || {
        let (offset, says) = committed();
        let own = offset == end && says.contains(&format!(r#""o":{end}"#));
        own.then_some(()).ok_or(says)
    });
    worker.stop();
}
