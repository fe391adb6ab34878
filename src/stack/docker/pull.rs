//! Fetches an image: how far it is, what is tried again, and what an engine's
//! words mean.

use std::{collections::BTreeMap, path::Path, pin::pin, time::Duration};

use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::credentials;
use crate::{
    clients::docker::{Credentials, DockerError, Engine, PullStep},
    failure::{Failure, Kind},
    progress::{Event, Progress, Unit},
    retry::Backoff,
};

/// How often a pull is tried in all.
const TRIES: u32 = 4;

/// Between two tries.
const BACKOFF: Backoff = Backoff {
    base: Duration::from_secs(1),
    cap: Duration::from_secs(20),
};

/// A pull on which nothing moves for so long is broken off, and tried again.
const STALL: Duration = Duration::from_secs(120);

/// Why an image did not come.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("image {image} is not there, and nothing may be pulled")]
    Forbidden { image: String },
    #[error("the credentials for {image} have a character that fanout cannot hand to the engine")]
    Credentials { image: String },
    #[error("the registry of {image} takes no more pulls for now: {said}")]
    RateLimited { image: String, said: String },
    #[error("image {image} is not made for this machine's architecture: {said}")]
    Architecture { image: String, said: String },
    #[error("there is no image {image}: {said}")]
    NoSuchImage { image: String, said: String },
    #[error("the registry refuses {image}: {said}")]
    Denied { image: String, said: String },
    #[error("image {image} does not fit on the engine's disk: {said}")]
    Disk { image: String, said: String },
    #[error("image {image} could not be pulled in {tries} tries: {said}")]
    Transient {
        image: String,
        tries: u32,
        said: String,
    },
    #[error("image {image} cannot be pulled: {said}")]
    Other { image: String, said: String },
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
                "name another in fanout.yaml: services: {<service>: {image: …}}".to_owned()
            }
            Self::Disk { .. } => "docker system df".to_owned(),
            Self::Transient { .. } => "fanout up, which goes on from there".to_owned(),
            Self::Other { .. } | Self::Docker(_) => return None,
        })
    }
}

/// Fetches `image` with the credentials of the configuration in `config`.
///
/// # Errors
/// When the registry or the engine refuses, or all tries have failed.
pub async fn pull(
    engine: &Engine,
    image: &str,
    config: &Path,
    progress: &dyn Progress,
) -> Result<(), PullError> {
    let credentials = credentials::find(config, image).await;
    if credentials.as_ref().is_some_and(|one| !one.can_be_sent()) {
        let image = image.to_owned();
        return Err(PullError::Credentials { image });
    }
    let doing = |what: &str| progress.report(Event::Doing { task: image, what });
    let mut tries = 0;
    loop {
        doing(if tries == 0 {
            "pulling"
        } else {
            "pulling again"
        });
        let Err(said) = once(engine, image, credentials.as_ref(), progress).await else {
            progress.report(Event::Done {
                task: image,
                what: "pulled",
            });
            return Ok(());
        };
        tries += 1;
        let said = said.trim().to_owned();
        match meaning(&said) {
            Meaning::Transient if tries < TRIES => {
                let wait = BACKOFF
                    .limit(tries - 1)
                    .mul_f64(rand::random_range(0.5..1.0));
                doing(&format!(
                    "{said}; trying again in {} s",
                    wait.as_secs_f32().round()
                ));
                sleep(wait).await;
            }
            meaning => {
                progress.report(Event::Failed {
                    task: image,
                    what: "not pulled",
                });
                return Err(meaning.error(image.to_owned(), tries, said));
            }
        }
    }
}

/// One try; the error is what the engine said.
async fn once(
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
            Err(_) => return Err(format!("timeout: nothing moved for {} s", STALL.as_secs())),
        };
        let before = layers.amount();
        layers.take(step);
        let (done, total) = layers.amount();
        if (done, total) != before {
            progress.report(Event::Advanced {
                task: image,
                done,
                total: Some(total),
                unit: Unit::Bytes,
            });
        }
    }
}

/// How far each layer is.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, (u64, u64)>);

impl Layers {
    fn take(&mut self, step: PullStep) {
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

    fn amount(&self) -> (u64, u64) {
        self.0.values().fold((0, 0), |(done, total), layer| {
            (done + layer.0, total + layer.1)
        })
    }
}

/// What an engine's words mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    RateLimited,
    Architecture,
    NoSuchImage,
    Denied,
    Disk,
    Transient,
    Other,
}

