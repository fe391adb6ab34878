//! What an operator does with a stack, and what happens to one.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use fanout::clients::clickhouse::Endpoint;
use nix::unistd::Pid;
use serde_json::Value as Json;

use crate::{
    Test,
    support::{Event, Stack, eventually, wait_for},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    (
        "other_ports_are_found_where_the_default_ones_are_held",
        other_ports,
    ),
    (
        "fixed_ports_are_refused_and_their_holder_is_named",
        fixed_ports,
    ),
    ("a_second_up_has_nothing_to_do", second_up),
    ("the_connector_applied_again_is_unchanged", connector_again),
    ("a_smoke_test_is_green", smoke),
    (
        "clickhouse_is_asked_over_http_as_its_clients_do",
        clickhouse_over_http,
    ),
    ("a_killed_service_is_noticed_and_mended", killed_services),
    (
        "the_pipeline_waits_for_a_broker_without_using_a_core",
        without_a_broker,
    ),
    ("a_stack_that_is_taken_down_keeps_its_data", down_and_up),
];

fn other_ports(stack: &Stack) {
    let held = [("POSTGRES", "127.0.0.1:5432"), ("REDIS", "127.0.0.1:6379")];
    for (service, address) in held {
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
    stack.hold_ports();
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
    let refused = refused.says("port 5432 is needed by postgres and held by");
    refused.says("hint: fanout --project other --runtime native up --ports auto");
    assert!(!stack.fanout.home().join("other/state.json").exists());
}

fn second_up(stack: &Stack) {
    let before = stack.pid("pipeline");
    stack.fanout.run(&["up"]).ends_with(0).says("nothing to do");
    assert_eq!(stack.pid("pipeline"), before);
}

fn connector_again(stack: &Stack) {
    let applied = stack.fanout.run(&["connector", "apply"]);
    applied.ends_with(0).says("unchanged");
    let status = stack.fanout.run(&["connector", "status"]);
    status.ends_with(0).says("running");
}

fn smoke(stack: &Stack) {
    // How fast it is is not for a test to say.
    let patient = ["smoke", "--timeout", "120s", "--latency-budget", "120s"];
    stack.fanout.run(&patient).ends_with(0);
}

/// Where there is no server this is chDB, whose front has to do the same.
fn clickhouse_over_http(stack: &Stack) {
    let url = stack.stores.url("FANOUT_CLICKHOUSE_URL");
    let endpoint = Endpoint::at(&url.into()).expect("a url");
    let client = reqwest::Client::new();
    let ask = |method: reqwest::Method, query: &str, header: (&str, &str)| {
        let parameters = [("query", query), ("database", "default")];
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
    let (_, answer) = ask(get.clone(), "SELECT currentDatabase()", database);
    assert_eq!(answer, "system\n");
    let format = ("X-ClickHouse-Format", "CSV");
    let many = "SELECT number AS n FROM numbers(300000)";
    let json = format!("{many} FORMAT JSON /* whole */ SETTINGS max_threads = 1");
    let (_, answer) = ask(get.clone(), &json, format);
    let document: Json = serde_json::from_str(&answer).expect("one document");
    assert_eq!(document["rows"], 300_000);
    assert_eq!(ask(head, many, format), (200, String::new()));
    assert_eq!(ask(get.clone(), "SELECT 'x'", format).1, "\"x\"\n");
    let (status, answer) = ask(get, "CREATE DATABASE never", format);
    assert!(status != 200 && answer.contains("READONLY"), "{answer}");
}

fn killed_services(stack: &Stack) {
    let event = Event::insert(stack);
    event.scores(event.content, Some(1));
    for service in ["redis", "clickhouse", "postgres", "kafka", "connect"] {
        stack.is_well();
        let before = stack.pid(service);
        stack.kill(service);
        eventually(&format!("{service} is missed"), || {
            let ended = stack.fanout.run(&["status", "--check"]);
            let named = ended.stdout.contains(&format!("stuck at {service}"));
            (ended.code == Some(5) && named)
                .then_some(())
                .ok_or(ended.evidence())
        });
        stack.mend();
        assert_ne!(stack.pid(service), before, "{service}");
    }
    stack.verifies();
}

/// librdkafka was seen to use more than a core as long as nobody answered.
fn without_a_broker(stack: &Stack) {
    const WINDOW: Duration = Duration::from_secs(10);
    let pipeline = stack.pid("pipeline");
    stack.kill("kafka");
    let (before, began) = (cpu_time(pipeline), Instant::now());
    thread::sleep(WINDOW);
    let used = cpu_time(pipeline).checked_sub(before).expect("it goes on");
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
    stack.mend();
    assert!(share < 0.6, "it used {share:.2} of a core");
    stack.verifies();
}

/// What a process has used of the processors since it began.
fn cpu_time(pid: Pid) -> Duration {
    /// The unit of `/proc`, on every Linux that fanout runs on.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    // The 14th and 15th field of all: in user and in kernel mode.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks
        .map(|field| field.parse::<u32>().expect("ticks"))
        .sum();
    TICK * ticks
}

fn down_and_up(stack: &Stack) {
    let event = Event::insert(stack);
    event.becomes("device", &Json::from("ios"));
    let processes = stack.processes();
    let down = stack.fanout.run(&["down"]).ends_with(0);
    let data = stack.file("data");
    let down = down.says(&data.display().to_string());
    let left: Vec<_> = processes.iter().filter(|one| one.is_alive()).collect();
    assert!(left.is_empty(), "{left:?}\n{}", down.evidence());
    stack.fanout.run(&["down"]).ends_with(0);
    let status = stack.fanout.run(&["status", "--check"]);
    status.ends_with(5).says("fanout up");

    stack.mend();
    event.becomes("device", &Json::from("ios"));
    event.scores(event.content, Some(1));
    stack.verifies();
}
