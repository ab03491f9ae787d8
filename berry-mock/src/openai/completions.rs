//! `POST /v1/completions`: the older endpoint, text after text.

use http::StatusCode;
use serde_json::{Value, json};

use super::CREATED;
use super::chat::{finish_reason, usage};
use crate::answer::{Answer, Events, Mark};
use crate::error::ApiError;
use crate::generate::{Ask, Generated, Prompt, generate};
use crate::hash::id;
use crate::input::Input;
use crate::route::Call;
use crate::text;

/// Tokens of a completion whose request sets no limit, as at OpenAI.
const MAX_TOKENS: u64 = 16;

pub(super) fn answer(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let prompts = prompts(input)?;
    let per_prompt = input.alternatives()?;
    let stops = input.stops()?;
    let max_tokens = input.number("max_tokens")?.unwrap_or(MAX_TOKENS);
    let mut all = Prompt::new(call.script.seed);
    let mut choices: Vec<Generated> = Vec::new();
    for text in prompts {
        all.add(&text);
        let mut prompt = Prompt::new(call.script.seed);
        prompt.add(&text);
        let (stop, length) = (stops.clone(), call.script.answer_tokens);
        let ask = Ask { prompt, user: text, max_tokens: Some(max_tokens), stop, length, ..Ask::default() };
        choices.extend((0..per_prompt).map(|i| generate(&ask, i)));
    }
    all.salt(&input.model);
    let id = id("cmpl-", all.number(), 29);
    let usage = usage(all.tokens, choices.iter().map(|choice| choice.tokens).sum());
    let object = |choices: Vec<Value>| json!({"id": id, "object": "text_completion", "created": CREATED, "model": input.model, "choices": choices});
    if !input.stream()? {
        let slowest = choices.iter().map(|choice| choice.tokens).max().unwrap_or(0);
        let texts = choices.iter().enumerate();
        let mut body = object(texts.map(|(i, c)| choice(i, &c.text, Some(finish_reason(&c.finish)))).collect());
        if call.usage {
            body["usage"] = usage;
        }
        return Ok(call.paced(Answer::json(StatusCode::OK, &body), slowest));
    }
    let mut events = Events::new(call.pace());
    for (i, generated) in choices.iter().enumerate() {
        for token in text::tokens(&generated.text) {
            events.data(Mark::Content, &object(vec![choice(i, token, None)]));
        }
        events.data(Mark::Finish, &object(vec![choice(i, "", Some(finish_reason(&generated.finish)))]));
    }
    if input.include_usage() && call.usage {
        let mut chunk = object(Vec::new());
        chunk["usage"] = usage;
        events.data(Mark::Usage, &chunk);
    }
    events.bytes(Mark::Terminator, "data: [DONE]\n\n");
    Ok(Answer::events(events))
}

fn choice(index: usize, text: &str, finish: Option<&str>) -> Value {
    json!({"text": text, "index": index, "logprobs": null, "finish_reason": finish})
}

/// One text, several, or tokens, which are shown as their numbers.
fn prompts(input: &Input) -> Result<Vec<String>, ApiError> {
    match input.get("prompt") {
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) if list.iter().all(Value::is_number) => {
            Ok(vec![Value::from(list.clone()).to_string()])
        }
        Some(Value::Array(list)) => {
            let text = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            Ok(list.iter().map(text).collect())
        }
        Some(_) => Err(ApiError::wrong("prompt", "a string or an array")),
        None => Err(ApiError::missing("prompt")),
    }
}
