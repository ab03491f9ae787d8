//! `POST /admin/explain`: what would be chosen now, for whom; `GET /admin/explain/{request_id}`: what was.
//!
//! The dry run changes nothing. What stands in `decision` is all that the choice depends on; making it again from there gives the
//! same result ([`berry_loadbalance::explain::Replay`]). A chance of its own is drawn for a dry run, so the next request may well
//! go elsewhere.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::config::snapshot::{Edits, User};
use berry_core::error::ErrorKind;
use berry_core::id::UserId;
use berry_core::operation::{Dialect, Operation};
use berry_loadbalance::eligibility::{Demand, Hints};
use berry_loadbalance::explain::Explanation;
use berry_loadbalance::selector::NoRoute;
use berry_relay::error::ForwardError;
use bytes::Bytes;
use http::request::Parts;
use serde::{Deserialize, Serialize};

use super::super::{AppState, Principal, refusal};
use crate::app::{App, Runtime};
use crate::decisions::Chosen;
use crate::error::ApiError;
use crate::telemetry::format::rfc3339;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    model: String,
    /// Table key; the asking administrator without it.
    user: Option<String>,
    /// Provider to be forced.
    backend: Option<String>,
    dialect: Option<AskedDialect>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AskedDialect {
    OpenAi,
    Anthropic,
    Gemini,
}

impl From<AskedDialect> for Dialect {
    fn from(asked: AskedDialect) -> Self {
        match asked {
            AskedDialect::OpenAi => Self::OpenAi,
            AskedDialect::Anthropic => Self::Anthropic,
            AskedDialect::Gemini => Self::Gemini,
        }
    }
}

#[derive(Serialize)]
struct DryRun {
    dry_run: bool,
    timestamp: String,
    user: UserId,
    requested_model: String,
    /// Whether the user may ask for the model at all.
    allowed: bool,
    chosen: Option<Chosen>,
    /// What the settings of the model and of the chosen backend do to a request, in this order.
    settings: Option<[Settings; 2]>,
    error: Option<Refused>,
    decision: Explanation,
}

/// Request settings of a model or a backend. Values are left out: an operator may keep secrets in headers.
#[derive(Serialize)]
struct Settings {
    of: &'static str,
    defaults: Vec<Box<str>>,
    r#override: Vec<Box<str>>,
    drop: Vec<Box<str>>,
    extra_headers: Vec<String>,
    default_max_output_tokens: Option<u64>,
}

impl Settings {
    fn new(of: &'static str, edits: &Edits) -> Self {
        let names = |parameters: &[(Box<str>, Box<str>)]| parameters.iter().map(|(name, _)| name.clone()).collect();
        Self {
            of,
            defaults: names(&edits.defaults),
            r#override: names(&edits.overrides),
            drop: edits.drop.clone(),
            extra_headers: edits.extra_headers.iter().map(|(name, _)| name.to_string()).collect(),
            default_max_output_tokens: edits.max_output_tokens,
        }
    }
}

/// What the client would be told.
#[derive(Serialize)]
struct Refused {
    code: &'static str,
    message: String,
    retry_after_seconds: Option<f64>,
}

impl From<NoRoute> for Refused {
    fn from(no_route: NoRoute) -> Self {
        let retry_after_seconds = no_route.retry_after().map(|wait| wait.as_secs_f64());
        let ApiError { kind, message, .. } = ApiError::of_relay(&ForwardError::from(no_route));
        Self { code: kind.code(), message: message.into(), retry_after_seconds }
    }
}

/// `POST /admin/explain` with `{"model", "user"?, "backend"?, "dialect"?}`.
pub(in crate::routes) async fn dry_run(
    State(app): AppState,
    Extension(Principal(admin)): Extension<Principal>,
    parts: Parts,
    body: Bytes,
) -> Response {
    match rehearse(&app, &app.runtime(), admin, &body) {
        Ok(result) => Json(result).into_response(),
        Err(error) => refusal(&parts, &error),
    }
}

fn rehearse(app: &App, runtime: &Runtime, admin: Arc<User>, body: &[u8]) -> Result<DryRun, ApiError> {
    let asked: Asked = serde_json::from_slice(body).map_err(|error| {
        let kind = if error.is_data() { ErrorKind::InvalidRequest } else { ErrorKind::InvalidJson };
        ApiError::new(kind, format!("{error}; send {{\"model\": NAME}}, and \"user\", \"backend\" or \"dialect\""))
    })?;
    let user = match &asked.user {
        None => admin,
        Some(id) => runtime.snapshot.users.of_id(id).ok_or_else(|| {
            ApiError::new(ErrorKind::InvalidRequest, "There is no user with this table key.").on("user")
        })?,
    };
    let model = runtime.snapshot.models.find(&asked.model);
    let pool = model.and_then(|model| runtime.selector.pool(&model.id));
    let pool = pool.ok_or_else(|| ApiError::model_not_found(&asked.model))?;
    let dialect = asked.dialect.map_or(Dialect::OpenAi, Dialect::from);
    let demand = Demand {
        now: app.clock.now(),
        tags: &user.tags,
        dialect,
        translatable: berry_relay::dialect::translate::reachable(match dialect {
            Dialect::OpenAi => Operation::ChatCompletions,
            Dialect::Anthropic => Operation::Messages,
            Dialect::Gemini => Operation::GenerateContent,
        }),
        provider: asked.backend.as_deref(),
        requested: &asked.model,
        tried: &[],
        hints: Hints::default(),
    };
    let (result, decision) = pool.rehearse(&demand, &mut app.seeds.next_rng());
    let model = pool.model();
    Ok(DryRun {
        dry_run: true,
        timestamp: rfc3339(SystemTime::now()),
        user: user.id.clone(),
        allowed: user.models.allows(&model.id, &model.name, &model.aliases) || user.models.allows_name(&asked.model),
        requested_model: asked.model,
        settings: result
            .as_ref()
            .ok()
            .and_then(|id| model.backends.iter().find(|backend| backend.id == *id))
            .map(|backend| [Settings::new("model", &model.edits), Settings::new("backend", &backend.edits)]),
        chosen: result.as_ref().ok().map(Chosen::from),
        error: result.err().map(Refused::from),
        decision: decision.named(pool),
    })
}

/// `GET /admin/explain/{request_id}`.
pub(in crate::routes) async fn recorded(
    State(app): AppState,
    Path(request_id): Path<String>,
    parts: Parts,
) -> Response {
    match app.decisions.get(&request_id) {
        Some(explained) => Json(explained).into_response(),
        None => {
            let message = "No choice of this request is remembered. Send `x-berry-explain: 1` with an administrator's \
                           token; the last 1000 such requests are kept.";
            refusal(&parts, &ApiError::new(ErrorKind::NotFound, message))
        }
    }
}
