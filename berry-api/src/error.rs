//! The one mapping from what went wrong to what a client sees: a status, a body in the client's own dialect, and headers that
//! help.
//!
//! Sources of the dialects' error types, read in 2025: platform.openai.com/docs/guides/error-codes,
//! docs.anthropic.com/en/api/errors, cloud.google.com/apis/design/errors.

use std::borrow::Cow;
use std::time::Duration;

use berry_core::error::ErrorKind;
use berry_core::id::RequestId;
use berry_core::operation::{Dialect, Operation, StreamFormat};
use berry_relay::error::ForwardError;
use berry_relay::exchange::Facts;
use berry_relay::forward::SayError;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

/// Retry-After of refusals that say "not now" without knowing when.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// An error that the gateway itself answers with.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// Which; decides status, type and code.
    pub kind: ErrorKind,
    /// What happened and what to do, for the client.
    pub message: Cow<'static, str>,
    /// The field of the request that is wrong.
    pub param: Option<&'static str>,
    /// The status to answer with, where it is the upstream's own and not the kind's.
    pub status: Option<StatusCode>,
    /// When to try again, where that is known.
    pub retry_after: Option<Duration>,
    /// Methods that the path knows.
    pub allow: Option<&'static str>,
    /// Whether the connection cannot be used any more.
    pub close: bool,
}

impl ApiError {
    /// An error with its message.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), param: None, status: None, retry_after: None, allow: None, close: false }
    }

    /// What the relay could not do.
    pub fn of_relay(error: &ForwardError) -> Self {
        Self {
            status: error.upstream_status(),
            retry_after: error.retry_after(),
            ..Self::new(error.kind(), error.public_message())
        }
    }

    /// The model does not exist.
    pub fn model_not_found(name: &str) -> Self {
        Self::new(
            ErrorKind::ModelNotFound,
            format!("The model `{}` does not exist. GET /v1/models lists the ones you may use.", bounded(name)),
        )
        .on("model")
    }

    /// The model exists and the user may not use it.
    pub fn model_denied(name: &str) -> Self {
        Self::new(
            ErrorKind::ModelAccessDenied,
            format!(
                "Your user may not use the model `{}`. GET /v1/models lists the ones you may use; the operator grants \
                 others with `allowed_models`.",
                bounded(name)
            ),
        )
        .on("model")
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn on(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// The reply, without the request id: that is set on every reply alike.
    pub fn respond(&self, dialect: Dialect, id: &RequestId) -> Response<Bytes> {
        let status = self.status.unwrap_or_else(|| status(self.kind, dialect));
        let body = body(self.kind, status.as_u16(), dialect, &self.message, self.param, id);
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = self.retry_after.or_else(|| default_retry_after(self.kind)) {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A name from a request, cut so that an answer stays small.
fn bounded(name: &str) -> Cow<'_, str> {
    const CHARS_MAX: usize = 100;
    match name.char_indices().nth(CHARS_MAX) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", &name[..end])),
    }
}

/// Refusals that pass by themselves always say when to come back.
fn default_retry_after(kind: ErrorKind) -> Option<Duration> {
    matches!(kind, ErrorKind::NoBackendAvailable | ErrorKind::Overloaded).then_some(RETRY_SOON)
}

/// The status of an error in a dialect. Anthropic's clients know 529 where others know 503.
pub fn status(kind: ErrorKind, dialect: Dialect) -> StatusCode {
    let status = match kind {
        ErrorKind::InvalidToken | ErrorKind::DisabledUser => StatusCode::UNAUTHORIZED,
        ErrorKind::NotAdmin | ErrorKind::ModelAccessDenied | ErrorKind::NoBackendForTags => StatusCode::FORBIDDEN,
        ErrorKind::ModelNotFound | ErrorKind::UnsupportedEndpoint | ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::InvalidJson | ErrorKind::MissingModel | ErrorKind::InvalidRequest | ErrorKind::UnknownBackend => {
            StatusCode::BAD_REQUEST
        }
        ErrorKind::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorKind::RateLimitExceeded | ErrorKind::BudgetExceeded => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::UpstreamError | ErrorKind::UpstreamAuthError | ErrorKind::StreamIncomplete => {
            StatusCode::BAD_GATEWAY
        }
        ErrorKind::NoBackendAvailable | ErrorKind::Overloaded | ErrorKind::LedgerUnavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorKind::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if dialect == Dialect::Anthropic && status == StatusCode::SERVICE_UNAVAILABLE {
        return StatusCode::from_u16(529).expect("between 100 and 999");
    }
    status
}

/// OpenAI's word for a status; its clients choose their exception by the status, people read this.
fn openai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        504 => "timeout",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

/// Anthropic's word for a status.
fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// Google's word for a status.
fn gemini_status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 | 405 => "NOT_FOUND",
        408 | 504 => "DEADLINE_EXCEEDED",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    }
}

#[derive(Serialize)]
struct OpenAiBody<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'static str>,
    code: &'static str,
}

