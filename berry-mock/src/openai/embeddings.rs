//! `POST /v1/embeddings`: vectors of length one; equal texts have equal vectors, in any request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::error::ApiError;
use crate::input::Input;
use crate::route::Call;
use crate::text;
use crate::vector::vector;

/// Length of a vector unless `dimensions` says otherwise. Small, to keep examples readable.
const DIMENSIONS: u64 = 256;
/// Longest vector that is made.
const DIMENSIONS_MAX: u64 = 4096;
/// Most inputs of a request, as at OpenAI.
const INPUTS_MAX: usize = 2048;

pub(super) fn answer(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let dimensions = match input.number("dimensions")? {
        None => DIMENSIONS,
        Some(n @ 1..=DIMENSIONS_MAX) => n,
        Some(_) => return Err(ApiError::wrong("dimensions", "a number from 1 to 4096")),
    };
    let base64 = match input.get("encoding_format").map(|format| format.as_str()) {
        None | Some(Some("float")) => false,
        Some(Some("base64")) => true,
        Some(_) => return Err(ApiError::wrong("encoding_format", "float or base64")),
    };
    let mut tokens = 0;
    let mut data = Vec::new();
    for (index, item) in items(input)?.iter().enumerate() {
        let (bytes, length) = match item {
            Value::String(text) => (text.as_bytes().to_vec(), text::count(text)),
            other => (other.to_string().into_bytes(), other.as_array().map_or(0, Vec::len) as u64),
        };
        tokens += length;
        let vector = vector(call.script.seed, &input.model, &bytes, dimensions);
        let embedding = if base64 { json!(STANDARD.encode(little_endian(&vector))) } else { json!(vector) };
        data.push(json!({"object": "embedding", "index": index, "embedding": embedding}));
    }
    let mut body = json!({"object": "list", "data": data, "model": input.model});
    if call.usage {
        body["usage"] = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    }
    Ok(call.paced(Answer::json(StatusCode::OK, &body), 1))
}

/// The inputs one by one: texts, or arrays of tokens.
fn items(input: &Input) -> Result<Vec<Value>, ApiError> {
    let wrong = || ApiError::wrong("input", "a string, an array of strings, or tokens");
    let items = match input.get("input") {
        None => return Err(ApiError::missing("input")),
        Some(text @ Value::String(_)) => vec![text.clone()],
        Some(Value::Array(list)) if list.is_empty() || list.len() > INPUTS_MAX => return Err(wrong()),
        Some(tokens @ Value::Array(list)) if list.iter().all(Value::is_u64) => vec![tokens.clone()],
        Some(Value::Array(list)) => list.clone(),
        Some(_) => return Err(wrong()),
    };
    let is_tokens = |item: &Value| item.as_array().is_some_and(|tokens| tokens.iter().all(Value::is_u64));
    if items.iter().all(|item| item.is_string() || is_tokens(item)) { Ok(items) } else { Err(wrong()) }
}

/// As `encoding_format: base64` has it.
fn little_endian(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}
