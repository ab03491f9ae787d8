//! Plain answers of chat completions.

use bytes::Bytes;

use super::{request, wire};
use crate::dialect::ir::{Candidate, Citation, Part, Response, Stop, ToolCall};
use crate::dialect::loss::Losses;
use crate::dialect::text::{Fields, Text, Writer};
use crate::dialect::{Malformed, Reply, ids};
use crate::meter;

pub(super) fn decode(body: &Bytes) -> Result<Response, Malformed> {
    let mut fields = Fields::read(body)?;
    let choices = fields.list("choices");
    if choices.is_empty() {
        return Err(Malformed::new("choices", "the answer has none"));
    }
    let candidates: Vec<Candidate> = choices.iter().map(|choice| read_choice(choice.fields())).collect();
    // What came until then may be half a sentence, and no dialect can say so.
    if candidates.iter().any(|candidate| candidate.stop == Some(Stop::Error)) {
        return Err(Malformed::new("finish_reason", "the upstream failed inside its answer"));
    }
    Ok(Response {
        id: fields.string("id"),
        model: fields.string("model").filter(|model| !model.is_empty()),
        candidates,
        usage: meter::usage_told(fields.take("usage"), fields.take("service_tier")),
    })
}

fn read_choice(mut choice: Fields) -> Candidate {
    let mut message = choice.object("message");
    let reason = choice.string("finish_reason").or_else(|| choice.string("finishReason"));
    let reason = reason.filter(|reason| meter::is_end(reason.as_bytes())).map(|reason| wire::stop_of(&reason));
    // What an upstream adds to its own answer is no loss of the request's.
    let parts = request::read_answer(&mut message, &mut Losses::default());
    let has_call = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    Candidate { stop: Some(Stop::settled(reason, has_call)), parts, logprobs: choice.take("logprobs") }
}

/// The name that the client is told for the model.
pub(super) fn model<'a>(told: Option<&'a str>, reply: &'a Reply) -> &'a str {
    reply.model.as_deref().or(told).unwrap_or(&reply.asked_model)
}

pub(super) fn encode(response: &Response, reply: &Reply) -> Bytes {
    let mut writer = Writer::new();
    writer.object(|w| {
        w.key("id").string(&format!("chatcmpl-{}", reply.request_id));
        w.key("object").word("chat.completion");
        w.key("created").integer(reply.created);
        w.key("model").string(model(response.model.as_deref(), reply));
        w.key("choices").list(|w| {
            for (index, candidate) in (0..).zip(&response.candidates) {
                write_choice(w, index, candidate, reply);
            }
        });
        wire::write_usage(w.key("usage"), &response.usage);
    });
    writer.finish().into_bytes()
}

fn write_choice(w: &mut Writer, index: u64, candidate: &Candidate, reply: &Reply) {
    let has_call = candidate.parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    w.object(|w| {
        w.key("index").integer(index);
        w.key("message").object(|w| write_message(w, &candidate.parts, reply));
        match &candidate.logprobs {
            Some(logprobs) => w.key("logprobs").json(logprobs),
            None => w.key("logprobs").literal("null"),
        }
        let stop = Stop::settled(candidate.stop.clone(), has_call);
        w.key("finish_reason").string(wire::finish_reason(&stop));
    });
}

