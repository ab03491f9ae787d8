//! A client's request.

use bytes::Bytes;

use super::super::Malformed;
use super::super::ir::{
    Arguments, Audio, Document, Effort, Extra, Image, OutputFormat, Part, Reasoning, Request, Role, Source,
    SystemBlock, TextPart, Thinking, ThinkingMode, Tool, ToolCall, ToolChoice, ToolResult, Turn,
};
use super::super::loss::{Losses, Reason};
use super::super::text::{Elements, Fields, Json, Text};
use super::schema;

/// Reads a request. Its model and whether it streams are said by its address.
pub(super) fn decode(body: &Bytes, losses: &mut Losses) -> Result<Request, Malformed> {
    let mut fields = Fields::read(body)?;
    let mut request = Request { wants_stream_usage: true, ..Request::default() };
    // It repeats what the address says.
    fields.take("model");
    let contents = any(&mut fields, &["contents"]).ok_or_else(|| Malformed::new("contents", "is needed"))?;
    let mut calls = Calls::default();
    for content in one_or_more(contents) {
        request.turns.push(turn(&content, &mut calls, losses)?);
    }
    if let Some(system) = any(&mut fields, &["systemInstruction", "system_instruction"]) {
        request.system = system_blocks(&system, losses);
    }
    if let Some(tools) = any(&mut fields, &["tools"]) {
        read_tools(&tools, &mut request, losses);
    }
    if let Some(config) = any(&mut fields, &["toolConfig", "tool_config"]) {
        read_tool_config(&config, &mut request, losses);
    }
    if let Some(config) = any(&mut fields, &["generationConfig", "generation_config"]) {
        read_generation_config(config.fields(), &mut request, losses);
    }
    request.extras = fields.rest().map(|(name, value)| Extra { name, value }).collect();
    Ok(request)
}

/// Takes a member by any of its names: Google's JSON may be written in either case style.
fn any(fields: &mut Fields, names: &[&str]) -> Option<Json> {
    names.iter().find_map(|name| fields.take(name))
}

fn one_or_more(value: Json) -> Elements {
    let elements = value.elements();
    if elements.is_empty() && !value.fields().is_empty() { Elements::from_iter([value]) } else { elements }
}

fn system_blocks(system: &Json, losses: &mut Losses) -> Vec<SystemBlock> {
    if let Some(text) = system.text() {
        return vec![SystemBlock { text, cache: None }];
    }
    let parts = one_or_more(any(&mut system.fields(), &["parts"]).unwrap_or_else(|| Json::fixed("[]")));
    let mut blocks = Vec::new();
    for part in parts {
        let mut part = part.fields();
        blocks.extend(part.text("text").map(|text| SystemBlock { text, cache: None }));
        declare_rest("systemInstruction.parts", part, losses);
    }
    blocks
}

/// What is left of an object has no place elsewhere.
fn declare_rest(parent: &str, fields: Fields, losses: &mut Losses) {
    fields.rest().for_each(|(name, _)| losses.below(parent, &name, Reason::Unsupported));
}

/// Gives calls names to be answered by, where the client has none: by their order, which does not change from turn to turn.
#[derive(Default)]
struct Calls {
    made: usize,
    /// Calls that have no result yet: id and tool.
    open: Vec<(String, String)>,
}

impl Calls {
    fn call(&mut self, id: Option<String>, name: &str) -> String {
        self.made += 1;
        let id = id.unwrap_or_else(|| format!("call_{}", self.made));
        self.open.push((id.clone(), name.to_owned()));
        id
    }

    /// The call that a result belongs to: the one it names, else the first open one of this tool.
    fn result(&mut self, id: Option<String>, name: &str) -> Option<String> {
        let is_it = |(open, tool): &(String, String)| id.as_ref().map_or(tool == name, |id| id == open);
        match self.open.iter().position(is_it) {
            Some(at) => Some(self.open.remove(at).0),
            None => id,
        }
    }
}

fn turn(content: &Json, calls: &mut Calls, losses: &mut Losses) -> Result<Turn, Malformed> {
    let mut fields = content.fields();
    let role = match fields.string("role").as_deref() {
        Some("model") => Role::Assistant,
        Some("user" | "function" | "tool") | None => Role::User,
        Some(other) => return Err(Malformed::new("contents.role", format!("`{other}` is neither user nor model"))),
    };
    let mut parts = Vec::new();
    for part in fields.take("parts").map(one_or_more).unwrap_or_default() {
        read_part(part.fields(), &mut parts, calls, losses);
    }
    Ok(Turn { role, parts })
}

