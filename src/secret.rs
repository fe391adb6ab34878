//! A value that never shows itself by accident: `Debug`, `Display` and
//! serialisation print a mask, and only [`Secret::reveal`] gives the text.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;

/// What stands where a secret would.
pub const MASK: &str = "****";

/// What is called like this is a secret.
const SECRET_WORDS: [&str; 3] = ["password", "secret", "token"];

/// Whether something of this name is a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// A setting with its secrets masked: what is called like one, at any depth,
/// and what a text has of them in the way of [`masked_url`].
#[must_use]
pub fn masked(name: &str, value: &Json) -> Json {
    match value {
        Json::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), masked(name, value)))
            .collect(),
        Json::Array(values) => values.iter().map(|value| masked(name, value)).collect(),
        Json::Null => Json::Null,
        _ if is_secret(name) => MASK.into(),
        Json::String(text) => masked_url(text).into(),
        other => other.clone(),
    }
}

/// A URL with its password masked, wherever it stands: before the host, among
/// the parameters, or as one of `host=… password=…`. Other texts stay as they
/// are.
#[must_use]
pub fn masked_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return masked_words(text);
    };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    // The last one: a password that nobody encoded may hold others.
    let place = match place.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{host}"),
            None => place.to_owned(),
        },
        None => place.to_owned(),
    };
    let mut masked = format!("{scheme}://{place}");
    if let Some(query) = query {
        let parameters: Vec<String> = query.split('&').map(masked_parameter).collect();
        masked.push('?');
        masked.push_str(&parameters.join("&"));
    }
    masked
}

fn masked_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={MASK}"),
        _ => parameter.to_owned(),
    }
}

/// `host=db password='a b' dbname=x`, as Postgres's own clients read it.
fn masked_words(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        masked.push_str(before);
        masked.push('=');
        let blanks = after.len() - after.trim_start().len();
        let (blanks, value) = after.split_at(blanks);
        let (value, behind) = value.split_at(word_length(value));
        masked.push_str(blanks);
        let name = before.split_ascii_whitespace().last().unwrap_or_default();
        masked.push_str(if is_secret(name) { MASK } else { value });
        rest = behind;
    }
    masked.push_str(rest);
    masked
}

/// Bytes that a value takes, quoted or up to the next blank.
fn word_length(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(usize::from(quoted)) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return at + 1,
            letter if !quoted && letter.is_whitespace() => return at,
            _ => {}
        }
    }
    text.len()
}

/// A password or a token.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the moment of use.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_password_is_masked_wherever_it_stands() {
        for (text, shown) in [
            ("http://app:geheim@h:1", "http://app:****@h:1"),
            ("redis://:p%40w@h:1/0", "redis://:****@h:1/0"),
            ("http://app:a/b@c@h:no", "http://app:****@h:no"),
            (
                "postgres://app@h/d?password=geheim&sslmode=off",
                "postgres://app@h/d?password=****&sslmode=off",
            ),
            (
                "host=db user=app password=geheim dbname=x",
                "host=db user=app password=**** dbname=x",
            ),
            (r"password = 'ge \'heim' host=db", "password = **** host=db"),
            ("http://h:1/x", "http://h:1/x"),
            ("pg-engagement-cdc", "pg-engagement-cdc"),
        ] {
            assert_eq!(masked_url(text), shown);
        }
    }

    #[test]
    fn what_is_called_a_secret_is_masked_at_any_depth() {
        let services = json!({"POSTGRES_PASSWORD": "geheim", "deep": [{"api_token": 7}], "N": 1});
        assert_eq!(
            masked("services.x", &json!({ "env": services })),
            json!({"env": {"POSTGRES_PASSWORD": "****", "deep": [{"api_token": "****"}], "N": 1}})
        );
    }
}
