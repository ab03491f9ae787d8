//! Streams, both ways.

use std::collections::BTreeMap;

use berry_core::usage::Usage;
use bytes::{Bytes, BytesMut};

use super::super::ir::{Block, Delta, ErrorClass, Event, Part, Stop, UpstreamError};
use super::super::text::{Fields, Json, Text, Writer};
use super::super::{Malformed, Reply, StreamDecoder, StreamEncoder};
use super::response::{answer_part, call_arguments, is_blocked, write_call, write_tail, write_thought};
use super::{BAD_CALL, logprobs, read_error, read_stop, status_of, stop_word, write_error};
use crate::meter;

/// Candidates that are told apart.
const CANDIDATES_MAX: u64 = 128;
/// Longest arguments of calls that are held until they are whole, bytes, all calls of a stream together.
const ARGUMENTS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Reads a Gemini stream.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    started: bool,
    candidates: BTreeMap<u32, Answering>,
    failed: bool,
}

/// One answer that is being given.
#[derive(Debug, Default)]
struct Answering {
    /// Index of the next block.
    next: u32,
    /// The block that is open, and whether it is a thought.
    open: Option<(u32, bool)>,
    has_call: bool,
    /// Why it ended; a later chunk may say it again.
    stop: Option<Stop>,
}

impl Answering {
    fn open(&mut self, candidate: u32, block: Block, out: &mut Vec<Event>) -> u32 {
        let index = self.next;
        self.next += 1;
        out.push(Event::Open { candidate, index, block });
        index
    }

    fn close(&mut self, candidate: u32, out: &mut Vec<Event>) {
        if let Some((index, _)) = self.open.take() {
            out.push(Event::Close { candidate, index });
        }
    }

    /// The open text or thinking block of this kind; another one is closed.
    fn running(&mut self, candidate: u32, is_thought: bool, out: &mut Vec<Event>) -> u32 {
        match self.open {
            Some((index, kind)) if kind == is_thought => index,
            _ => {
                self.close(candidate, out);
                let index = self.open(candidate, if is_thought { Block::Thinking } else { Block::Text }, out);
                self.open = Some((index, is_thought));
                index
            }
        }
    }

