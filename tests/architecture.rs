//! Holds the shape that `src/lib.rs` draws: imports point down only, no files
//! import each other in a loop, the bottom is pure, a client crate is named in
//! one place, the library never prints. It reads the sources as tokens, so it
//! sees paths wherever they stand: in `use`, in a signature, in a macro, in a
//! test; and none in comments and strings.
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

use source::{Source, Violation};

// --- the rules ---------------------------------------------------------------

/// How high a module of the library stands. What is not named here is the
/// bottom, and so held to the strictest rules.
fn height(module: &str) -> u8 {
    match module {
        "operations" => 5,
        "pipeline" => 4,
        "sinks" | "stack" => 3,
        "clients" | "clock" => 2,
        _ => BOTTOM,
    }
}

const BOTTOM: u8 = 1;

/// Client crates, and the one folder or file under `src/clients` for each.
const CLIENTS: [(&str, &str); 7] = [
    ("bollard", "docker"),
    ("clickhouse", "clickhouse"),
    ("rdkafka", "kafka"),
    ("rdkafka_sys", "kafka"),
    ("redis", "redis"),
    ("reqwest", "web"),
    ("tokio_postgres", "postgres"),
];

/// What a client is made from, and the set of a project's clients: each with the
/// files that may make it. Everybody else is given one.
const CONNECTING: [([&str; 2], &[&str]); 2] = [
    // A service is probed at its endpoint, whatever kind of server it is.
    (
        ["Connection", "new"],
        &["src/clients", "src/stack/probe.rs"],
    ),
    // Once for each command: where its configuration is read, or resolved.
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

/// What the bottom does without, the client crates aside.
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

/// Crates that draw on a terminal.
const DISPLAY: [&str; 2] = ["indicatif", "comfy_table"];

/// The one module where `unsafe` pays for itself.
const UNSAFE: &str = "src/clients/kafka/native.rs";

const MAX_LINES: usize = 500;

/// Of `commands/main.rs`, its list of modules aside.
const MAX_MAIN_LINES: usize = 45;

/// The library's modules import what stands below them, the bottom's also each
/// other.
fn imports_point_down(source: &Source) -> Vec<Violation> {
    let Some(module) = source.top_module() else {
        return Vec::new();
    };
    let allowed = |other: &str| {
        other == module
            || height(other) < height(module)
            || height(other) == BOTTOM && height(module) == BOTTOM
    };
    source.violations(|name| {
        let other = name.library_module()?;
        (!allowed(other)).then(|| format!("{module} imports {other}"))
    })
}

fn the_bottom_is_pure(source: &Source) -> Vec<Violation> {
    if source.top_module().is_none_or(|it| height(it) != BOTTOM) {
        return Vec::new();
    }
    source.violations(|name| {
        let client = CLIENTS.iter().any(|(client, _)| source.names(name, client));
        let impure = IMPURE.iter().any(|path| name.holds(path));
        (client || impure).then(|| format!("the bottom uses {name}"))
    })
}

fn a_client_crate_is_named_in_one_place(source: &Source) -> Vec<Violation> {
    source.violations(|name| {
        let (client, home) = CLIENTS
            .iter()
            .find(|(client, _)| source.names(name, client))?;
        let at_home = source
            .module
            .starts_with(&["clients".into(), (*home).into()]);
        (!at_home).then(|| format!("{client} is named outside of clients::{home}"))
    })
}

fn connections_are_made_in_one_place(source: &Source) -> Vec<Violation> {
    source.violations(|name| {
        let made = CONNECTING.iter().find(|(maker, _)| name.holds(maker));
        let (_, places) = made?;
        let may = places.iter().any(|place| source.path.starts_with(place));
        (!may).then(|| format!("{name} connects on its own"))
    })
}

fn only_commands_draw(source: &Source) -> Vec<Violation> {
    source.violations(|name| {
        let drawn = DISPLAY.iter().any(|it| source.names(name, it));
        (source.is_library() && drawn).then(|| format!("the library uses {name}"))
    })
}

fn the_library_never_prints(source: &Source) -> Vec<Violation> {
    const PRINTS: [&str; 5] = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
    source.violations(|name| {
        let word = name.segments.last()?;
        (source.is_library() && PRINTS.contains(&word.as_str())).then(|| format!("{word} prints"))
    })
}

fn unsafe_stands_in_one_module(source: &Source) -> Vec<Violation> {
    source.violations(|name| {
        let is_unsafe = name.segments == ["unsafe"] && source.path != Path::new(UNSAFE);
        is_unsafe.then(|| "unsafe".to_owned())
    })
}

fn a_module_says_what_it_owns(source: &Source) -> Vec<Violation> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.violation(1, "does not open with //!".to_owned())]
}

