//! A stream of an upstream.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::ir::{Block, Citation, Delta, Event, Stop};
use super::super::text::{Fields, Json, Text};
use super::super::{Malformed, StreamDecoder};
use super::read_error;
use super::response::read_stop;
use crate::meter;

/// Places that are told apart: what an upstream numbers beyond them counts as the last one.
const PLACES_MAX: u64 = 1024;

/// Reads a Responses stream.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    started: bool,
    ended: bool,
    next: u32,
    /// Open blocks by the place of their item and of their content.
    open: BTreeMap<(u64, u64), Open>,
    has_call: bool,
    has_refusal: bool,
}

#[derive(Debug)]
struct Open {
    index: u32,
    /// Whether anything has come for it.
    grown: bool,
    /// Whether it is a call.
    is_call: bool,
}

impl Decoder {
    fn open(&mut self, place: (u64, u64), block: Block, out: &mut Vec<Event>) -> u32 {
        let index = self.next;
        self.next += 1;
        let is_call = matches!(block, Block::ToolCall { .. });
        self.has_call |= is_call;
        self.has_refusal |= matches!(block, Block::Refusal);
        out.push(Event::Open { candidate: 0, index, block });
        self.open.insert(place, Open { index, grown: false, is_call });
        index
    }

    /// More of a block, which opens with it where nothing announced it.
    fn grow(&mut self, place: (u64, u64), block: Block, delta: Delta, out: &mut Vec<Event>) {
        if !self.open.contains_key(&place) {
            self.open(place, block, out);
        }
        let open = self.open.get_mut(&place).expect("it was opened here at the latest");
        open.grown = true;
        out.push(Event::Delta { candidate: 0, index: open.index, delta });
    }

    fn close_item(&mut self, item: u64, out: &mut Vec<Event>) {
        let places: Vec<(u64, u64)> = self.open.range((item, 0)..=(item, u64::MAX)).map(|(place, _)| *place).collect();
        for open in places.iter().filter_map(|place| self.open.remove(place)) {
            out.push(Event::Close { candidate: 0, index: open.index });
        }
    }

    fn item_added(&mut self, place: u64, mut item: Fields, out: &mut Vec<Event>) {
        if item.string("type").as_deref() == Some("function_call") {
            let id = item.string("call_id").or_else(|| item.string("id"));
            let name = item.string("name").unwrap_or_default();
            self.open((place, 0), Block::ToolCall { id, name, signature: None }, out);
        }
    }

    /// The whole item: what no delta told is taken from it.
    fn item_done(&mut self, place: u64, item: &Json, out: &mut Vec<Event>) {
        let mut fields = item.fields();
        match fields.string("type").as_deref() {
            Some("function_call") => {
                if !self.open.contains_key(&(place, 0)) {
                    self.item_added(place, item.fields(), out);
                }
                self.whole_arguments(place, fields.text("arguments"), out);
            }
            Some("reasoning") => {
                if let Some(encrypted) = fields.text("encrypted_content") {
                    match self.open.get(&(place, 0)) {
                        Some(open) => {
                            let delta = Delta::Signature(encrypted);
                            out.push(Event::Delta { candidate: 0, index: open.index, delta });
                        }
                        None => drop(self.open((place, 0), Block::RedactedThinking(encrypted), out)),
                    }
                }
            }
            Some("message") => self.whole_message(place, &mut fields, out),
            _ => {}
        }
        self.close_item(place, out);
    }

    fn whole_arguments(&mut self, place: u64, arguments: Option<Text>, out: &mut Vec<Event>) {
        let open = self.open.get_mut(&(place, 0)).filter(|open| open.is_call && !open.grown);
        if let (Some(open), Some(arguments)) = (open, arguments.filter(|arguments| !arguments.is_empty())) {
            open.grown = true;
            let delta = Delta::Arguments(arguments);
            out.push(Event::Delta { candidate: 0, index: open.index, delta });
        }
    }

    /// Texts of a message of which nothing came before.
    fn whole_message(&mut self, place: u64, item: &mut Fields, out: &mut Vec<Event>) {
        for (content, part) in item.list("content").iter().enumerate() {
            let at = (place, (content as u64).min(PLACES_MAX));
            if self.open.get(&at).is_some_and(|open| open.grown) {
                continue;
            }
            let mut part = part.fields();
            match (part.text("text"), part.text("refusal")) {
                (Some(text), _) if !text.is_empty() => self.grow(at, Block::Text, Delta::Text(text), out),
                (_, Some(text)) if !text.is_empty() => self.grow(at, Block::Refusal, Delta::Text(text), out),
                _ => {}
            }
        }
    }

