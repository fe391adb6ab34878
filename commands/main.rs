//! The `fanout` binary: parses the command line, calls the library and decides
//! what is shown. Each command has its own file.

mod arguments;
mod backfill;
mod cli;
mod completions;
mod config;
mod confirm;
mod connector;
mod context;
mod dlq;
mod doctor;
mod documents;
mod down;
mod env;
mod exit;
mod global;
mod hints;
mod leaderboard;
mod logging;
mod logs;
mod outcome;
mod peek;
mod printer;
mod progress;
mod reset;
mod run;
mod seed;
mod servers;
mod signals;
mod smoke;
mod status;
mod streams;
mod stub;
mod table;
mod throttle;
mod up;
mod verify;

use std::process::ExitCode;

use fanout::stack::native::launch;

use crate::context::{Context, ContextError};

fn main() -> ExitCode {
    if launch::is_asked_for(std::env::args_os()) {
        return match launch::launch() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::launch_failed(&error),
        };
    }
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    let context = Context::new(&cli.global);
    let name = cli.command.name();
    if !matches!(cli.command, cli::Command::Run(_)) {
        logging::start_if_verbose(context.printer());
    }
    let work = async {
        let runs_until_stopped = cli.command.runs_until_stopped();
        // The future holds the state of every command, so it is boxed.
        let command = Box::pin(cli.command.run(&context));
        signals::run_until_signal(context.stop(), runs_until_stopped, command).await
    };
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let outcome = runtime.block_on(work);
            // A thread that waits for a server must not keep the process alive.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(ContextError::Runtime(error).into()),
    };
    exit::finish(context.printer(), name, outcome)
}
