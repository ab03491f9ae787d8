//! `GET /admin/system-stats`: the whole in a few figures.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use berry_core::id::{ModelId, ModelName};
use serde::Serialize;

use super::super::AppState;
use crate::status::{Condition, ModelCounts, Ratio};
use crate::telemetry::format::rfc3339;

#[derive(Serialize)]
struct SystemStats {
    system: System,
    health_summary: HealthSummary,
    model_stats: BTreeMap<ModelId, ModelStats>,
    timestamp: String,
}

#[derive(Serialize)]
struct System {
    is_running: bool,
    version: &'static str,
    uptime_seconds: u64,
    http_requests_in_flight: u64,
    total_models: usize,
    /// Those that are switched on and have a backend that works.
    available_models: Vec<ModelName>,
    /// Backends that are switched on though nobody states what they charge, as `model/provider:upstream`.
    unpriced_backends: Vec<String>,
}

#[derive(Serialize)]
struct HealthSummary {
    status: Condition,
    provider_health: Ratio,
    model_health: Ratio,
    backend_health: Ratio,
}

#[derive(Serialize)]
struct ModelStats {
    name: ModelName,
    strategy: &'static str,
    enabled: bool,
    total_backends: usize,
    healthy_backends: usize,
    selections: u64,
    /// Selections of a backend that its probes speak against, because nobody better was left.
    panic_selections: u64,
    #[serde(flatten)]
    counts: ModelCounts,
}

pub(in crate::routes) async fn system_stats(State(app): AppState) -> Response {
    let runtime = app.runtime();
    let mut status = app.status();
    let available = |(_, model): &(_, &crate::status::ModelReport)| model.enabled && model.healthy_backends > 0;
    let mut available_models: Vec<ModelName> =
        status.models.iter().filter(available).map(|(_, model)| model.name.clone()).collect();
    available_models.sort_unstable();
    let system = System {
        is_running: true,
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: app.uptime().as_secs(),
        http_requests_in_flight: app.in_flight.load(Ordering::Relaxed),
        total_models: status.models.len(),
        available_models,
        unpriced_backends: crate::run::unpriced(&runtime.snapshot),
    };
    let model_stats = runtime.selector.pools().filter_map(|pool| {
        let model = status.models.remove(&pool.model().id)?;
        let stats = ModelStats {
            counts: status.model_counts.remove(&model.name).unwrap_or_default(),
            name: model.name,
            strategy: model.strategy,
            enabled: model.enabled,
            total_backends: model.total_backends,
            healthy_backends: model.healthy_backends,
            selections: pool.selections(),
            panic_selections: pool.panics(),
        };
        Some((pool.model().id.clone(), stats))
    });
    Json(SystemStats {
        system,
        model_stats: model_stats.collect(),
        health_summary: HealthSummary {
            status: status.condition,
            provider_health: status.provider_health,
            model_health: status.model_health,
            backend_health: status.backend_health,
        },
        timestamp: rfc3339(SystemTime::now()),
    })
    .into_response()
}
