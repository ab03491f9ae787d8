//! The closed list of what can go wrong, shared by metrics, logs, statuses and the ledger.

/// Kind of a failed request. Closed, so it can label a metric. `berry-api` maps it to a status and a body, in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No token, an unknown one, or one presented twice.
    InvalidToken,
    /// The token's user is switched off.
    DisabledUser,
    /// The user is not an administrator.
    NotAdmin,
    /// The user may not use this model.
    ModelAccessDenied,
    /// No model of that name.
    ModelNotFound,
    /// A rate limit of the user is used up.
    RateLimitExceeded,
    /// A budget has no room for what the request may cost.
    BudgetExceeded,
    /// The user shares no tag with any backend of the model.
    NoBackendForTags,
    /// No backend can take the request now.
    NoBackendAvailable,
    /// The backend that the client forced does not exist in this model's pool.
    UnknownBackend,
    /// The upstream answered with an error, or with something that is not an answer.
    UpstreamError,
    /// The upstream refused our key.
    UpstreamAuthError,
    /// The upstream kept silent for too long.
    UpstreamTimeout,
    /// The stream ended without its terminal event.
    StreamIncomplete,
    /// The body is over the limit.
    PayloadTooLarge,
    /// The body is not JSON, or not the form that was announced.
    InvalidJson,
    /// The body names no model.
    MissingModel,
    /// A field has the wrong type or value, or stands twice.
    InvalidRequest,
    /// The request body is encoded.
    UnsupportedEncoding,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The path is one that Berry does not serve.
    UnsupportedEndpoint,
    /// No such path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// A limit of the gateway itself is reached: connections or buffered bytes.
    Overloaded,
    /// Requests cannot be recorded, and none may be served unrecorded; or there is no record to ask.
    LedgerUnavailable,
    /// A bug of ours.
    Internal,
}

impl ErrorKind {
    /// The machine-readable code of the error body.
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidToken => "invalid_token",
            Self::DisabledUser => "disabled_user",
            Self::NotAdmin => "admin_required",
            Self::ModelAccessDenied => "model_access_denied",
            Self::ModelNotFound => "model_not_found",
            Self::RateLimitExceeded => "rate_limit_exceeded",
            Self::BudgetExceeded => "budget_exceeded",
            Self::NoBackendForTags => "no_backend_for_tags",
            Self::NoBackendAvailable => "no_backend_available",
            Self::UnknownBackend => "unknown_backend",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamAuthError => "upstream_auth_error",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::StreamIncomplete => "stream_incomplete",
            Self::PayloadTooLarge => "payload_too_large",
            Self::InvalidJson => "invalid_json",
            Self::MissingModel => "missing_model",
            Self::InvalidRequest => "invalid_request",
            Self::UnsupportedEncoding => "unsupported_content_encoding",
            Self::BodyTimeout => "request_body_timeout",
            Self::UnsupportedEndpoint => "unsupported_endpoint",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Overloaded => "overloaded",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::Internal => "internal_error",
        }
    }
}
