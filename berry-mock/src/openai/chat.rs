//! `POST /v1/chat/completions`, plain and streamed. Shapes: OpenAI's API reference, "Chat", read 2026-10.
//!
//! Streams open with the role, split text by token and arguments into several deltas, and end with the reason, the usage where
//! it was asked for, and `[DONE]`. Azure's also begin with a chunk without choices and carry filter results.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::CREATED;
use crate::answer::{Answer, Events, Mark};
use crate::error::{ApiError, Vendor};
use crate::generate::{Ask, Finish, Format, Generated, Prompt, Tool, ToolCall, ToolChoice, ToolResult, generate};
use crate::hash::id;
use crate::input::{Input, text_of};
use crate::route::{Call, vendor};
use crate::text;

/// Tokens that the form of each message costs, as OpenAI counts them.
const MESSAGE_TOKENS: u64 = 3;

pub(super) fn answer(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let mut ask = ask(call, input)?;
    let stream = input.stream()?;
    let choices: Vec<Generated> = (0..input.alternatives()?).map(|i| generate(&ask, i)).collect();
    ask.prompt.salt(&input.model);
    let reply = Reply {
        id: id("chatcmpl-", ask.prompt.number(), 29),
        model: &input.model,
        choices: &choices,
        prompt_tokens: ask.prompt.tokens,
        azure: vendor(call.head) == Vendor::Azure,
        usage: call.usage,
    };
    Ok(if stream { reply.stream(call, input.include_usage()) } else { reply.plain(call) })
}

fn ask(call: &Call<'_>, input: &Input) -> Result<Ask, ApiError> {
    let messages = match input.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(Value::Array(_)) => return Err(ApiError::wrong("messages", "at least one message")),
        Some(_) => return Err(ApiError::wrong("messages", "an array of messages")),
        None => return Err(ApiError::missing("messages")),
    };
    let mut prompt = Prompt::new(call.script.seed);
    prompt.tokens = MESSAGE_TOKENS;
    let mut user = String::new();
    for message in messages {
        let role = message.get("role").and_then(Value::as_str);
        let role = role.ok_or_else(|| ApiError::wrong("messages", "objects with a role"))?;
        let text = text_of(&message["content"]);
        prompt.salt(role);
        prompt.add(&text);
        prompt.tokens += MESSAGE_TOKENS;
        for called in message["tool_calls"].as_array().into_iter().flatten() {
            prompt.add(called["function"]["arguments"].as_str().unwrap_or_default());
        }
        if role == "user" {
            user = text;
        }
    }
    if let Some(seed) = input.number("seed")? {
        prompt.salt(seed.to_le_bytes());
    }
    let max_tokens = input.number("max_completion_tokens")?.or(input.number("max_tokens")?);
    Ok(Ask {
        prompt,
        user,
        results: results(messages),
        tools: tools(input)?,
        choice: tool_choice(input)?,
        parallel: input.bool("parallel_tool_calls")?.unwrap_or(true),
        format: format(input)?,
        max_tokens,
        stop: input.stops()?,
        length: call.script.answer_tokens,
    })
}

/// The results at the end of the conversation, with the names of the calls they answer.
fn results(messages: &[Value]) -> Vec<ToolResult> {
    let first = messages.iter().rposition(|message| message["role"] != "tool").map_or(0, |last| last + 1);
    let calls = || messages[..first].iter().flat_map(|message| message["tool_calls"].as_array().into_iter().flatten());
    let name = |id: &Value| calls().find(|call| call["id"] == *id).and_then(|call| call["function"]["name"].as_str());
    let results = messages[first..].iter().map(|message| ToolResult {
        name: name(&message["tool_call_id"]).unwrap_or("a tool").to_owned(),
        content: text_of(&message["content"]),
    });
    results.collect()
}

/// The functions among the tools. Others can be declared, but are never called.
fn tools(input: &Input) -> Result<Vec<Tool>, ApiError> {
    let Some(tools) = input.get("tools") else {
        return Ok(Vec::new());
    };
    let tools = tools.as_array().ok_or_else(|| ApiError::wrong("tools", "an array of tools"))?;
    let functions = tools.iter().filter(|tool| tool["type"] == "function");
    let functions = functions.map(|tool| {
        let name = tool["function"]["name"].as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| ApiError::wrong("tools", "functions with a name"))?.to_owned();
        let schema = match &tool["function"]["parameters"] {
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
        Some(choice) => ToolChoice::Named(choice["function"]["name"].as_str().ok_or_else(wrong)?.to_owned()),
    })
}

fn format(input: &Input) -> Result<Format, ApiError> {
    let Some(format) = input.get("response_format") else {
        return Ok(Format::Text);
    };
    Ok(match format["type"].as_str() {
        Some("text") => Format::Text,
        Some("json_object") => Format::Json,
        Some("json_schema") => match &format["json_schema"]["schema"] {
            Value::Null => return Err(ApiError::missing("response_format.json_schema.schema")),
            schema => Format::Schema(schema.clone()),
        },
        _ => return Err(ApiError::wrong("response_format", "text, json_object or json_schema")),
    })
}

pub(super) fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopSequence(_) => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

/// Token counts as OpenAI writes them.
pub(super) fn usage(prompt_tokens: u64, completion_tokens: u64) -> Value {
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

/// What Azure's filter says of everything here.
fn safe() -> Value {
    let safe = json!({"filtered": false, "severity": "safe"});
    json!({"hate": safe, "self_harm": safe, "sexual": safe, "violence": safe})
}

struct Reply<'a> {
    id: String,
    model: &'a str,
    choices: &'a [Generated],
    prompt_tokens: u64,
    azure: bool,
    usage: bool,
}

