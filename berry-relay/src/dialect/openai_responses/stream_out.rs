//! A stream for a client.
//!
//! Every block is an item of its own. Events are numbered, items keep their id and place, and the last event repeats the whole
//! answer, which therefore is held until then.

use std::collections::BTreeMap;

use berry_core::usage::Usage;
use bytes::{Bytes, BytesMut};

use super::super::ir::{Block, Citation, Delta, ErrorClass, Event, Stop, UpstreamError};
use super::super::text::{Json, Text, Writer};
use super::super::{Reply, StreamEncoder};
use super::response::{
    Call, Shown, item_id, write_citation, write_message, write_reasoning, write_refusal, write_response, write_summary,
    write_text,
};
use super::{error_code, status_of};

/// Longest answer that is held to be repeated, bytes.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Writes a Responses stream.
pub(super) struct Encoder {
    reply: Reply,
    model: Option<String>,
    usage: Usage,
    number: u64,
    open: BTreeMap<u32, Item>,
    /// Items that are whole, by their place.
    done: BTreeMap<usize, Json>,
    places: usize,
    held: usize,
    stop: Option<Stop>,
    failed: bool,
}

/// An item that is being written.
struct Item {
    place: usize,
    kind: Kind,
    text: BytesMut,
    citations: Vec<Citation>,
    signature: Option<Text>,
}

enum Kind {
    Text,
    Refusal,
    Thinking,
    Call { id: Option<String>, name: String },
}

impl Item {
    fn text(&self) -> Text {
        let quoted = Bytes::from([b"\"", &self.text[..], b"\""].concat());
        Json::read(&quoted).ok().and_then(|json| json.text()).unwrap_or_default()
    }

    /// The prefix of its id.
    fn prefix(&self) -> &'static str {
        match self.kind {
            Kind::Text | Kind::Refusal => "msg",
            Kind::Thinking => "rs",
            Kind::Call { .. } => "fc",
        }
    }

    /// The content of a message.
    fn write_content(&self, w: &mut Writer) {
        match self.kind {
            Kind::Refusal => write_refusal(&self.text(), w),
            _ => write_text(&self.text(), &self.citations, w),
        }
    }

    fn write(&self, reply: &Reply, status: &str, w: &mut Writer) {
        let begun = status != "completed";
        match &self.kind {
            Kind::Text | Kind::Refusal => write_message(reply, self.place, status, w, |w| {
                if !begun {
                    self.write_content(w);
                }
            }),
            Kind::Thinking => {
                let text = (!begun && !self.text.is_empty()).then(|| self.text());
                write_reasoning(reply, self.place, text.as_ref(), self.signature.as_ref(), w);
            }
            Kind::Call { id, name } => {
                let arguments = match (begun, self.text.is_empty()) {
                    (true, _) => Text::default(),
                    // Clients read them as JSON.
                    (false, true) => Text::plain("{}"),
                    (false, false) => self.text(),
                };
                Call { id: id.as_deref(), name, arguments }.write(reply, self.place, status, w);
            }
        }
    }
}

impl Encoder {
    pub(super) fn new(reply: &Reply) -> Self {
        Self {
            reply: reply.clone(),
            model: None,
            usage: Usage::default(),
            number: 0,
            open: BTreeMap::new(),
            done: BTreeMap::new(),
            places: 0,
            held: 0,
            stop: None,
            failed: false,
        }
    }

    fn event(&mut self, kind: &str, out: &mut BytesMut, members: impl FnOnce(&mut Writer)) {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\ndata: ");
        Writer::append(out, |w| {
            w.object(|w| {
                w.key("type").string(kind);
                members(w);
                w.key("sequence_number").integer(self.number);
            });
        });
        self.number += 1;
        out.extend_from_slice(b"\n\n");
    }

    fn start(&mut self, out: &mut BytesMut) {
        let (model, reply) = (self.model.clone(), self.reply.clone());
        let empty = Json::fixed("[]");
        let shown = Shown { model: model.as_deref(), usage: None, end: None, output: &empty };
        for kind in ["response.created", "response.in_progress"] {
            self.event(kind, out, |w| {
                w.key("response");
                write_response(&shown, &reply, w);
            });
        }
    }

