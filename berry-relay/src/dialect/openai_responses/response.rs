//! Plain answers, and the objects that streams share with them.

use berry_core::usage::Usage;
use bytes::Bytes;

use super::super::ir::{Arguments, Candidate, Citation, Part, Response, Stop, TextPart, Thinking, ToolCall};
use super::super::text::{Fields, Json, Text, Writer};
use super::super::{Malformed, Reply};
use super::request_out::arguments_text;
use super::status_of;
use crate::meter;

/// Reads an answer.
pub(super) fn decode(body: &Bytes) -> Result<Response, Malformed> {
    let mut fields = Fields::read(body)?;
    let output = fields.take("output").ok_or_else(|| Malformed::new("output", "is not there"))?;
    let mut parts = Vec::new();
    for item in output.elements() {
        read_item(item.fields(), &mut parts);
    }
    let stop = read_stop(&mut fields, parts.iter().any(is_call), parts.iter().any(is_refusal));
    Ok(Response {
        id: fields.string("id"),
        model: fields.string("model"),
        candidates: vec![Candidate { parts, stop: Some(stop), logprobs: None }],
        usage: meter::usage_told(fields.take("usage"), fields.take("service_tier")),
    })
}

fn is_call(part: &Part) -> bool {
    matches!(part, Part::ToolCall(_))
}

fn is_refusal(part: &Part) -> bool {
    matches!(part, Part::Refusal(_))
}

/// Why a response ended, by its `status` and what it says of it.
pub(super) fn read_stop(response: &mut Fields, has_call: bool, has_refusal: bool) -> Stop {
    let reason = response.object("incomplete_details").string("reason");
    let stop = match (response.string("status").as_deref(), reason.as_deref()) {
        (Some("incomplete"), Some("content_filter")) => Stop::Filter,
        (Some("incomplete"), _) => Stop::Length,
        (Some("failed" | "cancelled"), _) => Stop::Error,
        _ if has_refusal => Stop::Refusal,
        _ => Stop::End,
    };
    Stop::settled(Some(stop), has_call)
}

fn read_item(mut item: Fields, parts: &mut Vec<Part>) {
    match item.string("type").as_deref() {
        Some("message") => parts.extend(item.list("content").iter().filter_map(|part| content(part.fields()))),
        Some("function_call") => parts.push(Part::ToolCall(ToolCall {
            id: item.string("call_id").or_else(|| item.string("id")),
            name: item.string("name").unwrap_or_default(),
            arguments: Arguments::Text(item.text("arguments").unwrap_or_default()),
            signature: None,
            cache: None,
        })),
        Some("reasoning") => {
            let encrypted = item.text("encrypted_content");
            let text = reasoning_text(&mut item);
            match (text.is_empty(), encrypted) {
                (true, None) => {}
                (true, Some(encrypted)) => parts.push(Part::RedactedThinking(encrypted)),
                (false, signature) => parts.push(Part::Thinking(Thinking { text, signature })),
            }
        }
        other => parts.push(Part::Unknown(other.unwrap_or_default().to_owned())),
    }
}

/// What can be read of a reasoning item.
fn reasoning_text(item: &mut Fields) -> Text {
    let pieces = item.list("summary").into_iter().chain(item.list("content"));
    pieces.filter_map(|piece| piece.fields().text("text")).fold(Text::default(), |text, piece| {
        if text.is_empty() { piece } else { text.join(&Text::write("\n\n")).join(&piece) }
    })
}

fn content(mut part: Fields) -> Option<Part> {
    match part.string("type").as_deref() {
        Some("output_text") => {
            let citations = part.list("annotations").iter().filter_map(|one| citation(one.fields())).collect();
            Some(Part::Text(TextPart { text: part.text("text")?, citations, ..TextPart::default() }))
        }
        Some("refusal") => part.text("refusal").map(Part::Refusal),
        other => Some(Part::Unknown(other.unwrap_or_default().to_owned())),
    }
}