/// A chunk of a stream, its fields in OpenAI's order.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    service_tier: &'static str,
    system_fingerprint: &'static str,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_filter_results: Option<Value>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_filter_results: Option<Value>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta<'a>; 1]>,
}

#[derive(Serialize)]
struct CallDelta<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl Reply<'_> {
    fn completion_tokens(&self) -> u64 {
        self.choices.iter().map(|choice| choice.tokens).sum()
    }

    fn plain(&self, call: &Call<'_>) -> Answer {
        let choices: Vec<Value> = self.choices.iter().enumerate().map(|(i, choice)| self.choice(i, choice)).collect();
        let mut body = json!({
            "id": self.id, "object": "chat.completion", "created": CREATED, "model": self.model, "choices": choices,
            "service_tier": "default", "system_fingerprint": "fp_berry",
        });
        if self.usage {
            body["usage"] = usage(self.prompt_tokens, self.completion_tokens());
        }
        if self.azure {
            body["prompt_filter_results"] = json!([{"prompt_index": 0, "content_filter_results": safe()}]);
        }
        let slowest = self.choices.iter().map(|choice| choice.tokens).max().unwrap_or(0);
        call.paced(Answer::json(StatusCode::OK, &body), slowest)
    }

    fn choice(&self, index: usize, choice: &Generated) -> Value {
        let mut message = json!({"role": "assistant", "content": choice.text, "refusal": null, "annotations": []});
        if !choice.calls.is_empty() {
            message["content"] = Value::Null;
            message["tool_calls"] = choice.calls.iter().map(call_object).collect();
        }
        let mut object = json!({
            "index": index, "message": message, "logprobs": null, "finish_reason": finish_reason(&choice.finish),
        });
        if self.azure {
            object["content_filter_results"] = safe();
        }
        object
    }

    fn stream(&self, call: &Call<'_>, include_usage: bool) -> Answer {
        let mut events = Events::new(call.pace());
        if self.azure {
            let results = json!([{"prompt_index": 0, "content_filter_results": safe()}]);
            events.data(Mark::Opening, &Chunk { prompt_filter_results: Some(results), ..self.blank(&[]) });
        }
        for index in 0..self.choices.len() {
            let delta = Delta { role: Some("assistant"), content: Some(""), tool_calls: None };
            self.delta(&mut events, Mark::Opening, index, delta);
        }
        self.text_deltas(&mut events);
        for (index, choice) in self.choices.iter().enumerate() {
            for (i, called) in choice.calls.iter().enumerate() {
                self.call_deltas(&mut events, index, i, called);
            }
        }
        for (index, choice) in self.choices.iter().enumerate() {
            self.finish(&mut events, index, choice);
        }
        if include_usage && self.usage {
            let usage = usage(self.prompt_tokens, self.completion_tokens());
            events.data(Mark::Usage, &Chunk { usage: Some(usage), ..self.blank(&[]) });
        }
        events.bytes(Mark::Terminator, "data: [DONE]\n\n");
        Answer::events(events)
    }

    /// The tokens of all choices, taking turns.
    fn text_deltas(&self, events: &mut Events) {
        let mut choices: Vec<_> = self.choices.iter().map(|choice| text::tokens(&choice.text)).collect();
        loop {
            let mut more = false;
            for (index, tokens) in choices.iter_mut().enumerate() {
                if let Some(token) = tokens.next() {
                    more = true;
                    self.delta(events, Mark::Content, index, Delta { content: Some(token), ..Delta::default() });
                }
            }
            if !more {
                return;
            }
        }
    }

    fn call_deltas(&self, events: &mut Events, index: usize, i: usize, called: &ToolCall) {
        let (id, arguments) = (called.id("call_"), called.arguments.to_string());
        let head = CallDelta {
            index: i,
            id: Some(&id),
            kind: Some("function"),
            function: FunctionDelta { name: Some(&called.name), arguments: "" },
        };
        self.delta(events, Mark::Content, index, Delta { tool_calls: Some([head]), ..Delta::default() });
        for piece in text::tokens(&arguments) {
            let function = FunctionDelta { name: None, arguments: piece };
            let delta = CallDelta { index: i, id: None, kind: None, function };
            self.delta(events, Mark::Content, index, Delta { tool_calls: Some([delta]), ..Delta::default() });
        }
    }

    fn finish(&self, events: &mut Events, index: usize, choice: &Generated) {
        let choice = ChunkChoice { finish_reason: Some(finish_reason(&choice.finish)), ..self.chunk_choice(index) };
        events.data(Mark::Finish, &self.blank(&[choice]));
    }

    fn delta(&self, events: &mut Events, mark: Mark, index: usize, delta: Delta<'_>) {
        events.data(mark, &self.blank(&[ChunkChoice { delta, ..self.chunk_choice(index) }]));
    }

    fn chunk_choice<'b>(&self, index: usize) -> ChunkChoice<'b> {
        let content_filter_results = self.azure.then(safe);
        ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason: None, content_filter_results }
    }

    fn blank<'b>(&'b self, choices: &'b [ChunkChoice<'b>]) -> Chunk<'b> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: CREATED,
            model: self.model,
            service_tier: "default",
            system_fingerprint: "fp_berry",
            choices,
            usage: None,
            prompt_filter_results: None,
        }
    }
}

fn call_object(call: &ToolCall) -> Value {
    json!({
        "id": call.id("call_"), "type": "function",
        "function": {"name": call.name, "arguments": call.arguments.to_string()},
    })
}