fn files_are_small(source: &Source) -> Vec<Violation> {
    let is_main = source.path == Path::new("commands/main.rs");
    let is_list = |line: &&str| line.starts_with("mod ") && line.ends_with(';');
    let (lines, most) = if is_main {
        let lines = source.text.lines().filter(|line| !is_list(line)).count();
        (lines, MAX_MAIN_LINES)
    } else {
        (source.text.lines().count(), MAX_LINES)
    };
    if lines <= most {
        return Vec::new();
    }
    vec![source.violation(lines, format!("{lines} lines, at most {most}"))]
}

fn nothing_is_left_for_later(source: &Source) -> Vec<Violation> {
    let notes = ["TODO", "FIXME", "todo!", "unimplemented!"];
    let lines = source.text.lines().zip(1..);
    lines
        .filter_map(|(line, number)| {
            let note = notes.iter().find(|note| line.contains(*note))?;
            Some(source.violation(number, (*note).to_owned()))
        })
        .collect()
}

/// Every rule, under the name that a violation is reported with.
const RULES: [(&str, fn(&Source) -> Vec<Violation>); 10] = [
    ("imports point down", imports_point_down),
    ("the bottom is pure", the_bottom_is_pure),
    (
        "a client crate is named in one place",
        a_client_crate_is_named_in_one_place,
    ),
    (
        "connections are made in one place",
        connections_are_made_in_one_place,
    ),
    ("only commands draw", only_commands_draw),
    ("the library never prints", the_library_never_prints),
    ("unsafe stands in one module", unsafe_stands_in_one_module),
    ("a module says what it owns", a_module_says_what_it_owns),
    ("files are small", files_are_small),
    ("nothing is left for later", nothing_is_left_for_later),
];

