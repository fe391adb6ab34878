//! What goes wrong and when: the same for the same seed and the same minutes.

use std::{fmt, time::Duration};

use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// A server of the stack that is killed and stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    Postgres,
    Kafka,
    Connect,
    Redis,
    ClickHouse,
}

/// A connection of the workers' that goes through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Link {
    Redis,
    ClickHouse,
    External,
}

/// What a proxy does with what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    Pass,
    /// Each piece waits so long.
    Delay(Duration),
    /// Connections end, new ones at once.
    Cut,
    /// Nothing arrives and nobody is told; afterwards half of the connections
    /// go on, late, and half have lost what was under way.
    Blackhole,
    /// Requests arrive, their replies do not: the connection ends instead.
    LoseReplies,
}

/// How the external system answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    /// 500 to half of the requests.
    Error,
    /// 429 with `Retry-After`.
    TooMany,
    /// Nothing before the worker's patience ends.
    Late,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`; Postgres is stopped at once.
    Kill(Service),
    /// SIGSTOP, then SIGCONT.
    Freeze(Service),
    KillWorker,
    FreezeWorker,
    /// So many workers from now on.
    Workers(usize),
    FlushAll,
    /// Redis dies and comes back with the data of some time ago.
    OldDump,
    External(Answer),
    Link(Link, Mode),
}

/// A fault, when it begins, and for how long it lasts before it is mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub at: Duration,
    pub fault: Fault,
    pub lasts: Duration,
}

/// A number in a range, in milliseconds.
type Millis = std::ops::Range<u64>;

/// Before this the load has the stack for itself.
const CALM: Duration = Duration::from_secs(8);

/// Servers break one after the other: time for each to come back.
const SERVER_SLOT: Duration = Duration::from_secs(17);

/// Time for whatever breaks alone, and for what comes of it.
const LONE_SLOT: Duration = Duration::from_secs(40);

/// Everything else overlaps with them, but not with its own kind.
const OTHER_SLOT: Duration = Duration::from_millis(6_500);

const SERVERS: [Service; 5] = [
    Service::Postgres,
    Service::Kafka,
    Service::Connect,
    Service::Redis,
    Service::ClickHouse,
];

/// The schedule, by time. In three minutes each kind comes at least once.
pub fn schedule(seed: u64, minutes: u64) -> Vec<Entry> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let end = Duration::from_secs(minutes * 60);
    let mut entries = Vec::new();
    for (slot, deck) in [(SERVER_SLOT, server_faults()), (OTHER_SLOT, other_faults())] {
        entries.extend(dealt(&mut rng, end, slot, &deck));
    }
    entries.sort_by_key(|entry| entry.at);
    entries
}

/// Servers and workers alone, each with time to come back before the next: how
/// long that takes with nothing else amiss.
pub fn one_by_one(seed: u64, minutes: u64) -> Vec<Entry> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut deck = server_faults();
    deck.extend([Fault::KillWorker, Fault::FreezeWorker]);
    let end = Duration::from_secs(minutes * 60);
    // One is to take over from the other.
    let mut entries = vec![Entry {
        at: Duration::ZERO,
        fault: Fault::Workers(2),
        lasts: Duration::ZERO,
    }];
    entries.extend(dealt(&mut rng, end, LONE_SLOT, &deck));
    entries
}

/// The deck, shuffled anew each time it is through, a card a slot.
fn dealt(rng: &mut ChaCha8Rng, end: Duration, slot: Duration, deck: &[Fault]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut cards = Vec::new();
    let mut at = CALM;
    while at + slot <= end {
        if cards.is_empty() {
            cards = deck.to_vec();
            cards.shuffle(rng);
        }
        let fault = cards.pop().unwrap_or(Fault::FlushAll);
        let lasts = Duration::from_millis(rng.random_range(lasts(fault)));
        let late = Duration::from_millis(rng.random_range(0..500));
        entries.push(Entry {
            at: at + late,
            fault,
            lasts,
        });
        at += slot;
    }
    entries
}

fn server_faults() -> Vec<Fault> {
    let kills = SERVERS.map(Fault::Kill);
    let freezes = SERVERS
        .into_iter()
        // What it would show is what a blackhole shows.
        .filter(|service| *service != Service::Postgres)
        .map(Fault::Freeze);
    kills.into_iter().chain(freezes).collect()
}

fn other_faults() -> Vec<Fault> {
    let modes = [
        Mode::Delay(Duration::from_millis(150)),
        Mode::Cut,
        Mode::Blackhole,
        Mode::LoseReplies,
    ];
    let links = [Link::Redis, Link::ClickHouse, Link::External]
        .into_iter()
        .flat_map(|link| modes.map(|mode| Fault::Link(link, mode)));
    let answers = [Answer::Error, Answer::TooMany, Answer::Late].map(Fault::External);
    let mut faults: Vec<Fault> = links.chain(answers).collect();
    faults.extend([1, 2, 3].map(Fault::Workers));
    faults.extend([
        Fault::KillWorker,
        Fault::KillWorker,
        Fault::KillWorker,
        Fault::FreezeWorker,
        Fault::FreezeWorker,
        Fault::FlushAll,
        Fault::OldDump,
    ]);
    faults
}

fn lasts(fault: Fault) -> Millis {
    match fault {
        // Until the operator comes.
        Fault::Kill(_) | Fault::KillWorker => 200..2_500,
        // Beyond a transaction's and a session's time.
        Fault::Freeze(Service::Connect | Service::Kafka) => 4_000..13_000,
        Fault::Freeze(_) => 2_000..7_000,
        // Beyond the lease and the session.
        Fault::FreezeWorker => 4_000..12_000,
        Fault::Workers(_) | Fault::FlushAll | Fault::OldDump => 0..1,
        Fault::External(_) | Fault::Link(..) => 1_500..6_000,
    }
}

impl Service {
    /// As `status` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Kafka => "kafka",
            Self::Connect => "connect",
            Self::Redis => "redis",
            Self::ClickHouse => "clickhouse",
        }
    }
}

impl Fault {
    /// Whether a server of the stack is gone or stands still.
    pub fn is_server(self) -> bool {
        matches!(self, Self::Kill(_) | Self::Freeze(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(Service::Postgres) => out.write_str("immediate stop of postgres"),
            Self::Kill(service) => write!(out, "kill -9 of {}", service.name()),
            Self::Freeze(service) => write!(out, "SIGSTOP of {}", service.name()),
            Self::KillWorker => out.write_str("kill -9 of a worker"),
            Self::FreezeWorker => out.write_str("SIGSTOP of a worker"),
            Self::Workers(1) => out.write_str("one worker from now on"),
            Self::Workers(count) => write!(out, "{count} workers from now on"),
            Self::FlushAll => out.write_str("FLUSHALL"),
            Self::OldDump => out.write_str("redis comes back with an old dump"),
            Self::External(Answer::Error) => out.write_str("external answers 500"),
            Self::External(Answer::TooMany) => out.write_str("external answers 429"),
            Self::External(Answer::Late) => out.write_str("external answers too late"),
            Self::Link(link, mode) => write!(out, "{mode} on the way to {link}"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => out.write_str("nothing"),
            Self::Delay(by) => write!(out, "{} ms of delay", by.as_millis()),
            Self::Cut => out.write_str("cut connections"),
            Self::Blackhole => out.write_str("a blackhole"),
            Self::LoseReplies => out.write_str("lost replies"),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Redis => "redis",
            Self::ClickHouse => "clickhouse",
            Self::External => "external",
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:>7.1} s  {}", self.at.as_secs_f64(), self.fault)?;
        if self.lasts >= Duration::from_millis(1) {
            write!(out, ", for {:.1} s", self.lasts.as_secs_f64())?;
        }
        Ok(())
    }
}

/// What holds of every schedule.
pub mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::{CALM, Fault, other_faults, schedule, server_faults};

    pub fn the_same_seed_is_the_same_schedule() {
        assert_eq!(schedule(7, 5), schedule(7, 5));
        assert_ne!(schedule(7, 5), schedule(8, 5));
    }

    pub fn three_minutes_hold_every_kind() {
        for seed in 0..50 {
            let dealt: BTreeSet<Fault> = schedule(seed, 3).iter().map(|it| it.fault).collect();
            let all: BTreeSet<Fault> = server_faults().into_iter().chain(other_faults()).collect();
            assert_eq!(dealt, all, "seed {seed}");
        }
    }

    pub fn nothing_begins_before_the_calm_or_after_the_end() {
        for minutes in [1, 3, 60] {
            let entries = schedule(1, minutes);
            assert!(entries.is_sorted_by_key(|entry| entry.at));
            let end = Duration::from_secs(minutes * 60);
            assert!(entries.iter().all(|it| it.at >= CALM && it.at < end));
            let servers = entries.iter().filter(|it| it.fault.is_server()).count();
            assert!(servers >= 3 * usize::try_from(minutes).expect("a few"));
        }
    }
}
