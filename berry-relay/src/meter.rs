//! The side tap: what an answer used, and what each event of a stream means. It reads and never changes.
//!
//! An event is checked by the skipping scanner; only its `choices`, `delta` or `usage` is looked into, and nothing is built.
//! Usage conventions (vendors' API references, 2025): OpenAI's `prompt_tokens` and `input_tokens` include cached tokens;
//! Anthropic's `input_tokens` leaves out both cache counts; Gemini's `promptTokenCount` includes them, and its thoughts stand
//! beside `candidatesTokenCount`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use berry_core::operation::StreamFormat;
use berry_core::usage::Usage;
use http::StatusCode;
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::body::Chunks;
use crate::json::{Kind, Members, Scanner};
use crate::sse::Event;

/// The key with its closing quote, which cannot stand inside a text: there it would be escaped.
const FINISH_REASON: &[u8] = b"finish_reason\"";

/// What an event means to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClass {
    /// Text, reasoning, a tool call or a refusal: something that a client waits for.
    Content,
    /// Nothing yet: a role, a ping, a comment.
    Empty,
    /// Figures and nothing else.
    UsageOnly,
    /// The end of the answer, as its dialect says it.
    Terminal,
    /// An error of the upstream.
    Error,
    /// Data that is not what it should be.
    Unparsable,
}

/// Reads the usage of a plain answer.
pub fn usage_of_answer(body: &Chunks, members: &Members) -> Usage {
    ["usage", "usageMetadata"]
        .iter()
        .find_map(|name| members.get(name))
        .map(|member| read_usage(&body.slice(member.value.clone())))
        .unwrap_or_default()
}

/// The HTTP status that an error object names in `status` or `code`, as Azure and OpenRouter write it.
pub(crate) fn status_of_error(error: &[u8]) -> Option<StatusCode> {
    #[derive(Deserialize)]
    struct Error {
        #[serde(default)]
        status: Count,
        #[serde(default)]
        code: Count,
    }
    let error: Error = serde_json::from_slice(error).ok()?;
    let named = [error.status, error.code].into_iter().filter_map(|count| u16::try_from(count.0?).ok());
    named.filter(|status| (400..600).contains(status)).find_map(|status| StatusCode::from_u16(status).ok())
}

/// Watches one stream.
#[derive(Debug)]
pub struct StreamTap {
    format: StreamFormat,
    usage: Usage,
    terminal_seen: bool,
    /// Finds the key of a finish reason.
    finish_reason: memmem::Finder<'static>,
    /// A terminal event that says how the answer ended; `[DONE]` alone does not.
    finish_seen: bool,
    content_seen: bool,
}

impl StreamTap {
    /// A tap for a stream of this format.
    pub fn new(format: StreamFormat) -> Self {
        let finish_reason = memmem::Finder::new(FINISH_REASON);
        Self {
            format,
            finish_reason,
            usage: Usage::default(),
            terminal_seen: false,
            finish_seen: false,
            content_seen: false,
        }
    }

    /// What was reported so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Whether the stream may end now and be whole.
    pub fn is_complete(&self) -> bool {
        self.terminal_seen || self.format == StreamFormat::Opaque
    }

    /// Whether the dialect's terminal event has come.
    pub fn terminal_seen(&self) -> bool {
        self.terminal_seen
    }

    /// Whether the upstream said how the answer ended; `[DONE]` alone does not.
    pub fn finish_seen(&self) -> bool {
        self.finish_seen
    }

    /// Whether something that a client waits for has come.
    pub fn content_seen(&self) -> bool {
        self.content_seen
    }

    /// Marks content that could not be looked into.
    pub fn unseen_content(&mut self) {
        self.content_seen = true;
    }

    /// Looks at the next event.
    pub fn see(&mut self, event: &Event<'_>) -> EventClass {
        let Some(data) = event.data.as_deref().filter(|data| !data.is_empty()) else {
            return EventClass::Empty;
        };
        let class = match self.format {
            StreamFormat::Chat | StreamFormat::Completions => self.chat(data),
            StreamFormat::Responses => self.responses(data),
            StreamFormat::Messages => self.messages(data),
            StreamFormat::Gemini => self.gemini(data),
            StreamFormat::Opaque => EventClass::Content,
        };
        self.content_seen |= class == EventClass::Content;
        self.terminal_seen |= class == EventClass::Terminal;
        self.finish_seen |= class == EventClass::Terminal && data != b"[DONE]";
        class
    }

