//! The side tap: what an answer used, and what each event of a stream means. It reads and never changes.
//!
//! An event is read once, by a cursor that checks it on the way; nothing is built and nothing is allocated. A member counts by its
//! place, never by its text alone: content that quotes `"finish_reason":"stop"` is content.

#[cfg(test)]
mod corpus;
mod prompt;
pub(crate) mod template;
pub mod told;
mod usage;

use berry_core::operation::StreamFormat;
use berry_core::usage::{ServiceTier, Usage};
use bytes::Bytes;

pub(crate) use self::prompt::{likely_answer_tokens, likely_tokens};
use self::template::{Free, Template};
use crate::body::Chunks;
use crate::dialect::text::Json;
use crate::json::{Cursor, Kind, Members, Raw};
use crate::sse::{self, Event};

/// Choices whose ends are told apart; OpenAI documents at most 128.
const CHOICES_MAX: u64 = 128;

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

/// Whether a `finish_reason` of chat completions says that the upstream failed: of OpenRouter, Mistral and vLLM, of Z.AI, of DeepSeek
/// (their API references, 2026), and of vLLM and SGLang, whose engine gave the answer up (vllm/v1/engine, 2026).
pub(crate) fn is_failure(finish_reason: &[u8]) -> bool {
    matches!(finish_reason, b"error" | b"network_error" | b"insufficient_system_resource" | b"abort")
}

/// Whether a `finish_reason` of chat completions says that there is an end. Ollama and SGLang wrote nothing between the quotes before
/// it (2024, 2025), KoboldCpp and Alibaba's own form `null`.
pub(crate) fn is_end(finish_reason: &[u8]) -> bool {
    !matches!(finish_reason, b"" | b"null" | b"none" | b"None")
}

/// Whether a `finishReason` of Gemini says that what was written is no call that anybody could make (ai.google.dev/api/generate-content,
/// 2026).
pub(crate) fn is_bad_call(finish_reason: &[u8]) -> bool {
    const WORDS: [&[u8]; 5] = [
        b"MALFORMED_FUNCTION_CALL",
        b"UNEXPECTED_TOOL_CALL",
        b"TOO_MANY_TOOL_CALLS",
        b"MALFORMED_RESPONSE",
        b"MISSING_THOUGHT_SIGNATURE",
    ];
    WORDS.contains(&finish_reason)
}

/// Reads the usage of a plain answer.
pub fn usage_of_answer(body: &Chunks, members: &Members) -> Usage {
    let slice = |name| Some(body.slice(members.get(name)?.value.clone()));
    // Rankings of Cohere and those who follow it tell what is billed in `meta`.
    let Some(object) = slice("usage").or_else(|| slice("usageMetadata")).or_else(|| slice("meta")) else {
        return Usage::default();
    };
    let mut usage = usage::read(&object);
    if let Some(name) = slice("service_tier") {
        usage.tier = Raw(&name).text().map(ServiceTier::from_wire).or(usage.tier);
    }
    usage
}

/// Reads a usage object, and the tier of service that stands beside it in OpenAI's answers.
pub(crate) fn usage_told(usage: Option<Json>, tier: Option<Json>) -> Usage {
    let mut told = usage.map(|usage| usage::read(usage.raw())).unwrap_or_default();
    told.tier = tier.and_then(|tier| Raw(tier.raw()).text().map(ServiceTier::from_wire)).or(told.tier);
    told
}

/// Reads a usage object of any vendor.
pub(crate) fn usage_of_object(usage: &[u8]) -> Usage {
    usage::read(usage)
}

/// How much content has come, to tell roughly how many tokens it is.
#[derive(Clone, Copy, Debug, Default)]
struct Delivered {
    events: u64,
    bytes: u64,
    /// Of the shortest event, which is nearly all frame.
    least: u64,
}

impl Delivered {
    /// Bytes of text that one token is taken to have.
    const BYTES_PER_TOKEN: u64 = 4;

