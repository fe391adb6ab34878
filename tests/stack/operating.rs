//! Operating a stack, and the failures that may occur.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use fanout::connections::clickhouse::Endpoint;
use nix::unistd::Pid;
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Event, Stack, eventually, wait_for},
};

/// The tests in execution order.
pub const TESTS: &[Test] = &[
    (
        "other_ports_are_used_if_the_default_ports_are_in_use",
        other_ports,
    ),
    (
        "fixed_ports_in_use_are_refused_and_their_process_is_reported",
        fixed_ports,
    ),
    ("a_second_up_has_nothing_to_do", second_up),
    (
        "reapplying_the_connector_changes_nothing",
        connector_reapplied,
    ),
    ("a_smoke_test_passes", smoke),
    (
        "clickhouse_supports_the_http_interface_of_its_clients",
        clickhouse_over_http,
    ),
    (
        "a_killed_service_is_reported_and_restarted",
        killed_services,
    ),
    (
        "the_pipeline_waits_for_a_broker_without_a_busy_loop",
        without_a_broker,
    ),
    ("a_stopped_stack_keeps_its_data", down_and_up),
];

fn other_ports(stack: &Stack) {
    let occupied = [("POSTGRES", "127.0.0.1:5432"), ("REDIS", "127.0.0.1:6379")];
    for (service, address) in occupied {
        let url = stack.stores.url(&format!("FANOUT_{service}_URL"));
        assert!(
            !url.contains(address),
            "{url}\n{}",
            stack.first_up.evidence()
        );
    }
    let answer: String = stack.stores.redis(&["PING"]);
    assert_eq!(answer, "PONG");
    assert_eq!(stack.stores.postgres_text("SELECT 'there'"), "there");
}

fn fixed_ports(stack: &Stack) {
    stack.occupy_ports();
    let other = [
        "--project",
        "other",
        "--runtime",
        "native",
        "up",
        "--ports",
        "fixed",
    ];
    let refused = stack.fanout.run(&other).ends_with(3);
    let refused = refused.says("port 5432, needed by postgres, is in use by");
    refused.says("hint: fanout --project other --runtime native up --ports auto");
    assert!(!stack.fanout.home().join("other/state.json").exists());
}

fn second_up(stack: &Stack) {
    let before = stack.pid("pipeline");
    stack.fanout.run(&["up"]).ends_with(0).says("nothing to do");
    assert_eq!(stack.pid("pipeline"), before);
}

fn connector_reapplied(stack: &Stack) {
    let applied = stack.fanout.run(&["connector", "apply"]);
    applied.ends_with(0).says("unchanged");
    let status = stack.fanout.run(&["connector", "status"]);
    status.ends_with(0).says("running");
}

fn smoke(stack: &Stack) {
    // The speed is not under test.
    let arguments = ["smoke", "--timeout", "120s", "--latency-budget", "120s"];
    stack.fanout.run(&arguments).ends_with(0);
}

/// If no server is installed, ClickHouse is chDB behind fanout's front end,
/// which must behave the same.
fn clickhouse_over_http(stack: &Stack) {
    let url = stack.stores.url("FANOUT_CLICKHOUSE_URL");
    let endpoint = Endpoint::at(&url.into()).expect("a url");
    let client = reqwest::Client::new();
    let send = |method: reqwest::Method, statement: &str, header: (&str, &str)| {
        let parameters = [("query", statement), ("database", "default")];
        let url = url::Url::parse_with_params(&endpoint.url, parameters).expect("a url");
        let request = client
            .request(method, url)
            .basic_auth(&endpoint.user, Some(endpoint.password.reveal()))
            .header(header.0, header.1);
        wait_for(async {
            let answer = request.send().await.expect("an answer");
            (
                answer.status().as_u16(),
                answer.text().await.expect("a text"),
            )
        })
    };
    let (get, head) = (reqwest::Method::GET, reqwest::Method::HEAD);
    let database = ("X-ClickHouse-Database", "system");
    let (_, answer) = send(get.clone(), "SELECT currentDatabase()", database);
    assert_eq!(answer, "system\n");
    let format = ("X-ClickHouse-Format", "CSV");
    let query = "SELECT number AS n FROM numbers(300000)";
    let json = format!("{query} FORMAT JSON /* whole */ SETTINGS max_threads = 1");
    let (_, answer) = send(get.clone(), &json, format);
    let document: Json = serde_json::from_str(&answer).expect("one document");
    assert_eq!(document["rows"], 300_000);
    assert_eq!(send(head, query, format), (200, String::new()));
    assert_eq!(send(get.clone(), "SELECT 'x'", format).1, "\"x\"\n");
    let (status, answer) = send(get, "CREATE DATABASE never", format);
    assert!(status != 200 && answer.contains("READONLY"), "{answer}");
}

fn killed_services(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_score(event.content, Some(1));
    for service in ["redis", "clickhouse", "postgres", "kafka", "connect"] {
        stack.wait_until_healthy();
        let before = stack.pid(service);
        stack.kill(service);
        eventually(&format!("{service} is reported missing"), || {
            let ended = stack.fanout.run(&["status", "--check"]);
            let is_reported = ended.stdout.contains(&format!("blocked at {service}"));
            (ended.code == Some(5) && is_reported)
                .then_some(())
                .ok_or(ended.evidence())
        });
        stack.repair();
        assert_ne!(stack.pid(service), before, "{service}");
    }
    stack.assert_verified();
}

/// A regression test: librdkafka used more than a full core while no broker
/// responded.
fn without_a_broker(stack: &Stack) {
    const WINDOW: Duration = Duration::from_secs(10);
    let pipeline = stack.pid("pipeline");
    stack.kill("kafka");
    let (before, start) = (cpu_time(pipeline), Instant::now());
    thread::sleep(WINDOW);
    let cpu_used = cpu_time(pipeline)
        .checked_sub(before)
        .expect("the CPU time increases");
    let share = cpu_used.as_secs_f64() / start.elapsed().as_secs_f64();
    stack.repair();
    assert!(share < 0.6, "the pipeline used {share:.2} of a core");
    stack.assert_verified();
}

/// Returns the CPU time that a process has used since it started.
fn cpu_time(pid: Pid) -> Duration {
    /// The unit of `/proc/<pid>/stat` on every Linux that fanout supports.
    const TICK: Duration = Duration::from_millis(10);
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).expect("read the process statistics");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    // The 14th and 15th field of the line: CPU time in user and in kernel mode.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks
        .map(|field| field.parse::<u32>().expect("ticks"))
        .sum();
    TICK * ticks
}

fn down_and_up(stack: &Stack) {
    let event = Event::insert(stack);
    event.wait_for_column("device", &Json::from("ios"));
    let processes = stack.processes();
    let down = stack.fanout.run(&["down"]).ends_with(0);
    let data = stack.file("data");
    let down = down.says(&data.display().to_string());
    let alive: Vec<_> = processes
        .iter()
        .filter(|process| process.is_alive())
        .collect();
    assert!(alive.is_empty(), "{alive:?}\n{}", down.evidence());
    stack.fanout.run(&["down"]).ends_with(0);
    let status = stack.fanout.run(&["status", "--check"]);
    status.ends_with(5).says("fanout up");

    stack.repair();
    event.wait_for_column("device", &Json::from("ios"));
    event.wait_for_score(event.content, Some(1));
    stack.assert_verified();
}
