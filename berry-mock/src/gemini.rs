//! The Gemini dialect: models, `generateContent`, `streamGenerateContent` (events with `alt=sse`, else an array), `countTokens`,
//! `embedContent` and `batchEmbedContents`. Shapes: Google's Gemini API reference, v1beta, read 2026-10.
//!
//! Left out: thoughts and their signatures, grounding, files, cached content.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::answer::{Answer, Events, Length, Mark};
use crate::error::ApiError;
use crate::generate::{Ask, Finish, Format, Generated, Prompt, Tool, ToolChoice, ToolResult, generate};
use crate::hash::id;
use crate::input::Input;
use crate::route::Call;
use crate::text;
use crate::vector::vector;

/// Length of a vector unless `outputDimensionality` says otherwise.
const DIMENSIONS: u64 = 256;
/// Most candidates of a request.
const CANDIDATES_MAX: u64 = 8;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint<'a> {
    Models,
    Model(&'a str),
    /// A model, and what it shall do.
    Action(&'a str, &'a str),
}

impl<'a> Endpoint<'a> {
    /// The endpoint at a path: all of `/v1beta`, and actions (they have a colon) anywhere else.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let (beta, rest) = match path.strip_prefix("/v1beta") {
            Some(rest) => (true, rest),
            None => (false, path.strip_prefix("/v1").unwrap_or(path)),
        };
        if beta && rest == "/models" {
            return Some(Self::Models);
        }
        let name = rest.strip_prefix("/models/")?;
        match name.rsplit_once(':') {
            Some((model, action)) if ACTIONS.contains(&action) => Some(Self::Action(model, action)),
            _ => beta.then_some(Self::Model(name)),
        }
    }
}

const ACTIONS: &[&str] =
    &["generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"];

pub(crate) fn answer(call: &Call<'_>, endpoint: Endpoint<'_>) -> Result<Answer, ApiError> {
    match endpoint {
        Endpoint::Models => {
            call.expect(Method::GET)?;
            let models: Vec<Value> = call.model_names().iter().map(|name| model(name)).collect();
            Ok(Answer::json(StatusCode::OK, &json!({"models": models})))
        }
        Endpoint::Model(name) => {
            call.expect(Method::GET)?;
            served(call, name)?;
            Ok(Answer::json(StatusCode::OK, &model(name)))
        }
        Endpoint::Action(name, action) => {
            call.expect(Method::POST)?;
            served(call, name)?;
            let input = Input::new(call, Some(name))?;
            match action {
                "countTokens" => count_tokens(call, &input),
                "embedContent" => embed(call, &input),
                "batchEmbedContents" => batch_embed(call, &input),
                action => generate_content(call, &input, action == "streamGenerateContent"),
            }
        }
    }
}

fn served(call: &Call<'_>, name: &str) -> Result<(), ApiError> {
    if call.script.serves(name) { Ok(()) } else { Err(ApiError::model_not_found(name)) }
}

fn model(name: &str) -> Value {
    json!({
        "name": format!("models/{name}"), "version": "1", "displayName": name, "description": "A scripted model.",
        "inputTokenLimit": 131_072, "outputTokenLimit": 8_192, "supportedGenerationMethods": ACTIONS,
    })
}

/// The texts of a content's parts.
fn parts_text(content: &Value) -> String {
    let parts = content["parts"].as_array().into_iter().flatten();
    parts.filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

fn ask(call: &Call<'_>, input: &Input) -> Result<Ask, ApiError> {
    let contents = match input.get("contents") {
        Some(Value::Array(contents)) if !contents.is_empty() => contents,
        Some(_) => return Err(ApiError::wrong("contents", "at least one content")),
        None => return Err(ApiError::missing("contents")),
    };
    let mut prompt = Prompt::new(call.script.seed);
    prompt.add(&input.either("systemInstruction", "system_instruction").map(parts_text).unwrap_or_default());
    let mut user = String::new();
    for content in contents {
        let (role, text) = (content["role"].as_str().unwrap_or("user"), parts_text(content));
        prompt.salt(role);
        prompt.add(&text);
        if role == "user" && !text.is_empty() {
            user = text;
        }
    }
    let results = results(contents);
    results.iter().for_each(|result| prompt.add(&result.content));
    let config = Config(input.either("generationConfig", "generation_config"));
    if let Some(seed) = config.get("seed") {
        prompt.salt(seed.to_string());
    }
    let stops = config.get("stopSequences").and_then(Value::as_array).into_iter().flatten();
    Ok(Ask {
        prompt,
        user,
        results,
        tools: tools(input),
        choice: tool_choice(input),
        parallel: true,
        format: config.format(),
        max_tokens: config.get("maxOutputTokens").and_then(Value::as_u64),
        stop: stops.filter_map(Value::as_str).map(str::to_owned).collect(),
        length: call.script.answer_tokens,
    })
}

/// `generationConfig`.
struct Config<'a>(Option<&'a Value>);

