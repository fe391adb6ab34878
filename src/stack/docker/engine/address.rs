//! Address of an engine: a Unix socket, plain TCP, or TCP with TLS. With TLS
//! the engine must present a certificate signed by the authority in `ca.pem`,
//! or by one that the system trusts, and gets `cert.pem` as the client's.

use std::path::{Path, PathBuf};

use bollard::{API_DEFAULT_VERSION, Docker};

use super::error::DockerError;

/// Timeout of a request in seconds. Stopping a container takes as long as the
/// container needs.
const TIMEOUT_SECONDS: u64 = 180;

/// The address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `unix:///var/run/docker.sock`, `tcp://127.0.0.1:2376`.
    pub host: String,
    /// Folder of `ca.pem`, `cert.pem` and `key.pem` for TCP with TLS.
    pub certificates: Option<PathBuf>,
}

impl Address {
    /// Returns a client of the engine, without sending a request.
    pub(super) fn open(&self) -> Result<Docker, DockerError> {
        let host = &self.host;
        let unusable = |reason| DockerError::Address {
            host: host.clone(),
            reason,
        };
        let scheme = host.split_once("://").map(|(scheme, _)| scheme);
        let client = match (scheme, &self.certificates) {
            (Some("unix"), _) => {
                Docker::connect_with_unix(host, TIMEOUT_SECONDS, API_DEFAULT_VERSION)
            }
            (Some("tcp" | "https"), Some(folder)) => {
                check_files(folder)?;
                let [ca, cert, key] = FILES.map(|name| folder.join(name));
                Docker::connect_with_ssl(
                    host,
                    &key,
                    &cert,
                    &ca,
                    TIMEOUT_SECONDS,
                    API_DEFAULT_VERSION,
                )
            }
            (Some("tcp" | "http"), _) => {
                Docker::connect_with_http(host, TIMEOUT_SECONDS, API_DEFAULT_VERSION)
            }
            (Some("https"), None) => {
                return Err(DockerError::Tls {
                    reason: "it requires TLS, but no certificates are configured".to_owned(),
                });
            }
            (Some("ssh"), _) => {
                return Err(unusable(
                    "its containers would publish their ports on that machine; run fanout there",
                ));
            }
            _ => return Err(unusable("it must start with unix:// or tcp://")),
        };
        Ok(client?)
    }

    /// Replaces an error of the first request by a clear TLS error, if it is
    /// one.
    pub(super) fn explain(&self, error: DockerError) -> DockerError {
        let message = match &error {
            DockerError::Unreachable { reason } => reason,
            DockerError::Answer { message, .. } => message,
            _ => return error,
        };
        let folder = self.certificates.as_deref().unwrap_or(Path::new("."));
        let [ca, cert, _] = FILES.map(|name| folder.join(name).display().to_string());
        let reason = if message.contains("HTTP request to an HTTPS server") {
            "it requires TLS, but no certificates are configured".to_owned()
        } else if message.contains("UnknownIssuer") || message.contains("BadSignature") {
            format!("its certificate is not signed by the authority in {ca}")
        } else if message.contains("invalid peer certificate") {
            format!("its certificate is invalid: {message}")
        } else if message.contains("received fatal alert") {
            format!("it rejects the certificate in {cert}: {message}")
        } else if message.contains("received corrupt message") {
            "it does not use TLS, but certificates are configured for it".to_owned()
        } else if self.certificates.is_some() && is_closed(message) {
            // An engine that rejects a certificate sends an alert and closes
            // the connection; the alert may be lost.
            format!(
                "it closed the connection, perhaps because it rejects the certificate in \
                 {cert}: {message}"
            )
        } else {
            return error;
        };
        DockerError::Tls { reason }
    }
}

/// Returns whether the connection was closed without a response.
fn is_closed(message: &str) -> bool {
    let message = message.to_lowercase();
    [
        "connection reset",
        "broken pipe",
        "connection closed",
        "eof",
    ]
    .iter()
    .any(|ending| message.contains(ending))
}

/// File names of the authority, the client's certificate, and its key.
const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// Checks that the files are readable, because the client crate would silently
/// connect without them.
fn check_files(folder: &Path) -> Result<(), DockerError> {
    for name in FILES {
        let path = folder.join(name);
        if let Err(error) = std::fs::File::open(&path) {
            return Err(DockerError::Tls {
                reason: format!("{} cannot be read: {error}", path.display()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusable_address_is_rejected_with_the_reason() {
        for (host, certificates, expected) in [
            ("ssh://me@there", None, "run fanout there"),
            ("https://there:2376", None, "it requires TLS"),
            ("tcp://there:2376", Some("/nowhere"), "/nowhere/ca.pem"),
            ("there", None, "unix:// or tcp://"),
        ] {
            let address = Address {
                host: host.to_owned(),
                certificates: certificates.map(PathBuf::from),
            };
            let error = address.open().expect_err("an unusable address");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn tls_errors_are_explained() {
        let address = Address {
            host: "tcp://there:2376".to_owned(),
            certificates: Some("/certs".into()),
        };
        for (message, expected) in [
            (
                "invalid peer certificate: UnknownIssuer",
                "its certificate is not signed by the authority in /certs/ca.pem",
            ),
            (
                "received fatal alert: CertificateRequired",
                "it rejects the certificate in /certs/cert.pem: \
                 received fatal alert: CertificateRequired",
            ),
            (
                "received corrupt message of type InvalidContentType",
                "it does not use TLS, but certificates are configured for it",
            ),
            (
                "Connection reset by peer (os error 104)",
                "it closed the connection, perhaps because it rejects the certificate in \
                 /certs/cert.pem: \
                 Connection reset by peer (os error 104)",
            ),
            ("refused", "the container engine is unreachable: refused"),
        ] {
            let reason = message.to_owned();
            let error = address.explain(DockerError::Unreachable { reason });
            assert_eq!(error.to_string(), expected);
        }
        let plain = Address {
            certificates: None,
            ..address
        };
        let reason = "Connection reset by peer".to_owned();
        let error = plain.explain(DockerError::Unreachable { reason });
        assert!(matches!(error, DockerError::Unreachable { .. }), "{error}");
    }
}
