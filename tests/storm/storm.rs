//! One storm from beginning to end.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
    time::Duration,
};

use crate::{
    acknowledged::{self, Look},
    faults::Faults,
    load::{self, Written},
    log::{EVENTS, PARTITIONS},
    oracle::{self, Judged, Seen},
    poison::{self, Sent},
    reader::{self, Reading},
    recovery::Recoveries,
    report::Report,
    schedule::{Entry, one_by_one, schedule},
    stage::{Stage, until},
    workers::Workers,
};

/// Until the first event is through a new stack.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// Between two looks at the log's ends.
const PAUSE: Duration = Duration::from_millis(200);

/// What everybody who was there came back with.
struct Told {
    written: Written,
    poison: Sent,
    reading: Reading,
    looks: Vec<Look>,
    seen: Vec<Seen>,
}

/// Runs it; panics where something was found.
pub fn run() {
    let seed = number("STORM_SEED").unwrap_or_else(rand::random);
    let minutes = number("STORM_MINUTES").unwrap_or(3);
    let lone = number("STORM_ONE_BY_ONE").is_some_and(|number| number > 0);
    let how = if lone { "STORM_ONE_BY_ONE=1 " } else { "" };
    let again = format!("{how}STORM_SEED={seed} STORM_MINUTES={minutes} make storm");
    println!("{again}");
    let entries = if lone {
        one_by_one(seed, minutes)
    } else {
        schedule(seed, minutes)
    };
    for entry in &entries {
        println!("{entry}");
    }
    let stage = Stage::set();
    let workers = Workers::start(&stage);
    let went = catch_unwind(AssertUnwindSafe(|| {
        pass(&stage, &workers, seed, minutes, &entries);
    }));
    let findings = stage.findings();
    if went.is_ok() && findings.is_empty() {
        return;
    }
    println!("{}", workers.evidence());
    println!("{}", stage.stack.fanout.run(&["status"]).evidence());
    println!("\n{}\n\nagain: {again}", findings.join("\n\n"));
    match went {
        Ok(()) => panic!("{} findings", findings.len()),
        Err(panic) => resume_unwind(panic),
    }
}

/// The storm, the calm after it, and the report.
fn pass(stage: &Stage, workers: &Workers<'_>, seed: u64, minutes: u64, entries: &[Entry]) {
    let recoveries = Recoveries::default();
    starts(stage, workers);
    let faults = Faults::new(stage, workers, &recoveries);
    let told = weather(stage, seed, minutes, entries, &faults);
    let judged = calm(stage, workers, &faults, &told);
    let report = Report {
        seed,
        minutes,
        faults: faults.done(),
        written: &told.written,
        poison: &told.poison,
        looks: told.reading.looks,
        judged: &judged,
        recoveries: &recoveries,
        findings: stage.findings().len(),
    };
    report.print();
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// The pipeline has begun: its topics and the board are there.
fn starts(stage: &Stage, workers: &Workers<'_>) {
    let started = until(STARTS_WITHIN, || {
        let ends = stage.broker().ends(EVENTS, PARTITIONS);
        ends.map_err(|error| error.to_string())?;
        reader::now(stage).ok_or("there is no board")?;
        Ok(())
    });
    if let Err(instead) = started {
        panic!("{instead}\n{}", workers.evidence());
    }
}

/// Everything at once, until the time is over and all is mended.
fn weather(stage: &Stage, seed: u64, minutes: u64, entries: &[Entry], faults: &Faults<'_>) -> Told {
    stage.say("the storm begins");
    let begun = stage.begun.elapsed();
    let entries: Vec<Entry> = entries
        .iter()
        .map(|entry| Entry {
            at: entry.at + begun,
            ..entry.clone()
        })
        .collect();
    thread::scope(|scope| {
        let written = scope.spawn(|| with(stage, || load::write(stage, seed)));
        let poison = scope.spawn(|| with(stage, || poison::write(stage, seed)));
        let reading = scope.spawn(|| with(stage, || reader::read(stage)));
        let looks = scope.spawn(|| with(stage, || acknowledged::look(stage)));
        let seen = scope.spawn(|| with(stage, || ends(stage)));
        thread::scope(|breaking| {
            breaking.spawn(|| with(stage, || faults.break_servers(&entries)));
            with(stage, || faults.break_others(&entries, breaking));
        });
        stage.sleep_until(begun + Duration::from_secs(minutes * 60));
        stage.say("the storm is over");
        stage.end();
        Told {
            written: written.join().expect("the writer"),
            poison: poison.join().expect("the poisoner"),
            reading: reading.join().expect("the reader"),
            looks: looks.join().expect("the looks"),
            seen: seen.join().expect("the ends"),
        }
    })
}

/// Does it; should it panic, everything ends.
fn with<T>(stage: &Stage, does: impl FnOnce() -> T) -> T {
    let _ends = stage.ends_with_me();
    does()
}

/// The ends of the log, as they come to be.
fn ends(stage: &Stage) -> Vec<Seen> {
    let broker = stage.broker();
    let mut seen: Vec<Seen> = Vec::new();
    while !stage.is_over() {
        if let Ok(ends) = broker.ends(EVENTS, PARTITIONS) {
            let at_us = jiff::Timestamp::now().as_microsecond();
            if seen.last().is_none_or(|last| last.ends != ends) {
                seen.push(Seen { at_us, ends });
            }
        }
        thread::sleep(PAUSE);
    }
    seen
}

/// Everything works again, with one worker; then the oracle.
fn calm(stage: &Stage, workers: &Workers<'_>, faults: &Faults<'_>, told: &Told) -> Judged {
    stage.set_answers("");
    faults.mend();
    workers.look_after();
    workers.become_count(1);
    let judged = oracle::judge(stage, &told.reading, &told.looks, &told.seen);
    for panic in workers.panics() {
        stage.found(panic);
    }
    judged
}
