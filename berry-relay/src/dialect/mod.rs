//! Translation between dialects: decoders and encoders around one typed form ([`ir`]).
//!
//! Same dialect on both sides never comes here: bytes pass through. Otherwise the client's request is decoded once, encoded for
//! each backend that is tried, and the answer goes the other way. A translation is a pure function: the same bytes in give the same
//! bytes out, so that a vendor's prompt cache finds what it has seen before. What cannot be carried is a
//! [`Loss`](loss::Loss).
//!
//! Facts about formats come from the vendors' API references (platform.openai.com/docs/api-reference, docs.anthropic.com/en/api,
//! ai.google.dev/api), read in 2025 and 2026.

pub mod anthropic_messages;
pub mod carried;
pub mod embeddings;
pub mod error;
pub mod gemini_generate;
pub mod history;
pub mod ids;
pub mod ir;
pub mod issuer;
pub mod loss;
pub mod openai_chat;
pub mod openai_responses;
pub mod reader;
pub mod rerank;
pub mod schema;
pub mod serial;
pub mod steps;
pub mod text;
pub mod translate;

pub use berry_core::config::provider_data::{Capabilities, Sampling, ThinkingAsk};
use bytes::{Bytes, BytesMut};

use self::ir::{Event, Request, Response, UpstreamError};
use self::loss::Losses;
use crate::body::Chunks;

/// The formats that an answer of a model can be asked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// OpenAI `chat/completions`.
    OpenAiChat,
    /// OpenAI `responses`.
    OpenAiResponses,
    /// Anthropic `messages`.
    AnthropicMessages,
    /// Gemini `generateContent` and `streamGenerateContent`.
    GeminiGenerate,
}

/// A body that is not what its dialect says it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", match field.is_empty() { true => why.to_owned(), false => format!("`{field}`: {why}") })]
pub struct Malformed {
    /// The field; empty for the body as a whole.
    pub field: String,
    /// What is wrong.
    pub why: String,
}

impl Malformed {
    /// Says what is wrong with a field.
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }
}

/// What an encoder of requests is told of the backend that it writes for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The upstream's name for the model.
    pub model: &'a str,
    /// What the model can do.
    pub capabilities: &'a Capabilities,
    /// Whether opaque state (signatures, encrypted reasoning) was issued by this backend, so that it may be sent.
    pub own_state: bool,
    /// Whether a stream is to be asked for its usage.
    pub ask_usage: bool,
}

/// What an encoder of answers is told.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Our name for the request: ids of answers are made from it.
    pub request_id: String,
    /// The model's name for the client, where the operator wants the public one; else the upstream's is shown.
    pub model: Option<String>,
    /// The name that the client asked for; shown when the upstream tells none.
    pub asked_model: String,
    /// Unix time of the request, seconds.
    pub created: u64,
    /// Whether a stream is to end with its usage, where that is a choice.
    pub stream_usage: bool,
    /// An estimate of the prompt's tokens, for dialects that tell it before the upstream has.
    pub estimated_input: u64,
}

/// One wire format, both ways.
pub trait Codec: Send + Sync {
    /// Reads a client's request. What the form has no place for goes into `losses` or into [`Request::extras`].
    ///
    /// # Errors
    /// [`Malformed`]: a 400 for the client.
    fn decode_request(&self, body: &Bytes, losses: &mut Losses) -> Result<Request, Malformed>;

    /// Writes a request for a backend.
    ///
    /// # Errors
    /// [`Malformed`]: something that cannot be left out and has no place there, a 400 for the client.
    fn encode_request(&self, request: &Request, target: &Target<'_>, losses: &mut Losses) -> Result<Chunks, Malformed>;

    /// Reads an upstream's plain answer.
    ///
    /// # Errors
    /// [`Malformed`]: it is no answer.
    fn decode_response(&self, body: &Bytes) -> Result<Response, Malformed>;

    /// Writes a plain answer for a client.
    fn encode_response(&self, response: &Response, reply: &Reply) -> Bytes;

    /// A reader of an upstream's stream.
    fn stream_decoder(&self) -> Box<dyn StreamDecoder>;

    /// A writer of a client's stream.
    fn stream_encoder(&self, reply: &Reply) -> Box<dyn StreamEncoder>;

    /// The status and the body of an error that the upstream answered with `status`.
    fn encode_error(&self, error: &UpstreamError, status: u16, request_id: &str) -> (u16, Bytes);
}

/// Reads one upstream stream. A state machine of one answer: what it holds is bounded.
pub trait StreamDecoder: Send + Sync {
    /// Takes the name and the data of the next event that has any, without white space around it, and adds what it means to
    /// `out`. An event that means a piece of text ([`ir::Delta::Text`]), figures at most behind it, and nothing else, leaves the
    /// decoder as one with any other text and figures would: [`reader`] does not show it the next one that is like it.
    ///
    /// # Errors
    /// [`Malformed`]: not what the dialect says.
    fn push(&mut self, name: Option<&[u8]>, data: &Bytes, out: &mut Vec<Event>) -> Result<(), Malformed>;

    /// The stream is over: adds what was held back. Blocks that are open are closed, and an answer without an end gets one only if
    /// the dialect allows that.
    fn finish(&mut self, out: &mut Vec<Event>);
}

/// Writes one client stream. A state machine of one answer.
pub trait StreamEncoder: Send + Sync {
    /// Writes what the event means in this dialect, as whole frames.
    fn push(&mut self, event: Event, out: &mut BytesMut);

    /// Writes how a stream ends in this dialect: figures, terminal event, terminator. Nothing after an error.
    fn finish(&mut self, out: &mut BytesMut);
}
