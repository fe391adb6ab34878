//! Pulls an image: progress, retries, and the classification of errors.

use std::{collections::BTreeMap, path::Path, pin::pin, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::{
    credentials,
    engine::{Credentials, DockerError, Engine, PullStep},
};
use crate::{
    failure::{Failure, Kind},
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

/// Error while pulling an image.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("image {image} is missing, and --pull never forbids pulling it")]
    Forbidden { image: String },
    #[error(
        "the credentials for {image} contain a character that fanout cannot send to the engine"
    )]
    Credentials { image: String },
    #[error("the registry limits pulls of {image}: {message}")]
    RateLimited { image: String, message: String },
    #[error("image {image} is not available for this machine's architecture: {message}")]
    Architecture { image: String, message: String },
    #[error("image {image} does not exist: {message}")]
    NoSuchImage { image: String, message: String },
    #[error("the registry denies access to {image}: {message}")]
    Denied { image: String, message: String },
    #[error("image {image} does not fit on the engine's disk: {message}")]
    Disk { image: String, message: String },
    #[error("image {image} could not be pulled in {attempts} attempts: {message}")]
    Transient {
        image: String,
        attempts: u32,
        message: String,
    },
    #[error("image {image} cannot be pulled: {message}")]
    Other { image: String, message: String },
    #[error(transparent)]
    Docker(#[from] DockerError),
}

impl Failure for PullError {
    fn kind(&self) -> Kind {
        match self {
            Self::Transient { .. } | Self::RateLimited { .. } => Kind::NotReady,
            _ => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => "image_forbidden",
            Self::Credentials { .. } => "image_credentials",
            Self::RateLimited { .. } => "image_rate_limited",
            Self::Architecture { .. } => "image_architecture",
            Self::NoSuchImage { .. } => "image_missing",
            Self::Denied { .. } => "image_denied",
            Self::Disk { .. } => "image_disk",
            Self::Transient { .. } => "image_not_pulled",
            Self::Other { .. } | Self::Docker(_) => "image_failed",
        }
    }

    fn hint(&self) -> Option<String> {
        let login = |image: &str| match credentials::registry(image) {
            hub if hub.starts_with("https://") => "docker login".to_owned(),
            registry => format!("docker login {registry}"),
        };
        Some(match self {
            Self::Forbidden { .. } => "fanout up --pull missing".to_owned(),
            Self::Credentials { image } => format!("docker pull {image}, then: fanout up"),
            Self::RateLimited { image, .. } => format!(
                "{}, which raises the limit, or wait; then: fanout up",
                login(image)
            ),
            Self::Denied { image, .. } => format!("{}, then: fanout up", login(image)),
            Self::Architecture { .. } | Self::NoSuchImage { .. } => {
                "set another in fanout.yaml: services: {<service>: {image: …}}".to_owned()
            }
            Self::Disk { .. } => "docker system df".to_owned(),
            Self::Transient { .. } => "fanout up, which resumes the pull".to_owned(),
            Self::Other { .. } | Self::Docker(_) => return None,
        })
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
) -> Result<(), PullError> {
    let credentials = credentials::find(config, image).await;
    if credentials
        .as_ref()
        .is_some_and(|credentials| !credentials.can_be_sent())
    {
        let image = image.to_owned();
        return Err(PullError::Credentials { image });
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
                return Err(class.error(image.to_owned(), attempts, message));
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
    fn error(self, image: String, attempts: u32, message: String) -> PullError {
        match self {
            Self::RateLimited => PullError::RateLimited { image, message },
            Self::Architecture => PullError::Architecture { image, message },
            Self::NoSuchImage => PullError::NoSuchImage { image, message },
            Self::Denied => PullError::Denied { image, message },
            Self::Disk => PullError::Disk { image, message },
            Self::Transient => PullError::Transient {
                image,
                attempts,
                message,
            },
            Self::Other => PullError::Other { image, message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let error = ErrorClass::Denied.error("quay.io/x/y:1".to_owned(), 1, "denied".to_owned());
        assert_eq!(
            error.hint().expect("a hint"),
            "docker login quay.io, then: fanout up"
        );
        let error = ErrorClass::RateLimited.error("postgres:17".to_owned(), 1, String::new());
        assert!(
            error
                .hint()
                .expect("a hint")
                .starts_with("docker login, which raises")
        );
    }
}