fn citation(mut annotation: Fields) -> Option<Citation> {
    let url = annotation.text("url")?;
    let mut place = |name| annotation.take(name).and_then(|place| place.integer());
    let span = place("start_index").zip(place("end_index"));
    Some(Citation { url: Some(url), title: annotation.text("title"), quote: None, span })
}

/// Writes an answer. There is one in this dialect: what else the upstream gave is left out.
pub(super) fn encode(response: &Response, reply: &Reply) -> Bytes {
    let none = Candidate::default();
    let candidate = response.candidates.first().unwrap_or(&none);
    let stop = Stop::settled(candidate.stop.clone(), candidate.parts.iter().any(is_call));
    let mut output = Writer::new();
    output.list(|w| {
        let mut parts = &candidate.parts[..];
        let mut index = 0;
        while !parts.is_empty() {
            let run = parts.iter().take_while(|part| matches!(part, Part::Text(_) | Part::Refusal(_))).count();
            let (now, rest) = parts.split_at(run.max(1));
            parts = rest;
            if write_parts(now, reply, index, w) {
                index += 1;
            }
        }
    });
    let output = Json::written(output);
    let shown =
        Shown { model: response.model.as_deref(), usage: Some(&response.usage), end: Some(&stop), output: &output };
    let mut writer = Writer::new();
    write_response(&shown, reply, &mut writer);
    writer.finish().into_bytes()
}

/// Writes the item of these parts; whether there is one.
fn write_parts(parts: &[Part], reply: &Reply, index: usize, w: &mut Writer) -> bool {
    match parts {
        [Part::ToolCall(call)] => {
            let call = Call { id: call.id.as_deref(), name: &call.name, arguments: arguments_text(&call.arguments) };
            call.write(reply, index, "completed", w);
        }
        [Part::Thinking(thinking)] => {
            write_reasoning(reply, index, Some(&thinking.text), thinking.signature.as_ref(), w);
        }
        [Part::RedactedThinking(data)] => write_reasoning(reply, index, None, Some(data), w),
        [Part::Text(_) | Part::Refusal(_), ..] => write_message(reply, index, "completed", w, |w| {
            for part in parts {
                match part {
                    Part::Text(text) => write_text(&text.text, &text.citations, w),
                    Part::Refusal(text) => write_refusal(text, w),
                    _ => {}
                }
            }
        }),
        _ => return false,
    }
    true
}

/// The id of an item: of the request and of its place, so that it is the same whenever it is written.
pub(super) fn item_id(kind: &str, reply: &Reply, index: usize) -> String {
    format!("{kind}_{}_{index}", reply.request_id)
}

/// A call as an item.
pub(super) struct Call<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) arguments: Text,
}

impl Call<'_> {
    pub(super) fn write(&self, reply: &Reply, index: usize, status: &str, w: &mut Writer) {
        w.object(|w| {
            w.key("id").string(&item_id("fc", reply, index));
            w.key("type").word("function_call");
            w.key("status").string(status);
            w.key("arguments").text(&self.arguments);
            match self.id {
                Some(id) => w.key("call_id").string(id),
                None => w.key("call_id").string(&item_id("call", reply, index)),
            }
            w.key("name").string(self.name);
        });
    }
}

/// A message as an item.
pub(super) fn write_message(
    reply: &Reply,
    index: usize,
    status: &str,
    w: &mut Writer,
    content: impl FnOnce(&mut Writer),
) {
    w.object(|w| {
        w.key("id").string(&item_id("msg", reply, index));
        w.key("type").word("message");
        w.key("status").string(status);
        w.key("content").list(content);
        w.key("role").word("assistant");
    });
}

/// A text inside a message.
pub(super) fn write_text(text: &Text, citations: &[Citation], w: &mut Writer) {
    w.object(|w| {
        w.key("type").word("output_text");
        w.key("annotations").list(|w| citations.iter().for_each(|citation| write_citation(citation, w)));
        w.key("logprobs").list(|_| {});
        w.key("text").text(text);
    });
}

/// The words of a refusal inside a message.
pub(super) fn write_refusal(text: &Text, w: &mut Writer) {
    w.object(|w| {
        w.key("type").word("refusal");
        w.key("refusal").text(text);
    });
}

