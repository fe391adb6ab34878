//! The pipeline's own HTTP: `/healthz`, `/metrics`, `/status`. Which requests it
//! answers at all is [`crate::clients::browser`]'s business.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Reporter, metrics, status::SinkState};
use crate::clients::browser;

/// Serves until `stop`. `names` are the host names that it is configured to be
/// reached by.
///
/// # Errors
/// When the listener breaks.
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
    let router = browser::guarded(router, listener.local_addr()?, names);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

/// 200 while no sink is halted, 503 with the names of those that are.
async fn healthz(State(reporter): State<Reporter>) -> Response {
    let status = reporter.status();
    let halted: Vec<String> = status
        .sinks
        .iter()
        .filter(|sink| sink.state == SinkState::Halted)
        .map(|sink| sink.name.clone())
        .collect();
    if halted.is_empty() {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        let text = format!("halted: {}\n", halted.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics_text(State(reporter): State<Reporter>) -> Response {
    match metrics::render(&reporter) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(reporter): State<Reporter>) -> Response {
    Json(reporter.status()).into_response()
}
