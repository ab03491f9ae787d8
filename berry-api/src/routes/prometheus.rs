//! `GET /prometheus`: the figures for a scraper.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, VARY};

use super::AppState;
use crate::telemetry::prometheus::{Format, scrape};

pub(super) async fn page(State(app): AppState, headers: HeaderMap) -> Response {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::of(accepted);
    ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], scrape(&app, format)).into_response()
}
