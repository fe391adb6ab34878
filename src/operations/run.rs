//! `run`: runs the pipeline and its HTTP server in the foreground, until it is stopped or idle.

use std::{io, net::SocketAddr, time::Duration};

use serde::Serialize;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::project::Project,
    connections::Connections,
    failure::{Command, Error, Failure, Hint, Kind},
    pipeline::{Pipeline, Start},
    progress::Progress,
    runtime::Reporter,
    runtime::{
        PipelineError,
        barrier::{self, Fence, FenceError},
        server,
        source::source as source_watch,
        status::Status,
    },
    sink_kind::SinkKind,
    source::connector::keeper,
    stack::{Site, State, StateError, endpoint},
};

/// Timeout of one wait of `--until-idle`, which then waits again.
const IDLE_INTERVAL: Duration = Duration::from_secs(30);

/// Time after which a halted sink counts as halted permanently. It has retried within this time.
const HALT_PATIENCE: Duration = Duration::from_secs(15);

/// Interval between two checks of the sinks.
const LOOK: Duration = Duration::from_millis(250);

/// Options of `run`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Sinks of this process.
    pub sinks: Vec<SinkKind>,
    /// Sinks of the project. Other processes may run the remaining ones.
    pub project_sinks: Vec<SinkKind>,
    /// Address of `/healthz`, `/metrics` and `/status`.
    pub listen: SocketAddr,
    /// Whether to use another port if that one is taken.
    pub any_port: bool,
    /// Whether to end when every sink has processed the source as of the start.
    pub until_idle: bool,
    /// Time limit of `until_idle`. `None` means no limit.
    pub timeout: Option<Duration>,
    /// Whether to create missing topics.
    pub creates_topics: bool,
}

/// Result of `run`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub url: String,
    /// Whether all records in flight were finished and committed before the end.
    pub drained: bool,
    /// Fence that all sinks have reached. Only for `until_idle`.
    pub fence: Option<Fence>,
    #[serde(flatten)]
    pub status: Status,
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Fence(#[from] FenceError),
    #[error(transparent)]
    Other(#[from] Error),
}

impl RunError {
    fn inner(&self) -> &dyn Failure {
        match self {
            Self::Pipeline(error) => error,
            Self::Fence(error) => error,
            Self::Other(error) => error,
        }
    }
}

impl Failure for RunError {
    fn kind(&self) -> Kind {
        self.inner().kind()
    }

    fn code(&self) -> &'static str {
        self.inner().code()
    }

    fn hint(&self) -> Option<String> {
        self.inner().hint()
    }

    fn structured_hint(&self) -> Option<&Hint> {
        self.inner().structured_hint()
    }
}

fn cannot_listen(address: SocketAddr, source: io::Error) -> Error {
    let message = format!("address {address} cannot be listened on");
    Error::new(Kind::Environment, "port_taken", message)
        .with_hint(Command::new("run").flag("--http-addr", "127.0.0.1:0"))
        .caused_by(source)
}

/// Returns true if the pipeline may create missing topics: fanout manages Kafka, the operator
/// gave `up` consent to change it, or this machine has no state of the project and only
/// configures Kafka, as for workers in containers.
///
/// # Errors
/// If the project's state cannot be read.
pub fn may_create_topics(site: &Site) -> Result<bool, StateError> {
    let state = State::load(&site.dir())?;
    Ok(state.is_none_or(|state| state.may_alter("kafka")))
}

/// A running pipeline with its HTTP server.
#[derive(Debug)]
pub struct Run {
    pipeline: Pipeline,
    reporter: Reporter,
    url: String,
    stop: CancellationToken,
    connections: Connections,
    options: Options,
}

