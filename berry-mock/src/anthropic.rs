//! The Anthropic dialect: `POST /v1/messages`, plain and streamed, `/v1/messages/count_tokens`, and the models list in its shape.
//! Shapes: Anthropic's API reference, "Messages", read 2026-10.
//!
//! Thinking is a sentence with a made-up signature, where it is enabled. Left out: server tools, citations, prompt caching.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::answer::{Answer, Events, Mark};
use crate::error::ApiError;
use crate::generate::{Ask, Finish, Format, Generated, Prompt, Tool, ToolCall, ToolChoice, ToolResult, generate};
use crate::hash::{StableHash, id};
use crate::input::{Input, text_of};
use crate::route::Call;
use crate::text;

/// When the models in the list were made.
const CREATED_AT: &str = "2026-01-01T00:00:00Z";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Messages,
    CountTokens,
}

impl Endpoint {
    /// The endpoint at a path, with or without version and Azure's prefix.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/anthropic").unwrap_or(path);
        match path.strip_prefix("/v1").unwrap_or(path) {
            "/messages" => Some(Self::Messages),
            "/messages/count_tokens" => Some(Self::CountTokens),
            _ => None,
        }
    }
}

pub(crate) fn answer(call: &Call<'_>, endpoint: Endpoint) -> Result<Answer, ApiError> {
    call.expect(Method::POST)?;
    if !call.head.headers.contains_key("anthropic-version") {
        return Err(ApiError::invalid("anthropic-version: header is required"));
    }
    let input = Input::new(call, None)?;
    let answer = match endpoint {
        Endpoint::Messages => messages(call, &input)?,
        Endpoint::CountTokens => {
            let tokens = ask(call, &input)?.prompt.tokens;
            Answer::json(StatusCode::OK, &json!({"input_tokens": tokens}))
        }
    };
    let mut hash = StableHash::new(call.script.seed);
    hash.feed(call.body);
    Ok(answer
        .with("request-id", id("req_", hash.finish(), 24))
        .with("anthropic-organization-id", "11111111-2222-4333-8444-555555555555")
        .with("anthropic-ratelimit-requests-limit", "4000")
        .with("anthropic-ratelimit-requests-remaining", "3999")
        .with("anthropic-ratelimit-requests-reset", CREATED_AT))
}

/// The models list, as clients that send `anthropic-version` get it.
pub(crate) fn models(names: &[&str]) -> Answer {
    let model = |name: &&str| json!({"type": "model", "id": name, "display_name": name, "created_at": CREATED_AT});
    let data: Vec<Value> = names.iter().map(model).collect();
    let body = json!({"data": data, "has_more": false, "first_id": names.first(), "last_id": names.last()});
    Answer::json(StatusCode::OK, &body)
}

fn messages(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let mut ask = ask(call, input)?;
    ask.max_tokens = Some(input.number("max_tokens")?.ok_or_else(|| ApiError::missing("max_tokens"))?);
    let generated = generate(&ask, 0);
    ask.prompt.salt(&input.model);
    let thinks = input.get("thinking").is_some_and(|thinking| thinking["type"] != "disabled");
    let message = Message {
        id: id("msg_", ask.prompt.number(), 24),
        model: &input.model,
        thinking: thinks.then(|| thought(generated.number)),
        input_tokens: ask.prompt.tokens,
        usage: call.usage,
        generated,
    };
    Ok(if input.stream()? {
        message.stream(call)
    } else {
        call.paced(Answer::json(StatusCode::OK, &message.whole()), message.output_tokens())
    })
}

/// A thought, and the signature that later requests have to carry with it.
fn thought(number: u64) -> (String, String) {
    let mut rng = fastrand::Rng::with_seed(number);
    let thought = text::sentence(&mut rng);
    let signature: Vec<u8> = (0..96).map(|_| rng.u8(..)).collect();
    (thought, STANDARD.encode(signature))
}

