//! `POST /v1/responses`, plain and streamed: text and function calls. Shapes: OpenAI's API reference, "Responses", read 2026-10.
//!
//! Left out: stored responses (`previous_response_id` is echoed, not looked up), hosted tools, reasoning items.

use http::StatusCode;
use serde_json::{Value, json};

use super::CREATED;
use crate::answer::{Answer, Events, Mark};
use crate::error::ApiError;
use crate::generate::{Ask, Finish, Format, Generated, Prompt, Tool, ToolCall, ToolChoice, ToolResult, generate};
use crate::hash::{id, mix};
use crate::input::{Input, text_of};
use crate::route::Call;
use crate::text;

pub(super) fn answer(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let mut ask = ask(call, input)?;
    let generated = generate(&ask, 0);
    ask.prompt.salt(&input.model);
    let response = Response {
        id: id("resp_", ask.prompt.number(), 48),
        input,
        usage: call.usage.then(|| usage(ask.prompt.tokens, generated.tokens)),
        generated,
    };
    Ok(if input.stream()? {
        response.stream(call)
    } else {
        let tokens = response.generated.tokens;
        call.paced(Answer::json(StatusCode::OK, &response.whole()), tokens)
    })
}

fn usage(input: u64, output: u64) -> Value {
    json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + output,
    })
}

fn ask(call: &Call<'_>, input: &Input) -> Result<Ask, ApiError> {
    let mut prompt = Prompt::new(call.script.seed);
    let mut user = String::new();
    let mut results = Vec::new();
    prompt.add(&input.get("instructions").map(text_of).unwrap_or_default());
    match input.get("input") {
        None => return Err(ApiError::missing("input")),
        Some(Value::String(text)) => {
            prompt.add(text);
            user.clone_from(text);
        }
        Some(Value::Array(items)) => {
            for item in items {
                read_item(item, items, &mut prompt, &mut user, &mut results);
            }
        }
        Some(_) => return Err(ApiError::wrong("input", "a string or an array of items")),
    }
    Ok(Ask {
        prompt,
        user,
        results,
        tools: tools(input)?,
        choice: tool_choice(input)?,
        parallel: input.bool("parallel_tool_calls")?.unwrap_or(true),
        format: format(input)?,
        max_tokens: input.number("max_output_tokens")?,
        stop: Vec::new(),
        length: call.script.answer_tokens,
    })
}

/// One item of the conversation. Results that are followed by something else are history.
fn read_item(item: &Value, items: &[Value], prompt: &mut Prompt, user: &mut String, results: &mut Vec<ToolResult>) {
    match item["type"].as_str() {
        Some("function_call_output") => {
            let called = |other: &&Value| other["type"] == "function_call" && other["call_id"] == item["call_id"];
            let name = items.iter().find(called).and_then(|call| call["name"].as_str()).unwrap_or("a tool");
            let content = text_of(&item["output"]);
            prompt.add(&content);
            results.push(ToolResult { name: name.to_owned(), content });
        }
        Some("function_call") => {
            results.clear();
            prompt.add(item["arguments"].as_str().unwrap_or_default());
        }
        Some("message") | None => {
            results.clear();
            let text = text_of(&item["content"]);
            prompt.salt(item["role"].as_str().unwrap_or_default());
            prompt.add(&text);
            if item["role"] == "user" {
                *user = text;
            }
        }
        Some(other) => prompt.salt(other),
    }
}

fn tools(input: &Input) -> Result<Vec<Tool>, ApiError> {
    let Some(tools) = input.get("tools") else {
        return Ok(Vec::new());
    };
    let tools = tools.as_array().ok_or_else(|| ApiError::wrong("tools", "an array of tools"))?;
    let functions = tools.iter().filter(|tool| tool["type"] == "function");
    let functions = functions.map(|tool| {
        let name = tool["name"].as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| ApiError::wrong("tools", "functions with a name"))?.to_owned();
        let schema = match &tool["parameters"] {
            Value::Null => json!({"type": "object"}),
            schema => schema.clone(),
        };
        Ok(Tool { name, schema })
    });
    functions.collect()
}

fn tool_choice(input: &Input) -> Result<ToolChoice, ApiError> {
    let wrong = || ApiError::wrong("tool_choice", "none, auto, required or a function");
    Ok(match input.get("tool_choice") {
        None => ToolChoice::Auto,
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => return Err(wrong()),
        },
        Some(choice) => ToolChoice::Named(choice["name"].as_str().ok_or_else(wrong)?.to_owned()),
    })
}

fn format(input: &Input) -> Result<Format, ApiError> {
    let Some(format) = input.get("text").map(|text| &text["format"]) else {
        return Ok(Format::Text);
    };
    Ok(match format["type"].as_str() {
        None | Some("text") => Format::Text,
        Some("json_object") => Format::Json,
        Some("json_schema") => match &format["schema"] {
            Value::Null => return Err(ApiError::missing("text.format.schema")),
            schema => Format::Schema(schema.clone()),
        },
        Some(_) => return Err(ApiError::wrong("text", "a format of text, json_object or json_schema")),
    })
}

struct Response<'a> {
    id: String,
    input: &'a Input,
    generated: Generated,
    usage: Option<Value>,
}

