//! Images: whether one is there, and how it comes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::{auth::DockerCredentials, query_parameters::CreateImageOptionsBuilder};
use futures_util::{Stream, StreamExt as _};

use super::{
    Engine,
    error::{DockerError, none_if_missing},
};
use crate::secret::Secret;

/// What a registry wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: Secret,
    },
    /// What a registry gave in exchange for a password.
    Token(Secret),
}

impl Credentials {
    /// Whether the client crate can hand them to an engine. It writes them in
    /// the alphabet of base64 that has `+` and `/` where engines read the one
    /// that has `-` and `_` (bollard 0.21), so a password with `>`, `?` or `~`
    /// at every third byte would come to nothing.
    #[must_use]
    pub fn can_be_sent(&self) -> bool {
        let text = serde_json::to_string(&of_bollard(self)).unwrap_or_default();
        !STANDARD.encode(text).contains(['+', '/'])
    }
}

/// One thing that happened to one layer, or to the image as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullStep {
    /// The layer's id; the image's tag, or none, for the whole.
    pub layer: Option<String>,
    /// `Downloading`, `Pull complete`, …
    pub status: String,
    /// Bytes done and to do, where the status has some.
    pub done: Option<u64>,
    pub total: Option<u64>,
}

impl Engine {
    /// The digest of the image of this name, where it is there.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn image(&self, name: &str) -> Result<Option<String>, DockerError> {
        let found = none_if_missing(self.docker.inspect_image(name).await)?;
        Ok(found.map(|image| image.id.unwrap_or_default()))
    }

    /// The processors that an image is made for: `arm64`; none where it is not
    /// there or does not say.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn image_architecture(&self, name: &str) -> Result<Option<String>, DockerError> {
        let found = none_if_missing(self.docker.inspect_image(name).await)?;
        let architecture = found.and_then(|image| image.architecture);
        Ok(architecture.filter(|name| !name.is_empty()))
    }

    /// Fetches an image, telling every step. An error ends it.
    pub fn pull(
        &self,
        name: &str,
        credentials: Option<&Credentials>,
    ) -> impl Stream<Item = Result<PullStep, DockerError>> + use<> {
        // Without a tag in it the engine would fetch every tag there is.
        let options = CreateImageOptionsBuilder::new().from_image(name).build();
        let credentials = credentials.map(of_bollard);
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

fn of_bollard(credentials: &Credentials) -> DockerCredentials {
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
    fn a_password_that_would_come_to_nothing_is_known() {
        let with = |password: &str| Credentials::Password {
            user: "me".to_owned(),
            password: Secret::new(password),
        };
        assert!(with("simple").can_be_sent());
        assert!(!with("???").can_be_sent());
    }
}