    fn chat(&mut self, data: &[u8]) -> EventClass {
        if data == b"[DONE]" {
            return EventClass::Terminal;
        }
        let Some(members) = scan(data, &["choices", "usage", "error"]) else {
            return EventClass::Unparsable;
        };
        if members.present("error").is_some() {
            return EventClass::Error;
        }
        let usage = members.present("usage");
        if let Some(usage) = usage.clone() {
            self.usage.merge_max(&read_usage(&data[usage]));
        }
        let Some(choices) = members.present("choices") else {
            return EventClass::Empty;
        };
        self.choices(&data[choices], usage.is_some())
    }

    fn choices(&mut self, choices: &[u8], has_usage: bool) -> EventClass {
        let may_finish = self.finish_reason.find_iter(choices).any(|at| {
            let after = &choices[at + FINISH_REASON.len()..];
            !after.starts_with(b":null")
        });
        if self.content_seen && !may_finish && choices.len() > 2 {
            return EventClass::Content;
        }
        let Ok(choices) = serde_json::from_slice::<Vec<Choice<'_>>>(choices) else {
            return EventClass::Unparsable;
        };
        if choices.is_empty() {
            return if has_usage { EventClass::UsageOnly } else { EventClass::Empty };
        }
        self.content_seen |= choices.iter().any(Choice::has_content);
        let mut reasons = choices.iter().filter_map(|choice| choice.finish_reason.as_deref());
        match reasons.clone().next() {
            Some(_) if reasons.any(|reason| reason == "error") => EventClass::Error,
            Some(_) => EventClass::Terminal,
            None if choices.iter().any(Choice::has_content) => EventClass::Content,
            None => EventClass::Empty,
        }
    }

    fn responses(&mut self, data: &[u8]) -> EventClass {
        let Some(members) = scan(data, &["type", "response"]) else {
            return EventClass::Unparsable;
        };
        if let Some(response) = members.present("response") {
            self.merge_inner_usage(&data[response], &["usage"]);
        }
        match members.text(data, "type").as_deref() {
            Some("response.completed" | "response.incomplete") => EventClass::Terminal,
            Some("response.failed" | "error") => EventClass::Error,
            Some(kind) if kind.ends_with(".delta") || kind == "response.output_item.done" => EventClass::Content,
            _ => EventClass::Empty,
        }
    }

    fn messages(&mut self, data: &[u8]) -> EventClass {
        let Some(members) = scan(data, &["type", "message", "usage", "content_block"]) else {
            return EventClass::Unparsable;
        };
        if let Some(message) = members.present("message") {
            self.merge_inner_usage(&data[message], &["usage"]);
        }
        if let Some(usage) = members.present("usage") {
            self.usage.merge_max(&read_usage(&data[usage]));
        }
        match members.text(data, "type").as_deref() {
            Some("content_block_delta") => EventClass::Content,
            Some("message_stop") => EventClass::Terminal,
            Some("error") => EventClass::Error,
            _ => EventClass::Empty,
        }
    }

    fn gemini(&mut self, data: &[u8]) -> EventClass {
        let Some(members) = scan(data, &["candidates", "usageMetadata", "promptFeedback", "error"]) else {
            return EventClass::Unparsable;
        };
        if members.present("error").is_some() {
            return EventClass::Error;
        }
        if let Some(usage) = members.present("usageMetadata") {
            self.usage.merge_max(&read_usage(&data[usage]));
        }
        let holds = |name: &str, key: &[u8]| {
            members.present(name).is_some_and(|range| memmem::find(&data[range], key).is_some())
        };
        if holds("candidates", b"\"parts\"") {
            self.content_seen = true;
        }
        if holds("candidates", b"\"finishReason\"") || holds("promptFeedback", b"\"blockReason\"") {
            return EventClass::Terminal;
        }
        if members.present("candidates").is_some() { EventClass::Content } else { EventClass::Empty }
    }

    fn merge_inner_usage(&mut self, object: &[u8], wanted: &'static [&'static str]) {
        if let Some(usage) = scan(object, wanted).and_then(|members| members.present("usage")) {
            self.usage.merge_max(&read_usage(&object[usage]));
        }
    }
}

fn scan(data: &[u8], wanted: &'static [&'static str]) -> Option<Members> {
    let mut scanner = Scanner::new(wanted);
    scanner.push(data).ok()?;
    scanner.finish().ok()
}

impl Members {
    /// The value of a member that is there and not null.
    fn present(&self, name: &str) -> Option<Range<usize>> {
        self.get(name).filter(|member| member.kind != Kind::Null).map(|member| member.value.clone())
    }