fn write_message(w: &mut Writer, parts: &[Part], reply: &Reply) {
    let (mut texts, mut thoughts, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
    let (mut calls, mut citations, mut opaque) = (Vec::new(), Vec::new(), false);
    for part in parts {
        match part {
            Part::Text(part) => {
                texts.push(&part.text);
                citations.extend(&part.citations);
            }
            Part::Thinking(thinking) => {
                thoughts.push(&thinking.text);
                opaque |= thinking.signature.is_some();
            }
            Part::RedactedThinking(_) => opaque = true,
            Part::ToolCall(call) => calls.push(call),
            Part::Refusal(text) => refusals.push(text),
            Part::Image(_) | Part::Document(_) | Part::Audio(_) | Part::ToolResult(_) | Part::Unknown(_) => {}
        }
    }
    w.key("role").word("assistant");
    match texts.is_empty() {
        true => w.key("content").literal("null"),
        false => w.key("content").texts(&texts),
    }
    match refusals.is_empty() {
        true => w.key("refusal").literal("null"),
        false => w.key("refusal").texts(&refusals),
    }
    if !thoughts.is_empty() {
        w.key("reasoning_content").texts(&thoughts);
    }
    if opaque {
        w.key("thinking_blocks").list(|w| parts.iter().for_each(|part| write_thinking(w, part)));
    }
    if !citations.is_empty() {
        w.key("annotations").list(|w| citations.iter().for_each(|citation| write_citation(w, citation)));
    }
    if !calls.is_empty() {
        w.key("tool_calls").list(|w| {
            for (index, call) in calls.iter().enumerate() {
                write_call(w, call, &call_id(call.id.as_deref(), reply, index));
            }
        });
    }
}

/// A block of reasoning with its proof, as clients send it back.
pub(super) fn write_thinking(w: &mut Writer, part: &Part) {
    match part {
        Part::Thinking(thinking) => w.object(|w| {
            w.key("type").word("thinking");
            w.key("thinking").text(&thinking.text);
            if let Some(signature) = &thinking.signature {
                w.key("signature").text(signature);
            }
        }),
        Part::RedactedThinking(data) => w.object(|w| {
            w.key("type").word("redacted_thinking");
            w.key("data").text(data);
        }),
        _ => {}
    }
}

pub(super) fn write_citation(w: &mut Writer, citation: &Citation) {
    let empty = Text::default();
    w.object(|w| {
        w.key("type").word("url_citation");
        w.key("url_citation").object(|w| {
            w.key("url").text(citation.url.as_ref().unwrap_or(&empty));
            w.key("title").text(citation.title.as_ref().unwrap_or(&empty));
            if let Some((start, end)) = citation.span {
                w.key("start_index").integer(start);
                w.key("end_index").integer(end);
            }
        });
    });
}

/// The id of a call for the client; one of ours where the upstream gave none.
pub(super) fn call_id(id: Option<&str>, reply: &Reply, index: usize) -> String {
    match id {
        Some(id) => ids::shown(id, ids::CALL).into_owned(),
        None => format!("{}{}_{index}", ids::CALL, reply.request_id),
    }
}

fn write_call(w: &mut Writer, call: &ToolCall, id: &str) {
    w.object(|w| {
        w.key("id").string(id);
        w.key("type").word("function");
        w.key("function").object(|w| {
            w.key("name").string(&call.name);
            w.key("arguments").text(&call.arguments.as_text());
        });
        if let Some(signature) = &call.signature {
            wire::write_signature(w, signature);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(message: &str) -> String {
        let body = Bytes::from(format!(r#"{{"choices":[{{"message":{message},"finish_reason":"stop"}}]}}"#));
        format!("{:?}", decode(&body).unwrap().candidates[0].parts)
    }

    #[test]
    fn an_answer_inside_which_the_upstream_failed_is_none() {
        for (reason, stop) in [
            ("error", None),
            ("network_error", None),
            ("insufficient_system_resource", None),
            ("model_length", Some(Stop::Length)),
            ("model_context_window_exceeded", Some(Stop::ContextFull)),
            ("sensitive", Some(Stop::Filter)),
            ("end_turn", Some(Stop::End)),
            ("abort", None),
            ("MAX_TOKENS", Some(Stop::Length)),
            ("PROHIBITED_CONTENT", Some(Stop::Filter)),
            ("STOP", Some(Stop::End)),
            ("refusal", Some(Stop::Refusal)),
            ("null", Some(Stop::End)),
            ("", Some(Stop::End)),
        ] {
            let body = format!(r#"{{"choices":[{{"message":{{"content":"ha"}},"finish_reason":"{reason}"}}]}}"#);
            let read = decode(&Bytes::from(body)).ok().and_then(|response| response.candidates[0].stop.clone());
            assert_eq!(read, stop, "{reason}");
        }
    }

    #[test]
    fn a_thought_among_the_content_is_a_thought() {
        let told = parts(
            r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"so"},{"type":"text","text":" so"}]},{"type":"text","text":"yes"}]}"#,
        );
        assert!(told.contains(r#"Thinking(Thinking { text: "so so", signature: None }), Text("#), "{told}");
        assert!(parts(r#"{"content":[{"type":"thinking","thinking":"so"}]}"#).contains(r#"text: "so""#));
    }

    #[test]
    fn a_call_is_one_by_its_function_whatever_its_type() {
        for kind in [r#""type":"","#, r#""type":null,"#, r#""type":"tool_call","#, ""] {
            let told = parts(&format!(
                r#"{{"tool_calls":[{{{kind}"id":"c","function":{{"name":"f","arguments":"{{}}"}}}}]}}"#
            ));
            assert!(told.contains(r#"ToolCall(ToolCall { id: Some("c"), name: "f""#), "{kind}: {told}");
        }
    }

    #[test]
    fn an_answer_without_a_choice_is_none() {
        for choices in ["[]", "null", "{}", r#""text""#] {
            let body = Bytes::from(format!(r#"{{"model":"m","choices":{choices},"usage":{{"prompt_tokens":1}}}}"#));
            assert!(decode(&body).is_err(), "{choices}");
        }
        assert!(decode(&Bytes::from_static(br#"{"choices":[{"message":{"content":""}}]}"#)).is_ok());
    }
}