    /// An event of an item, with its id and place.
    fn of_item(&mut self, item: &Item, kind: &str, out: &mut BytesMut, members: impl FnOnce(&mut Writer)) {
        let id = item_id(item.prefix(), &self.reply, item.place);
        self.event(kind, out, |w| {
            w.key("item_id").string(&id);
            w.key("output_index").integer(item.place as u64);
            members(w);
        });
    }

    fn whole_item(&mut self, item: &Item, kind: &str, status: &str, out: &mut BytesMut) {
        let reply = self.reply.clone();
        self.event(kind, out, |w| {
            w.key("output_index").integer(item.place as u64);
            w.key("item");
            item.write(&reply, status, w);
        });
    }

    fn open(&mut self, index: u32, block: Block, out: &mut BytesMut) {
        let (kind, signature) = match block {
            Block::Text => (Kind::Text, None),
            Block::Refusal => (Kind::Refusal, None),
            Block::Thinking => (Kind::Thinking, None),
            Block::RedactedThinking(data) => (Kind::Thinking, Some(data)),
            Block::ToolCall { id, name, .. } => (Kind::Call { id, name }, None),
        };
        let item = Item { place: self.places, kind, text: BytesMut::new(), citations: Vec::new(), signature };
        self.places += 1;
        self.whole_item(&item, "response.output_item.added", "in_progress", out);
        match item.kind {
            Kind::Text | Kind::Refusal => self.of_item(&item, "response.content_part.added", out, |w| {
                w.key("content_index").integer(0);
                w.key("part");
                item.write_content(w);
            }),
            Kind::Thinking if item.signature.is_none() => {
                self.of_item(&item, "response.reasoning_summary_part.added", out, |w| {
                    w.key("summary_index").integer(0);
                    w.key("part");
                    write_summary(&Text::default(), w);
                });
            }
            Kind::Thinking | Kind::Call { .. } => {}
        }
        self.open.insert(index, item);
    }

    fn delta(&mut self, index: u32, delta: Delta, out: &mut BytesMut) {
        let Some(mut item) = self.open.remove(&index) else { return };
        match delta {
            Delta::Text(text) | Delta::Arguments(text) => {
                self.held += text.raw().len();
                item.text.extend_from_slice(text.raw());
                self.grow(&item, &text, out);
            }
            Delta::Signature(signature) => item.signature = Some(signature),
            Delta::Citation(citation) => {
                if citation.url.is_some() {
                    let place = item.citations.len() as u64;
                    self.of_item(&item, "response.output_text.annotation.added", out, |w| {
                        w.key("content_index").integer(0);
                        w.key("annotation_index").integer(place);
                        w.key("annotation");
                        write_citation(&citation, w);
                    });
                    item.citations.push(citation);
                }
            }
            Delta::Logprobs(_) => {}
        }
        self.open.insert(index, item);
        if self.held > HELD_BYTES_MAX {
            let message = "the answer is too long to be told in this dialect".to_owned();
            self.fail(&UpstreamError { kind: ErrorClass::Server, message, param: None }, out);
        }
    }

    fn grow(&mut self, item: &Item, text: &Text, out: &mut BytesMut) {
        match item.kind {
            Kind::Text => self.of_item(item, "response.output_text.delta", out, |w| {
                w.key("content_index").integer(0);
                w.key("delta").text(text);
                w.key("logprobs").list(|_| {});
            }),
            Kind::Refusal => self.of_item(item, "response.refusal.delta", out, |w| {
                w.key("content_index").integer(0);
                w.key("delta").text(text);
            }),
            Kind::Thinking => self.of_item(item, "response.reasoning_summary_text.delta", out, |w| {
                w.key("summary_index").integer(0);
                w.key("delta").text(text);
            }),
            Kind::Call { .. } => self.of_item(item, "response.function_call_arguments.delta", out, |w| {
                w.key("delta").text(text);
            }),
        }
    }

