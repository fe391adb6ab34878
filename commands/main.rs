//! `fanout`, the binary: parses the command line, calls into the library and
//! decides what is shown. Each command has a file of its own.

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
            Err(error) => exit::not_launched(&error),
        };
    }
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    let context = Context::new(&cli.global);
    let name = cli.command.name();
    if !matches!(cli.command, cli::Command::Run(_)) {
        logging::verbose(context.printer());
    }
    let work = async {
        let goes_on = cli.command.goes_on();
        // Each command's own state is in it: on the heap.
        let command = Box::pin(cli.command.run(&context));
        signals::interrupts(context.stop(), goes_on, command).await
    };
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let outcome = runtime.block_on(work);
            // A thread that waits for a server would keep the program.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(ContextError::Runtime(error).into()),
    };
    exit::finish(context.printer(), name, outcome)
}
