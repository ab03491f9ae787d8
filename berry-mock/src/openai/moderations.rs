//! `POST /v1/moderations`: flags a text that holds the word "flagged", and nothing else.

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::answer::Answer;
use crate::error::ApiError;
use crate::generate::Prompt;
use crate::hash::id;
use crate::input::{Input, text_of};
use crate::route::Call;

const CATEGORIES: &[&str] = &[
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

pub(super) fn answer(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let texts = match input.get("input") {
        None => return Err(ApiError::missing("input")),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => list.iter().map(text_of).collect(),
        Some(one @ (Value::String(_) | Value::Array(_))) => vec![text_of(one)],
        Some(_) => return Err(ApiError::wrong("input", "a string or an array")),
    };
    let mut prompt = Prompt::new(call.script.seed);
    texts.iter().for_each(|text| prompt.add(text));
    let results: Vec<Value> = texts.iter().map(|text| result(text)).collect();
    let body = json!({"id": id("modr-", prompt.number(), 29), "model": input.model, "results": results});
    Ok(call.paced(Answer::json(StatusCode::OK, &body), 1))
}

fn result(text: &str) -> Value {
    let flagged = text.to_lowercase().contains("flagged");
    let hit = |name: &str| flagged && name == "violence";
    let all = |value: &dyn Fn(&str) -> Value| -> Map<String, Value> {
        CATEGORIES.iter().map(|name| ((*name).to_owned(), value(name))).collect()
    };
    json!({
        "flagged": flagged,
        "categories": all(&|name| json!(hit(name))),
        "category_scores": all(&|name| json!(if hit(name) { 0.98 } else { 0.0001 })),
        "category_applied_input_types": all(&|_| json!(["text"])),
    })
}
