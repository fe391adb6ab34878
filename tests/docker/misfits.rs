//! Containers that the engine's machine cannot run: for want of memory, or of
//! the right processors.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::{
    Test,
    stack::{Stack, docker},
};

/// The tests, in their order.
pub const TESTS: &[Test] = &[
    ("want_of_memory_is_told_with_its_remedy", want_of_memory),
    ("another_architecture_is_told", other_architecture),
];

/// The beginning of a program for 64-bit ARM, which no other processor runs.
const ARM_PROGRAM: [u8; 20] = [
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 183, 0,
];

/// Redis reads what it stored when it starts, which takes more than the least
/// that a container may have.
fn want_of_memory(stack: &Stack) {
    let other = stack.other("hungry");
    let up = ["up", "redis", "--ports", "auto"];
    other.run(&up).ends_with(0);
    let name = format!("{}-hungry-redis-1", stack.project);
    let fill = "for i = 1, 30000 do redis.call('set', i, string.rep('x', 1000)) end";
    docker(&["exec", &name, "redis-cli", "eval", fill, "0"]);
    docker(&["stop", &name]);
    docker(&["update", "--memory", "6m", "--memory-swap", "6m", &name]);
    let starved = other.run(&up).ends_with(3);
    let remedy = format!("docker update --memory 2g --memory-swap 2g {name}");
    starved
        .says("redis ran out of memory and was killed (its container is limited to 6 MiB)")
        .says("; last log lines:")
        .says(&format!("hint: {remedy}, then: fanout --project"));
    let status = other.document(0, &["status"]);
    let services = status["services"].as_array().expect("services");
    let redis = services.iter().find(|one| one["name"] == "redis");
    let problem = redis.map(|redis| &redis["problem"]);
    assert_eq!(
        problem.and_then(serde_json::Value::as_str),
        Some("its container has exited (killed because it ran out of memory)")
    );
    let words: Vec<&str> = remedy.split(' ').skip(1).collect();
    docker(&words);
    other.run(&up).ends_with(0);
    let kept = docker(&["exec", &name, "redis-cli", "dbsize"]);
    assert_eq!(kept.trim(), "30000");
    other.run(&["reset", "--yes"]).ends_with(0);
}

fn other_architecture(stack: &Stack) {
    let image = format!("{}-foreign/redis:8.2.2", stack.project);
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    fs::write(&program, ARM_PROGRAM).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let archive = folder.path().join("image.tar");
    let mut packed = tar::Builder::new(fs::File::create(&archive).expect("made"));
    packed
        .append_path_with_name(&program, "redis-server")
        .expect("packed");
    packed.finish().expect("packed");
    let change = "ENV PATH=/";
    docker(&[
        "import",
        "--change",
        change,
        &archive.display().to_string(),
        &image,
    ]);
    let other = stack.other("foreign-arch");
    let file = other.home().join("foreign-arch.yaml");
    let text = format!("services: {{redis: {{image: \"{image}\"}}}}");
    fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    let up = ["--config", &file, "up", "redis", "--ports", "auto"];
    let refused = other.run(&up).ends_with(3);
    refused
        .says(&format!("image {image} of redis is for "))
        .says("hint: set another in fanout.yaml: services: {redis: {image: …}}");
    other.run(&["reset", "--yes"]).ends_with(0);
    docker(&["rmi", &image]);
}
