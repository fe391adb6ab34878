//! A value that never shows itself by accident: `Debug`, `Display` and
//! serialisation print a mask, and only [`Secret::reveal`] gives the text.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What stands where a secret would.
pub const MASK: &str = "****";

/// A URL with its password masked; other texts stay as they are.
#[must_use]
pub fn masked_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else {
        return text.to_owned();
    };
    if url.password().is_none() || url.set_password(Some(MASK)).is_err() {
        return text.to_owned();
    }
    let masked = url.to_string();
    if text.ends_with('/') {
        return masked;
    }
    // The parser adds a slash that nobody wrote.
    masked.trim_end_matches('/').to_owned()
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
