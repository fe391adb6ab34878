//! Values that are never shown by accident. [`Secret`] and [`SecretUrl`] print and serialise
//! masked, and only their `reveal` returns the text. [`is_secret`] alone decides which names
//! denote secrets, and [`Redactor`] removes known secrets from the output of other programs.

mod mask;
mod name;
mod redactor;
mod text;
mod url;
mod variables;

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;

pub use self::{
    mask::MASK, name::is_secret, redactor::Redactor, text::masked_text, url::SecretUrl,
    variables::Variables,
};

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

    /// Returns the secret itself, to be revealed only where it is used.
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

/// Returns the document with its secrets masked: values with a secret's name, at any depth, and
/// the secret parts of texts as found by [`masked_text`].
#[must_use]
pub fn masked(value: &Json) -> Json {
    match value {
        Json::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), masked_field(name, value)))
            .collect(),
        Json::Array(values) => values.iter().map(masked).collect(),
        Json::String(text) => masked_text(text).into(),
        other => other.clone(),
    }
}

fn masked_field(name: &str, value: &Json) -> Json {
    match value {
        Json::String(_) | Json::Number(_) | Json::Bool(_) if is_secret(name) => MASK.into(),
        Json::Array(_) if is_secret(name) => MASK.into(),
        other => masked(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_with_a_secret_name_are_masked_at_any_depth() {
        let services = json!({
            "env": {"POSTGRES_PASSWORD": "canary", "STRIPE_API_KEY": ["canary"], "N": 1},
            "deep": [{"apiToken": 7, "url": "http://u:canary@h", "empty": null}],
        });
        assert_eq!(
            masked(&services),
            json!({
                "env": {"POSTGRES_PASSWORD": MASK, "STRIPE_API_KEY": MASK, "N": 1},
                "deep": [{"apiToken": MASK, "url": "http://u:****@h", "empty": null}],
            })
        );
    }

    #[test]
    fn a_secret_is_shown_only_when_revealed() {
        let secret = Secret::new("canary");
        let shown = format!("{secret} {secret:?} {}", json!(secret));
        assert_eq!(shown, format!("{MASK} {MASK} \"{MASK}\""));
        assert_eq!(secret.reveal(), "canary");
    }
}
