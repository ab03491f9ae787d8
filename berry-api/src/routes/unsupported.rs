//! Parts of the vendors' APIs that clients may try and that the gateway does not serve: a 404 that says so.

use axum::extract::Request;
use axum::response::Response;
use berry_core::error::ErrorKind;

use super::refusal;
use crate::error::ApiError;

/// Most are stateful: what they refer to lives at one provider, and no other could take over.
pub(super) const PATHS: &[&str] = &[
    "/v1/realtime",
    "/v1/realtime/{*rest}",
    "/v1/files",
    "/v1/files/{*rest}",
    "/v1/uploads",
    "/v1/uploads/{*rest}",
    "/v1/batches",
    "/v1/batches/{*rest}",
    "/v1/assistants",
    "/v1/assistants/{*rest}",
    "/v1/threads",
    "/v1/threads/{*rest}",
    "/v1/vector_stores",
    "/v1/vector_stores/{*rest}",
    "/v1/fine_tuning",
    "/v1/fine_tuning/{*rest}",
    "/v1/messages/batches",
    "/v1/messages/batches/{*rest}",
    "/v1beta/{*rest}",
];

pub(super) async fn endpoint(request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let error = ApiError::new(
        ErrorKind::UnsupportedEndpoint,
        "The gateway does not serve this part of the API. GET / says what it serves; for the rest call the provider itself.",
    );
    refusal(&parts, &error)
}
