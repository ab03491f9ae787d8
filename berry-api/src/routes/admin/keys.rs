//! `/admin/keys`: keys made, listed, given another token and taken back while the server runs; `/admin/audit`: what
//! administrators did.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::error::ErrorKind;
use berry_core::secret::Secret;
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::{AppState, Principal, refusal};
use super::actor;
use crate::app::App;
use crate::audit::{self, ENTRIES_MAX};
use crate::error::ApiError;
use crate::keys::{Grant, Key, KeyError};
use crate::telemetry::format::rfc3339;

/// Longest life of a key: ten years. Without a limit it lives until it is revoked.
const EXPIRES_SECONDS_MAX: u64 = 10 * 366 * 86_400;
/// Entries of the audit that are listed where nothing is said.
const LISTED_DEFAULT: usize = 100;

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    /// Tells tokens apart; no part of the token.
    fingerprint: String,
    created_at: String,
    created_by: &'a str,
    rotated_at: Option<String>,
    expires_at: Option<String>,
    expired: bool,
    #[serde(flatten)]
    grant: &'a Grant,
}

impl<'a> Shown<'a> {
    fn new(key: &'a Key, now: SystemTime) -> Self {
        Self {
            id: key.id(),
            fingerprint: key.fingerprint(),
            created_at: rfc3339(key.created_at()),
            created_by: key.created_by(),
            rotated_at: key.rotated_at().map(rfc3339),
            expires_at: key.expires_at().map(rfc3339),
            expired: key.expires_at().is_some_and(|end| end <= now),
            grant: key.grant(),
        }
    }
}

/// `GET /admin/keys`: all of them, without their tokens.
pub(in crate::routes) async fn list(State(app): AppState) -> Response {
    let (keys, now) = (app.keys.list(), SystemTime::now());
    let shown: Vec<Shown<'_>> = keys.iter().map(|key| Shown::new(key, now)).collect();
    Json(json!({"keys": shown, "timestamp": rfc3339(now)})).into_response()
}

/// `POST /admin/keys`: makes a key; its token is in the answer and nowhere else.
pub(in crate::routes) async fn create(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    parts: Parts,
    body: Bytes,
) -> Response {
    let (grant, lifetime) = match wanted(&body) {
        Ok(wanted) => wanted,
        Err(error) => return refusal(&parts, &error),
    };
    let actor = actor(&app, &admin, &parts);
    let (detail, by) = (json!(grant), actor.user.clone());
    let made = blocking(&app, move |app| app.keys.create(grant, &by, lifetime, SystemTime::now())).await;
    let target = made.as_ref().map(|(key, _)| key.id().to_owned()).unwrap_or_default();
    audit::note(&app, actor, "key.create", target, made.is_ok(), detail).await;
    with_token(&parts, StatusCode::CREATED, made)
}

/// `POST /admin/keys/{id}/rotate`: gives the key another token, at once.
pub(in crate::routes) async fn rotate(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    Path(id): Path<String>,
    parts: Parts,
) -> Response {
    let (actor, named) = (actor(&app, &admin, &parts), id.clone());
    let rotated = blocking(&app, move |app| app.keys.rotate(&named, SystemTime::now())).await;
    audit::note(&app, actor, "key.rotate", id, rotated.is_ok(), Value::Null).await;
    with_token(&parts, StatusCode::OK, rotated)
}

/// `DELETE /admin/keys/{id}`: takes the key back, at once.
pub(in crate::routes) async fn revoke(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    Path(id): Path<String>,
    parts: Parts,
) -> Response {
    let (actor, named) = (actor(&app, &admin, &parts), id.clone());
    let revoked = blocking(&app, move |app| app.keys.revoke(&named)).await;
    audit::note(&app, actor, "key.revoke", id, revoked.is_ok(), Value::Null).await;
    match revoked {
        Ok(key) => Json(json!({"revoked": key.id()})).into_response(),
        Err(error) => refusal(&parts, &error),
    }
}

#[derive(Deserialize)]
pub(in crate::routes) struct Listed {
    limit: Option<usize>,
}

/// `GET /admin/audit`: the newest first.
pub(in crate::routes) async fn audit_list(State(app): AppState, Query(Listed { limit }): Query<Listed>) -> Response {
    let entries = app.audit.list(limit.unwrap_or(LISTED_DEFAULT).min(ENTRIES_MAX));
    Json(json!({"entries": entries, "timestamp": rfc3339(SystemTime::now())})).into_response()
}

/// The posted grant, and how long it is for.
fn wanted(body: &[u8]) -> Result<(Grant, Option<Duration>), ApiError> {
    let told = |error: serde_json::Error| {
        let kind = if error.is_data() { ErrorKind::InvalidRequest } else { ErrorKind::InvalidJson };
        ApiError::new(kind, format!("{error}; send {{\"name\": …}}, and \"expires_in_seconds\" for a key that ends"))
    };
    let mut members: Map<String, Value> = serde_json::from_slice(body).map_err(told)?;
    let lifetime = members.remove("expires_in_seconds").filter(|value| !value.is_null()).map(|value| {
        let seconds = value.as_u64().filter(|seconds| (1..=EXPIRES_SECONDS_MAX).contains(seconds));
        seconds.map(Duration::from_secs).ok_or_else(|| {
            let message = "expires_in_seconds must be a whole number above 0 and at most ten years.";
            ApiError::new(ErrorKind::InvalidRequest, message).on("expires_in_seconds")
        })
    });
    let grant = serde_json::from_value(members.into()).map_err(told)?;
    Ok((grant, lifetime.transpose()?))
}

/// Runs a change on a thread of its own, since it waits for the disk.
async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    change: impl FnOnce(&App) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = Arc::clone(app);
    let changed = tokio::task::spawn_blocking(move || change(&app)).await;
    let changed = changed.map_err(|_| ApiError::new(ErrorKind::Internal, "The change failed; the log says more."))?;
    changed.map_err(|error| {
        let (kind, status) = match error {
            KeyError::Invalid(_) => (ErrorKind::InvalidRequest, None),
            KeyError::Unknown => (ErrorKind::NotFound, None),
            KeyError::TooMany => (ErrorKind::InvalidRequest, Some(StatusCode::CONFLICT)),
            KeyError::NotKept(_) => (ErrorKind::Internal, Some(StatusCode::SERVICE_UNAVAILABLE)),
        };
        ApiError { status, ..ApiError::new(kind, error.to_string()) }
    })
}

fn with_token(parts: &Parts, status: StatusCode, made: Result<(Arc<Key>, Secret), ApiError>) -> Response {
    match made {
        Ok((key, token)) => {
            let body = json!({"token": token.expose(), "key": Shown::new(&key, SystemTime::now())});
            (status, [("cache-control", "no-store")], Json(body)).into_response()
        }
        Err(error) => refusal(parts, &error),
    }
}
