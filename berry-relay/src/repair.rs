//! Response-driven repair: what an upstream refused by name is left out or said in its newer way, once, and then remembered.
//!
//! Off unless the provider or the model says `repair = true`. Only a closed list of parameters is ever touched: those without which the
//! answer is still an answer to the question. Wordings are those of the error references of OpenAI, Anthropic, Google and of servers
//! that check bodies with pydantic (2026).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use berry_core::id::UpstreamModel;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;

use crate::body::{Chunks, Edit};
use crate::json::{Cursor, Kind, unmarked};
use crate::params::{self, Edited, How};

/// The header whose values Anthropic may refuse one by one.
const BETA: HeaderName = HeaderName::from_static("anthropic-beta");
/// Most that is remembered of one model.
const FIXES_MAX: usize = 16;
/// Longest error text that is searched.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Parameters that may be left out.
const OPTIONAL: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
    "service_tier",
    "store",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "context_management",
];

/// Keywords of schemas that may be left out: they only narrow or describe.
const KEYWORDS: &[&str] = &[
    "additionalProperties",
    "$schema",
    "default",
    "examples",
    "title",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "uniqueItems",
    "propertyNames",
    "patternProperties",
];

/// Members below which schemas stand, in any dialect.
const WITH_SCHEMAS: &[&str] =
    &["tools", "response_format", "text", "output_config", "output_format", "generationConfig"];

/// One thing that is done to requests for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// `max_tokens` is said as `max_completion_tokens`.
    NewMaxTokens,
    /// A parameter is left out.
    Drop(&'static str),
    /// A keyword is left out of all schemas.
    Keyword(&'static str),
    /// A value is left out of the header `anthropic-beta`.
    Beta(Box<str>),
}

/// What was learnt about the models of one provider.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    by_model: Mutex<HashMap<UpstreamModel, Vec<Fix>>>,
    any: AtomicBool,
}

impl Repairs {
    /// Remembers a fix; `false` where it is known, so that it cannot have helped, or too much is.
    pub(crate) fn note(&self, model: &UpstreamModel, fix: Fix) -> bool {
        let mut by_model = self.by_model.lock();
        let fixes = by_model.entry(model.clone()).or_default();
        let is_new = !fixes.contains(&fix) && fixes.len() < FIXES_MAX;
        if is_new {
            fixes.push(fix);
            self.any.store(true, Ordering::Relaxed);
        }
        is_new
    }

    /// What is known about a model.
    pub(crate) fn of(&self, model: &UpstreamModel) -> Vec<Fix> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.by_model.lock().get(model).cloned().unwrap_or_default()
    }
}

/// Whether an answer with this status may be about a parameter.
pub(crate) fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
}

/// What an error answer asks for.
pub(crate) fn asked(status: StatusCode, body: &[u8]) -> Option<Fix> {
    if !is_refusal(status) {
        return None;
    }
    let body: Value = serde_json::from_slice(unmarked(body)).ok()?;
    let error = body.get("error").unwrap_or(&body);
    // pydantic lists what it found: the place and the kind.
    let found = error.get("detail").and_then(|detail| detail.get(0));
    let message = error["message"].as_str().or_else(|| found?["msg"].as_str()).unwrap_or_default();
    let message = message.get(..MESSAGE_BYTES_MAX).unwrap_or(message);
    let param = error["param"].as_str().or_else(|| found?["loc"].as_array()?.last()?.as_str());
    let code = error["code"].as_str().or_else(|| found?["type"].as_str()).unwrap_or_default();
    if message.contains("max_completion_tokens") && (message.contains("max_tokens") || param == Some("max_tokens")) {
        return Some(Fix::NewMaxTokens);
    }
    if message.contains("anthropic-beta") {
        return beta(message);
    }
    let refuses =
        matches!(code, "unsupported_parameter" | "unsupported_value" | "extra_forbidden" | "unknown_parameter")
            || REFUSALS.iter().any(|words| message.to_ascii_lowercase().contains(words));
    if !refuses {
        return None;
    }
    let keyword = || KEYWORDS.iter().find(|keyword| names(message, keyword)).map(|keyword| Fix::Keyword(keyword));
    let by_param = param.and_then(|param| OPTIONAL.iter().find(|name| **name == param));
    let by_message = || OPTIONAL.iter().rev().find(|name| names(message, name));
    if message.contains("schema") || message.contains("function_declarations") {
        return keyword();
    }
    by_param.or_else(by_message).map(|name| Fix::Drop(name)).or_else(keyword)
}

/// Words that say that something is not taken, in lower case.
const REFUSALS: &[&str] = &[
    "not supported",
    "unsupported",
    "does not support",
    "not permitted",
    "deprecated",
    "cannot both be specified",
    "unknown name",
    "unrecognized request argument",
    "may only be set to",
];

