//! `/admin/ledger/backup` and `/admin/ledger/erase`: what an administrator does with the ledger as a whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::error::ErrorKind;
use berry_ledger::QueryError;
use bytes::Bytes;
use http::request::Parts;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{AppState, Principal, refusal};
use super::actor;
use crate::app::App;
use crate::audit;
use crate::error::ApiError;
use crate::ledger::Recorder;

/// `POST /admin/ledger/backup`: copies the ledger into a new file of the data directory.
pub(in crate::routes) async fn backup(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    parts: Parts,
) -> Response {
    let made = blocking(&app, Recorder::backup).await;
    let file = made.as_ref().map_or_else(|_| String::new(), |path| path.display().to_string());
    audit::note(&app, actor(&app, &admin, &parts), "ledger.backup", file.clone(), made.is_ok(), Value::Null).await;
    match made {
        Ok(_) => Json(json!({"file": file})).into_response(),
        Err(error) => refusal(&parts, &error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Erase {
    end_user: String,
}

/// `POST /admin/ledger/erase`: forgets a user of a client, by the name or the hash.
pub(in crate::routes) async fn erase(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    parts: Parts,
    body: Bytes,
) -> Response {
    let wanted: Erase = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => {
            let message = format!("{error}; send {{\"end_user\": \"…\"}}");
            return refusal(&parts, &ApiError::new(ErrorKind::InvalidRequest, message).on("end_user"));
        }
    };
    let erased = blocking(&app, move |ledger| ledger.erase(&wanted.end_user)).await;
    // Whom it was about is not noted: that would keep what was to be forgotten.
    let detail = json!({"rows": erased.as_ref().ok()});
    audit::note(&app, actor(&app, &admin, &parts), "ledger.erase", String::new(), erased.is_ok(), detail).await;
    match erased {
        Ok(rows) => Json(json!({"erased_rows": rows})).into_response(),
        Err(error) => refusal(&parts, &error),
    }
}

/// Runs what waits for the disk on a thread of its own.
async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&Recorder) -> Result<T, QueryError> + Send + 'static,
) -> Result<T, ApiError> {
    let (recorder, unavailable) = (Arc::clone(&app.ledger), ErrorKind::LedgerUnavailable);
    if recorder.ledger().is_none() {
        return Err(ApiError::new(unavailable, "There is no ledger; /health says why."));
    }
    let done = tokio::task::spawn_blocking(move || work(&recorder)).await;
    let done = done.map_err(|_| ApiError::new(ErrorKind::Internal, "It failed; the log says more."))?;
    done.map_err(|error| ApiError::new(unavailable, error.to_string()))
}
