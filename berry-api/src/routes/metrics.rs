//! `GET /metrics`: the figures as JSON.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use berry_core::id::{ModelName, ProviderId};
use serde::Serialize;

use super::AppState;
use crate::status::{Condition, LoadBalancerReport, ModelCounts, ProviderReport};
use crate::telemetry::format::rfc3339;

#[derive(Serialize)]
struct Metrics {
    status: Condition,
    timestamp: String,
    uptime_seconds: u64,
    http_requests_in_flight: u64,
    providers: BTreeMap<ProviderId, ProviderReport>,
    models: BTreeMap<ModelName, ModelCounts>,
    load_balancer: LoadBalancerReport,
}

pub(super) async fn json(State(app): AppState) -> Response {
    let status = app.status();
    Json(Metrics {
        status: status.condition,
        timestamp: rfc3339(SystemTime::now()),
        uptime_seconds: app.uptime().as_secs(),
        http_requests_in_flight: app.in_flight.load(Ordering::Relaxed),
        providers: status.providers,
        models: status.model_counts,
        load_balancer: status.load_balancer,
    })
    .into_response()
}
