//! OpenAI's Responses API, as a client's and as an upstream's format.
//!
//! Facts: platform.openai.com/docs/api-reference/responses and /responses-streaming, read in 2026.

mod request_in;
mod request_out;
mod response;
mod stream_in;
mod stream_out;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use super::ir::{ErrorClass, Request, Response, Stop, UpstreamError};
use super::loss::Losses;
use super::text::Json;
use super::{Codec, Malformed, Reply, StreamDecoder, StreamEncoder, Target, error};
use crate::body::Chunks;

/// The codec.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAiResponses;

impl Codec for OpenAiResponses {
    fn decode_request(&self, body: &Bytes, losses: &mut Losses) -> Result<Request, Malformed> {
        request_in::decode(body, losses)
    }

    fn encode_request(&self, request: &Request, target: &Target<'_>, losses: &mut Losses) -> Result<Chunks, Malformed> {
        request_out::encode(request, target, losses)
    }

    fn decode_response(&self, body: &Bytes) -> Result<Response, Malformed> {
        response::decode(body)
    }

    fn encode_response(&self, response: &Response, reply: &Reply) -> Bytes {
        response::encode(response, reply)
    }

    fn stream_decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(stream_in::Decoder::default())
    }

    fn stream_encoder(&self, reply: &Reply) -> Box<dyn StreamEncoder> {
        Box::new(stream_out::Encoder::new(reply))
    }

    fn encode_error(&self, error: &UpstreamError, status: u16, _request_id: &str) -> (u16, Bytes) {
        (error::openai_status(error, status), error::openai_body(error))
    }
}

fn error_code(kind: ErrorClass) -> &'static str {
    match kind {
        ErrorClass::BadRequest | ErrorClass::TooLarge => "invalid_request_error",
        ErrorClass::ContextTooLong => "context_length_exceeded",
        ErrorClass::ContentFilter => "content_filter",
        ErrorClass::BadKey => "invalid_api_key",
        ErrorClass::Billing => "insufficient_quota",
        ErrorClass::Forbidden => "permission_denied",
        ErrorClass::NotFound => "model_not_found",
        ErrorClass::RateLimit => "rate_limit_exceeded",
        ErrorClass::Server => "server_error",
        ErrorClass::Overloaded => "overloaded",
        ErrorClass::Timeout => "timeout",
    }
}

/// What an error object of a response or of a stream means.
fn read_error(error: &Json) -> UpstreamError {
    let mut fields = error.fields();
    let code = fields.string("code").unwrap_or_default();
    let word = fields.string("type").unwrap_or_default();
    let kind = match (code.as_str(), word.as_str()) {
        ("context_length_exceeded", _) => ErrorClass::ContextTooLong,
        ("content_filter" | "content_policy_violation", _) => ErrorClass::ContentFilter,
        ("insufficient_quota", _) | (_, "insufficient_quota") => ErrorClass::Billing,
        ("rate_limit_exceeded", _) | (_, "rate_limit_error") => ErrorClass::RateLimit,
        ("invalid_api_key", _) | (_, "authentication_error") => ErrorClass::BadKey,
        ("model_not_found", _) => ErrorClass::NotFound,
        ("overloaded" | "server_is_overloaded" | "slow_down", _) => ErrorClass::Overloaded,
        ("timeout", _) => ErrorClass::Timeout,
        ("invalid_prompt" | "invalid_request_error", _) | (_, "invalid_request_error") => ErrorClass::BadRequest,
        _ => ErrorClass::Server,
    };
    UpstreamError { kind, message: fields.string("message").unwrap_or_default(), param: fields.string("param") }
}

/// `status` and the reason of an answer that is not complete.
fn status_of(stop: &Stop) -> (&'static str, Option<&'static str>) {
    match stop {
        Stop::End | Stop::Sequence(_) | Stop::ToolCalls | Stop::Refusal => ("completed", None),
        Stop::Length | Stop::ContextFull | Stop::Pause => ("incomplete", Some("max_output_tokens")),
        Stop::Filter => ("incomplete", Some("content_filter")),
        Stop::MalformedCall | Stop::Error => ("failed", None),
    }
}
