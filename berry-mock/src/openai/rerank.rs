//! `POST /v1/rerank`, in the form that Cohere and Jina share: documents in, indices by falling relevance out.

use http::StatusCode;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::error::ApiError;
use crate::generate::Prompt;
use crate::hash::id;
use crate::input::Input;
use crate::route::Call;

pub(super) fn answer(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let query = input.get("query").ok_or_else(|| ApiError::missing("query"))?;
    let query = query.as_str().ok_or_else(|| ApiError::wrong("query", "a string"))?;
    let documents = match input.get("documents") {
        None => return Err(ApiError::missing("documents")),
        Some(Value::Array(documents)) if !documents.is_empty() => documents,
        Some(_) => return Err(ApiError::wrong("documents", "an array of documents")),
    };
    let wanted = input.number("top_n")?.map_or(documents.len(), |n| usize::try_from(n).unwrap_or(usize::MAX));
    let give_back = input.bool("return_documents")?.unwrap_or(false);
    let mut prompt = Prompt::new(call.script.seed);
    prompt.add(query);
    let mut ranked: Vec<(f64, usize)> = Vec::with_capacity(documents.len());
    for (index, document) in documents.iter().enumerate() {
        let text = document.as_str().or(document["text"].as_str());
        let text = text.ok_or_else(|| ApiError::wrong("documents", "texts, or objects with a text"))?;
        prompt.add(text);
        ranked.push((relevance(query, text), index));
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let results = ranked.iter().take(wanted).map(|(score, index)| {
        let mut result = json!({"index": index, "relevance_score": score});
        if give_back {
            result["document"] = match &documents[*index] {
                Value::String(text) => json!({"text": text}),
                document => document.clone(),
            };
        }
        result
    });
    let results: Vec<Value> = results.collect();
    let mut body = json!({"id": id("rerank-", prompt.number(), 20), "model": input.model, "results": results});
    if call.usage {
        body["usage"] = json!({"total_tokens": prompt.tokens, "prompt_tokens": prompt.tokens});
    }
    Ok(call.paced(Answer::json(StatusCode::OK, &body), 1))
}

/// The share of the query's words that the document has.
fn relevance(query: &str, document: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let (query, document) = (words(query), words(document));
    let shared = query.iter().filter(|word| document.contains(word)).count();
    let share = shared as f64 / query.len().max(1) as f64;
    // Between one and ninety-nine percent, as models are never sure.
    ((0.01 + 0.98 * share) * 1e4).round() / 1e4
}
