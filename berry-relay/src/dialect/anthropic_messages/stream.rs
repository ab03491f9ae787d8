//! Streams of Messages.

use std::fmt::Write as _;

use berry_core::usage::Usage;
use bytes::{Bytes, BytesMut};

use super::{response, wire};
use crate::dialect::ir::{Block, Delta, Event, Stop};
use crate::dialect::serial::Serial;
use crate::dialect::text::{Fields, Text, Writer};
use crate::dialect::{Malformed, Reply, StreamDecoder, StreamEncoder, error};
use crate::meter;

/// Most blocks of one answer; what comes after them is left out.
const BLOCKS_MAX: u64 = 4096;

/// Reads a stream.
#[derive(Default)]
pub(super) struct Decoder {
    started: bool,
    /// Blocks that are open, by the upstream's index.
    open: Vec<u32>,
    /// Blocks that have begun, those included that are left out.
    begun: Vec<u32>,
    had_call: bool,
    stop: Option<Stop>,
    ended: bool,
}

impl StreamDecoder for Decoder {
    fn push(&mut self, name: Option<&[u8]>, data: &Bytes, out: &mut Vec<Event>) -> Result<(), Malformed> {
        if self.ended {
            return Ok(());
        }
        let mut fields = match Fields::read(data) {
            Ok(event) => event,
            Err(_) if name == Some(b"error") => Fields::default(),
            Err(error) => return Err(error),
        };
        let kind = fields.string("type");
        match kind.as_deref() {
            Some("message_start") => self.start(fields.object("message"), out),
            Some("content_block_start") => self.open(fields, out),
            Some("content_block_delta") => self.delta(fields, out),
            Some("content_block_stop") => {
                if let Some(index) = self.index(&mut fields) {
                    self.close(index, out);
                }
            }
            Some("message_delta") => self.message_delta(fields, out),
            Some("message_stop") => self.end(out),
            Some("ping") => out.push(Event::Ping),
            _ if name == Some(b"error") || kind.as_deref() == Some("error") || fields.take("error").is_some() => {
                self.ended = true;
                out.push(Event::Error(error::of_event(data)));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        if !self.ended && self.stop.is_some() {
            self.end(out);
        }
    }
}

impl Decoder {
    fn start(&mut self, mut message: Fields, out: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.started, true) {
            out.push(Event::Start { id: message.string("id"), model: message.string("model") });
        }
        out.extend(message.take("usage").map(|usage| Event::Usage(meter::usage_of_object(usage.raw()))));
    }

    fn index(&self, fields: &mut Fields) -> Option<u32> {
        let index = fields.take("index").and_then(|index| index.integer()).filter(|index| *index < BLOCKS_MAX)?;
        u32::try_from(index).ok()
    }

    fn open(&mut self, mut fields: Fields, out: &mut Vec<Event>) {
        let Some(index) = self.index(&mut fields) else { return };
        if !self.begun.contains(&index) {
            self.begun.push(index);
        }
        let mut content = fields.object("content_block");
        let kind = content.string("type").unwrap_or_default();
        let block = match kind.as_str() {
            "text" => Block::Text,
            "thinking" => Block::Thinking,
            "redacted_thinking" => Block::RedactedThinking(content.text("data").unwrap_or_default()),
            "tool_use" => {
                self.had_call = true;
                let name = content.string("name").unwrap_or_default();
                Block::ToolCall { id: content.string("id"), name, signature: None }
            }
            // A block that only this dialect knows: what belongs to it is left out.
            _ => return,
        };
        self.open.push(index);
        out.push(Event::Open { candidate: 0, index, block });
        let mut first = |delta| out.push(Event::Delta { candidate: 0, index, delta });
        for name in ["text", "thinking"] {
            content.text(name).filter(|text| !text.is_empty()).into_iter().for_each(|text| first(Delta::Text(text)));
        }
        if let Some(input) = content.take("input").filter(|input| !input.is_nothing()) {
            first(Delta::Arguments(Text::write(&String::from_utf8_lossy(input.raw()))));
        }
    }

    fn delta(&mut self, mut fields: Fields, out: &mut Vec<Event>) {
        let Some(index) = self.index(&mut fields) else { return };
        let mut delta = fields.object("delta");
        let kind = delta.string("type");
        if !self.open.contains(&index) && !self.imply(index, kind.as_deref(), out) {
            return;
        }
        let read = match kind.as_deref() {
            Some("text_delta") => delta.text("text").map(Delta::Text),
            Some("thinking_delta") => delta.text("thinking").map(Delta::Text),
            Some("signature_delta") => delta.text("signature").map(Delta::Signature),
            Some("input_json_delta") => delta.text("partial_json").map(Delta::Arguments),
            Some("citations_delta") => Some(Delta::Citation(response::citation(delta.object("citation")))),
            _ => None,
        };
        let is_empty = |delta: &Delta| match delta {
            Delta::Text(text) | Delta::Signature(text) | Delta::Arguments(text) => text.is_empty(),
            Delta::Citation(_) | Delta::Logprobs(_) => false,
        };
        let delta = read.filter(|delta| !is_empty(delta));
        out.extend(delta.map(|delta| Event::Delta { candidate: 0, index, delta }));
    }

    /// Opens a block that an imitator did not begin: its first delta says what it is. Whether it did.
    fn imply(&mut self, index: u32, delta: Option<&str>, out: &mut Vec<Event>) -> bool {
        let block = match delta {
            Some("text_delta") => Block::Text,
            Some("thinking_delta") => Block::Thinking,
            _ => return false,
        };
        if self.begun.contains(&index) {
            return false;
        }
        self.begun.push(index);
        self.open.push(index);
        out.push(Event::Open { candidate: 0, index, block });
        true
    }

    fn close(&mut self, index: u32, out: &mut Vec<Event>) {
        if let Some(place) = self.open.iter().position(|open| *open == index) {
            self.open.swap_remove(place);
            out.push(Event::Close { candidate: 0, index });
        }
    }

    fn message_delta(&mut self, mut fields: Fields, out: &mut Vec<Event>) {
        let mut delta = fields.object("delta");
        let sequence = delta.text("stop_sequence");
        if let Some(reason) = delta.string("stop_reason") {
            self.stop = Some(wire::stop_of(&reason, sequence));
        }
        out.extend(fields.take("usage").map(|usage| Event::Usage(meter::usage_of_object(usage.raw()))));
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        self.ended = true;
        for index in std::mem::take(&mut self.open) {
            out.push(Event::Close { candidate: 0, index });
        }
        out.push(Event::Stop { candidate: 0, stop: Stop::settled(self.stop.take(), self.had_call) });
    }
}

/// Writes a stream: one open block at a time, numbered without gaps.
pub(super) struct Encoder {
    reply: Reply,
    serial: Serial,
    /// What `serial` lets through, for as long as it takes to write it.
    steps: Vec<Event>,
    usage: Usage,
    next_block: u64,
    calls: usize,
    open: Option<Open>,
    /// Whether the open call has said any of its arguments.
    said: bool,
    stop: Option<Stop>,
    refused: bool,
    started: bool,
    failed: bool,
}

/// The block that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    Call,
    /// It was whole from the start.
    Whole,
}

