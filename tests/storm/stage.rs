//! State shared by all threads of the storm: the stack, the proxies, the clock
//! and the findings.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fanout::connections::clickhouse::Endpoint;
use serde_json::Value as Json;
use url::Url;

use crate::{
    log::Broker,
    proxy::Proxy,
    schedule::{Link, Mode},
    support::{Fanout, Stack, wait_for},
};

/// Timeout of one request to a server that may be paused.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The board's window, short enough that events leave it during a storm.
pub const WINDOW_SECONDS: u64 = 30;

pub struct Stage {
    pub stack: Stack,
    /// Calls the binary for the workers, with addresses of the proxies.
    pub worker: Fanout,
    /// Calls the binary for the oracle, with the same settings but the servers'
    /// own addresses.
    pub oracle: Fanout,
    pub start: Instant,
    links: [(Link, Proxy); 3],
    web: reqwest::Client,
    /// Whether the load and the checks must end.
    over: AtomicBool,
    /// End of each disturbance, or `None` while it lasts.
    disturbances: Mutex<Vec<Option<Instant>>>,
    findings: Mutex<Vec<String>>,
}

/// The id of a disturbance: the time from the start of a fault until its
/// effects have ended.
#[derive(Debug, Clone, Copy)]
pub struct DisturbanceId(usize);

impl Stage {
    pub fn start() -> Self {
        let stack = Stack::bring_up(&["--no-run"]).unwrap_or_else(|error| panic!("{error}"));
        // Events may arrive before their content, or after it was deleted.
        stack.stores.postgres(
            "ALTER TABLE engagement_events DROP CONSTRAINT engagement_events_content_id_fkey",
        );
        let variables = [
            (Link::Redis, "FANOUT_REDIS_URL"),
            (Link::ClickHouse, "FANOUT_CLICKHOUSE_URL"),
            (Link::External, "FANOUT_EXTERNAL_URL"),
        ];
        let oracle = stack
            .fanout
            .with("FANOUT_BOARD_WINDOW_SECONDS", &WINDOW_SECONDS.to_string());
        let mut worker = [
            ("FANOUT_REDIS_REQUEST_TIMEOUT_MS", "2000"),
            ("FANOUT_CLICKHOUSE_REQUEST_TIMEOUT_MS", "5000"),
            ("FANOUT_EXTERNAL_REQUEST_TIMEOUT_MS", "2000"),
            // A storm has many failures per hour.
            ("FANOUT_CONNECT_TASK_RESTARTS_PER_HOUR", "10000"),
        ]
        .iter()
        .fold(oracle.clone(), |fanout, (name, value)| {
            fanout.with(name, value)
        });
        let links = variables.map(|(link, variable)| {
            let mut url: Url = stack.stores.url(variable).parse().expect("a url");
            let proxy = Proxy::start(url.port().expect("a port"));
            url.set_port(Some(proxy.port)).expect("set the port");
            worker = worker.with(variable, url.as_str().trim_end_matches('/'));
            (link, proxy)
        });
        Self {
            stack,
            worker,
            oracle,
            start: Instant::now(),
            links,
            web: reqwest::Client::builder()
                .timeout(TIMEOUT)
                .build()
                .expect("a client"),
            over: AtomicBool::new(false),
            disturbances: Mutex::default(),
            findings: Mutex::default(),
        }
    }

    /// Sets what a link does from now on.
    pub fn set_link(&self, link: Link, mode: Mode) {
        let entry = self.links.iter().find(|(name, _)| *name == link);
        entry.expect("each link has a proxy").1.set(mode);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Begins a disturbance.
    pub fn begin_disturbance(&self) -> DisturbanceId {
        let mut disturbances = self
            .disturbances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        disturbances.push(None);
        DisturbanceId(disturbances.len() - 1)
    }

    /// Sets the end of a disturbance, which may be in the future.
    pub fn end_disturbance(&self, DisturbanceId(index): DisturbanceId, until: Instant) {
        let mut disturbances = self
            .disturbances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        disturbances[index] = Some(until);
    }

    /// Returns true if no other disturbance has lasted beyond `since`.
    pub fn was_alone(&self, DisturbanceId(index): DisturbanceId, since: Instant) -> bool {
        let disturbances = self
            .disturbances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut others = (0..)
            .zip(disturbances.iter())
            .filter(|(other, _)| *other != index);
        others.all(|(_, until)| until.is_some_and(|until| until <= since))
    }

    /// Returns a guard that ends the storm if this thread panics.
    pub fn end_on_panic(&self) -> EndOnPanic<'_> {
        EndOnPanic(self)
    }

    /// Records a finding. The storm continues, in order to find more.
    pub fn report(&self, finding: String) {
        self.log(&format!("FINDING: {finding}"));
        self.lock().push(finding);
    }

    pub fn findings(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a line with the time since the start of the storm.
    pub fn log(&self, text: &str) {
        println!("{:>7.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    /// Waits until this time of the storm. Returns immediately once the storm
    /// has ended.
    pub fn sleep_until(&self, at: Duration) {
        while !self.is_over() {
            let remaining = at.saturating_sub(self.start.elapsed());
            if remaining.is_zero() {
                return;
            }
            thread::sleep(remaining.min(Duration::from_millis(50)));
        }
    }

    pub fn broker(&self) -> Broker {
        Broker::at(self.stack.stores.url("FANOUT_KAFKA_BROKERS"))
    }

    /// Sends a query to ClickHouse itself. Fails if ClickHouse does not
    /// respond.
    pub fn clickhouse(&self, query: &str) -> Result<String, String> {
        let url = self.stack.stores.url("FANOUT_CLICKHOUSE_URL");
        let endpoint = Endpoint::at(&url.into()).expect("a url");
        let request = self
            .web
            .post(&endpoint.url)
            .basic_auth(&endpoint.user, Some(endpoint.password.reveal()))
            .body(query.to_owned());
        let (is_success, text) = wait_for(async {
            let response = request.send().await?;
            Ok((response.status().is_success(), response.text().await?))
        })
        .map_err(|error: reqwest::Error| error.to_string())?;
        if is_success { Ok(text) } else { Err(text) }
    }

    /// Returns a page of the calls that the external system has accepted.
    pub fn accepted(&self, query: &str) -> Result<Json, String> {
        let url = self.stack.stores.url("FANOUT_EXTERNAL_URL");
        let request = self.web.get(format!("{url}/events?{query}"));
        let page = wait_for(async { request.send().await?.json().await });
        page.map_err(|error: reqwest::Error| error.to_string())
    }

    /// Sets the failures that the external system injects from now on.
    pub fn set_faults(&self, faults: &str) {
        let url = self.stack.stores.url("FANOUT_EXTERNAL_URL");
        let request = self.web.put(format!("{url}/faults?{faults}"));
        let response = wait_for(async { request.send().await }).expect("reach the stub");
        assert_eq!(response.status(), 200, "{faults}");
    }
}

/// Ends the storm if it is dropped by a panic.
pub struct EndOnPanic<'a>(&'a Stage);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

/// Repeats `check` until it succeeds. Returns its last error after `timeout`.
pub fn wait_until<T>(
    timeout: Duration,
    mut check: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match check() {
            Ok(found) => return Ok(found),
            Err(error) if start.elapsed() > timeout => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
