//! From an error to what is printed and to the exit code: the only place that
//! knows the codes.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};
use fanout::{
    escape::escape_lines,
    failure::{Failure, Kind, chain},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Cli,
    global::{Global, Output},
    outcome::{Outcome, Verdict},
    printer::Printer,
    streams::say,
};

/// The exit code of each kind of failure.
pub fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Failed => 1,
        Kind::Usage => 2,
        Kind::Environment => 3,
        Kind::NotReady => 4,
        Kind::CheckFalse => 5,
        Kind::Refused => 6,
        Kind::Interrupted(signal) => 128 + u8::try_from(signal).unwrap_or(2),
    }
}

/// Prints the error, if any, and gives the exit code.
pub fn finish(printer: &Printer, command: &str, outcome: Outcome) -> ExitCode {
    let ended = end(printer, command, outcome);
    // A reader that went away has seen enough; a full disk has not.
    if let Some(error) = printer.lost() {
        printer.error(&format!("stdout cannot be written: {error}"), None);
        return ExitCode::from(code(Kind::Environment));
    }
    ended
}

fn end(printer: &Printer, command: &str, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::CheckFalse) => ExitCode::from(code(Kind::CheckFalse)),
        Err(error) => {
            let hint = error.hint().map(|hint| printer.hints().retype(&hint));
            if !printer.failure(command, &error.to_json(hint.as_deref())) {
                printer.error(&error.message(), hint.as_deref());
            }
            ExitCode::from(code(error.kind()))
        }
    }
}

/// Why a process did not become the service that it was started to be: for the
/// service's log.
pub fn not_launched(error: &dyn Failure) -> ExitCode {
    say(&format!("error: {}", escape_lines(&chain(error))));
    ExitCode::from(code(error.kind()))
}

/// What clap has to say: help and version to stdout with 0, mistakes with 2.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return shown(error.print());
    }
    if std::env::args_os().len() <= 1 {
        return shown(Cli::command().print_help());
    }
    let (global, command) = understood();
    let (schema, hint) = match &command {
        Some(command) => (command.as_str(), format!("fanout {command} --help")),
        None => ("usage", "fanout --help".to_owned()),
    };
    let document = json!({
        "code": "usage",
        "message": said(&error.render().to_string()),
        "cause": null,
        "hint": hint,
    });
    let is_json = global.is_some_and(|mut global| {
        if json_is_asked_for() {
            global.output = Output::Json;
        }
        Printer::new(&global, CancellationToken::new()).failure(schema, &document)
    });
    if !is_json {
        // Where stderr is closed there is nobody to tell.
        let _ = error.print();
        say(&format!("\nhint: {hint}"));
    }
    ExitCode::from(code(Kind::Usage))
}

/// Printing help to a closed pipe is no failure.
fn shown(printed: std::io::Result<()>) -> ExitCode {
    match printed {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(code(Kind::Environment))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// What clap says is wrong, on one line: without its usage, with what a first
/// line that ends in a colon announces.
fn said(rendered: &str) -> String {
    let mut lines = rendered.lines();
    let first = lines.next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    if message.ends_with(':') {
        let named = lines.map(str::trim).take_while(|line| !line.is_empty());
        message.push(' ');
        message.push_str(&named.collect::<Vec<_>>().join(", "));
    }
    message
}

/// Whether the command line says so anywhere: behind a mistake clap reads
/// nothing.
fn json_is_asked_for() -> bool {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let apart = |pair: &[OsString]| pair[0] == "--output" && pair[1] == "json";
    arguments.windows(2).any(apart) || arguments.iter().any(|argument| argument == "--output=json")
}

/// What can be read of a command line with a mistake in it: the global flags,
/// and the command.
fn understood() -> (Option<Global>, Option<String>) {
    let lenient = Cli::command().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches() else {
        return (None, None);
    };
    let command = matches.subcommand_name().map(str::to_owned);
    let global = Global::from_arg_matches(&matches).ok().map(|mut global| {
        global.remember(&matches);
        global
    });
    (global, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_one_line_that_names_what_is_missing() {
        let rendered = "error: the following required arguments were not provided:\n  \
            <PLACE>\n  --from <TS>\n\nUsage: fanout peek <PLACE>\n";
        assert_eq!(
            said(rendered),
            "the following required arguments were not provided: <PLACE>, --from <TS>"
        );
        assert_eq!(said("error: wrong\n\nUsage: x\n"), "wrong");
    }
}
