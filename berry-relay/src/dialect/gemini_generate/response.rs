//! Plain answers, and the pieces that streams share with them.

use berry_core::usage::Usage;
use bytes::Bytes;

use super::super::ir::{
    Arguments, Candidate, Citation, Image, Part, Response, Source, Stop, TextPart, Thinking, ToolCall,
};
use super::super::text::{Json, Text, Writer};
use super::super::{Malformed, Reply};
use super::{BAD_CALL, logprobs, read_stop, stop_word};
use crate::json::Kind;
use crate::meter;

/// Reads an answer.
pub(super) fn decode(body: &Bytes) -> Result<Response, Malformed> {
    let body = Json::read(body)?;
    if body.kind() != Kind::Object {
        return Err(Malformed::new("", "the answer is no JSON object"));
    }
    let mut fields = body.fields();
    let mut candidates: Vec<Candidate> = fields.list("candidates").iter().map(candidate).collect();
    if candidates.is_empty() && is_blocked(fields.take("promptFeedback").as_ref()) {
        candidates.push(Candidate { stop: Some(Stop::Filter), ..Candidate::default() });
    }
    if candidates.is_empty() {
        return Err(Malformed::new("candidates", "there are none"));
    }
    if candidates.iter().any(|candidate| candidate.stop == Some(Stop::MalformedCall)) {
        return Err(Malformed::new("finishReason", BAD_CALL));
    }
    Ok(Response {
        id: fields.string("responseId"),
        model: fields.string("modelVersion"),
        candidates,
        usage: fields.take("usageMetadata").map(|usage| meter::usage_of_object(usage.raw())).unwrap_or_default(),
    })
}

/// Whether the prompt itself was refused.
pub(super) fn is_blocked(feedback: Option<&Json>) -> bool {
    let reason = feedback.and_then(|feedback| feedback.fields().string("blockReason"));
    reason.is_some_and(|reason| !reason.is_empty() && !reason.ends_with("_UNSPECIFIED"))
}

fn candidate(candidate: &Json) -> Candidate {
    let mut fields = candidate.fields();
    let mut parts = Vec::new();
    for read in fields.object("content").list("parts").iter().filter_map(answer_part) {
        push(&mut parts, read);
    }
    if let Some(grounding) = fields.take("groundingMetadata") {
        cite(&mut parts, &grounding);
    }
    let has_call = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let stop = fields.string("finishReason").as_deref().and_then(read_stop);
    let stop = stop.map(|stop| Stop::settled(Some(stop), has_call));
    Candidate { parts, stop, logprobs: fields.take("logprobsResult").as_ref().and_then(logprobs::read) }
}

/// A part of an answer; none where there is nothing in it.
pub(super) fn answer_part(part: &Json) -> Option<Part> {
    let mut fields = part.fields();
    let signature = fields.text("thoughtSignature");
    let is_thought = fields.take("thought").and_then(|value| value.boolean()).unwrap_or(false);
    if let Some(text) = fields.text("text") {
        return match is_thought {
            true => Some(Part::Thinking(Thinking { text, signature })),
            false => Some(Part::Text(TextPart { text, signature, ..TextPart::default() })),
        };
    }
    if let Some(call) = fields.take("functionCall") {
        let mut call = call.fields();
        return Some(Part::ToolCall(ToolCall {
            id: call.string("id"),
            name: call.string("name").unwrap_or_default(),
            arguments: Arguments::Json(call.take("args").unwrap_or_else(|| Json::fixed("{}"))),
            signature,
            cache: None,
        }));
    }
    if let Some(data) = fields.take("inlineData") {
        let mut data = data.fields();
        let source = Source::Base64 { media_type: data.text("mimeType")?, data: data.text("data")? };
        return Some(Part::Image(Image { source, detail: None, cache: None }));
    }
    fields.rest().next().map(|(kind, _)| Part::Unknown(kind))
}

/// Adds a part; texts that follow each other are one, and an empty one only brings its signature.
fn push(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Text(last)), Part::Text(more)) => {
            last.text = last.text.join(&more.text);
            last.signature = more.signature.or(last.signature.take());
        }
        (Some(Part::Thinking(last)), Part::Thinking(more)) => {
            last.text = last.text.join(&more.text);
            last.signature = more.signature.or(last.signature.take());
        }
        (_, Part::Text(text)) if text.text.is_empty() => {}
        (_, part) => parts.push(part),
    }
}

/// Puts the sources of a grounded answer to its text. Google counts bytes, everybody else characters.
fn cite(parts: &mut [Part], grounding: &Json) {
    let mut fields = grounding.fields();
    let sources: Vec<(Option<Text>, Option<Text>)> = fields
        .list("groundingChunks")
        .iter()
        .map(|chunk| {
            let mut web = chunk.fields().object("web");
            (web.text("uri"), web.text("title"))
        })
        .collect();
    let Some(Part::Text(text)) = parts.iter_mut().rev().find(|part| matches!(part, Part::Text(_))) else { return };
    let written = text.text.read().into_owned();
    let characters = |bytes: u64| {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(written.len());
        written.char_indices().take_while(|(at, _)| *at < bytes).count() as u64
    };
    for support in fields.list("groundingSupports") {
        let mut support = support.fields();
        let mut segment = support.object("segment");
        let start = segment.take("startIndex").and_then(|start| start.integer()).unwrap_or(0);
        let end = segment.take("endIndex").and_then(|end| end.integer());
        let span = end.map(|end| (characters(start), characters(end)));
        for index in support.list("groundingChunkIndices") {
            let index = index.integer().and_then(|index| usize::try_from(index).ok());
            let Some((url, title)) = index.and_then(|index| sources.get(index)) else { continue };
            let citation = Citation { url: url.clone(), title: title.clone(), quote: None, span };
            text.citations.push(citation);
        }
    }
}

