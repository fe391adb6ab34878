//! Where a server is and how it is reached: what every client is made from.
//! This only describes; [`crate::connections::Connections`] makes the clients.

use crate::secret::SecretUrl;

/// Where a server is, and how it is reached. Each client takes it apart in one
/// place and names every part there, so that none is ignored by accident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub(crate) url: SecretUrl,
    pub(crate) tls: Tls,
    pub(crate) auth: Auth,
}

/// How the way to the server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// As the URL's scheme says, where the client is built with TLS: Connect and
    /// the external system may have HTTPS. The other clients have none.
    ByScheme,
}

/// As whom fanout logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// As the URL says: its user and password, if it has any.
    InUrl,
}

impl Connection {
    /// A server by its URL, or Kafka's brokers as `host:port`, joined by commas.
    #[must_use]
    pub fn new(url: SecretUrl) -> Self {
        Self {
            url,
            tls: Tls::ByScheme,
            auth: Auth::InUrl,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_hides_its_password() {
        let connection = Connection::new("redis://app:canary@h:1".into());
        let shown = format!("{connection:?}");
        assert!(shown.contains("app:****@h:1"), "{shown}");
    }
}
