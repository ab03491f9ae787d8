//! Gemini's `generateContent` and `streamGenerateContent`, as a client's and as an upstream's format.
//!
//! Facts: ai.google.dev/api/generate-content, /gemini-api/docs/thinking, /thought-signatures and /structured-output, read in 2026.

mod logprobs;
mod request_in;
mod request_out;
mod response;
mod schema;
mod stream;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use super::ir::{ErrorClass, Request, Response, Stop, UpstreamError};
use super::loss::Losses;
use super::text::{Json, Writer};
use super::{Codec, Malformed, Reply, StreamDecoder, StreamEncoder, Target};
use crate::body::Chunks;
use crate::meter;

/// What Google documents for calls that another model made: their signature is not looked at.
pub(super) const FOREIGN_CALL: &str = "skip_thought_signature_validator";

/// What a client of another dialect is told of an answer that is none: no other dialect can say it in a word.
const BAD_CALL: &str = "The model wrote a tool call that cannot be read.";

/// The codec.
#[derive(Clone, Copy, Debug, Default)]
pub struct GeminiGenerate;

impl Codec for GeminiGenerate {
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
        Box::new(stream::Decoder::default())
    }

    fn stream_encoder(&self, reply: &Reply) -> Box<dyn StreamEncoder> {
        Box::new(stream::Encoder::new(reply))
    }

    fn encode_error(&self, error: &UpstreamError, status: u16, _request_id: &str) -> (u16, Bytes) {
        let mut writer = Writer::new();
        // Its clients do not know the status that only Anthropic has.
        let status = if status == 529 { 503 } else { status };
        write_error(&mut writer, error, status);
        (status, writer.finish().into_bytes())
    }
}

/// The object of an error.
fn write_error(w: &mut Writer, error: &UpstreamError, status: u16) {
    w.object(|w| {
        w.key("error").object(|w| {
            w.key("code").integer(u64::from(status));
            w.key("message").string(&error.message);
            w.key("status").string(status_word(error.kind));
        });
    });
}

/// Google's word for an error.
fn status_word(kind: ErrorClass) -> &'static str {
    match kind {
        ErrorClass::BadRequest | ErrorClass::ContextTooLong | ErrorClass::ContentFilter | ErrorClass::TooLarge => {
            "INVALID_ARGUMENT"
        }
        ErrorClass::BadKey => "UNAUTHENTICATED",
        ErrorClass::Billing | ErrorClass::RateLimit => "RESOURCE_EXHAUSTED",
        ErrorClass::Forbidden => "PERMISSION_DENIED",
        ErrorClass::NotFound => "NOT_FOUND",
        ErrorClass::Server => "INTERNAL",
        ErrorClass::Overloaded => "UNAVAILABLE",
        ErrorClass::Timeout => "DEADLINE_EXCEEDED",
    }
}

/// The status that goes with an error inside a stream.
const fn status_of(kind: ErrorClass) -> u16 {
    match kind {
        ErrorClass::BadRequest | ErrorClass::ContextTooLong | ErrorClass::ContentFilter => 400,
        ErrorClass::BadKey => 401,
        ErrorClass::Forbidden => 403,
        ErrorClass::NotFound => 404,
        ErrorClass::TooLarge => 413,
        ErrorClass::Billing | ErrorClass::RateLimit => 429,
        ErrorClass::Server => 500,
        ErrorClass::Overloaded => 503,
        ErrorClass::Timeout => 504,
    }
}

/// What an error object of Gemini means.
fn read_error(error: &Json) -> UpstreamError {
    let mut fields = error.fields();
    let word = fields.string("status").unwrap_or_default();
    let code = fields.take("code").and_then(|code| code.integer()).unwrap_or(0);
    let kind = match (word.as_str(), code) {
        ("UNAUTHENTICATED", _) | (_, 401) => ErrorClass::BadKey,
        ("PERMISSION_DENIED", _) | (_, 403) => ErrorClass::Forbidden,
        ("NOT_FOUND", _) | (_, 404) => ErrorClass::NotFound,
        ("RESOURCE_EXHAUSTED", _) | (_, 429) => ErrorClass::RateLimit,
        ("UNAVAILABLE", _) | (_, 503) => ErrorClass::Overloaded,
        ("DEADLINE_EXCEEDED", _) | (_, 504) => ErrorClass::Timeout,
        ("INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE", _) | (_, 400..500) => ErrorClass::BadRequest,
        _ => ErrorClass::Server,
    };
    UpstreamError { kind, message: fields.string("message").unwrap_or_default(), param: None }
}

/// Why an answer ended.
///
/// Only `STOP` says that it is whole, and `FUNCTION_CALL`, which some emulators write where a call ends it. Of the other words all but the limit and the calls that nobody can read are filters (`SAFETY`,
/// `RECITATION`, `LANGUAGE`, `BLOCKLIST`, `PROHIBITED_CONTENT`, `SPII`, `MODEL_ARMOR`, `NO_IMAGE`, `IMAGE_…`), and so were those that
/// came in the last years; `OTHER`, often without any content, and a word that is not known are taken for one too, so that what is
/// cut does not look whole (ai.google.dev/api/generate-content and the Vertex AI reference, 2026).
fn read_stop(reason: &str) -> Option<Stop> {
    Some(match reason {
        "" => return None,
        unspecified if unspecified.ends_with("_UNSPECIFIED") => return None,
        "STOP" | "FUNCTION_CALL" => Stop::End,
        "MAX_TOKENS" => Stop::Length,
        reason if meter::is_bad_call(reason.as_bytes()) => Stop::MalformedCall,
        _ => Stop::Filter,
    })
}

/// The word for why an answer ended.
fn stop_word(stop: &Stop) -> &'static str {
    match stop {
        Stop::End | Stop::Sequence(_) | Stop::ToolCalls | Stop::Pause | Stop::Refusal => "STOP",
        Stop::Length | Stop::ContextFull => "MAX_TOKENS",
        Stop::Filter => "SAFETY",
        Stop::MalformedCall => "MALFORMED_FUNCTION_CALL",
        Stop::Error => "OTHER",
    }
}
