//! Checks the structure that `src/lib.rs` describes: imports point down only,
//! files do not import each other in a cycle, the bottom layer is pure, each
//! client crate is used in one place, and the library never prints. The sources
//! are read as tokens, so paths are found in `use` declarations, signatures,
//! macros and tests, but not in comments and strings.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "architecture/cycles.rs"]
mod cycles;
#[path = "architecture/source.rs"]
mod source;

use std::path::Path;

use source::{Name, Source, Violation};

// --- the rules ---------------------------------------------------------------

/// The layers above the bottom one, from low to high. A module imports only
/// modules of lower layers. Modules not listed here are in the bottom layer,
/// which has the strictest rules.
const LAYERS: [&str; 10] = [
    "kafka",
    "connections",
    "stack",
    "spill",
    "source",
    "runtime",
    "audit",
    "sinks",
    "pipeline",
    "operations",
];

/// Returns the layer of a library module.
fn layer(module: &str) -> usize {
    let position = LAYERS.iter().position(|layer| *layer == module);
    position.map_or(BOTTOM, |position| position + 1)
}

const BOTTOM: usize = 0;

/// Files of the bottom layer that read the time.
const CLOCK: &str = "src/time/clock.rs";

/// A folder of a higher layer that is as pure as the bottom one.
const PURE: &str = "src/source/checks/";

/// One folder for each sink: none of them imports another.
const SINKS: [&str; 3] = ["clickhouse", "http", "redis"];

/// The allowed imports between sinks: the file, the name and the reason.
const BETWEEN_SINKS: [(&str, &str, &str); 1] = [(
    "src/sinks/redis/eligible.rs",
    "Query",
    "ClickHouse keeps the times of the records that the board's events come from; without \
     ClickHouse they are read from the log",
)];

/// Client crates, each with the folders or files that may use it: where its
/// connection is made, and the sink that speaks through it.
const CLIENTS: [(&str, &[&str]); 7] = [
    ("bollard", &["src/stack/docker/engine/"]),
    (
        "clickhouse",
        &["src/connections/clickhouse/", "src/sinks/clickhouse/"],
    ),
    ("rdkafka", &["src/kafka/"]),
    ("rdkafka_sys", &["src/kafka/"]),
    ("redis", &["src/connections/redis/", "src/sinks/redis/"]),
    ("reqwest", &["src/connections/web.rs"]),
    ("tokio_postgres", &["src/connections/postgres/"]),
];

/// Constructors of a connection and of a project's set of clients, each with
/// the files that may call it. All other code receives them as arguments.
const CONSTRUCTORS: [([&str; 2], &[&str]); 2] = [
    // A probe connects to the endpoint of a service of any kind.
    (
        ["Connection", "new"],
        &[
            "src/config/connection.rs",
            "src/connections/",
            "src/kafka/",
            "src/stack/probe.rs",
        ],
    ),
    // Called once per command, where the configuration is loaded or resolved.
    (
        ["Connections", "of"],
        &[
            "commands/context.rs",
            "src/operations/doctor/mod.rs",
            "src/operations/reset/mod.rs",
            "src/operations/status/mod.rs",
            "src/operations/up/mod.rs",
        ],
    ),
];

/// Paths that the bottom layer must not use, besides the client crates.
const IMPURE: [&[&str]; 9] = [
    &["tokio"],
    &["tokio_util"],
    &["axum"],
    &["hyper"],
    &["std", "net"],
    &["Instant", "now"],
    &["SystemTime", "now"],
    &["Timestamp", "now"],
    &["Zoned", "now"],
];

/// Crates that write to a terminal.
const DISPLAY: [&str; 2] = ["indicatif", "comfy_table"];

/// The only module that may use `unsafe`.
const UNSAFE: &str = "src/kafka/native.rs";

const MAX_LINES: usize = 500;

/// Maximum number of lines of `commands/main.rs`, without its list of modules.
const MAX_MAIN_LINES: usize = 45;

/// Modules of the library may import modules of lower layers. Modules of the
/// bottom layer may also import each other.
fn imports_point_down(source: &Source) -> Vec<Violation> {
    let Some(module) = source.top_module() else {
        return Vec::new();
    };
    let allowed = |other: &str| {
        other == module
            || layer(other) < layer(module)
            || layer(other) == BOTTOM && layer(module) == BOTTOM
    };
    source.violations(|name| {
        let other = name.library_module()?;
        (!allowed(other)).then(|| format!("{module} imports {other}"))
    })
}

