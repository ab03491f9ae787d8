//! `GET /admin/rate-limit-usage?user_id=ID`: what counts against a user's limits now, from the windows that refuse.

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use berry_core::config::snapshot::RateLimit;
use berry_core::error::ErrorKind;
use berry_core::id::{ModelName, UserId};
use berry_core::quota::Used;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::super::{AppState, refusal};
use crate::error::ApiError;
use crate::telemetry::format::rfc3339;

#[derive(Serialize)]
struct Usage {
    user_id: UserId,
    usage: Used,
    limits: Limits,
    /// Models for which the user has limits of its own.
    models: BTreeMap<ModelName, OfModel>,
    timestamp: String,
}

#[derive(Serialize)]
struct OfModel {
    usage: Used,
    limits: Limits,
}

/// As in the configuration; `null` = not limited.
#[derive(Serialize)]
struct Limits {
    requests_per_minute: Option<u64>,
    requests_per_hour: Option<u64>,
    requests_per_day: Option<u64>,
    tokens_per_minute: Option<u64>,
    tokens_per_day: Option<u64>,
    max_concurrent: Option<u32>,
}

impl From<&RateLimit> for Limits {
    fn from(limits: &RateLimit) -> Self {
        Self {
            requests_per_minute: limits.requests_per_minute,
            requests_per_hour: limits.requests_per_hour,
            requests_per_day: limits.requests_per_day,
            tokens_per_minute: limits.tokens_per_minute,
            tokens_per_day: limits.tokens_per_day,
            max_concurrent: limits.max_concurrent,
        }
    }
}

pub(in crate::routes) async fn rate_limit_usage(State(app): AppState, parts: Parts) -> Response {
    let asked = parts.uri.query().into_iter().flat_map(|query| query.split('&'));
    let Some(id) = asked.filter_map(|pair| pair.strip_prefix("user_id=")).next() else {
        let error = ApiError::new(ErrorKind::InvalidRequest, "Say whose: ?user_id=TABLE_KEY").on("user_id");
        return refusal(&parts, &error);
    };
    let id = percent_decode_str(id).decode_utf8_lossy();
    let runtime = app.runtime();
    let Some(user) = runtime.snapshot.users.of_id(&id) else {
        let error = ApiError::new(ErrorKind::NotFound, "There is no user with this table key.").on("user_id");
        return refusal(&parts, &error);
    };
    let (usage, used_by_model) = app.quotas.used(&user.id, app.clock.now());
    let none = RateLimit::default();
    let limits = user.limits.as_ref();
    let by_model = limits.into_iter().flat_map(|limits| &limits.by_model).map(|(name, limits)| {
        let used = used_by_model.iter().find(|(other, _)| other == name).map_or_else(Used::default, |(_, used)| *used);
        (name.clone(), OfModel { usage: used, limits: limits.into() })
    });
    Json(Usage {
        user_id: user.id.clone(),
        usage,
        limits: limits.map_or(&none, |limits| &limits.rate).into(),
        models: by_model.collect(),
        timestamp: rfc3339(SystemTime::now()),
    })
    .into_response()
}
