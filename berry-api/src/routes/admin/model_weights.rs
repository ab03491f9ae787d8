//! `GET /admin/model-weights[?model=NAME]`: the weights that the next choice would use.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::id::{ModelId, ModelName, ProviderId, UpstreamModel};
use berry_core::time::Instant;
use berry_loadbalance::pool::Pool;
use http::request::Parts;
use serde::{Deserialize, Serialize};

use super::super::{AppState, refusal};
use super::{billing_mode, pool_named};
use crate::error::ApiError;
use crate::telemetry::format::rfc3339;

#[derive(Deserialize)]
pub(in crate::routes) struct Asked {
    model: Option<String>,
}

#[derive(Serialize)]
struct ModelWeights {
    models: BTreeMap<ModelId, Model>,
    timestamp: String,
    total_models: usize,
}

#[derive(Serialize)]
struct Model {
    model_name: ModelName,
    display_name: ModelName,
    strategy: &'static str,
    enabled: bool,
    total_effective_weight: f64,
    backends: Vec<Backend>,
}

#[derive(Serialize)]
struct Backend {
    provider: ProviderId,
    model: UpstreamModel,
    original_weight: f64,
    effective_weight: f64,
    is_healthy: bool,
    is_enabled: bool,
    priority: u32,
    tags: Vec<String>,
    billing_mode: &'static str,
    failure_count: u32,
}

pub(in crate::routes) async fn model_weights(
    State(app): AppState,
    Query(asked): Query<Asked>,
    parts: Parts,
) -> Response {
    let (runtime, now) = (app.runtime(), app.clock.now());
    let pools: Vec<&Pool> = match &asked.model {
        None => runtime.selector.pools().map(AsRef::as_ref).collect(),
        Some(name) => match pool_named(&runtime, name) {
            Some(pool) => vec![pool],
            None => return refusal(&parts, &ApiError::model_not_found(name)),
        },
    };
    let models: BTreeMap<_, _> = pools.iter().map(|pool| (pool.model().id.clone(), model(pool, now))).collect();
    Json(ModelWeights { total_models: models.len(), models, timestamp: rfc3339(SystemTime::now()) }).into_response()
}

fn model(pool: &Pool, now: Instant) -> Model {
    let model = pool.model();
    let reports = pool.report(now);
    let backends = pool.endpoints().iter().zip(&reports).map(|(endpoint, report)| {
        let backend = endpoint.backend();
        Backend {
            provider: report.id.provider.clone(),
            model: report.id.upstream.clone(),
            original_weight: report.weight,
            effective_weight: report.effective_weight,
            is_healthy: report.healthy,
            is_enabled: report.enabled,
            priority: backend.priority,
            tags: backend.tags.clone(),
            billing_mode: billing_mode(backend.billing),
            failure_count: report.stats.consecutive_failures,
        }
    });
    Model {
        model_name: model.name.clone(),
        display_name: model.name.clone(),
        strategy: model.strategy.as_str(),
        enabled: model.enabled,
        total_effective_weight: reports.iter().map(|report| report.effective_weight).sum(),
        backends: backends.collect(),
    }
}
