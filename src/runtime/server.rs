//! The pipeline's HTTP server: `/healthz`, `/metrics` and `/status`.
//! [`crate::connections::browser`] decides which requests are accepted.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Reporter;
use super::{
    metrics,
    status::{SinkState, SinkStatus},
};
use crate::connections::browser;

/// Serves until `stop` is cancelled. `names` are the configured host names of the
/// server.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    reporter: Reporter,
    names: Vec<String>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
        .with_state(reporter);
    let router = browser::guard(router, listener.local_addr()?, names);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

/// Returns 503 with the names of the halted sinks, or 200 if none is halted. A
/// degraded sink is healthy, but named on a line of its own.
async fn healthz(State(reporter): State<Reporter>) -> Response {
    let (code, text) = health(&reporter.status().sinks);
    (code, text).into_response()
}

fn health(sinks: &[SinkStatus]) -> (StatusCode, String) {
    let names = |predicate: fn(&SinkStatus) -> bool| {
        let names = sinks.iter().filter(|sink| predicate(sink));
        let names: Vec<&str> = names.map(|sink| sink.name.as_str()).collect();
        names.join(", ")
    };
    let halted = names(|sink| sink.state == SinkState::Halted);
    let degraded = names(|sink| sink.state != SinkState::Halted && sink.degradation.is_some());
    let (code, mut text) = if halted.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("halted: {halted}\n"),
        )
    };
    if !degraded.is_empty() {
        text.push_str(&format!("degraded: {degraded}\n"));
    }
    (code, text)
}

async fn metrics_text(State(reporter): State<Reporter>) -> Response {
    match metrics::render(&reporter) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(reporter): State<Reporter>) -> Response {
    Json(reporter.status()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        runtime::{stats::SinkStats, status::Halt},
        sink_kind::ConsumerGroup,
    };

    #[test]
    fn a_halted_sink_is_unhealthy_and_a_degraded_one_is_named() {
        let halt = || Halt {
            code: "offsets_moved".to_owned(),
            reason: "moved".to_owned(),
            remedy: "fanout status".to_owned(),
        };
        let stats = |group| SinkStats::new(group, "t");
        let (redis, http) = (stats(ConsumerGroup::Board), stats(ConsumerGroup::Http));
        let current = || health(&[redis.status(), http.status()]);
        assert_eq!(current(), (StatusCode::OK, "ok\n".to_owned()));
        redis.set_degradation(0, Some(halt()));
        let text = "ok\ndegraded: redis\n".to_owned();
        assert_eq!(current(), (StatusCode::OK, text));
        http.halt(0, halt());
        let text = "halted: http\ndegraded: redis\n".to_owned();
        assert_eq!(current(), (StatusCode::SERVICE_UNAVAILABLE, text));
        redis.set_degradation(0, None);
        http.unhalt(0);
        assert_eq!(current(), (StatusCode::OK, "ok\n".to_owned()));
    }
}
