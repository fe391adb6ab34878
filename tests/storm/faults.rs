//! Makes what is scheduled go wrong, and mends it as an operator would.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    thread::Scope,
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};

use crate::{
    reader,
    recovery::Recoveries,
    schedule::{Answer, Entry, Fault, Mode, Service},
    stage::{SpellId, Stage, until},
    support::Held,
    workers::Workers,
};

/// An operator tries again for so long.
const MENDS_WITHIN: Duration = Duration::from_secs(180);

/// What was mended by itself has its effect for so long.
const SETTLES: Duration = Duration::from_secs(5);

/// How old an old dump is at least.
const DUMP_AGE: Duration = Duration::from_secs(7);

pub struct Faults<'a> {
    pub stage: &'a Stage,
    pub workers: &'a Workers<'a>,
    pub recoveries: &'a Recoveries,
    /// One server at a time is down, and one operator at work.
    servers: Mutex<()>,
    done: Mutex<BTreeMap<String, u64>>,
}

/// What happens at a moment: a fault begins, or is mended.
struct Act {
    at: Duration,
    number: usize,
    fault: Fault,
    begins: bool,
}

impl<'a> Faults<'a> {
    pub fn new(stage: &'a Stage, workers: &'a Workers<'a>, recoveries: &'a Recoveries) -> Self {
        Self {
            stage,
            workers,
            recoveries,
            servers: Mutex::new(()),
            done: Mutex::default(),
        }
    }

