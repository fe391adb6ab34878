//! Ports of this machine: whether one is free, who holds one that is not, and
//! which to take instead.

use std::{
    collections::BTreeSet,
    fmt, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, TcpListener},
};

use serde::Serialize;

use super::proc;
use crate::failure::{Failure, Kind};

/// Where `--ports auto` looks: above the well-known servers' ports and below
/// the ones that outgoing connections are given.
const FIRST_AUTO: u16 = 20_000;
const AUTO_PORTS: u16 = 12_000;

/// `LISTEN` in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// A port that a service needs and cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub port: u16,
    pub service: String,
    /// The system keeps it from this user; nobody need hold it.
    pub forbidden: bool,
    /// None where the kernel does not let us see.
    pub holder: Option<Holder>,
}

/// A port that a service takes instead of its usual one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    pub service: String,
    pub usual: u16,
    pub port: u16,
    /// Whether the usual one is held now.
    pub held: bool,
    /// None where the kernel does not let us see.
    pub holder: Option<Holder>,
}

/// The process on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    pub pid: i32,
    pub command: String,
}

impl fmt::Display for Taken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, service, .. } = self;
        write!(formatter, "port {port} is needed by {service} and ")?;
        if self.forbidden {
            return formatter.write_str("not open to this user");
        }
        write!(formatter, "held by {}", whom(self.holder.as_ref()))
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            usual,
            port,
            held,
            holder,
        } = self;
        if !held {
            return write!(
                formatter,
                "{service} takes port {port}, not its usual {usual}"
            );
        }
        let holder = whom(holder.as_ref());
        write!(
            formatter,
            "port {usual} is held by {holder}: {service} takes {port}"
        )
    }
}

fn whom(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, command }) => format!("pid {pid} ({command})"),
        None => "a process that this user cannot see".to_owned(),
    }
}

/// Why services cannot have their ports.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    #[error("{}", listing(.0))]
    Taken(Vec<Taken>),
    #[error("port {port} is given to both {first} and {second}")]
    GivenTwice {
        port: u16,
        first: String,
        second: String,
    },
    #[error("no port from {FIRST_AUTO} to {} is free", FIRST_AUTO + AUTO_PORTS - 1)]
    NoneFree,
}

fn listing(taken: &[Taken]) -> String {
    let lines: Vec<String> = taken.iter().map(Taken::to_string).collect();
    lines.join("; ")
}

impl Failure for PortsError {
    fn kind(&self) -> Kind {
        match self {
            Self::Taken(_) | Self::NoneFree => Kind::Environment,
            Self::GivenTwice { .. } => Kind::Usage,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Taken(_) => "port_taken",
            Self::GivenTwice { .. } => "port_given_twice",
            Self::NoneFree => "no_free_port",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Taken(taken) if taken.iter().any(|one| one.forbidden) => Some(
                "take ports from 1024 on, or run as a user who may have these: fanout config show"
                    .to_owned(),
            ),
            Self::Taken(_) => Some("fanout up --ports auto".to_owned()),
            Self::GivenTwice { .. } => Some("fanout config show".to_owned()),
            Self::NoneFree => None,
        }
    }
}

/// What a server would find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Free,
    Held,
    /// Kept from this user, as those below 1024 often are.
    Forbidden,
}

/// Looks at a port.
#[must_use]
pub fn look(port: u16) -> Look {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Look::Free,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Look::Forbidden,
        Err(_) => Look::Held,
    }
}

/// Whether a server could listen there now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    look(port) == Look::Free
}

/// The process that keeps a server from `port` on the loopback; a listening one
/// before one that merely uses it.
#[must_use]
pub fn holder(port: u16) -> Option<Holder> {
    let socket = in_the_way(sockets(port))?;
    let pid = proc::all().find(|pid| socket.is_of(*pid))?;
    Some(Holder {
        pid,
        command: proc::command(pid).unwrap_or_default(),
    })
}

/// Whether one of these processes listens on `port`.
#[must_use]
pub fn is_listened_on_by(port: u16, pids: &[i32]) -> bool {
    let sockets = sockets(port);
    let mut listening = sockets.iter().filter(|socket| socket.listening);
    listening.any(|socket| pids.iter().any(|pid| socket.is_of(*pid)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    port: u16,
    listening: bool,
    /// 0 where it is nobody's any more.
    inode: u64,
}

impl Socket {
    fn is_of(&self, pid: i32) -> bool {
        let link = format!("socket:[{}]", self.inode);
        proc::has_open(pid, |target| target.to_str() == Some(link.as_str()))
    }

    /// Whether nobody else can have its port on `127.0.0.1`. Another address of
    /// the machine has ports of its own.
    fn is_in_the_way(&self) -> bool {
        let address = self.address.to_canonical();
        self.inode != 0 && (address == Ipv4Addr::LOCALHOST || address.is_unspecified())
    }
}

/// The socket that keeps a server from its port: of several a listening one, and
/// one on the very address before one on all.
fn in_the_way(mut sockets: Vec<Socket>) -> Option<Socket> {
    sockets.retain(Socket::is_in_the_way);
    sockets.sort_by_key(|socket| (!socket.listening, socket.address.is_unspecified()));
    sockets.first().copied()
}

/// All sockets of this machine on a port.
fn sockets(port: u16) -> Vec<Socket> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| text.lines().filter_map(socket).collect::<Vec<_>>())
        .filter(|socket| socket.port == port)
        .collect()
}

