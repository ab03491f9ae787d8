//! The side tap: what an answer used, and what each event of a stream means. It reads and never changes.
//!
//! An event is read once, by a cursor that checks it on the way; nothing is built and nothing is allocated. A member counts by its
//! place, never by its text alone: content that quotes `"finish_reason":"stop"` is content.
//! Usage conventions (vendors' API references, 2025 and 2026): OpenAI's `prompt_tokens` and `input_tokens` include cached tokens;
//! Anthropic's `input_tokens` leaves out both cache counts, and its compaction stands beside the rest, in `iterations`; Gemini's
//! `promptTokenCount` includes cached tokens and leaves out those of tool results, and its thoughts stand beside
//! `candidatesTokenCount`. Moonshot puts `usage` into the last choice; Mistral and DeepSeek have names of their own for cached
//! tokens; xAI counts reasoning beside `completion_tokens`.

use berry_core::operation::StreamFormat;
use berry_core::usage::Usage;
use http::StatusCode;

use crate::body::Chunks;
use crate::json::{Cursor, Kind, Members, Raw};
use crate::sse::Event;

/// A count beyond this is no count: no vendor's context comes near it, and sums stay far from overflow.
const TOKENS_MAX: u64 = 1 << 40;
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
    let mut named = None;
    let read = Cursor::new(error).members(|key, value| {
        let value = value.value()?;
        if matches!(key, b"status" | b"code") {
            let digits = value.text().unwrap_or(value.0);
            let status = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            named = named.or(status.filter(|status| (400..600).contains(status)));
        }
        Some(())
    });
    read?;
    StatusCode::from_u16(named?).ok()
}

/// Watches one stream.
#[derive(Debug)]
pub struct StreamTap {
    format: StreamFormat,
    usage: Usage,
    terminal_seen: bool,
    /// A terminal event that says how the answer ended; `[DONE]` alone does not.
    finish_seen: bool,
    content_seen: bool,
    /// One bit for each choice that has begun, and for each that has finished.
    begun: u128,
    finished: u128,
}