/// Writes an answer.
pub(super) fn encode(response: &Response, reply: &Reply) -> Bytes {
    let mut writer = Writer::new();
    writer.object(|w| {
        w.key("candidates").list(|w| {
            for (index, candidate) in response.candidates.iter().enumerate() {
                let has_call = candidate.parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
                let stop = Stop::settled(candidate.stop.clone(), has_call);
                w.object(|w| {
                    w.key("content").object(|w| {
                        w.key("parts").list(|w| candidate.parts.iter().for_each(|part| write_part(part, w)));
                        w.key("role").word("model");
                    });
                    w.key("finishReason").string(stop_word(&stop));
                    w.key("index").integer(index as u64);
                    if let Some(tokens) = &candidate.logprobs {
                        logprobs::write(w, tokens);
                    }
                });
            }
        });
        write_tail(w, Some(&response.usage), response.model.as_deref(), response.id.as_deref(), reply);
    });
    writer.finish().into_bytes()
}

/// What stands behind the candidates of an answer and of every chunk.
pub(super) fn write_tail(w: &mut Writer, usage: Option<&Usage>, model: Option<&str>, id: Option<&str>, reply: &Reply) {
    if let Some(usage) = usage.filter(|usage| !usage.is_empty()) {
        w.key("usageMetadata").object(|w| write_usage(w, usage));
    }
    let model = reply.model.as_deref().or(model).unwrap_or(&reply.asked_model);
    w.key("modelVersion").string(model);
    w.key("responseId").string(id.unwrap_or(&reply.request_id));
}

/// Google counts thoughts beside the answer, and cached tokens inside the prompt.
fn write_usage(w: &mut Writer, usage: &Usage) {
    let reasoning = usage.reasoning_tokens.unwrap_or(0);
    if let Some(input) = usage.input_tokens {
        w.key("promptTokenCount").integer(input);
    }
    if let Some(cached) = usage.cached_tokens.filter(|cached| *cached > 0) {
        w.key("cachedContentTokenCount").integer(cached);
    }
    if let Some(output) = usage.output_tokens {
        w.key("candidatesTokenCount").integer(output.saturating_sub(reasoning));
    }
    if reasoning > 0 {
        w.key("thoughtsTokenCount").integer(reasoning);
    }
    w.key("totalTokenCount").integer(usage.total());
}

fn write_part(part: &Part, w: &mut Writer) {
    match part {
        Part::Text(text) => w.object(|w| {
            w.key("text").text(&text.text);
            if let Some(signature) = &text.signature {
                w.key("thoughtSignature").text(signature);
            }
        }),
        Part::Thinking(thinking) => write_thought(w, &thinking.text, thinking.signature.as_ref()),
        Part::RedactedThinking(data) => write_thought(w, &Text::default(), Some(data)),
        Part::ToolCall(call) => {
            let arguments = match &call.arguments {
                Arguments::Json(json) => json.clone(),
                Arguments::Text(text) => call_arguments(text),
            };
            write_call(w, call.id.as_deref(), &call.name, &arguments, call.signature.as_ref());
        }
        Part::Refusal(text) => w.object(|w| w.key("text").text(text)),
        Part::Image(Image { source: Source::Base64 { media_type, data }, .. }) => w.object(|w| {
            w.key("inlineData").object(|w| {
                w.key("mimeType").text(media_type);
                w.key("data").text(data);
            });
        }),
        // No vendor answers with these; what it means is not known.
        Part::Image(_) | Part::Document(_) | Part::Audio(_) | Part::ToolResult(_) | Part::Unknown(_) => {}
    }
}

/// A thought, or the signature of the one before it.
pub(super) fn write_thought(w: &mut Writer, text: &Text, signature: Option<&Text>) {
    w.object(|w| {
        w.key("text").text(text);
        w.key("thought").boolean(true);
        if let Some(signature) = signature {
            w.key("thoughtSignature").text(signature);
        }
    });
}

/// A call.
pub(super) fn write_call(w: &mut Writer, id: Option<&str>, name: &str, arguments: &Json, signature: Option<&Text>) {
    w.object(|w| {
        w.key("functionCall").object(|w| {
            if let Some(id) = id {
                w.key("id").string(id);
            }
            w.key("name").string(name);
            w.key("args").json(arguments);
        });
        if let Some(signature) = signature {
            w.key("thoughtSignature").text(signature);
        }
    });
}

/// The object that a call's text holds; a text that holds none is kept under a key of its own.
pub(super) fn call_arguments(text: &Text) -> Json {
    if text.is_blank() {
        return Json::fixed("{}");
    }
    let read = Json::read(&Bytes::from(text.read().into_owned()));
    read.ok().filter(|json| json.kind() == Kind::Object).unwrap_or_else(|| {
        let mut writer = Writer::new();
        writer.object(|w| w.key("arguments").text(text));
        Json::written(writer)
    })
}