fn ask(call: &Call<'_>, input: &Input) -> Result<Ask, ApiError> {
    let messages = match input.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(_) => return Err(ApiError::wrong("messages", "at least one message")),
        None => return Err(ApiError::missing("messages")),
    };
    let mut prompt = Prompt::new(call.script.seed);
    prompt.add(&input.get("system").map(text_of).unwrap_or_default());
    let mut user = String::new();
    for message in messages {
        let role = message["role"].as_str().filter(|role| ["user", "assistant", "system"].contains(role));
        let role = role.ok_or_else(|| ApiError::wrong("messages", "messages of user or assistant"))?;
        let text = text_of(&message["content"]);
        prompt.salt(role);
        prompt.add(&text);
        if role == "user" && !text.is_empty() {
            user = text;
        }
    }
    let results = results(messages);
    results.iter().for_each(|result| prompt.add(&result.content));
    let choice = &input.get("tool_choice").cloned().unwrap_or_default();
    Ok(Ask {
        prompt,
        user,
        results,
        tools: tools(input)?,
        choice: tool_choice(choice)?,
        parallel: choice["disable_parallel_tool_use"] != true,
        format: format(input),
        max_tokens: None,
        stop: input.strings("stop_sequences")?,
        length: call.script.answer_tokens,
    })
}

/// The results in the last message, with the names of the calls they answer.
fn results(messages: &[Value]) -> Vec<ToolResult> {
    let blocks = |message: &'_ Value| message["content"].as_array().cloned().unwrap_or_default();
    let calls: Vec<Value> = messages.iter().flat_map(blocks).filter(|block| block["type"] == "tool_use").collect();
    let name = |id: &Value| calls.iter().find(|call| call["id"] == *id).and_then(|call| call["name"].as_str());
    let last = messages.last().map(blocks).unwrap_or_default();
    let results = last.iter().filter(|block| block["type"] == "tool_result").map(|block| ToolResult {
        name: name(&block["tool_use_id"]).unwrap_or("a tool").to_owned(),
        content: text_of(&block["content"]),
    });
    results.collect()
}

/// The client's own tools; those that Anthropic runs have a `type` and no schema.
fn tools(input: &Input) -> Result<Vec<Tool>, ApiError> {
    let Some(tools) = input.get("tools") else {
        return Ok(Vec::new());
    };
    let tools = tools.as_array().ok_or_else(|| ApiError::wrong("tools", "an array of tools"))?;
    let own = tools.iter().filter(|tool| tool["input_schema"].is_object());
    let own = own.map(|tool| {
        let name = tool["name"].as_str().ok_or_else(|| ApiError::wrong("tools", "tools with a name"))?;
        Ok(Tool { name: name.to_owned(), schema: tool["input_schema"].clone() })
    });
    own.collect()
}

fn tool_choice(choice: &Value) -> Result<ToolChoice, ApiError> {
    Ok(match (choice["type"].as_str(), choice["name"].as_str()) {
        (None | Some("auto"), _) => ToolChoice::Auto,
        (Some("none"), _) => ToolChoice::None,
        (Some("any"), _) => ToolChoice::Required,
        (Some("tool"), Some(name)) => ToolChoice::Named(name.to_owned()),
        _ => return Err(ApiError::wrong("tool_choice", "auto, any, none or a tool")),
    })
}

fn format(input: &Input) -> Format {
    let format = input.get("output_config").map(|config| &config["format"]).or(input.get("output_format"));
    match format {
        Some(format) if format["type"] == "json_schema" => Format::Schema(format["schema"].clone()),
        _ => Format::Text,
    }
}

struct Message<'a> {
    id: String,
    model: &'a str,
    /// The thought and its signature.
    thinking: Option<(String, String)>,
    input_tokens: u64,
    usage: bool,
    generated: Generated,
}

