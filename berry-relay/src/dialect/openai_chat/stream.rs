//! Streams of chat completions.
//!
//! Read with tolerance for what imitators do: a call without an index or an id, a name that is repeated, arguments as an object,
//! several calls under one index, an end that comes with content, no `[DONE]`, or `[DONE]` alone.

use bytes::{Bytes, BytesMut};

use super::{request, response, wire};
use crate::dialect::ir::{Block, Delta, ErrorClass, Event, Part, Stop, Thinking, UpstreamError};
use crate::dialect::text::{Fields, Json, Text, Writer};
use crate::dialect::{Malformed, Reply, StreamDecoder, StreamEncoder, error};
use crate::json::Kind;
use crate::meter;
use berry_core::usage::Usage;

/// Answers and calls that are told apart; OpenAI documents at most 128.
const INDEX_MAX: u64 = 128;
/// Most bytes of one thought that are kept to be told again with its signature.
const THOUGHT_BYTES_MAX: usize = 1024 * 1024;

/// Reads a stream.
#[derive(Default)]
pub(super) struct Decoder {
    started: bool,
    choices: Vec<Choice>,
    failed: bool,
}

/// One answer of the stream.
struct Choice {
    index: u32,
    next_block: u32,
    text: Option<u32>,
    thinking: Option<u32>,
    refusal: Option<u32>,
    calls: Vec<Call>,
    had_call: bool,
    stop: Option<Stop>,
}

/// A call that is being written.
struct Call {
    /// Its index at the upstream.
    index: u64,
    id: Option<String>,
    block: u32,
    open: bool,
    balance: Balance,
}

/// Whether the pieces of a JSON text make a whole object by now.
#[derive(Default)]
struct Balance {
    depth: u32,
    in_text: bool,
    escaped: bool,
    begun: bool,
}

