//! Where an engine is, and how it is talked to: a socket, plain TCP, or TCP
//! under TLS. Under TLS the engine has to show a certificate by the authority
//! in `ca.pem`, or by one that the system trusts, and is shown `cert.pem`.

use std::path::{Path, PathBuf};

use bollard::{API_DEFAULT_VERSION, Docker};

use super::error::DockerError;

/// How long one question may take; a stop takes as long as the container does.
const TIMEOUT_SECONDS: u64 = 180;

/// The address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `unix:///var/run/docker.sock`, `tcp://127.0.0.1:2376`.
    pub host: String,
    /// The folder of `ca.pem`, `cert.pem` and `key.pem` where TCP is under TLS.
    pub certificates: Option<PathBuf>,
}

impl Address {
    /// A client of the engine there. Nothing is asked yet.
    pub(super) fn open(&self) -> Result<Docker, DockerError> {
        let host = &self.host;
        let unusable = |why| DockerError::Address {
            host: host.clone(),
            why,
        };
        let scheme = host.split_once("://").map(|(scheme, _)| scheme);
        let opened = match (scheme, &self.certificates) {
            (Some("unix"), _) => {
                Docker::connect_with_unix(host, TIMEOUT_SECONDS, API_DEFAULT_VERSION)
            }
            (Some("tcp" | "https"), Some(folder)) => {
                check(folder)?;
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
                    reason: "it is under TLS, and no certificates are named".to_owned(),
                });
            }
            (Some("ssh"), _) => {
                return Err(unusable(
                    "the ports of its containers would be that machine's; run fanout there",
                ));
            }
            _ => return Err(unusable("it is neither unix:// nor tcp://")),
        };
        Ok(opened?)
    }

    /// An error of the first question, in words about TLS where it is that.
    pub(super) fn explain(&self, error: DockerError) -> DockerError {
        let said = match &error {
            DockerError::Unreachable { reason } => reason,
            DockerError::Answer { message, .. } => message,
            _ => return error,
        };
        let folder = self.certificates.as_deref().unwrap_or(Path::new("."));
        let [ca, cert, _] = FILES.map(|name| folder.join(name).display().to_string());
        let reason = if said.contains("HTTP request to an HTTPS server") {
            "it is under TLS, and no certificates are named".to_owned()
        } else if said.contains("UnknownIssuer") || said.contains("BadSignature") {
            format!("its certificate is not by the authority in {ca}")
        } else if said.contains("invalid peer certificate") {
            format!("its certificate is not good: {said}")
        } else if said.contains("received fatal alert") {
            format!("it does not take the certificate in {cert}: {said}")
        } else if said.contains("received corrupt message") {
            "it is not under TLS, and certificates are named for it".to_owned()
        } else if self.certificates.is_some() && is_cut_off(said) {
            // An engine that refuses a certificate says so and hangs up; what
            // it says may be lost with the connection.
            format!("it hung up; perhaps it does not take the certificate in {cert}: {said}")
        } else {
            return error;
        };
        DockerError::Tls { reason }
    }
}

/// Whether the connection ended without an answer.
fn is_cut_off(said: &str) -> bool {
    let said = said.to_lowercase();
    [
        "connection reset",
        "broken pipe",
        "connection closed",
        "eof",
    ]
    .iter()
    .any(|ending| said.contains(ending))
}

/// The authority, the client's certificate, and its key.
const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// Whether the files are there: the client crate would go without.
fn check(folder: &Path) -> Result<(), DockerError> {
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
    fn an_address_that_cannot_be_used_says_why() {
        for (host, certificates, why) in [
            ("ssh://me@there", None, "run fanout there"),
            ("https://there:2376", None, "it is under TLS"),
            ("tcp://there:2376", Some("/nowhere"), "/nowhere/ca.pem"),
            ("there", None, "neither unix:// nor tcp://"),
        ] {
            let address = Address {
                host: host.to_owned(),
                certificates: certificates.map(PathBuf::from),
            };
            let error = address.open().expect_err("no such way");
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn what_tls_says_is_put_into_words() {
        let address = Address {
            host: "tcp://there:2376".to_owned(),
            certificates: Some("/certs".into()),
        };
        for (said, expected) in [
            (
                "invalid peer certificate: UnknownIssuer",
                "its certificate is not by the authority in /certs/ca.pem",
            ),
            (
                "received fatal alert: CertificateRequired",
                "it does not take the certificate in /certs/cert.pem: \
                 received fatal alert: CertificateRequired",
            ),
            (
                "received corrupt message of type InvalidContentType",
                "it is not under TLS, and certificates are named for it",
            ),
            (
                "Connection reset by peer (os error 104)",
                "it hung up; perhaps it does not take the certificate in /certs/cert.pem: \
                 Connection reset by peer (os error 104)",
            ),
            ("refused", "the engine does not answer: refused"),
        ] {
            let reason = said.to_owned();
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