    fn note(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.least = if self.events == 0 { bytes } else { self.least.min(bytes) };
        self.events += 1;
        self.bytes += bytes;
    }

    /// No fewer than events, since none has less than a token; more where they are longer than the shortest.
    fn tokens(&self) -> u64 {
        let text = self.bytes - self.events * self.least;
        self.events.max(text / Self::BYTES_PER_TOKEN)
    }
}

/// Watches one stream.
#[derive(Debug)]
pub struct StreamTap {
    format: StreamFormat,
    usage: Usage,
    terminal_seen: bool,
    /// A terminal event that says how the answer ended; `[DONE]` alone does not.
    finish_seen: bool,
    /// An event after which nothing is told but the end of the body.
    last_seen: bool,
    content_seen: bool,
    content: Delivered,
    /// One bit for each choice that has begun, and for each that has finished.
    begun: u128,
    finished: u128,
    /// A content event that did nothing but bring content.
    usual: Template,
    /// What the long event is of which pieces are coming.
    long: Option<EventClass>,
    /// The id of a response, as JSON.
    response_id: Option<Box<[u8]>>,
}

impl StreamTap {
    /// A tap for a stream of this format.
    pub fn new(format: StreamFormat) -> Self {
        Self {
            format,
            usage: Usage::default(),
            terminal_seen: false,
            finish_seen: false,
            last_seen: false,
            content_seen: false,
            content: Delivered::default(),
            begun: 0,
            finished: 0,
            usual: Template::default(),
            long: None,
            response_id: None,
        }
    }

    /// What was reported so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The id that a response of the Responses API has given itself, as JSON.
    pub(crate) fn response_id(&self) -> Option<&[u8]> {
        self.response_id.as_deref()
    }

