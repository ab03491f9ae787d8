//! What each backend of a model takes of what clients can say, by dialect, and its limits.
//!
//! What is told to be lost is what the translation itself declares, see [`carried`].

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Query, State};
use axum::response::{IntoResponse as _, Response};
use berry_core::config::provider_data::{Capabilities, Sampling, ThinkingAsk};
use berry_core::config::snapshot::{Backend, LossPolicy, Model, User};
use berry_core::id::ProviderId;
use berry_core::operation::Dialect;
use berry_core::policy::tags_allow;
use berry_relay::dialect::carried::{self, CLIENTS, Fate};
use http::request::Parts;
use serde::{Deserialize, Serialize};

use super::models::{named, of_user};
use super::{AppState, Principal, refusal};

/// The query.
#[derive(Deserialize)]
pub(super) struct Filter {
    model: Option<String>,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<OfModel<'a>>,
}

#[derive(Serialize)]
struct OfModel<'a> {
    id: &'a str,
    object: &'static str,
    loss_policy: &'static str,
    backends: Vec<OfBackend<'a>>,
}

#[derive(Serialize)]
struct OfBackend<'a> {
    provider: &'a ProviderId,
    upstream_model: &'a str,
    dialect: Dialect,
    caps: Caps,
    clients: Arc<BTreeMap<&'static str, OfClient>>,
}

#[derive(Serialize)]
struct Caps {
    max_output_tokens: Option<u64>,
    context_window: Option<u64>,
    thinking: ThinkingAsk,
    sampling: Sampling,
    structured_output: bool,
    prefill: bool,
}

/// What clients of one dialect have of a backend.
#[derive(Serialize)]
struct OfClient {
    /// Without translation everything goes through as it is, and nothing is listed.
    translated: bool,
    carried: Vec<&'static str>,
    /// By feature: `field;reason`, as `x-berry-loss` has it.
    lost: BTreeMap<&'static str, Vec<String>>,
    /// Requests with these are answered 400.
    refused: Vec<&'static str>,
}

impl OfClient {
    fn new(features: Option<Vec<(&'static str, Fate)>>) -> Self {
        let translated = features.is_some();
        let mut of = Self { translated, carried: Vec::new(), lost: BTreeMap::new(), refused: Vec::new() };
        for (name, fate) in features.into_iter().flatten() {
            match fate {
                Fate::Carried => of.carried.push(name),
                Fate::Refused => of.refused.push(name),
                Fate::Lost(losses) => {
                    let told = losses.iter().map(|loss| format!("{};{}", loss.field, loss.reason.as_str()));
                    of.lost.insert(name, told.collect());
                }
            }
        }
        of
    }
}

/// What decides which features a backend takes.
type Kind = (Dialect, bool, Capabilities);

/// What was found out for this answer: most backends are alike.
#[derive(Default)]
struct Found(Vec<(Kind, Arc<BTreeMap<&'static str, OfClient>>)>);

impl Found {
    fn clients(&mut self, kind: Kind, backend: &Backend, model: &str) -> Arc<BTreeMap<&'static str, OfClient>> {
        if let Some((_, clients)) = self.0.iter().find(|(known, _)| *known == kind) {
            return Arc::clone(clients);
        }
        let of = |(name, operation)| (name, OfClient::new(carried::features(operation, backend, model)));
        let clients = Arc::new(CLIENTS.map(of).into_iter().collect());
        self.0.push((kind, Arc::clone(&clients)));
        clients
    }

    fn model<'a>(&mut self, model: &'a Model, user: &User) -> OfModel<'a> {
        let open = |backend: &&Arc<Backend>| backend.enabled && tags_allow(&user.tags, &backend.tags);
        let backends = model.backends.iter().filter(open).map(|backend| {
            let upstream = backend.upstream_model(model.name.as_str());
            let known = backend.capabilities_of(upstream).into_owned();
            let dialect = backend.provider.upstream.dialect();
            let caps = Caps {
                max_output_tokens: known.max_output_tokens,
                context_window: backend.limits.context_window,
                thinking: known.thinking,
                sampling: known.sampling,
                structured_output: known.structured_output,
                prefill: known.prefill,
            };
            let clients = self.clients((dialect, backend.provider.responses, known), backend, upstream);
            OfBackend { provider: &backend.id.provider, upstream_model: upstream, dialect, caps, clients }
        });
        let loss_policy = match model.loss_policy {
            LossPolicy::Warn => "warn",
            LossPolicy::Reject => "reject",
        };
        OfModel { id: model.name.as_str(), object: "model.capabilities", loss_policy, backends: backends.collect() }
    }
}

/// `GET /v1/capabilities`, of all models that the user may use, or of `?model=`.
pub(super) async fn list(
    State(app): AppState,
    Extension(Principal(user)): Extension<Principal>,
    Query(filter): Query<Filter>,
    parts: Parts,
) -> Response {
    let runtime = app.runtime();
    let models = match filter.model.as_deref().map(|id| named(&runtime, &user, id)) {
        None => of_user(&runtime, &user),
        Some(Ok(model)) => vec![model],
        Some(Err(error)) => return refusal(&parts, &error),
    };
    let mut found = Found::default();
    Json(List { object: "list", data: models.into_iter().map(|model| found.model(model, &user)).collect() })
        .into_response()
}