fn read_part(mut fields: Fields, parts: &mut Vec<Part>, calls: &mut Calls, losses: &mut Losses) {
    let signature = any(&mut fields, &["thoughtSignature", "thought_signature"]).and_then(|value| value.text());
    let is_thought = fields.take("thought").and_then(|value| value.boolean()).unwrap_or(false);
    if let Some(text) = fields.text("text") {
        let part = text_part(text, is_thought, signature, parts.last_mut());
        parts.extend(part);
    } else if let Some(data) = any(&mut fields, &["inlineData", "inline_data"]) {
        parts.extend(inline(data.fields(), losses));
    } else if let Some(data) = any(&mut fields, &["fileData", "file_data"]) {
        parts.extend(file(data.fields(), losses));
    } else if let Some(call) = any(&mut fields, &["functionCall", "function_call"]) {
        let mut call = call.fields();
        let name = call.string("name").unwrap_or_default();
        let id = Some(calls.call(call.string("id"), &name));
        let arguments = Arguments::Json(call.take("args").unwrap_or_else(|| Json::fixed("{}")));
        declare_rest("contents.parts.functionCall", call, losses);
        parts.push(Part::ToolCall(ToolCall { id, name, arguments, signature, cache: None }));
    } else if let Some(result) = any(&mut fields, &["functionResponse", "function_response"]) {
        parts.push(Part::ToolResult(tool_result(result.fields(), calls, losses)));
    } else if let Some((kind, _)) = fields.clone().rest().next() {
        parts.push(Part::Unknown(kind));
        return;
    }
    for (name, _) in fields.rest() {
        losses.below("contents.parts", &name, Reason::Unsupported);
    }
}

/// A text; a signature that comes alone belongs to the thought before it.
fn text_part(text: Text, is_thought: bool, signature: Option<Text>, before: Option<&mut Part>) -> Option<Part> {
    match (is_thought, signature) {
        (false, signature) => Some(Part::Text(TextPart { text, signature, ..TextPart::default() })),
        (true, Some(signature)) if text.is_empty() => {
            if let Some(Part::Thinking(thinking)) = before
                && thinking.signature.is_none()
            {
                thinking.signature = Some(signature);
                return None;
            }
            Some(Part::RedactedThinking(signature))
        }
        (true, signature) => Some(Part::Thinking(Thinking { text, signature })),
    }
}

fn inline(mut fields: Fields, losses: &mut Losses) -> Option<Part> {
    let media_type = any(&mut fields, &["mimeType", "mime_type"])?.text()?;
    let data = fields.text("data")?;
    declare_rest("contents.parts.inlineData", fields, losses);
    Some(medium(&media_type.read(), Source::Base64 { media_type: media_type.clone(), data }))
}

fn file(mut fields: Fields, losses: &mut Losses) -> Option<Part> {
    let media_type = any(&mut fields, &["mimeType", "mime_type"]).and_then(|value| value.text());
    let url = any(&mut fields, &["fileUri", "file_uri"])?.text()?;
    declare_rest("contents.parts.fileData", fields, losses);
    let address = url.read();
    let is_google = address.contains("generativelanguage.googleapis.com") || !address.starts_with("http");
    let kind = media_type.as_ref().map(|kind| kind.read().into_owned()).unwrap_or_default();
    let source = if is_google { Source::File(url.clone()) } else { Source::Url { url: url.clone(), media_type } };
    Some(medium(&kind, source))
}

/// A part by the kind of its bytes.
fn medium(media_type: &str, source: Source) -> Part {
    match media_type.split('/').next() {
        Some("image") => Part::Image(Image { source, detail: None, cache: None }),
        Some("audio") => Part::Audio(Audio { source }),
        Some("video") => Part::Unknown("video".to_owned()),
        _ => Part::Document(Document { source, name: None, context: None, citations: false, cache: None }),
    }
}

/// A result as text: what we ourselves wrap a text into is taken off again, any other object is shown as it is written.
fn tool_result(mut fields: Fields, calls: &mut Calls, losses: &mut Losses) -> ToolResult {
    let name = fields.string("name").unwrap_or_default();
    let id = calls.result(fields.string("id"), &name);
    let response = fields.take("response").unwrap_or_else(|| Json::fixed("{}"));
    declare_rest("contents.parts.functionResponse", fields, losses);
    let mut inside = response.fields();
    let error = inside.take("error");
    let wrapped = ["result", "output"].iter().find_map(|name| inside.take(name));
    let (is_error, value) = match (error, wrapped) {
        (Some(error), None) if inside.is_empty() => (true, error),
        (None, Some(value)) if inside.is_empty() => (false, value),
        _ => (false, response),
    };
    let text = value.text().unwrap_or_else(|| Text::write(&String::from_utf8_lossy(value.raw())));
    let parts = vec![Part::Text(TextPart { text, ..TextPart::default() })];
    ToolResult { id, name: Some(name), parts, is_error, cache: None }
}

fn read_tools(tools: &Json, request: &mut Request, losses: &mut Losses) {
    for tool in one_or_more(tools.clone()) {
        let mut fields = tool.fields();
        let declarations = any(&mut fields, &["functionDeclarations", "function_declarations"]);
        for declaration in declarations.map(one_or_more).unwrap_or_default() {
            request.tools.push(declared(declaration.fields(), losses));
        }
        for (name, _) in fields.rest() {
            losses.below("tools", &name, Reason::Unsupported);
        }
    }
}