    /// What to charge for when nothing more comes. The output of a stream that broke off, or whose upstream did not tell, is
    /// counted from what came, and marked so.
    pub fn settled_usage(&self, is_whole: bool) -> Usage {
        let mut usage = self.usage;
        let is_told = is_whole && usage.output_tokens.is_some();
        if is_told || self.content.events == 0 || self.format == StreamFormat::Opaque {
            return usage;
        }
        usage.output_tokens = usage.output_tokens.max(Some(self.content.tokens()));
        usage.estimated = true;
        usage
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

    /// Whether the last event has come: an error, or the terminal event after which no usage is told. That is `[DONE]` for chat,
    /// whose figures come after its `finish_reason`, and never for Gemini, which only ends.
    pub fn last_seen(&self) -> bool {
        self.last_seen
    }

    /// Whether something that a client waits for has come.
    pub fn content_seen(&self) -> bool {
        self.content_seen
    }

    /// An error of chat completions in the form that clients know, where the event has it in another.
    pub(crate) fn retold(&self, event: &Event<'_>) -> Option<Bytes> {
        let is_chat = matches!(self.format, StreamFormat::Chat | StreamFormat::Completions);
        let told = told::of_no_answer(event.data.as_deref().filter(|_| is_chat)?)?;
        Some(Bytes::from([b"data: ", &told.body[..], b"\n\n"].concat()))
    }

    /// Looks at a piece of an event that is too long to be looked into. It is content; what else it is shows where it ends, and
    /// only by its name or type, which stand at its beginning. Its usage is not read.
    pub fn see_long(&mut self, piece: &[u8], ends: bool) -> EventClass {
        let class = *self.long.get_or_insert_with(|| class_of_beginning(piece));
        self.content_seen = true;
        if !ends {
            return EventClass::Content;
        }
        self.long = None;
        self.last_seen |= self.is_last(class);
        self.terminal_seen |= class == EventClass::Terminal;
        self.finish_seen |= class == EventClass::Terminal;
        class
    }

    /// Looks at the next event.
    pub fn see(&mut self, event: &Event<'_>) -> EventClass {
        let Some(data) = event.data.as_deref().filter(|data| !data.is_empty()) else {
            return EventClass::Empty;
        };
        if self.usual.matches(data) && event.name != Some(b"error") {
            self.content.note(data.len());
            return EventClass::Content;
        }
        let seen = match self.format {
            StreamFormat::Chat | StreamFormat::Completions => self.chat(data),
            StreamFormat::Responses => self.responses(data),
            StreamFormat::Messages => self.messages(data),
            StreamFormat::Gemini => self.gemini(data),
            StreamFormat::Opaque => Some(EventClass::Content),
        };
        let class = match seen {
            // What it says about itself goes before what it looks like: some upstreams put plain text here.
            _ if event.name == Some(b"error") && self.format != StreamFormat::Opaque => EventClass::Error,
            Some(class) => class,
            None => EventClass::Unparsable,
        };
        if class == EventClass::Content {
            self.content_seen = true;
            self.content.note(data.len());
        }
        self.terminal_seen |= class == EventClass::Terminal;
        self.last_seen |= self.is_last(class);
        class
    }

    /// Whether nothing is told after an event of this class, as far as the class alone says it.
    fn is_last(&self, class: EventClass) -> bool {
        match class {
            EventClass::Error => true,
            EventClass::Terminal => matches!(self.format, StreamFormat::Messages | StreamFormat::Responses),
            _ => false,
        }
    }

    fn chat(&mut self, data: &[u8]) -> Option<EventClass> {
        if data.trim_ascii() == b"[DONE]" {
            self.last_seen = true;
            return Some(EventClass::Terminal);
        }
        let mut seen = Chunk::default();
        let (mut is_error, mut has_verdict, mut tier) = (false, false, None);
        read(data, |key, value| {
            match key {
                b"choices" => return value.elements(|choice| seen.choice(choice)),
                b"usage" => seen.note_usage(value.value()?),
                b"error" => is_error = !value.value()?.is_nothing(),
                b"created" | b"obfuscation" => seen.free.note(value.value()?),
                b"service_tier" => tier = value.value()?.text().map(ServiceTier::from_wire),
                // MiniMax tells here how it went, beside empty figures too.
                b"base_resp" => {
                    has_verdict = true;
                    value.skip()?;
                }
                _ => value.skip()?,
            }
            Some(())
        })?;
        self.usage.tier = tier.or(self.usage.tier);
        let has_usage = seen.usage.is_some();
        self.merge_usage(seen.usage);
        self.content_seen |= seen.content;
        self.begun |= seen.begun;
        self.finished |= seen.finished;
        self.finish_seen |= seen.finished != 0;
        let is_odd_error = || seen.begun == 0 && (has_verdict || !has_usage) && told::of_no_answer(data).is_some();
        Some(if is_error || seen.failed || is_odd_error() {
            EventClass::Error
        } else if seen.begun == 0 {
            if has_usage { EventClass::UsageOnly } else { EventClass::Empty }
        } else if seen.finished != 0 && self.finished == self.begun {
            EventClass::Terminal
        } else if seen.content {
            if seen.finished == 0 {
                self.usual.learn(data, &seen.free);
            }
            EventClass::Content
        } else {
            EventClass::Empty
        })
    }

    fn responses(&mut self, data: &[u8]) -> Option<EventClass> {
        let (mut kind, mut usage, mut delta, mut is_error) = (None, None, None, false);
        let (mut id, mut free) = (None, Free::default());
        read(data, |key, value| {
            match key {
                b"type" => kind = value.value()?.text(),
                b"delta" => {
                    let value = value.value()?;
                    delta = Some(value);
                    free.note(value);
                }
                b"sequence_number" | b"obfuscation" => free.note(value.value()?),
                b"response" => {
                    return value.members(|key, value| {
                        let value = value.value()?;
                        match key {
                            b"usage" => usage = Some(value),
                            b"id" => id = Some(value),
                            _ => {}
                        }
                        Some(())
                    });
                }
                b"error" => is_error = !value.value()?.is_nothing(),
                _ => value.skip()?,
            }
            Some(())
        })?;
        self.merge_usage(usage);
        if self.response_id.is_none() {
            self.response_id = id.map(|id| id.0.into());
        }
        if let Some(class) = kind.and_then(class_of_kind) {
            self.finish_seen |= class == EventClass::Terminal;
            return Some(class);
        }
        Some(match kind {
            None if is_error => EventClass::Error,
            Some(b"response.output_item.done" | b"response.function_call_arguments.done") => EventClass::Content,
            Some(kind) if kind.ends_with(b".delta") && !delta.is_some_and(Raw::is_nothing) => {
                self.usual.learn(data, &free);
                EventClass::Content
            }
            _ => EventClass::Empty,
        })
    }

    fn messages(&mut self, data: &[u8]) -> Option<EventClass> {
        let (mut kind, mut usage, mut content, mut is_error) = (None, None, false, false);
        let mut free = Free::default();
        read(data, |key, value| {
            match key {
                b"type" => kind = value.value()?.text(),
                b"message" => return member(value, b"usage", &mut usage),
                b"usage" => usage = Some(value.value()?),
                b"delta" | b"content_block" => content = says_something(value, &mut free)?,
                b"error" => is_error = !value.value()?.is_nothing(),
                _ => value.skip()?,
            }
            Some(())
        })?;
        self.merge_usage(usage);
        if let Some(class) = kind.and_then(class_of_kind) {
            self.finish_seen |= class == EventClass::Terminal;
            return Some(class);
        }
        Some(match kind {
            None if is_error => EventClass::Error,
            Some(b"content_block_delta" | b"content_block_start") if content => {
                self.usual.learn(data, &free);
                EventClass::Content
            }
            _ => EventClass::Empty,
        })
    }

    fn gemini(&mut self, data: &[u8]) -> Option<EventClass> {
        // Of proxies, which end their streams as OpenAI does. It says nothing of its own.
        if data.trim_ascii() == b"[DONE]" {
            return Some(EventClass::Empty);
        }
        let (mut usage, mut content, mut finished, mut is_error) = (None, false, false, false);
        read(data, |key, value| match key {
            b"candidates" => value.elements(|candidate| {
                candidate.members(|key, value| match key {
                    b"content" => value.members(|key, value| match key {
                        b"parts" => value.elements(|part| {
                            content |= says_something(part, &mut Free::default())?;
                            Some(())
                        }),
                        _ => value.skip(),
                    }),
                    b"finishReason" => {
                        finished |= is_reason(value.value()?);
                        Some(())
                    }
                    _ => value.skip(),
                })
            }),
            b"promptFeedback" => value.members(|key, value| {
                let value = value.value()?;
                finished |= key == b"blockReason" && is_reason(value);
                Some(())
            }),
            b"usageMetadata" => {
                usage = Some(value.value()?);
                Some(())
            }
            b"error" => {
                is_error = !value.value()?.is_nothing();
                Some(())
            }
            _ => value.skip(),
        })?;
        self.merge_usage(usage);
        self.content_seen |= content;
        self.finish_seen |= finished;
        Some(if is_error {
            EventClass::Error
        } else if finished {
            EventClass::Terminal
        } else if content {
            EventClass::Content
        } else {
            EventClass::Empty
        })
    }

    fn merge_usage(&mut self, usage: Option<Raw<'_>>) {
        if let Some(usage) = usage {
            self.usage.merge_max(&usage::read(usage.0));
        }
    }
}

/// What the type of an event of Responses or Messages says by itself.
fn class_of_kind(kind: &[u8]) -> Option<EventClass> {
    match kind {
        b"response.completed" | b"response.incomplete" | b"message_stop" => Some(EventClass::Terminal),
        b"response.failed" | b"error" => Some(EventClass::Error),
        _ => None,
    }
}

/// What an event is of which only the beginning is at hand.
fn class_of_beginning(piece: &[u8]) -> EventClass {
    let mut kind = None;
    if let Some(event) = sse::events(piece).next() {
        kind = event.name.and_then(class_of_kind);
        // The cut ends the reading; what came before it counts.
        let _ = Cursor::new(event.data.as_deref().unwrap_or_default()).members(|key, value| {
            if key != b"type" {
                return value.skip();
            }
            kind = kind.or(class_of_kind(value.value()?.text()?));
            Some(())
        });
    }
    kind.unwrap_or(EventClass::Content)
}

/// Reads the members of an event, which must be all of it.
fn read<'a, F>(data: &'a [u8], member: F) -> Option<()>
where
    F: FnMut(&'a [u8], &mut Cursor<'a>) -> Option<()>,
{
    let mut cursor = Cursor::new(data);
    cursor.members(member)?;
    cursor.end()
}