impl Message<'_> {
    fn output_tokens(&self) -> u64 {
        self.generated.tokens + self.thinking.as_ref().map_or(0, |(thought, _)| text::count(thought))
    }

    fn stop_reason(&self) -> (&'static str, Option<&str>) {
        match &self.generated.finish {
            Finish::Stop => ("end_turn", None),
            Finish::StopSequence(stop) => ("stop_sequence", Some(stop)),
            Finish::Length => ("max_tokens", None),
            Finish::ToolCalls => ("tool_use", None),
        }
    }

    fn usage(&self, output_tokens: u64) -> Value {
        json!({
            "input_tokens": self.input_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": output_tokens, "service_tier": "standard",
        })
    }

    fn whole(&self) -> Value {
        let mut content = Vec::new();
        if let Some((thinking, signature)) = &self.thinking {
            content.push(json!({"type": "thinking", "thinking": thinking, "signature": signature}));
        }
        if self.generated.calls.is_empty() {
            content.push(json!({"type": "text", "text": self.generated.text}));
        }
        for called in &self.generated.calls {
            let mut block = tool_use(called);
            block["input"] = called.arguments.clone();
            content.push(block);
        }
        let (reason, sequence) = self.stop_reason();
        let mut message = self.message(content);
        message["stop_reason"] = json!(reason);
        message["stop_sequence"] = json!(sequence);
        if self.usage {
            message["usage"] = self.usage(self.output_tokens());
        }
        message
    }

    /// The message before it has ended.
    fn message(&self, content: Vec<Value>) -> Value {
        json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content,
            "stop_reason": null, "stop_sequence": null,
        })
    }

    fn stream(&self, call: &Call<'_>) -> Answer {
        let mut events = Events::new(call.pace());
        let mut start = self.message(Vec::new());
        if self.usage {
            start["usage"] = self.usage(1);
        }
        send(&mut events, Mark::Opening, json!({"type": "message_start", "message": start}));
        let mut index = 0;
        if let Some((thinking, signature)) = &self.thinking {
            let deltas = text::tokens(thinking).map(|token| json!({"type": "thinking_delta", "thinking": token}));
            let deltas = deltas.chain([json!({"type": "signature_delta", "signature": signature})]);
            block(&mut events, index, json!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
            index += 1;
        }
        if self.generated.calls.is_empty() {
            let deltas = text::tokens(&self.generated.text).map(|token| json!({"type": "text_delta", "text": token}));
            block(&mut events, index, json!({"type": "text", "text": ""}), deltas);
        }
        for called in &self.generated.calls {
            let arguments = called.arguments.to_string();
            let pieces = [""].into_iter().chain(text::tokens(&arguments));
            let deltas = pieces.map(|piece| json!({"type": "input_json_delta", "partial_json": piece}));
            block(&mut events, index, tool_use(called), deltas);
            index += 1;
        }
        let (reason, sequence) = self.stop_reason();
        let mut delta = json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": sequence}});
        if self.usage {
            delta["usage"] = json!({"output_tokens": self.output_tokens()});
        }
        send(&mut events, Mark::Finish, delta);
        send(&mut events, Mark::Terminator, json!({"type": "message_stop"}));
        Answer::events(events)
    }
}

/// A call before its arguments.
fn tool_use(called: &ToolCall) -> Value {
    json!({"type": "tool_use", "id": called.id("toolu_"), "name": called.name, "input": {}})
}

/// One block of a stream. A ping follows the start of the first, as at Anthropic.
fn block(events: &mut Events, index: usize, start: Value, deltas: impl Iterator<Item = Value>) {
    send(events, Mark::Opening, json!({"type": "content_block_start", "index": index, "content_block": start}));
    if index == 0 {
        send(events, Mark::Opening, json!({"type": "ping"}));
    }
    for delta in deltas {
        send(events, Mark::Content, json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }
    send(events, Mark::Finish, json!({"type": "content_block_stop", "index": index}));
}

/// An event is named after its type.
fn send(events: &mut Events, mark: Mark, event: Value) {
    let name = event["type"].as_str().map(str::to_owned);
    events.event(mark, name.as_deref(), &event);
}
