//! What a finished request looks like as spans: one of the server for the request, one of a client for each attempt.
//!
//! Names follow the semantic conventions for HTTP and for generative AI (opentelemetry.io, release 1.37); what they have no name
//! for is below `berry.`. Tokens stand on the attempt that answered, and only there, so that no reader counts them twice. Nothing
//! of a prompt, an answer, a token or a key is in a span.

use std::time::{Duration, UNIX_EPOCH};

use berry_core::config::snapshot::{Backend, Upstream};
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

/// Writes the spans of a request, as fields of `ScopeSpans`. Returns how many.
pub(super) fn write(facts: &Facts, trace: &Trace, wall: WallClock, now: Instant, out: &mut Message) -> u64 {
    out.message(SPANS, |span| request(span, facts, trace, wall, now));
    for (number, attempt) in (1..).zip(&facts.tries) {
        out.message(SPANS, |span| tried(span, facts, attempt, trace, number, wall));
    }
    count(facts)
}

/// How many spans a request has.
pub(super) fn count(facts: &Facts) -> u64 {
    1 + facts.tries.len() as u64
}

fn request(span: &mut Message, facts: &Facts, trace: &Trace, wall: WallClock, now: Instant) {
    let path = facts.operation.path();
    let route = path.split_once('?').map_or(path, |(path, _)| path);
    let ids = Ids { trace: trace.trace_id, span: trace.span_id, parent: trace.parent };
    begin(span, ids, ["POST", route], KIND_SERVER, wall, (facts.started, now));
    text(span, "http.request.method", "POST");
    text(span, "http.route", route);
    if facts.status != 0 {
        whole(span, "http.response.status_code", u64::from(facts.status));
    }
    text(span, "berry.request_id", facts.request_id.as_str());
    if let Some(user) = &facts.user {
        text(span, "user.id", user.id.as_str());
    }
    if let Some(model) = &facts.model {
        text(span, "berry.model", model.name.as_str());
        text(span, "berry.strategy", model.strategy.as_str());
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

fn tried(span: &mut Message, facts: &Facts, attempt: &Try, trace: &Trace, number: u32, wall: WallClock) {
    let backend = &attempt.backend;
    let (operation, upstream_model) = (operation_name(facts.operation), facts.upstream_model(backend));
    let end = attempt.started + attempt.duration.unwrap_or_default();
    let ids = Ids { trace: trace.trace_id, span: trace.attempt(number), parent: Some(trace.span_id) };
    begin(span, ids, [operation, upstream_model], KIND_CLIENT, wall, (attempt.started, end));
    text(span, "gen_ai.operation.name", operation);
    text(span, "gen_ai.provider.name", provider_name(&backend.provider.upstream));
    text(span, "gen_ai.request.model", upstream_model);
    flag(span, "gen_ai.request.stream", facts.stream);
    if let Some((host, port)) = server(backend) {
        text(span, "server.address", host);
        whole(span, "server.port", u64::from(port));
    }
    if attempt.status != 0 {
        whole(span, "http.response.status_code", u64::from(attempt.status));
    }
    if let (true, Some(ttft)) = (facts.stream, attempt.ttft) {
        seconds(span, "gen_ai.response.time_to_first_chunk", ttft);
    }
    if number == facts.attempts && matches!(attempt.outcome, Outcome::Success { .. } | Outcome::Cancelled) {
        usage(span, &facts.usage);
    }
    text(span, "berry.provider", backend.id.provider.as_str());
    text(span, "berry.attempt.reason", attempt.reason.as_str());
    text(span, "berry.attempt.outcome", attempt.outcome_name());
    if matches!(attempt.outcome, Outcome::Failure { .. } | Outcome::CallerFault) {
        text(span, "error.type", attempt.outcome_name());
        failed(span);
    }
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

/// How a span is named and whose child it is.
struct Ids {
    trace: u128,
    span: u64,
    parent: Option<u64>,
}

fn begin(span: &mut Message, ids: Ids, name: [&str; 2], kind: u64, wall: WallClock, (start, end): (Instant, Instant)) {
    span.bytes(1, &ids.trace.to_be_bytes());
    span.bytes(2, &ids.span.to_be_bytes());
    if let Some(parent) = ids.parent {
        span.bytes(4, &parent.to_be_bytes());
    }
    span.two_words(5, name);
    span.number(6, kind);
    span.fixed64(7, unix_nanos(wall, start));
    span.fixed64(8, unix_nanos(wall, end));
    span.fixed32(16, FLAGS_SAMPLED);
}

fn unix_nanos(wall: WallClock, at: Instant) -> u64 {
    let start = wall.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from((start + at.since(Instant::START)).as_nanos()).unwrap_or(u64::MAX)
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
