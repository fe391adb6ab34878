//! Reads and changes the address in a setting: a URL, or the `host:port` of a
//! broker.

use percent_encoding::percent_decode_str;
use url::Url;

/// Returns the host and port of an endpoint; for several brokers, those of the
/// first.
#[must_use]
pub fn host_and_port(endpoint: &str) -> Option<(String, u16)> {
    if endpoint.contains("://") {
        let url = Url::parse(endpoint).ok()?;
        let default = match url.scheme() {
            "postgres" | "postgresql" => Some(5432),
            "redis" => Some(6379),
            _ => None,
        };
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        return Some((host, url.port_or_known_default().or(default)?));
    }
    let first = endpoint.split(',').next()?.trim();
    let (host, port) = first.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// Returns the endpoint with another port.
#[must_use]
pub fn with_port(endpoint: &str, port: u16) -> Option<String> {
    if !endpoint.contains("://") {
        let (host, _) = host_and_port(endpoint)?;
        return Some(format!("{host}:{port}"));
    }
    let mut url = Url::parse(endpoint).ok()?;
    url.set_port(Some(port)).ok()?;
    let text = url.to_string();
    // `Url` appends a slash to an empty path.
    if endpoint.ends_with('/') {
        return Some(text);
    }
    Some(text.trim_end_matches('/').to_owned())
}

/// Returns whether a host is a loopback address.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Returns the user, the password and the path of a URL, decoded. The path has
/// no leading slash.
#[must_use]
pub fn credentials(endpoint: &str) -> (String, String, String) {
    let Ok(url) = Url::parse(endpoint) else {
        return <_>::default();
    };
    (
        decode(url.username()),
        decode(url.password().unwrap_or_default()),
        decode(url.path().trim_start_matches('/')),
    )
}

/// Decodes percent encoding: `%40` → `@`.
fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_a_host_and_a_port() {
        let parse = |text| host_and_port(text).expect("an endpoint");
        assert_eq!(
            parse("postgres://app:app@127.0.0.1:5433/app"),
            ("127.0.0.1".to_owned(), 5433)
        );
        assert_eq!(parse("postgres://app@db/app"), ("db".to_owned(), 5432));
        assert_eq!(parse("http://[::1]"), ("::1".to_owned(), 80));
        assert_eq!(parse("a:1,b:2"), ("a".to_owned(), 1));
        assert_eq!(host_and_port("nothing"), None);
    }

    #[test]
    fn only_the_port_changes() {
        let change = |text| with_port(text, 9).expect("an endpoint");
        assert_eq!(
            change("postgres://app:app@127.0.0.1:5432/app"),
            "postgres://app:app@127.0.0.1:9/app"
        );
        assert_eq!(change("http://127.0.0.1:9464"), "http://127.0.0.1:9");
        assert_eq!(
            change("redis://:pw@127.0.0.1:6379"),
            "redis://:pw@127.0.0.1:9"
        );
        assert_eq!(change("127.0.0.1:19092"), "127.0.0.1:9");
    }

    #[test]
    fn credentials_are_decoded() {
        let (user, password, path) = credentials("postgres://a%40b:p%2Fw%@h:1/db");
        assert_eq!(
            (user.as_str(), password.as_str(), path.as_str()),
            ("a@b", "p/w%", "db")
        );
    }
}
