//! Plain HTTP, through reqwest: probes, the REST API of Kafka Connect, the external system.
//!
//! No client uses a proxy, whatever `HTTP_PROXY` and similar variables contain: the environment
//! of a command must not decide which server it talks to, and the clients of Kafka, Postgres,
//! Redis and ClickHouse do not support proxies either.

use std::time::Duration;

pub use reqwest::Method;
use serde_json::Value as Json;

use super::{Auth, Connection, Tls};
use crate::secret::{Redactor, SecretUrl};

/// Maximum size of a response, in bytes.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// Error of an HTTP request.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Never includes the URL, which may contain a secret.
    #[error("{0}")]
    Request(reqwest::Error),
    #[error("invalid URL `{url}`: {reason}")]
    Url { url: SecretUrl, reason: String },
    #[error("GET {url} returned status {status}")]
    Status { url: SecretUrl, status: u16 },
    #[error("GET {url} returned {got:?}, expected {expected:?}")]
    Body {
        url: SecretUrl,
        expected: String,
        got: String,
    },
    #[error("the response from {url} exceeds {} MiB", MAX_RESPONSE >> 20)]
    TooLong { url: SecretUrl },
}

impl From<reqwest::Error> for WebError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }
}

impl WebError {
    /// Returns true if no server listens there (yet) or it did not respond in time, so that the
    /// same request may succeed later.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Request(error)
            if error.is_connect() || error.is_timeout() || error.is_request())
    }
}

/// Returns true if the server refuses the credentials.
#[must_use]
pub fn is_denied(error: &WebError) -> bool {
    matches!(
        error,
        WebError::Status {
            status: 401 | 403,
            ..
        }
    )
}

/// An HTTP server. Nothing is sent until one of its clients makes a request.
#[derive(Debug, Clone)]
pub struct WebServer(Connection);

impl WebServer {
    /// Returns the server of this connection, at the path of its URL.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Returns the server's URL.
    #[must_use]
    pub fn url(&self) -> &SecretUrl {
        let Connection {
            url,
            tls: Tls::ByScheme,
            auth: Auth::InUrl,
        } = &self.0;
        url
    }

    /// Returns a client whose requests all end within `timeout`.
    ///
    /// # Errors
    /// If the system's TLS cannot be set up.
    pub fn client(&self, timeout: Duration) -> Result<Web, WebError> {
        Ok(Web {
            client: client(timeout)?,
            base: self.url().clone(),
        })
    }

    /// Returns a client that posts to exactly this URL, with at most `connections` idle
    /// connections.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn poster(&self, timeout: Duration, connections: usize) -> Result<Poster, WebError> {
        Poster::new(self.url().clone(), timeout, connections)
    }

    /// Sends a GET to exactly this URL. The status must be 2xx, and the body must be
    /// `expected`, if given (surrounding blanks are ignored).
    ///
    /// # Errors
    /// If no response arrives within `timeout`, or the response is not as expected.
    pub async fn ping(&self, expected: Option<&str>, timeout: Duration) -> Result<(), WebError> {
        ping(self.url(), expected, timeout).await
    }
}

/// A client of one server that keeps its connections open.
#[derive(Debug, Clone)]
pub struct Web {
    client: reqwest::Client,
    base: SecretUrl,
}

/// A server's response with any status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// Returns true for status 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns the body as JSON, or null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Web {
    /// Returns the server's URL.
    #[must_use]
    pub fn base(&self) -> &SecretUrl {
        &self.base
    }

    /// Sends a request to a path below the server's URL, with an optional JSON body.
    ///
    /// # Errors
    /// If no response arrives. Any HTTP status counts as a response.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Answer, WebError> {
        let url = self.base.join(path);
        let mut request = self.client.request(method, url.reveal());
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_RESPONSE {
                return Err(WebError::TooLong { url });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

/// Reads the body, up to `limit` bytes. A body that breaks off earlier is an error, because a
/// partial response proves nothing about the server behind it.
async fn read_up_to(
    limit: usize,
    response: &mut reqwest::Response,
) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() < limit {
        match response.chunk().await? {
            Some(chunk) => body.extend_from_slice(&chunk),
            None => break,
        }
    }
    body.truncate(limit);
    Ok(body)
}

async fn ping(url: &SecretUrl, expected: Option<&str>, timeout: Duration) -> Result<(), WebError> {
    let client = client(timeout)?;
    let mut response = client.get(url.reveal()).send().await?;
    if !response.status().is_success() {
        return Err(WebError::Status {
            url: url.clone(),
            status: response.status().as_u16(),
        });
    }
    let body = read_up_to(MAX_REPLY, &mut response).await?;
    let Some(expected) = expected else {
        return Ok(());
    };
    let got = String::from_utf8_lossy(&body);
    if got.trim() == expected {
        return Ok(());
    }
    let got: String = got.chars().take(80).collect();
    Err(WebError::Body {
        url: url.clone(),
        expected: expected.to_owned(),
        got: Redactor::new(url.secrets()).redact(&got).into_owned(),
    })
}

/// Returns the configuration that all clients share.
fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().timeout(timeout)
}

fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    build(|| builder(timeout))
}

