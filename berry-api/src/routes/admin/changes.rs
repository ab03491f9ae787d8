//! `/admin/changes`: switching providers and backends off and on, weights, circuits, while the server runs.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::error::ErrorKind;
use berry_core::id::{BackendId, ModelId, ProviderId, UpstreamModel, UserId};
use bytes::Bytes;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::{AppState, Principal, refusal};
use super::actor;
use crate::app::App;
use crate::audit;
use crate::changes::{Change, Setting, Target};
use crate::error::ApiError;
use crate::telemetry::format::rfc3339;

/// How long a circuit that is opened by hand stays open where nothing is said.
const OPEN_DEFAULT: Duration = Duration::from_secs(300);
/// Longest reason that is kept.
const REASON_CHARS_MAX: usize = 500;
/// Longest time that a change may be limited to: a year.
const EXPIRES_SECONDS_MAX: f64 = 366.0 * 86_400.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    action: Action,
    provider: String,
    /// Public name or table key.
    model: Option<String>,
    /// Its name at the provider.
    upstream: Option<String>,
    weight: Option<f64>,
    expires_in_seconds: Option<f64>,
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    /// No new requests; what is under way is finished.
    Drain,
    /// The same under its other name.
    Disable,
    /// Takes requests again.
    Enable,
    /// Sets the weight.
    SetWeight,
    /// Opens the circuit.
    OpenCircuit,
    /// Closes the circuit and ends pauses and ejection.
    CloseCircuit,
    /// The same under its other name.
    Reset,
}

#[derive(Serialize)]
struct Listed {
    id: u64,
    provider: ProviderId,
    model: Option<ModelId>,
    upstream: Option<UpstreamModel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<f64>,
    by: UserId,
    at: String,
    until: Option<String>,
    reason: Option<String>,
    /// Whether the configuration has what it is about.
    has_effect: bool,
}

/// `GET /admin/changes`.
pub(in crate::routes) async fn list(State(app): AppState) -> Response {
    let ids = backends(&app);
    let listed: Vec<Listed> = app.changes.list().into_iter().map(|change| listed(&app, change, &ids)).collect();
    Json(json!({"changes": listed, "timestamp": rfc3339(SystemTime::now())})).into_response()
}

fn listed(app: &App, change: Change, ids: &[BackendId]) -> Listed {
    let Change { id, target, setting, by, at, until, reason } = change;
    let has_effect = ids.iter().any(|id| target.covers(id));
    let (enabled, weight) = match setting {
        Setting::Enabled(on) => (Some(on), None),
        Setting::Weight(weight) => (None, Some(weight)),
    };
    let until = until.map(|until| app.wall().text(until));
    let Target { provider, model, upstream } = target;
    Listed { id, provider, model, upstream, enabled, weight, by, at: rfc3339(at), until, reason, has_effect }
}

/// Every backend of the configuration.
fn backends(app: &App) -> Vec<BackendId> {
    let runtime = app.runtime();
    runtime
        .snapshot
        .models
        .all
        .iter()
        .flat_map(|model| model.backends.iter().map(|backend| backend.id.clone()))
        .collect()
}

/// `POST /admin/changes`: makes one; tells which backends it is about.
pub(in crate::routes) async fn make(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    parts: Parts,
    body: Bytes,
) -> Response {
    let changed = change(&app, &admin.id, &body);
    // What is no JSON is noted as that; any other body says itself what was wanted.
    let detail = serde_json::from_slice::<Wanted>(&body).map_or(json!(null), |wanted| {
        let Wanted { action, provider: _, model, upstream, weight, expires_in_seconds, reason } = wanted;
        let reason: Option<String> = reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect());
        json!({"action": action, "model": model, "upstream": upstream, "weight": weight,
            "expires_in_seconds": expires_in_seconds, "reason": reason})
    });
    let target = serde_json::from_slice::<Wanted>(&body).map_or_else(|_| String::new(), |wanted| wanted.provider);
    audit::note(&app, actor(&app, &admin, &parts), "change.make", target, changed.is_ok(), detail).await;
    match changed {
        Ok(response) => response,
        Err(error) => refusal(&parts, &error),
    }
}

/// `DELETE /admin/changes/{id}`: takes one back.
pub(in crate::routes) async fn take_back(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    Path(id): Path<String>,
    parts: Parts,
) -> Response {
    let removed = id.parse().ok().and_then(|id| app.changes.remove(id));
    let Some(change) = removed else {
        return refusal(&parts, &ApiError::new(ErrorKind::NotFound, "There is no change with this id in force."));
    };
    tell(&admin.id, "take_back", &change.target, None);
    let renewed = app.renew();
    let detail = json!({"provider": change.target.provider.as_str()});
    audit::note(&app, actor(&app, &admin, &parts), "change.take_back", id, renewed.is_ok(), detail).await;
    match renewed {
        Ok(()) => Json(json!({"taken_back": change.id})).into_response(),
        Err(error) => refusal(&parts, &ApiError::new(ErrorKind::Internal, error.to_string())),
    }
}