/// Finds one member of the next value.
fn member<'a>(cursor: &mut Cursor<'a>, name: &[u8], found: &mut Option<Raw<'a>>) -> Option<()> {
    cursor.members(|key, value| {
        let value = value.value()?;
        if key == name {
            *found = Some(value);
        }
        Some(())
    })
}

/// Whether a delta, block or part holds anything that a client waits for: a text, a list or an object with something in it, other
/// than a label or an opaque signature; any tool call counts, though its input may be empty yet.
fn says_something<'a>(cursor: &mut Cursor<'a>, free: &mut Free<'a>) -> Option<bool> {
    let mut something = false;
    cursor.members(|key, value| {
        let value = value.value()?;
        something |= match key {
            b"type" => matches!(value.text(), Some(kind) if kind.ends_with(b"tool_use")),
            b"role" | b"signature" | b"thoughtSignature" => false,
            _ => {
                free.note(value);
                matches!(value.kind(), Kind::String | Kind::Array | Kind::Object) && !value.is_nothing()
            }
        };
        Some(())
    })?;
    Some(something)
}

/// Whether Gemini gives a reason, not only room for one.
fn is_reason(value: Raw<'_>) -> bool {
    value.text().is_some_and(|reason| !reason.is_empty() && !reason.ends_with(b"_UNSPECIFIED"))
}