impl Run {
    /// Binds the address and starts the workers.
    pub async fn start(
        project: &Project,
        connections: &Connections,
        options: Options,
        stop: CancellationToken,
    ) -> Result<Self, RunError> {
        let listener = listen(&options).await?;
        let address = listener.local_addr();
        let address = address.map_err(|source| cannot_listen(options.listen, source))?;
        let (writer, watch) = source_watch();
        let start = Start {
            project: project.as_str(),
            sinks: &options.sinks,
            project_sinks: &options.project_sinks,
            source: watch,
            creates_topics: options.creates_topics,
        };
        let pipeline = Pipeline::start(start, connections, stop.clone())?;
        let reporter = pipeline.reporter();
        let configured = endpoint::host_and_port(connections.settings().http.url.reveal());
        let names = configured.map(|(host, _)| host).into_iter().collect();
        tokio::spawn(serve(listener, reporter.clone(), names, stop.clone()));
        tokio::spawn(keeper::keep(connections.clone(), stop.clone()));
        tokio::spawn(crate::runtime::watch(
            connections.clone(),
            writer,
            stop.clone(),
        ));
        Ok(Self {
            pipeline,
            reporter,
            url: format!("http://{address}"),
            stop,
            connections: connections.clone(),
            options,
        })
    }

    /// Returns the URL of the HTTP server.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns a reader of the pipeline's status.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// Runs until it is stopped or, for `until_idle`, until it is idle.
    pub async fn finish(self, progress: &dyn Progress) -> Result<Report, RunError> {
        let mut fence = None;
        if self.options.until_idle {
            tokio::select! {
                idle = self.idle(progress) => fence = Some(idle.map_err(RunError::from)),
                halted = self.halted() => fence = Some(Err(halted.into())),
                late = late(self.options.timeout) => fence = Some(Err(late.into())),
                () = self.stop.cancelled() => {}
            }
            self.stop.cancel();
        }
        let drained = self.pipeline.finish().await;
        Ok(Report {
            url: self.url,
            drained,
            fence: fence.transpose()?,
            status: self.reporter.status(),
        })
    }

    /// Waits until a sink has been halted for [`HALT_PATIENCE`].
    async fn halted(&self) -> Error {
        let mut since: Option<(Instant, String)> = None;
        loop {
            let sinks = self.reporter.status().sinks.into_iter();
            let mut halted = sinks.filter_map(|sink| Some((sink.name, sink.halt?)));
            since = match (halted.next(), since) {
                (None, _) => None,
                (Some((sink, halt)), Some((at, known)))
                    if sink == known && at.elapsed() >= HALT_PATIENCE =>
                {
                    let message = format!("sink {sink} halted: {}", halt.reason);
                    return Error::new(Kind::Failed, "sink_halted", message)
                        .with_hint(Hint::unparsed(halt.remedy));
                }
                (Some((sink, _)), Some((at, known))) if sink == known => Some((at, known)),
                (Some((sink, _)), _) => Some((Instant::now(), sink)),
            };
            sleep(LOOK).await;
        }
    }

    /// Waits until every sink has processed the source as of this call. Keeps waiting for a sink
    /// that is behind. Returns an error if the progress cannot be read.
    async fn idle(&self, progress: &dyn Progress) -> Result<Fence, FenceError> {
        let sinks = &self.options.sinks;
        loop {
            match barrier::wait(&self.connections, sinks, IDLE_INTERVAL, progress).await {
                Err(error) if error.kind() == Kind::NotReady => {}
                ended => return ended,
            }
        }
    }
}

/// Waits until the time limit has passed, or forever if there is none.
async fn late(timeout: Option<Duration>) -> Error {
    let Some(timeout) = timeout else {
        return std::future::pending().await;
    };
    sleep(timeout).await;
    let message = format!("it was not idle within {} s", timeout.as_secs());
    Error::new(Kind::NotReady, "not_idle", message).with_hint(Command::new("status"))
}

async fn listen(options: &Options) -> Result<TcpListener, Error> {
    let refuse = |source| cannot_listen(options.listen, source);
    match TcpListener::bind(options.listen).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && options.any_port => {
            let any = SocketAddr::new(options.listen.ip(), 0);
            TcpListener::bind(any).await.map_err(refuse)
        }
        bound => bound.map_err(refuse),
    }
}

async fn serve(
    listener: TcpListener,
    reporter: Reporter,
    names: Vec<String>,
    stop: CancellationToken,
) {
    if let Err(error) = server::serve(listener, reporter, names, stop).await {
        tracing::error!(%error, "the http server has stopped");
    }
}