impl<'a> Config<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0?.get(name).filter(|value| !value.is_null())
    }

    fn format(&self) -> Format {
        let schema = self.get("responseJsonSchema").or(self.get("responseSchema"));
        match (schema, self.get("responseMimeType").and_then(Value::as_str)) {
            (Some(schema), _) => Format::Schema(json_schema(schema)),
            (None, Some("application/json")) => Format::Json,
            _ => Format::Text,
        }
    }
}

/// Google's own schemas in the words of JSON Schema: types in small letters, `nullable` as a second type.
fn json_schema(schema: &Value) -> Value {
    match schema {
        Value::Object(members) => {
            let mut out: Map<String, Value> =
                members.iter().map(|(key, value)| (key.clone(), json_schema(value))).collect();
            if let Some(Value::String(kind)) = members.get("type") {
                let kind = kind.to_lowercase();
                let nullable = members.get("nullable") == Some(&Value::Bool(true));
                out.insert("type".to_owned(), if nullable { json!([kind, "null"]) } else { json!(kind) });
            }
            Value::Object(out)
        }
        Value::Array(items) => items.iter().map(json_schema).collect(),
        other => other.clone(),
    }
}

/// What functions gave back in the last content.
fn results(contents: &[Value]) -> Vec<ToolResult> {
    let parts = contents.last().and_then(|content| content["parts"].as_array());
    let responses = parts.into_iter().flatten().map(|part| &part["functionResponse"]).filter(|r| r.is_object());
    let results = responses.map(|response| ToolResult {
        name: response["name"].as_str().unwrap_or("a tool").to_owned(),
        content: match &response["response"]["result"] {
            Value::String(text) => text.clone(),
            _ => response["response"].to_string(),
        },
    });
    results.collect()
}

fn tools(input: &Input) -> Vec<Tool> {
    let tools = input.get("tools").and_then(Value::as_array).into_iter().flatten();
    let functions = tools.flat_map(|tool| {
        let functions = tool.get("functionDeclarations").or(tool.get("function_declarations"));
        functions.and_then(Value::as_array).into_iter().flatten()
    });
    let functions = functions.filter_map(|function| {
        let keys = ["parametersJsonSchema", "parameters_json_schema", "parameters"];
        let schema = keys.iter().find_map(|key| function.get(key));
        let schema = schema.map_or_else(|| json!({"type": "object"}), json_schema);
        Some(Tool { name: function["name"].as_str()?.to_owned(), schema })
    });
    functions.collect()
}

fn tool_choice(input: &Input) -> ToolChoice {
    let Some(config) = input.either("toolConfig", "tool_config").map(|config| &config["functionCallingConfig"]) else {
        return ToolChoice::Auto;
    };
    match (config["mode"].as_str(), config["allowedFunctionNames"][0].as_str()) {
        (Some("NONE"), _) => ToolChoice::None,
        (Some("ANY"), Some(name)) => ToolChoice::Named(name.to_owned()),
        (Some("ANY"), None) => ToolChoice::Required,
        _ => ToolChoice::Auto,
    }
}

fn generate_content(call: &Call<'_>, input: &Input, stream: bool) -> Result<Answer, ApiError> {
    let mut ask = ask(call, input)?;
    let config = Config(input.either("generationConfig", "generation_config"));
    let candidates = config.get("candidateCount").and_then(Value::as_u64).unwrap_or(1).clamp(1, CANDIDATES_MAX);
    let candidates: Vec<Generated> = (0..candidates).map(|i| generate(&ask, i)).collect();
    ask.prompt.salt(&input.model);
    let reply = Reply {
        id: id("", ask.prompt.number(), 22),
        model: &input.model,
        prompt_tokens: ask.prompt.tokens,
        output_tokens: candidates.iter().map(|candidate| candidate.tokens).sum(),
        usage: call.usage,
        candidates: &candidates,
    };
    if stream {
        return Ok(reply.stream(call));
    }
    let whole = candidates.iter().enumerate().map(|(i, c)| candidate(i, parts(c), Some(&c.finish))).collect();
    let answer = Answer::json(StatusCode::OK, &reply.chunk(whole, reply.output_tokens));
    Ok(call.paced(answer, reply.output_tokens))
}

