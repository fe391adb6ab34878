//! Pulls an image: progress, retries, and the classification of errors.

use std::{collections::BTreeMap, path::Path, pin::pin, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::{
    credentials,
    engine::{Credentials, Engine, PullStep},
};
use crate::{
    failure::{Command, Error, Hint, Kind},
    progress::{Event, Progress, Unit},
    time::backoff::Backoff,
};

/// Maximum number of attempts.
const MAX_ATTEMPTS: u32 = 4;

/// Delay between two attempts.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(20),
};

/// A pull without progress for this long is aborted and retried.
const STALL: Duration = Duration::from_secs(120);

/// Returns the error for a missing image that must not be pulled.
#[must_use]
pub fn forbidden(image: &str) -> Error {
    let message = format!("image {image} is missing, and --pull never forbids pulling it");
    Error::new(Kind::Environment, "image_forbidden", message)
        .with_hint(Command::new("up").flag("--pull", "missing"))
}

fn unsendable_credentials(image: &str) -> Error {
    let message = format!(
        "the credentials for {image} contain a character that fanout cannot send to the engine"
    );
    Error::new(Kind::Environment, "image_credentials", message)
        .with_hint(Hint::from(format!("docker pull {image}, then: ")).command(Command::new("up")))
}

/// Returns the command that logs in to the registry of an image.
fn login(image: &str) -> String {
    match credentials::registry(image) {
        hub if hub.starts_with("https://") => "docker login".to_owned(),
        registry => format!("docker login {registry}"),
    }
}

/// Pulls `image` with the credentials from the Docker configuration in
/// `config`.
///
/// # Errors
/// If the registry or the engine refuses, or all attempts have failed.
pub async fn pull(
    engine: &Engine,
    image: &str,
    config: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let credentials = credentials::find(config, image).await;
    if credentials
        .as_ref()
        .is_some_and(|credentials| !credentials.can_be_sent())
    {
        return Err(unsendable_credentials(image));
    }
    let report = |what: &str| progress.report(Event::Doing { task: image, what });
    let mut attempts = 0;
    loop {
        report(if attempts == 0 {
            "pulling"
        } else {
            "retrying the pull"
        });
        let Err(message) = pull_once(engine, image, credentials.as_ref(), progress).await else {
            progress.report(Event::Done {
                task: image,
                what: "pulled",
            });
            return Ok(());
        };
        attempts += 1;
        let message = message.trim().to_owned();
        match classify(&message) {
            ErrorClass::Transient if attempts < MAX_ATTEMPTS => {
                let wait = BACKOFF
                    .limit(attempts - 1)
                    .mul_f64(rand::random_range(0.5..1.0));
                report(&format!(
                    "{message}; retrying in {} s",
                    wait.as_secs_f32().round()
                ));
                sleep(wait).await;
            }
            class => {
                progress.report(Event::Failed {
                    task: image,
                    what: "pull failed",
                });
                return Err(class.error(image, attempts, &message));
            }
        }
    }
}

/// Makes one attempt; the error is the engine's message.
async fn pull_once(
    engine: &Engine,
    image: &str,
    credentials: Option<&Credentials>,
    progress: &dyn Progress,
) -> Result<(), String> {
    let mut steps = pin!(engine.pull(image, credentials));
    let mut layers = Layers::default();
    loop {
        let step = match timeout(STALL, steps.next()).await {
            Ok(Some(step)) => step.map_err(|error| error.to_string())?,
            Ok(None) => return Ok(()),
            Err(_) => return Err(format!("timeout: no progress for {} s", STALL.as_secs())),
        };
        let previous_progress = layers.total_progress();
        layers.update(step);
        let (done, total) = layers.total_progress();
        if (done, total) != previous_progress {
            progress.report(Event::Advanced {
                task: image,
                done,
                total: Some(total),
                unit: Unit::Bytes,
            });
        }
    }
}

/// Progress of each layer: id → bytes done and total.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, (u64, u64)>);

impl Layers {
    fn update(&mut self, step: PullStep) {
        let Some(layer) = step.layer else {
            return;
        };
        match (step.status.as_str(), step.done, step.total) {
            ("Downloading", Some(done), Some(total)) => {
                self.0.insert(layer, (done.min(total), total));
            }
            ("Download complete" | "Pull complete", ..) => {
                if let Some((done, total)) = self.0.get_mut(&layer) {
                    *done = *total;
                }
            }
            _ => {}
        }
    }

    fn total_progress(&self) -> (u64, u64) {
        self.0.values().fold((0, 0), |(done, total), layer| {
            (done + layer.0, total + layer.1)
        })
    }
}

/// Class of an engine's error message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorClass {
    RateLimited,
    Architecture,
    NoSuchImage,
    Denied,
    Disk,
    Transient,
    Other,
}

