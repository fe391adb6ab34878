//! Removes known secrets from the output of other programs, because a server may repeat what it
//! received.

use std::{borrow::Cow, collections::BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;

use super::{mask::MASK, name::is_secret, text};

/// Minimum length of a secret. Shorter texts are part of many words.
const MIN_LENGTH: usize = 4;

/// Minimum length at which a text of letters is unlikely to be a word. `postgres` is a common
/// password, and it occurs in most lines of output.
const MIN_NON_WORD_LENGTH: usize = 16;

/// Minimum length of a distinctive secret. Shorter texts may be numbers or names by chance.
const MIN_DISTINCTIVE_LENGTH: usize = 8;

/// A set of secrets to remove from texts.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Sorted by descending length, so that no part of a longer secret remains.
    secrets: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// Returns a redactor of these secrets.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let secrets: BTreeSet<String> = secrets
            .into_iter()
            .filter(|secret| secret.len() >= MIN_LENGTH && secret != MASK)
            .collect();
        let mut secrets: Vec<String> = secrets.into_iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets }
    }

    /// Adds the secrets of a document: the secret parts of its URLs, and values with a secret's
    /// name at any depth.
    pub fn add(&mut self, document: &Json) {
        let mut secrets = std::mem::take(&mut self.secrets);
        collect(document, &mut secrets);
        *self = Self::new(secrets);
    }

    /// Keeps only the secrets that cannot be mistaken for words, for texts in which ordinary
    /// words must remain.
    #[must_use]
    pub fn distinctive(self) -> Self {
        let is_distinctive = |secret: &String| {
            let length = secret.len();
            let is_letters = secret.bytes().all(|byte| byte.is_ascii_lowercase());
            let is_digits = secret.bytes().all(|byte| byte.is_ascii_digit());
            length >= MIN_NON_WORD_LENGTH
                || length >= MIN_DISTINCTIVE_LENGTH && !is_letters && !is_digits
        };
        Self {
            secrets: self.secrets.into_iter().filter(is_distinctive).collect(),
        }
    }

    /// Returns the text with each secret masked.
    #[must_use]
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.secrets {
            if text.contains(secret) {
                text = text.replace(secret, MASK).into();
            }
        }
        text
    }

    /// Masks each secret in the texts of a document.
    pub fn redact_document(&self, document: &mut Json) {
        match document {
            Json::String(text) => {
                if let Cow::Owned(redacted) = self.redact(text) {
                    *text = redacted;
                }
            }
            Json::Array(values) => values
                .iter_mut()
                .for_each(|value| self.redact_document(value)),
            Json::Object(fields) => fields
                .values_mut()
                .for_each(|value| self.redact_document(value)),
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }
}

fn collect(document: &Json, secrets: &mut Vec<String>) {
    match document {
        Json::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Json::String(text) if is_secret(name) => secrets.push(text.clone()),
                    Json::Number(number) if is_secret(name) => secrets.push(number.to_string()),
                    other => collect(other, secrets),
                }
            }
        }
        Json::Array(values) => values.iter().for_each(|value| collect(value, secrets)),
        Json::String(text) => {
            secrets.extend(text::secrets(text));
            secrets.extend(basic_authorization(text));
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// Returns a URL's login as it is sent in an `Authorization` header.
fn basic_authorization(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    let password = decode(url.password()?);
    Some(STANDARD.encode(format!("{}:{password}", decode(url.username()))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn known_secrets_are_removed_in_every_form() {
        let mut redactor = Redactor::default();
        redactor.add(&json!({
            "external": {"url": "http://u:p%40ssword@h/x?token=canary"},
            "connector": {"properties": {"ssl.passphrase": "open sesame", "poll.interval.ms": "20"}},
        }));
        let output = "p%40ssword p@ssword canary dTpwQHNzd29yZA== open sesame 20";
        assert_eq!(redactor.redact(output), "**** **** **** **** **** 20");
        let mut document = json!({"a": ["is canary"], "b": 1});
        redactor.redact_document(&mut document);
        assert_eq!(document, json!({"a": ["is ****"], "b": 1}));
    }

    #[test]
    fn the_longer_of_two_secrets_is_removed_entirely() {
        let redactor = Redactor::new(["canary".to_owned(), "canary-2".to_owned()]);
        assert_eq!(redactor.redact("canary-2 canary"), "**** ****");
    }

    #[test]
    fn words_remain_if_only_distinctive_secrets_are_removed() {
        let secrets = [
            "app",
            "postgres",
            "12345678",
            "hunter2!",
            "correcthorsebatterystaple",
        ];
        let redactor = Redactor::new(secrets.map(str::to_owned)).distinctive();
        assert_eq!(
            redactor.redact("app postgres 12345678 hunter2! correcthorsebatterystaple"),
            "app postgres 12345678 **** ****"
        );
    }
}