#[derive(Serialize)]
struct AnthropicBody<'a> {
    r#type: &'static str,
    error: AnthropicError<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct GeminiBody<'a> {
    error: GeminiError<'a>,
}

#[derive(Serialize)]
struct GeminiError<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
    details: [GeminiDetail; 1],
}

#[derive(Serialize)]
struct GeminiDetail {
    #[serde(rename = "@type")]
    kind: &'static str,
    reason: &'static str,
    domain: &'static str,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("text and numbers in structures always serialise")
}

/// The body of an error that is answered with `status`.
fn body(
    kind: ErrorKind,
    status: u16,
    dialect: Dialect,
    message: &str,
    param: Option<&'static str>,
    id: &RequestId,
) -> Vec<u8> {
    match dialect {
        Dialect::OpenAi => {
            json(&OpenAiBody { error: OpenAiError { message, r#type: openai_type(status), param, code: kind.code() } })
        }
        Dialect::Anthropic => json(&AnthropicBody {
            r#type: "error",
            error: AnthropicError { r#type: anthropic_type(status), message },
            request_id: id.as_str(),
        }),
        Dialect::Gemini => json(&GeminiBody {
            error: GeminiError {
                code: status,
                message,
                status: gemini_status(status),
                details: [GeminiDetail {
                    kind: "type.googleapis.com/google.rpc.ErrorInfo",
                    reason: kind.code(),
                    domain: "berry-api",
                }],
            },
        }),
    }
}

/// The body of an error inside an answer whose status has gone out.
fn body_of_kind(kind: ErrorKind, dialect: Dialect, message: &str, id: &RequestId) -> Vec<u8> {
    body(kind, status(kind, dialect).as_u16(), dialect, message, None, id)
}

#[derive(Serialize)]
struct ResponseFailed<'a> {
    r#type: &'static str,
    response: FailedResponse<'a>,
}

#[derive(Serialize)]
struct FailedResponse<'a> {
    id: String,
    object: &'static str,
    status: &'static str,
    error: FailedError<'a>,
    output: [(); 0],
}

#[derive(Serialize)]
struct FailedError<'a> {
    code: &'static str,
    message: &'a str,
}

/// An error as the last event of a stream. Chat streams get no `[DONE]` after it, so that a cut never looks whole.
fn event(kind: ErrorKind, operation: Operation, message: &str, id: &RequestId) -> Bytes {
    let (name, data) = match operation.stream_format() {
        StreamFormat::Responses => {
            let failed = ResponseFailed {
                r#type: "response.failed",
                response: FailedResponse {
                    id: format!("resp_{id}"),
                    object: "response",
                    status: "failed",
                    error: FailedError { code: kind.code(), message },
                    output: [],
                },
            };
            ("event: response.failed\n", json(&failed))
        }
        StreamFormat::Messages => ("event: error\n", body_of_kind(kind, operation.dialect(), message, id)),
        StreamFormat::Chat | StreamFormat::Completions | StreamFormat::Gemini | StreamFormat::Opaque => {
            ("", body_of_kind(kind, operation.dialect(), message, id))
        }
    };
    let mut event = Vec::with_capacity(name.len() + data.len() + 8);
    event.extend_from_slice(name.as_bytes());
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(&data);
    event.extend_from_slice(b"\n\n");
    Bytes::from(event)
}

/// Says the relay's errors inside answers that have begun.
#[derive(Clone, Copy, Debug, Default)]
pub struct Voice;

impl SayError for Voice {
    fn event(&self, error: &ForwardError, facts: &Facts) -> Bytes {
        event(error.kind(), facts.operation, &error.public_message(), &facts.request_id)
    }

    fn body(&self, error: &ForwardError, facts: &Facts) -> Bytes {
        let dialect = facts.operation.dialect();
        Bytes::from(body_of_kind(error.kind(), dialect, &error.public_message(), &facts.request_id))
    }
}

/// A whole HTTP/1.1 reply to a head that never became a request: there is no path, hence no dialect.
pub fn raw_http1(status: u16, id: &RequestId) -> Bytes {
    let (reason, code, message) = match status {
        408 => ("Request Timeout", "request_header_timeout", "The request head did not arrive in time."),
        431 => (
            "Request Header Fields Too Large",
            "request_headers_too_large",
            "The request head is over 64 KiB or has more than 100 fields.",
        ),
        _ => ("Bad Request", "malformed_request", "The request is not well-formed HTTP; the connection is closed."),
    };
    let status = if reason == "Bad Request" { 400 } else { status };
    let body = json(&OpenAiBody { error: OpenAiError { message, r#type: openai_type(status), param: None, code } });
    let mut reply = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-request-id: {id}\r\n\
         connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    reply.extend_from_slice(&body);
    Bytes::from(reply)
}