/// Engines have no codes for what a registry said, only words.
fn meaning(said: &str) -> Meaning {
    const MEANINGS: [(Meaning, &[&str]); 6] = [
        (
            Meaning::RateLimited,
            &["toomanyrequests", "rate limit", "too many requests"],
        ),
        (
            Meaning::Architecture,
            &[
                "no matching manifest",
                "does not match the specified platform",
                "exec format",
            ],
        ),
        (Meaning::Disk, &["no space left", "disk quota"]),
        (
            Meaning::Transient,
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
                "does not answer",
                "unexpected http response",
            ],
        ),
        (
            Meaning::Denied,
            &[
                "unauthorized",
                "denied",
                "authentication required",
                "no basic auth",
                "forbidden",
            ],
        ),
        (
            Meaning::NoSuchImage,
            &[
                "manifest unknown",
                "not found",
                "name unknown",
                "invalid reference",
            ],
        ),
    ];
    let said = said.to_lowercase();
    let means = |(_, words): &&(Meaning, &[&str])| words.iter().any(|word| said.contains(word));
    MEANINGS
        .iter()
        .find(means)
        .map_or(Meaning::Other, |(meaning, _)| *meaning)
}

impl Meaning {
    fn error(self, image: String, tries: u32, said: String) -> PullError {
        match self {
            Self::RateLimited => PullError::RateLimited { image, said },
            Self::Architecture => PullError::Architecture { image, said },
            Self::NoSuchImage => PullError::NoSuchImage { image, said },
            Self::Denied => PullError::Denied { image, said },
            Self::Disk => PullError::Disk { image, said },
            Self::Transient => PullError::Transient { image, tries, said },
            Self::Other => PullError::Other { image, said },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_words_are_understood() {
        for (said, expected) in [
            (
                "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating",
                Meaning::RateLimited,
            ),
            (
                "no matching manifest for linux/arm64/v8 in the manifest list entries",
                Meaning::Architecture,
            ),
            (
                "manifest for localhost:5000/postgres:99 not found: manifest unknown: manifest unknown",
                Meaning::NoSuchImage,
            ),
            (
                "pull access denied for nobody/nothing, repository does not exist or may require 'docker login'",
                Meaning::Denied,
            ),
            (
                "Get \"http://localhost:5000/v2/\": dial tcp 127.0.0.1:5000: connect: connection refused",
                Meaning::Transient,
            ),
            (
                "received unexpected HTTP status: 503 Service Unavailable",
                Meaning::Transient,
            ),
            ("unexpected EOF", Meaning::Transient),
            (
                "write /var/lib/docker/tmp/x: no space left on device",
                Meaning::Disk,
            ),
            ("something else", Meaning::Other),
        ] {
            assert_eq!(meaning(said), expected, "{said}");
        }
    }

    #[test]
    fn the_bytes_of_all_layers_are_one_amount() {
        let step = |layer: &str, status: &str, bytes: Option<(u64, u64)>| PullStep {
            layer: Some(layer.to_owned()),
            status: status.to_owned(),
            done: bytes.map(|bytes| bytes.0),
            total: bytes.map(|bytes| bytes.1),
        };
        let mut layers = Layers::default();
        layers.take(step("a", "Pulling fs layer", None));
        layers.take(step("x", "Already exists", None));
        layers.take(step("a", "Downloading", Some((10, 100))));
        layers.take(step("b", "Downloading", Some((5, 50))));
        assert_eq!(layers.amount(), (15, 150));
        layers.take(step("a", "Download complete", None));
        layers.take(step("a", "Extracting", Some((1, 100))));
        assert_eq!(layers.amount(), (105, 150));
    }

    #[test]
    fn the_hint_names_the_registry_to_log_in_to() {
        let error = Meaning::Denied.error("quay.io/x/y:1".to_owned(), 1, "denied".to_owned());
        assert_eq!(
            error.hint().expect("a hint"),
            "docker login quay.io, then: fanout up"
        );
        let error = Meaning::RateLimited.error("postgres:17".to_owned(), 1, String::new());
        assert!(
            error
                .hint()
                .expect("a hint")
                .starts_with("docker login, which raises")
        );
    }
}
