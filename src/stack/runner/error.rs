//! Errors while waiting for a service.

use std::time::Duration;

use crate::{
    failure::{Command, Error, Hint, Kind},
    secret::SecretUrl,
    stack::native::process::lines,
};

fn logs(service: &str) -> Command {
    Command::new("logs").argument(service)
}

/// The service exited before it was ready.
pub(super) fn died(service: &str, how: &str, log: &[String]) -> Error {
    let log = lines(log);
    let message = format!("{service} exited before it was ready ({how}){log}");
    Error::new(Kind::Failed, "service_died", message).with_hint(logs(service))
}

/// The service was killed because it ran out of memory. `limit` is the memory
/// limit of its container in bytes; `None` if it has none.
pub(super) fn out_of_memory(
    service: &str,
    container: &str,
    limit: Option<u64>,
    log: &[String],
) -> Error {
    let hint = match limit {
        Some(_) => format!("docker update --memory 2g --memory-swap 2g {container}, then: "),
        None => "find what uses it with docker stats; give the engine's machine more \
                 (Docker Desktop: Settings, Resources), then: "
            .to_owned(),
    };
    let message = format!(
        "{service} ran out of memory and was killed{}{}",
        limit.map_or_else(String::new, describe_limit),
        lines(log)
    );
    Error::new(Kind::Environment, "out_of_memory", message)
        .with_hint(Hint::from(hint).command(Command::new("up")))
}

/// The service was not ready in time.
pub(super) fn timeout(service: &str, timeout: Duration, problem: &str, log: &[String]) -> Error {
    let (seconds, log) = (timeout.as_secs(), lines(log));
    let message = format!("{service} was not ready within {seconds} s: {problem}{log}");
    Error::new(Kind::NotReady, "service_not_ready", message).with_hint(logs(service))
}

/// An external service does not respond.
pub(super) fn external_down(service: &str, url: &SecretUrl, problem: &str) -> Error {
    let message = format!("{service}, an external service at {url}, is not ready: {problem}");
    Error::new(Kind::NotReady, "external_service_down", message)
        .with_hint(Command::new("config show"))
}

/// Describes a container's memory limit: ` (its container is limited to 512 MiB)`.
fn describe_limit(bytes: u64) -> String {
    format!(" (its container is limited to {} MiB)", bytes >> 20)
}
