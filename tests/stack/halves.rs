//! Runs the tests as two halves in parallel, because they mostly wait. Each
//! half is a process with its own stack. With any command-line argument there
//! is only one process.

use std::{
    env,
    fs::{self, File},
    io,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
};

use libtest_mimic::Arguments;

/// Set in the environment of the second half.
const SECOND_HALF: &str = "FANOUT_TEST_SECOND_HALF";

/// Runs the tests. With command-line arguments, runs the selected tests in this
/// process. Otherwise runs all tests, with the `second` groups in another
/// process in parallel.
pub fn run(
    groups: &[&str],
    second: &[&str],
    tests: impl FnOnce(Arguments) -> ExitCode,
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let only = |is_second: bool| -> Vec<String> {
        let others = groups
            .iter()
            .filter(|name| second.contains(name) != is_second);
        others.map(|name| format!("{name}::")).collect()
    };
    if env::var_os(SECOND_HALF).is_some() {
        exit_with_first_half();
        arguments.skip = only(true);
        return tests(arguments);
    }
    if env::args_os().len() > 1 {
        return tests(arguments);
    }
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("second-half.log");
    println!(
        "The other half of the tests runs in parallel; log: {}",
        log.display()
    );
    let mut other = start_second(&log);
    let tether = other.stdin.take();
    arguments.skip = only(false);
    let first = tests(arguments);
    println!("Output of the other half of the tests:");
    let ended = other.wait().expect("wait for the other half");
    drop(tether);
    print!("{}", fs::read_to_string(&log).expect("read the log"));
    if ended.success() {
        first
    } else {
        ExitCode::FAILURE
    }
}

fn start_second(path: &Path) -> Child {
    let log = File::create(path).expect("create the log");
    let program = env::current_exe().expect("the path of this program");
    Command::new(program)
        .env(SECOND_HALF, "1")
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("duplicate the log's handle"))
        .stderr(log)
        .spawn()
        .expect("start the other half")
}

/// Exits when the first half ends. The first half holds the other end of the
/// input; if it is killed, this half must not continue unnoticed.
fn exit_with_first_half() {
    thread::spawn(|| {
        // The first half never writes anything.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
}
