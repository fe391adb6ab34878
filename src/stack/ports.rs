//! Local TCP ports: whether a port is free, which process uses it, and which
//! port to use instead.

use std::{
    collections::BTreeSet,
    fmt, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, TcpListener},
};

use serde::Serialize;

use super::proc;
use crate::failure::{Command, Error, Hint, Kind};

/// Range used by `--ports auto`: above the ports of common servers and below
/// the ephemeral range.
const FIRST_AUTO: u16 = 20_000;
const AUTO_PORTS: u16 = 12_000;

/// `LISTEN` in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// A required port that is unavailable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnavailablePort {
    pub port: u16,
    pub service: String,
    /// Whether this user may not bind the port, even if it is free.
    pub forbidden: bool,
    /// The process that uses the port; `None` if it cannot be identified.
    pub holder: Option<Holder>,
}

/// A port that a service uses instead of its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReassignedPort {
    pub service: String,
    /// Serialized as `usual`.
    #[serde(rename = "usual")]
    pub default_port: u16,
    pub port: u16,
    /// Whether the default port is in use. Serialized as `held`.
    #[serde(rename = "held")]
    pub is_in_use: bool,
    /// The process that uses the port; `None` if it cannot be identified.
    pub holder: Option<Holder>,
}

/// The process that uses a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    pub pid: i32,
    pub command: String,
}

impl fmt::Display for UnavailablePort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, service, .. } = self;
        write!(formatter, "port {port}, needed by {service}, ")?;
        if self.forbidden {
            return formatter.write_str("cannot be bound by this user");
        }
        write!(
            formatter,
            "is in use by {}",
            describe_holder(self.holder.as_ref())
        )
    }
}

impl fmt::Display for ReassignedPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            default_port,
            port,
            is_in_use,
            holder,
        } = self;
        if !is_in_use {
            return write!(
                formatter,
                "{service} uses port {port} instead of {default_port}"
            );
        }
        let holder = describe_holder(holder.as_ref());
        write!(
            formatter,
            "port {default_port} is in use by {holder}: {service} uses {port} instead"
        )
    }
}

fn describe_holder(holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, command }) => format!("pid {pid} ({command})"),
        None => "another user's process".to_owned(),
    }
}

/// Returns the error for required ports that are unavailable.
#[must_use]
pub fn unavailable_error(ports: &[UnavailablePort]) -> Error {
    let lines: Vec<String> = ports.iter().map(UnavailablePort::to_string).collect();
    let hint = if ports.iter().any(|port| port.forbidden) {
        Hint::from("use ports above 1023, or run as a user who may bind these: ")
            .command(Command::new("config show"))
    } else {
        Command::new("up").flag("--ports", "auto").into()
    };
    Error::new(Kind::Environment, "port_taken", lines.join("; ")).with_hint(hint)
}

/// Availability of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Free,
    InUse,
    /// This user may not bind the port, which is usual for ports below 1024.
    Forbidden,
}

/// Checks whether a port can be bound.
#[must_use]
pub fn availability(port: u16) -> Availability {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Availability::Free,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Availability::Forbidden,
        Err(_) => Availability::InUse,
    }
}

/// Returns whether the port can be bound now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    availability(port) == Availability::Free
}

/// Returns the process that blocks `port` on the loopback address. A listening
/// process is preferred to a connected one.
#[must_use]
pub fn holder(port: u16) -> Option<Holder> {
    let socket = blocking_socket(sockets(port))?;
    let pid = proc::all().find(|pid| socket.belongs_to(*pid))?;
    Some(Holder {
        pid,
        command: proc::command(pid).unwrap_or_default(),
    })
}

