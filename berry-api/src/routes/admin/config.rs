//! `/admin/config` and what belongs to it: what is in force, what was, what a text would change, reload and rollback.
//!
//! Secrets are hidden in all of it. With `mask_api_keys = false` the page of the running configuration, and nothing else, shows
//! the ends of providers' keys.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::config::snapshot::Snapshot;
use berry_core::config::{Diff, LoadError, Report, Severity, Summary};
use berry_core::error::ErrorKind;
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::{AppState, Principal, refusal};
use super::actor;
use crate::app::App;
use crate::audit::{self, Actor};
use crate::error::ApiError;
use crate::reload::{self, Cause, Generation, ReloadError, Reloaded, yielding};
use crate::telemetry::format::rfc3339;

#[derive(Serialize)]
struct Shown {
    generation: u64,
    hash: String,
    loaded_at: Option<String>,
    cause: Option<String>,
    file: Option<String>,
    config: Value,
    /// The last reload, where it failed and the old configuration stayed.
    last_failure: Option<Failed>,
    timestamp: String,
}

#[derive(Serialize)]
struct Failed {
    at: String,
    cause: String,
    error: String,
}

#[derive(Serialize)]
struct Past {
    generation: u64,
    loaded_at: String,
    cause: String,
    hash: String,
    counts: Counts,
    can_roll_back: bool,
    #[serde(flatten)]
    diff: Diff,
}

#[derive(Serialize)]
struct Counts {
    providers: usize,
    models: usize,
    users: usize,
    backends: usize,
}

impl From<Summary> for Counts {
    fn from(Summary { providers, models, users, backends }: Summary) -> Self {
        Self { providers, models, users, backends }
    }
}

impl From<Generation> for Past {
    fn from(generation: Generation) -> Self {
        let can_roll_back = generation.is_kept();
        let Generation { number, at, cause, hash, summary, diff, .. } = generation;
        let (loaded_at, cause) = (rfc3339(at), cause.to_string());
        Self { generation: number, loaded_at, cause, hash, counts: summary.into(), can_roll_back, diff }
    }
}

/// `GET /admin/config`.
pub(in crate::routes) async fn running(State(app): AppState) -> Response {
    let (outline, runtime) = (app.generations.outline(), app.runtime());
    let newest = app.generations.list().into_iter().next();
    let mut config = outline.tree().clone();
    if !runtime.snapshot.settings.mask_api_keys {
        show_ends_of_keys(&mut config, &runtime.snapshot);
    }
    Json(Shown {
        generation: app.generations.number(),
        hash: outline.hash().to_owned(),
        loaded_at: newest.as_ref().map(|generation| rfc3339(generation.at)),
        cause: newest.map(|generation| generation.cause.to_string()),
        file: app.config_file.get().map(|path| path.display().to_string()),
        config,
        last_failure: app.generations.failure().map(|failure| Failed {
            at: rfc3339(failure.at),
            cause: failure.cause.to_string(),
            error: failure.error,
        }),
        timestamp: rfc3339(SystemTime::now()),
    })
    .into_response()
}

fn show_ends_of_keys(config: &mut Value, snapshot: &Snapshot) {
    for (id, provider) in &snapshot.providers {
        let key =
            config.pointer_mut("/providers").and_then(|providers| providers.get_mut(id.as_str())?.get_mut("api_key"));
        if let Some(key) = key {
            *key = Value::from(provider.api_key.hint());
        }
    }
}

/// `GET /admin/config/history`: the newest first.
pub(in crate::routes) async fn history(State(app): AppState) -> Response {
    let generations: Vec<Past> = app.generations.list().into_iter().map(Past::from).collect();
    let failures = app.generations.failures();
    Json(json!({"generations": generations, "failed_reloads": failures, "timestamp": rfc3339(SystemTime::now())}))
        .into_response()
}

