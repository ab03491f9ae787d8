//! The models that the asking user may use, in OpenAI's shape, or in Anthropic's for its clients.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::config::snapshot::{Model, User};
use berry_core::policy::tags_allow;
use http::request::Parts;
use serde::Serialize;

use super::{AppState, Principal, refusal};
use crate::app::Runtime;
use crate::error::ApiError;
use crate::gate::speaks_anthropic;

/// `created` of every model: 2025-01-01T00:00:00Z. Clients want the field and want it stable; a model here is a line of
/// configuration, which has no date of birth.
const CREATED: u64 = 1_735_689_600;
const CREATED_AT: &str = "2025-01-01T00:00:00Z";

#[derive(Serialize)]
struct OpenAiModel<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

#[derive(Serialize)]
struct OpenAiList<'a> {
    object: &'static str,
    data: Vec<OpenAiModel<'a>>,
}

#[derive(Serialize)]
struct AnthropicModel<'a> {
    r#type: &'static str,
    id: &'a str,
    display_name: &'a str,
    created_at: &'static str,
}

#[derive(Serialize)]
struct AnthropicList<'a> {
    data: Vec<AnthropicModel<'a>>,
    has_more: bool,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GeminiModel<'a> {
    name: String,
    version: &'static str,
    display_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_token_limit: Option<u64>,
    supported_generation_methods: &'static [&'static str],
}

#[derive(Serialize)]
struct GeminiList<'a> {
    models: Vec<GeminiModel<'a>>,
}

/// What Gemini's clients may ask of a model. Which of it a model can do is known to its backends only.
const GEMINI_METHODS: &[&str] = &["generateContent", "countTokens", "embedContent"];

fn gemini(model: &Model) -> GeminiModel<'_> {
    GeminiModel {
        name: format!("models/{}", model.name.as_str()),
        version: "001",
        display_name: model.name.as_str(),
        // What every backend takes, whichever is chosen.
        input_token_limit: model.backends.iter().map(|backend| backend.limits.context_window).min().flatten(),
        supported_generation_methods: GEMINI_METHODS,
    }
}

fn openai(model: &Model) -> OpenAiModel<'_> {
    OpenAiModel { id: model.name.as_str(), object: "model", created: CREATED, owned_by: "berry-api" }
}

fn anthropic(model: &Model) -> AnthropicModel<'_> {
    AnthropicModel {
        r#type: "model",
        id: model.name.as_str(),
        display_name: model.name.as_str(),
        created_at: CREATED_AT,
    }
}

/// Whether some backend of the model is switched on and open to the user.
fn is_served(model: &Model, user: &User) -> bool {
    model.enabled && model.backends.iter().any(|backend| backend.enabled && tags_allow(&user.tags, &backend.tags))
}

fn is_allowed(model: &Model, user: &User) -> bool {
    user.models.allows(&model.id, &model.name, &model.aliases)
}

/// The models that a user may use, by name.
pub(super) fn of_user<'a>(runtime: &'a Runtime, user: &User) -> Vec<&'a Arc<Model>> {
    let all = runtime.snapshot.models.all.iter();
    let mut models: Vec<_> = all.filter(|model| is_served(model, user) && is_allowed(model, user)).collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// One model by any of its names, where the user may use it.
pub(super) fn named<'a>(runtime: &'a Runtime, user: &User, id: &str) -> Result<&'a Arc<Model>, ApiError> {
    let model = runtime.snapshot.models.find(id).filter(|model| is_served(model, user));
    let model = model.ok_or_else(|| ApiError::model_not_found(id))?;
    if is_allowed(model, user) { Ok(model) } else { Err(ApiError::model_denied(id)) }
}

/// `GET /v1beta/models`. All of them stand on one page.
pub(super) async fn gemini_list(State(app): AppState, Extension(Principal(user)): Extension<Principal>) -> Response {
    let runtime = app.runtime();
    Json(GeminiList { models: of_user(&runtime, &user).into_iter().map(|model| gemini(model)).collect() })
        .into_response()
}

/// `GET /v1beta/models/{id}`.
pub(super) async fn gemini_one(
    State(app): AppState,
    Extension(Principal(user)): Extension<Principal>,
    Path(id): Path<String>,
    parts: Parts,
) -> Response {
    match named(&app.runtime(), &user, &id) {
        Ok(model) => Json(gemini(model)).into_response(),
        Err(error) => refusal(&parts, &error),
    }
}

/// `GET /models`, `GET /v1/models`.
pub(super) async fn list(
    State(app): AppState,
    Extension(Principal(user)): Extension<Principal>,
    parts: Parts,
) -> Response {
    let runtime = app.runtime();
    let models = of_user(&runtime, &user);
    if speaks_anthropic(&parts) {
        Json(AnthropicList {
            has_more: false,
            first_id: models.first().map(|model| model.name.as_str()),
            last_id: models.last().map(|model| model.name.as_str()),
            data: models.iter().map(|model| anthropic(model)).collect(),
        })
        .into_response()
    } else {
        Json(OpenAiList { object: "list", data: models.iter().map(|model| openai(model)).collect() }).into_response()
    }
}

/// `GET /v1/models/{id}`; the id may have slashes, percent-encoded or not.
pub(super) async fn one(
    State(app): AppState,
    Extension(Principal(user)): Extension<Principal>,
    Path(id): Path<String>,
    parts: Parts,
) -> Response {
    let runtime = app.runtime();
    let model = match named(&runtime, &user, &id) {
        Ok(model) => model,
        Err(error) => return refusal(&parts, &error),
    };
    if speaks_anthropic(&parts) { Json(anthropic(model)).into_response() } else { Json(openai(model)).into_response() }
}