impl Response<'_> {
    /// The response object in a state; the parameters of the request come back in it.
    fn object(&self, status: &str, output: Vec<Value>, usage: Option<&Value>) -> Value {
        let echo = |name: &str, default: Value| self.input.get(name).cloned().unwrap_or(default);
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        json!({
            "id": self.id, "object": "response", "created_at": CREATED, "status": status, "background": false,
            "error": null, "incomplete_details": incomplete, "model": self.input.model, "output": output,
            "instructions": echo("instructions", Value::Null),
            "max_output_tokens": echo("max_output_tokens", Value::Null),
            "max_tool_calls": null,
            "metadata": echo("metadata", json!({})),
            "parallel_tool_calls": echo("parallel_tool_calls", json!(true)),
            "previous_response_id": echo("previous_response_id", Value::Null),
            "reasoning": echo("reasoning", json!({"effort": null, "summary": null})),
            "service_tier": "default",
            "store": echo("store", json!(true)),
            "temperature": echo("temperature", json!(1.0)),
            "text": echo("text", json!({"format": {"type": "text"}, "verbosity": "medium"})),
            "tool_choice": echo("tool_choice", json!("auto")),
            "tools": echo("tools", json!([])),
            "top_logprobs": 0,
            "top_p": echo("top_p", json!(1.0)),
            "truncation": echo("truncation", json!("disabled")),
            "usage": usage,
            "user": echo("user", Value::Null),
        })
    }

    fn whole(&self) -> Value {
        self.object(self.status(), self.output(), self.usage.as_ref())
    }

    fn status(&self) -> &'static str {
        if self.generated.finish == Finish::Length { "incomplete" } else { "completed" }
    }

    fn output(&self) -> Vec<Value> {
        if self.generated.calls.is_empty() {
            return vec![message(&self.message_id(), self.status(), &[text_part(&self.generated.text)])];
        }
        let calls = self.generated.calls.iter();
        calls.map(|called| function_call(called, &called.arguments.to_string(), "completed")).collect()
    }

    fn message_id(&self) -> String {
        id("msg_", mix(self.generated.number), 48)
    }

    fn stream(&self, call: &Call<'_>) -> Answer {
        let mut out = Stream { events: Events::new(call.pace()), sequence_number: 0 };
        let blank = self.object("in_progress", Vec::new(), None);
        out.send(Mark::Opening, "response.created", json!({"response": blank.clone()}));
        out.send(Mark::Opening, "response.in_progress", json!({"response": blank}));
        if self.generated.calls.is_empty() {
            self.stream_text(&mut out);
        }
        for (index, called) in self.generated.calls.iter().enumerate() {
            stream_call(&mut out, index, called);
        }
        let last = if self.status() == "incomplete" { "response.incomplete" } else { "response.completed" };
        out.send(Mark::Ending, last, json!({"response": self.whole()}));
        Answer::events(out.events)
    }

    fn stream_text(&self, out: &mut Stream) {
        let (item_id, text) = (self.message_id(), &self.generated.text);
        let at = |extra: Value| merged(json!({"item_id": item_id, "output_index": 0, "content_index": 0}), extra);
        let item = message(&item_id, "in_progress", &[]);
        out.send(Mark::Opening, "response.output_item.added", json!({"output_index": 0, "item": item}));
        out.send(Mark::Opening, "response.content_part.added", at(json!({"part": text_part("")})));
        for token in text::tokens(text) {
            out.send(Mark::Content, "response.output_text.delta", at(json!({"delta": token, "logprobs": []})));
        }
        out.send(Mark::Finish, "response.output_text.done", at(json!({"text": text, "logprobs": []})));
        out.send(Mark::Finish, "response.content_part.done", at(json!({"part": text_part(text)})));
        let item = message(&item_id, self.status(), &[text_part(text)]);
        out.send(Mark::Finish, "response.output_item.done", json!({"output_index": 0, "item": item}));
    }
}

fn stream_call(out: &mut Stream, index: usize, called: &ToolCall) {
    let arguments = called.arguments.to_string();
    let item = function_call(called, "", "in_progress");
    let item_id = item["id"].clone();
    let at = |extra: Value| merged(json!({"item_id": item_id, "output_index": index}), extra);
    out.send(Mark::Opening, "response.output_item.added", json!({"output_index": index, "item": item}));
    for piece in text::tokens(&arguments) {
        out.send(Mark::Content, "response.function_call_arguments.delta", at(json!({"delta": piece})));
    }
    let done = json!({"name": called.name, "arguments": arguments});
    out.send(Mark::Finish, "response.function_call_arguments.done", at(done));
    let item = function_call(called, &arguments, "completed");
    out.send(Mark::Finish, "response.output_item.done", json!({"output_index": index, "item": item}));
}

/// Numbers the events.
struct Stream {
    events: Events,
    sequence_number: u64,
}

impl Stream {
    fn send(&mut self, mark: Mark, kind: &str, body: Value) {
        let head = json!({"type": kind, "sequence_number": self.sequence_number});
        self.sequence_number += 1;
        self.events.event(mark, Some(kind), &merged(head, body));
    }
}

fn merged(mut into: Value, from: Value) -> Value {
    if let (Value::Object(into), Value::Object(from)) = (&mut into, from) {
        into.extend(from);
    }
    into
}

fn message(id: &str, status: &str, content: &[Value]) -> Value {
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text})
}

fn function_call(called: &ToolCall, arguments: &str, status: &str) -> Value {
    json!({
        "id": called.id("fc_"), "type": "function_call", "status": status,
        "call_id": called.id("call_"), "name": called.name, "arguments": arguments,
    })
}
