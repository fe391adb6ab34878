//! Tests of the numbers behind `/status` and `/metrics`.

use super::*;

fn halt(reason: &str) -> Halt {
    Halt {
        code: "code".to_owned(),
        reason: reason.to_owned(),
        remedy: "remedy".to_owned(),
    }
}

#[test]
fn the_most_severe_problem_determines_the_state() {
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    stats.set_phase(Phase::Running);
    assert_eq!(stats.status().state, SinkState::Running);
    stats.failed(1, "refused");
    assert_eq!(stats.status().state, SinkState::Retrying);
    stats.halt(0, halt("schema"));
    assert_eq!(stats.status().state, SinkState::Halted);
    assert!(stats.has_to_wait(1));
    assert!(!stats.has_to_wait(0));
    stats.unhalt(0);
    stats.wrote(1);
    assert_eq!(stats.status().state, SinkState::Running);
}

#[test]
fn pending_work_is_reported_and_its_failure_outlives_a_write() {
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    stats.set_phase(Phase::Running);
    stats.flushed(0, FlushOutcome::More("7 to write".to_owned()));
    let status = stats.status();
    assert_eq!(status.state, SinkState::Running);
    assert_eq!(status.detail.as_deref(), Some("7 to write"));
    stats.flush_failed(0, "too slow");
    stats.wrote(0);
    stats.recovered(0);
    let status = stats.status();
    assert_eq!(status.state, SinkState::Retrying);
    assert_eq!(status.detail.as_deref(), Some("too slow"));
    stats.flushed(0, FlushOutcome::Done);
    let status = stats.status();
    assert_eq!((status.state, status.detail), (SinkState::Running, None));
}

#[test]
fn only_the_first_halted_partition_retries() {
    let halt = || Halt {
        code: "x".to_owned(),
        reason: "y".to_owned(),
        remedy: "z".to_owned(),
    };
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    assert!(stats.halt(1, halt()) && stats.halt(0, halt()));
    assert!(!stats.has_to_wait(0) && stats.has_to_wait(1));
    assert!(stats.has_to_wait(2));
    stats.unhalt(0);
    assert!(!stats.has_to_wait(1) && stats.has_to_wait(0));
    stats.unhalt(1);
    assert!(!stats.has_to_wait(0));
}

#[test]
fn many_dead_letters_within_a_minute_degrade_the_sink() {
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    let reject = |count: usize| {
        let dead_letters = vec!["bad_type"; count];
        stats.add(&Done {
            dead_letters,
            ..Done::default()
        });
        stats
            .status()
            .degradation
            .map(|degradation| degradation.reason)
    };
    assert_eq!(reject(60), None);
    let reason = reject(1);
    assert_eq!(
        reason.as_deref(),
        Some("61 dead letters in the last minute")
    );
}

#[test]
fn without_end_offsets_the_sink_is_retrying_and_its_lag_unknown() {
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    stats.set_phase(Phase::Running);
    stats.claimed(0, Some(3));
    stats.set_ends(&[3]);
    assert_eq!(stats.status().lag, Some(0));
    stats.lost_sight("kafka: unreachable");
    let status = stats.status();
    assert_eq!((status.state, status.lag), (SinkState::Retrying, None));
    stats.set_ends(&[4]);
    let status = stats.status();
    assert_eq!((status.state, status.lag), (SinkState::Running, Some(1)));
}

#[test]
fn the_lag_is_unknown_until_every_end_offset_is_known() {
    let stats = SinkStats::new(ConsumerGroup::Http, "t");
    assert_eq!(stats.status().lag, None);
    stats.claimed(0, None);
    stats.claimed(1, Some(5));
    stats.set_ends(&[3]);
    assert_eq!(stats.status().lag, None);
    stats.set_ends(&[3, 9]);
    assert_eq!(stats.status().lag, Some(7));
    stats.committed(1, 9);
    assert_eq!(stats.status().lag, Some(3));
    stats.released(0);
    assert_eq!(stats.status().lag, Some(0));
    assert!(!stats.status().lag_is_estimate);
    stats.passed(10, 20);
    stats.set_ends(&[3, 13]);
    let status = stats.status();
    assert_eq!((status.lag, status.lag_is_estimate), (Some(2), true));
}