/// Returns whether one of these processes listens on `port`.
#[must_use]
pub fn is_listened_on_by(port: u16, pids: &[i32]) -> bool {
    let sockets = sockets(port);
    let mut listening = sockets.iter().filter(|socket| socket.listening);
    listening.any(|socket| pids.iter().any(|pid| socket.belongs_to(*pid)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    port: u16,
    listening: bool,
    /// 0 if no process owns the socket any longer.
    inode: u64,
}

impl Socket {
    fn belongs_to(&self, pid: i32) -> bool {
        let link = format!("socket:[{}]", self.inode);
        proc::has_open(pid, |target| target.to_str() == Some(link.as_str()))
    }

    /// Returns whether the socket blocks its port on `127.0.0.1`. A socket on
    /// another address does not.
    fn blocks_loopback(&self) -> bool {
        let address = self.address.to_canonical();
        self.inode != 0 && (address == Ipv4Addr::LOCALHOST || address.is_unspecified())
    }
}

/// Returns the socket that blocks the port. Listening sockets come first, then
/// a socket on the loopback address before one on all addresses.
fn blocking_socket(mut sockets: Vec<Socket>) -> Option<Socket> {
    sockets.retain(Socket::blocks_loopback);
    sockets.sort_by_key(|socket| (!socket.listening, socket.address.is_unspecified()));
    sockets.first().copied()
}

/// Returns all sockets of this machine on a port.
fn sockets(port: u16) -> Vec<Socket> {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| text.lines().filter_map(socket).collect::<Vec<_>>())
        .filter(|socket| socket.port == port)
        .collect()
}

/// Parses a line of `/proc/net/tcp` or `tcp6`.
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

/// Parses an address from `/proc/net/tcp`: 32-bit words in native byte order.
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

/// Returns a free port that is not reserved: `preferred` if possible, otherwise
/// one derived from `seed`, so that a project usually gets the same ports.
///
/// # Errors
/// If no port in the range is free.
pub fn choose(preferred: u16, reserved: &BTreeSet<u16>, seed: &str) -> Result<u16, Error> {
    let mut hasher = DefaultHasher::new();
    (seed, preferred).hash(&mut hasher);
    let start = u16::try_from(hasher.finish() % u64::from(AUTO_PORTS)).unwrap_or_default();
    std::iter::once(preferred)
        .chain((0..AUTO_PORTS).map(|step| FIRST_AUTO + (start + step) % AUTO_PORTS))
        .find(|port| !reserved.contains(port) && is_free(*port))
        .ok_or_else(|| {
            let last = FIRST_AUTO + AUTO_PORTS - 1;
            let message = format!("no port between {FIRST_AUTO} and {last} is free");
            Error::new(Kind::Environment, "no_free_port", message)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a port");
        let port = listener.local_addr().expect("a local address").port();
        (listener, port)
    }

    #[test]
    fn the_process_on_a_port_is_named() {
        let (_listener, port) = listener();
        assert!(!is_free(port));
        let holder = holder(port).expect("this process holds it");
        let pid = std::process::id().cast_signed();
        assert_eq!(holder.pid, pid);
        assert!(is_listened_on_by(port, &[pid]));
        assert!(!is_listened_on_by(port, &[1]));
        let in_use = UnavailablePort {
            port,
            service: "clickhouse".to_owned(),
            forbidden: false,
            holder: Some(Holder {
                pid: 4806,
                command: "sshd".to_owned(),
            }),
        };
        let forbidden = UnavailablePort {
            port: 80,
            service: "stub".to_owned(),
            forbidden: true,
            holder: None,
        };
        assert_eq!(
            unavailable_error(&[in_use, forbidden]).to_string(),
            format!(
                "port {port}, needed by clickhouse, is in use by pid 4806 (sshd); \
                 port 80, needed by stub, cannot be bound by this user"
            )
        );
    }

    #[test]
    fn a_reassigned_port_names_the_process_on_the_default_port() {
        let reassigned = ReassignedPort {
            service: "postgres".to_owned(),
            default_port: 5432,
            port: 21099,
            is_in_use: true,
            holder: None,
        };
        assert_eq!(
            reassigned.to_string(),
            "port 5432 is in use by another user's process: postgres uses 21099 instead"
        );
        let recorded = ReassignedPort {
            is_in_use: false,
            ..reassigned
        };
        assert_eq!(
            recorded.to_string(),
            "postgres uses port 21099 instead of 5432"
        );
    }

    #[test]
    fn the_preferred_port_is_used_only_if_free_and_not_reserved() {
        let (held, port) = listener();
        let other = choose(port, &BTreeSet::new(), "seed").expect("a free port");
        assert_ne!(other, port);
        drop(held);
        assert_eq!(
            choose(port, &BTreeSet::new(), "seed").expect("a free port"),
            port
        );
        assert_ne!(
            choose(port, &BTreeSet::from([port]), "seed").expect("a free port"),
            port
        );
    }

    const POSTGRES: &str = "   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 \
         00:00000000 00000000   101        0 41218 1 0000 100 0 0 10 0";

    #[test]
    fn a_proc_net_tcp_line_is_parsed() {
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
    fn a_socket_on_another_address_does_not_block_the_port() {
        let socket_with = |address: &str, state: &str, inode: &str| {
            let line = POSTGRES
                .replace("0100007F:1538", &format!("{address}:1538"))
                .replace(" 0A ", &format!(" {state} "))
                .replace("41218", inode);
            socket(&line).expect("a socket")
        };
        let (listens, connected) = ("0A", "01");
        let elsewhere = socket_with("0200007F", listens, "1");
        let client = socket_with("0100007F", connected, "2");
        let gone = socket_with("0100007F", "06", "0");
        let everywhere = socket_with("00000000", listens, "3");
        let here = socket_with("0100007F", listens, "4");
        let inode =
            |sockets: &[Socket]| blocking_socket(sockets.to_vec()).map(|socket| socket.inode);
        assert_eq!(inode(&[elsewhere, gone]), None);
        assert_eq!(inode(&[elsewhere, client]), Some(2));
        assert_eq!(inode(&[elsewhere, client, everywhere]), Some(3));
        assert_eq!(inode(&[elsewhere, client, everywhere, here]), Some(4));
    }
}