/// Builds a client, falling back to one without certificates. A machine may have no root
/// certificates, or `SSL_CERT_FILE` may name none. HTTP needs none, and HTTPS then trusts no
/// server.
fn build(builder: impl Fn() -> reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    let build_without_certificates = || builder().tls_certs_only([]).build();
    builder().build().or_else(|_| build_without_certificates())
}

/// Replies are read up to this size, in bytes. The rest of a longer reply is ignored, so a
/// reply that breaks off only after this size counts as complete.
const MAX_REPLY: usize = 64 * 1024;

/// The reply to a POST.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// The `Retry-After` header, as sent.
    pub retry_after: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Returns the beginning of the reply on one line, safe to display.
    pub fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line: String = text.chars().take(200).collect();
        crate::text::escape::escape(line.trim()).into_owned()
    }
}

/// Posts JSON documents to one URL. Does not follow redirects.
#[derive(Debug)]
pub struct Poster {
    client: reqwest::Client,
    url: SecretUrl,
    parsed: reqwest::Url,
    /// Removes the URL's secrets from replies, because a reply may repeat the request.
    redactor: Redactor,
}

impl Poster {
    fn new(url: SecretUrl, timeout: Duration, connections: usize) -> Result<Self, WebError> {
        let parsed = reqwest::Url::parse(url.reveal()).map_err(|error| WebError::Url {
            url: url.clone(),
            reason: error.to_string(),
        })?;
        let client = build(|| {
            builder(timeout)
                .connect_timeout(timeout.min(Duration::from_secs(5)))
                .pool_max_idle_per_host(connections)
                .redirect(reqwest::redirect::Policy::none())
                .tcp_nodelay(true)
                .user_agent(concat!("fanout/", env!("CARGO_PKG_VERSION")))
        })?;
        Ok(Self {
            client,
            parsed,
            redactor: Redactor::new(url.secrets()),
            url,
        })
    }

    /// Returns the URL to which documents are posted.
    pub fn url(&self) -> &SecretUrl {
        &self.url
    }

    /// Posts a document with an idempotency key.
    ///
    /// # Errors
    /// If no complete reply arrives in time, whatever its status. A reply that breaks off
    /// within the first 64 KiB may not be the server's final one.
    pub async fn post(&self, key: &str, body: bytes::Bytes) -> Result<Reply, WebError> {
        let mut response = self
            .client
            .post(self.parsed.clone())
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", key)
            .body(body)
            .send()
            .await?;
        let status = response.status().as_u16();
        let header = response.headers().get("Retry-After");
        let retry_after = header.and_then(|value| value.to_str().ok().map(str::to_owned));
        let reply = read_up_to(MAX_REPLY, &mut response).await?;
        let text = String::from_utf8_lossy(&reply);
        Ok(Reply {
            status,
            retry_after,
            body: self.redactor.redact(&text).into_owned().into_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Behaviour of the server after it has sent its bytes.
    #[derive(Debug, Clone, Copy)]
    enum Ending {
        Close,
        Reset,
        Hang,
    }

    /// Starts a server that sends these bytes in response to every request.
    async fn serve(answer: Vec<u8>, ending: Ending) -> SecretUrl {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut open_streams = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                match ending {
                    Ending::Close => drop(stream),
                    Ending::Reset => {
                        let _ = stream.set_zero_linger();
                    }
                    Ending::Hang => open_streams.push(stream),
                }
            }
        });
        format!("http://{address}/").into()
    }

    fn complete_response(status: u16, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status} -\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    #[tokio::test]
    async fn a_response_that_breaks_off_is_an_error() {
        let cut: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
        ];
        for answer in cut {
            for ending in [Ending::Close, Ending::Reset, Ending::Hang] {
                let url = serve(answer.to_vec(), ending).await;
                let timeout = Duration::from_millis(100);
                let sent = String::from_utf8_lossy(answer);
                let poster = Poster::new(url.clone(), timeout, 1).expect("a url");
                let posted = poster.post("key", bytes::Bytes::new()).await;
                assert!(posted.is_err(), "{ending:?} {sent:?}: {posted:?}");
                let server = WebServer::new(Connection::new(url));
                let web = server.client(timeout).expect("a client");
                let got = web.send(Method::GET, "", None).await;
                assert!(got.is_err(), "{ending:?} {sent:?}: {got:?}");
                let pinged = server.ping(None, timeout).await;
                assert!(pinged.is_err(), "{ending:?} {sent:?}");
            }
        }
    }

    /// Without a length, only a reset shows that the response is incomplete.
    #[tokio::test]
    async fn a_response_without_a_length_that_is_reset_is_an_error() {
        let url = serve(b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec(), Ending::Reset).await;
        let poster = Poster::new(url.clone(), Duration::from_secs(5), 1).expect("a url");
        let posted = poster.post("key", bytes::Bytes::new()).await;
        assert!(posted.is_err(), "{posted:?}");
    }

    #[tokio::test]
    async fn the_rest_of_a_long_reply_is_ignored() {
        let long = vec![b'x'; 2 * MAX_REPLY];
        let url = serve(complete_response(201, &long), Ending::Hang).await;
        let poster = Poster::new(url.clone(), Duration::from_secs(5), 1).expect("a url");
        let reply = poster.post("key", bytes::Bytes::new()).await;
        let reply = reply.expect("a reply");
        assert_eq!((reply.status, reply.body.len()), (201, MAX_REPLY));
    }
}