/// Whether a text names a word, as a whole and not as a part of a longer one.
fn names(text: &str, word: &str) -> bool {
    let is_inside = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    text.match_indices(word).any(|(at, _)| {
        let bytes = text.as_bytes();
        !is_inside(at.checked_sub(1).and_then(|before| bytes.get(before))) && !is_inside(bytes.get(at + word.len()))
    })
}

/// The value that Anthropic quotes when it does not know a beta.
fn beta(message: &str) -> Option<Fix> {
    let quoted = message.split('`').skip(1).step_by(2);
    let is_value = |value: &&str| *value != "anthropic-beta" && !value.is_empty() && value.is_ascii();
    quoted.into_iter().find(is_value).map(|value| Fix::Beta(value.into()))
}

/// The body with all fixes made; what they changed is noted.
pub(crate) fn apply(mut body: Chunks, fixes: &[Fix], edited: &mut Vec<Edited>) -> Chunks {
    for fix in fixes {
        let text = body.slice(0..body.len());
        let mut edits = Vec::new();
        match fix {
            Fix::NewMaxTokens => rename(&text, &mut edits),
            Fix::Drop(name) => edits.extend(params::removal(&text, name)),
            Fix::Keyword(keyword) => strip_below(&text, keyword, &mut edits),
            Fix::Beta(_) => {}
        }
        drop(text);
        if !edits.is_empty() {
            let name = match fix {
                Fix::NewMaxTokens => "max_tokens".to_owned(),
                Fix::Drop(name) => (*name).to_owned(),
                Fix::Keyword(keyword) => format!("schema.{keyword}"),
                Fix::Beta(name) => format!("anthropic-beta.{name}"),
            };
            edited.push(Edited { name, how: How::Repaired });
            body = body.splice(&mut edits);
        }
    }
    body
}

/// Takes refused betas out of the header.
pub(crate) fn apply_to_headers(headers: &mut HeaderMap, fixes: &[Fix]) {
    let refused = |value: &str| fixes.iter().any(|fix| matches!(fix, Fix::Beta(beta) if **beta == *value));
    if !fixes.iter().any(|fix| matches!(fix, Fix::Beta(_))) {
        return;
    }
    let Some(betas) = headers.remove(BETA) else { return };
    let kept = betas.to_str().unwrap_or_default().split(',').map(str::trim).filter(|beta| !refused(beta));
    let kept = kept.collect::<Vec<_>>().join(",");
    if let (Ok(value), false) = (HeaderValue::try_from(&kept), kept.is_empty()) {
        headers.insert(BETA, value);
    }
}

/// Gives `max_tokens` its newer name, where that does not stand there already.
fn rename(text: &[u8], edits: &mut Vec<Edit>) {
    let (mut old, mut has_new) = (None, false);
    let offset = |part: &[u8]| part.as_ptr().addr() - text.as_ptr().addr();
    let _ = Cursor::new(text).members(|key, value| {
        match key {
            b"max_tokens" => old = Some(offset(key)..offset(key) + key.len()),
            b"max_completion_tokens" => has_new = true,
            _ => {}
        }
        value.skip()
    });
    if let (Some(range), false) = (old, has_new) {
        edits.push(Edit { range, replacement: Bytes::from_static(b"max_completion_tokens") });
    }
}

/// Takes a keyword out of the schemas of a request.
fn strip_below(text: &[u8], keyword: &str, edits: &mut Vec<Edit>) {
    let offset = |part: &[u8]| part.as_ptr().addr() - text.as_ptr().addr();
    let mut places: Vec<Range<usize>> = Vec::new();
    let _ = Cursor::new(text).members(|key, value| {
        let value = value.value()?;
        if WITH_SCHEMAS.iter().any(|name| name.as_bytes() == key) {
            places.push(offset(value.0)..offset(value.0) + value.0.len());
        }
        Some(())
    });
    for place in places {
        strip(&text[place.clone()], place.start, keyword, false, edits);
    }
}

