//! Two halves of the tests, side by side: they wait more than they work. Each
//! is a process, and has a stack of its own. With any argument there is one.

use std::{
    env,
    fs::{self, File},
    io,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
};

use libtest_mimic::Arguments;

/// Set for the process of the second half.
const MARK: &str = "FANOUT_TEST_SECOND_HALF";

/// Runs the tests: those that were asked for where some were, else all, of
/// which the `second` groups run in a process beside this one.
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
    if env::var_os(MARK).is_some() {
        end_with_the_first();
        arguments.skip = only(true);
        return tests(arguments);
    }
    if env::args_os().len() > 1 {
        return tests(arguments);
    }
    let said = Path::new(env!("CARGO_TARGET_TMPDIR")).join("second-half.log");
    println!("The other half runs beside these: {}", said.display());
    let mut other = start_second(&said);
    let tether = other.stdin.take();
    arguments.skip = only(false);
    let first = tests(arguments);
    println!("The other half of the tests, which runs beside these:");
    let ended = other.wait().expect("it can be waited for");
    drop(tether);
    print!("{}", fs::read_to_string(&said).expect("what it said"));
    if ended.success() {
        first
    } else {
        ExitCode::FAILURE
    }
}

fn start_second(said: &Path) -> Child {
    let log = File::create(said).expect("a log");
    let program = env::current_exe().expect("this program has a path");
    Command::new(program)
        .env(MARK, "1")
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("this program starts once more")
}

/// The first half holds the other end of the input. When it is killed, this one
/// would go on unseen.
fn end_with_the_first() {
    thread::spawn(|| {
        // Nothing is ever said.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(1);
    });
}
