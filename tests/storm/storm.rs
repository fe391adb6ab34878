//! Runs one storm from beginning to end.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
    time::Duration,
};

use crate::{
    acknowledged::{self, Observation},
    faults::Faults,
    load::{self, Written},
    log::{EVENTS, PARTITIONS},
    oracle::{self, Comparisons, LogEnds},
    poison::{self, Sent},
    reader::{self, Reading},
    recovery::Recoveries,
    report::Report,
    schedule::{Entry, one_by_one, schedule},
    stage::{Stage, wait_until},
    workers::Workers,
};

/// Time limit for the pipeline of a new stack to start.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// Interval between two reads of the log's end offsets.
const PAUSE: Duration = Duration::from_millis(200);

/// The results of all threads.
struct Results {
    written: Written,
    poison: Sent,
    reading: Reading,
    observations: Vec<Observation>,
    log_ends: Vec<LogEnds>,
}

/// Runs the storm. Panics if there are findings.
pub fn run() {
    let seed = number("STORM_SEED").unwrap_or_else(rand::random);
    let minutes = number("STORM_MINUTES").unwrap_or(3);
    let is_one_by_one = number("STORM_ONE_BY_ONE").is_some_and(|number| number > 0);
    let prefix = if is_one_by_one {
        "STORM_ONE_BY_ONE=1 "
    } else {
        ""
    };
    let command = format!("{prefix}STORM_SEED={seed} STORM_MINUTES={minutes} make storm");
    println!("{command}");
    let entries = if is_one_by_one {
        one_by_one(seed, minutes)
    } else {
        schedule(seed, minutes)
    };
    for entry in &entries {
        println!("{entry}");
    }
    let stage = Stage::start();
    let workers = Workers::start(&stage);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        run_on(&stage, &workers, seed, minutes, &entries);
    }));
    let findings = stage.findings();
    if outcome.is_ok() && findings.is_empty() {
        return;
    }
    println!("{}", workers.evidence());
    println!("{}", stage.stack.fanout.run(&["status"]).evidence());
    println!("\n{}\n\nrepeat with: {command}", findings.join("\n\n"));
    match outcome {
        Ok(()) => panic!("{} findings", findings.len()),
        Err(panic) => resume_unwind(panic),
    }
}

/// Runs the storm and the checks after it, and prints the report.
fn run_on(stage: &Stage, workers: &Workers<'_>, seed: u64, minutes: u64, entries: &[Entry]) {
    let recoveries = Recoveries::default();
    wait_for_start(stage, workers);
    let faults = Faults::new(stage, workers, &recoveries);
    let results = run_storm(stage, seed, minutes, entries, &faults);
    let comparisons = check_stores(stage, workers, &faults, &results);
    let report = Report {
        seed,
        minutes,
        faults: faults.counts(),
        written: &results.written,
        poison: &results.poison,
        board_reads: results.reading.reads,
        comparisons: &comparisons,
        recoveries: &recoveries,
        findings: stage.findings().len(),
    };
    report.print();
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} must be a number, not {text}")))
}

/// Waits until the pipeline has started, so that its topics and the board
/// exist.
fn wait_for_start(stage: &Stage, workers: &Workers<'_>) {
    let started = wait_until(STARTS_WITHIN, || {
        let ends = stage.broker().end_offsets(EVENTS, PARTITIONS);
        ends.map_err(|error| error.to_string())?;
        reader::current(stage).ok_or("there is no board")?;
        Ok(())
    });
    if let Err(error) = started {
        panic!("{error}\n{}", workers.evidence());
    }
}

/// Runs the load, the checks and the faults in parallel until the storm has
/// ended and every fault is repaired.
fn run_storm(
    stage: &Stage,
    seed: u64,
    minutes: u64,
    entries: &[Entry],
    faults: &Faults<'_>,
) -> Results {
    stage.log("the storm begins");
    let start = stage.start.elapsed();
    let entries: Vec<Entry> = entries
        .iter()
        .map(|entry| Entry {
            at: entry.at + start,
            ..entry.clone()
        })
        .collect();
    thread::scope(|scope| {
        let written = scope.spawn(|| guarded(stage, || load::write(stage, seed)));
        let poison = scope.spawn(|| guarded(stage, || poison::write(stage, seed)));
        let reading = scope.spawn(|| guarded(stage, || reader::read(stage)));
        let observations = scope.spawn(|| guarded(stage, || acknowledged::observe(stage)));
        let log_ends = scope.spawn(|| guarded(stage, || record_log_ends(stage)));
        thread::scope(|breaking| {
            breaking.spawn(|| guarded(stage, || faults.break_servers(&entries)));
            guarded(stage, || faults.break_others(&entries, breaking));
        });
        stage.sleep_until(start + Duration::from_secs(minutes * 60));
        stage.log("the storm is over");
        stage.end();
        Results {
            written: written.join().expect("the writer"),
            poison: poison.join().expect("the poisoner"),
            reading: reading.join().expect("the reader"),
            observations: observations.join().expect("the observer"),
            log_ends: log_ends.join().expect("the recorder of log ends"),
        }
    })
}

/// Runs `work`. Ends the storm if it panics.
fn guarded<T>(stage: &Stage, work: impl FnOnce() -> T) -> T {
    let _guard = stage.end_on_panic();
    work()
}

/// Records the end offsets of the log as they change.
fn record_log_ends(stage: &Stage) -> Vec<LogEnds> {
    let broker = stage.broker();
    let mut log_ends: Vec<LogEnds> = Vec::new();
    while !stage.is_over() {
        if let Ok(ends) = broker.end_offsets(EVENTS, PARTITIONS) {
            let at_us = jiff::Timestamp::now().as_microsecond();
            if log_ends.last().is_none_or(|last| last.ends != ends) {
                log_ends.push(LogEnds { at_us, ends });
            }
        }
        thread::sleep(PAUSE);
    }
    log_ends
}

/// Restores the stack with one worker, then runs the oracle.
fn check_stores(
    stage: &Stage,
    workers: &Workers<'_>,
    faults: &Faults<'_>,
    results: &Results,
) -> Comparisons {
    stage.set_faults("");
    faults.repair_stack();
    workers.replace_ended();
    workers.set_count(1);
    let comparisons = oracle::compare(
        stage,
        &results.reading,
        &results.observations,
        &results.log_ends,
    );
    for panic in workers.panics() {
        stage.report(panic);
    }
    comparisons
}
