//! Registry credentials from Docker's configuration: a credential helper's
//! output, otherwise what `docker login` stored.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::engine::Credentials;
use crate::secret::Secret;

/// Name of Docker Hub in the configuration.
const HUB: &str = "https://index.docker.io/v1/";

/// Timeout of a helper; some prompt the operator.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// User name that helpers report for a token.
const TOKEN_USER: &str = "<token>";

/// The parts of `config.json` about registries.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// Base64 of `user:password`.
    auth: String,
    identitytoken: Option<String>,
}

/// Output of a helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperOutput {
    username: String,
    secret: String,
}

/// Returns the registry of an image by its name in the configuration.
#[must_use]
pub fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => HUB,
    }
}

/// Returns the credentials for the registry of `image`, from the configuration
/// in `folder`. Returns `None` if there are none, as most images are public.
pub async fn find(folder: &Path, image: &str) -> Option<Credentials> {
    let text = fs::read_to_string(folder.join("config.json")).ok()?;
    let file: ConfigFile = serde_json::from_str(&text).ok()?;
    let registry = registry(image);
    let helper = file
        .cred_helpers
        .get(registry)
        .or(file.creds_store.as_ref());
    if let Some(helper) = helper
        && let Some(credentials) = run_helper(helper, registry).await
    {
        return Some(credentials);
    }
    let keys = [registry.to_owned(), format!("https://{registry}")];
    keys.iter()
        .find_map(|name| decode_entry(file.auths.get(name)?))
}

fn decode_entry(entry: &Entry) -> Option<Credentials> {
    if let Some(token) = &entry.identitytoken {
        return Some(Credentials::Token(Secret::new(token.clone())));
    }
    let decoded = String::from_utf8(STANDARD.decode(&entry.auth).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Credentials::Password {
        user: user.to_owned(),
        password: Secret::new(password.trim_end_matches('\0')),
    })
}

/// Runs `docker-credential-<helper>`. Returns `None` if the helper is missing
/// or has no credentials, so that the pull is tried without.
async fn run_helper(helper: &str, registry: &str) -> Option<Credentials> {
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    child
        .stdin
        .take()?
        .write_all(registry.as_bytes())
        .await
        .ok()?;
    let output = tokio::time::timeout(HELPER_TIMEOUT, child.wait_with_output());
    let output = output.await.ok()?.ok()?;
    if !output.status.success() {
        return None;
    }
    let parsed: HelperOutput = serde_json::from_slice(&output.stdout).ok()?;
    Some(if parsed.username == TOKEN_USER {
        Credentials::Token(Secret::new(parsed.secret))
    } else {
        Credentials::Password {
            user: parsed.username,
            password: Secret::new(parsed.secret),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_read_from_the_image_name() {
        assert_eq!(registry("postgres:17"), HUB);
        assert_eq!(registry("redpandadata/redpanda:v25"), HUB);
        assert_eq!(registry("quay.io/debezium/connect:3"), "quay.io");
        assert_eq!(registry("localhost:5000/postgres:17"), "localhost:5000");
    }

    #[tokio::test]
    async fn credentials_stored_by_docker_login_are_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = r#"{"auths": {"localhost:5000": {"auth": "bWU6cDp3"}, "quay.io": {}},
                         "credHelpers": {"quay.io": "no-such-helper"}}"#;
        fs::write(folder.path().join("config.json"), config).expect("write the file");
        let credentials = find(folder.path(), "localhost:5000/x").await;
        let expected = Credentials::Password {
            user: "me".to_owned(),
            password: Secret::new("p:w"),
        };
        assert_eq!(credentials, Some(expected));
        assert_eq!(find(folder.path(), "quay.io/x/y").await, None);
        assert_eq!(find(Path::new("/nowhere"), "x").await, None);
    }
}
