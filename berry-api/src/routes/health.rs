//! Is the gateway alive, ready, and can it serve?

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::id::{ModelId, ProviderId};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::AppState;
use crate::status::{Condition, LoadBalancerReport, ModelReport, ProviderReport, Ratio, Status};
use crate::telemetry::format::rfc3339;
use crate::{cluster, data_dir, ledger};

#[derive(Deserialize)]
pub(super) struct Asked {
    strict: Option<String>,
}

impl Asked {
    /// 200 as long as the gateway itself works; with `strict`, 503 when no model has a usable backend.
    fn status(&self, condition: Condition) -> StatusCode {
        let strict = self.strict.as_deref().is_some_and(|value| !matches!(value, "0" | "false"));
        if strict && condition == Condition::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }
}

#[derive(Serialize)]
struct Full {
    status: Condition,
    service_running: bool,
    timestamp: String,
    version: &'static str,
    uptime_seconds: u64,
    summary: FullSummary,
    providers: BTreeMap<ProviderId, ProviderReport>,
    models: BTreeMap<ModelId, ModelReport>,
    load_balancer: LoadBalancerReport,
    cluster: cluster::Report,
    data_dir: data_dir::Report,
    ledger: ledger::Report,
}

#[derive(Serialize)]
struct FullSummary {
    provider_health: Ratio,
    model_health: Ratio,
}

/// `GET /health`.
pub(super) async fn full(State(app): AppState, Query(asked): Query<Asked>) -> Response {
    let status = app.status();
    let code = asked.status(status.condition);
    let body = Full {
        status: status.condition,
        service_running: true,
        timestamp: rfc3339(SystemTime::now()),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: app.uptime().as_secs(),
        summary: FullSummary { provider_health: status.provider_health, model_health: status.model_health },
        providers: status.providers,
        models: status.models,
        load_balancer: status.load_balancer,
        cluster: cluster::report(app.cluster.as_ref()),
        data_dir: app.data_dir.get().cloned().unwrap_or(data_dir::Report::UNUSED),
        ledger: app.ledger.report(),
    };
    (code, Json(body)).into_response()
}

#[derive(Serialize)]
struct Brief {
    status: Condition,
    service_running: bool,
    models_available: usize,
    summary: BriefSummary,
    timestamp: String,
    uptime_seconds: u64,
}

#[derive(Serialize)]
struct BriefSummary {
    providers: Ratio,
    models: Ratio,
    backends: Ratio,
}

/// `GET /v1/health`.
pub(super) async fn brief(State(app): AppState, Query(asked): Query<Asked>) -> Response {
    let Status { condition, provider_health, model_health, backend_health, .. } = app.status();
    let body = Brief {
        status: condition,
        service_running: true,
        models_available: model_health.healthy,
        summary: BriefSummary { providers: provider_health, models: model_health, backends: backend_health },
        timestamp: rfc3339(SystemTime::now()),
        uptime_seconds: app.uptime().as_secs(),
    };
    (asked.status(condition), Json(body)).into_response()
}

/// `GET /livez`: the process answers.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: new requests are welcome.
pub(super) async fn ready(State(app): AppState) -> Response {
    if app.shutdown.is_leaving() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response()
    } else {
        "ok\n".into_response()
    }
}
