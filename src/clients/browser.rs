//! Which requests fanout's own HTTP servers answer: none that a web page of
//! another site makes a browser send. A browser sends such requests, with the
//! operator's access to this machine, before anybody sees a page's address.
//!
//! Two things give such a request away. A page under a name whose owner lets
//! it point at this machine (DNS rebinding) asks for that name: on an address
//! of the loopback only names of the loopback, and those that are configured,
//! are served. Any other page is named by the browser, in `Origin` or
//! `Sec-Fetch-Site`. On an address that is not of the loopback, clients come by
//! whatever name the network gives it, so there only the browser's headers are
//! looked at. No response ever allows another origin.

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

/// What a server answers to.
#[derive(Debug)]
struct Served {
    listens_on: IpAddr,
    /// Names besides those of the loopback.
    names: Vec<String>,
}

/// Puts the check before every route. `names` are host names that a server on
/// the loopback is configured to be reached by.
pub fn guarded(router: Router, listens_on: SocketAddr, names: Vec<String>) -> Router {
    let served = Arc::new(Served {
        listens_on: listens_on.ip(),
        names,
    });
    router.layer(middleware::from_fn_with_state(served, check))
}

async fn check(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    match served.refusal(request.headers()) {
        Some(why) => (StatusCode::FORBIDDEN, format!("forbidden: {why}\n")).into_response(),
        None => next.run(request).await,
    }
}

impl Served {
    /// Why a request with these headers is not answered.
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
            && !self.answers_to(host_name(host))
        {
            return Some(format!("the host {host:?} is not served here"));
        }
        if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site"))
            && !matches!(site.as_str(), "same-origin" | "none")
        {
            return Some(format!(
                "requests of other sites are not served (Sec-Fetch-Site: {site})"
            ));
        }
        let own = host.map(|host| format!("http://{host}"));
        let origin = text(header::ORIGIN)?;
        (own.as_ref() != Some(&origin))
            .then(|| format!("requests of the origin {origin:?} are not served"))
    }

    fn answers_to(&self, name: &str) -> bool {
        !self.listens_on.is_loopback()
            || is_loopback(name)
            || self.names.iter().any(|one| one.eq_ignore_ascii_case(name))
    }
}

/// `localhost:9464` → `localhost`, `[::1]:9464` → `::1`.
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
    fn on_the_loopback_only_its_names_are_served() {
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
    fn elsewhere_any_name_is_served() {
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
