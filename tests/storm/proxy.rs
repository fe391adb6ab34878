//! A TCP proxy that delays, cuts, blackholes and loses replies, to order.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use crate::{schedule::Mode, support::wait_for};

/// Bytes that travel together.
const PIECE: usize = 16 * 1024;

/// Listens on a port of its own for as long as the process lives.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    mode: watch::Sender<Mode>,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Reply,
}

/// What a blackhole leaves of a connection that had something under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Late,
    Lost,
}

impl Fate {
    /// Every other connection's.
    fn of(number: u64) -> Self {
        if number.is_multiple_of(2) {
            Self::Late
        } else {
            Self::Lost
        }
    }
}

impl Proxy {
    /// In front of a port of this machine.
    pub fn start(upstream: u16) -> Self {
        let (mode, modes) = watch::channel(Mode::Pass);
        let listener = wait_for(TcpListener::bind(("127.0.0.1", 0))).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        wait_for(async {
            tokio::spawn(listen(listener, upstream, modes));
        });
        Self { port, mode }
    }

    /// From now on, for the connections that there are too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn listen(listener: TcpListener, upstream: u16, modes: watch::Receiver<Mode>) {
    for number in 0_u64.. {
        let Ok((client, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        if *modes.borrow() != Mode::Cut {
            tokio::spawn(carry(client, upstream, Fate::of(number), modes.clone()));
        }
    }
}

/// Carries one connection until one side, or the proxy, ends it.
async fn carry(client: TcpStream, upstream: u16, fate: Fate, modes: watch::Receiver<Mode>) {
    let both = async {
        let server = TcpStream::connect(("127.0.0.1", upstream)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::try_join!(
            pump(from_client, to_server, (Way::Request, fate), modes.clone()),
            pump(from_server, to_client, (Way::Reply, fate), modes.clone()),
        )
    };
    let mut cuts = modes.clone();
    tokio::select! {
        // An end with an error is the end all the same.
        _ = both => {}
        _ = cuts.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (way, fate): (Way, Fate),
    mut modes: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        admit(way, fate, length, &mut modes).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
    }
}

/// Returns when a piece may go on; an error where the connection ends instead.
async fn admit(
    way: Way,
    fate: Fate,
    length: usize,
    modes: &mut watch::Receiver<Mode>,
) -> io::Result<()> {
    loop {
        let mode = *modes.borrow_and_update();
        match mode {
            Mode::Pass => return Ok(()),
            Mode::Delay(by) => {
                sleep(by).await;
                return Ok(());
            }
            Mode::LoseReplies if way == Way::Request || length == 0 => return Ok(()),
            Mode::Cut | Mode::LoseReplies => return Err(io::ErrorKind::ConnectionReset.into()),
            Mode::Blackhole => {
                modes.changed().await.map_err(io::Error::other)?;
                if fate == Fate::Lost {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
        }
    }
}

/// Each mode, before a server that says back what it is told.
pub mod tests {
    use tokio::time::timeout;

    use super::*;

    /// So long is never, for what must not come.
    const NEVER: Duration = Duration::from_millis(300);

    async fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        port
    }

    async fn say(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        stream.write_all(b"there").await?;
        let mut heard = vec![0; 5];
        stream.read_exact(&mut heard).await?;
        Ok(heard)
    }

    pub fn every_mode_does_what_it_says() {
        let proxy = Proxy::start(wait_for(echo()));
        wait_for(async {
            let connect = || TcpStream::connect(("127.0.0.1", proxy.port));
            let mut stream = connect().await.expect("a connection");
            assert_eq!(say(&mut stream).await.expect("an echo"), b"there");

            proxy.set(Mode::Delay(Duration::from_millis(5)));
            assert_eq!(say(&mut stream).await.expect("an echo"), b"there");

            proxy.set(Mode::Blackhole);
            assert!(timeout(NEVER, say(&mut stream)).await.is_err(), "it came");
            proxy.set(Mode::Pass);
            let mut late = vec![0; 5];
            stream.read_exact(&mut late).await.expect("it comes late");
            assert_eq!(late, b"there");

            proxy.set(Mode::LoseReplies);
            assert!(say(&mut stream).await.is_err(), "a reply came");
            proxy.set(Mode::Pass);
            let mut stream = connect().await.expect("a connection");
            assert_eq!(say(&mut stream).await.expect("an echo"), b"there");

            proxy.set(Mode::Blackhole);
            assert!(timeout(NEVER, say(&mut stream)).await.is_err(), "it came");
            proxy.set(Mode::Pass);
            assert!(say(&mut stream).await.is_err(), "it was not lost");
            let mut stream = connect().await.expect("a connection");
            assert_eq!(say(&mut stream).await.expect("an echo"), b"there");

            proxy.set(Mode::Cut);
            assert!(say(&mut stream).await.is_err(), "it was not cut");
            let mut stream = connect().await.expect("a connection");
            assert!(say(&mut stream).await.is_err(), "it was let in");
        });
    }
}
