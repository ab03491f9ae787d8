//! Errors in the words of each vendor.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::answer::Answer;

/// Whose wire format an answer has to be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    /// OpenAI, and most others.
    OpenAi,
    /// OpenAI on Azure: the same, apart from a few errors and extra fields.
    Azure,
    /// OpenAI's Responses: the same, apart from errors within a stream.
    Responses,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's Gemini.
    Gemini,
}

/// Something that is wrong with a request, or said to be.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<&'static str>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: None, message: message.into() }
    }

    /// 400: the request is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// 400: this parameter is not there.
    pub(crate) fn missing(param: &'static str) -> Self {
        Self {
            param: Some(param),
            code: Some("missing_required_parameter"),
            ..Self::invalid(format!("Missing required parameter: '{param}'."))
        }
    }

    /// 400: this parameter is not what it must be.
    pub(crate) fn wrong(param: &'static str, expected: &str) -> Self {
        Self {
            param: Some(param),
            code: Some("invalid_type"),
            ..Self::invalid(format!("Invalid type for '{param}': expected {expected}."))
        }
    }

    /// 404: no such model.
    pub(crate) fn model_not_found(model: &str) -> Self {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        Self {
            param: Some("model"),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message)
        }
    }

    /// 404: no such deployment on Azure.
    pub(crate) fn deployment_not_found() -> Self {
        let message = "The API deployment for this resource does not exist.";
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("DeploymentNotFound"), message)
    }

    /// 404: no such path.
    pub(crate) fn unknown_path(method: &http::Method, path: &str) -> Self {
        let message = format!("Invalid URL ({method} {path})");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("unknown_url"), message)
    }

    /// 405: the path exists, the method does not.
    pub(crate) fn wrong_method(method: &http::Method) -> Self {
        let message = format!("Not allowed to {method} here.");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_allowed"), message)
    }

    /// 401: no key, or not the right one.
    pub(crate) fn unauthorized() -> Self {
        let message = "Incorrect API key provided.";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    /// 400: the prompt does not fit.
    pub(crate) fn context_length() -> Self {
        let message = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. \
                       Please reduce the length of the messages.";
        Self { param: Some("messages"), code: Some("context_length_exceeded"), ..Self::invalid(message) }
    }

    /// 400: the prompt was refused by a filter.
    pub(crate) fn content_filter() -> Self {
        let message = "The prompt triggered the content management policy. Please modify it and try again.";
        Self { param: Some("prompt"), code: Some("content_filter"), ..Self::invalid(message) }
    }

    /// 429: no money left.
    pub(crate) fn quota() -> Self {
        let message = "You exceeded your current quota, please check your plan and billing details.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", Some("insufficient_quota"), message)
    }

    /// The usual error behind a status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (kind, code, message) = match status.as_u16() {
            401 => return Self::unauthorized(),
            403 => ("permission_error", None, "Your key may not do this."),
            404 => ("invalid_request_error", Some("not_found"), "There is no such thing."),
            408 | 504 => ("timeout", Some("timeout"), "The request took too long."),
            413 => ("invalid_request_error", None, "The request is too large."),
            429 => ("rate_limit_error", Some("rate_limit_exceeded"), "Rate limit reached. Please try again later."),
            503 | 529 => ("server_error", Some("overloaded"), "The engine is overloaded. Please try again later."),
            400..=499 => ("invalid_request_error", None, "The request was refused."),
            _ => ("server_error", None, "The server had an error while processing your request."),
        };
        Self::new(status, kind, code, message)
    }

    /// As an answer of its own.
    pub(crate) fn answer(&self, vendor: Vendor) -> Answer {
        let status = match vendor {
            // Google calls a key that is none a bad request.
            Vendor::Gemini if self.is_bad_key() => StatusCode::BAD_REQUEST,
            _ => self.status,
        };
        Answer::json(status, &self.body(vendor))
    }

    /// As an event of a stream that has begun.
    pub(crate) fn event(&self, vendor: Vendor) -> Bytes {
        match vendor {
            Vendor::Anthropic => format!("event: error\ndata: {}\n\n", self.body(vendor)).into(),
            Vendor::Responses => {
                // The number does not continue the stream's: the fault that sends this does not count events.
                let response = json!({
                    "id": "resp_failed", "object": "response", "status": "failed", "output": [],
                    "error": {"code": "server_error", "message": self.message},
                });
                let event = json!({"type": "response.failed", "sequence_number": 0, "response": response});
                format!("event: response.failed\ndata: {event}\n\n").into()
            }
            Vendor::OpenAi | Vendor::Azure | Vendor::Gemini => format!("data: {}\n\n", self.body(vendor)).into(),
        }
    }

    fn is_bad_key(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    fn body(&self, vendor: Vendor) -> Value {
        match vendor {
            // Azure's gateway answers before OpenAI's code does: a code that is the status, and no type.
            Vendor::Azure if self.is_bad_key() => {
                let message = "Access denied due to invalid subscription key or wrong API endpoint.";
                json!({"error": {"code": "401", "message": message}})
            }
            Vendor::OpenAi | Vendor::Azure | Vendor::Responses => {
                json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
            }
            Vendor::Anthropic => {
                let error = json!({"type": self.anthropic_type(), "message": self.message_of(vendor)});
                json!({"type": "error", "error": error, "request_id": "req_mock"})
            }
            Vendor::Gemini => self.gemini_body(),
        }
    }

    /// The message where a client recognises an error by it.
    fn message_of(&self, vendor: Vendor) -> &str {
        match (vendor, self.code) {
            (Vendor::Anthropic, Some("context_length_exceeded")) => {
                "prompt is too long: 209001 tokens > 200000 maximum"
            }
            (Vendor::Gemini, Some("context_length_exceeded")) => {
                "The input token count (1209001) exceeds the maximum number of tokens allowed (1048576)."
            }
            _ => &self.message,
        }
    }

    fn anthropic_type(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            408 | 504 => "timeout_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            400..=499 => "invalid_request_error",
            _ => "api_error",
        }
    }

    fn gemini_body(&self) -> Value {
        let (code, status) = match self.status.as_u16() {
            401 => (400, "INVALID_ARGUMENT"),
            403 => (403, "PERMISSION_DENIED"),
            404 => (404, "NOT_FOUND"),
            408 | 504 => (self.status.as_u16(), "DEADLINE_EXCEEDED"),
            429 => (429, "RESOURCE_EXHAUSTED"),
            503 | 529 => (self.status.as_u16(), "UNAVAILABLE"),
            code @ 400..=499 => (code, "INVALID_ARGUMENT"),
            code => (code, "INTERNAL"),
        };
        let mut error = json!({"code": code, "message": self.message_of(Vendor::Gemini), "status": status});
        if self.is_bad_key() {
            error["details"] = json!([{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com",
            }]);
        }
        json!({"error": error})
    }
}
