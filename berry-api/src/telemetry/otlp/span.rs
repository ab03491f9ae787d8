//! What a finished request looks like as spans: one of the server for the request, one of a client for each attempt.
//!
//! Names follow the semantic conventions for HTTP and for generative AI (opentelemetry.io, release 1.37); what they have no name
//! for is below `berry.`. Tokens stand on the attempt that answered, and only there, so that no reader counts them twice. Nothing
//! of a prompt, an answer, a token or a key is in a span.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use berry_core::config::snapshot::{Backend, Model, Upstream};
use berry_core::operation::Operation;
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::outcome::Outcome;
use berry_relay::exchange::{End, Facts, Try};
use berry_relay::trace::Trace;
use http::Uri;

use super::wire::Message;
use crate::status::WallClock;

/// Field of a span in `ScopeSpans`.
const SPANS: u64 = 2;
const KIND_SERVER: u64 = 2;
const KIND_CLIENT: u64 = 3;
const STATUS_ERROR: u64 = 2;
/// W3C flag `sampled`, and that the parent is known to be remote or not.
const FLAGS_SAMPLED: u32 = 1;

/// Makes spans.
pub(super) struct Encoder {
    /// Unix time at the clock's zero, nanoseconds.
    epoch: u64,
    of_models: Alike<Model>,
    of_backends: Alike<Backend>,
}

/// How many spans a request has.
pub(super) fn count(facts: &Facts) -> u64 {
    1 + facts.tries.len() as u64
}

impl Encoder {
    pub(super) fn new(wall: WallClock) -> Self {
        let epoch = wall.start.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        Self {
            epoch: u64::try_from(epoch).unwrap_or(u64::MAX),
            of_models: Alike::default(),
            of_backends: Alike::default(),
        }
    }

    /// Writes the spans of a request that took so long, as fields of `ScopeSpans`. Returns how many.
    pub(super) fn write(&mut self, facts: &Facts, trace: &Trace, latency: Duration, out: &mut Message) -> u64 {
        out.message(SPANS, |span| self.request(span, facts, trace, latency));
        for (number, attempt) in (1..).zip(&facts.tries) {
            out.message(SPANS, |span| self.attempt(span, facts, attempt, trace, number));
        }
        count(facts)
    }

    fn request(&mut self, span: &mut Message, facts: &Facts, trace: &Trace, latency: Duration) {
        let ids = Ids { trace: trace.trace_id, span: trace.span_id, parent: trace.parent };
        self.begin(span, ids, facts.started, latency);
        match &facts.model {
            Some(model) => self.of_models.write(span, facts.operation, model, |span| {
                of_operation(span, facts.operation);
                text(span, "berry.model", model.name.as_str());
                text(span, "berry.strategy", model.strategy.as_str());
            }),
            None => of_operation(span, facts.operation),
        }
        if facts.status != 0 {
            whole(span, "http.response.status_code", u64::from(facts.status));
        }
        text(span, "berry.request_id", facts.request_id.as_str());
        if let Some(user) = &facts.user {
            text(span, "user.id", user.id.as_str());
        }
        text(span, "berry.outcome", facts.end.as_str());
        whole(span, "berry.attempts", u64::from(facts.attempts));
        if let Some(cost) = &facts.cost {
            text(span, "berry.cost_usd", &cost.total.to_string());
        }
        let kind = match facts.end {
            End::Failed(kind) => Some(kind.code()),
            End::Complete | End::Cancelled => None,
        };
        if let Some(kind) = kind {
            text(span, "error.type", kind);
        }
        // A caller's own mistake is no error of a server's span.
        if facts.status >= 500 || (kind.is_some() && facts.status < 400) {
            failed(span);
        }
    }

    fn attempt(&mut self, span: &mut Message, facts: &Facts, attempt: &Try, trace: &Trace, number: u32) {
        let ids = Ids { trace: trace.trace_id, span: trace.attempt(number), parent: Some(trace.span_id) };
        self.begin(span, ids, attempt.started, attempt.duration.unwrap_or_default());
        let backend = &attempt.backend;
        let upstream_model = facts.upstream_model(backend);
        span.two_words(5, [operation_name(facts.operation), upstream_model]);
        text(span, "gen_ai.request.model", upstream_model);
        self.of_backends.write(span, facts.operation, backend, |span| of_backend(span, facts.operation, backend));
        flag(span, "gen_ai.request.stream", facts.stream);
        if attempt.status != 0 {
            whole(span, "http.response.status_code", u64::from(attempt.status));
        }
        if let (true, Some(ttft)) = (facts.stream, attempt.ttft) {
            seconds(span, "gen_ai.response.time_to_first_chunk", ttft);
        }
        if number == facts.attempts && matches!(attempt.outcome, Outcome::Success { .. } | Outcome::Cancelled) {
            usage(span, &facts.usage);
        }
        text(span, "berry.attempt.reason", attempt.reason.as_str());
        text(span, "berry.attempt.outcome", attempt.outcome_name());
        if matches!(attempt.outcome, Outcome::Failure { .. } | Outcome::CallerFault) {
            text(span, "error.type", attempt.outcome_name());
            failed(span);
        }
    }

    fn begin(&self, span: &mut Message, ids: Ids, started: Instant, duration: Duration) {
        span.bytes(1, &ids.trace.to_be_bytes());
        span.bytes(2, &ids.span.to_be_bytes());
        if let Some(parent) = ids.parent {
            span.bytes(4, &parent.to_be_bytes());
        }
        span.fixed64(7, self.epoch.saturating_add(started.as_nanos()));
        span.fixed64(8, self.epoch.saturating_add((started + duration).as_nanos()));
        span.fixed32(16, FLAGS_SAMPLED);
    }
}

/// How a span is named and whose child it is.
struct Ids {
    trace: u128,
    span: u64,
    parent: Option<u64>,
}

/// Encoded fields that all spans of one thing of the configuration have alike, for each operation.
struct Alike<T>(Vec<(Operation, Arc<T>, Message)>);

/// Most that are kept; then they are encoded anew. Bounds what is kept of configurations that are no longer in force.
const ALIKE_MAX: usize = 64;

impl<T> Default for Alike<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Alike<T> {
    /// Writes the fields of `of`; `encode` makes them when they are not known.
    fn write(&mut self, span: &mut Message, operation: Operation, of: &Arc<T>, encode: impl FnOnce(&mut Message)) {
        let known = self.0.iter().find(|(known, thing, _)| *known == operation && Arc::ptr_eq(thing, of));
        if let Some((.., fields)) = known {
            return span.append(fields);
        }
        let mut fields = Message::default();
        encode(&mut fields);
        span.append(&fields);
        if self.0.len() == ALIKE_MAX {
            self.0.clear();
        }
        self.0.push((operation, Arc::clone(of), fields));
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

fn usage(span: &mut Message, usage: &Usage) {
    let counts = [
        ("gen_ai.usage.input_tokens", usage.input_tokens),
        ("gen_ai.usage.output_tokens", usage.output_tokens),
        ("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
        ("gen_ai.usage.cache_creation.input_tokens", usage.cache_write_tokens),
        ("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens),
    ];
    for (name, count) in counts {
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