/// Classifies an error message. Engines report a registry's error only as text.
fn classify(message: &str) -> ErrorClass {
    const CLASSES: [(ErrorClass, &[&str]); 6] = [
        (
            ErrorClass::RateLimited,
            &["toomanyrequests", "rate limit", "too many requests"],
        ),
        (
            ErrorClass::Architecture,
            &[
                "no matching manifest",
                "does not match the specified platform",
                "exec format",
            ],
        ),
        (ErrorClass::Disk, &["no space left", "disk quota"]),
        (
            ErrorClass::Transient,
            &[
                "timeout",
                "timed out",
                "deadline exceeded",
                "connection refused",
                "connection reset",
                "broken pipe",
                "eof",
                "no such host",
                "temporary failure",
                "server misbehaving",
                "network is unreachable",
                "unexpected http status: 5",
                "status code 5",
                "status: 5",
                "internal server error",
                "bad gateway",
                "service unavailable",
                "is unreachable",
                "unexpected http response",
            ],
        ),
        (
            ErrorClass::Denied,
            &[
                "unauthorized",
                "denied",
                "authentication required",
                "no basic auth",
                "forbidden",
            ],
        ),
        (
            ErrorClass::NoSuchImage,
            &[
                "manifest unknown",
                "not found",
                "name unknown",
                "invalid reference",
            ],
        ),
    ];
    let message = message.to_lowercase();
    let matches =
        |(_, words): &&(ErrorClass, &[&str])| words.iter().any(|word| message.contains(word));
    CLASSES
        .iter()
        .find(matches)
        .map_or(ErrorClass::Other, |(class, _)| *class)
}

impl ErrorClass {
    fn error(self, image: &str, attempts: u32, message: &str) -> Error {
        let (kind, code) = match self {
            Self::RateLimited => (Kind::NotReady, "image_rate_limited"),
            Self::Architecture => (Kind::Environment, "image_architecture"),
            Self::NoSuchImage => (Kind::Environment, "image_missing"),
            Self::Denied => (Kind::Environment, "image_denied"),
            Self::Disk => (Kind::Environment, "image_disk"),
            Self::Transient => (Kind::NotReady, "image_not_pulled"),
            Self::Other => (Kind::Environment, "image_failed"),
        };
        let problem = match self {
            Self::RateLimited => format!("the registry limits pulls of {image}"),
            Self::Architecture => {
                format!("image {image} is not available for this machine's architecture")
            }
            Self::NoSuchImage => format!("image {image} does not exist"),
            Self::Denied => format!("the registry denies access to {image}"),
            Self::Disk => format!("image {image} does not fit on the engine's disk"),
            Self::Transient => format!("image {image} could not be pulled in {attempts} attempts"),
            Self::Other => format!("image {image} cannot be pulled"),
        };
        let error = Error::new(kind, code, format!("{problem}: {message}"));
        match self.hint(image) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    fn hint(self, image: &str) -> Option<Hint> {
        let up = Command::new("up");
        Some(match self {
            Self::RateLimited => {
                let login = login(image);
                let hint = format!("{login}, which raises the limit, or wait; then: ");
                Hint::from(hint).command(up)
            }
            Self::Denied => Hint::from(format!("{}, then: ", login(image))).command(up),
            Self::Architecture | Self::NoSuchImage => {
                "set another in fanout.yaml: services: {<service>: {image: …}}".into()
            }
            Self::Disk => "docker system df".into(),
            Self::Transient => Hint::from(up).text(", which resumes the pull"),
            Self::Other => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure as _;

    #[test]
    fn engine_errors_are_classified() {
        for (message, expected) in [
            (
                "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating",
                ErrorClass::RateLimited,
            ),
            (
                "no matching manifest for linux/arm64/v8 in the manifest list entries",
                ErrorClass::Architecture,
            ),
            (
                "manifest for localhost:5000/postgres:99 not found: manifest unknown: manifest unknown",
                ErrorClass::NoSuchImage,
            ),
            (
                "pull access denied for nobody/nothing, repository does not exist or may require 'docker login'",
                ErrorClass::Denied,
            ),
            (
                "Get \"http://localhost:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
                ErrorClass::Transient,
            ),
            (
                "received unexpected HTTP status: 503 Service Unavailable",
                ErrorClass::Transient,
            ),
            ("unexpected EOF", ErrorClass::Transient),
            (
                "write /var/lib/docker/tmp/x: no space left on device",
                ErrorClass::Disk,
            ),
            ("something else", ErrorClass::Other),
        ] {
            assert_eq!(classify(message), expected, "{message}");
        }
    }

    #[test]
    fn the_bytes_of_all_layers_are_added_up() {
        let step = |layer: &str, status: &str, bytes: Option<(u64, u64)>| PullStep {
            layer: Some(layer.to_owned()),
            status: status.to_owned(),
            done: bytes.map(|bytes| bytes.0),
            total: bytes.map(|bytes| bytes.1),
        };
        let mut layers = Layers::default();
        layers.update(step("a", "Pulling fs layer", None));
        layers.update(step("x", "Already exists", None));
        layers.update(step("a", "Downloading", Some((10, 100))));
        layers.update(step("b", "Downloading", Some((5, 50))));
        assert_eq!(layers.total_progress(), (15, 150));
        layers.update(step("a", "Download complete", None));
        layers.update(step("a", "Extracting", Some((1, 100))));
        assert_eq!(layers.total_progress(), (105, 150));
    }

    #[test]
    fn the_hint_names_the_registry_to_log_in_to() {
        let error = ErrorClass::Denied.error("quay.io/x/y:1", 1, "denied");
        assert_eq!(
            error.hint().expect("a hint"),
            "docker login quay.io, then: fanout up"
        );
        let error = ErrorClass::RateLimited.error("postgres:17", 1, "");
        assert!(
            error
                .hint()
                .expect("a hint")
                .starts_with("docker login, which raises")
        );
    }
}