impl Balance {
    fn see(&mut self, piece: &str) {
        for byte in piece.bytes() {
            match byte {
                _ if std::mem::take(&mut self.escaped) => {}
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                b'{' | b'[' if !self.in_text => {
                    self.depth += 1;
                    self.begun = true;
                }
                b'}' | b']' if !self.in_text => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.begun && self.depth == 0
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, name: Option<&[u8]>, data: &Bytes, out: &mut Vec<Event>) -> Result<(), Malformed> {
        if self.failed || &data[..] == b"[DONE]" {
            return Ok(());
        }
        let mut chunk = match Fields::read(data) {
            Ok(chunk) => chunk,
            Err(_) if name == Some(b"error") => Fields::default(),
            Err(error) => return Err(error),
        };
        if chunk.take("error").is_some_and(|error| !error.is_nothing()) || name == Some(b"error") {
            self.failed = true;
            out.push(Event::Error(error::of_event(data)));
            return Ok(());
        }
        let (choices, usage) =
            (chunk.list("choices"), chunk.take("usage").filter(|usage| usage.kind() == Kind::Object));
        if choices.is_empty() && usage.is_none() {
            // Azure tells what its filter thinks of the prompt, before anything has a name.
            return Ok(());
        }
        if !std::mem::replace(&mut self.started, true) {
            let mut name = |name| chunk.string(name).filter(|name| !name.is_empty());
            out.push(Event::Start { id: name("id"), model: name("model") });
        }
        for choice in choices {
            self.choice(choice.fields(), out);
        }
        out.extend(usage.map(|usage| Event::Usage(meter::usage_of_object(usage.raw()))));
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        if self.failed {
            return;
        }
        for choice in &mut self.choices {
            choice.finish(out);
        }
    }
}

impl Decoder {
    fn choice(&mut self, mut fields: Fields, out: &mut Vec<Event>) {
        let index = fields.take("index").and_then(|index| index.integer()).unwrap_or(0);
        if index >= INDEX_MAX {
            return;
        }
        let index = index as u32;
        let place = self.choices.iter().position(|choice| choice.index == index).unwrap_or_else(|| {
            self.choices.push(Choice::new(index));
            self.choices.len() - 1
        });
        // Kimi tells them here.
        let usage = fields.take("usage").filter(|usage| usage.kind() == Kind::Object);
        out.extend(usage.map(|usage| Event::Usage(meter::usage_of_object(usage.raw()))));
        let choice = &mut self.choices[place];
        choice.delta(fields.object("delta"), out);
        if let Some(logprobs) = fields.take("logprobs").filter(|logprobs| !logprobs.is_nothing()) {
            let block = choice.text.unwrap_or(0);
            out.push(Event::Delta { candidate: index, index: block, delta: Delta::Logprobs(logprobs) });
        }
        let reason = ["finish_reason", "finishReason"].into_iter().find_map(|name| {
            let reason = fields.string(name)?;
            meter::is_end(reason.as_bytes()).then(|| wire::stop_of(&reason))
        });
        match reason {
            Some(Stop::Error) => {
                self.failed = true;
                out.push(Event::Error(failure(fields.take("error"))));
            }
            Some(stop) => choice.stop = Some(stop),
            None => {}
        }
    }
}

impl Choice {
    fn new(index: u32) -> Self {
        let (text, thinking, refusal) = (None, None, None);
        Self { index, next_block: 0, text, thinking, refusal, calls: Vec::new(), had_call: false, stop: None }
    }

    fn delta(&mut self, mut delta: Fields, out: &mut Vec<Event>) {
        let thought = ["reasoning_content", "reasoning"].into_iter().find_map(|name| non_empty(delta.text(name)));
        if let Some(text) = thought {
            self.think(text, out);
        }
        for (is_thought, text) in content(delta.take("content")) {
            match is_thought {
                true => self.think(text, out),
                false => self.say(text, out),
            }
        }
        if let Some(text) = non_empty(delta.text("refusal")) {
            self.close_thinking(out);
            self.close_text(out);
            let block =
                *self.refusal.get_or_insert_with(|| open(self.index, &mut self.next_block, Block::Refusal, out));
            self.write(block, Delta::Text(text), out);
        }
        for call in delta.list("tool_calls") {
            self.call(call.fields(), out);
        }
        if let Some(function) = delta.take("function_call") {
            self.piece(0, None, function.fields(), None, out);
        }
    }

    fn think(&mut self, text: Text, out: &mut Vec<Event>) {
        self.close_text(out);
        let block = *self.thinking.get_or_insert_with(|| open(self.index, &mut self.next_block, Block::Thinking, out));
        self.write(block, Delta::Text(text), out);
    }

    fn say(&mut self, text: Text, out: &mut Vec<Event>) {
        self.close_thinking(out);
        let block = *self.text.get_or_insert_with(|| open(self.index, &mut self.next_block, Block::Text, out));
        self.write(block, Delta::Text(text), out);
    }

    fn call(&mut self, mut call: Fields, out: &mut Vec<Event>) {
        let id = call.string("id").filter(|id| !id.is_empty());
        let function = call.object("function");
        let signature = wire::signature_of(&mut call);
        let last = self.calls.last().map(|call| call.index);
        let index = match call.take("index").and_then(|index| index.integer()) {
            Some(index) => index,
            // No index: an id begins a call, anything else goes on with the last one.
            None if id.is_some() => match self.calls.iter().find(|own| own.id == id) {
                Some(own) => own.index,
                None => last.map_or(0, |last| last + 1),
            },
            None => last.unwrap_or(0),
        };
        self.piece(index, id, function, signature, out);
    }

    fn piece(
        &mut self,
        index: u64,
        id: Option<String>,
        mut function: Fields,
        signature: Option<Text>,
        out: &mut Vec<Event>,
    ) {
        let known = self.calls.iter().rposition(|call| call.index == index);
        let name = function.string("name").unwrap_or_default();
        let arguments = function.take("arguments").map(|arguments| match arguments.text() {
            Some(text) => text,
            None => Text::write(&String::from_utf8_lossy(arguments.raw())),
        });
        let arguments = arguments.unwrap_or_default();
        let another = |call: &Call| match (&id, &call.id) {
            (Some(id), Some(own)) => id != own,
            // Without ids, a name with arguments begins a call where the one before is whole.
            (None, None) => call.balance.is_whole() && !name.is_empty() && !arguments.is_empty(),
            _ => false,
        };
        let place = match known {
            Some(place) if !another(&self.calls[place]) => place,
            _ if self.calls.len() as u64 >= INDEX_MAX => return,
            _ => self.begin(index, id, name, signature, out),
        };
        let call = &mut self.calls[place];
        if !arguments.is_empty() && call.open {
            call.balance.see(&arguments.read());
            let block = call.block;
            self.write(block, Delta::Arguments(arguments), out);
        }
    }

    /// Opens a call. Those before it that are whole are closed, so that it need not wait for them.
    fn begin(
        &mut self,
        index: u64,
        id: Option<String>,
        name: String,
        signature: Option<Text>,
        out: &mut Vec<Event>,
    ) -> usize {
        self.close_thinking(out);
        self.close_text(out);
        for call in self.calls.iter_mut().filter(|call| call.open && call.balance.is_whole()) {
            call.open = false;
            out.push(Event::Close { candidate: self.index, index: call.block });
        }
        self.had_call = true;
        let block = Block::ToolCall { id: id.clone(), name, signature };
        let block = open(self.index, &mut self.next_block, block, out);
        self.calls.push(Call { index, id, block, open: true, balance: Balance::default() });
        self.calls.len() - 1
    }

    fn write(&self, block: u32, delta: Delta, out: &mut Vec<Event>) {
        out.push(Event::Delta { candidate: self.index, index: block, delta });
    }

    fn close_thinking(&mut self, out: &mut Vec<Event>) {
        close(self.index, &mut self.thinking, out);
    }

    fn close_text(&mut self, out: &mut Vec<Event>) {
        close(self.index, &mut self.text, out);
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        self.close_thinking(out);
        self.close_text(out);
        close(self.index, &mut self.refusal, out);
        for call in self.calls.iter_mut().filter(|call| call.open) {
            call.open = false;
            out.push(Event::Close { candidate: self.index, index: call.block });
        }
        let stop = Stop::settled(self.stop.take(), self.had_call);
        out.push(Event::Stop { candidate: self.index, stop });
    }
}

fn non_empty(text: Option<Text>) -> Option<Text> {
    text.filter(|text| !text.is_empty())
}

/// The texts of a `content`, which some vendors give as parts, and whether they are thoughts.
fn content(content: Option<Json>) -> Vec<(bool, Text)> {
    let Some(content) = content else { return Vec::new() };
    if let Some(text) = content.text() {
        return non_empty(Some(text)).map(|text| (false, text)).into_iter().collect();
    }
    let text = |part: &Json| {
        let mut part = part.fields();
        let thought = non_empty(Some(request::read_thought(&mut part))).map(|text| (true, text));
        thought.or_else(|| non_empty(part.text("text")).map(|text| (false, text)))
    };
    content.elements().iter().filter_map(text).collect()
}

/// The failure that ends a choice, in its own words where it has some.
fn failure(error: Option<Json>) -> UpstreamError {
    match error.filter(|error| !error.is_nothing()) {
        Some(error) => error::of_event(error.raw()),
        None => {
            let message = "The upstream failed inside its answer.".to_owned();
            UpstreamError { kind: ErrorClass::Server, message, param: None }
        }
    }
}

fn open(candidate: u32, next: &mut u32, block: Block, out: &mut Vec<Event>) -> u32 {
    let index = *next;
    *next += 1;
    out.push(Event::Open { candidate, index, block });
    index
}

fn close(candidate: u32, block: &mut Option<u32>, out: &mut Vec<Event>) {
    out.extend(block.take().map(|index| Event::Close { candidate, index }));
}

/// Writes a stream.
pub(super) struct Encoder {
    reply: Reply,
    /// What stands before the choices of every chunk.
    head: Bytes,
    usage: Usage,
    spoken: Vec<u32>,
    calls: Vec<OpenCall>,
    thoughts: Vec<Thought>,
    /// Blocks that are refusals.
    refusals: Vec<(u32, u32)>,
    failed: bool,
}

/// A call and its place among the calls of its answer.
struct OpenCall {
    candidate: u32,
    block: u32,
    place: u64,
    said: bool,
}

/// A thought whose signature may come.
struct Thought {
    candidate: u32,
    block: u32,
    text: Vec<u8>,
    signature: Option<Text>,
}

impl Encoder {
    pub(super) fn new(reply: &Reply) -> Self {
        let mut encoder = Self {
            reply: reply.clone(),
            head: Bytes::new(),
            usage: Usage::default(),
            spoken: Vec::new(),
            calls: Vec::new(),
            thoughts: Vec::new(),
            refusals: Vec::new(),
            failed: false,
        };
        encoder.start(None);
        encoder
    }

    fn start(&mut self, model: Option<&str>) {
        let mut writer = Writer::new();
        writer.object(|w| {
            w.key("id").string(&format!("chatcmpl-{}", self.reply.request_id));
            w.key("object").word("chat.completion.chunk");
            w.key("created").integer(self.reply.created);
            w.key("model").string(response::model(model, &self.reply));
        });
        let head = writer.finish().into_bytes();
        self.head = head.slice(..head.len() - 1);
    }

    /// Writes a chunk with what `rest` writes behind the head.
    fn chunk(&self, out: &mut BytesMut, rest: impl FnOnce(&mut Writer)) {
        out.extend_from_slice(b"data: ");
        Writer::append(out, |w| w.object_from(&self.head, rest));
        out.extend_from_slice(b"\n\n");
    }

    fn choice(&mut self, candidate: u32, finish: Option<&str>, out: &mut BytesMut, delta: impl FnOnce(&mut Writer)) {
        self.begin(candidate, out);
        self.write_choice(candidate, finish, out, delta);
    }

    /// The first chunk of an answer says its role, once.
    fn begin(&mut self, candidate: u32, out: &mut BytesMut) {
        if !self.spoken.contains(&candidate) {
            self.spoken.push(candidate);
            self.write_choice(candidate, None, out, |w| {
                w.key("role").word("assistant");
                w.key("content").word("");
            });
        }
    }

    fn write_choice(&self, candidate: u32, finish: Option<&str>, out: &mut BytesMut, delta: impl FnOnce(&mut Writer)) {
        self.chunk(out, |w| {
            w.key("choices").list(|w| {
                w.object(|w| {
                    w.key("index").integer(u64::from(candidate));
                    w.key("delta").object(delta);
                    match finish {
                        Some(reason) => w.key("finish_reason").string(reason),
                        None => w.key("finish_reason").literal("null"),
                    }
                });
            });
        });
    }

    fn opened(&mut self, candidate: u32, index: u32, block: Block, out: &mut BytesMut) {
        match block {
            Block::ToolCall { id, name, signature } => {
                let place = self.calls.iter().filter(|call| call.candidate == candidate).count();
                let id = response::call_id(id.as_deref(), &self.reply, place);
                let place = place as u64;
                self.calls.push(OpenCall { candidate, block: index, place, said: false });
                self.call(candidate, place, out, |w| {
                    w.key("id").string(&id);
                    w.key("type").word("function");
                    w.key("function").object(|w| {
                        w.key("name").string(&name);
                        w.key("arguments").word("");
                    });
                    if let Some(signature) = &signature {
                        wire::write_signature(w, signature);
                    }
                });
            }
            Block::Thinking => {
                self.thoughts.push(Thought { candidate, block: index, text: Vec::new(), signature: None });
            }
            Block::RedactedThinking(data) => self.told_again(candidate, &Part::RedactedThinking(data), out),
            Block::Refusal => self.refusals.push((candidate, index)),
            Block::Text => {}
        }
    }

    fn call(&mut self, candidate: u32, place: u64, out: &mut BytesMut, call: impl FnOnce(&mut Writer)) {
        self.choice(candidate, None, out, |w| {
            w.key("tool_calls").list(|w| {
                w.object(|w| {
                    w.key("index").integer(place);
                    call(w);
                });
            });
        });
    }

    fn told_again(&mut self, candidate: u32, part: &Part, out: &mut BytesMut) {
        self.choice(candidate, None, out, |w| {
            w.key("thinking_blocks").list(|w| response::write_thinking(w, part));
        });
    }

    fn delta(&mut self, candidate: u32, index: u32, delta: Delta, out: &mut BytesMut) {
        let call = self.calls.iter_mut().find(|call| (call.candidate, call.block) == (candidate, index));
        let thought = self.thoughts.iter_mut().find(|own| (own.candidate, own.block) == (candidate, index));
        match (delta, call, thought) {
            (Delta::Arguments(text), Some(call), _) => {
                call.said = true;
                let place = call.place;
                self.call(candidate, place, out, |w| {
                    w.key("function").object(|w| w.key("arguments").text(&text));
                });
            }
            (Delta::Signature(signature), _, Some(thought)) => thought.signature = Some(signature),
            (Delta::Text(text), _, Some(thought)) => {
                if thought.text.len() + text.raw().len() <= THOUGHT_BYTES_MAX {
                    thought.text.extend_from_slice(text.raw());
                }
                self.choice(candidate, None, out, |w| w.key("reasoning_content").text(&text));
            }
            (Delta::Text(text), _, None) => {
                let refuses = self.refusals.contains(&(candidate, index));
                let field = if refuses { "refusal" } else { "content" };
                self.choice(candidate, None, out, |w| w.key(field).text(&text));
            }
            (Delta::Citation(citation), ..) => self.choice(candidate, None, out, |w| {
                w.key("annotations").list(|w| response::write_citation(w, &citation));
            }),
            (Delta::Logprobs(logprobs), ..) => {
                self.begin(candidate, out);
                self.chunk(out, |w| {
                    w.key("choices").list(|w| {
                        w.object(|w| {
                            w.key("index").integer(u64::from(candidate));
                            w.key("delta").object(|_| {});
                            w.key("logprobs").json(&logprobs);
                            w.key("finish_reason").literal("null");
                        });
                    });
                });
            }
            (Delta::Arguments(_) | Delta::Signature(_), ..) => {}
        }
    }

    fn closed(&mut self, candidate: u32, index: u32, out: &mut BytesMut) {
        let call = self.calls.iter().find(|call| (call.candidate, call.block) == (candidate, index));
        if let Some(place) = call.filter(|call| !call.said).map(|call| call.place) {
            self.call(candidate, place, out, |w| {
                w.key("function").object(|w| w.key("arguments").word("{}"));
            });
        }
        let thought = self.thoughts.iter().position(|own| (own.candidate, own.block) == (candidate, index));
        if let Some(thought) = thought.map(|place| self.thoughts.swap_remove(place))
            && thought.signature.is_some()
        {
            let text = Text::of_raw(Bytes::from(thought.text));
            self.told_again(candidate, &Part::Thinking(Thinking { text, signature: thought.signature }), out);
        }
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: Event, out: &mut BytesMut) {
        match event {
            Event::Start { model, .. } => {
                self.start(model.as_deref());
                self.begin(0, out);
            }
            Event::Open { candidate, index, block } => self.opened(candidate, index, block, out),
            Event::Delta { candidate, index, delta } => self.delta(candidate, index, delta, out),
            Event::Close { candidate, index } => self.closed(candidate, index, out),
            Event::Stop { candidate, stop } => self.choice(candidate, Some(wire::finish_reason(&stop)), out, |_| {}),
            Event::Usage(usage) => self.usage.merge_max(&usage),
            Event::Error(error) => {
                self.failed = true;
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(&error::openai_body(&error));
                out.extend_from_slice(b"\n\n");
            }
            Event::Ping => {}
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if self.failed {
            return;
        }
        if self.reply.stream_usage {
            let usage = self.usage;
            self.chunk(out, |w| {
                w.key("choices").list(|_| {});
                wire::write_usage(w.key("usage"), &usage);
            });
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream of these chunks means.
    fn read(chunks: &[&str]) -> String {
        let (mut decoder, mut events) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            decoder.push(None, &Bytes::copy_from_slice(chunk.as_bytes()), &mut events).unwrap();
        }
        decoder.finish(&mut events);
        format!("{events:?}")
    }

    fn choice(choice: &str) -> String {
        format!(r#"{{"id":"i","model":"m","choices":[{{"index":0,{choice}}}]}}"#)
    }

    #[test]
    fn a_chunk_before_anything_has_a_name_does_not_name_the_answer() {
        let filter = r#"{"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[]}"#;
        let told = read(&[filter, "{}", &choice(r#""delta":{"content":"a"}"#)]);
        assert!(told.starts_with(r#"[Start { id: Some("i"), model: Some("m") }"#), "{told}");
    }

    #[test]
    fn figures_inside_a_choice_are_figures() {
        let end = r#""delta":{},"finish_reason":"stop","usage":{"prompt_tokens":19,"completion_tokens":13}"#;
        let told = read(&[&choice(end)]);
        assert!(told.contains("Usage(Usage { input_tokens: Some(19)"), "{told}");
    }

    #[test]
    fn a_thought_among_the_content_is_a_thought() {
        let told = read(&[
            &choice(r#""delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"so"}]}]}"#),
            &choice(r#""delta":{"content":"yes"}"#),
        ]);
        assert!(
            told.contains(r#"block: Thinking }, Delta { candidate: 0, index: 0, delta: Text("so") }, Close"#),
            "{told}"
        );
        assert!(told.contains(r#"block: Text }, Delta { candidate: 0, index: 1, delta: Text("yes") }"#), "{told}");
    }

    #[test]
    fn calls_without_ids_are_told_apart_by_where_the_one_before_is_whole() {
        let call = |name: &str, arguments: &str| {
            choice(&format!(
                r#""delta":{{"tool_calls":[{{"id":"","function":{{"name":"{name}","arguments":"{arguments}"}}}}]}}"#
            ))
        };
        let told =
            read(&[&call("f", r#"{\"a\":"#), &call("f", "1}"), &call("f", ""), &call("f", "{}"), &call("g", "{}")]);
        assert_eq!(told.matches("Open {").count(), 3, "{told}");
        assert!(told.contains(r#"name: "g""#), "{told}");
    }

    #[test]
    fn a_choice_that_failed_ends_the_stream_with_its_own_words() {
        for reason in ["error", "network_error", "insufficient_system_resource"] {
            let end = format!(r#""delta":{{}},"finish_reason":"{reason}","error":{{"code":429,"message":"Too much"}}"#);
            let told = read(&[&choice(r#""delta":{"content":"ha"}"#), &choice(&end)]);
            assert!(told.contains(r#"Error(UpstreamError { kind: RateLimit, message: "Too much""#), "{told}");
            assert!(!told.contains("Stop {"), "{told}");
        }
        let told = read(&[&choice(r#""delta":{},"finish_reason":"network_error""#)]);
        assert!(told.contains("The upstream failed inside its answer."), "{told}");
    }
}
