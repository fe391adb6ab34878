//! An external system that misbehaves: what is tried again, what is
//! dead-lettered and what halts the sink, and that the other sinks go on.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use crate::{
    Test,
    cases::case::{Sent, Subject},
    support::{Bench, Stack, Worker, eventually, same},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[("a_misbehaving_external_system_is_endured", misbehaving)];

/// A project whose external system fails to order.
struct Trial<'a> {
    bench: Bench<'a>,
    worker: Worker,
    /// Events written so far.
    written: i64,
    /// Those of them that were rejected for good.
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
    trial.passing_trouble_is_tried_again();
    trial.a_refusal_of_everything_halts_and_recovers();
    trial.a_rejected_record_is_dead_lettered();
    trial.a_conflict_is_tried_a_few_times();
    trial.rejects_in_a_row_halt();
    let expected: BTreeSet<i64> = (0..trial.written)
        .map(id)
        .filter(|id| !trial.rejected.contains(id))
        .collect();
    same(&expected, trial.accepted()).expect("each insert is accepted or dead-lettered");
}

impl Trial<'_> {
    fn passing_trouble_is_tried_again(&mut self) {
        for faults in ["status=429&retry_after_seconds=1", "status=503"] {
            let before = self.sink()["retries"].as_u64();
            self.bench.faults(faults);
            self.write(3);
            eventually(&format!("{faults} is tried again"), || {
                let sink = self.sink();
                let more = sink["retries"].as_u64() > before;
                more.then_some(()).ok_or_else(|| sink.to_string())
            });
            self.others_are_done();
            self.bench.faults("");
            self.is_done(faults);
        }
        assert_eq!(self.sink()["dead_letters"], serde_json::json!({}));
    }

    /// A wrong URL must not dead-letter a topic.
    fn a_refusal_of_everything_halts_and_recovers(&mut self) {
        self.bench.faults("status=404");
        // In more than one partition, which must not wait for each other.
        self.write(6);
        self.halts("a wrong url", "http_refused");
        self.others_are_done();
        self.bench.faults("");
        self.is_done("a url mended");
        assert_eq!(self.sink()["dead_letters"], serde_json::json!({}));
    }

    fn a_rejected_record_is_dead_lettered(&mut self) {
        self.bench.faults("status=400");
        self.write(1);
        self.rejected.insert(id(self.written - 1));
        self.is_done("a rejected record");
        self.bench.faults("");
        self.dead("http_rejected", 1);
    }

    fn a_conflict_is_tried_a_few_times(&mut self) {
        self.bench.faults("status=409");
        self.write(1);
        self.rejected.insert(id(self.written - 1));
        self.is_done("a conflict");
        self.bench.faults("");
        self.dead("http_conflict", 1);
    }

    fn rejects_in_a_row_halt(&mut self) {
        let before = self.written;
        self.bench.faults("status=422");
        self.write(60);
        self.halts("60 rejects", "http_rejects_in_a_row");
        self.bench.faults("");
        self.is_done("what was not rejected before the halt");
        let accepted = self.accepted();
        let rejected: BTreeSet<i64> = (before..self.written)
            .map(id)
            .filter(|id| !accepted.contains(id))
            .collect();
        assert!(rejected.len() < 20, "{rejected:?}");
        self.dead("http_rejected", 1 + rejected.len());
        self.rejected.extend(rejected);
    }

    /// Writes so many events.
    fn write(&mut self, count: i64) {
        for number in self.written..self.written + count {
            let subject = Subject::new("cdc-faults", number);
            let insert = Sent::insert(&subject, subject.after());
            let partition = i32::try_from(number % 3).expect("0 to 2");
            self.bench.event(partition, &insert.record);
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

    fn halts(&self, why: &str, code: &str) {
        eventually(&format!("{why}: http halts"), || {
            let sink = self.sink();
            let halted = sink["state"] == "halted" && sink["halt"]["code"] == code;
            halted.then_some(()).ok_or_else(|| sink.to_string())
        });
    }

    fn is_done(&self, what: &str) {
        eventually(&format!("{what}: http is through"), || {
            let sink = self.sink();
            let done = self.decided(&sink) && sink["lag"] == 0 && sink["state"] == "running";
            done.then_some(()).ok_or_else(|| sink.to_string())
        });
    }

    /// Whether each record written is applied or dead-lettered.
    fn decided(&self, sink: &Json) -> bool {
        let dead = sink["dead_letters"].as_object().expect("counts").values();
        let decided = dead.chain([&sink["applied"]]).filter_map(Json::as_i64);
        decided.sum::<i64>() == self.written
    }

    /// Sinks do not hurt each other.
    fn others_are_done(&self) {
        for name in ["redis", "clickhouse"] {
            eventually(&format!("{name} goes on"), || {
                let sink = self.worker.sink(name);
                let done = self.decided(&sink) && sink["state"] == "running";
                done.then_some(()).ok_or_else(|| sink.to_string())
            });
        }
        assert!(!self.decided(&self.sink()));
    }

    fn dead(&self, code: &str, count: usize) {
        same(
            &serde_json::json!(count),
            self.sink()["dead_letters"][code].clone(),
        )
        .unwrap_or_else(|error| panic!("{code}: {error}\n{}", self.worker.said()));
    }
}

/// The id of an event by its number.
fn id(number: i64) -> i64 {
    Subject::new("cdc-faults", number).id
}
