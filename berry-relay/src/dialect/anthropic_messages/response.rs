//! Plain answers of Messages.

use bytes::Bytes;

use super::{request, wire};
use crate::dialect::ir::{Candidate, Citation, Part, Response, Stop, TextPart, ToolCall};
use crate::dialect::loss::Losses;
use crate::dialect::text::{Fields, Text, Writer};
use crate::dialect::{Malformed, Reply, ids};
use crate::json::Kind;
use crate::meter;

pub(super) fn decode(body: &Bytes) -> Result<Response, Malformed> {
    let mut fields = Fields::read(body)?;
    let content = fields.take("content").filter(|content| content.kind() == Kind::Array);
    let content = content.ok_or_else(|| Malformed::new("content", "the answer has none"))?;
    // What an upstream adds to its own answer is no loss of the request's.
    let mut parts = request::read_content(&content, &mut Losses::default());
    for (part, block) in parts.iter_mut().zip(content.elements()) {
        if let Part::Text(text) = part {
            text.citations = block.fields().list("citations").iter().map(|one| citation(one.fields())).collect();
        }
    }
    let sequence = fields.text("stop_sequence");
    let reason = fields.string("stop_reason").map(|reason| wire::stop_of(&reason, sequence));
    let has_call = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let candidate = Candidate { stop: Some(Stop::settled(reason, has_call)), parts, logprobs: None };
    Ok(Response {
        id: fields.string("id"),
        model: fields.string("model"),
        candidates: vec![candidate],
        usage: fields.take("usage").map(|usage| meter::usage_of_object(usage.raw())).unwrap_or_default(),
    })
}

/// A source as Messages writes it.
pub(super) fn citation(mut fields: Fields) -> Citation {
    Citation {
        url: fields.text("url").or_else(|| fields.text("source")),
        title: fields.text("title").or_else(|| fields.text("document_title")),
        quote: fields.text("cited_text"),
        span: None,
    }
}

/// The name that the client is told for the model.
pub(super) fn model<'a>(told: Option<&'a str>, reply: &'a Reply) -> &'a str {
    reply.model.as_deref().or(told).unwrap_or(&reply.asked_model)
}

pub(super) fn encode(response: &Response, reply: &Reply) -> Bytes {
    let empty = Candidate::default();
    let candidate = response.candidates.first().unwrap_or(&empty);
    let has_call = candidate.parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let refuses = candidate.parts.iter().any(|part| matches!(part, Part::Refusal(_)));
    let stop = match Stop::settled(candidate.stop.clone(), has_call) {
        Stop::End if refuses => Stop::Refusal,
        stop => stop,
    };
    let mut writer = Writer::new();
    writer.object(|w| {
        w.key("id").string(&format!("msg_{}", reply.request_id));
        w.key("type").word("message");
        w.key("role").word("assistant");
        w.key("model").string(model(response.model.as_deref(), reply));
        w.key("content").list(|w| {
            let mut calls = 0;
            for part in &candidate.parts {
                write_part(w, part, reply, &mut calls);
            }
        });
        wire::write_stop(w, &stop);
        wire::write_usage(w.key("usage"), &response.usage);
    });
    writer.finish().into_bytes()
}

fn write_part(w: &mut Writer, part: &Part, reply: &Reply, calls: &mut usize) {
    match part {
        Part::Text(TextPart { text, .. }) | Part::Refusal(text) if !text.is_empty() => w.object(|w| {
            w.key("type").word("text");
            w.key("text").text(text);
        }),
        Part::Thinking(thinking) => w.object(|w| {
            w.key("type").word("thinking");
            w.key("thinking").text(&thinking.text);
            w.key("signature").text(thinking.signature.as_ref().unwrap_or(&Text::default()));
        }),
        Part::RedactedThinking(data) => w.object(|w| {
            w.key("type").word("redacted_thinking");
            w.key("data").text(data);
        }),
        Part::ToolCall(call) => {
            write_call(w, call, &call_id(call.id.as_deref(), reply, *calls));
            *calls += 1;
        }
        Part::Text(_)
        | Part::Refusal(_)
        | Part::Image(_)
        | Part::Document(_)
        | Part::Audio(_)
        | Part::ToolResult(_)
        | Part::Unknown(_) => {}
    }
}

/// The id of a call for the client; one of ours where the upstream gave none.
pub(super) fn call_id(id: Option<&str>, reply: &Reply, index: usize) -> String {
    match id {
        Some(id) => ids::shown(id, ids::TOOLU).into_owned(),
        None => format!("{}{}_{index}", ids::TOOLU, reply.request_id),
    }
}

fn write_call(w: &mut Writer, call: &ToolCall, id: &str) {
    let (input, _) = call.arguments.as_object();
    w.object(|w| {
        w.key("type").word("tool_use");
        w.key("id").string(id);
        w.key("name").string(&call.name);
        w.key("input").json(&input);
    });
}