impl Encoder {
    pub(super) fn new(reply: &Reply) -> Self {
        Self {
            reply: reply.clone(),
            serial: Serial::default(),
            steps: Vec::new(),
            usage: Usage::default(),
            next_block: 0,
            calls: 0,
            open: None,
            said: false,
            stop: None,
            refused: false,
            started: false,
            failed: false,
        }
    }

    fn start(&mut self, model: Option<&str>, out: &mut BytesMut) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        // Clients read the size of the prompt here; the truth comes at the end.
        let mut usage = self.usage;
        usage.input_tokens = usage.input_tokens.or(Some(self.reply.estimated_input));
        event(out, "message_start", |w| {
            w.key("message").object(|w| {
                w.key("id").string(&format!("msg_{}", self.reply.request_id));
                w.key("type").word("message");
                w.key("role").word("assistant");
                w.key("model").string(response::model(model, &self.reply));
                w.key("content").list(|_| {});
                w.key("stop_reason").literal("null");
                w.key("stop_sequence").literal("null");
                wire::write_usage(w.key("usage"), &usage);
            });
        });
    }

    fn write(&mut self, step: Event, out: &mut BytesMut) {
        match step {
            Event::Start { model, .. } => self.start(model.as_deref(), out),
            Event::Open { block, .. } => self.opened(block, out),
            Event::Delta { delta, .. } => self.delta(delta, out),
            Event::Close { .. } => self.closed(out),
            Event::Stop { stop, .. } => self.stop = Some(stop),
            Event::Usage(usage) => self.usage.merge_max(&usage),
            Event::Error(error) => {
                self.failed = true;
                out.extend_from_slice(b"event: error\ndata: ");
                out.extend_from_slice(&error::anthropic_body(&error, Some(&self.reply.request_id)));
                out.extend_from_slice(b"\n\n");
            }
            Event::Ping => event(out, "ping", |_| {}),
        }
    }

    fn opened(&mut self, block: Block, out: &mut BytesMut) {
        let index = self.next_block;
        let reply = &self.reply;
        let mut calls = self.calls;
        let open = match &block {
            Block::Text | Block::Refusal => Open::Text,
            Block::Thinking => Open::Thinking,
            Block::ToolCall { .. } => Open::Call,
            Block::RedactedThinking(_) => Open::Whole,
        };
        self.refused |= matches!(block, Block::Refusal);
        event(out, "content_block_start", |w| {
            w.key("index").integer(index);
            w.key("content_block").object(|w| match block {
                Block::Text | Block::Refusal => {
                    w.key("type").word("text");
                    w.key("text").word("");
                }
                Block::Thinking => {
                    w.key("type").word("thinking");
                    w.key("thinking").word("");
                    w.key("signature").word("");
                }
                Block::RedactedThinking(data) => {
                    w.key("type").word("redacted_thinking");
                    w.key("data").text(&data);
                }
                Block::ToolCall { id, name, .. } => {
                    w.key("type").word("tool_use");
                    w.key("id").string(&response::call_id(id.as_deref(), reply, calls));
                    w.key("name").string(&name);
                    w.key("input").object(|_| {});
                    calls += 1;
                }
            });
        });
        self.calls = calls;
        self.open = Some(open);
        self.said = false;
    }

    fn delta(&mut self, delta: Delta, out: &mut BytesMut) {
        let (kind, field, text) = match (delta, self.open) {
            (Delta::Text(text), Some(Open::Text)) => ("text_delta", "text", text),
            (Delta::Text(text), Some(Open::Thinking)) => ("thinking_delta", "thinking", text),
            (Delta::Signature(text), Some(Open::Thinking)) => ("signature_delta", "signature", text),
            (Delta::Arguments(text), Some(Open::Call)) => ("input_json_delta", "partial_json", text),
            _ => return,
        };
        let index = self.next_block;
        self.said = true;
        // Nearly every event is one of these, and a text stands as it was read, so that the line is written in one go.
        let begun = write!(
            out,
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\
             \"delta\":{{\"type\":\"{kind}\",\"{field}\":\""
        );
        begun.expect("a buffer takes all that is written");
        out.extend_from_slice(text.raw());
        out.extend_from_slice(b"\"}}\n\n");
    }

    fn closed(&mut self, out: &mut BytesMut) {
        let index = self.next_block;
        if self.open == Some(Open::Call) && !self.said {
            // Some clients parse what the pieces come to.
            self.delta(Delta::Arguments(Text::plain("{}")), out);
        }
        self.open = None;
        self.next_block += 1;
        event(out, "content_block_stop", |w| w.key("index").integer(index));
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: Event, out: &mut BytesMut) {
        let mut steps = std::mem::take(&mut self.steps);
        self.serial.push(event, &mut steps);
        steps.drain(..).for_each(|step| self.write(step, out));
        self.steps = steps;
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if self.failed {
            return;
        }
        self.start(None, out);
        let stop = match self.stop.take().unwrap_or(Stop::End) {
            Stop::End if self.refused => Stop::Refusal,
            stop => stop,
        };
        let mut usage = self.usage;
        usage.input_tokens = usage.input_tokens.or(Some(self.reply.estimated_input));
        event(out, "message_delta", |w| {
            w.key("delta").object(|w| wire::write_stop(w, &stop));
            wire::write_usage(w.key("usage"), &usage);
        });
        event(out, "message_stop", |_| {});
    }
}

