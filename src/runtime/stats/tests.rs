//! Tests of what `/status` and `/metrics` say.

use super::*;

fn halt(reason: &str) -> Halt {
    Halt {
        code: "code".to_owned(),
        reason: reason.to_owned(),
        remedy: "remedy".to_owned(),
    }
}

#[test]
fn the_worst_trouble_is_the_state() {
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    stats.set_phase(Phase::Running);
    assert_eq!(stats.status().state, SinkState::Running);
    stats.failed(1, "refused");
    assert_eq!(stats.status().state, SinkState::Retrying);
    stats.halt(0, halt("schema"));
    assert_eq!(stats.status().state, SinkState::Halted);
    assert!(stats.waits_for_another(1));
    assert!(!stats.waits_for_another(0));
    stats.unhalt(0);
    stats.wrote(1);
    assert_eq!(stats.status().state, SinkState::Running);
}

#[test]
fn pending_work_is_reported_and_its_failure_outlives_a_write() {
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    stats.set_phase(Phase::Running);
    stats.settled(0, Settled::More("7 to write".to_owned()));
    let status = stats.status();
    assert_eq!(status.state, SinkState::Running);
    assert_eq!(status.detail.as_deref(), Some("7 to write"));
    stats.unsettled(0, "too slow");
    stats.wrote(0);
    stats.recovered(0);
    let status = stats.status();
    assert_eq!(status.state, SinkState::Retrying);
    assert_eq!(status.detail.as_deref(), Some("too slow"));
    stats.settled(0, Settled::Done);
    let status = stats.status();
    assert_eq!((status.state, status.detail), (SinkState::Running, None));
}

#[test]
fn of_several_halted_partitions_the_first_looks_again() {
    let halt = || Halt {
        code: "x".to_owned(),
        reason: "y".to_owned(),
        remedy: "z".to_owned(),
    };
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    assert!(stats.halt(1, halt()) && stats.halt(0, halt()));
    assert!(!stats.waits_for_another(0) && stats.waits_for_another(1));
    assert!(stats.waits_for_another(2));
    stats.unhalt(0);
    assert!(!stats.waits_for_another(1) && stats.waits_for_another(0));
    stats.unhalt(1);
    assert!(!stats.waits_for_another(0));
}

#[test]
fn many_dead_letters_are_worth_a_word_for_a_minute() {
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    let reject = |count: usize| {
        let dead_letters = vec!["bad_type"; count];
        stats.add(&Done {
            dead_letters,
            ..Done::default()
        });
        stats.status().caution.map(|caution| caution.reason)
    };
    assert_eq!(reject(60), None);
    let said = reject(1);
    assert_eq!(said.as_deref(), Some("61 dead letters in the last minute"));
}

#[test]
fn without_the_logs_ends_nothing_is_called_well() {
    let stats = SinkStats::new(ConsumerGroup::Facts, "t");
    stats.set_phase(Phase::Running);
    stats.claimed(0, Some(3));
    stats.set_ends(&[3]);
    assert_eq!(stats.status().lag, Some(0));
    stats.lost_sight("kafka: away");
    let status = stats.status();
    assert_eq!((status.state, status.lag), (SinkState::Retrying, None));
    stats.set_ends(&[4]);
    let status = stats.status();
    assert_eq!((status.state, status.lag), (SinkState::Running, Some(1)));
}

#[test]
fn the_lag_is_unknown_until_each_end_is_known() {
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
