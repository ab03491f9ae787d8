//! Responses that an upstream keeps: to read, delete or cancel them, at the provider that issued them, for the user who made them.

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use berry_core::error::ErrorKind;
use http::Method;
use http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{AppState, Principal, refusal};
use crate::error::ApiError;

/// `GET` and `DELETE /v1/responses/{id}`.
pub(super) async fn whole(
    state: AppState,
    principal: Extension<Principal>,
    Path(id): Path<String>,
    parts: Parts,
) -> Response {
    ask(state, principal, &id, "", parts).await
}

/// `POST /v1/responses/{id}/cancel`.
pub(super) async fn cancel(
    state: AppState,
    principal: Extension<Principal>,
    Path(id): Path<String>,
    parts: Parts,
) -> Response {
    ask(state, principal, &id, "/cancel", parts).await
}

/// `GET /v1/responses/{id}/input_items`.
pub(super) async fn input_items(
    state: AppState,
    principal: Extension<Principal>,
    Path(id): Path<String>,
    parts: Parts,
) -> Response {
    ask(state, principal, &id, "/input_items", parts).await
}

async fn ask(
    State(app): AppState,
    Extension(Principal(user)): Extension<Principal>,
    id: &str,
    what: &str,
    parts: Parts,
) -> Response {
    let runtime = app.runtime();
    let provider = app.issued.of_user(id, &user.id);
    let provider = provider.and_then(|provider| runtime.snapshot.providers.get(&provider).filter(|it| it.enabled));
    let Some(provider) = provider else {
        return refusal(&parts, &unknown());
    };
    let method = if parts.method == Method::HEAD { Method::GET } else { parts.method.clone() };
    let path = format!("responses/{}{what}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    match runtime.relay.object(provider, method, &path, parts.uri.query(), &parts.headers).await {
        Ok(response) => response.map(Body::new),
        Err(error) => refusal(&parts, &ApiError::of_relay(&error)),
    }
}

/// A response that is not the asking user's, or not remembered.
pub(super) fn unknown() -> ApiError {
    ApiError::new(
        ErrorKind::NotFound,
        "There is no response of this id that your user made through this gateway. The gateway remembers the newest ones since its \
         start; for an older one send the whole conversation as `input`.",
    )
}