fn the_bottom_layer_is_pure(source: &Source) -> Vec<Violation> {
    let is_bottom = source
        .top_module()
        .is_some_and(|module| layer(module) == BOTTOM && source.path != Path::new(CLOCK));
    if !is_bottom && !source.path.starts_with(PURE) {
        return Vec::new();
    }
    source.violations(|name| {
        let client = CLIENTS.iter().any(|(client, _)| source.names(name, client));
        let impure = IMPURE.iter().any(|path| name.contains(path));
        (client || impure).then(|| format!("the bottom layer uses {name}"))
    })
}

fn a_client_crate_is_used_in_its_places(source: &Source) -> Vec<Violation> {
    source.violations(|name| {
        let (client, places) = CLIENTS
            .iter()
            .find(|(client, _)| source.names(name, client))?;
        let is_allowed = places.iter().any(|place| source.path.starts_with(place));
        (!is_allowed).then(|| format!("{client} is used outside of {}", places.join(" and ")))
    })
}

/// Returns true if [`BETWEEN_SINKS`] lists this name in this file.
fn is_allowed_between_sinks(source: &Source, name: &Name) -> bool {
    BETWEEN_SINKS.iter().any(|(file, item, _)| {
        source.path == Path::new(file) && name.segments.last().is_some_and(|last| last == item)
    })
}

fn sinks_do_not_import_each_other(source: &Source) -> Vec<Violation> {
    let sink = match source.module.as_slice() {
        [sinks, sink, ..] if source.is_library() && sinks == "sinks" => sink,
        _ => return Vec::new(),
    };
    if !SINKS.contains(&sink.as_str()) {
        return Vec::new();
    }
    source.violations(|name| match name.segments.as_slice() {
        [first, sinks, other, ..]
            if first == "crate"
                && sinks == "sinks"
                && other != sink
                && SINKS.contains(&other.as_str())
                && !is_allowed_between_sinks(source, name) =>
        {
            Some(format!("sink {sink} imports sink {other}"))
        }
        _ => None,
    })
}

fn connections_are_created_in_one_place(source: &Source) -> Vec<Violation> {
    source.violations(|name| {
        let constructor = CONSTRUCTORS.iter().find(|(path, _)| name.contains(path));
        let (_, callers) = constructor?;
        let is_allowed = callers.iter().any(|file| source.path.starts_with(file));
        (!is_allowed).then(|| format!("{name} is not allowed here"))
    })
}

fn only_commands_use_the_terminal(source: &Source) -> Vec<Violation> {
    source.violations(|name| {
        let is_display = DISPLAY.iter().any(|display| source.names(name, display));
        (source.is_library() && is_display).then(|| format!("the library uses {name}"))
    })
}

fn the_library_never_prints(source: &Source) -> Vec<Violation> {
    const PRINTS: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
    source.violations(|name| {
        let word = name.segments.last()?;
        (source.is_library() && PRINTS.contains(&word.as_str())).then(|| format!("{word} prints"))
    })
}

fn unsafe_is_used_in_one_module(source: &Source) -> Vec<Violation> {
    source.violations(|name| {
        let is_unsafe = name.segments == ["unsafe"] && source.path != Path::new(UNSAFE);
        is_unsafe.then(|| "unsafe".to_owned())
    })
}

fn a_module_has_documentation(source: &Source) -> Vec<Violation> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.violation(1, "does not open with //!".to_owned())]
}

fn files_are_small(source: &Source) -> Vec<Violation> {
    let is_main = source.path == Path::new("commands/main.rs");
    let is_declaration = |line: &&str| line.starts_with("mod ") && line.ends_with(';');
    let (lines, limit) = if is_main {
        let lines = source.text.lines().filter(|line| !is_declaration(line));
        (lines.count(), MAX_MAIN_LINES)
    } else {
        (source.text.lines().count(), MAX_LINES)
    };
    if lines <= limit {
        return Vec::new();
    }
    vec![source.violation(lines, format!("{lines} lines, at most {limit}"))]
}

fn there_is_no_unfinished_code(source: &Source) -> Vec<Violation> {
    let markers = ["TODO", "FIXME", "todo!", "unimplemented!"];
    let lines = source.text.lines().zip(1..);
    lines
        .filter_map(|(line, number)| {
            let marker = markers.iter().find(|marker| line.contains(*marker))?;
            Some(source.violation(number, (*marker).to_owned()))
        })
        .collect()
}

