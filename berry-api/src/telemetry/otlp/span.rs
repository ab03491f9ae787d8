//! What a finished request looks like as spans: one of the server for the request, one of a client for each attempt.
//!
//! Names follow the semantic conventions for HTTP and for generative AI (opentelemetry.io, release 1.37); what they have no name
//! for is below `berry.`. Tokens stand on the attempt that answered, and only there, so that no reader counts them twice. Nothing
//! of a prompt, an answer, a token or a key is in a span.

use std::time::Duration;

use berry_core::config::snapshot::{Backend, Upstream};
use berry_core::operation::Operation;
use berry_core::time::{Epoch, Instant};
use berry_relay::exchange::{End, Reason};
use berry_relay::trace::Trace;
use http::Uri;

use super::wire::Message;
use crate::telemetry::access::{Finished, Tokens, Tried};
use crate::telemetry::alike::Alike;

/// Field of a span in `ScopeSpans`.
const SPANS: u64 = 2;
const KIND_SERVER: u64 = 2;
const KIND_CLIENT: u64 = 3;
const STATUS_ERROR: u64 = 2;

/// Makes spans.
pub(super) struct Encoder {
    /// What the clock's zero is in Unix time.
    clock: Epoch,
    /// The same in nanoseconds, for the request that is being written: none of its spans ends before it begins.
    epoch: u64,
    requests: Alike<RequestWords>,
    attempts: Alike<AttemptWords>,
}

/// What decides most of a request's span, beside model and backend: operation, status, end and number of attempts.
type RequestWords = (Operation, u16, End, u32);

/// The same of an attempt: operation, whether a stream was asked for, status, reason and outcome.
type AttemptWords = (Operation, bool, u16, Reason, &'static str);

/// How many spans a request has.
pub(super) fn count(finished: &Finished) -> u64 {
    1 + finished.tries.len() as u64
}

impl Encoder {
    pub(super) fn new(clock: Epoch) -> Self {
        Self { clock, epoch: 0, requests: Alike::default(), attempts: Alike::default() }
    }

    /// Writes the spans of a traced request, as fields of `ScopeSpans`. Returns how many.
    pub(super) fn write(&mut self, finished: &Finished, trace: &Trace, out: &mut Message) -> u64 {
        self.epoch = u64::try_from(self.clock.nanos()).unwrap_or(0);
        out.message(SPANS, |span| self.request(span, finished, trace));
        for (number, attempt) in (1..).zip(&finished.tries) {
            out.message(SPANS, |span| self.attempt(span, finished, attempt, trace, number));
        }
        count(finished)
    }

    fn request(&mut self, span: &mut Message, finished: &Finished, trace: &Trace) {
        let ids = Ids { trace: trace.trace_id, span: trace.span_id, parent: trace.parent };
        self.begin(span, &ids, finished.started, finished.started + finished.latency);
        match (&finished.model, &finished.backend) {
            (Some(model), Some(backend)) => {
                let words = (finished.operation, finished.status, finished.end, finished.attempts);
                span.alike(&mut self.requests, (words, model, backend), |span| of_request(span, finished));
            }
            _ => of_request(span, finished),
        }
        text(span, "berry.request_id", finished.request_id.as_str());
        if let Some(user) = &finished.user {
            text(span, "user.id", user.id.as_str());
        }
        if let Some(cost) = finished.cost {
            text(span, "berry.cost_usd", cost.text().as_str());
        }
    }

    fn attempt(&mut self, span: &mut Message, finished: &Finished, attempt: &Tried, trace: &Trace, number: u32) {
        let ids = Ids { trace: trace.trace_id, span: trace.attempt(number), parent: Some(trace.span_id) };
        self.begin(span, &ids, attempt.started, attempt.ended);
        match &finished.model {
            Some(model) if finished.is_usual() => {
                let Finished { operation, stream, .. } = *finished;
                let words = (operation, stream, attempt.status, attempt.reason, attempt.outcome);
                let key = (words, model, &attempt.backend);
                span.alike(&mut self.attempts, key, |span| of_attempt(span, finished, attempt));
            }
            _ => of_attempt(span, finished, attempt),
        }
        if let (true, Some(ttft)) = (finished.stream, attempt.ttft) {
            seconds(span, "gen_ai.response.time_to_first_chunk", ttft);
        }
        if number == finished.attempts && !attempt.failed {
            usage(span, &finished.tokens);
        }
    }

    /// What every span begins with: whose it is and when it was.
    fn begin(&self, span: &mut Message, ids: &Ids, started: Instant, ended: Instant) {
        // Keys, lengths and flags stand in place; the parent comes last, since a trace that begins here has none.
        let mut fields =
            *b"\x0a\x10________________\x12\x08________\x39________\x41________\x85\x01\x01\0\0\0\x22\x08________";
        fields[2..18].copy_from_slice(&ids.trace.to_be_bytes());
        fields[20..28].copy_from_slice(&ids.span.to_be_bytes());
        fields[29..37].copy_from_slice(&self.epoch.saturating_add(started.as_nanos()).to_le_bytes());
        fields[38..46].copy_from_slice(&self.epoch.saturating_add(ended.as_nanos()).to_le_bytes());
        fields[54..62].copy_from_slice(&ids.parent.unwrap_or_default().to_be_bytes());
        span.raw(if ids.parent.is_some() { &fields } else { &fields[..52] });
    }
}

/// How a span is named and whose child it is.
struct Ids {
    trace: u128,
    span: u64,
    parent: Option<u64>,
}

/// What the spans of many requests have alike.
fn of_request(span: &mut Message, finished: &Finished) {
    of_operation(span, finished.operation);
    if let Some(model) = &finished.model {
        text(span, "berry.model", model.name.as_str());
        text(span, "berry.strategy", model.strategy.as_str());
    }
    if finished.status != 0 {
        whole(span, "http.response.status_code", u64::from(finished.status));
    }
    text(span, "berry.outcome", finished.end.as_str());
    whole(span, "berry.attempts", u64::from(finished.attempts));
    let kind = match finished.end {
        End::Failed(kind) => Some(kind.code()),
        End::Complete | End::Cancelled => None,
    };
    if let Some(kind) = kind {
        text(span, "error.type", kind);
    }
    // A caller's own mistake is no error of a server's span.
    if finished.status >= 500 || (kind.is_some() && finished.status < 400) {
        failed(span);
    }
}

/// What the spans of many attempts have alike.
fn of_attempt(span: &mut Message, finished: &Finished, attempt: &Tried) {
    let upstream_model = finished.upstream_model(&attempt.backend);
    span.two_words(5, [operation_name(finished.operation), upstream_model]);
    text(span, "gen_ai.request.model", upstream_model);
    of_backend(span, finished.operation, &attempt.backend);
    flag(span, "gen_ai.request.stream", finished.stream);
    if attempt.status != 0 {
        whole(span, "http.response.status_code", u64::from(attempt.status));
    }
    text(span, "berry.attempt.reason", attempt.reason.as_str());
    text(span, "berry.attempt.outcome", attempt.outcome);
    if attempt.failed {
        text(span, "error.type", attempt.outcome);
        failed(span);
    }
}

fn of_operation(span: &mut Message, operation: Operation) {
    let path = operation.path();
    let route = path.split_once('?').map_or(path, |(path, _)| path);
    span.two_words(5, ["POST", route]);
    span.number(6, KIND_SERVER);
    text(span, "http.request.method", "POST");
    text(span, "http.route", route);
}

fn of_backend(span: &mut Message, operation: Operation, backend: &Backend) {
    span.number(6, KIND_CLIENT);
    text(span, "gen_ai.operation.name", operation_name(operation));
    text(span, "gen_ai.provider.name", provider_name(&backend.provider.upstream));
    if let Some((host, port)) = server(backend) {
        text(span, "server.address", host);
        whole(span, "server.port", u64::from(port));
    }
    text(span, "berry.provider", backend.id.provider.as_str());
}

fn usage(span: &mut Message, tokens: &Tokens) {
    let names = [
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.reasoning.output_tokens",
    ];
    for (name, count) in names.into_iter().zip(tokens.counts()) {
        if let Some(count) = count {
            whole(span, name, count);
        }
    }
}

/// The conventions' name, where they have one.
const fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::ChatCompletions | Operation::Responses | Operation::Messages => "chat",
        Operation::Completions => "text_completion",
        Operation::Embeddings | Operation::EmbedContent | Operation::BatchEmbedContents => "embeddings",
        Operation::GenerateContent | Operation::StreamGenerateContent | Operation::StreamGenerateContentArray => {
            "generate_content"
        }
        Operation::Moderations => "moderation",
        Operation::Rerank => "rerank",
        Operation::ImageGenerations | Operation::ImageEdits | Operation::ImageVariations => "image",
        Operation::AudioSpeech => "speech",
        Operation::AudioTranscriptions | Operation::AudioTranslations => "transcription",
        Operation::CountTokens | Operation::GeminiCountTokens => "count_tokens",
    }
}