    fn part(&mut self, candidate: u32, part: Part, out: &mut Vec<Event>) {
        let (is_thought, text, signature) = match part {
            Part::Text(part) => (false, part.text, part.signature),
            Part::Thinking(part) => (true, part.text, part.signature),
            Part::ToolCall(call) => {
                self.close(candidate, out);
                self.has_call = true;
                let block = Block::ToolCall { id: call.id, name: call.name, signature: call.signature };
                let index = self.open(candidate, block, out);
                if let super::super::ir::Arguments::Json(arguments) = call.arguments {
                    let text = Text::write(&String::from_utf8_lossy(arguments.raw()));
                    out.push(Event::Delta { candidate, index, delta: Delta::Arguments(text) });
                }
                return out.push(Event::Close { candidate, index });
            }
            // What no other dialect can show in a stream.
            _ => return,
        };
        // A signature may come alone, at the end; it belongs to what is open.
        if !text.is_empty() {
            let index = self.running(candidate, is_thought, out);
            out.push(Event::Delta { candidate, index, delta: Delta::Text(text) });
        }
        if let (Some(signature), Some((index, kind))) = (signature, self.open)
            && kind == is_thought
        {
            out.push(Event::Delta { candidate, index, delta: Delta::Signature(signature) });
        }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, _: Option<&[u8]>, data: &Bytes, out: &mut Vec<Event>) -> Result<(), Malformed> {
        // Proxies in front of Gemini end their streams as OpenAI does.
        if self.failed || &data[..] == b"[DONE]" {
            return Ok(());
        }
        let mut fields = Fields::read(data)?;
        if let Some(error) = fields.take("error") {
            self.failed = true;
            out.push(Event::Error(read_error(&error)));
            return Ok(());
        }
        if !std::mem::replace(&mut self.started, true) {
            out.push(Event::Start { id: fields.string("responseId"), model: fields.string("modelVersion") });
        }
        let candidates = fields.list("candidates");
        if candidates.is_empty() && is_blocked(fields.take("promptFeedback").as_ref()) {
            self.candidates.entry(0).or_default().stop = Some(Stop::Filter);
        }
        for candidate in candidates {
            let mut candidate = candidate.fields();
            let index = candidate.take("index").and_then(|index| index.integer()).unwrap_or(0).min(CANDIDATES_MAX - 1);
            let index = u32::try_from(index).expect("below the bound");
            let answering = self.candidates.entry(index).or_default();
            for part in candidate.object("content").list("parts").iter().filter_map(answer_part) {
                answering.part(index, part, out);
            }
            if let Some(logprobs) = candidate.take("logprobsResult").as_ref().and_then(logprobs::read) {
                let block = answering.open.map_or(0, |(block, _)| block);
                out.push(Event::Delta { candidate: index, index: block, delta: Delta::Logprobs(logprobs) });
            }
            let reason = candidate.string("finishReason");
            answering.stop = reason.as_deref().and_then(read_stop).or(answering.stop.take());
            if answering.stop == Some(Stop::MalformedCall) {
                self.failed = true;
                let error = UpstreamError { kind: ErrorClass::Server, message: BAD_CALL.to_owned(), param: None };
                out.push(Event::Error(error));
                return Ok(());
            }
        }
        if let Some(usage) = fields.take("usageMetadata") {
            out.push(Event::Usage(meter::usage_of_object(usage.raw())));
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        if self.failed {
            return;
        }
        for (candidate, answering) in &mut self.candidates {
            answering.close(*candidate, out);
            if let Some(stop) = answering.stop.take() {
                let stop = Stop::settled(Some(stop), answering.has_call);
                out.push(Event::Stop { candidate: *candidate, stop });
            }
        }
    }
}

/// Writes a Gemini stream.
pub(super) struct Encoder {
    reply: Reply,
    id: Option<String>,
    model: Option<String>,
    usage: Usage,
    blocks: BTreeMap<(u32, u32), Writing>,
    held_bytes: usize,
    stops: BTreeMap<u32, Stop>,
    failed: bool,
}

/// A block that is being written.
enum Writing {
    Text,
    Thought,
    Call { id: Option<String>, name: String, signature: Option<Text>, arguments: BytesMut },
}

impl Encoder {
    pub(super) fn new(reply: &Reply) -> Self {
        Self {
            reply: reply.clone(),
            id: None,
            model: None,
            usage: Usage::default(),
            blocks: BTreeMap::new(),
            held_bytes: 0,
            stops: BTreeMap::new(),
            failed: false,
        }
    }

    fn frame(&self, out: &mut BytesMut, write: impl FnOnce(&mut Writer)) {
        out.extend_from_slice(b"data: ");
        Writer::append(out, |w| w.object(write));
        out.extend_from_slice(b"\n\n");
    }

    /// A chunk with one part.
    fn chunk(&self, candidate: u32, out: &mut BytesMut, part: impl FnOnce(&mut Writer)) {
        self.frame(out, |w| {
            w.key("candidates").list(|w| {
                w.object(|w| {
                    w.key("content").object(|w| {
                        w.key("parts").list(part);
                        w.key("role").word("model");
                    });
                    w.key("index").integer(u64::from(candidate));
                });
            });
            write_tail(w, None, self.model.as_deref(), self.id.as_deref(), &self.reply);
        });
    }