fn change(app: &App, by: &UserId, body: &[u8]) -> Result<Response, ApiError> {
    let wanted: Wanted = serde_json::from_slice(body).map_err(|error| {
        let kind = if error.is_data() { ErrorKind::InvalidRequest } else { ErrorKind::InvalidJson };
        ApiError::new(kind, format!("{error}; send {{\"action\": …, \"provider\": …}}"))
    })?;
    let target = target(app, &wanted)?;
    let covered: Vec<BackendId> = backends(app).into_iter().filter(|id| target.covers(id)).collect();
    if covered.is_empty() {
        return Err(ApiError::new(
            ErrorKind::UnknownBackend,
            "No backend is like that: check provider, model and upstream.",
        ));
    }
    let expires = wanted.expires_in_seconds.map(expiry).transpose()?;
    let setting = match wanted.action {
        Action::Drain | Action::Disable => Some(Setting::Enabled(false)),
        Action::Enable => Some(Setting::Enabled(true)),
        Action::SetWeight => Some(Setting::Weight(weight(wanted.weight)?)),
        Action::OpenCircuit | Action::CloseCircuit | Action::Reset => None,
    };
    tell(by, action_name(wanted.action), &target, wanted.reason.as_deref());
    let id = match setting {
        Some(setting) => {
            let reason = wanted.reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect());
            let until = expires.map(|time| app.clock.now() + time);
            keep(app, Change { id: 0, target, setting, by: by.clone(), at: SystemTime::now(), until, reason })?
        }
        None => {
            turn_circuits(app, &target, wanted.action, expires.unwrap_or(OPEN_DEFAULT));
            None
        }
    };
    let in_flight = in_flight(app, &covered);
    let covered: Vec<String> = covered.iter().map(ToString::to_string).collect();
    Ok(Json(json!({"id": id, "action": wanted.action, "backends": covered, "in_flight": in_flight})).into_response())
}

/// Puts a change in force. Enabling what only a change had disabled leaves none behind.
fn keep(app: &App, change: Change) -> Result<Option<u64>, ApiError> {
    let undone = change.setting == Setting::Enabled(true) && app.changes.remove_disabling(&change.target);
    let id = match undone {
        true => None,
        false => {
            Some(app.changes.add(change).map_err(|error| ApiError::new(ErrorKind::InvalidRequest, error.to_string()))?)
        }
    };
    app.renew().map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    Ok(id)
}

fn turn_circuits(app: &App, target: &Target, action: Action, time: Duration) {
    let (runtime, until) = (app.runtime(), app.clock.now() + time);
    let endpoints = runtime.selector.pools().flat_map(|pool| pool.endpoints());
    for endpoint in endpoints.filter(|endpoint| target.covers(&endpoint.backend().id)) {
        match action {
            Action::OpenCircuit => endpoint.open_circuit(until),
            _ => endpoint.reset(),
        }
    }
    if let Some(cluster) = &app.cluster {
        cluster.turned_circuits(target, matches!(action, Action::OpenCircuit).then_some(time));
    }
}

fn in_flight(app: &App, ids: &[BackendId]) -> u64 {
    let runtime = app.runtime();
    let endpoints = runtime.selector.pools().flat_map(|pool| pool.endpoints());
    endpoints
        .filter(|endpoint| ids.contains(&endpoint.backend().id))
        .map(|endpoint| u64::from(endpoint.in_flight()))
        .sum()
}

fn target(app: &App, wanted: &Wanted) -> Result<Target, ApiError> {
    let runtime = app.runtime();
    let model = match &wanted.model {
        None => None,
        Some(name) => {
            let pool = super::pool_named(&runtime, name).ok_or_else(|| ApiError::model_not_found(name))?;
            Some(pool.model().id.clone())
        }
    };
    let upstream = wanted.upstream.as_deref().map(UpstreamModel::from);
    Ok(Target { provider: ProviderId::from(wanted.provider.as_str()), model, upstream })
}

fn weight(weight: Option<f64>) -> Result<f64, ApiError> {
    weight.filter(|weight| weight.is_finite() && *weight > 0.0).ok_or_else(|| {
        ApiError::new(ErrorKind::InvalidRequest, "set_weight needs `weight`, a number above 0.").on("weight")
    })
}

fn expiry(seconds: f64) -> Result<Duration, ApiError> {
    let valid = seconds > 0.0 && seconds <= EXPIRES_SECONDS_MAX;
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|_| valid);
    time.ok_or_else(|| {
        ApiError::new(ErrorKind::InvalidRequest, "expires_in_seconds must be above 0 and at most a year.")
            .on("expires_in_seconds")
    })
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Drain => "drain",
        Action::Disable => "disable",
        Action::Enable => "enable",
        Action::SetWeight => "set_weight",
        Action::OpenCircuit => "open_circuit",
        Action::CloseCircuit => "close_circuit",
        Action::Reset => "reset",
    }
}

fn tell(by: &UserId, action: &str, target: &Target, reason: Option<&str>) {
    let Target { provider, model, upstream } = target;
    tracing::info!(
        admin = by.as_str(),
        action,
        provider = provider.as_str(),
        model = model.as_ref().map(ModelId::as_str),
        upstream = upstream.as_ref().map(UpstreamModel::as_str),
        reason,
        "change at run time"
    );
}
