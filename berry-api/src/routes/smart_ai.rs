//! `GET /smart-ai/weights` and `GET /smart-ai/models/{model}/weights`: confidence and weight of every backend, from the function
//! that the selector asks. All models are listed; under another strategy than `smart_ai` the weights are that strategy's.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::id::{ModelId, ModelName, ProviderId, UpstreamModel};
use berry_core::time::Instant;
use berry_loadbalance::endpoint::Endpoint;
use berry_loadbalance::pool::Pool;
use berry_loadbalance::report::EndpointReport;
use http::request::Parts;
use serde::{Deserialize, Serialize};

use super::admin::{billing_mode, pool_named};
use super::{AppState, refusal};
use crate::error::ApiError;
use crate::status::WallClock;
use crate::telemetry::format::rfc3339;

#[derive(Deserialize)]
pub(super) struct Asked {
    /// `false` leaves `health_details` out.
    detailed: Option<String>,
    /// Leaves out what is switched off.
    enabled_only: Option<String>,
}

/// How much is shown, and the moment.
struct View {
    detailed: bool,
    enabled_only: bool,
    wall: WallClock,
    now: Instant,
}

impl Asked {
    fn view(&self, wall: WallClock, now: Instant) -> View {
        let is_set = |value: &str| !matches!(value, "0" | "false");
        View {
            detailed: self.detailed.as_deref().is_none_or(is_set),
            enabled_only: self.enabled_only.as_deref().is_some_and(is_set),
            wall,
            now,
        }
    }
}

#[derive(Serialize)]
struct All {
    models: BTreeMap<ModelId, Model>,
    timestamp: String,
    total_models: usize,
}

#[derive(Serialize)]
struct One {
    #[serde(flatten)]
    model: Model,
    timestamp: String,
}

#[derive(Serialize)]
struct Model {
    name: ModelName,
    strategy: &'static str,
    enabled: bool,
    backends: Vec<Backend>,
    stats: Stats,
}

#[derive(Serialize)]
struct Backend {
    provider: ProviderId,
    model: UpstreamModel,
    original_weight: f64,
    effective_weight: f64,
    confidence: f64,
    is_premium: bool,
    enabled: bool,
    tags: Vec<String>,
    billing_mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_details: Option<HealthDetails>,
}

#[derive(Serialize)]
struct HealthDetails {
    is_healthy: bool,
    circuit: &'static str,
    /// Share of its traffic that its circuit lets through.
    recovery: f64,
    reason: Option<&'static str>,
    cooldown_until: Option<String>,
    latency_ms: Option<f64>,
    in_flight: u32,
    total_requests: u64,
    failed_requests: u64,
    failure_count: u32,
    last_check: Option<String>,
}

#[derive(Default, Serialize)]
struct Stats {
    total_backends: usize,
    enabled_backends: usize,
    healthy_backends: usize,
    premium_backends: usize,
    /// Over the enabled ones.
    average_confidence: f64,
    /// Share of the effective weight, by `PROVIDER:MODEL`.
    weight_distribution: BTreeMap<String, f64>,
}

/// `GET /smart-ai/weights[?detailed=&enabled_only=]`.
pub(super) async fn all(State(app): AppState, Query(asked): Query<Asked>) -> Response {
    let runtime = app.runtime();
    let view = asked.view(app.wall(), app.clock.now());
    let shown = runtime.selector.pools().filter(|pool| !view.enabled_only || pool.model().enabled);
    let models: BTreeMap<_, _> = shown.map(|pool| (pool.model().id.clone(), model(pool, &view))).collect();
    Json(All { total_models: models.len(), models, timestamp: rfc3339(SystemTime::now()) }).into_response()
}

/// `GET /smart-ai/models/{model}/weights`, by table key or name; a slash in it is written `%2F`.
pub(super) async fn one(
    State(app): AppState,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    parts: Parts,
) -> Response {
    let runtime = app.runtime();
    let view = asked.view(app.wall(), app.clock.now());
    match pool_named(&runtime, &name) {
        Some(pool) => Json(One { model: model(pool, &view), timestamp: rfc3339(SystemTime::now()) }).into_response(),
        None => refusal(&parts, &ApiError::model_not_found(&name)),
    }
}

fn model(pool: &Pool, view: &View) -> Model {
    let reports = pool.report(view.now);
    let endpoints = pool.endpoints().iter().zip(&reports);
    let shown: Vec<(&Endpoint, &EndpointReport)> = endpoints
        .map(|(endpoint, report)| (&**endpoint, report))
        .filter(|(_, report)| !view.enabled_only || report.enabled)
        .collect();
    Model {
        name: pool.model().name.clone(),
        strategy: pool.model().strategy.as_str(),
        enabled: pool.model().enabled,
        stats: stats(&shown),
        backends: shown.into_iter().map(|(endpoint, report)| backend(endpoint, report, view)).collect(),
    }
}

fn backend(endpoint: &Endpoint, report: &EndpointReport, view: &View) -> Backend {
    let stats = &report.stats;
    let text = |at: Instant| view.wall.text(at);
    let details = || HealthDetails {
        is_healthy: report.healthy,
        circuit: report.circuit.name(),
        recovery: report.circuit.share(),
        reason: report.reason,
        cooldown_until: report.cooling.map(|cooling| text(cooling.until)),
        latency_ms: report.latency.map(|latency| (latency.as_secs_f64() * 1e6).round() / 1e3),
        in_flight: stats.in_flight,
        total_requests: stats.requests(),
        failed_requests: stats.failed(),
        failure_count: stats.consecutive_failures,
        last_check: stats.last_report.map(text),
    };
    Backend {
        provider: report.id.provider.clone(),
        model: report.id.upstream.clone(),
        original_weight: report.weight,
        effective_weight: report.effective_weight,
        confidence: report.confidence,
        is_premium: endpoint.is_premium(),
        enabled: report.enabled,
        tags: endpoint.backend().tags.clone(),
        billing_mode: billing_mode(endpoint.backend().billing),
        health_details: view.detailed.then(details),
    }
}

fn stats(shown: &[(&Endpoint, &EndpointReport)]) -> Stats {
    let total: f64 = shown.iter().map(|(_, report)| report.effective_weight).sum();
    let mut stats = Stats { total_backends: shown.len(), ..Stats::default() };
    let mut confidence = 0.0;
    for (endpoint, report) in shown {
        stats.enabled_backends += usize::from(report.enabled);
        stats.healthy_backends += usize::from(report.healthy);
        stats.premium_backends += usize::from(endpoint.is_premium());
        confidence += if report.enabled { report.confidence } else { 0.0 };
        let name = format!("{}:{}", report.id.provider, report.id.upstream);
        let share = if total > 0.0 { report.effective_weight / total } else { 0.0 };
        *stats.weight_distribution.entry(name).or_default() += share;
    }
    // Counts of configured things are far below where a float loses precision.
    stats.average_confidence = confidence / stats.enabled_backends.max(1) as f64;
    stats
}
