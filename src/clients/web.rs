//! Plain HTTP, by reqwest: probes, Kafka Connect's REST, the external system.
//!
//! No client goes through a proxy, whatever `HTTP_PROXY` and its like say: the
//! environment of a command must not decide what it talks to, and the clients
//! of Kafka, Postgres, Redis and ClickHouse know no proxies either.

use std::time::Duration;

pub use reqwest::Method;
use serde_json::Value as Json;

use super::{Auth, Connection, Tls};
use crate::secret::{Redactor, SecretUrl};

/// The most of an answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why a request did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// Never with its URL, which may hold a secret.
    #[error("{0}")]
    Request(reqwest::Error),
    #[error("`{url}` is no URL: {reason}")]
    Url { url: SecretUrl, reason: String },
    #[error("GET {url} answered {status}")]
    Status { url: SecretUrl, status: u16 },
    #[error("GET {url} answered {got:?} where {expected:?} was expected")]
    Body {
        url: SecretUrl,
        expected: String,
        got: String,
    },
    #[error("{url} answered with more than {} MiB", MAX_ANSWER >> 20)]
    TooLong { url: SecretUrl },
}

impl From<reqwest::Error> for WebError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }
}

impl WebError {
    /// Nothing listens there (yet), or it does not answer in time: the same
    /// request may do later.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Request(error)
            if error.is_connect() || error.is_timeout() || error.is_request())
    }
}

/// Whether the server refuses who is asking.
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

/// A server that is asked over HTTP. Nothing is sent before a client that it
/// makes is asked something.
#[derive(Debug, Clone)]
pub struct WebServer(Connection);

impl WebServer {
    /// The server of this connection, at the path of its URL.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &SecretUrl {
        let Connection {
            url,
            tls: Tls::ByScheme,
            auth: Auth::InUrl,
        } = &self.0;
        url
    }

    /// A client whose every request ends within `timeout`.
    ///
    /// # Errors
    /// When the system's TLS cannot be set up.
    pub fn client(&self, timeout: Duration) -> Result<Web, WebError> {
        Ok(Web {
            client: client(timeout)?,
            base: self.url().clone(),
        })
    }

    /// Posts to this very URL, over at most so many idle connections.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn poster(&self, timeout: Duration, connections: usize) -> Result<Poster, WebError> {
        Poster::new(self.url().clone(), timeout, connections)
    }

    /// GETs this very URL; the answer has to be 2xx and, where `expected` says
    /// so, this very text (surrounding blanks aside).
    ///
    /// # Errors
    /// When nothing answers within `timeout`, or the answer is another.
    pub async fn ping(&self, expected: Option<&str>, timeout: Duration) -> Result<(), WebError> {
        ping(self.url(), expected, timeout).await
    }
}

/// A client of one server that keeps its connections.
#[derive(Debug, Clone)]
pub struct Web {
    client: reqwest::Client,
    base: SecretUrl,
}

/// What a server said, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON, null where it is none.
    #[must_use]
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Web {
    /// Where the server is.
    #[must_use]
    pub fn base(&self) -> &SecretUrl {
        &self.base
    }

    /// Sends a request to a path below the server's URL, with a JSON body where
    /// there is one.
    ///
    /// # Errors
    /// When no response arrives. Any HTTP status counts as a response.
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
            if body.len() + chunk.len() > MAX_ANSWER {
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

/// The body, up to `limit` bytes. A body that breaks off before that is an
/// error: half a response proves nothing about the server behind it.
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

/// What all clients have in common.
fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().timeout(timeout)
}

fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    built(|| builder(timeout))
}

/// A machine may have no certificates to check HTTPS against, or
/// `SSL_CERT_FILE` name none. HTTP needs none, and HTTPS trusts nobody then.
fn built(builder: impl Fn() -> reqwest::ClientBuilder) -> Result<reqwest::Client, reqwest::Error> {
    let without = || builder().tls_certs_only([]).build();
    builder().build().or_else(|_| without())
}