    fn delta(&mut self, candidate: u32, index: u32, delta: &Delta, out: &mut BytesMut) {
        let block = self.blocks.get_mut(&(candidate, index));
        match (block, delta) {
            (Some(Writing::Call { arguments, .. }), Delta::Arguments(text)) => {
                self.held_bytes += text.raw().len();
                if self.held_bytes > ARGUMENTS_BYTES_MAX {
                    let message = "the arguments of a call are too long to be passed on".to_owned();
                    return self.fail(&UpstreamError { kind: ErrorClass::Server, message, param: None }, out);
                }
                arguments.extend_from_slice(text.raw());
            }
            (Some(Writing::Thought), Delta::Text(text)) => {
                self.chunk(candidate, out, |w| write_thought(w, text, None));
            }
            (Some(Writing::Thought), Delta::Signature(signature)) => {
                self.chunk(candidate, out, |w| write_thought(w, &Text::default(), Some(signature)));
            }
            (Some(Writing::Text), Delta::Text(text)) => {
                self.chunk(candidate, out, |w| w.object(|w| w.key("text").text(text)));
            }
            (Some(Writing::Text), Delta::Signature(signature)) => self.chunk(candidate, out, |w| {
                w.object(|w| {
                    w.key("text").word("");
                    w.key("thoughtSignature").text(signature);
                });
            }),
            (_, Delta::Logprobs(tokens)) => self.frame(out, |w| {
                w.key("candidates").list(|w| {
                    w.object(|w| {
                        w.key("index").integer(u64::from(candidate));
                        logprobs::write(w, tokens);
                    });
                });
                write_tail(w, None, self.model.as_deref(), self.id.as_deref(), &self.reply);
            }),
            // What has no place in a chunk.
            _ => {}
        }
    }

    fn open(&mut self, candidate: u32, index: u32, block: Block, out: &mut BytesMut) {
        let writing = match block {
            Block::Text | Block::Refusal => Writing::Text,
            Block::Thinking => Writing::Thought,
            Block::RedactedThinking(data) => {
                return self.chunk(candidate, out, |w| write_thought(w, &Text::default(), Some(&data)));
            }
            Block::ToolCall { id, name, signature } => {
                Writing::Call { id, name, signature, arguments: BytesMut::new() }
            }
        };
        self.blocks.insert((candidate, index), writing);
    }

    /// A call is written when it is whole.
    fn close(&mut self, candidate: u32, index: u32, out: &mut BytesMut) {
        if let Some(Writing::Call { id, name, signature, arguments }) = self.blocks.remove(&(candidate, index)) {
            let arguments = arguments.freeze();
            let quoted = Json::read(&Bytes::from([b"\"", &arguments[..], b"\""].concat()));
            let text = quoted.ok().and_then(|json| json.text()).unwrap_or_default();
            let arguments = call_arguments(&text);
            self.chunk(candidate, out, |w| write_call(w, id.as_deref(), &name, &arguments, signature.as_ref()));
        }
    }

    fn fail(&mut self, error: &UpstreamError, out: &mut BytesMut) {
        self.failed = true;
        let mut writer = Writer::new();
        write_error(&mut writer, error, status_of(error.kind));
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&writer.finish().into_bytes());
        out.extend_from_slice(b"\n\n");
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: Event, out: &mut BytesMut) {
        if self.failed {
            return;
        }
        match event {
            Event::Start { id, model } => (self.id, self.model) = (id, model),
            Event::Open { candidate, index, block } => self.open(candidate, index, block, out),
            Event::Delta { candidate, index, delta } => self.delta(candidate, index, &delta, out),
            Event::Close { candidate, index } => self.close(candidate, index, out),
            Event::Stop { candidate, stop } => drop(self.stops.insert(candidate, stop)),
            Event::Usage(usage) => self.usage.merge_max(&usage),
            Event::Error(error) => self.fail(&error, out),
            // Silence is filled elsewhere, by an empty line.
            Event::Ping => {}
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if self.failed || self.stops.is_empty() {
            return;
        }
        self.frame(out, |w| {
            w.key("candidates").list(|w| {
                for (candidate, stop) in &self.stops {
                    w.object(|w| {
                        w.key("content").object(|w| {
                            w.key("parts").list(|w| w.object(|w| w.key("text").word("")));
                            w.key("role").word("model");
                        });
                        w.key("finishReason").string(stop_word(stop));
                        w.key("index").integer(u64::from(*candidate));
                    });
                }
            });
            write_tail(w, Some(&self.usage), self.model.as_deref(), self.id.as_deref(), &self.reply);
        });
    }
}