#[test]
fn every_source_keeps_every_rule() {
    let sources = source::all();
    let broken: Vec<String> = RULES
        .iter()
        .flat_map(|(rule, check)| {
            let violations = sources.iter().flat_map(check);
            violations.map(move |violation| format!("{rule}: {violation}"))
        })
        .collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

// --- the rules on made-up sources --------------------------------------------

/// What the rules find in one made-up source: `line: what`.
fn found(path: &str, text: &str) -> Vec<String> {
    let source = Source::new(Path::new(path), format!("//! About.\n{text}"));
    let all = RULES.iter().flat_map(|(_, check)| check(&source));
    all.map(|it| format!("{}: {}", it.line, it.what)).collect()
}

#[test]
fn an_import_of_what_stands_above_or_beside_is_found() {
    let text = "use crate::{\n    event::Record,\n    pipeline::{self, stats::now},\n};";
    assert_eq!(
        found("src/sinks/http.rs", text),
        ["4: sinks imports pipeline"; 2]
    );
    assert_eq!(
        found("src/stack/ports.rs", "use crate::sinks::Fault;"),
        ["2: stack imports sinks"]
    );
    assert_eq!(
        found("src/clock.rs", "use crate::clients::web::Web;"),
        ["2: clock imports clients"]
    );
    assert!(found("src/pipeline/mod.rs", text).is_empty());
    assert!(found("src/plan.rs", "use crate::project::Project;").is_empty());
    assert!(found("src/lib.rs", "pub use crate::operations::up;").is_empty());
}

#[test]
fn an_upward_path_is_found_wherever_it_stands() {
    let upward = ["2: sinks imports operations"];
    for text in [
        "fn f() -> crate::operations::Up { todo() }",
        "fn f() { assert_eq!(crate::operations::f(), 1); }",
        "use super::super::operations::Up;",
        "mod tests { use super::super::super::operations::Up; }",
        "impl From<crate::operations::Up> for Down {}",
        "pub use crate::operations as above;",
    ] {
        assert_eq!(found("src/sinks/http.rs", text), upward, "{text}");
    }
    for text in [
        "// crate::operations::Up",
        "const PATH: &str = \"crate::operations::Up\";",
        "use super::Fault;",
        "mod tests { use super::super::Fault; }",
        "pub(crate) fn operations() {}",
    ] {
        assert_eq!(found("src/sinks/http.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn an_impure_bottom_is_found() {
    let impure = |text: &str| found("src/window/mod.rs", text);
    assert_eq!(
        impure("use tokio::time::sleep;"),
        ["2: the bottom uses tokio::time::sleep"]
    );
    assert_eq!(
        impure("fn f() { jiff::Timestamp::now(); }"),
        ["2: the bottom uses jiff::Timestamp::now"]
    );
    assert_eq!(
        impure("use std::net::TcpStream;"),
        ["2: the bottom uses std::net::TcpStream"]
    );
    assert_eq!(impure("use std::time::SystemTime;"), [""; 0]);
    assert_eq!(impure("#[tokio::test]\nasync fn f() {}").len(), 1);
    assert_eq!(found("src/stack/run.rs", "use tokio::spawn;"), [""; 0]);
}

#[test]
fn a_client_crate_out_of_place_is_found() {
    let outside = ["2: redis is named outside of clients::redis"];
    for path in ["src/sinks/board.rs", "src/clients/web.rs", "commands/up.rs"] {
        assert_eq!(found(path, "use redis::Client;"), outside, "{path}");
        assert_eq!(found(path, "fn f(_: ::redis::Client) {}"), outside);
    }
    let of_ours = "use crate::clients::redis;\nfn f() { redis::ping() }";
    assert_eq!(found("src/sinks/board.rs", of_ours), [""; 0]);
    let at_home = "use redis::Client;";
    assert_eq!(found("src/clients/redis/mod.rs", at_home), [""; 0]);
    assert_eq!(
        found("src/sinks/mod.rs", "mod clickhouse;\nuse clickhouse::Sink;"),
        [""; 0]
    );
}

#[test]
fn a_connection_of_somebodys_own_is_found() {
    let text = "use crate::clients;\nfn f() { clients::Connection::new(u); }";
    let own = ["3: clients::Connection::new connects on its own"];
    assert_eq!(found("src/operations/peek/mod.rs", text), own);
    assert_eq!(found("src/clients/connections.rs", text), [""; 0]);
    let set = "fn f() { Connections::of(&settings); }";
    let own = ["2: Connections::of connects on its own"];
    assert_eq!(found("src/pipeline/mod.rs", set), own);
    assert_eq!(found("commands/peek.rs", set), own);
    assert_eq!(found("commands/context.rs", set), [""; 0]);
}

#[test]
fn a_library_that_shows_something_is_found() {
    let text = "fn f() { eprintln!(\"x\"); indicatif::ProgressBar::new(1); }";
    assert_eq!(
        found("src/operations/up.rs", text),
        [
            "2: the library uses indicatif::ProgressBar::new",
            "2: eprintln! prints"
        ]
    );
    assert_eq!(found("commands/up.rs", text), [""; 0]);
}

#[test]
fn unsafe_out_of_place_is_found() {
    let text = "fn f() { unsafe { g() } }";
    assert_eq!(found("src/clients/kafka/mod.rs", text), ["2: unsafe"]);
    assert_eq!(found(UNSAFE, text), [""; 0]);
    assert_eq!(found("src/plan.rs", "#![deny(unsafe_code)]"), [""; 0]);
}

#[test]
fn a_source_without_its_opening_or_too_long_or_unfinished_is_found() {
    let all = |path: &str, text: &str| {
        let source = Source::new(Path::new(path), text.to_owned());
        let all = RULES.iter().flat_map(|(_, check)| check(&source));
        all.map(|it| it.what).collect::<Vec<String>>()
    };
    assert_eq!(all("src/plan.rs", "use a;"), ["does not open with //!"]);
    let long = format!("//! About.\n{}", "const _: () = ();\n".repeat(500));
    assert_eq!(all("src/plan.rs", &long), ["501 lines, at most 500"]);
    let main = format!("//! About.\nmod up;\n{}", "const _: () = ();\n".repeat(45));
    assert_eq!(all("commands/main.rs", &main), ["46 lines, at most 45"]);
    assert_eq!(all("src/plan.rs", "//! About.\n// TODO: more"), ["TODO"]);
}