impl StreamTap {
    /// A tap for a stream of this format.
    pub fn new(format: StreamFormat) -> Self {
        Self {
            format,
            usage: Usage::default(),
            terminal_seen: false,
            finish_seen: false,
            content_seen: false,
            begun: 0,
            finished: 0,
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
        self.content_seen |= class == EventClass::Content;
        self.terminal_seen |= class == EventClass::Terminal;
        class
    }

    fn chat(&mut self, data: &[u8]) -> Option<EventClass> {
        if data.trim_ascii() == b"[DONE]" {
            return Some(EventClass::Terminal);
        }
        let mut seen = Chunk::default();
        let mut is_error = false;
        read(data, |key, value| {
            match key {
                b"choices" => return value.elements(|choice| seen.choice(choice)),
                b"usage" => seen.note_usage(value.value()?),
                b"error" => is_error = !value.value()?.is_nothing(),
                _ => value.skip()?,
            }
            Some(())
        })?;
        let has_usage = seen.usage.is_some();
        self.merge_usage(seen.usage);
        self.content_seen |= seen.content;
        self.begun |= seen.begun;
        self.finished |= seen.finished;
        self.finish_seen |= seen.finished != 0;
        Some(if is_error || seen.failed {
            EventClass::Error
        } else if seen.begun == 0 {
            if has_usage { EventClass::UsageOnly } else { EventClass::Empty }
        } else if seen.finished != 0 && self.finished == self.begun {
            EventClass::Terminal
        } else if seen.content {
            EventClass::Content
        } else {
            EventClass::Empty
        })
    }

    fn responses(&mut self, data: &[u8]) -> Option<EventClass> {
        let (mut kind, mut usage, mut delta, mut is_error) = (None, None, None, false);
        read(data, |key, value| {
            match key {
                b"type" => kind = value.value()?.text(),
                b"delta" => delta = Some(value.value()?),
                b"response" => return member(value, b"usage", &mut usage),
                b"error" => is_error = !value.value()?.is_nothing(),
                _ => value.skip()?,
            }
            Some(())
        })?;
        self.merge_usage(usage);
        Some(match kind {
            Some(b"response.completed" | b"response.incomplete") => {
                self.finish_seen = true;
                EventClass::Terminal
            }
            Some(b"response.failed" | b"error") => EventClass::Error,
            None if is_error => EventClass::Error,
            Some(b"response.output_item.done" | b"response.function_call_arguments.done") => EventClass::Content,
            Some(kind) if kind.ends_with(b".delta") && !delta.is_some_and(Raw::is_nothing) => EventClass::Content,
            _ => EventClass::Empty,
        })
    }

    fn messages(&mut self, data: &[u8]) -> Option<EventClass> {
        let (mut kind, mut usage, mut content, mut is_error) = (None, None, false, false);
        read(data, |key, value| {
            match key {
                b"type" => kind = value.value()?.text(),
                b"message" => return member(value, b"usage", &mut usage),
                b"usage" => usage = Some(value.value()?),
                b"delta" | b"content_block" => content = says_something(value)?,
                b"error" => is_error = !value.value()?.is_nothing(),
                _ => value.skip()?,
            }
            Some(())
        })?;
        self.merge_usage(usage);
        Some(match kind {
            Some(b"message_stop") => {
                self.finish_seen = true;
                EventClass::Terminal
            }
            Some(b"error") => EventClass::Error,
            None if is_error => EventClass::Error,
            Some(b"content_block_delta" | b"content_block_start") if content => EventClass::Content,
            _ => EventClass::Empty,
        })
    }

    fn gemini(&mut self, data: &[u8]) -> Option<EventClass> {
        let (mut usage, mut content, mut finished, mut is_error) = (None, false, false, false);
        read(data, |key, value| match key {
            b"candidates" => value.elements(|candidate| {
                candidate.members(|key, value| match key {
                    b"content" => value.members(|key, value| match key {
                        b"parts" => value.elements(|part| {
                            content |= says_something(part)?;
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
            self.usage.merge_max(&read_usage(usage.0));
        }
    }
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
fn says_something(cursor: &mut Cursor<'_>) -> Option<bool> {
    let mut something = false;
    cursor.members(|key, value| {
        let value = value.value()?;
        something |= match key {
            b"type" => matches!(value.text(), Some(kind) if kind.ends_with(b"tool_use")),
            b"role" | b"signature" | b"thoughtSignature" => false,
            _ => matches!(value.kind(), Kind::String | Kind::Array | Kind::Object) && !value.is_nothing(),
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
                b"delta" | b"message" => self.content |= says_something(value)?,
                b"text" => self.content |= !value.value()?.is_nothing(),
                b"finish_reason" => {
                    let reason = value.value()?.text().unwrap_or_default();
                    finished = !reason.is_empty();
                    self.failed |= reason == b"error";
                }
                b"index" => index = count(value.value()?).unwrap_or(0).min(CHOICES_MAX - 1),
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

/// A usage object of any dialect. Numbers that are no counts are taken as not reported.
fn read_usage(json: &[u8]) -> Usage {
    let mut figures = Figures::default();
    let mut compactions = Usage::default();
    // It was valid as part of the whole, and what is not as expected is left out.
    let _ = Cursor::new(json).members(|key, value| match key {
        b"iterations" => value.elements(|iteration| {
            let mut own = Figures::default();
            iteration.members(|key, value| own.read(key, value))?;
            if own.is_compaction {
                compactions = sum(compactions, own.into_usage());
            }
            Some(())
        }),
        _ => figures.read(key, value),
    });
    sum(figures.into_usage(), compactions)
}

/// Figures under the names that vendors give them.
#[derive(Default)]
struct Figures {
    prompt: Option<u64>,
    completion: Option<u64>,
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
    /// Anthropic's, beside `input`, unless details of `input` stand there too.
    cache_read_input: Option<u64>,
    cache_creation_input: Option<u64>,
    has_input_details: bool,
    gemini_tool_prompt: Option<u64>,
    gemini_thoughts: Option<u64>,
    /// Anthropic's, of what was used to shorten the conversation before answering.
    is_compaction: bool,
}

impl Figures {
    /// Reads one member of a usage object.
    fn read(&mut self, key: &[u8], value: &mut Cursor<'_>) -> Option<()> {
        match key {
            b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details" => {
                self.has_input_details = true;
                return self.details(value);
            }
            b"completion_tokens_details" | b"output_tokens_details" => return self.details(value),
            _ => {}
        }
        let value = value.value()?;
        let place = match key {
            b"prompt_tokens" | b"promptTokenCount" => &mut self.prompt,
            b"completion_tokens" | b"candidatesTokenCount" => &mut self.completion,
            b"input_tokens" => &mut self.input,
            b"output_tokens" => &mut self.output,
            b"total_tokens" => &mut self.total,
            b"cached_tokens" | b"num_cached_tokens" | b"prompt_cache_hit_tokens" | b"cachedContentTokenCount" => {
                &mut self.cached
            }
            b"cache_read_input_tokens" => &mut self.cache_read_input,
            b"cache_creation_input_tokens" => &mut self.cache_creation_input,
            b"toolUsePromptTokenCount" => &mut self.gemini_tool_prompt,
            b"thoughtsTokenCount" => &mut self.gemini_thoughts,
            b"type" => {
                self.is_compaction = value.text() == Some(b"compaction");
                return Some(());
            }
            _ => return Some(()),
        };
        // Some vendors say the same twice; what is no count does not hide one.
        *place = count(value).or(*place);
        Some(())
    }

    fn details(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        cursor.members(|key, value| {
            let figure = count(value.value()?);
            match key {
                b"cached_tokens" => self.cached = figure.or(self.cached),
                b"cache_write_tokens" | b"cache_creation_tokens" => self.cache_write = figure,
                b"reasoning_tokens" | b"thinking_tokens" => self.reasoning = figure,
                _ => {}
            }
            Some(())
        })
    }

    fn into_usage(self) -> Usage {
        let beside = |figure: Option<u64>| figure.unwrap_or(0);
        let input = match (self.prompt, self.input) {
            (Some(prompt), _) => Some(prompt + beside(self.gemini_tool_prompt)),
            (None, Some(input)) if self.has_input_details => Some(input),
            (None, Some(input)) => Some(input + beside(self.cache_read_input) + beside(self.cache_creation_input)),
            // Embeddings and rankings of some vendors give one figure for all, and all of it is input.
            (None, None) if self.completion.is_none() && self.output.is_none() => self.total,
            (None, None) => None,
        };
        let output = match (self.completion, self.output) {
            (Some(completion), _) => Some(completion + beside(self.gemini_thoughts) + beside(self.outside_reasoning())),
            (None, output) => output.or(self.gemini_thoughts),
        };
        Usage {
            input_tokens: input,
            cached_tokens: self.cached.or(self.cache_read_input),
            cache_write_tokens: self.cache_write.or(self.cache_creation_input),
            output_tokens: output,
            reasoning_tokens: self.reasoning.or(self.gemini_thoughts),
            estimated: false,
        }
    }

    /// Reasoning that is not part of the completion, which only the total shows.
    fn outside_reasoning(&self) -> Option<u64> {
        let reasoning = self.reasoning?;
        (self.total? == self.prompt? + self.completion? + reasoning).then_some(reasoning)
    }
}

/// Both together; a figure that only one has is that one's.
fn sum(one: Usage, other: Usage) -> Usage {
    let add = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
    Usage {
        input_tokens: add(one.input_tokens, other.input_tokens),
        cached_tokens: add(one.cached_tokens, other.cached_tokens),
        cache_write_tokens: add(one.cache_write_tokens, other.cache_write_tokens),
        output_tokens: add(one.output_tokens, other.output_tokens),
        reasoning_tokens: add(one.reasoning_tokens, other.reasoning_tokens),
        estimated: one.estimated || other.estimated,
    }
}

/// A count, tolerant of what upstreams send in its place: whole numbers may be written as fractions, anything else is none.
fn count(value: Raw<'_>) -> Option<u64> {
    let text = std::str::from_utf8(value.0).ok()?;
    let whole = || text.parse::<f64>().ok().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    let figure = text.parse::<u64>().ok().or_else(|| Some(whole()? as u64))?;
    (figure <= TOKENS_MAX).then_some(figure)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

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
    fn usage_quirks_of_vendors_end_in_the_same_meaning() {
        let read = |json: &str| {
            let usage = read_usage(json.as_bytes());
            [
                usage.input_tokens,
                usage.cached_tokens,
                usage.cache_write_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
            ]
        };
        for (what, json, expected) in [
            (
                "cached tokens that are told in both conventions are counted once",
                r#"{"prompt_tokens":100,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":80},"cache_read_input_tokens":80,"cache_creation_input_tokens":10}"#,
                [Some(100), Some(80), Some(10), Some(5), None],
            ),
            (
                "reasoning beside the completion is output",
                r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":35,"completion_tokens_details":{"reasoning_tokens":20}}"#,
                [Some(10), None, None, Some(25), Some(20)],
            ),
            (
                "reasoning inside the completion is not counted twice",
                r#"{"prompt_tokens":10,"completion_tokens":25,"total_tokens":35,"completion_tokens_details":{"reasoning_tokens":20}}"#,
                [Some(10), None, None, Some(25), Some(20)],
            ),
            (
                "what tools brought is input",
                r#"{"promptTokenCount":10,"toolUsePromptTokenCount":90,"candidatesTokenCount":5,"totalTokenCount":105}"#,
                [Some(100), None, None, Some(5), None],
            ),
            (
                "thoughts alone are output",
                r#"{"promptTokenCount":10,"thoughtsTokenCount":7}"#,
                [Some(10), None, None, Some(7), Some(7)],
            ),
            (
                "a compaction is paid for beside the rest, an adviser is another model's",
                r#"{"input_tokens":181,"cache_read_input_tokens":0,"output_tokens":8,"iterations":[{"type":"compaction","input_tokens":100,"output_tokens":83,"cache_read_input_tokens":55096},{"input_tokens":181,"output_tokens":8,"type":"message"},{"type":"advisor_message","input_tokens":2543,"output_tokens":18}]}"#,
                [Some(181 + 100 + 55096), Some(55096), None, Some(91), None],
            ),
            ("one figure for all is input", r#"{"total_tokens":15}"#, [Some(15), None, None, None, None]),
            (
                "details of a wrong type do not hide the rest",
                r#"{"prompt_tokens":3,"prompt_tokens_details":[1],"completion_tokens_details":"x","completion_tokens":4}"#,
                [Some(3), None, None, Some(4), None],
            ),
            (
                "absurd figures are none",
                r#"{"prompt_tokens":18446744073709551615,"completion_tokens":1e300,"cache_read_input_tokens":99999999999999}"#,
                [None, None, None, None, None],
            ),
            (
                "Mistral's name",
                r#"{"prompt_tokens":100,"completion_tokens":29,"num_cached_tokens":99}"#,
                [Some(100), Some(99), None, Some(29), None],
            ),
        ] {
            assert_eq!(read(json), expected, "{what}");
        }
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
        // An index out of all bounds is one of the counted ones.
        let mut tap = StreamTap::new(StreamFormat::Chat);
        assert_eq!(see(&mut tap, &chunk(4_000_000_000, "\"stop\"")), EventClass::Terminal);
    }

    #[test]
    fn odd_chat_chunks_are_told_apart() {
        for (data, expected) in [
            (r#"{"choices":[{"delta":{"content":""},"finish_reason":""}]}"#, EventClass::Empty),
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

    proptest::proptest! {
        #[test]
        fn arbitrary_data_never_panics(data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            for format in [StreamFormat::Chat, StreamFormat::Responses, StreamFormat::Messages, StreamFormat::Gemini] {
                let _ = StreamTap::new(format).see(&Event { raw: &data, name: None, data: Some(Cow::Borrowed(&data)) });
            }
            let _ = (read_usage(&data), status_of_error(&data));
        }
    }

    #[test]
    fn an_error_object_names_its_status_or_does_not() {
        let status = |json: &str| status_of_error(json.as_bytes()).map(|status| status.as_u16());
        assert_eq!(status(r#"{"code":"content_filter","status":400}"#), Some(400));
        assert_eq!(status(r#"{"code":429,"message":"slow down"}"#), Some(429));
        assert_eq!(status(r#"{"code":"server_error"}"#), None);
        assert_eq!(status(r#"{"code":200}"#), None);
        assert_eq!(status(r#"{"code":"401","message":"bad key"}"#), Some(401));
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