    fn ended(&mut self, response: &Json, out: &mut Vec<Event>) {
        let mut fields = response.fields();
        let open: Vec<u64> = self.open.keys().map(|(item, _)| *item).collect();
        open.into_iter().for_each(|item| self.close_item(item, out));
        if let Some(usage) = fields.take("usage") {
            out.push(Event::Usage(meter::usage_of_object(usage.raw())));
        }
        let stop = read_stop(&mut fields, self.has_call, self.has_refusal);
        if !std::mem::replace(&mut self.ended, true) {
            match stop {
                Stop::Error => {
                    out.push(Event::Error(read_error(&fields.take("error").unwrap_or_else(|| Json::fixed("{}")))))
                }
                stop => out.push(Event::Stop { candidate: 0, stop }),
            }
        }
    }

    fn delta(&mut self, kind: &str, mut fields: Fields, out: &mut Vec<Event>) {
        let mut number = |name| fields.take(name).and_then(|number| number.integer()).unwrap_or(0).min(PLACES_MAX);
        let (place, content) = (number("output_index"), number("content_index"));
        let summary = number("summary_index");
        let text = fields.text("delta").unwrap_or_default();
        match kind {
            "response.output_text.delta" => self.grow((place, content), Block::Text, Delta::Text(text), out),
            "response.refusal.delta" => self.grow((place, content), Block::Refusal, Delta::Text(text), out),
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.grow((place, 0), Block::Thinking, Delta::Text(text), out);
            }
            // Parts of a summary are paragraphs.
            "response.reasoning_summary_part.added" if summary > 0 => {
                self.grow((place, 0), Block::Thinking, Delta::Text(Text::write("\n\n")), out);
            }
            "response.function_call_arguments.delta" => {
                if let Some(open) = self.open.get_mut(&(place, 0)) {
                    open.grown = true;
                    out.push(Event::Delta { candidate: 0, index: open.index, delta: Delta::Arguments(text) });
                }
            }
            "response.function_call_arguments.done" => self.whole_arguments(place, fields.text("arguments"), out),
            "response.output_text.annotation.added" => {
                let mut annotation = fields.object("annotation");
                let mut at = |name| annotation.take(name).and_then(|place| place.integer());
                let span = at("start_index").zip(at("end_index"));
                let citation =
                    Citation { url: annotation.text("url"), title: annotation.text("title"), quote: None, span };
                if citation.url.is_some() {
                    self.grow((place, content), Block::Text, Delta::Citation(citation), out);
                }
            }
            _ => {}
        }
    }
}

impl StreamDecoder for Decoder {
    fn push(&mut self, _: Option<&[u8]>, data: &Bytes, out: &mut Vec<Event>) -> Result<(), Malformed> {
        if &data[..] == b"[DONE]" {
            return Ok(());
        }
        let whole = Json::read(data)?;
        let mut fields = whole.fields();
        let kind = fields.string("type").unwrap_or_default();
        let response = fields.take("response");
        if !self.started && kind != "error" {
            self.started = true;
            let mut shown = response.as_ref().map(Json::fields).unwrap_or_default();
            out.push(Event::Start { id: shown.string("id"), model: shown.string("model") });
        }
        match kind.as_str() {
            "response.output_item.added" | "response.output_item.done" => {
                let place = fields.take("output_index").and_then(|place| place.integer()).unwrap_or(0).min(PLACES_MAX);
                let item = fields.take("item").unwrap_or_else(|| Json::fixed("{}"));
                match kind.ends_with("added") {
                    true => self.item_added(place, item.fields(), out),
                    false => self.item_done(place, &item, out),
                }
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                self.ended(&response.unwrap_or_else(|| Json::fixed("{}")), out);
            }
            "error" => {
                self.ended = true;
                let error = fields.take("error").unwrap_or(whole);
                out.push(Event::Error(read_error(&error)));
            }
            "" if fields.take("error").is_some() => {
                self.ended = true;
                out.push(Event::Error(read_error(&whole.fields().take("error").unwrap_or(whole))));
            }
            kind => self.delta(kind, fields, out),
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Event>) {
        // Without its terminal event the answer is not whole, and nothing here says that it is.
        let open: Vec<u64> = self.open.keys().map(|(item, _)| *item).collect();
        open.into_iter().for_each(|item| self.close_item(item, out));
    }
}