    fn close(&mut self, index: u32, out: &mut BytesMut) {
        let Some(item) = self.open.remove(&index) else { return };
        let text = item.text();
        match &item.kind {
            Kind::Text => self.of_item(&item, "response.output_text.done", out, |w| {
                w.key("content_index").integer(0);
                w.key("text").text(&text);
                w.key("logprobs").list(|_| {});
            }),
            Kind::Refusal => self.of_item(&item, "response.refusal.done", out, |w| {
                w.key("content_index").integer(0);
                w.key("refusal").text(&text);
            }),
            Kind::Thinking if item.text.is_empty() => {}
            Kind::Thinking => self.close_summary(&item, &text, out),
            Kind::Call { name, .. } => {
                let arguments = if text.is_empty() { Text::plain("{}") } else { text };
                self.of_item(&item, "response.function_call_arguments.done", out, |w| {
                    w.key("name").string(name);
                    w.key("arguments").text(&arguments);
                });
            }
        }
        if matches!(item.kind, Kind::Text | Kind::Refusal) {
            self.of_item(&item, "response.content_part.done", out, |w| {
                w.key("content_index").integer(0);
                w.key("part");
                item.write_content(w);
            });
        }
        self.whole_item(&item, "response.output_item.done", "completed", out);
        let mut writer = Writer::new();
        item.write(&self.reply, "completed", &mut writer);
        self.done.insert(item.place, Json::written(writer));
    }

    fn close_summary(&mut self, item: &Item, text: &Text, out: &mut BytesMut) {
        self.of_item(item, "response.reasoning_summary_text.done", out, |w| {
            w.key("summary_index").integer(0);
            w.key("text").text(text);
        });
        self.of_item(item, "response.reasoning_summary_part.done", out, |w| {
            w.key("summary_index").integer(0);
            w.key("part");
            write_summary(text, w);
        });
    }

    /// Clients ignore a bare error event; a failed response is what they act on.
    fn fail(&mut self, error: &UpstreamError, out: &mut BytesMut) {
        self.failed = true;
        let id = format!("resp_{}", self.reply.request_id);
        let created = self.reply.created;
        self.event("response.failed", out, |w| {
            w.key("response").object(|w| {
                w.key("id").string(&id);
                w.key("object").word("response");
                w.key("created_at").integer(created);
                w.key("status").word("failed");
                w.key("error").object(|w| {
                    w.key("code").string(error_code(error.kind));
                    w.key("message").string(&error.message);
                });
                w.key("output").list(|_| {});
            });
        });
    }
}

impl StreamEncoder for Encoder {
    fn push(&mut self, event: Event, out: &mut BytesMut) {
        if self.failed {
            return;
        }
        match event {
            Event::Start { model, .. } => {
                self.model = model;
                self.start(out);
            }
            Event::Open { candidate: 0, index, block } => self.open(index, block, out),
            Event::Delta { candidate: 0, index, delta } => self.delta(index, delta, out),
            Event::Close { candidate: 0, index } => self.close(index, out),
            Event::Stop { candidate: 0, stop } => self.stop = Some(stop),
            Event::Usage(usage) => self.usage.merge_max(&usage),
            Event::Error(error) => self.fail(&error, out),
            // There is one answer in this dialect.
            Event::Open { .. } | Event::Delta { .. } | Event::Close { .. } | Event::Stop { .. } | Event::Ping => {}
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        let Some(stop) = self.stop.take().filter(|_| !self.failed) else { return };
        let mut output = Writer::new();
        output.list(|w| self.done.values().for_each(|item| w.json(item)));
        let output = Json::written(output);
        let (model, reply, usage) = (self.model.clone(), self.reply.clone(), self.usage);
        let shown = Shown { model: model.as_deref(), usage: Some(&usage), end: Some(&stop), output: &output };
        let kind = match status_of(&stop).0 {
            "completed" => "response.completed",
            "incomplete" => "response.incomplete",
            _ => "response.failed",
        };
        self.event(kind, out, |w| {
            w.key("response");
            write_response(&shown, &reply, w);
        });
    }
}
