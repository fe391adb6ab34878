//! The external system, as a server: takes each event once under its
//! `Idempotency-Key`, keeps what it took over restarts, and fails on order.

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
pub use error::JournalError;
pub use faults::Faults;
pub use journal::Keep;

use self::{journal::Journal, routes::State};
use crate::{
    connections::browser,
    failure::{Failure, Kind},
};

/// How long requests under way are waited for at the end.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// How a stub is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The folder of its files.
    pub data: PathBuf,
    /// How much of it is kept.
    pub keep: Keep,
    pub faults: Faults,
}

/// Why the stub does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    #[error("{listen} cannot be listened on")]
    Listen {
        listen: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the stub stopped serving")]
    Serve(#[source] std::io::Error),
}

impl Failure for StubError {
    fn kind(&self) -> Kind {
        match self {
            Self::Listen { .. } | Self::Journal(JournalError::Io { .. }) => Kind::Environment,
            Self::Journal(JournalError::Locked { .. }) => Kind::Refused,
            Self::Journal(JournalError::Damaged { .. }) | Self::Serve(_) => Kind::Failed,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "stub_listen",
            Self::Journal(JournalError::Io { .. }) => "stub_data",
            Self::Journal(JournalError::Locked { .. }) => "stub_locked",
            Self::Journal(JournalError::Damaged { .. }) => "stub_damaged",
            Self::Serve(_) => "stub_serve",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Listen { .. } => "fanout stub --listen 127.0.0.1:0",
            Self::Journal(JournalError::Damaged { .. }) => {
                "move the folder away: fanout stub begins a new one"
            }
            Self::Journal(_) => "fanout stub --data <another folder>",
            Self::Serve(_) => return None,
        };
        Some(hint.to_owned())
    }
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
    /// Reads what was accepted before and takes the port.
    ///
    /// # Errors
    /// When the port is taken, or the file is, or cannot be read.
    pub async fn bind(options: Options) -> Result<Self, StubError> {
        let listen = options.listen;
        let taken = |source| StubError::Listen { listen, source };
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

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many events it knows from before.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.known
    }

    /// Bytes of a half-written event that were cut off.
    #[must_use]
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Serves until `stop`, then ends what is under way.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), StubError> {
        let listener = self.listener.tap_io(|stream| {
            // Small answers must not wait for more to send with them.
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
            ended = server.into_future() => ended.map_err(StubError::Serve),
            () = late => Ok(()),
        }
    }
}