    /// How often each fault came.
    pub fn done(&self) -> BTreeMap<String, u64> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.clone()
    }

    fn tell(&self, fault: Fault) {
        self.stage.say(&fault.to_string());
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done.entry(fault.to_string()).or_default() += 1;
    }

    /// Servers break one after the other: the next when the one before is
    /// back, however long that took.
    pub fn break_servers(&self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.fault.is_server()) {
            self.stage.sleep_until(entry.at);
            if self.stage.is_over() {
                return;
            }
            match entry.fault {
                Fault::Kill(service) => self.kill(service, entry),
                Fault::Freeze(service) => self.freeze(service, entry),
                _ => {}
            }
        }
    }

    fn kill(&self, service: Service, entry: &Entry) {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(entry.fault);
        let spell = self.stage.spell();
        let signal = match service {
            // What pg_ctl calls an immediate stop.
            Service::Postgres => Signal::SIGQUIT,
            _ => Signal::SIGKILL,
        };
        let pid = self.stage.stack.pid(service.name());
        kill(pid, signal).expect("it runs");
        self.stage
            .sleep_until(self.stage.begun.elapsed() + entry.lasts);
        let since = Instant::now();
        self.mend();
        let took = since.elapsed().as_secs_f64();
        self.stage.say(&format!("fanout up took {took:.1} s"));
        drop(servers);
        self.recovers(service.name(), since, spell);
    }

    fn freeze(&self, service: Service, entry: &Entry) {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(entry.fault);
        let spell = self.stage.spell();
        let pid = self.stage.stack.pid(service.name());
        let held = Held::after_stopping(pid);
        self.stage
            .sleep_until(self.stage.begun.elapsed() + entry.lasts);
        let since = Instant::now();
        drop(held);
        drop(servers);
        self.recovers(service.name(), since, spell);
    }

    /// `fanout up`, again where something else was in its way.
    pub fn mend(&self) {
        let mended = until(MENDS_WITHIN, || {
            let up = self.stage.stack.fanout.run(&["up", "--no-run"]);
            match up.code {
                Some(0) => Ok(()),
                _ => Err(up.evidence()),
            }
        });
        if let Err(evidence) = mended {
            self.stage
                .found(format!("fanout up does not mend the stack\n{evidence}"));
        }
    }

    /// Everything else, as it is scheduled.
    pub fn break_others<'scope>(&'scope self, entries: &[Entry], scope: &'scope Scope<'scope, '_>) {
        let mut frozen = BTreeMap::new();
        let mut spells = BTreeMap::new();
        for act in acts(entries) {
            self.stage.sleep_until(act.at);
            self.workers.look_after();
            if act.begins {
                if self.stage.is_over() {
                    return;
                }
                self.tell(act.fault);
                spells.insert(act.number, self.stage.spell());
            }
            let spell = spells[&act.number];
            self.lasts(spell, &act);
            match (act.fault, act.begins) {
                (Fault::Link(link, mode), true) => self.stage.set_link(link, mode),
                (Fault::Link(link, _), false) => self.stage.set_link(link, Mode::Pass),
                (Fault::External(answer), true) => self.stage.set_answers(ordered(answer)),
                (Fault::External(_), false) => self.stage.set_answers(""),
                (Fault::Workers(count), true) => self.workers.become_count(count),
                (Fault::FreezeWorker, true) => {
                    frozen.insert(act.number, self.workers.freeze_one());
                }
                (Fault::FreezeWorker, false) => {
                    self.workers.thaw(frozen[&act.number]);
                    self.measure(scope, spell);
                }
                (Fault::KillWorker, true) => {
                    self.workers.kill_one();
                    // The last one has to be replaced first.
                    if self.workers.count() > 0 {
                        self.measure(scope, spell);
                    }
                }
                (Fault::KillWorker, false) => {
                    let was_last = self.workers.count() == 0;
                    self.workers.start_one();
                    if was_last {
                        self.measure(scope, spell);
                    }
                }
                (Fault::FlushAll, true) => self.flush_all(),
                (Fault::OldDump, true) => {
                    scope.spawn(move || self.old_dump(spell));
                }
                _ => {}
            }
        }
    }

    /// Says until when a fault that nobody measures has its effect.
    fn lasts(&self, spell: SpellId, act: &Act) {
        if let (Fault::Link(..) | Fault::External(_), false)
        | (Fault::Workers(_) | Fault::FlushAll, true) = (act.fault, act.begins)
        {
            self.stage.spell_ends(spell, Instant::now() + SETTLES);
        }
    }

    /// Waits until what was broken until then serves again.
    fn recovers(&self, component: &'static str, since: Instant, spell: SpellId) {
        let Self {
            recoveries, stage, ..
        } = self;
        recoveries.measure(stage, component, since, spell);
    }

    /// Beside the schedule, which goes on.
    fn measure<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, spell: SpellId) {
        let since = Instant::now();
        scope.spawn(move || {
            let _ends = self.stage.ends_with_me();
            self.recovers("worker", since, spell);
        });
    }

    fn flush_all(&self) {
        let url = self.stage.stack.stores.url("FANOUT_REDIS_URL");
        let flushed = until(MENDS_WITHIN, || {
            let mut connection = reader::connect(url).map_err(|error| error.to_string())?;
            let flushed = redis::cmd("FLUSHALL").exec(&mut connection);
            flushed.map_err(|error| error.to_string())
        });
        flushed.expect("redis");
    }

    /// Redis dies and its folder is put back to what it was.
    fn old_dump(&self, spell: SpellId) {
        let _ends = self.stage.ends_with_me();
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let data = self.stage.stack.file("data/redis");
        let kept = self.stage.stack.fanout.home().join("old-dump");
        let _ = fs::remove_dir_all(&kept);
        copy(&data, &kept);
        self.stage
            .sleep_until(self.stage.begun.elapsed() + DUMP_AGE);
        let pid = self.stage.stack.pid("redis");
        kill(pid, Signal::SIGKILL).expect("it runs");
        let gone = until(MENDS_WITHIN, || match kill(pid, None) {
            Ok(()) => Err("it is still there".to_owned()),
            Err(_) => Ok(()),
        });
        gone.expect("killed is killed");
        fs::remove_dir_all(&data).expect("removed");
        copy(&kept, &data);
        let since = Instant::now();
        self.mend();
        drop(servers);
        self.recovers("redis", since, spell);
    }
}

/// Copies a folder with all that it says of who owns it.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.expect("cp").success(), "{}", from.display());
}

fn ordered(answer: Answer) -> &'static str {
    match answer {
        Answer::Error => "status=500&fail_rate=0.5",
        Answer::TooMany => "status=429&retry_after_seconds=1",
        // Beyond the two seconds that the workers have.
        Answer::Late => "delay_ms=3000",
    }
}

/// Begins and ends of everything but servers, by time.
fn acts(entries: &[Entry]) -> Vec<Act> {
    let others = entries.iter().filter(|entry| !entry.fault.is_server());
    let mut acts: Vec<Act> = others
        .enumerate()
        .flat_map(|(number, entry)| {
            [(entry.at, true), (entry.at + entry.lasts, false)].map(|(at, begins)| Act {
                at,
                number,
                fault: entry.fault,
                begins,
            })
        })
        .collect();
    acts.sort_by_key(|act| act.at);
    acts
}
