//! What an operator does with a stack in containers.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    Test,
    stack::{SERVICES, Stack, docker, eventually},
    trials::skip,
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("images_are_pulled_and_the_stack_comes_up", first_up),
    ("an_event_goes_through_and_every_store_agrees", smoke),
    (
        "a_connector_that_is_made_anew_does_not_show_the_password",
        connector_anew,
    ),
    ("a_second_up_has_nothing_to_do", second_up),
    ("compose_knows_what_is_there", compose_labels),
    ("ports_are_published_on_the_loopback_only", loopback),
    (
        "one_setting_changed_recreates_one_container_and_keeps_its_data",
        one_setting,
    ),
    (
        "a_tag_that_was_moved_is_pulled_and_its_container_made_anew",
        moved_tag,
    ),
    ("a_killed_container_is_noticed_and_mended", killed),
    ("logs_that_are_followed_survive_a_restart", followed),
];

fn first_up(stack: &Stack) {
    let plan = stack.fanout.document(0, &["up", "--dry-run"]);
    let steps = plan["plan"].as_array().expect("a plan");
    assert_eq!(steps.len(), SERVICES.len() + 2, "{plan:#}");
    assert!(stack.ids().is_empty());
    let up = stack.up();
    up.says("runtime docker: ")
        .says("create")
        .says(": pulled")
        .says("pipeline");
    let ids = stack.ids();
    assert!(ids.keys().eq(SERVICES.iter()), "{ids:?}");
}

fn smoke(stack: &Stack) {
    let smoke = ["smoke", "--latency-budget", "30s", "--timeout", "60s"];
    stack.fanout.run(&smoke).ends_with(0);
    let seed = ["seed", "--events", "300", "--content", "5"];
    stack.fanout.run(&seed).ends_with(0);
    stack.fanout.run(&["verify"]).ends_with(0);
    // A server under load may miss the deadline of one check.
    eventually("the stack is healthy", || {
        let ended = stack.fanout.run(&["status", "--check"]);
        (ended.code == Some(0))
            .then_some(())
            .ok_or_else(|| ended.evidence())
    });
    let applied = stack.fanout.run(&["connector", "apply"]).ends_with(0);
    applied.says("unchanged");
}

fn connector_anew(stack: &Stack) {
    let delete = ["connector", "delete", "--yes"];
    stack.fanout.run(&delete).ends_with(0);
    let applied = stack.fanout.run(&["connector", "apply"]).ends_with(0);
    applied.says("created");
    let status = stack.fanout.document(0, &["connector", "status"]);
    let name = status["connector"]["name"].as_str().expect("a name");
    let url = format!("http://localhost:8083/connectors/{name}/config");
    let config = docker(&["exec", &stack.container("connect"), "curl", "-s", &url]);
    let config: serde_json::Value = serde_json::from_str(&config).expect("a document");
    assert_eq!(
        config["database.password"],
        "${file:/etc/fanout/secrets.properties:postgres_password}"
    );
}

fn second_up(stack: &Stack) {
    let before = stack.ids();
    stack.up().says("nothing to do");
    assert_eq!(stack.ids(), before);
}

/// The filters that compose finds a project by.
fn compose_labels(stack: &Stack) {
    let project = format!("label=com.docker.compose.project={}", stack.project);
    let with = |kind: &[&str], more: &str| {
        let mut words = kind.to_vec();
        words.extend(["-q", "--filter", &project, "--filter", more]);
        docker(&words).lines().count()
    };
    let containers = ["ps", "-a"];
    let all = SERVICES.len();
    assert_eq!(
        with(&containers, "label=com.docker.compose.oneoff=False"),
        all
    );
    for label in ["config-hash", "container-number", "version", "service"] {
        let label = format!("label=com.docker.compose.{label}");
        assert_eq!(with(&containers, &label), all, "{label}");
    }
    assert_eq!(
        with(
            &["network", "ls"],
            "label=com.docker.compose.network=default"
        ),
        1
    );
    assert_eq!(
        with(&["volume", "ls"], "label=com.docker.compose.volume"),
        4
    );
}

fn loopback(stack: &Stack) {
    for service in SERVICES {
        let ports = docker(&["port", &stack.container(service)]);
        let mut published = ports.lines().map(|line| line.rsplit(" -> ").next());
        assert!(
            published.all(|at| at.is_some_and(|at| at.starts_with("127.0.0.1:"))),
            "{service}: {ports}"
        );
    }
}

fn one_setting(stack: &Stack) {
    let before = stack.ids();
    stack.configure(&[("postgres", "env: {TEST_OF_A_CHANGE: \"1\"}")]);
    stack
        .up()
        .says("recreate: env.TEST_OF_A_CHANGE added")
        .says("postgres: ready");
    assert_eq!(stack.changed(&before), ["postgres"]);
    // The events are compared with Postgres's own.
    eventually("every store agrees", || {
        let verify = stack.fanout.run(&["verify"]);
        match verify.code {
            Some(0) => Ok(()),
            _ => Err(verify.evidence()),
        }
    });
    let verified = stack.fanout.document(0, &["verify"]);
    let compared = &verified["checks"][0]["compared"];
    assert!(
        compared.as_u64().is_some_and(|rows| rows >= 300),
        "{verified:#}"
    );
}

fn moved_tag(stack: &Stack) {
    let Some(image) = stack.stand_in("redis") else {
        skip("nobody here moves the tags of the official images");
    };
    let old = docker(&["images", "-q", image]);
    let scratch = format!("{}-scratch", stack.project);
    docker(&["create", "--name", &scratch, image]);
    docker(&["commit", "--change", "LABEL moved=1", &scratch, image]);
    docker(&["rm", "-v", &scratch]);
    docker(&["push", image]);
    docker(&["tag", old.trim(), image]);
    let before = stack.ids();
    stack.up().says("nothing to do");
    let up = ["up", "--pull", "always", "--ports", "auto"];
    stack.fanout.run(&up).ends_with(0);
    assert_eq!(stack.changed(&before), ["redis"]);
    stack.up().says("nothing to do");
}

fn killed(stack: &Stack) {
    for service in ["redis", "kafka"] {
        docker(&["kill", &stack.container(service)]);
        let check = stack.fanout.run(&["status", "--check"]).ends_with(5);
        check.says(&format!(
            "blocked at {service}: its container has exited (exit code 137: it was killed)"
        ));
        let before = stack.ids();
        stack.up().says("start");
        assert_eq!(stack.ids(), before, "the same containers");
    }
    eventually("everything works", || {
        let check = stack.fanout.run(&["status", "--check"]);
        match check.code {
            Some(0) => Ok(()),
            _ => Err(check.evidence()),
        }
    });
    stack.fanout.run(&["verify"]).ends_with(0);
}

fn followed(stack: &Stack) {
    let arguments = ["logs", "-f", "--tail", "1", "redis"];
    let mut child = stack
        .fanout
        .command(&arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let next = |what: &str| {
        let mut seen = Vec::new();
        while !seen.iter().any(|line: &String| line.contains(what)) {
            match receiver.recv_timeout(Duration::from_secs(30)) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("no `{what}`: {error}\n{}", seen.join("\n")),
            }
        }
    };
    next("redis");
    let container = stack.container("redis");
    docker(&["restart", &container]);
    next("Ready to accept connections");
    // Another one under the same name.
    docker(&["rm", "-f", &container]);
    stack.up();
    next("Ready to accept connections");
    child.kill().expect("it was there");
    child.wait().expect("waited for");
}
