//! A TCP proxy that delays or cuts connections, drops data, or loses replies on
//! request.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use crate::{schedule::Mode, support::wait_for};

/// Maximum number of bytes forwarded together.
const PIECE: usize = 16 * 1024;

/// A proxy that listens on its own port until the process ends.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    mode: watch::Sender<Mode>,
}

/// The direction of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

/// The effect of a blackhole on a connection with data in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Late,
    Lost,
}

impl Fate {
    /// Alternates between the connections.
    fn of(number: u64) -> Self {
        if number.is_multiple_of(2) {
            Self::Late
        } else {
            Self::Lost
        }
    }
}

impl Proxy {
    /// Starts a proxy in front of a local port.
    pub fn start(upstream: u16) -> Self {
        let (mode, modes) = watch::channel(Mode::Pass);
        let listener = wait_for(TcpListener::bind(("127.0.0.1", 0))).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        wait_for(async {
            tokio::spawn(listen(listener, upstream, modes));
        });
        Self { port, mode }
    }

    /// Sets the mode for new and existing connections.
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

/// Forwards one connection until one side or the proxy closes it.
async fn carry(client: TcpStream, upstream: u16, fate: Fate, modes: watch::Receiver<Mode>) {
    let both = async {
        let server = TcpStream::connect(("127.0.0.1", upstream)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::try_join!(
            pump(
                from_client,
                to_server,
                (Direction::Request, fate),
                modes.clone()
            ),
            pump(
                from_server,
                to_client,
                (Direction::Reply, fate),
                modes.clone()
            ),
        )
    };
    let mut cuts = modes.clone();
    tokio::select! {
        // A connection that ends with an error has ended, too.
        _ = both => {}
        _ = cuts.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (direction, fate): (Direction, Fate),
    mut modes: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        admit(direction, fate, length, &mut modes).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
    }
}

/// Waits until a piece of data may be forwarded. Fails if the connection must
/// be closed instead.
async fn admit(
    direction: Direction,
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
            Mode::LoseReplies if direction == Direction::Request || length == 0 => return Ok(()),
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

/// A test of each mode, with an echo server.
pub mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Time after which a reply is assumed never to arrive.
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

    async fn exchange(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        stream.write_all(b"there").await?;
        let mut reply = vec![0; 5];
        stream.read_exact(&mut reply).await?;
        Ok(reply)
    }

    pub fn every_mode_affects_connections_as_documented() {
        let proxy = Proxy::start(wait_for(echo()));
        wait_for(async {
            let connect = || TcpStream::connect(("127.0.0.1", proxy.port));
            let mut stream = connect().await.expect("a connection");
            assert_eq!(exchange(&mut stream).await.expect("an echo"), b"there");

            proxy.set(Mode::Delay(Duration::from_millis(5)));
            assert_eq!(exchange(&mut stream).await.expect("an echo"), b"there");

            proxy.set(Mode::Blackhole);
            assert!(
                timeout(NEVER, exchange(&mut stream)).await.is_err(),
                "the blackhole let a reply through"
            );
            proxy.set(Mode::Pass);
            let mut late = vec![0; 5];
            stream
                .read_exact(&mut late)
                .await
                .expect("the reply arrives late");
            assert_eq!(late, b"there");

            proxy.set(Mode::LoseReplies);
            assert!(exchange(&mut stream).await.is_err(), "a reply was not lost");
            proxy.set(Mode::Pass);
            let mut stream = connect().await.expect("a connection");
            assert_eq!(exchange(&mut stream).await.expect("an echo"), b"there");

            proxy.set(Mode::Blackhole);
            assert!(
                timeout(NEVER, exchange(&mut stream)).await.is_err(),
                "the blackhole let a reply through"
            );
            proxy.set(Mode::Pass);
            assert!(
                exchange(&mut stream).await.is_err(),
                "the data was not lost"
            );
            let mut stream = connect().await.expect("a connection");
            assert_eq!(exchange(&mut stream).await.expect("an echo"), b"there");

            proxy.set(Mode::Cut);
            assert!(
                exchange(&mut stream).await.is_err(),
                "the connection was not cut"
            );
            let mut stream = connect().await.expect("a connection");
            assert!(
                exchange(&mut stream).await.is_err(),
                "a new connection was accepted"
            );
        });
    }
}