/// All rules, each with its name in reports.
const RULES: [(&str, fn(&Source) -> Vec<Violation>); 11] = [
    ("imports point down", imports_point_down),
    ("the bottom layer is pure", the_bottom_layer_is_pure),
    (
        "a client crate is used in its places",
        a_client_crate_is_used_in_its_places,
    ),
    (
        "sinks do not import each other",
        sinks_do_not_import_each_other,
    ),
    (
        "connections are created in one place",
        connections_are_created_in_one_place,
    ),
    (
        "only commands use the terminal",
        only_commands_use_the_terminal,
    ),
    ("the library never prints", the_library_never_prints),
    ("unsafe is used in one module", unsafe_is_used_in_one_module),
    ("a module has documentation", a_module_has_documentation),
    ("files are small", files_are_small),
    ("there is no unfinished code", there_is_no_unfinished_code),
];

#[test]
fn every_source_follows_every_rule() {
    let sources = source::all();
    let violations: Vec<String> = RULES
        .iter()
        .flat_map(|(rule, check)| {
            let violations = sources.iter().flat_map(check);
            violations.map(move |violation| format!("{rule}: {violation}"))
        })
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// An exception that is no longer needed must be removed.
#[test]
fn every_exception_is_needed() {
    let sources = source::all();
    for (file, item, reason) in &BETWEEN_SINKS {
        let source = sources.iter().find(|source| source.path == Path::new(file));
        let source = source.unwrap_or_else(|| panic!("{file} does not exist: {reason}"));
        let is_used = |name: &Name| {
            let is_sink = name.segments.get(1).is_some_and(|module| module == "sinks");
            is_sink && name.segments.last().is_some_and(|last| last == item)
        };
        assert!(source.names.iter().any(is_used), "{file} needs no {item}");
    }
}

// --- the rules on sample sources ---------------------------------------------

/// Returns the violations in one sample source: `line: message`.
fn check(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(Path::new(path), format!("//! About.\n{text}"));
    let violations = RULES.iter().flat_map(|(_, rule)| rule(&source));
    violations
        .map(|violation| format!("{}: {}", violation.line, violation.message))
        .collect()
}

#[test]
fn an_import_from_a_higher_or_the_same_layer_is_found() {
    let text = "use crate::{\n    debezium::Record,\n    pipeline::{self, Start},\n};";
    assert_eq!(
        check("src/sinks/http/mod.rs", text),
        ["4: sinks imports pipeline"; 2]
    );
    assert_eq!(
        check("src/stack/ports.rs", "use crate::runtime::Fault;"),
        ["2: stack imports runtime"]
    );
    assert_eq!(
        check("src/time/clock.rs", "use crate::kafka::Log;"),
        ["2: time imports kafka"]
    );
    assert!(check("src/operations/mod.rs", text).is_empty());
    assert!(check("src/window/mod.rs", "use crate::time::timestamp;").is_empty());
    assert!(check("src/lib.rs", "pub use crate::operations::up;").is_empty());
}

#[test]
fn an_upward_path_is_found_everywhere_in_the_code() {
    let upward = ["2: sinks imports operations"];
    for text in [
        "fn f() -> crate::operations::Up { todo() }",
        "fn f() { assert_eq!(crate::operations::f(), 1); }",
        "use super::super::operations::Up;",
        "mod tests { use super::super::super::operations::Up; }",
        "impl From<crate::operations::Up> for Down {}",
        "pub use crate::operations as above;",
    ] {
        assert_eq!(check("src/sinks/replay.rs", text), upward, "{text}");
    }
    for text in [
        "// crate::operations::Up",
        "const PATH: &str = \"crate::operations::Up\";",
        "use super::Fault;",
        "mod tests { use super::super::Fault; }",
        "pub(crate) fn operations() {}",
    ] {
        assert_eq!(check("src/sinks/replay.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn an_impure_bottom_is_found() {
    let impure = |text: &str| check("src/window/mod.rs", text);
    assert_eq!(
        impure("use tokio::time::sleep;"),
        ["2: the bottom layer uses tokio::time::sleep"]
    );
    assert_eq!(
        impure("fn f() { jiff::Timestamp::now(); }"),
        ["2: the bottom layer uses jiff::Timestamp::now"]
    );
    assert_eq!(
        impure("use std::net::TcpStream;"),
        ["2: the bottom layer uses std::net::TcpStream"]
    );
    assert_eq!(impure("use std::time::SystemTime;"), [""; 0]);
    assert_eq!(impure("#[tokio::test]\nasync fn f() {}").len(), 1);
    assert_eq!(check("src/stack/run.rs", "use tokio::spawn;"), [""; 0]);
}

#[test]
fn a_misplaced_client_crate_is_found() {
    let outside = ["2: redis is used outside of src/connections/redis/ and src/sinks/redis/"];
    for path in [
        "src/sinks/http/mod.rs",
        "src/connections/web.rs",
        "commands/up.rs",
    ] {
        assert_eq!(check(path, "use redis::Client;"), outside, "{path}");
        assert_eq!(check(path, "fn f(_: ::redis::Client) {}"), outside);
    }
    let own_module = "use crate::connections::redis;\nfn f() { redis::ping() }";
    assert_eq!(check("src/sinks/mod.rs", own_module), [""; 0]);
    let client = "use redis::Client;";
    assert_eq!(check("src/connections/redis/mod.rs", client), [""; 0]);
    assert_eq!(
        check("src/sinks/mod.rs", "mod clickhouse;\nuse clickhouse::Sink;"),
        [""; 0]
    );
}

#[test]
fn an_import_of_another_sink_is_found() {
    let text = "use crate::sinks::redis::sink::Board;";
    assert_eq!(
        check("src/sinks/http/mod.rs", text),
        ["2: sink http imports sink redis"]
    );
    let relative = "use super::super::redis::sink::Board;";
    assert_eq!(check("src/sinks/http/history.rs", relative).len(), 1);
    assert_eq!(check("src/sinks/redis/reader.rs", text), [""; 0]);
    assert_eq!(check("src/sinks/replay.rs", text), [""; 0]);
}

#[test]
fn a_misplaced_connection_is_found() {
    let text = "use crate::config;\nfn f() { config::Connection::new(u); }";
    let misplaced = ["3: config::Connection::new is not allowed here"];
    assert_eq!(check("src/operations/peek/mod.rs", text), misplaced);
    assert_eq!(check("src/connections/set.rs", text), [""; 0]);
    let set = "fn f() { Connections::of(&settings); }";
    let misplaced = ["2: Connections::of is not allowed here"];
    assert_eq!(check("src/pipeline.rs", set), misplaced);
    assert_eq!(check("commands/peek.rs", set), misplaced);
    assert_eq!(check("commands/context.rs", set), [""; 0]);
}

#[test]
fn a_library_that_prints_is_found() {
    let text = "fn f() { eprintln!(\"x\"); indicatif::ProgressBar::new(1); }";
    assert_eq!(
        check("src/operations/up.rs", text),
        [
            "2: the library uses indicatif::ProgressBar::new",
            "2: eprintln! prints"
        ]
    );
    assert_eq!(check("commands/up.rs", text), [""; 0]);
}

#[test]
fn misplaced_unsafe_is_found() {
    let text = "fn f() { unsafe { g() } }";
    assert_eq!(check("src/kafka/mod.rs", text), ["2: unsafe"]);
    assert_eq!(check(UNSAFE, text), [""; 0]);
    assert_eq!(check("src/plan.rs", "#![deny(unsafe_code)]"), [""; 0]);
}

#[test]
fn an_undocumented_or_long_or_unfinished_source_is_found() {
    let messages = |path: &str, text: &str| {
        let source = Source::new(Path::new(path), text.to_owned());
        let violations = RULES.iter().flat_map(|(_, rule)| rule(&source));
        let messages = violations.map(|violation| violation.message);
        messages.collect::<Vec<String>>()
    };
    assert_eq!(
        messages("src/plan.rs", "use a;"),
        ["does not open with //!"]
    );
    let long = format!("//! About.\n{}", "const _: () = ();\n".repeat(500));
    assert_eq!(messages("src/plan.rs", &long), ["501 lines, at most 500"]);
    let main = format!("//! About.\nmod up;\n{}", "const _: () = ();\n".repeat(45));
    assert_eq!(
        messages("commands/main.rs", &main),
        ["46 lines, at most 45"]
    );
    assert_eq!(
        messages("src/plan.rs", "//! About.\n// TODO: more"),
        ["TODO"]
    );
}
