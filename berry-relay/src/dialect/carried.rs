//! What of a client's dialect reaches a backend, feature by feature: a small request for each is translated, and what the translation
//! declares is the answer. So this can never say anything else than the header `x-berry-loss` does.

use berry_core::config::snapshot::Backend;
use berry_core::operation::Operation;
use bytes::Bytes;

use super::loss::{Loss, Losses};
use super::translate::{Asked, Decoded, Translation, is_needed};

/// The calls whose clients are told what is carried, with their names.
pub const CLIENTS: [(&str, Operation); 4] = [
    ("chat_completions", Operation::ChatCompletions),
    ("responses", Operation::Responses),
    ("messages", Operation::Messages),
    ("generate_content", Operation::GenerateContent),
];

/// What becomes of a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reaches the backend.
    Carried,
    /// Something of it does not, or not as it stands.
    Lost(Vec<Loss>),
    /// A request with it is a 400.
    Refused,
}

/// A feature: its name, the content of the one message, and further members of the request.
type Feature = (&'static str, &'static str, &'static str);

const PIXEL: &str = "iVBORw0KGgo=";

const CHAT: &[Feature] = &[
    ("text", r#""x""#, ""),
    ("image", r#"[{"type":"image_url","image_url":{"url":"data:image/png;base64,PIXEL"}}]"#, ""),
    ("image_url", r#"[{"type":"image_url","image_url":{"url":"https://example.com/x.png"}}]"#, ""),
    (
        "document",
        r#"[{"type":"file","file":{"filename":"x.pdf","file_data":"data:application/pdf;base64,PIXEL"}}]"#,
        "",
    ),
    ("audio", r#"[{"type":"input_audio","input_audio":{"data":"PIXEL","format":"wav"}}]"#, ""),
    ("tools", r#""x""#, r#""tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#),
    (
        "parallel_tool_calls",
        r#""x""#,
        r#""parallel_tool_calls":false,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#,
    ),
    ("json_object", r#""x""#, r#""response_format":{"type":"json_object"}"#),
    (
        "json_schema",
        r#""x""#,
        r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","properties":{},"additionalProperties":false}}}"#,
    ),
    ("reasoning", r#""x""#, r#""reasoning_effort":"low""#),
    ("max_tokens", r#""x""#, r#""max_completion_tokens":16"#),
    ("temperature", r#""x""#, r#""temperature":0.5"#),
    ("top_p", r#""x""#, r#""top_p":0.5"#),
    ("stop", r#""x""#, r#""stop":["a"]"#),
    ("n", r#""x""#, r#""n":2"#),
    ("seed", r#""x""#, r#""seed":1"#),
    ("penalties", r#""x""#, r#""presence_penalty":0.5,"frequency_penalty":0.5"#),
    ("logprobs", r#""x""#, r#""logprobs":true,"top_logprobs":2"#),
    ("logit_bias", r#""x""#, r#""logit_bias":{"1":1}"#),
    ("user", r#""x""#, r#""user":"u""#),
    ("metadata", r#""x""#, r#""metadata":{"a":"b"}"#),
    ("service_tier", r#""x""#, r#""service_tier":"auto""#),
    ("prompt_cache_key", r#""x""#, r#""prompt_cache_key":"k""#),
];

const RESPONSES: &[Feature] = &[
    ("text", r#""x""#, ""),
    ("image", r#"[{"type":"input_image","image_url":"data:image/png;base64,PIXEL"}]"#, ""),
    ("image_url", r#"[{"type":"input_image","image_url":"https://example.com/x.png"}]"#, ""),
    ("document", r#"[{"type":"input_file","filename":"x.pdf","file_data":"data:application/pdf;base64,PIXEL"}]"#, ""),
    ("tools", r#""x""#, r#""tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":false}]"#),
    ("hosted_tools", r#""x""#, r#""tools":[{"type":"web_search"}]"#),
    (
        "parallel_tool_calls",
        r#""x""#,
        r#""parallel_tool_calls":false,"tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":false}]"#,
    ),
    ("json_object", r#""x""#, r#""text":{"format":{"type":"json_object"}}"#),
    (
        "json_schema",
        r#""x""#,
        r#""text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object","properties":{},"additionalProperties":false}}}"#,
    ),
    ("reasoning", r#""x""#, r#""reasoning":{"effort":"low"}"#),
    ("max_tokens", r#""x""#, r#""max_output_tokens":16"#),
    ("temperature", r#""x""#, r#""temperature":0.5"#),
    ("top_p", r#""x""#, r#""top_p":0.5"#),
    ("logprobs", r#""x""#, r#""top_logprobs":2,"include":["message.output_text.logprobs"]"#),
    ("user", r#""x""#, r#""user":"u""#),
    ("metadata", r#""x""#, r#""metadata":{"a":"b"}"#),
    ("store", r#""x""#, r#""store":true"#),
    ("previous_response_id", r#""x""#, r#""previous_response_id":"resp_1""#),
    ("service_tier", r#""x""#, r#""service_tier":"auto""#),
    ("prompt_cache_key", r#""x""#, r#""prompt_cache_key":"k""#),
];

const MESSAGES: &[Feature] = &[
    ("text", r#""x""#, ""),
    ("image", r#"[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"PIXEL"}}]"#, ""),
    ("image_url", r#"[{"type":"image","source":{"type":"url","url":"https://example.com/x.png"}}]"#, ""),
    (
        "document",
        r#"[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"PIXEL"}}]"#,
        "",
    ),
    ("document_url", r#"[{"type":"document","source":{"type":"url","url":"https://example.com/x.pdf"}}]"#, ""),
    ("tools", r#""x""#, r#""tools":[{"name":"f","input_schema":{"type":"object"}}]"#),
    ("hosted_tools", r#""x""#, r#""tools":[{"type":"web_search_20250305","name":"web_search"}]"#),
    (
        "parallel_tool_calls",
        r#""x""#,
        r#""tool_choice":{"type":"auto","disable_parallel_tool_use":true},"tools":[{"name":"f","input_schema":{"type":"object"}}]"#,
    ),
    (
        "json_schema",
        r#""x""#,
        r#""output_config":{"format":{"type":"json_schema","schema":{"type":"object","properties":{},"additionalProperties":false}}}"#,
    ),
    ("reasoning", r#""x""#, r#""thinking":{"type":"enabled","budget_tokens":1024}"#),
    ("temperature", r#""x""#, r#""temperature":0.5"#),
    ("top_p", r#""x""#, r#""top_p":0.5"#),
    ("top_k", r#""x""#, r#""top_k":5"#),
    ("stop", r#""x""#, r#""stop_sequences":["a"]"#),
    ("cache_marks", r#"[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]"#, ""),
    ("user", r#""x""#, r#""metadata":{"user_id":"u"}"#),
    ("service_tier", r#""x""#, r#""service_tier":"auto""#),
];

const GEMINI: &[Feature] = &[
    ("text", r#"{"text":"x"}"#, ""),
    ("image", r#"{"inlineData":{"mimeType":"image/png","data":"PIXEL"}}"#, ""),
    ("document", r#"{"inlineData":{"mimeType":"application/pdf","data":"PIXEL"}}"#, ""),
    ("audio", r#"{"inlineData":{"mimeType":"audio/wav","data":"PIXEL"}}"#, ""),
    ("video", r#"{"inlineData":{"mimeType":"video/mp4","data":"PIXEL"}}"#, ""),
    ("tools", r#"{"text":"x"}"#, r#""tools":[{"functionDeclarations":[{"name":"f"}]}]"#),
    ("hosted_tools", r#"{"text":"x"}"#, r#""tools":[{"googleSearch":{}}]"#),
    ("json_object", r#"{"text":"x"}"#, r#""generationConfig":{"responseMimeType":"application/json"}"#),
    (
        "json_schema",
        r#"{"text":"x"}"#,
        r#""generationConfig":{"responseMimeType":"application/json","responseJsonSchema":{"type":"object","properties":{},"additionalProperties":false}}"#,
    ),
    ("reasoning", r#"{"text":"x"}"#, r#""generationConfig":{"thinkingConfig":{"thinkingBudget":1024}}"#),
    ("max_tokens", r#"{"text":"x"}"#, r#""generationConfig":{"maxOutputTokens":16}"#),
    ("temperature", r#"{"text":"x"}"#, r#""generationConfig":{"temperature":0.5}"#),
    ("top_p", r#"{"text":"x"}"#, r#""generationConfig":{"topP":0.5}"#),
    ("top_k", r#"{"text":"x"}"#, r#""generationConfig":{"topK":5}"#),
    ("stop", r#"{"text":"x"}"#, r#""generationConfig":{"stopSequences":["a"]}"#),
    ("n", r#"{"text":"x"}"#, r#""generationConfig":{"candidateCount":2}"#),
    ("seed", r#"{"text":"x"}"#, r#""generationConfig":{"seed":1}"#),
    ("penalties", r#"{"text":"x"}"#, r#""generationConfig":{"presencePenalty":0.5,"frequencyPenalty":0.5}"#),
    ("logprobs", r#"{"text":"x"}"#, r#""generationConfig":{"responseLogprobs":true,"logprobs":2}"#),
    ("safety_settings", r#"{"text":"x"}"#, r#""safetySettings":[]"#),
    ("cached_content", r#"{"text":"x"}"#, r#""cachedContent":"cachedContents/x""#),
];

/// What becomes of each feature of a client's `operation` at a backend that is asked for `model`; `None` where nothing is translated.
pub fn features(operation: Operation, backend: &Backend, model: &str) -> Option<Vec<(&'static str, Fate)>> {
    if !is_needed(operation, &backend.provider, false) {
        return None;
    }
    let features = match operation {
        Operation::ChatCompletions => CHAT,
        Operation::Responses => RESPONSES,
        Operation::Messages => MESSAGES,
        Operation::GenerateContent => GEMINI,
        _ => return None,
    };
    Some(features.iter().map(|feature| (feature.0, fate(operation, feature, backend, model))).collect())
}

fn fate(operation: Operation, (_, content, further): &Feature, backend: &Backend, model: &str) -> Fate {
    match losses(operation, content, further, backend, model) {
        None => Fate::Refused,
        Some(losses) if losses.is_empty() => Fate::Carried,
        Some(losses) => Fate::Lost(losses.iter().cloned().collect()),
    }
}

/// What is declared for a request; `None` where it is refused.
fn losses(operation: Operation, content: &str, further: &str, backend: &Backend, model: &str) -> Option<Losses> {
    let body = body(operation, content, further);
    let decoded = Decoded::read(operation, false, &Bytes::from(body)).ok()?;
    let asked = Asked { request_id: String::new(), public_model: None, asked_model: String::new(), created: 0 };
    let translation = Translation::new(&decoded, operation, backend, asked)?;
    let mut losses = Losses::default();
    translation.request(&decoded, backend, (model, None), false, &mut losses).ok()?;
    Some(losses)
}

fn body(operation: Operation, content: &str, further: &str) -> String {
    let content = content.replace("PIXEL", PIXEL);
    let comma = if further.is_empty() { "" } else { "," };
    match operation {
        Operation::Responses => {
            // What is not said to be thrown away is kept, which is a feature of its own.
            let store = if further.contains("\"store\"") { "" } else { r#""store":false,"# };
            format!(r#"{{"model":"m",{store}"input":[{{"role":"user","content":{content}}}]{comma}{further}}}"#)
        }
        Operation::Messages => {
            format!(
                r#"{{"model":"m","max_tokens":2048,"messages":[{{"role":"user","content":{content}}}]{comma}{further}}}"#
            )
        }
        Operation::GenerateContent => {
            format!(r#"{{"contents":[{{"role":"user","parts":[{content}]}}]{comma}{further}}}"#)
        }
        _ => format!(r#"{{"model":"m","messages":[{{"role":"user","content":{content}}}]{comma}{further}}}"#),
    }
}
