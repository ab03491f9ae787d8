//! `GET /admin/backend-health`: what keeps traffic from each backend, until when, and why.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use berry_core::id::{ModelId, ModelName, ProviderId, UpstreamModel};
use berry_core::time::Instant;
use berry_loadbalance::pool::Pool;
use serde::Serialize;

use super::super::AppState;
use crate::status::WallClock;
use crate::telemetry::format::rfc3339;

#[derive(Serialize)]
struct BackendHealth {
    backend_health: BTreeMap<ModelId, Model>,
    timestamp: String,
}

#[derive(Serialize)]
struct Model {
    model_name: ModelName,
    enabled: bool,
    backends: Vec<Backend>,
}

#[derive(Serialize)]
struct Backend {
    provider: ProviderId,
    model: UpstreamModel,
    enabled: bool,
    is_healthy: bool,
    failure_count: u32,
    circuit: &'static str,
    cooldown_until: Option<String>,
    /// When it may be sent to again, whatever keeps it from that.
    blocked_until: Option<String>,
    reason: Option<&'static str>,
    tags: Vec<String>,
    priority: u32,
    in_flight: u32,
    probes: u64,
    failed_probes: u64,
    last_check: Option<String>,
}

pub(in crate::routes) async fn backend_health(State(app): AppState) -> Response {
    let (runtime, now) = (app.runtime(), app.clock.now());
    let pools = runtime.selector.pools();
    Json(BackendHealth {
        backend_health: pools.map(|pool| (pool.model().id.clone(), model(pool, app.wall(), now))).collect(),
        timestamp: rfc3339(SystemTime::now()),
    })
    .into_response()
}

fn model(pool: &Pool, wall: WallClock, now: Instant) -> Model {
    let text = |at: Option<Instant>| at.map(|at| wall.text(at));
    let backends = pool.endpoints().iter().zip(pool.report(now)).map(|(endpoint, report)| Backend {
        cooldown_until: text(report.cooling.map(|cooling| cooling.until)),
        blocked_until: text(report.blocked_until()),
        enabled: report.enabled,
        is_healthy: report.healthy,
        failure_count: report.stats.consecutive_failures,
        circuit: report.circuit.name(),
        reason: report.reason,
        tags: endpoint.backend().tags.clone(),
        priority: endpoint.backend().priority,
        in_flight: report.stats.in_flight,
        probes: report.stats.probes,
        failed_probes: report.stats.failed_probes,
        last_check: text(report.stats.last_report),
        provider: report.id.provider,
        model: report.id.upstream,
    });
    Model { model_name: pool.model().name.clone(), enabled: pool.model().enabled, backends: backends.collect() }
}
