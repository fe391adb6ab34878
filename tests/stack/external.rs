//! A misbehaving external system: which calls are retried, which are
//! dead-lettered and which halt the sink. The other sinks keep running.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::{
    Test,
    cases::case::{Sent, Subject},
    support::{Bench, Stack, Worker, check_equal, eventually},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[("a_misbehaving_external_system_is_tolerated", misbehaving)];

/// A project whose external system injects failures.
struct Trial<'a> {
    bench: Bench<'a>,
    worker: Worker,
    /// Number of events written so far.
    written: i64,
    /// Ids of the events that were rejected permanently.
    rejected: BTreeSet<i64>,
}

fn misbehaving(stack: &Stack) {
    let bench = Bench::new(stack, "faults");
    let worker = bench.run(&[]);
    let mut trial = Trial {
        bench,
        worker,
        written: 0,
        rejected: BTreeSet::new(),
    };
    trial.test_temporary_failures();
    trial.test_refusal_of_all_calls();
    trial.test_rejected_record();
    trial.test_conflict();
    trial.test_consecutive_rejections();
    let expected: BTreeSet<i64> = (0..trial.written)
        .map(id)
        .filter(|id| !trial.rejected.contains(id))
        .collect();
    check_equal(&expected, trial.accepted()).expect("each insert is accepted or dead-lettered");
}

impl Trial<'_> {
    fn test_temporary_failures(&mut self) {
        for faults in ["status=429&retry_after_seconds=1", "status=503"] {
            let before = self.sink()["retries"].as_u64();
            self.bench.inject_faults(faults);
            self.write(3);
            eventually(&format!("{faults} is retried"), || {
                let sink = self.sink();
                let has_retried = sink["retries"].as_u64() > before;
                has_retried.then_some(()).ok_or_else(|| sink.to_string())
            });
            self.wait_for_other_sinks();
            self.bench.inject_faults("");
            self.wait_until_done(faults);
        }
        assert_eq!(self.sink()["dead_letters"], serde_json::json!({}));
    }

    /// A wrong URL halts the sink instead of dead-lettering the topic.
    fn test_refusal_of_all_calls(&mut self) {
        self.bench.inject_faults("status=404");
        // Write into several partitions, which must not wait for each other.
        self.write(6);
        self.wait_for_halt("a wrong url", "http_refused");
        self.wait_for_other_sinks();
        self.bench.inject_faults("");
        self.wait_until_done("a corrected url");
        assert_eq!(self.sink()["dead_letters"], serde_json::json!({}));
    }

    fn test_rejected_record(&mut self) {
        self.bench.inject_faults("status=400");
        self.write(1);
        self.rejected.insert(id(self.written - 1));
        self.wait_until_done("a rejected record");
        self.bench.inject_faults("");
        self.assert_dead_letters("http_rejected", 1);
    }

    fn test_conflict(&mut self) {
        self.bench.inject_faults("status=409");
        self.write(1);
        self.rejected.insert(id(self.written - 1));
        self.wait_until_done("a conflict");
        self.bench.inject_faults("");
        self.assert_dead_letters("http_conflict", 1);
    }

    fn test_consecutive_rejections(&mut self) {
        let before = self.written;
        self.bench.inject_faults("status=422");
        self.write(60);
        self.wait_for_halt("60 rejects", "http_rejects_in_a_row");
        self.bench.inject_faults("");
        self.wait_until_done("the records after the halt");
        let accepted = self.accepted();
        let rejected: BTreeSet<i64> = (before..self.written)
            .map(id)
            .filter(|id| !accepted.contains(id))
            .collect();
        assert!(rejected.len() < 20, "{rejected:?}");
        self.assert_dead_letters("http_rejected", 1 + rejected.len());
        self.rejected.extend(rejected);
    }

    /// Writes `count` events.
    fn write(&mut self, count: i64) {
        for number in self.written..self.written + count {
            let subject = Subject::new("cdc-faults", number);
            let insert = Sent::insert(&subject, subject.after());
            let partition = i32::try_from(number % 3).expect("0 to 2");
            self.bench.write_event(partition, &insert.record);
        }
        self.written += count;
    }

    fn sink(&self) -> Json {
        self.worker.sink("http")
    }

    fn accepted(&self) -> BTreeSet<i64> {
        let accepted = self.bench.accepted();
        let ids = accepted
            .iter()
            .filter_map(|call| call["body"]["id"].as_i64());
        ids.collect()
    }

    fn wait_for_halt(&self, situation: &str, code: &str) {
        eventually(&format!("{situation}: http halts"), || {
            let sink = self.sink();
            let halted = sink["state"] == "halted" && sink["halt"]["code"] == code;
            halted.then_some(()).ok_or_else(|| sink.to_string())
        });
    }

    fn wait_until_done(&self, situation: &str) {
        eventually(
            &format!("{situation}: http has processed all records"),
            || {
                let sink = self.sink();
                let done =
                    self.is_complete(&sink) && sink["lag"] == 0 && sink["state"] == "running";
                done.then_some(()).ok_or_else(|| sink.to_string())
            },
        );
    }

    /// Returns true if every written record is applied or dead-lettered.
    fn is_complete(&self, sink: &Json) -> bool {
        let dead = sink["dead_letters"].as_object().expect("counts").values();
        let counts = dead.chain([&sink["applied"]]).filter_map(Json::as_i64);
        counts.sum::<i64>() == self.written
    }

    /// Waits until the other sinks have processed all records while http has
    /// not.
    fn wait_for_other_sinks(&self) {
        for name in ["redis", "clickhouse"] {
            eventually(&format!("{name} keeps running"), || {
                let sink = self.worker.sink(name);
                let done = self.is_complete(&sink) && sink["state"] == "running";
                done.then_some(()).ok_or_else(|| sink.to_string())
            });
        }
        assert!(!self.is_complete(&self.sink()));
    }

    fn assert_dead_letters(&self, code: &str, count: usize) {
        check_equal(
            &serde_json::json!(count),
            self.sink()["dead_letters"][code].clone(),
        )
        .unwrap_or_else(|error| panic!("{code}: {error}\n{}", self.worker.log_tail()));
    }
}

/// Returns the id of an event by its number.
fn id(number: i64) -> i64 {
    Subject::new("cdc-faults", number).id
}
