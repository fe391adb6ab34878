//! Removes known secrets from texts that other programs wrote: a server may
//! repeat what it was sent.

use std::{borrow::Cow, collections::BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;

use super::{mask::MASK, name::is_secret, text};

/// A shorter secret is part of many words.
const SHORTEST: usize = 4;

/// A secret of letters alone has to be so long to be no word: `postgres` is a
/// common password, and every other line of output holds it.
const LONGER_THAN_A_WORD: usize = 16;

/// A shorter secret may be a number or a name by chance.
const SHORTEST_DISTINCTIVE: usize = 8;

/// The secrets to remove.
#[derive(Clone, Default)]
pub struct Redactor {
    /// The longest first, so that no part of one is left.
    secrets: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Redactor({} secrets)", self.secrets.len())
    }
}

impl Redactor {
    /// Removes these.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let secrets: BTreeSet<String> = secrets
            .into_iter()
            .filter(|secret| secret.len() >= SHORTEST && secret != MASK)
            .collect();
        let mut secrets: Vec<String> = secrets.into_iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets }
    }

    /// Also removes the secrets of a document: the secret parts of its URLs, and
    /// values with a secret's name at any depth.
    pub fn add(&mut self, document: &Json) {
        let mut secrets = std::mem::take(&mut self.secrets);
        collect(document, &mut secrets);
        *self = Self::new(secrets);
    }

    /// Only those secrets that cannot be mistaken for a word, for texts in
    /// which ordinary words must stay.
    #[must_use]
    pub fn distinctive(self) -> Self {
        let is_distinctive = |secret: &String| {
            let length = secret.len();
            let letters = secret.bytes().all(|byte| byte.is_ascii_lowercase());
            let digits = secret.bytes().all(|byte| byte.is_ascii_digit());
            length >= LONGER_THAN_A_WORD || length >= SHORTEST_DISTINCTIVE && !letters && !digits
        };
        Self {
            secrets: self.secrets.into_iter().filter(is_distinctive).collect(),
        }
    }

    /// The text with each secret masked.
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
            Json::Array(values) => values.iter_mut().for_each(|it| self.redact_document(it)),
            Json::Object(fields) => fields.values_mut().for_each(|it| self.redact_document(it)),
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

/// A URL's login as it is sent in a header.
fn basic_authorization(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let decoded = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8_lossy()
            .into_owned()
    };
    let password = decoded(url.password()?);
    Some(STANDARD.encode(format!("{}:{password}", decoded(url.username()))))
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
        let said = "p%40ssword p@ssword canary dTpwQHNzd29yZA== open sesame 20";
        assert_eq!(redactor.redact(said), "**** **** **** **** **** 20");
        let mut document = json!({"a": ["is canary"], "b": 1});
        redactor.redact_document(&mut document);
        assert_eq!(document, json!({"a": ["is ****"], "b": 1}));
    }

    #[test]
    fn the_longer_of_two_is_removed_whole() {
        let redactor = Redactor::new(["canary".to_owned(), "canary-2".to_owned()]);
        assert_eq!(redactor.redact("canary-2 canary"), "**** ****");
    }

    #[test]
    fn words_stay_where_only_distinctive_secrets_are_removed() {
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