/// Which kind of service answers, as the conventions call it. An OpenAI-compatible server counts as `openai`, which is what they
/// ask for where only the protocol is known.
const fn provider_name(upstream: &Upstream) -> &'static str {
    match upstream {
        Upstream::OpenAi { .. } => "openai",
        Upstream::Azure(_) => "azure.ai.openai",
        Upstream::Anthropic { .. } => "anthropic",
        Upstream::Gemini { .. } => "gcp.gemini",
        Upstream::Demo(_) => "berry.demo",
    }
}

/// Host and port of the upstream; none for the one that is built in.
fn server(backend: &Backend) -> Option<(&str, u16)> {
    let base: &Uri = match &backend.provider.upstream {
        Upstream::OpenAi { base } | Upstream::Anthropic { base, .. } | Upstream::Gemini { base } => base,
        Upstream::Azure(azure) => &azure.base,
        Upstream::Demo(_) => return None,
    };
    let usual = if base.scheme_str() == Some("http") { 80 } else { 443 };
    Some((base.host()?, base.port_u16().unwrap_or(usual)))
}

fn failed(span: &mut Message) {
    span.message(15, |status| status.number(3, STATUS_ERROR));
}

/// Field of an attribute in a span.
const ATTRIBUTES: u64 = 9;

/// A pair of texts of a resource.
pub(super) fn resource_text(resource: &mut Message, key: &str, value: &str) {
    resource.text_pair(1, key, value);
}

fn text(span: &mut Message, key: &str, value: &str) {
    span.text_pair(ATTRIBUTES, key, value);
}

fn flag(span: &mut Message, key: &str, value: bool) {
    span.number_pair(ATTRIBUTES, key, 2, value.into());
}

fn whole(span: &mut Message, key: &str, value: u64) {
    span.number_pair(ATTRIBUTES, key, 3, value);
}

fn seconds(span: &mut Message, key: &str, value: Duration) {
    span.float_pair(ATTRIBUTES, key, value.as_secs_f64());
}
