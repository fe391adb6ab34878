//! What is refused, and how it is said.

use std::{net::TcpListener, process::Child, time::Instant};

use crate::{
    Test,
    stack::{Stack, docker, eventually},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("a_foreign_container_is_never_touched", foreign_container),
    (
        "a_foreign_network_or_volume_is_never_touched",
        foreign_things,
    ),
    ("a_held_port_names_its_holder", held_port),
    (
        "a_container_that_ends_is_told_with_its_last_words",
        dying_container,
    ),
    ("an_image_that_is_not_there_is_told", missing_image),
    ("two_at_once_are_one_after_the_other", two_at_once),
    ("an_engine_that_does_not_answer_is_told", no_engine),
];

fn foreign_container(stack: &Stack) {
    let name = format!("{}-foreign-redis-1", stack.project);
    docker(&["create", "--name", &name, stack.image_of_redis()]);
    let id = || docker(&["inspect", "--format", "{{.Id}}", &name]);
    let before = id();
    let other = stack.other("foreign");
    let up = ["up", "redis", "--ports", "auto"];
    let refused = other.run(&up).ends_with(6);
    refused
        .says(&format!("container {name} exists and was not created by"))
        .says(&format!("docker container rm {name}"));
    // Nothing is on record of a project whose `up` was refused; its folder is
    // all that there is to remove.
    other.run(&["down"]).ends_with(6);
    other.run(&["reset", "--yes"]).ends_with(0);
    assert_eq!(id(), before);
    docker(&["rm", "-v", &name]);
}

fn foreign_things(stack: &Stack) {
    let other = stack.other("things");
    let up = ["up", "redis", "--ports", "auto"];
    let network = format!("{}-things_default", stack.project);
    docker(&["network", "create", &network]);
    let refused = other.run(&up).ends_with(6);
    refused.says(&format!("network {network} exists and was not created by"));
    docker(&["network", "rm", &network]);
    let volume = format!("{}-things_redis-8", stack.project);
    docker(&["volume", "create", &volume]);
    let refused = other.run(&up).ends_with(6);
    refused.says(&format!("volume {volume} exists and was not created by"));
    other.run(&["reset", "--yes"]).ends_with(0);
    docker(&["volume", "rm", &volume]);
}

fn held_port(stack: &Stack) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    stack.configure(&[("redis", &format!("ports: {{main: {port}}}"))]);
    let refused = stack.other("port").run(&["up", "redis"]).ends_with(3);
    stack.configure(&[]);
    let pid = std::process::id();
    refused
        .says(&format!(
            "port {port}, needed by redis, is in use by pid {pid} ("
        ))
        .says("up redis --ports auto");
}

fn dying_container(stack: &Stack) {
    stack.configure(&[("postgres", "env: {POSTGRES_PASSWORD: \"\"}")]);
    let other = stack.other("dying");
    let begun = Instant::now();
    let died = other.run(&["up", "postgres", "--ports", "auto"]);
    let took = begun.elapsed();
    stack.configure(&[]);
    let died = died.ends_with(1);
    died.says("postgres exited before it was ready (exit code ")
        .says("; last log lines:")
        .says("POSTGRES_PASSWORD");
    assert!(took.as_secs() < 60, "it took {took:?}");
    other.run(&["reset", "--yes"]).ends_with(0);
}

fn missing_image(stack: &Stack) {
    let image = stack.image_of_redis();
    let (repository, _) = image.rsplit_once(':').expect("a tag");
    let other = stack.other("image");
    let file = other.home().join("missing.yaml");
    let text = format!("services: {{redis: {{image: \"{repository}:no-such-tag\"}}}}");
    std::fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    let up = ["--config", &file, "up", "redis", "--ports", "auto"];
    let refused = other.run(&up).ends_with(3);
    refused
        .says(&format!("image {repository}:no-such-tag does not exist"))
        .says("hint: set another in fanout.yaml");
    let mut never = up.to_vec();
    never.extend(["--pull", "never"]);
    other
        .run(&never)
        .ends_with(3)
        .says("--pull never forbids pulling it");
    other.run(&["reset", "--yes"]).ends_with(0);
}

fn two_at_once(stack: &Stack) {
    let up = ["up", "--recreate", "force", "--ports", "auto"];
    let mut first: Child = stack.fanout.command(&up).spawn().expect("started");
    let lock = stack.fanout.home().join(&stack.project).join("lock");
    eventually("the first one holds the project", || {
        let holder = std::fs::read_to_string(&lock).unwrap_or_default();
        if holder == first.id().to_string() {
            return Ok(());
        }
        Err(format!("pid {holder} does"))
    });
    for second in [&["down"][..], &["up"], &["reset", "--yes"]] {
        stack.fanout.run(second).ends_with(6).says(&format!(
            "project {} is being changed by pid {}",
            stack.project,
            first.id()
        ));
    }
    assert!(first.wait().expect("waited for").success());
}

fn no_engine(stack: &Stack) {
    let named = ["--docker-host", "unix:///nowhere/docker.sock"];
    let mut status = named.to_vec();
    status.push("status");
    let status = stack.fanout.run(&status).ends_with(0);
    status.says("no container engine responds");
    let mut down = named.to_vec();
    down.push("down");
    stack.fanout.run(&down).ends_with(3).says("--docker-host");
    stack
        .fanout
        .run(&["--runtime", "native", "up"])
        .ends_with(6)
        .says("was created with the docker runtime, which cannot be changed");
}
