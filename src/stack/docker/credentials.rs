//! What a registry is told, as Docker's configuration has it: a credential
//! helper's answer, else what `docker login` wrote down.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{clients::docker::Credentials, secret::Secret};

/// The name that Docker Hub has in the configuration.
const HUB: &str = "https://index.docker.io/v1/";

/// How long a helper may take: some ask the operator.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);

/// What helpers call a token's user.
const TOKEN_USER: &str = "<token>";

/// The parts of `config.json` that are about registries.
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

/// A helper's answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The registry of an image, as the configuration calls it.
#[must_use]
pub fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => HUB,
    }
}

/// What is known for the registry of `image`, in the configuration in
/// `folder`. None where there is nothing: most images are for everyone.
pub async fn find(folder: &Path, image: &str) -> Option<Credentials> {
    let text = fs::read_to_string(folder.join("config.json")).ok()?;
    let file: ConfigFile = serde_json::from_str(&text).ok()?;
    let registry = registry(image);
    let helper = file
        .cred_helpers
        .get(registry)
        .or(file.creds_store.as_ref());
    if let Some(helper) = helper
        && let Some(found) = ask(helper, registry).await
    {
        return Some(found);
    }
    let written = [registry.to_owned(), format!("https://{registry}")];
    written
        .iter()
        .find_map(|name| of_entry(file.auths.get(name)?))
}

fn of_entry(entry: &Entry) -> Option<Credentials> {
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

/// Asks `docker-credential-<helper>`. One that has nothing, or is not there,
/// is no reason not to try without.
async fn ask(helper: &str, registry: &str) -> Option<Credentials> {
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
    let output = tokio::time::timeout(HELPER_PATIENCE, child.wait_with_output());
    let output = output.await.ok()?.ok()?;
    if !output.status.success() {
        return None;
    }
    let answer: Answer = serde_json::from_slice(&output.stdout).ok()?;
    Some(if answer.username == TOKEN_USER {
        Credentials::Token(Secret::new(answer.secret))
    } else {
        Credentials::Password {
            user: answer.username,
            password: Secret::new(answer.secret),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_its_registry() {
        assert_eq!(registry("postgres:17"), HUB);
        assert_eq!(registry("redpandadata/redpanda:v25"), HUB);
        assert_eq!(registry("quay.io/debezium/connect:3"), "quay.io");
        assert_eq!(registry("localhost:5000/postgres:17"), "localhost:5000");
    }

    #[tokio::test]
    async fn what_login_wrote_down_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = r#"{"auths": {"localhost:5000": {"auth": "bWU6cDp3"}, "quay.io": {}},
                         "credHelpers": {"quay.io": "no-such-helper"}}"#;
        fs::write(folder.path().join("config.json"), config).expect("written");
        let found = find(folder.path(), "localhost:5000/x").await;
        let expected = Credentials::Password {
            user: "me".to_owned(),
            password: Secret::new("p:w"),
        };
        assert_eq!(found, Some(expected));
        assert_eq!(find(folder.path(), "quay.io/x/y").await, None);
        assert_eq!(find(Path::new("/nowhere"), "x").await, None);
    }
}