struct Reply<'a> {
    id: String,
    model: &'a str,
    prompt_tokens: u64,
    output_tokens: u64,
    usage: bool,
    candidates: &'a [Generated],
}

fn candidate(index: usize, parts: Vec<Value>, finish: Option<&Finish>) -> Value {
    let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": index});
    if let Some(finish) = finish {
        candidate["finishReason"] = json!(if *finish == Finish::Length { "MAX_TOKENS" } else { "STOP" });
    }
    candidate
}

fn parts(generated: &Generated) -> Vec<Value> {
    if generated.calls.is_empty() {
        return vec![json!({"text": generated.text})];
    }
    let calls = generated.calls.iter();
    calls.map(|call| json!({"functionCall": {"name": call.name, "args": call.arguments}})).collect()
}

impl Reply<'_> {
    fn chunk(&self, candidates: Vec<Value>, output_tokens: u64) -> Value {
        let mut chunk = json!({"candidates": candidates, "modelVersion": self.model, "responseId": self.id});
        if self.usage {
            chunk["usageMetadata"] = json!({
                "promptTokenCount": self.prompt_tokens, "candidatesTokenCount": output_tokens,
                "totalTokenCount": self.prompt_tokens + output_tokens,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": self.prompt_tokens}],
            });
        }
        chunk
    }

    /// One chunk for each token, calls whole; the counts grow, and the last chunk of each candidate has its reason.
    fn stream(&self, call: &Call<'_>) -> Answer {
        let mut chunks = Vec::new();
        let mut tokens = 0;
        for (i, generated) in self.candidates.iter().enumerate() {
            let pieces: Vec<(u64, Value)> = if generated.calls.is_empty() {
                text::tokens(&generated.text).map(|token| (1, json!({"text": token}))).collect()
            } else {
                parts(generated).into_iter().map(|part| (text::count(&part.to_string()), part)).collect()
            };
            for (count, piece) in pieces {
                tokens = (tokens + count).min(self.output_tokens);
                chunks.push((Mark::Content, self.chunk(vec![candidate(i, vec![piece], None)], tokens)));
            }
            let last = candidate(i, vec![json!({"text": ""})], Some(&generated.finish));
            chunks.push((Mark::Finish, self.chunk(vec![last], self.output_tokens)));
        }
        let mut events = Events::new(call.pace());
        if call.query("alt") == Some("sse") {
            for (mark, chunk) in &chunks {
                events.data(*mark, chunk);
            }
            return Answer::events(events);
        }
        for (i, (mark, chunk)) in chunks.iter().enumerate() {
            events.bytes(*mark, format!("{}{chunk}", if i == 0 { "[" } else { ",\n" }));
        }
        events.bytes(Mark::Terminator, "]");
        let mut answer = Answer::plain(StatusCode::OK, "application/json", "");
        answer.body = Answer::events(events).body;
        answer.length = Length::Chunked;
        answer
    }
}

fn count_tokens(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    // The request to be counted stands alone, or under a key of its own.
    let tokens = match input.get("generateContentRequest") {
        Some(inner) => ask(call, &Input::of(inner, &input.model))?.prompt.tokens,
        None => ask(call, input)?.prompt.tokens,
    };
    Ok(Answer::json(StatusCode::OK, &json!({"totalTokens": tokens})))
}

fn values(call: &Call<'_>, model: &str, request: &Value) -> Result<Value, ApiError> {
    let content = request.get("content").ok_or_else(|| ApiError::missing("content"))?;
    let dimensions = request["outputDimensionality"].as_u64().unwrap_or(DIMENSIONS).clamp(1, 4096);
    Ok(json!({"values": vector(call.script.seed, model, parts_text(content).as_bytes(), dimensions)}))
}

fn embed(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let embedding = values(call, &input.model, input.whole())?;
    Ok(call.paced(Answer::json(StatusCode::OK, &json!({"embedding": embedding})), 1))
}

fn batch_embed(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let requests = input.get("requests").and_then(Value::as_array).ok_or_else(|| ApiError::missing("requests"))?;
    let embeddings: Result<Vec<Value>, ApiError> =
        requests.iter().map(|request| values(call, &input.model, request)).collect();
    Ok(call.paced(Answer::json(StatusCode::OK, &json!({"embeddings": embeddings?})), 1))
}