/// Takes a keyword out of a value and what is in it. `is_map` = its members are named by the caller, so none of them is a keyword.
fn strip(text: &[u8], base: usize, keyword: &str, is_map: bool, edits: &mut Vec<Edit>) {
    let offset = |part: &[u8]| base + (part.as_ptr().addr() - text.as_ptr().addr());
    let removed = if is_map { Vec::new() } else { params::removal(text, keyword) };
    let mut cursor = Cursor::new(text);
    let _ = match crate::json::Raw(text).kind() {
        Kind::Object => cursor.members(|key, value| {
            let value = value.value()?;
            if is_map || key != keyword.as_bytes() {
                let names_members = !is_map && matches!(key, b"properties" | b"$defs" | b"definitions");
                strip(value.0, offset(value.0), keyword, names_members, edits);
            }
            Some(())
        }),
        Kind::Array => cursor.elements(|value| {
            let value = value.value()?;
            strip(value.0, offset(value.0), keyword, false, edits);
            Some(())
        }),
        _ => Some(()),
    };
    let moved = |edit: Edit| Edit { range: base + edit.range.start..base + edit.range.end, ..edit };
    edits.extend(removed.into_iter().map(moved));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: &str) -> Option<Fix> {
        asked(StatusCode::BAD_REQUEST, body.as_bytes())
    }

    #[test]
    fn refusals_of_the_vendors_are_understood() {
        for (body, fix) in [
            (
                r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens","code":"unsupported_parameter"}}"#,
                Fix::NewMaxTokens,
            ),
            (
                r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0.2 with this model.","param":"temperature","code":"unsupported_value"}}"#,
                Fix::Drop("temperature"),
            ),
            (
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"`temperature` and `top_p` cannot both be specified for this model."}}"#,
                Fix::Drop("top_p"),
            ),
            (
                r#"{"detail":[{"type":"extra_forbidden","loc":["body","parallel_tool_calls"],"msg":"Extra inputs are not permitted"}]}"#,
                Fix::Drop("parallel_tool_calls"),
            ),
            (
                r#"{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"additionalProperties\" at 'tools[0].function_declarations[0].parameters': Cannot find field."}}"#,
                Fix::Keyword("additionalProperties"),
            ),
            (
                r#"{"error":{"message":"Unexpected value(s) `old-2024-01-01` for the `anthropic-beta` header."}}"#,
                Fix::Beta("old-2024-01-01".into()),
            ),
        ] {
            assert_eq!(ask(body), Some(fix), "{body}");
        }
    }

    #[test]
    fn what_is_not_named_as_refused_or_may_not_be_left_out_is_not_touched() {
        for body in [
            "<html>",
            "{}",
            r#"{"error":{"message":"temperature must be at most 2","param":"temperature","code":"invalid_value"}}"#,
            r#"{"error":{"message":"'messages' is not supported","param":"messages","code":"unsupported_parameter"}}"#,
            r#"{"error":{"message":"tools are not supported by this model","param":"tools","code":"unsupported_parameter"}}"#,
        ] {
            assert_eq!(ask(body), None, "{body}");
        }
        let named = r#"{"error":{"message":"not supported","param":"seed"}}"#;
        assert_eq!(asked(StatusCode::INTERNAL_SERVER_ERROR, named.as_bytes()), None);
    }

    fn fixed(body: &str, fixes: &[Fix]) -> (String, Vec<String>) {
        let mut edited = Vec::new();
        let body = apply(Chunks::from(Bytes::copy_from_slice(body.as_bytes())), fixes, &mut edited).into_bytes();
        (String::from_utf8(body.to_vec()).unwrap(), edited.into_iter().map(|edited| edited.name).collect())
    }

    #[test]
    fn fixes_are_spliced_and_noted_where_they_changed_something() {
        let fixes = [Fix::NewMaxTokens, Fix::Drop("temperature"), Fix::Drop("seed")];
        let (body, names) = fixed(r#"{ "max_tokens":5, "temperature":0.70,"m":[{"temperature":1}]}"#, &fixes);
        assert_eq!(body, r#"{ "max_completion_tokens":5,"m":[{"temperature":1}]}"#);
        assert_eq!(names, ["max_tokens", "temperature"]);
        assert_eq!(
            fixed(r#"{"max_tokens":5,"max_completion_tokens":6}"#, &fixes[..1]).0,
            r#"{"max_tokens":5,"max_completion_tokens":6}"#
        );
    }

    #[test]
    fn a_keyword_goes_from_schemas_and_a_property_of_its_name_stays() {
        let body = r#"{"format":1,"tools":[{"function":{"parameters":{"format":"x","properties":{"format":{"type":"string","format":"uri"},"b":{"format":"y"}}}}}]}"#;
        let expected =
            r#"{"format":1,"tools":[{"function":{"parameters":{"properties":{"format":{"type":"string"},"b":{}}}}}]}"#;
        assert_eq!(fixed(body, &[Fix::Keyword("format")]).0, expected);
    }

    #[test]
    fn a_refused_beta_leaves_the_header_and_the_others_stay() {
        let fixes = [Fix::Beta("old".into())];
        for (before, after) in [("a,old, b", Some("a,b")), ("old", None), ("a", Some("a"))] {
            let mut headers = HeaderMap::from_iter([(BETA, HeaderValue::from_static(before))]);
            apply_to_headers(&mut headers, &fixes);
            assert_eq!(headers.get(BETA).map(|value| value.to_str().unwrap()), after);
        }
    }

    #[test]
    fn a_fix_that_is_known_cannot_help_again_and_the_list_is_bounded() {
        let (repairs, model) = (Repairs::default(), UpstreamModel::from("m"));
        assert!(repairs.note(&model, Fix::NewMaxTokens));
        assert!(!repairs.note(&model, Fix::NewMaxTokens));
        for i in 0..100 {
            repairs.note(&model, Fix::Beta(i.to_string().into()));
        }
        assert_eq!((repairs.of(&model).len(), repairs.of(&"other".into()).len()), (FIXES_MAX, 0));
    }
}