/// What a chunk of a chat or completion holds.
#[derive(Default)]
struct Chunk<'a> {
    usage: Option<Raw<'a>>,
    content: bool,
    /// It ended with `error`, as OpenRouter writes it.
    failed: bool,
    begun: u128,
    finished: u128,
    free: Free<'a>,
}

impl<'a> Chunk<'a> {
    fn note_usage(&mut self, usage: Raw<'a>) {
        if usage.kind() == Kind::Object {
            self.usage = Some(usage);
        }
    }

    fn choice(&mut self, choice: &mut Cursor<'a>) -> Option<()> {
        let (mut index, mut finished) = (0, false);
        choice.members(|key, value| {
            match key {
                // Some upstreams repeat the whole message in the last chunk.
                b"delta" | b"message" => self.content |= says_something(value, &mut self.free)?,
                b"text" => {
                    let value = value.value()?;
                    self.content |= !value.is_nothing();
                    self.free.note(value);
                }
                // Google's endpoint of this dialect has told it in Gemini's spelling.
                b"finish_reason" | b"finishReason" => {
                    let reason = value.value()?.text().unwrap_or_default();
                    finished |= is_end(reason);
                    self.failed |= is_failure(reason);
                }
                b"index" => index = usage::count(value.value()?).unwrap_or(0).min(CHOICES_MAX - 1),
                b"usage" => self.note_usage(value.value()?),
                _ => value.skip()?,
            }
            Some(())
        })?;
        self.begun |= 1 << index;
        self.finished |= u128::from(finished) << index;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

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
    fn a_stream_that_broke_off_or_told_nothing_is_counted_from_what_came() {
        let mut tap = StreamTap::new(StreamFormat::Chat);
        assert_eq!(tap.settled_usage(false), Usage::default(), "nothing came");
        for text in ["a", "b", "c", "a text that is longer than the others by four tokens"] {
            see(&mut tap, &format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#));
        }
        // 50 bytes more than four times the shortest event.
        let counted = tap.settled_usage(true);
        assert_eq!((counted.output_tokens, counted.estimated), (Some(12), true));
        see(&mut tap, r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}"#);
        assert_eq!((tap.settled_usage(true).output_tokens, tap.settled_usage(true).estimated), (Some(9), false));
        assert!(tap.settled_usage(false).estimated);
    }

    #[test]
    fn done_alone_ends_a_stream_without_saying_how() {
        let mut tap = StreamTap::new(StreamFormat::Chat);
        see(&mut tap, "[DONE]");
        assert!(tap.terminal_seen() && !tap.finish_seen());
    }

    #[test]
    fn only_the_place_of_a_member_counts_and_never_its_text() {
        for (format, data, expected) in [
            (
                StreamFormat::Chat,
                r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"finish_reason\":\"stop\"}","finish_reason":"stop"}}]},"finish_reason" : null}]}"#,
                EventClass::Content,
            ),
            (StreamFormat::Chat, r#"{"choices":[{"delta":{"content":"finish_reason"}}]}"#, EventClass::Content),
            (
                StreamFormat::Chat,
                r#"{"choices":[{"delta":{"content":""},"error":null}],"error":null}"#,
                EventClass::Empty,
            ),
            (
                StreamFormat::Gemini,
                r#"{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"finishReason":"STOP","blockReason":"x"}}}]}}]}"#,
                EventClass::Content,
            ),
            (
                StreamFormat::Responses,
                r#"{"delta":"{\"type\":\"response.completed\"}","type":"response.output_text.delta"}"#,
                EventClass::Content,
            ),
            (
                StreamFormat::Messages,
                r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"\"type\":\"message_stop\""}}"#,
                EventClass::Content,
            ),
        ] {
            assert_eq!(see(&mut StreamTap::new(format), data), expected, "{data}");
        }
    }

    #[test]
    fn an_answer_with_several_choices_ends_with_the_last_of_them() {
        let mut tap = StreamTap::new(StreamFormat::Chat);
        let chunk = |index: u32, reason: &str| {
            format!(r#"{{"choices":[{{"index":{index},"delta":{{"content":"a"}},"finish_reason":{reason}}}]}}"#)
        };
        see(&mut tap, &chunk(0, "null"));
        see(&mut tap, &chunk(1, "null"));
        assert_eq!(see(&mut tap, &chunk(0, "\"stop\"")), EventClass::Content);
        assert!(!tap.terminal_seen());
        assert_eq!(see(&mut tap, &chunk(1, "\"length\"")), EventClass::Terminal);
        assert!(tap.terminal_seen());
        assert_eq!(see(&mut tap, &chunk(0, "\"stop\"")), EventClass::Terminal);
        // An index out of all bounds is one of the counted ones.
        let mut tap = StreamTap::new(StreamFormat::Chat);
        assert_eq!(see(&mut tap, &chunk(4_000_000_000, "\"stop\"")), EventClass::Terminal);
    }

    #[test]
    fn odd_chat_chunks_are_told_apart() {
        for (data, expected) in [
            (r#"{"choices":[{"delta":{"content":""},"finish_reason":""}]}"#, EventClass::Empty),
            (r#"{"choices":[{"delta":{"content":""},"finish_reason":"null"}]}"#, EventClass::Empty),
            (r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"null"}]}"#, EventClass::Content),
            (r#"{"choices":[{"delta":{},"finish_reason":null,"finishReason":"stop"}]}"#, EventClass::Terminal),
            (r#"{"choices":[{"delta":{},"finish_reason":"abort"}]}"#, EventClass::Error),
            (r#"{"object":"error","message":"no model","code":404}"#, EventClass::Error),
            (
                r#"{"choices":null,"usage":{"total_tokens":0},"base_resp":{"status_code":1008,"status_msg":"no money"}}"#,
                EventClass::Error,
            ),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":3},"base_resp":{"status_code":0,"status_msg":""}}"#,
                EventClass::UsageOnly,
            ),
            (r#"{"choices":null,"usage":{"prompt_tokens":3}}"#, EventClass::UsageOnly),
            (r#"{"usage":{"prompt_tokens":3}}"#, EventClass::UsageOnly),
            (r#"{"choices":[{"delta":null}]}"#, EventClass::Empty),
            (r#"{"choices":[{"delta":"text"}]}"#, EventClass::Empty),
            (r#"{"choices":{}}"#, EventClass::Empty),
            (r#"{"choices":[{"delta":{},"message":{"role":"assistant","content":"all"}}]}"#, EventClass::Content),
            (r#"{"choices":[],"error":{}}"#, EventClass::Empty),
            (r#"{"error":"overloaded"}"#, EventClass::Error),
            (r#"{"choices":[]} x"#, EventClass::Unparsable),
            (" [DONE] ", EventClass::Terminal),
            ("[DONE]]", EventClass::Unparsable),
            ("17", EventClass::Empty),
        ] {
            assert_eq!(see(&mut StreamTap::new(StreamFormat::Chat), data), expected, "{data}");
        }
        let mut tap = StreamTap::new(StreamFormat::Chat);
        see(
            &mut tap,
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":3,"completion_tokens":5}}]}"#,
        );
        assert_eq!(tap.usage().output_tokens, Some(5));
    }

    #[test]
    fn an_event_that_calls_itself_an_error_is_one_whatever_it_holds() {
        let event =
            |data: &'static str| Event { raw: &[], name: Some(b"error"), data: Some(Cow::Borrowed(data.as_bytes())) };
        for format in [StreamFormat::Chat, StreamFormat::Responses, StreamFormat::Messages, StreamFormat::Gemini] {
            assert_eq!(StreamTap::new(format).see(&event("{\"message\":\"x\"}")), EventClass::Error);
            assert_eq!(StreamTap::new(format).see(&event("Internal Server Error")), EventClass::Error);
        }
    }

    #[test]
    fn a_long_event_is_content_and_at_its_end_what_its_beginning_said() {
        for (beginning, expected) in [
            ("event: response.completed\ndata: {\"type\":\"response.comp", EventClass::Terminal),
            ("data: {\"type\":\"response.completed\",\"response\":{\"output\":\"aaa", EventClass::Terminal),
            ("data: {\"type\":\"response.failed\",\"response\":{\"a\":[", EventClass::Error),
            ("data: {\"type\":\"response.image_generation_call.partial_image\",\"b64\":\"a", EventClass::Content),
            ("data: {\"a\":\"response.completed\"", EventClass::Content),
            ("aaaa", EventClass::Content),
        ] {
            let mut tap = StreamTap::new(StreamFormat::Responses);
            assert_eq!(tap.see_long(beginning.as_bytes(), false), EventClass::Content);
            assert!(tap.content_seen() && !tap.terminal_seen());
            assert_eq!(tap.see_long(b"data: {\"type\":\"message_stop\"}", false), EventClass::Content);
            assert_eq!(tap.see_long(b"\"}}\n\n", true), expected, "{beginning}");
            assert_eq!(tap.terminal_seen(), expected == EventClass::Terminal);
        }
    }

    #[test]
    fn gemini_ends_with_a_reason_and_not_with_room_for_one() {
        for (data, expected) in [
            (r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}"#, EventClass::Terminal),
            (
                r#"{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"FINISH_REASON_UNSPECIFIED"}]}"#,
                EventClass::Content,
            ),
            (r#"{"promptFeedback":{"safetyRatings":[],"blockReason":"SAFETY"}}"#, EventClass::Terminal),
            (r#"{"promptFeedback":{"blockReason":null}}"#, EventClass::Empty),
            (r#"{"candidates":[{"content":{"parts":[{"text":"","thoughtSignature":"abc"}]}}]}"#, EventClass::Empty),
            (
                r#"{"candidates":[{"content":{"role":"model"}}],"usageMetadata":{"promptTokenCount":3}}"#,
                EventClass::Empty,
            ),
            (r#"{"error":{"code":503}}"#, EventClass::Error),
            ("[DONE]", EventClass::Empty),
        ] {
            assert_eq!(see(&mut StreamTap::new(StreamFormat::Gemini), data), expected, "{data}");
        }
    }

    #[test]
    fn messages_have_content_where_a_block_or_delta_says_something() {
        for (data, expected) in [
            (r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#, EventClass::Empty),
            (
                r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}"#,
                EventClass::Content,
            ),
            (
                r#"{"type":"content_block_start","content_block":{"type":"redacted_thinking","data":"x"}}"#,
                EventClass::Content,
            ),
            (r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":""}}"#, EventClass::Empty),
            (
                r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"hm"}}"#,
                EventClass::Content,
            ),
            (
                r#"{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"abc"}}"#,
                EventClass::Empty,
            ),
            (
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#,
                EventClass::Empty,
            ),
            (r#"{"type":"ping"}"#, EventClass::Empty),
            (r#"{"type":"error","error":{"type":"overloaded_error"}}"#, EventClass::Error),
        ] {
            assert_eq!(see(&mut StreamTap::new(StreamFormat::Messages), data), expected, "{data}");
        }
    }

    /// Events as streams have them, alike but for a few values, some of which change the meaning.
    fn similar_event(format: StreamFormat) -> impl Strategy<Value = String> {
        let text = proptest::sample::select(vec![
            "",
            "a",
            " two words",
            "\\n\\u0041",
            "\\\"finish_reason\\\":\\\"stop\\\"",
            "\\",
            "\u{7}",
        ]);
        let number = proptest::sample::select(vec!["1", "1732176000", "-0.5", "01", "null"]);
        let reason = proptest::sample::select(vec!["null", "\"\"", "\"stop\"", "\"error\"", "1"]);
        let kind = proptest::sample::select(vec![
            "content_block_delta",
            "response.output_text.delta",
            "message_stop",
            "error",
        ]);
        (text.clone(), text, number, reason, kind).prop_map(move |(text, other, number, reason, kind)| match format {
            StreamFormat::Chat => format!(
                r#"{{"created":{number},"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{reason}}}],"obfuscation":"{other}"}}"#
            ),
            StreamFormat::Responses => {
                format!(r#"{{"type":"{kind}","sequence_number":{number},"delta":"{text}","obfuscation":"{other}"}}"#)
            }
            _ => format!(r#"{{"type":"{kind}","index":0,"delta":{{"type":"text_delta","text":"{text}","x":"{other}"}}}}"#),
        })
    }

    proptest! {
        #[test]
        fn an_event_means_the_same_whatever_came_before_it(
            chat in proptest::collection::vec(similar_event(StreamFormat::Chat), 1..8),
            responses in proptest::collection::vec(similar_event(StreamFormat::Responses), 1..8),
            messages in proptest::collection::vec(similar_event(StreamFormat::Messages), 1..8),
        ) {
            for (format, events) in [
                (StreamFormat::Chat, chat),
                (StreamFormat::Responses, responses),
                (StreamFormat::Messages, messages),
            ] {
                let mut tap = StreamTap::new(format);
                for event in events {
                    prop_assert_eq!(see(&mut tap, &event), see(&mut StreamTap::new(format), &event), "{}", event);
                }
            }
        }

        #[test]
        fn arbitrary_data_never_panics(data in proptest::collection::vec(any::<u8>(), 0..80)) {
            for format in [StreamFormat::Chat, StreamFormat::Responses, StreamFormat::Messages, StreamFormat::Gemini] {
                let _ = StreamTap::new(format).see(&Event { raw: &data, name: None, data: Some(Cow::Borrowed(&data)) });
            }
            let _ = told::of_event(&data);
        }
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
