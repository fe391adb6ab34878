//! A server's URL, which may contain a password or a token.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

use super::text::{self, masked_text};

/// A URL or its path. It prints and serialises masked; clients reveal it to connect.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps a URL.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the URL itself, to be revealed only where it is used.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the URL of a path below this one. Keeps both queries: `http://h/a?token=x` and
    /// `/b?c=d` give `http://h/a/b?token=x&c=d`.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        let base = self.0.split('#').next().unwrap_or_default();
        let (base, base_query) = base.split_once('?').unwrap_or((base, ""));
        let (path, path_query) = path.split_once('?').unwrap_or((path, ""));
        let queries: Vec<&str> = [base_query, path_query]
            .into_iter()
            .filter(|query| !query.is_empty())
            .collect();
        let mut joined = format!("{}{path}", base.trim_end_matches('/'));
        if !queries.is_empty() {
            joined.push('?');
            joined.push_str(&queries.join("&"));
        }
        Self(joined)
    }

    /// Returns the secret parts in every form in which another program may repeat them.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        text::secrets(&self.0)
    }

    /// Serialises the unmasked URL, for settings and for the project's state, which are read
    /// back.
    ///
    /// # Errors
    /// If the serialiser fails.
    pub fn serialize_revealed<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&masked_text(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&masked_text(&self.0), formatter)
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<&str> for SecretUrl {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for SecretUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl FromStr for SecretUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_only_when_revealed() {
        let url = SecretUrl::new("http://app:canary@h:1/x?token=canary");
        let masked = "http://app:****@h:1/x?token=****";
        assert_eq!(url.to_string(), masked);
        assert_eq!(format!("{url:?}"), format!("{masked:?}"));
        assert_eq!(serde_json::json!(url), masked);
        assert!(url.reveal().contains("canary"));
    }

    #[test]
    fn a_path_is_joined_and_both_queries_are_kept() {
        let join = |base: &str, path: &str| SecretUrl::new(base).join(path).0;
        assert_eq!(join("http://h:1", "/events"), "http://h:1/events");
        assert_eq!(join("http://h/api/", "/events"), "http://h/api/events");
        assert_eq!(
            join("http://h/a?token=x", "/b?c=d"),
            "http://h/a/b?token=x&c=d"
        );
        assert_eq!(join("http://h?token=x", ""), "http://h?token=x");
    }
}