/// A source; without an address there is no place for it.
pub(super) fn write_citation(citation: &Citation, w: &mut Writer) {
    let Some(url) = &citation.url else { return };
    let (start, end) = citation.span.unwrap_or_default();
    w.object(|w| {
        w.key("type").word("url_citation");
        w.key("start_index").integer(start);
        w.key("end_index").integer(end);
        w.key("url").text(url);
        w.key("title").text(citation.title.as_ref().unwrap_or(url));
    });
}

/// Reasoning as an item.
pub(super) fn write_reasoning(
    reply: &Reply,
    index: usize,
    text: Option<&Text>,
    encrypted: Option<&Text>,
    w: &mut Writer,
) {
    w.object(|w| {
        w.key("id").string(&item_id("rs", reply, index));
        w.key("type").word("reasoning");
        w.key("summary").list(|w| {
            if let Some(text) = text {
                write_summary(text, w);
            }
        });
        if let Some(encrypted) = encrypted {
            w.key("encrypted_content").text(encrypted);
        }
    });
}

/// A part of a summary.
pub(super) fn write_summary(text: &Text, w: &mut Writer) {
    w.object(|w| {
        w.key("type").word("summary_text");
        w.key("text").text(text);
    });
}

/// What a response object shows.
pub(super) struct Shown<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) usage: Option<&'a Usage>,
    /// How it ended; `None` while it is under way.
    pub(super) end: Option<&'a Stop>,
    /// The items, as a list.
    pub(super) output: &'a Json,
}

/// The response object. The settings in it are those of a request that named none: clients want the fields, and what was asked for
/// they know.
pub(super) fn write_response(shown: &Shown<'_>, reply: &Reply, w: &mut Writer) {
    let (status, reason) = shown.end.map_or(("in_progress", None), status_of);
    w.object(|w| {
        w.key("id").string(&format!("resp_{}", reply.request_id));
        w.key("object").word("response");
        w.key("created_at").integer(reply.created);
        w.key("status").string(status);
        match status {
            "failed" => w.key("error").object(|w| {
                w.key("code").word("server_error");
                w.key("message").word("The upstream ended the answer with an error.");
            }),
            _ => w.key("error").literal("null"),
        }
        match reason {
            Some(reason) => w.key("incomplete_details").object(|w| w.key("reason").string(reason)),
            None => w.key("incomplete_details").literal("null"),
        }
        w.key("instructions").literal("null");
        w.key("max_output_tokens").literal("null");
        w.key("model").string(reply.model.as_deref().or(shown.model).unwrap_or(&reply.asked_model));
        w.key("output").json(shown.output);
        w.key("parallel_tool_calls").boolean(true);
        w.key("previous_response_id").literal("null");
        w.key("reasoning").literal(r#"{"effort":null,"summary":null}"#);
        w.key("store").boolean(false);
        w.key("temperature").literal("null");
        w.key("text").literal(r#"{"format":{"type":"text"}}"#);
        w.key("tool_choice").word("auto");
        w.key("tools").list(|_| {});
        w.key("top_p").literal("null");
        w.key("truncation").word("disabled");
        match shown.usage.filter(|usage| !usage.is_empty()) {
            Some(usage) => w.key("usage").object(|w| write_usage(usage, w)),
            None => w.key("usage").literal("null"),
        }
        w.key("user").literal("null");
        w.key("metadata").object(|_| {});
    });
}

fn write_usage(usage: &Usage, w: &mut Writer) {
    w.key("input_tokens").integer(usage.input_tokens.unwrap_or(0));
    w.key("input_tokens_details").object(|w| w.key("cached_tokens").integer(usage.cached_tokens.unwrap_or(0)));
    w.key("output_tokens").integer(usage.output_tokens.unwrap_or(0));
    w.key("output_tokens_details").object(|w| w.key("reasoning_tokens").integer(usage.reasoning_tokens.unwrap_or(0)));
    w.key("total_tokens").integer(usage.total());
}
