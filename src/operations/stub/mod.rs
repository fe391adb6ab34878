//! `stub`: a mock external system with fault injection. It accepts each event once by its
//! `Idempotency-Key`, and keeps accepted events across restarts.

mod error;
mod faults;
mod journal;
mod record;
mod routes;
mod segment;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crate::sinks::http::SYSTEM;
pub use faults::Faults;
pub use journal::Keep;

use self::{journal::Journal, routes::State};
use crate::{
    connections::browser,
    failure::{Command, Error, Kind},
};

/// How long to wait for requests in flight on shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Options of the stub.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on. Port 0 selects a free port.
    pub listen: SocketAddr,
    /// Folder of the stub's files.
    pub data: PathBuf,
    /// How many events are kept.
    pub keep: Keep,
    pub faults: Faults,
}

/// A stub that listens and does not serve yet.
#[derive(Debug)]
pub struct Stub {
    listener: TcpListener,
    address: SocketAddr,
    state: Arc<State>,
    known: u64,
    torn: u64,
}

impl Stub {
    /// Reads the accepted events and binds the port.
    ///
    /// # Errors
    /// If the port or a file is in use, or a file cannot be read.
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let listen = options.listen;
        let taken = |source: std::io::Error| {
            let message = format!("{listen} cannot be listened on");
            Error::new(Kind::Environment, "stub_listen", message)
                .with_hint(Command::new("stub").flag("--listen", "127.0.0.1:0"))
                .caused_by(source)
        };
        let listener = TcpListener::bind(listen).await.map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let (journal, torn) = Journal::open(&options.data, options.keep)?;
        Ok(Self {
            listener,
            address,
            known: journal.len(),
            torn,
            state: Arc::new(State {
                journal: Mutex::new(journal),
                faults: RwLock::new(options.faults),
            }),
        })
    }

    /// Returns the address that the stub listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of events that were accepted before.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.known
    }

    /// Returns the number of bytes of a partially written event that were cut off.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Serves until `stop` is cancelled, then finishes requests in flight.
    ///
    /// # Errors
    /// If the listener fails permanently.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), Error> {
        let listener = self.listener.tap_io(|stream| {
            // A small response must be sent immediately.
            let _ = stream.set_nodelay(true);
        });
        let graceful = stop.clone();
        let router = browser::guard(routes::router(self.state), self.address, Vec::new());
        let server =
            axum::serve(listener, router).with_graceful_shutdown(graceful.cancelled_owned());
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN).await;
        };
        tokio::select! {
            ended = server.into_future() => ended.map_err(|source| {
                Error::new(Kind::Failed, "stub_serve", "the stub stopped serving")
                    .caused_by(source)
            }),
            () = late => Ok(()),
        }
    }
}
