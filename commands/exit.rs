//! Turns an error into output and an exit code. No other module knows the exit
//! codes.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _};
use fanout::{
    failure::{Failure, Kind, chain},
    text::escape::escape_lines,
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

/// Returns the exit code of a kind of failure.
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

/// Prints the error, if any, and returns the exit code.
pub fn finish(printer: &Printer, command: &str, outcome: Outcome) -> ExitCode {
    let exit_code = report(printer, command, outcome);
    // A closed pipe is a clean exit; a full disk is an error.
    if let Some(error) = printer.write_error() {
        printer.error(&format!("cannot write to stdout: {error}"), None);
        return ExitCode::from(code(Kind::Environment));
    }
    exit_code
}

fn report(printer: &Printer, command: &str, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::CheckFalse) => ExitCode::from(code(Kind::CheckFalse)),
        Err(error) => {
            let hint = error.completed_hint(printer.hints());
            if !printer.failure(command, &error.to_json(hint.as_deref())) {
                printer.error(&error.message(), hint.as_deref());
            }
            ExitCode::from(code(error.kind()))
        }
    }
}

/// Writes the error of a launcher that could not start its service. Its stderr
/// is the service's log.
pub fn launch_failed(error: &dyn Failure) -> ExitCode {
    say(&format!("error: {}", escape_lines(&chain(error))));
    ExitCode::from(code(error.kind()))
}

/// Prints clap's output: help and version to stdout with exit code 0, usage
/// errors with 2.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return help_exit_code(error.print());
    }
    if std::env::args_os().len() <= 1 {
        return help_exit_code(Cli::command().print_help());
    }
    let (global, command) = parse_leniently();
    let (schema, hint) = match &command {
        Some(command) => (command.as_str(), format!("fanout {command} --help")),
        None => ("usage", "fanout --help".to_owned()),
    };
    let document = json!({
        "code": "usage",
        "message": one_line(&error.render().to_string()),
        "cause": null,
        "hint": hint,
    });
    let is_json = global.is_some_and(|mut global| {
        if is_json_requested() {
            global.output = Output::Json;
        }
        Printer::new(&global, CancellationToken::new()).failure(schema, &document)
    });
    if !is_json {
        // If stderr is closed, the error cannot be reported.
        let _ = error.print();
        say(&format!("\nhint: {hint}"));
    }
    ExitCode::from(code(Kind::Usage))
}

/// Returns the exit code after printing help. A closed pipe is not a failure.
fn help_exit_code(result: std::io::Result<()>) -> ExitCode {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(code(Kind::Environment))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Reduces clap's error to one line, without the usage. If the first line ends
/// in a colon, the items listed below it are appended.
fn one_line(rendered: &str) -> String {
    let mut lines = rendered.lines();
    let first = lines.next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    if message.ends_with(':') {
        let items = lines.map(str::trim).take_while(|line| !line.is_empty());
        message.push(' ');
        message.push_str(&items.collect::<Vec<_>>().join(", "));
    }
    message
}

/// Returns true if the command line requests JSON anywhere. Clap parses nothing
/// after a usage error, so this reads the arguments directly.
fn is_json_requested() -> bool {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let is_output_json = |pair: &[OsString]| pair[0] == "--output" && pair[1] == "json";
    arguments.windows(2).any(is_output_json)
        || arguments.iter().any(|argument| argument == "--output=json")
}

/// Parses as much as possible of an invalid command line: the global flags and
/// the command.
fn parse_leniently() -> (Option<Global>, Option<String>) {
    let lenient = Cli::command().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches() else {
        return (None, None);
    };
    let command = matches.subcommand_name().map(str::to_owned);
    let global = Global::from_arg_matches(&matches).ok().map(|mut global| {
        global.record_invocation(&matches);
        global
    });
    (global, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_is_one_line_that_lists_the_missing_arguments() {
        let rendered = "error: the following required arguments were not provided:\n  \
            <PLACE>\n  --from <TS>\n\nUsage: fanout peek <PLACE>\n";
        assert_eq!(
            one_line(rendered),
            "the following required arguments were not provided: <PLACE>, --from <TS>"
        );
        assert_eq!(one_line("error: wrong\n\nUsage: x\n"), "wrong");
    }
}
