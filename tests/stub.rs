//! Tests the mock external system as a real server on its own port.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fanout::operations::stub::{Faults, Keep, Options, Stub};
use reqwest::Client;
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;

/// A stub in this process, stopped when dropped.
struct LocalStub {
    url: String,
    stop: CancellationToken,
    client: Client,
}

impl LocalStub {
    async fn start(data: &Path, faults: Faults) -> Self {
        let stub = Stub::bind(Options {
            listen: "127.0.0.1:0".parse().expect("an address"),
            data: data.to_owned(),
            keep: Keep {
                events: 1_000,
                bytes: 1 << 20,
            },
            faults,
        })
        .await
        .expect("a free port");
        let url = format!("http://{}", stub.address());
        let stop = CancellationToken::new();
        tokio::spawn(stub.serve(stop.clone()));
        Self {
            url,
            stop,
            client: Client::new(),
        }
    }

    async fn post(&self, key: Option<&str>, body: &str) -> (u16, Json) {
        post(&self.client, &self.url, key, body)
            .await
            .expect("a response")
    }

    async fn get(&self, path: &str) -> Json {
        let response = self.client.get(format!("{}{path}", self.url)).send().await;
        response.expect("a response").json().await.expect("json")
    }
}

impl Drop for LocalStub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn post(
    client: &Client,
    url: &str,
    key: Option<&str>,
    body: &str,
) -> reqwest::Result<(u16, Json)> {
    let mut request = client.post(format!("{url}/events")).body(body.to_owned());
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let response = request.send().await?;
    Ok((response.status().as_u16(), response.json().await?))
}

#[tokio::test]
async fn each_key_is_accepted_once_and_with_one_body() {
    let folder = tempfile::tempdir().expect("a folder");
    let stub = LocalStub::start(folder.path(), Faults::default()).await;
    let (status, answer) = stub.post(Some("k1"), r#"{"a":1}"#).await;
    assert_eq!((status, answer["status"].as_str()), (201, Some("accepted")));
    let (status, answer) = stub.post(Some("k1"), r#"{"a":1}"#).await;
    assert_eq!(
        (status, answer["status"].as_str()),
        (200, Some("duplicate"))
    );
    assert_eq!(stub.post(Some("k1"), r#"{"a":2}"#).await.0, 422);
    assert_eq!(stub.post(None, r#"{"a":1}"#).await.0, 400);
    assert_eq!(stub.post(Some(""), r#"{"a":1}"#).await.0, 400);
    assert_eq!(stub.post(Some("k2"), r#"{"a":"#).await.0, 400);
    let ping = stub.client.get(format!("{}/ping", stub.url)).send().await;
    assert_eq!(ping.expect("a response").text().await.expect("text"), "Ok.");
}

#[tokio::test]
async fn accepted_events_are_listed_in_pages() {
    let folder = tempfile::tempdir().expect("a folder");
    let stub = LocalStub::start(folder.path(), Faults::default()).await;
    for number in 1..=5 {
        stub.post(Some(&format!("k{number}")), &number.to_string())
            .await;
    }
    let latest = stub.get("/events?limit=2").await;
    assert_eq!(latest["system"], "fanout-stub");
    assert_eq!(latest["total"], 5);
    assert_eq!(latest["events"][0]["key"], "k5");
    assert_eq!(latest["events"][1]["body"], 4);
    let first = stub.get("/events?after=0&limit=3&bodies=false").await;
    assert_eq!(first["next"], 3);
    assert_eq!(first["events"][0]["key"], "k1");
    assert_eq!(first["events"][0]["body"], Json::Null);
    let rest = stub.get("/events?after=3&limit=3").await;
    assert_eq!(rest["next"], Json::Null);
    assert_eq!(rest["events"].as_array().map(Vec::len), Some(2));
    assert_eq!(stub.get("/events?key=k2").await["events"][0]["seq"], 2);
    assert_eq!(
        stub.get("/events?key=none").await["events"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn faults_can_be_set_and_cleared() {
    let folder = tempfile::tempdir().expect("a folder");
    let faults = Faults {
        status: Some(429),
        retry_after_seconds: Some(7),
        ..Faults::default()
    };
    let stub = LocalStub::start(folder.path(), faults).await;
    let request = stub.client.post(format!("{}/events", stub.url));
    let response = request
        .header("Idempotency-Key", "k")
        .body("1")
        .send()
        .await;
    let response = response.expect("a response");
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "7");

    let set_faults = |query: &str| stub.client.put(format!("{}/faults{query}", stub.url));
    let response = set_faults("?delay_ms=150")
        .send()
        .await
        .expect("a response");
    assert_eq!(response.status(), 200);
    let started = Instant::now();
    assert_eq!(stub.post(Some("k"), "1").await.0, 201);
    assert!(started.elapsed() >= Duration::from_millis(150));

    let response = set_faults("").body(r#"{"fail_rate": 2}"#).send().await;
    assert_eq!(response.expect("a response").status(), 400);
    let response = set_faults("").body(r#"{"fail_rate": 1}"#).send().await;
    assert_eq!(response.expect("a response").status(), 200);
    assert_eq!(stub.post(Some("k"), "1").await.0, 503);
    set_faults("").send().await.expect("a response");
    assert_eq!(stub.post(Some("k"), "1").await.0, 200);
}

/// A stub in its own process, killed when dropped.
struct StubProcess {
    child: Child,
    url: String,
}

impl StubProcess {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fanout"))
            .args([
                "--output",
                "json",
                "stub",
                "--listen",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start fanout");
        let stdout = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let listening: Json = serde_json::from_str(&line).expect("json");
        let url = listening["url"].as_str().expect("a url").to_owned();
        Self { child, url }
    }
}

impl Drop for StubProcess {
    fn drop(&mut self) {
        // If the test succeeded, the process has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_event_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let client = Client::new();
    let mut acknowledged = Vec::new();
    for run in 0..3 {
        let mut stub = StubProcess::start(folder.path());
        let count = Arc::new(AtomicUsize::new(0));
        let senders = (0..4).map(|sender| {
            let (url, client, count) = (stub.url.clone(), client.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut accepted = Vec::new();
                for number in 0.. {
                    count.store(number, Ordering::Relaxed);
                    let key = format!("{run}-{sender}-{number}");
                    match post(&client, &url, Some(&key), &format!("\"{key}\"")).await {
                        Ok((201, _)) => accepted.push(key),
                        Ok(response) => panic!("unexpected response {response:?}"),
                        Err(_) => break,
                    }
                }
                accepted
            })
        });
        let senders: Vec<_> = senders.collect();
        while count.load(Ordering::Relaxed) < 50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stub.child.kill().expect("kill the stub");
        for sender in senders {
            acknowledged.extend(sender.await.expect("join the sender"));
        }
    }
    let stub = LocalStub::start(folder.path(), Faults::default()).await;
    assert!(acknowledged.len() > 150, "{}", acknowledged.len());
    for key in acknowledged {
        let (status, _) = stub.post(Some(&key), &format!("\"{key}\"")).await;
        assert_eq!(status, 200, "{key} was lost");
    }
}

#[tokio::test]
async fn the_stub_exits_with_0_on_sigterm() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stub = StubProcess::start(folder.path());
    let client = Client::new();
    assert_eq!(
        post(&client, &stub.url, Some("k"), "1")
            .await
            .expect("a response")
            .0,
        201
    );
    let pid = nix::unistd::Pid::from_raw(i32::try_from(stub.child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("send the signal");
    assert_eq!(
        stub.child.wait().expect("wait for the stub").code(),
        Some(0)
    );
}