    /// The text of a string member.
    fn text<'a>(&self, data: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
        serde_json::from_slice::<Text<'a>>(&data[self.present(name)?]).ok().map(|text| text.0)
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// One choice of a chunk, as far as it matters here.
#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<HashMap<Cow<'a, str>, &'a RawValue>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

impl Choice<'_> {
    /// Whether anything but a role is in it.
    fn has_content(&self) -> bool {
        let says_something = |value: &RawValue| !matches!(value.get(), "null" | "\"\"" | "[]" | "{}");
        let delta = self.delta.iter().flatten();
        delta.filter(|(name, _)| name.as_ref() != "role").any(|(_, value)| says_something(value))
            || self.text.is_some_and(says_something)
    }
}

/// A usage object of any dialect. Numbers that are no counts are taken as not reported.
fn read_usage(json: &[u8]) -> Usage {
    let Ok(raw) = serde_json::from_slice::<RawUsage>(json) else {
        return Usage::default();
    };
    let details = |details: &Option<Details>, pick: fn(&Details) -> Count| details.as_ref().and_then(|own| pick(own).0);
    let anthropic_cache = [raw.cache_read_input_tokens.0, raw.cache_creation_input_tokens.0];
    let input = raw.input_tokens.0.or(raw.prompt_tokens.0).or(raw.prompt_token_count.0);
    let output = raw.output_tokens.0.or(raw.completion_tokens.0).or(raw.candidates_token_count.0);
    let input_details = raw.prompt_tokens_details.as_ref().or(raw.input_tokens_details.as_ref()).cloned();
    let output_details = raw.completion_tokens_details.as_ref().or(raw.output_tokens_details.as_ref()).cloned();
    Usage {
        input_tokens: input.map(|tokens| tokens + anthropic_cache.iter().flatten().sum::<u64>()),
        cached_tokens: anthropic_cache[0]
            .or(details(&input_details, |own| own.cached_tokens))
            .or(raw.prompt_cache_hit_tokens.0)
            .or(raw.cached_content_token_count.0),
        cache_write_tokens: anthropic_cache[1],
        output_tokens: output.map(|tokens| tokens + raw.thoughts_token_count.0.unwrap_or(0)),
        reasoning_tokens: details(&output_details, |own| own.reasoning_tokens).or(raw.thoughts_token_count.0),
        estimated: false,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawUsage {
    prompt_tokens: Count,
    completion_tokens: Count,
    input_tokens: Count,
    output_tokens: Count,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    output_tokens_details: Option<Details>,
    prompt_cache_hit_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    #[serde(rename = "promptTokenCount")]
    prompt_token_count: Count,
    #[serde(rename = "candidatesTokenCount")]
    candidates_token_count: Count,
    #[serde(rename = "thoughtsTokenCount")]
    thoughts_token_count: Count,
    #[serde(rename = "cachedContentTokenCount")]
    cached_content_token_count: Count,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Count,
    reasoning_tokens: Count,
}

/// A token count, tolerant of what upstreams send in its place.
#[derive(Clone, Copy, Default)]
struct Count(Option<u64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Whole(u64),
            Float(f64),
            Other(IgnoredAny),
        }
        Ok(Self(match Any::deserialize(deserializer)? {
            Any::Whole(count) => Some(count),
            Any::Float(count) if count >= 0.0 && count.fract() == 0.0 => Some(count as u64),
            Any::Float(_) | Any::Other(_) => None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(tap: &mut StreamTap, data: &str) -> EventClass {
        tap.see(&Event { raw: &[], name: None, data: Some(Cow::Borrowed(data.as_bytes())) })
    }

    #[test]
    fn chat_chunks_are_told_apart() {
        let mut tap = StreamTap::new(StreamFormat::Chat);
        for (data, expected) in [
            (r#"{"choices":[],"prompt_filter_results":[]}"#, EventClass::Empty),
            (r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#, EventClass::Empty),
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[]}}],"usage":null}"#,
                EventClass::Empty,
            ),
            (r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#, EventClass::Content),
            (
                r#"{"choices":[{"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason":null}]}"#,
                EventClass::Content,
            ),
            (
                r#"{"choices":[{"delta":{},"finish_reason":null},{"delta":{},"finish_reason":"stop"}]}"#,
                EventClass::Terminal,
            ),
            (r#"{"choices":[{"delta":{"content":"end"},"finish_reason": "length"}]}"#, EventClass::Terminal),
            (r#"{"choices":[{"delta":{"content":""},"finish_reason":"error"}]}"#, EventClass::Error),
            (r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#, EventClass::UsageOnly),
            (r#"{"error":{"message":"overloaded"}}"#, EventClass::Error),
            (r#"{"choices":[{"delta":"#, EventClass::Unparsable),
            ("[DONE]", EventClass::Terminal),
        ] {
            assert_eq!(see(&mut tap, data), expected, "{data}");
        }
        assert_eq!((tap.usage().input_tokens, tap.usage().output_tokens), (Some(3), Some(5)));
    }

    #[test]
    fn each_kind_of_delta_is_content_before_anything_else_was() {
        for delta in [
            r#"{"content":"a"}"#,
            r#"{"reasoning":"a"}"#,
            r#"{"refusal":"no"}"#,
            r#"{"tool_calls":[{"index":0,"function":{"name":"f"}}]}"#,
            r#"{"function_call":{"name":"f"}}"#,
        ] {
            let mut tap = StreamTap::new(StreamFormat::Chat);
            assert_eq!(
                see(&mut tap, &format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#)),
                EventClass::Content,
                "{delta}"
            );
        }
        let mut tap = StreamTap::new(StreamFormat::Completions);
        assert_eq!(see(&mut tap, r#"{"choices":[{"text":"a","finish_reason":null}]}"#), EventClass::Content);
    }

    #[test]
    fn done_alone_ends_a_stream_without_saying_how() {
        let mut tap = StreamTap::new(StreamFormat::Chat);
        see(&mut tap, "[DONE]");
        assert!(tap.terminal_seen() && !tap.finish_seen());
    }

    #[test]
    fn usage_of_every_dialect_means_the_same() {
        let read = |json: &str| read_usage(json.as_bytes());
        let usage = |input, cached, write, output, reasoning| Usage {
            input_tokens: input,
            cached_tokens: cached,
            cache_write_tokens: write,
            output_tokens: output,
            reasoning_tokens: reasoning,
            estimated: false,
        };
        for (json, expected) in [
            (
                r#"{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":2}}"#,
                usage(Some(10), Some(4), None, Some(7), Some(2)),
            ),
            (
                r#"{"input_tokens":10,"input_tokens_details":{"cached_tokens":0},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":0}}"#,
                usage(Some(10), Some(0), None, Some(7), Some(0)),
            ),
            (
                r#"{"input_tokens":10,"cache_read_input_tokens":20,"cache_creation_input_tokens":5,"output_tokens":7}"#,
                usage(Some(35), Some(20), Some(5), Some(7), None),
            ),
            (
                r#"{"promptTokenCount":10,"candidatesTokenCount":5,"thoughtsTokenCount":3,"cachedContentTokenCount":2}"#,
                usage(Some(10), Some(2), None, Some(8), Some(3)),
            ),
            (
                r#"{"prompt_tokens":10,"prompt_cache_hit_tokens":8,"completion_tokens":1}"#,
                usage(Some(10), Some(8), None, Some(1), None),
            ),
            (r#"{"prompt_tokens":-3,"completion_tokens":1.5,"x":{}}"#, usage(None, None, None, None, None)),
            (r#"{"prompt_tokens":3.0,"completion_tokens":null}"#, usage(Some(3), None, None, None, None)),
        ] {
            assert_eq!(read(json), expected, "{json}");
        }
    }

    #[test]
    fn an_error_object_names_its_status_or_does_not() {
        let status = |json: &str| status_of_error(json.as_bytes()).map(|status| status.as_u16());
        assert_eq!(status(r#"{"code":"content_filter","status":400}"#), Some(400));
        assert_eq!(status(r#"{"code":429,"message":"slow down"}"#), Some(429));
        assert_eq!(status(r#"{"code":"server_error"}"#), None);
        assert_eq!(status(r#"{"code":200}"#), None);
    }

    #[test]
    fn responses_and_messages_end_with_their_own_events() {
        let mut tap = StreamTap::new(StreamFormat::Responses);
        assert_eq!(see(&mut tap, r#"{"type":"response.created","response":{"usage":null}}"#), EventClass::Empty);
        assert_eq!(see(&mut tap, r#"{"type":"response.output_text.delta","delta":"a"}"#), EventClass::Content);
        let completed = r#"{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":2}}}"#;
        assert_eq!(see(&mut tap, completed), EventClass::Terminal);
        assert_eq!(tap.usage().output_tokens, Some(2));
        let mut tap = StreamTap::new(StreamFormat::Messages);
        let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#;
        assert_eq!(see(&mut tap, start), EventClass::Empty);
        assert_eq!(see(&mut tap, r#"{"type":"message_delta","usage":{"output_tokens":4}}"#), EventClass::Empty);
        assert_eq!(see(&mut tap, r#"{"type":"message_stop"}"#), EventClass::Terminal);
        assert_eq!((tap.usage().input_tokens, tap.usage().output_tokens), (Some(9), Some(4)));
    }
}