/// Replies are read up to this, in bytes. The rest of a longer one is not waited
/// for: a reply that breaks off only after this much counts as complete.
const MAX_REPLY: usize = 64 * 1024;

/// What was answered to a POST.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// The header of that name, as sent.
    pub retry_after: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The beginning of the reply, on one line and safe to show.
    pub fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let line: String = text.chars().take(200).collect();
        crate::escape::escape(line.trim()).into_owned()
    }
}

/// Posts JSON documents to one URL. Redirects are not followed.
#[derive(Debug)]
pub struct Poster {
    client: reqwest::Client,
    url: SecretUrl,
    parsed: reqwest::Url,
    /// A reply may repeat what was sent.
    redactor: Redactor,
}

impl Poster {
    fn new(url: SecretUrl, timeout: Duration, connections: usize) -> Result<Self, WebError> {
        let parsed = reqwest::Url::parse(url.reveal()).map_err(|error| WebError::Url {
            url: url.clone(),
            reason: error.to_string(),
        })?;
        let client = built(|| {
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

    /// Where it posts to.
    pub fn url(&self) -> &SecretUrl {
        &self.url
    }

    /// Posts a document under a key.
    ///
    /// # Errors
    /// When no complete reply arrives in time, whatever its status says: one
    /// that breaks off within the first 64 KiB may not be the server's last word.
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

    /// What is left of an answer after these bytes.
    #[derive(Debug, Clone, Copy)]
    enum Then {
        Close,
        Reset,
        Hang,
    }

    /// A server that answers every request with these bytes.
    async fn serve(answer: Vec<u8>, then: Then) -> SecretUrl {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut hanging = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                match then {
                    Then::Close => drop(stream),
                    Then::Reset => {
                        let _ = stream.set_zero_linger();
                    }
                    Then::Hang => hanging.push(stream),
                }
            }
        });
        format!("http://{address}/").into()
    }

    fn whole(status: u16, body: &[u8]) -> Vec<u8> {
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
            for then in [Then::Close, Then::Reset, Then::Hang] {
                let url = serve(answer.to_vec(), then).await;
                let timeout = Duration::from_millis(100);
                let said = String::from_utf8_lossy(answer);
                let poster = Poster::new(url.clone(), timeout, 1).expect("a url");
                let posted = poster.post("key", bytes::Bytes::new()).await;
                assert!(posted.is_err(), "{then:?} {said:?}: {posted:?}");
                let server = WebServer::new(Connection::new(url));
                let web = server.client(timeout).expect("a client");
                let got = web.send(Method::GET, "", None).await;
                assert!(got.is_err(), "{then:?} {said:?}: {got:?}");
                let pinged = server.ping(None, timeout).await;
                assert!(pinged.is_err(), "{then:?} {said:?}");
            }
        }
    }

    /// Without a length only a reset tells.
    #[tokio::test]
    async fn a_response_without_a_length_that_is_reset_is_an_error() {
        let url = serve(b"HTTP/1.1 200 OK\r\n\r\nhalf".to_vec(), Then::Reset).await;
        let poster = Poster::new(url.clone(), Duration::from_secs(5), 1).expect("a url");
        let posted = poster.post("key", bytes::Bytes::new()).await;
        assert!(posted.is_err(), "{posted:?}");
    }

    #[tokio::test]
    async fn the_rest_of_a_long_reply_is_not_waited_for() {
        let long = vec![b'x'; 2 * MAX_REPLY];
        let url = serve(whole(201, &long), Then::Hang).await;
        let poster = Poster::new(url.clone(), Duration::from_secs(5), 1).expect("a url");
        let reply = poster.post("key", bytes::Bytes::new()).await;
        let reply = reply.expect("an answer");
        assert_eq!((reply.status, reply.body.len()), (201, MAX_REPLY));
    }
}