/// One line of `/proc/net/tcp` or `tcp6`.
fn socket(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (host, port) = fields.get(1)?.rsplit_once(':')?;
    Some(Socket {
        address: address(host)?,
        port: u16::from_str_radix(port, 16).ok()?,
        listening: *fields.get(3)? == LISTENING,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// An address as the kernel writes it: words of 32 bits, each in the machine's
/// own order.
fn address(text: &str) -> Option<IpAddr> {
    let (words, []) = text.as_bytes().as_chunks::<8>() else {
        return None;
    };
    let words = words
        .iter()
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let words: Vec<[u8; 4]> = words
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let bytes = words.concat();
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// A free port that is not among `avoided`: `preferred` itself, else one that
/// `seed` picks, so that the same project tends to the same ports.
///
/// # Errors
/// When none is left.
pub fn choose(preferred: u16, avoided: &BTreeSet<u16>, seed: &str) -> Result<u16, PortsError> {
    let mut hasher = DefaultHasher::new();
    (seed, preferred).hash(&mut hasher);
    let start = u16::try_from(hasher.finish() % u64::from(AUTO_PORTS)).unwrap_or_default();
    std::iter::once(preferred)
        .chain((0..AUTO_PORTS).map(|step| FIRST_AUTO + (start + step) % AUTO_PORTS))
        .find(|port| !avoided.contains(port) && is_free(*port))
        .ok_or(PortsError::NoneFree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (listener, port)
    }

    #[test]
    fn a_held_port_names_its_holder() {
        let (_listener, port) = listener();
        assert!(!is_free(port));
        let holder = holder(port).expect("this process");
        let own = std::process::id().cast_signed();
        assert_eq!(holder.pid, own);
        assert!(is_listened_on_by(port, &[own]));
        assert!(!is_listened_on_by(port, &[1]));
        let taken = Taken {
            port,
            service: "clickhouse".to_owned(),
            forbidden: false,
            holder: Some(Holder {
                pid: 4806,
                command: "sshd".to_owned(),
            }),
        };
        let forbidden = Taken {
            port: 80,
            service: "stub".to_owned(),
            forbidden: true,
            holder: None,
        };
        assert_eq!(
            PortsError::Taken(vec![taken, forbidden]).to_string(),
            format!(
                "port {port} is needed by clickhouse and held by pid 4806 (sshd); \
                 port 80 is needed by stub and not open to this user"
            )
        );
    }

    #[test]
    fn a_moved_port_names_who_holds_the_usual_one() {
        let moved = Moved {
            service: "postgres".to_owned(),
            usual: 5432,
            port: 21099,
            held: true,
            holder: None,
        };
        assert_eq!(
            moved.to_string(),
            "port 5432 is held by a process that this user cannot see: postgres takes 21099"
        );
        let recorded = Moved {
            held: false,
            ..moved
        };
        assert_eq!(
            recorded.to_string(),
            "postgres takes port 21099, not its usual 5432"
        );
    }

    #[test]
    fn the_preferred_port_is_taken_only_where_it_is_free_and_not_avoided() {
        let (held, port) = listener();
        let other = choose(port, &BTreeSet::new(), "seed").expect("a free port");
        assert_ne!(other, port);
        drop(held);
        assert_eq!(choose(port, &BTreeSet::new(), "seed").expect("free"), port);
        assert_ne!(
            choose(port, &BTreeSet::from([port]), "seed").expect("free"),
            port
        );
    }

    const POSTGRES: &str = "   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 \
         00:00000000 00000000   101        0 41218 1 0000 100 0 0 10 0";

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let read = socket(POSTGRES).expect("a socket");
        let expected = Socket {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 5432,
            listening: true,
            inode: 41218,
        };
        assert_eq!(read, expected);
        let mapped = POSTGRES.replace("0100007F", "0000000000000000FFFF00000100007F");
        let mapped = socket(&mapped).expect("a socket");
        assert_eq!(mapped.address.to_canonical(), expected.address);
        let any = POSTGRES.replace("0100007F", "00000000000000000000000000000000");
        assert!(socket(&any).expect("a socket").address.is_unspecified());
        assert_eq!(socket(&POSTGRES.replace("0100007F", "01007F")), None);
    }

    #[test]
    fn the_holder_of_another_address_is_not_in_the_way() {
        let of = |address: &str, state: &str, inode: &str| {
            let line = POSTGRES
                .replace("0100007F:1538", &format!("{address}:1538"))
                .replace(" 0A ", &format!(" {state} "))
                .replace("41218", inode);
            socket(&line).expect("a socket")
        };
        let (listens, connected) = ("0A", "01");
        let elsewhere = of("0200007F", listens, "1");
        let client = of("0100007F", connected, "2");
        let gone = of("0100007F", "06", "0");
        let everywhere = of("00000000", listens, "3");
        let here = of("0100007F", listens, "4");
        let inode = |sockets: &[Socket]| in_the_way(sockets.to_vec()).map(|one| one.inode);
        assert_eq!(inode(&[elsewhere, gone]), None);
        assert_eq!(inode(&[elsewhere, client]), Some(2));
        assert_eq!(inode(&[elsewhere, client, everywhere]), Some(3));
        assert_eq!(inode(&[elsewhere, client, everywhere, here]), Some(4));
    }
}
