//! What all of the storm's threads share: the stack, the proxies, the clock,
//! and what was found.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fanout::clients::clickhouse::Endpoint;
use serde_json::Value as Json;
use url::Url;

use crate::{
    log::Broker,
    proxy::Proxy,
    schedule::{Link, Mode},
    support::{Fanout, Stack, wait_for},
};

/// A question to a server that may stand still.
const ANSWER: Duration = Duration::from_secs(5);

/// The board's window: short, so that events leave it during a storm.
pub const WINDOW_SECONDS: u64 = 30;

pub struct Stage {
    pub stack: Stack,
    /// The binary as the workers are started with: through the proxies.
    pub worker: Fanout,
    /// The binary that judges: with the same settings, straight to the servers.
    pub judge: Fanout,
    pub begun: Instant,
    links: [(Link, Proxy); 3],
    web: reqwest::Client,
    /// The load and the looks end.
    over: AtomicBool,
    /// Until when each fault had its effect; none while it has.
    spells: Mutex<Vec<Option<Instant>>>,
    findings: Mutex<Vec<String>>,
}

/// The time of one fault, from its beginning until what it broke is back.
#[derive(Debug, Clone, Copy)]
pub struct SpellId(usize);

impl Stage {
    pub fn set() -> Self {
        let stack = Stack::bring_up(&["--no-run"]).unwrap_or_else(|why| panic!("{why}"));
        // Events of a content that is not there yet, or not any more, come too.
        stack.stores.postgres(
            "ALTER TABLE engagement_events DROP CONSTRAINT engagement_events_content_id_fkey",
        );
        let variables = [
            (Link::Redis, "FANOUT_REDIS_URL"),
            (Link::ClickHouse, "FANOUT_CLICKHOUSE_URL"),
            (Link::External, "FANOUT_EXTERNAL_URL"),
        ];
        let judge = stack
            .fanout
            .with("FANOUT_BOARD_WINDOW_SECONDS", &WINDOW_SECONDS.to_string());
        let mut worker = [
            ("FANOUT_REDIS_REQUEST_TIMEOUT_MS", "2000"),
            ("FANOUT_CLICKHOUSE_REQUEST_TIMEOUT_MS", "5000"),
            ("FANOUT_EXTERNAL_REQUEST_TIMEOUT_MS", "2000"),
            // A storm is many accidents an hour.
            ("FANOUT_CONNECT_TASK_RESTARTS_PER_HOUR", "10000"),
        ]
        .iter()
        .fold(judge.clone(), |fanout, (name, value)| {
            fanout.with(name, value)
        });
        let links = variables.map(|(link, variable)| {
            let mut url: Url = stack.stores.url(variable).parse().expect("a url");
            let proxy = Proxy::start(url.port().expect("a port"));
            url.set_port(Some(proxy.port)).expect("it has a port");
            worker = worker.with(variable, url.as_str().trim_end_matches('/'));
            (link, proxy)
        });
        Self {
            stack,
            worker,
            judge,
            begun: Instant::now(),
            links,
            web: reqwest::Client::builder()
                .timeout(ANSWER)
                .build()
                .expect("a client"),
            over: AtomicBool::new(false),
            spells: Mutex::default(),
            findings: Mutex::default(),
        }
    }

    /// What a link does from now on.
    pub fn set_link(&self, link: Link, mode: Mode) {
        let found = self.links.iter().find(|(name, _)| *name == link);
        found.expect("each has one").1.set(mode);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Something goes wrong.
    pub fn spell(&self) -> SpellId {
        let mut spells = self.spells.lock().unwrap_or_else(PoisonError::into_inner);
        spells.push(None);
        SpellId(spells.len() - 1)
    }

    /// It is over now, or will be then.
    pub fn spell_ends(&self, SpellId(which): SpellId, until: Instant) {
        let mut spells = self.spells.lock().unwrap_or_else(PoisonError::into_inner);
        spells[which] = Some(until);
    }

    /// Whether nothing else was wrong since then.
    pub fn was_alone(&self, SpellId(which): SpellId, since: Instant) -> bool {
        let spells = self.spells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = (0..)
            .zip(spells.iter())
            .filter(|(other, _)| *other != which);
        others.all(|(_, until)| until.is_some_and(|until| until <= since))
    }

    /// Ends everything, should this thread panic.
    pub fn ends_with_me(&self) -> EndsOnPanic<'_> {
        EndsOnPanic(self)
    }

    /// Something that must not be; the storm goes on, to find the rest.
    pub fn found(&self, finding: String) {
        self.say(&format!("FOUND: {finding}"));
        self.lock().push(finding);
    }

    pub fn findings(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line with the storm's time.
    pub fn say(&self, what: &str) {
        println!("{:>7.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Waits until this time of the storm; returns at once when it is over.
    pub fn sleep_until(&self, at: Duration) {
        while !self.is_over() {
            let left = at.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    pub fn broker(&self) -> Broker {
        Broker::at(self.stack.stores.url("FANOUT_KAFKA_BROKERS"))
    }

    /// A question to ClickHouse itself, where it answers.
    pub fn clickhouse(&self, question: &str) -> Result<String, String> {
        let url = self.stack.stores.url("FANOUT_CLICKHOUSE_URL");
        let endpoint = Endpoint::at(&url.into()).expect("a url");
        let request = self
            .web
            .post(&endpoint.url)
            .basic_auth(&endpoint.user, Some(endpoint.password.reveal()))
            .body(question.to_owned());
        let (good, text) = wait_for(async {
            let answer = request.send().await?;
            Ok((answer.status().is_success(), answer.text().await?))
        })
        .map_err(|error: reqwest::Error| error.to_string())?;
        if good { Ok(text) } else { Err(text) }
    }

    /// A page of what the external system has accepted.
    pub fn accepted(&self, query: &str) -> Result<Json, String> {
        let url = self.stack.stores.url("FANOUT_EXTERNAL_URL");
        let request = self.web.get(format!("{url}/events?{query}"));
        let page = wait_for(async { request.send().await?.json().await });
        page.map_err(|error: reqwest::Error| error.to_string())
    }

    /// How the external system answers from now on.
    pub fn set_answers(&self, faults: &str) {
        let url = self.stack.stores.url("FANOUT_EXTERNAL_URL");
        let request = self.web.put(format!("{url}/faults?{faults}"));
        let answer = wait_for(async { request.send().await }).expect("the stub");
        assert_eq!(answer.status(), 200, "{faults}");
    }
}

/// Ends the storm when it is dropped by a panic.
pub struct EndsOnPanic<'a>(&'a Stage);

impl Drop for EndsOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

/// Looks until there is what is wanted, or until `within` is over.
pub fn until<T>(
    within: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(instead) if begun.elapsed() > within => return Err(instead),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
