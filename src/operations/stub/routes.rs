//! The HTTP routes of the stub.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State as Shared},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{json, value::RawValue};

use super::{
    faults::Faults,
    journal::{Accepted, Journal},
    record::{MAX_KEY, Posted, Stored},
    segment::Piece,
};
use crate::{sinks::http::SYSTEM, time::clock::now_us};

/// State that all requests share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) journal: Mutex<Journal>,
    pub(super) faults: RwLock<Faults>,
}

/// Maximum size of an event, in bytes.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// Maximum number of listed events.
const MAX_LIMIT: usize = 1_000;

/// Default number of listed events.
const DEFAULT_LIMIT: usize = 100;

/// Maximum size of the listed events, in bytes.
const MAX_LIST: u64 = 8 * 1024 * 1024;

pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/ping", get(async || "Ok."))
        .route("/events", post(accept).get(list))
        .route("/faults", get(faults).put(set_faults))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

async fn accept(Shared(state): Shared<Arc<State>>, headers: HeaderMap, body: Bytes) -> Response {
    let (delay, failure, retry_after) = {
        let faults = state.faults.read().unwrap_or_else(PoisonError::into_inner);
        let failure = faults.failure(rand::random());
        (faults.delay(), failure, faults.retry_after_seconds)
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if let Some(status) = failure {
        return fail(status, retry_after);
    }
    let key = headers.get("idempotency-key").map(|key| key.to_str());
    let Some(Ok(key)) = key.filter(|key| {
        key.as_ref()
            .is_ok_and(|key| (1..=MAX_KEY).contains(&key.len()))
    }) else {
        let reason = "an Idempotency-Key of 1 to 255 visible characters is required";
        return refuse(StatusCode::BAD_REQUEST, reason);
    };
    if serde_json::from_slice::<IgnoredAny>(&body).is_err() || std::str::from_utf8(&body).is_err() {
        return refuse(StatusCode::BAD_REQUEST, "the body is not a JSON document");
    }
    let posted = Posted::new(key, &body, now_us());
    // A write into the page cache takes less time than a switch to another thread.
    let accepted = journal(&state).accept(&posted);
    match accepted {
        Ok(Accepted::New) => answer(StatusCode::CREATED, r#"{"status":"accepted"}"#),
        Ok(Accepted::Duplicate) => answer(StatusCode::OK, r#"{"status":"duplicate"}"#),
        Ok(Accepted::Conflict) => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "this Idempotency-Key was used before with another body",
        ),
        Err(error) => {
            let reason = format!("cannot store the event: {error}");
            refuse(StatusCode::INSUFFICIENT_STORAGE, &reason)
        }
    }
}

/// Parameters of a list. Other parameters are ignored, because a client may send a token.
#[derive(Debug, Deserialize)]
struct ListParameters {
    limit: Option<usize>,
    /// Lists events after this position in the order of acceptance, oldest first.
    after: Option<u64>,
    /// Lists only the event with this key.
    key: Option<String>,
    /// Whether to include the bodies.
    #[serde(default = "yes")]
    bodies: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Serialize)]
struct List {
    system: &'static str,
    format: u16,
    /// Number of kept events.
    total: u64,
    /// Time by which all removed events were received. Null if no event was removed.
    forgotten_until_us: Option<i64>,
    /// Value of `after` for the next list. Null at the end.
    next: Option<u64>,
    events: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    seq: u64,
    key: String,
    received_us: i64,
    sha256: String,
    body: Option<Box<RawValue>>,
}

async fn list(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Query<ListParameters>,
) -> Response {
    let limit = parameters.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let (total, last_kept, forgotten_until_us, pieces) = {
        let journal = journal(&state);
        let pieces = match (&parameters.key, parameters.after) {
            (Some(key), _) => journal.with_key(key).into_iter().collect(),
            (None, Some(after)) => journal.after(after, limit),
            (None, None) => journal.latest(limit),
        };
        (
            journal.len(),
            journal.last(),
            journal.forgotten_until_us(),
            pieces,
        )
    };
    let is_ascending = parameters.after.is_some();
    let events = tokio::task::spawn_blocking(move || read(&pieces, parameters.bodies)).await;
    match events {
        Ok(Ok(events)) => {
            let last = events.last().map(|event| event.seq);
            let next = last.filter(|last| is_ascending && *last < last_kept);
            Json(List {
                system: SYSTEM,
                format: 1,
                total,
                forgotten_until_us,
                next,
                events,
            })
            .into_response()
        }
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Reads the events up to the maximum size of a list, but at least one.
fn read(pieces: &[Piece], bodies: bool) -> std::io::Result<Vec<Listed>> {
    let mut size = 0;
    let mut events = Vec::with_capacity(pieces.len());
    for piece in pieces {
        size += piece.size();
        if bodies && size > MAX_LIST && !events.is_empty() {
            break;
        }
        events.push(listed(piece.read()?, bodies)?);
    }
    Ok(events)
}

fn listed(stored: Stored, bodies: bool) -> std::io::Result<Listed> {
    let body = bodies.then(|| RawValue::from_string(stored.body));
    Ok(Listed {
        seq: stored.seq,
        key: stored.key,
        received_us: stored.received_us,
        sha256: stored.sha256,
        body: body.transpose()?,
    })
}

async fn faults(Shared(state): Shared<Arc<State>>) -> Json<Faults> {
    let faults = state.faults.read().unwrap_or_else(PoisonError::into_inner);
    Json(faults.clone())
}

/// Sets the faults from a JSON body or from the query. Omitted faults are switched off.
async fn set_faults(
    Shared(state): Shared<Arc<State>>,
    Query(query): Query<Faults>,
    body: Bytes,
) -> Response {
    let requested = if body.is_empty() {
        Ok(query)
    } else {
        serde_json::from_slice::<Faults>(&body)
    };
    let faults = match requested {
        Ok(faults) => faults,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if let Err(reason) = faults.check() {
        return refuse(StatusCode::BAD_REQUEST, reason);
    }
    let mut current = state.faults.write().unwrap_or_else(PoisonError::into_inner);
    current.clone_from(&faults);
    Json(faults).into_response()
}

fn fail(status: u16, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = refuse(status, "injected failure");
    if let Some(seconds) = retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn answer(status: StatusCode, body: &'static str) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, body).into_response()
}

fn refuse(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}

fn journal(state: &State) -> MutexGuard<'_, Journal> {
    state.journal.lock().unwrap_or_else(PoisonError::into_inner)
}
