//! Protection of fanout's own HTTP servers against requests that a web page of another site
//! makes a browser send. A browser sends such requests with the operator's access to this
//! machine, before the operator sees the page's address.
//!
//! Such a request is recognised in two ways. A page whose owner points the page's name at this
//! machine (DNS rebinding) sends that name as the host. On a loopback address, only loopback
//! names and configured names are served. For any other page, the browser names its origin in
//! `Origin` or `Sec-Fetch-Site`. On other addresses, clients use arbitrary names of the
//! network, so only these headers are checked. No response ever allows another origin.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

/// Address and names that a server serves.
#[derive(Debug)]
struct Served {
    listens_on: IpAddr,
    /// Configured names, in addition to those of the loopback.
    names: Vec<String>,
}

/// Checks requests before every route of the router. `names` are the configured host names of a
/// server on the loopback.
pub fn guard(router: Router, listens_on: SocketAddr, names: Vec<String>) -> Router {
    let served = Arc::new(Served {
        listens_on: listens_on.ip(),
        names,
    });
    router.layer(middleware::from_fn_with_state(served, check))
}

async fn check(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    match served.refusal(request.headers()) {
        Some(reason) => (StatusCode::FORBIDDEN, format!("forbidden: {reason}\n")).into_response(),
        None => next.run(request).await,
    }
}

impl Served {
    /// Returns why a request with these headers is refused, or `None` if it is served.
    fn refusal(&self, headers: &HeaderMap) -> Option<String> {
        let text = |name| {
            let value = headers.get(name)?;
            Some(
                String::from_utf8_lossy(value.as_bytes())
                    .trim()
                    .to_lowercase(),
            )
        };
        let host = text(header::HOST);
        if let Some(host) = &host
            && !self.serves(host_name(host))
        {
            return Some(format!("the host {host:?} is not served here"));
        }
        if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))
            && !matches!(site.as_str(), "same-origin" | "none")
        {
            return Some(format!(
                "requests from other sites are not served (Sec-Fetch-Site: {site})"
            ));
        }
        let own_origin = host.map(|host| format!("http://{host}"));
        let origin = text(header::ORIGIN)?;
        (own_origin.as_ref() != Some(&origin))
            .then(|| format!("requests from the origin {origin:?} are not served"))
    }

    fn serves(&self, name: &str) -> bool {
        !self.listens_on.is_loopback()
            || is_loopback(name)
            || self
                .names
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// Returns the name in a `Host` header: `localhost:9464` → `localhost`, `[::1]:9464` → `::1`.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

fn is_loopback(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(listens_on: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        let served = Served {
            listens_on: listens_on.parse().expect("an address"),
            names: vec!["board.internal".to_owned()],
        };
        let headers = headers.iter().map(|(name, value)| {
            let value = value.parse().expect("a value");
            (header::HeaderName::from_static(name), value)
        });
        served.refusal(&headers.collect())
    }

    #[test]
    fn on_the_loopback_only_loopback_names_are_served() {
        for host in [
            "127.0.0.1:9464",
            "127.9.9.9",
            "localhost:1",
            "LOCALHOST",
            "a.localhost",
            "[::1]:9464",
            "board.internal:9464",
        ] {
            assert_eq!(refusal("127.0.0.1", &[("host", host)]), None, "{host}");
            assert_eq!(refusal("::1", &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example:9464",
            "192.168.0.7",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert!(refusal("127.0.0.1", &[("host", host)]).is_some(), "{host}");
        }
        assert_eq!(refusal("127.0.0.1", &[]), None);
    }

    #[test]
    fn on_other_addresses_any_name_is_served() {
        for host in ["worker-1:9464", "172.18.0.4:9464", "evil.example"] {
            assert_eq!(refusal("0.0.0.0", &[("host", host)]), None, "{host}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused_everywhere() {
        for listens_on in ["127.0.0.1", "0.0.0.0"] {
            let refused = |name, value| {
                let host = ("host", "127.0.0.1:9464");
                refusal(listens_on, &[host, (name, value)]).is_some()
            };
            assert!(refused("origin", "http://evil.example"));
            assert!(refused("origin", "http://127.0.0.1:8081"));
            assert!(refused("origin", "https://127.0.0.1:9464"));
            assert!(refused("origin", "null"));
            assert!(refused("sec-fetch-site", "cross-site"));
            assert!(refused("sec-fetch-site", "same-site"));
            assert!(!refused("origin", "http://127.0.0.1:9464"));
            assert!(!refused("sec-fetch-site", "same-origin"));
            assert!(!refused("sec-fetch-site", "none"));
        }
    }
}