/// Writes an event of this type; `rest` writes what stands behind `type`.
fn event(out: &mut BytesMut, kind: &str, rest: impl FnOnce(&mut Writer)) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    Writer::append(out, |w| {
        w.object(|w| {
            w.key("type").string(kind);
            rest(w);
        });
    });
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a stream of these events means.
    fn read(events: &[&str]) -> String {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for event in events {
            decoder.push(None, &Bytes::copy_from_slice(event.as_bytes()), &mut out).unwrap();
        }
        decoder.finish(&mut out);
        format!("{out:?}")
    }

    #[test]
    fn a_block_that_was_not_begun_is_what_its_first_delta_says() {
        let text = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#;
        let told = read(&[text, text, r#"{"type":"message_stop"}"#]);
        assert_eq!((told.matches("Open {").count(), told.matches(r#"Text("a")"#).count()), (1, 2), "{told}");
        assert!(told.contains("Close {"), "{told}");
    }

    #[test]
    fn what_belongs_to_a_block_that_is_left_out_or_over_is_left_out() {
        let unknown = r#"{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":"s"}}"#;
        let known = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
        let text = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"late"}}"#;
        let stop = r#"{"type":"content_block_stop","index":0}"#;
        for events in [&[unknown, text, stop][..], &[known, stop, text]] {
            assert!(!read(events).contains("late"));
        }
    }
}