fn declared(mut fields: Fields, losses: &mut Losses) -> Tool {
    let standard = any(&mut fields, &["parametersJsonSchema", "parameters_json_schema"]);
    let own = fields.take("parameters").map(|schema| schema::to_json_schema(&schema));
    let tool = Tool {
        name: fields.string("name").unwrap_or_default(),
        description: fields.text("description"),
        parameters: standard.or(own),
        strict: None,
        cache: None,
    };
    for (name, _) in fields.rest() {
        losses.below("tools.functionDeclarations", &name, Reason::Unsupported);
    }
    tool
}

fn read_tool_config(config: &Json, request: &mut Request, losses: &mut Losses) {
    let mut fields = config.fields();
    if let Some(calling) = any(&mut fields, &["functionCallingConfig", "function_calling_config"]) {
        let mut calling = calling.fields();
        let allowed = any(&mut calling, &["allowedFunctionNames", "allowed_function_names"]);
        let mut allowed: Vec<String> =
            allowed.iter().flat_map(Json::elements).filter_map(|name| name.string()).collect();
        request.tool_choice = match calling.string("mode").as_deref() {
            Some("NONE") => Some(ToolChoice::None),
            Some("ANY" | "VALIDATED") if allowed.len() > 1 => Some(ToolChoice::OneOf(allowed)),
            Some("ANY" | "VALIDATED") if allowed.len() == 1 => allowed.pop().map(ToolChoice::Tool),
            Some("ANY") => Some(ToolChoice::Required),
            Some(_) => Some(ToolChoice::Auto),
            None => None,
        };
        for (name, _) in calling.rest() {
            losses.below("toolConfig.functionCallingConfig", &name, Reason::Unsupported);
        }
    }
    for (name, _) in fields.rest() {
        losses.below("toolConfig", &name, Reason::Unsupported);
    }
}

fn read_generation_config(mut fields: Fields, request: &mut Request, losses: &mut Losses) {
    let mut take = |camel: &str, snake: &str| any(&mut fields, &[camel, snake]);
    request.temperature = take("temperature", "");
    request.top_p = take("topP", "top_p");
    request.top_k = take("topK", "top_k");
    request.seed = take("seed", "");
    request.presence_penalty = take("presencePenalty", "presence_penalty");
    request.frequency_penalty = take("frequencyPenalty", "frequency_penalty");
    request.max_tokens = take("maxOutputTokens", "max_output_tokens").and_then(|value| value.integer());
    request.candidates = take("candidateCount", "candidate_count").and_then(|value| value.integer());
    request.logprobs = take("responseLogprobs", "response_logprobs").and_then(|value| value.boolean());
    request.top_logprobs = take("logprobs", "").and_then(|value| value.integer());
    let stops = take("stopSequences", "stop_sequences");
    request.stop = stops.iter().flat_map(Json::elements).filter_map(|stop| stop.text()).collect();
    if let Some(thinking) = take("thinkingConfig", "thinking_config") {
        request.reasoning = reasoning(thinking.fields(), losses);
    }
    let media_type = take("responseMimeType", "response_mime_type").and_then(|value| value.string());
    let standard = take("responseJsonSchema", "response_json_schema");
    let own = take("responseSchema", "response_schema").map(|schema| schema::to_json_schema(&schema));
    request.output = match (standard.or(own), media_type.as_deref()) {
        (Some(schema), _) => Some(OutputFormat::Schema { name: None, description: None, schema, strict: None }),
        (None, Some("application/json")) => Some(OutputFormat::JsonObject),
        (None, Some("text/plain") | None) => None,
        (None, Some(_)) => {
            losses.below("generationConfig", "responseMimeType", Reason::Unsupported);
            None
        }
    };
    for (name, _) in fields.rest() {
        losses.below("generationConfig", &name, Reason::Unsupported);
    }
}

fn reasoning(mut fields: Fields, losses: &mut Losses) -> Reasoning {
    let budget = any(&mut fields, &["thinkingBudget", "thinking_budget"]);
    let mode = budget.and_then(|budget| match budget.number()? {
        0.0 => Some(ThinkingMode::Off),
        dynamic if dynamic < 0.0 => Some(ThinkingMode::Adaptive),
        _ => budget.integer().map(ThinkingMode::Budget),
    });
    let level = any(&mut fields, &["thinkingLevel", "thinking_level"]).and_then(|level| level.string());
    let show = any(&mut fields, &["includeThoughts", "include_thoughts"]).and_then(|show| show.boolean());
    for (name, _) in fields.rest() {
        losses.below("generationConfig.thinkingConfig", &name, Reason::Unsupported);
    }
    Reasoning { mode, effort: level.as_deref().and_then(Effort::of_name), show }
}