/// `POST /admin/config/validate` with a configuration as the body: its problems, and what it would change.
pub(in crate::routes) async fn validate(State(app): AppState, body: String) -> Response {
    let checked = yielding::run(move || reload::validate(&app, &body)).await;
    match checked {
        Some(Ok(checked)) => Json(json!({
            "valid": true,
            "problems": problems_with(&checked),
            "counts": Counts::from(checked.summary),
            "changes": checked.diff.changes,
            "left_out": checked.diff.left_out,
        }))
        .into_response(),
        Some(Err(error)) => Json(json!({"valid": false, "problems": problems_of(&error)})).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// `POST /admin/reload-config`: 200 with the counts and the changes; 400 with every problem and its place; 409 where the server
/// runs without a file.
pub(in crate::routes) async fn reload_config(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    parts: Parts,
) -> Response {
    let Some(path) = app.config_file.get().cloned() else {
        let body = json!({"reloaded": false, "error": "this server was started without a configuration file"});
        return (StatusCode::CONFLICT, Json(body)).into_response();
    };
    let config = path.display().to_string();
    let actor = actor(&app, &admin, &parts);
    let response = answer(&app, config, move |app| reload::reload(app, &path, Cause::Admin(admin.id.clone()))).await;
    note(&app, actor, "config.reload", response.status().is_success()).await;
    response
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    generation: u64,
}

/// `POST /admin/config/rollback` with `{"generation": N}`.
pub(in crate::routes) async fn roll_back(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    parts: Parts,
    body: Bytes,
) -> Response {
    let Wanted { generation } = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => {
            let error = ApiError::new(ErrorKind::InvalidRequest, format!("{error}; send {{\"generation\": NUMBER}}"));
            return refusal(&parts, &error);
        }
    };
    let cause = Cause::Rollback { by: admin.id.clone(), generation };
    let actor = actor(&app, &admin, &parts);
    let config = format!("generation {generation}");
    let response = answer(&app, config, move |app| reload::roll_back(app, generation, cause)).await;
    note(&app, actor, "config.rollback", response.status().is_success()).await;
    response
}

/// Into the audit; what has changed is in the history under the generation.
async fn note(app: &Arc<App>, actor: Actor, action: &'static str, done: bool) {
    let generation = app.generations.number();
    audit::note(app, actor, action, String::new(), done, json!({"generation_in_force": generation})).await;
}

/// Runs a reload on a thread of its own, since reading and compiling a large file takes a while, and tells how it went.
async fn answer(
    app: &Arc<App>,
    config: String,
    change: impl FnOnce(&App) -> Result<Reloaded, ReloadError> + Send + 'static,
) -> Response {
    let app = Arc::clone(app);
    match yielding::run(move || change(&app)).await {
        Some(Ok(reloaded)) => Json(json!({
            "reloaded": true,
            "config": config,
            "generation": reloaded.generation,
            "providers": reloaded.summary.providers,
            "models": reloaded.summary.models,
            "users": reloaded.summary.users,
            "changes": reloaded.diff.changes,
            "left_out": reloaded.diff.left_out,
            "problems": problems_with(&reloaded),
        }))
        .into_response(),
        Some(Err(error)) => {
            let status = match error {
                ReloadError::Load(_) | ReloadError::SetUp(_) => StatusCode::BAD_REQUEST,
                ReloadError::UnknownGeneration(_) => StatusCode::NOT_FOUND,
                ReloadError::NotKept(_) => StatusCode::CONFLICT,
            };
            let problems = match &error {
                ReloadError::Load(error) => problems_of(error),
                other => vec![json!({"severity": "error", "message": other.to_string()})],
            };
            (status, Json(json!({"reloaded": false, "config": config, "problems": problems}))).into_response()
        }
        // A panic while loading has been logged; the old configuration is in force.
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn problems_of(error: &LoadError) -> Vec<Value> {
    match error.report() {
        Some(report) => problems(report),
        None => vec![json!({"severity": "error", "message": error.to_string()})],
    }
}

/// Its warnings, and the keys that have no effect before the next start.
fn problems_with(reloaded: &Reloaded) -> Vec<Value> {
    let waiting = reloaded.waiting().into_iter().map(|key| {
        json!({"severity": Severity::Warning.as_str(), "message": format!("{key}: holds from the next start only")})
    });
    problems(&reloaded.warnings).into_iter().chain(waiting).collect()
}

fn problems(report: &Report) -> Vec<Value> {
    report.lines().map(|(severity, line)| json!({"severity": severity.as_str(), "message": line})).collect()
}
