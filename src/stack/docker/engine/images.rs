//! Images: inspecting and pulling.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::{auth::DockerCredentials, query_parameters::CreateImageOptionsBuilder};
use futures_util::{Stream, StreamExt as _};

use super::{
    Engine,
    error::{DockerError, none_if_missing},
};
use crate::secret::Secret;

/// Credentials for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: Secret,
    },
    /// Token that a registry issued in exchange for a password.
    Token(Secret),
}

impl Credentials {
    /// Returns whether the client crate can send the credentials correctly.
    /// bollard 0.21 encodes them in base64 with `+` and `/`, but engines decode
    /// base64 with `-` and `_`. A password with `>`, `?` or `~` at every third
    /// byte would be rejected.
    #[must_use]
    pub fn can_be_sent(&self) -> bool {
        let text = serde_json::to_string(&to_bollard(self)).unwrap_or_default();
        !STANDARD.encode(text).contains(['+', '/'])
    }
}

/// Progress message about one layer, or the whole image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullStep {
    /// The layer's id. For the whole image, its tag or `None`.
    pub layer: Option<String>,
    /// `Downloading`, `Pull complete`, …
    pub status: String,
    /// Bytes done, if the status has a number.
    pub done: Option<u64>,
    pub total: Option<u64>,
}

impl Engine {
    /// Returns the digest of the image with this name, or `None` if it is
    /// missing.
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn image(&self, name: &str) -> Result<Option<String>, DockerError> {
        let found = none_if_missing(self.docker.inspect_image(name).await)?;
        Ok(found.map(|image| image.id.unwrap_or_default()))
    }

    /// Returns the architecture that an image is built for, such as `arm64`.
    /// Returns `None` if the image is missing or does not contain it.
    ///
    /// # Errors
    /// If the engine does not respond.
    pub async fn image_architecture(&self, name: &str) -> Result<Option<String>, DockerError> {
        let found = none_if_missing(self.docker.inspect_image(name).await)?;
        let architecture = found.and_then(|image| image.architecture);
        Ok(architecture.filter(|name| !name.is_empty()))
    }

    /// Pulls an image and returns its progress messages. The stream ends after
    /// an error.
    pub fn pull(
        &self,
        name: &str,
        credentials: Option<&Credentials>,
    ) -> impl Stream<Item = Result<PullStep, DockerError>> + use<> {
        // `name` must have a tag, or the engine would pull all tags.
        let options = CreateImageOptionsBuilder::new().from_image(name).build();
        let credentials = credentials.map(to_bollard);
        let steps = self.docker.create_image(Some(options), None, credentials);
        steps.map(|step| {
            let step = step?;
            if let Some(error) = step.error_detail {
                return Err(DockerError::Answer {
                    status: 0,
                    message: error.message.unwrap_or_default(),
                });
            }
            let amount = step.progress_detail.unwrap_or_default();
            let bytes = |amount: Option<i64>| amount.and_then(|bytes| u64::try_from(bytes).ok());
            Ok(PullStep {
                layer: step.id,
                status: step.status.unwrap_or_default(),
                done: bytes(amount.current),
                total: bytes(amount.total),
            })
        })
    }
}

fn to_bollard(credentials: &Credentials) -> DockerCredentials {
    match credentials {
        Credentials::Password { user, password } => DockerCredentials {
            username: Some(user.clone()),
            password: Some(password.reveal().to_owned()),
            ..DockerCredentials::default()
        },
        Credentials::Token(token) => DockerCredentials {
            identitytoken: Some(token.reveal().to_owned()),
            ..DockerCredentials::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_cannot_be_sent_is_detected() {
        let with = |password: &str| Credentials::Password {
            user: "me".to_owned(),
            password: Secret::new(password),
        };
        assert!(with("simple").can_be_sent());
        assert!(!with("???").can_be_sent());
    }
}
