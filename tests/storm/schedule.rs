//! The schedule of faults. The same seed and duration give the same schedule.

use std::{fmt, time::Duration};

use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// A server of the stack that is killed or paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    Postgres,
    Kafka,
    Connect,
    Redis,
    ClickHouse,
}

/// A connection of the workers that goes through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Link {
    Redis,
    ClickHouse,
    External,
}

/// How a proxy treats its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    Pass,
    /// Delays each piece of data.
    Delay(Duration),
    /// Closes existing connections, and new ones immediately.
    Cut,
    /// Delivers nothing without reporting an error. Afterwards half of the
    /// connections continue with a delay, and the other half lose their data in
    /// flight.
    Blackhole,
    /// Delivers requests, but closes the connection instead of delivering the
    /// reply.
    LoseReplies,
}

/// A failure of the external system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExternalFault {
    /// 500 for half of the requests.
    Error,
    /// 429 with `Retry-After`.
    TooMany,
    /// A response after the worker's timeout.
    Late,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, or an immediate shutdown of Postgres.
    Kill(Service),
    /// SIGSTOP, then SIGCONT.
    Freeze(Service),
    KillWorker,
    FreezeWorker,
    /// Sets the number of workers.
    Workers(usize),
    FlushAll,
    /// Redis is killed and restarted with an old dump.
    OldDump,
    External(ExternalFault),
    Link(Link, Mode),
}

/// A fault, its start, and the time until it is repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub at: Duration,
    pub fault: Fault,
    pub duration: Duration,
}

/// A range of milliseconds.
type Millis = std::ops::Range<u64>;

/// Time at the start without faults.
const CALM: Duration = Duration::from_secs(8);

/// Server faults follow one another in slots of this length, so that each
/// server can recover.
const SERVER_SLOT: Duration = Duration::from_secs(17);

/// Slot length if only one fault is active at a time, including the time to
/// recover.
const ONE_BY_ONE_SLOT: Duration = Duration::from_secs(40);

/// Slot length of all other faults. They overlap with server faults, but not
/// with each other.
const OTHER_SLOT: Duration = Duration::from_millis(6_500);

const SERVERS: [Service; 5] = [
    Service::Postgres,
    Service::Kafka,
    Service::Connect,
    Service::Redis,
    Service::ClickHouse,
];

/// Returns a schedule ordered by time. A schedule of three minutes includes
/// every fault at least once.
pub fn schedule(seed: u64, minutes: u64) -> Vec<Entry> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let end = Duration::from_secs(minutes * 60);
    let mut entries = Vec::new();
    for (slot, deck) in [(SERVER_SLOT, server_faults()), (OTHER_SLOT, other_faults())] {
        entries.extend(deal(&mut rng, end, slot, &deck));
    }
    entries.sort_by_key(|entry| entry.at);
    entries
}

/// Returns a schedule of server and worker faults that do not overlap, to
/// measure recovery times without other disturbances.
pub fn one_by_one(seed: u64, minutes: u64) -> Vec<Entry> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut deck = server_faults();
    deck.extend([Fault::KillWorker, Fault::FreezeWorker]);
    let end = Duration::from_secs(minutes * 60);
    // The second worker takes over when the first one fails.
    let mut entries = vec![Entry {
        at: Duration::ZERO,
        fault: Fault::Workers(2),
        duration: Duration::ZERO,
    }];
    entries.extend(deal(&mut rng, end, ONE_BY_ONE_SLOT, &deck));
    entries
}

/// Deals one fault per slot from the deck, which is reshuffled whenever it is
/// used up.
fn deal(rng: &mut ChaCha8Rng, end: Duration, slot: Duration, deck: &[Fault]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut cards = Vec::new();
    let mut at = CALM;
    while at + slot <= end {
        if cards.is_empty() {
            cards = deck.to_vec();
            cards.shuffle(rng);
        }
        let fault = cards.pop().unwrap_or(Fault::FlushAll);
        let duration = Duration::from_millis(rng.random_range(duration_range(fault)));
        let jitter = Duration::from_millis(rng.random_range(0..500));
        entries.push(Entry {
            at: at + jitter,
            fault,
            duration,
        });
        at += slot;
    }
    entries
}

fn server_faults() -> Vec<Fault> {
    let kills = SERVERS.map(Fault::Kill);
    let freezes = SERVERS
        .into_iter()
        // Pausing Postgres has the same effect as a blackhole.
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
    let external = [
        ExternalFault::Error,
        ExternalFault::TooMany,
        ExternalFault::Late,
    ]
    .map(Fault::External);
    let mut faults: Vec<Fault> = links.chain(external).collect();
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

fn duration_range(fault: Fault) -> Millis {
    match fault {
        // Until the operator repairs the fault.
        Fault::Kill(_) | Fault::KillWorker => 200..2_500,
        // Longer than transaction and session timeouts.
        Fault::Freeze(Service::Connect | Service::Kafka) => 4_000..13_000,
        Fault::Freeze(_) => 2_000..7_000,
        // Longer than the lease and the session timeout.
        Fault::FreezeWorker => 4_000..12_000,
        Fault::Workers(_) | Fault::FlushAll | Fault::OldDump => 0..1,
        Fault::External(_) | Fault::Link(..) => 1_500..6_000,
    }
}

impl Service {
    /// Returns the service's name in `status`.
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
    /// Returns true if the fault kills or pauses a server of the stack.
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
            Self::OldDump => out.write_str("restart of redis with an old dump"),
            Self::External(ExternalFault::Error) => {
                out.write_str("external system responds with 500")
            }
            Self::External(ExternalFault::TooMany) => {
                out.write_str("external system responds with 429")
            }
            Self::External(ExternalFault::Late) => {
                out.write_str("external system responds too late")
            }
            Self::Link(link, mode) => write!(out, "{mode} on the connection to {link}"),
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
        if self.duration >= Duration::from_millis(1) {
            write!(out, ", for {:.1} s", self.duration.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Tests of properties that every schedule has.
pub mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::{CALM, Fault, other_faults, schedule, server_faults};

    pub fn the_same_seed_gives_the_same_schedule() {
        assert_eq!(schedule(7, 5), schedule(7, 5));
        assert_ne!(schedule(7, 5), schedule(8, 5));
    }

    pub fn three_minutes_include_every_fault() {
        for seed in 0..50 {
            let scheduled: BTreeSet<Fault> =
                schedule(seed, 3).iter().map(|entry| entry.fault).collect();
            let all: BTreeSet<Fault> = server_faults().into_iter().chain(other_faults()).collect();
            assert_eq!(scheduled, all, "seed {seed}");
        }
    }

    pub fn no_fault_begins_during_the_calm_or_after_the_end() {
        for minutes in [1, 3, 60] {
            let entries = schedule(1, minutes);
            assert!(entries.is_sorted_by_key(|entry| entry.at));
            let end = Duration::from_secs(minutes * 60);
            assert!(
                entries
                    .iter()
                    .all(|entry| entry.at >= CALM && entry.at < end)
            );
            let servers = entries
                .iter()
                .filter(|entry| entry.fault.is_server())
                .count();
            assert!(servers >= 3 * usize::try_from(minutes).expect("a few"));
        }
    }
}
