//! Requests of chat completions.

use bytes::Bytes;

use super::wire;
use crate::body::Chunks;
use crate::dialect::gemini_generate::FOREIGN_CALL;
use crate::dialect::ir::{
    Arguments, Audio, CacheMark, DOCUMENT_NAME, Document, Effort, Extra, Image, OutputFormat, Part, Request, Role,
    Source, SystemBlock, TextPart, Thinking, ThinkingMode, Tool, ToolCall, ToolChoice, ToolResult, Turn,
};
use crate::dialect::loss::{Losses, Reason};
use crate::dialect::text::{Fields, Json, Text, Writer};
use crate::dialect::{Malformed, Sampling, Target, ThinkingAsk, history, ids};
use crate::json::Kind;

/// Most stop texts that OpenAI takes.
const STOPS_MAX: usize = 4;
/// Put before the output of a tool that failed, since there is no field for it.
const ERROR_PREFIX: &str = "Error: ";

pub(super) fn decode(body: &Bytes, losses: &mut Losses) -> Result<Request, Malformed> {
    let mut fields = Fields::read(body)?;
    let mut request = Request::default();
    for name in ["model", "backend"] {
        fields.take(name);
    }
    let messages = fields.take("messages").filter(|messages| messages.kind() == Kind::Array);
    let messages = messages.ok_or_else(|| Malformed::new("messages", "a list of messages is needed"))?;
    for message in messages.elements() {
        read_message(message.fields(), &mut request, losses)?;
    }
    request.tools = read_tools(&mut fields, losses);
    request.tool_choice = fields.take("tool_choice").or_else(|| fields.take("function_call")).and_then(|choice| {
        let read = read_choice(&choice, losses);
        if read.is_none() {
            losses.add("tool_choice", Reason::Unsupported);
        }
        read
    });
    request.parallel_tool_calls = fields.take("parallel_tool_calls").and_then(|value| value.boolean());
    request.output = fields.take("response_format").and_then(|format| read_output(&format, losses));
    read_settings(&mut fields, &mut request);
    request.extras.extend(fields.rest().map(|(name, value)| Extra { name, value }));
    Ok(request)
}

fn read_settings(fields: &mut Fields, request: &mut Request) {
    if let Some(value) = fields.take("reasoning_effort") {
        request.reasoning.effort = value.string().and_then(|name| Effort::of_name(&name));
        if request.reasoning.effort.is_none() {
            request.extras.push(Extra { name: "reasoning_effort".to_owned(), value });
        }
    }
    let (newer, older) = (fields.take("max_completion_tokens"), fields.take("max_tokens"));
    request.max_tokens = newer.or(older).and_then(|value| value.integer());
    request.temperature = fields.take("temperature");
    request.top_p = fields.take("top_p");
    request.top_k = fields.take("top_k");
    request.stop = match fields.take("stop") {
        Some(stop) if stop.kind() == Kind::Array => stop.elements().iter().filter_map(Json::text).collect(),
        Some(stop) => stop.text().into_iter().collect(),
        None => Vec::new(),
    };
    request.candidates = fields.take("n").and_then(|value| value.integer());
    request.seed = fields.take("seed");
    request.presence_penalty = fields.take("presence_penalty");
    request.frequency_penalty = fields.take("frequency_penalty");
    request.logprobs = fields.take("logprobs").and_then(|value| value.boolean());
    request.top_logprobs = fields.take("top_logprobs").and_then(|value| value.integer());
    let (user, identifier) = (fields.text("user"), fields.text("safety_identifier"));
    request.user = user.or(identifier);
    if let Some(value) = fields.take("service_tier") {
        request.service_tier = value.string().and_then(|name| wire::tier_of(&name));
        if request.service_tier.is_none() {
            request.extras.push(Extra { name: "service_tier".to_owned(), value });
        }
    }
    request.prompt_cache_key = fields.text("prompt_cache_key");
    request.stream = fields.take("stream").and_then(|value| value.boolean()).unwrap_or(false);
    let mut options = fields.object("stream_options");
    request.wants_stream_usage = options.take("include_usage").and_then(|value| value.boolean()).unwrap_or(false);
}

fn read_message(mut fields: Fields, request: &mut Request, losses: &mut Losses) -> Result<(), Malformed> {
    let role = fields.string("role").ok_or_else(|| Malformed::new("messages.role", "a role is needed"))?;
    let cache = read_cache(&mut fields);
    let content = fields.take("content");
    let mut parts = content.map(|content| read_content(&content, losses)).unwrap_or_default();
    match role.as_str() {
        "system" | "developer" if request.turns.is_empty() => {
            for part in parts {
                match part {
                    Part::Text(text) => {
                        request.system.push(SystemBlock { text: text.text, cache: text.cache.or(cache) })
                    }
                    _ => losses.add("messages.content", Reason::Unsupported),
                }
            }
        }
        "system" | "developer" => request.turns.push(Turn { role: Role::System, parts }),
        "user" => {
            mark_last(&mut parts, cache);
            request.turns.push(Turn { role: Role::User, parts });
        }
        "assistant" => {
            let mut parts = read_assistant(&mut fields, parts, losses);
            mark_last(&mut parts, cache);
            request.turns.push(Turn { role: Role::Assistant, parts });
        }
        "tool" | "function" => {
            let name = fields.string("name");
            let result = ToolResult { id: fields.string("tool_call_id"), name, parts, is_error: false, cache };
            request.turns.push(Turn { role: Role::User, parts: vec![Part::ToolResult(result)] });
        }
        other => return Err(Malformed::new("messages.role", format!("`{other}` is no role"))),
    }
    for (name, _) in fields.rest() {
        losses.below("messages", &name, Reason::Unsupported);
    }
    Ok(())
}

/// A mark of the message as a whole belongs to its last part.
fn mark_last(parts: &mut [Part], mark: Option<CacheMark>) {
    let place = match parts.last_mut() {
        Some(Part::Text(text)) => &mut text.cache,
        Some(Part::Image(image)) => &mut image.cache,
        Some(Part::Document(document)) => &mut document.cache,
        Some(Part::ToolCall(call)) => &mut call.cache,
        _ => return,
    };
    *place = place.or(mark);
}

fn read_cache(fields: &mut Fields) -> Option<CacheMark> {
    let mut mark = fields.take("cache_control")?.fields();
    match mark.string("ttl").as_deref() {
        Some("1h") => Some(CacheMark::OneHour),
        _ => Some(CacheMark::FiveMinutes),
    }
}

fn read_content(content: &Json, losses: &mut Losses) -> Vec<Part> {
    match content.text() {
        Some(text) if text.is_empty() => Vec::new(),
        Some(text) => vec![Part::Text(TextPart { text, ..TextPart::default() })],
        None => content.elements().iter().map(|part| read_part(part, losses)).collect(),
    }
}

fn read_part(part: &Json, losses: &mut Losses) -> Part {
    let mut fields = part.fields();
    let kind = fields.string("type").unwrap_or_default();
    let cache = read_cache(&mut fields);
    let part = match kind.as_str() {
        "text" | "input_text" | "output_text" => {
            Part::Text(TextPart { text: fields.text("text").unwrap_or_default(), cache, ..TextPart::default() })
        }
        "image_url" => {
            let image = fields.take("image_url");
            let (url, detail) = match image.as_ref().and_then(Json::text) {
                Some(url) => (Some(url), None),
                None => {
                    let mut image = image.map(|image| image.fields()).unwrap_or_default();
                    (image.text("url"), image.text("detail"))
                }
            };
            Part::Image(Image { source: source_of_url(&url.unwrap_or_default()), detail, cache })
        }
        "input_audio" => {
            let mut audio = fields.object("input_audio");
            let format = audio.string("format").unwrap_or_else(|| "wav".to_owned());
            let media_type = Text::write(&format!("audio/{}", if format == "mp3" { "mpeg" } else { &format }));
            let data = audio.text("data").unwrap_or_default();
            Part::Audio(Audio { source: Source::Base64 { media_type, data } })
        }
        "file" => Part::Document(read_file(fields.object("file"), cache)),
        "refusal" => Part::Refusal(fields.text("refusal").unwrap_or_default()),
        "thinking" => Part::Thinking(Thinking { text: read_thought(&mut fields), signature: None }),
        _ => Part::Unknown(kind),
    };
    if !matches!(part, Part::Unknown(_)) {
        fields.rest().for_each(|(name, _)| losses.below("messages.content", &name, Reason::Unknown));
    }
    part
}

/// A thought as Mistral has it among the content: a text, or a list of them.
pub(super) fn read_thought(part: &mut Fields) -> Text {
    let Some(thought) = part.take("thinking") else { return Text::default() };
    let pieces = thought.elements().into_iter().filter_map(|piece| piece.fields().text("text"));
    thought.text().unwrap_or_else(|| pieces.fold(Text::default(), |all, piece| all.join(&piece)))
}

fn read_file(mut file: Fields, cache: Option<CacheMark>) -> Document {
    let name = file.text("filename");
    let source = match (file.text("file_data"), file.text("file_id")) {
        (Some(data), _) => match source_of_url(&data) {
            // Base64 without `data:` before it is a PDF.
            Source::Url { url, .. } => Source::Base64 { media_type: Text::plain("application/pdf"), data: url },
            other => other,
        },
        (None, id) => Source::File(id.unwrap_or_default()),
    };
    Document { source, name, context: None, citations: false, cache }
}

/// An address, or the base64 that a `data:` address holds, as a slice of it.
pub(crate) fn source_of_url(url: &Text) -> Source {
    let raw = url.raw();
    let address = || Source::Url { url: url.clone(), media_type: None };
    if !raw.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"data:")) {
        return address();
    }
    let Some(comma) = memchr::memchr(b',', raw) else { return address() };
    let head = String::from_utf8_lossy(&raw[5..comma]).replace("\\/", "/");
    let Some(media_type) = head.strip_suffix(";base64") else { return address() };
    let media_type = media_type.split(';').next().unwrap_or_default();
    Source::Base64 { media_type: Text::write(media_type), data: url.part(comma + 1..raw.len()) }
}

/// The parts of an answer's message.
pub(super) fn read_answer(message: &mut Fields, losses: &mut Losses) -> Vec<Part> {
    let content = message.take("content").map(|content| read_content(&content, losses)).unwrap_or_default();
    read_assistant(message, content, losses)
}

fn read_assistant(fields: &mut Fields, content: Vec<Part>, losses: &mut Losses) -> Vec<Part> {
    let mut parts = Vec::new();
    let blocks = fields.list("thinking_blocks");
    let plain = [fields.text("reasoning_content"), fields.text("reasoning")].into_iter().flatten().next();
    for block in &blocks {
        let mut block = block.fields();
        match block.string("type").as_deref() {
            Some("redacted_thinking") => parts.push(Part::RedactedThinking(block.text("data").unwrap_or_default())),
            _ => {
                let text = block.text("thinking").unwrap_or_default();
                parts.push(Part::Thinking(Thinking { text, signature: block.text("signature") }));
            }
        }
    }
    if let (true, Some(text)) = (blocks.is_empty(), plain) {
        parts.push(Part::Thinking(Thinking { text, signature: None }));
    }
    parts.extend(content);
    parts.extend(fields.text("refusal").filter(|text| !text.is_empty()).map(Part::Refusal));
    for call in fields.list("tool_calls") {
        let mut call = call.fields();
        // By its function: some vendors leave the type empty.
        match call.take("function") {
            Some(function) => {
                let (id, cache) = (call.string("id"), read_cache(&mut call));
                let signature = wire::signature_of(&mut call);
                let call = read_call(id, function.fields());
                parts.push(Part::ToolCall(ToolCall { signature, cache, ..call }));
            }
            None => {
                let kind = call.string("type").unwrap_or_default();
                losses.add(format!("messages.tool_calls.{kind}"), Reason::Unsupported);
            }
        }
    }
    if let Some(call) = fields.take("function_call") {
        let mut call = read_call(None, call.fields());
        call.id = Some(format!("call_{}", call.name));
        parts.push(Part::ToolCall(call));
    }
    parts
}

fn read_call(id: Option<String>, mut function: Fields) -> ToolCall {
    let arguments = match function.take("arguments") {
        Some(arguments) => match arguments.text() {
            Some(text) => Arguments::Text(text),
            None => Arguments::Json(arguments),
        },
        None => Arguments::Json(Json::fixed("{}")),
    };
    let name = function.string("name").unwrap_or_default();
    ToolCall { id: id.filter(|id| !id.is_empty()), name, arguments, signature: None, cache: None }
}

fn read_tools(fields: &mut Fields, losses: &mut Losses) -> Vec<Tool> {
    let mut tools = Vec::new();
    for tool in fields.list("tools") {
        let mut tool = tool.fields();
        match tool.string("type").as_deref() {
            None | Some("function") => {
                let cache = read_cache(&mut tool);
                tools.push(read_tool(tool.object("function"), cache, losses));
            }
            Some(kind) => losses.add(format!("tools.{kind}"), Reason::Unsupported),
        }
    }
    tools.extend(fields.list("functions").iter().map(|tool| read_tool(tool.fields(), None, losses)));
    tools
}

fn read_tool(mut function: Fields, cache: Option<CacheMark>, losses: &mut Losses) -> Tool {
    let tool = Tool {
        name: function.string("name").unwrap_or_default(),
        description: function.text("description"),
        parameters: function.take("parameters"),
        strict: function.take("strict").and_then(|value| value.boolean()),
        cache: cache.or_else(|| read_cache(&mut function)),
    };
    function.rest().for_each(|(name, _)| losses.below("tools.function", &name, Reason::Unknown));
    tool
}

fn read_choice(choice: &Json, losses: &mut Losses) -> Option<ToolChoice> {
    if let Some(name) = choice.string() {
        return match name.as_str() {
            "auto" => Some(ToolChoice::Auto),
            "none" => Some(ToolChoice::None),
            "required" | "any" => Some(ToolChoice::Required),
            _ => None,
        };
    }
    let mut choice = choice.fields();
    if choice.string("type").as_deref() == Some("allowed_tools") {
        let mut allowed = choice.object("allowed_tools");
        if allowed.string("mode").as_deref() != Some("required") {
            losses.add("tool_choice.allowed_tools", Reason::Unsupported);
            return Some(ToolChoice::Auto);
        }
        let tools = allowed.list("tools");
        let names = tools.iter().filter_map(|tool| tool.fields().object("function").string("name"));
        return Some(ToolChoice::OneOf(names.collect()));
    }
    let name = choice.object("function").string("name").or_else(|| choice.string("name"));
    name.map(ToolChoice::Tool)
}

fn read_output(format: &Json, losses: &mut Losses) -> Option<OutputFormat> {
    let mut format = format.fields();
    match format.string("type").as_deref() {
        Some("json_object") => Some(OutputFormat::JsonObject),
        Some("json_schema") => {
            let mut schema = format.object("json_schema");
            Some(OutputFormat::Schema {
                name: schema.text("name"),
                description: schema.text("description"),
                strict: schema.take("strict").and_then(|value| value.boolean()),
                schema: schema.take("schema").unwrap_or_else(|| Json::fixed("{}")),
            })
        }
        Some("text") | None => None,
        Some(_) => {
            losses.add("response_format", Reason::Unsupported);
            None
        }
    }
}

pub(super) fn encode(request: &Request, target: &Target<'_>, losses: &mut Losses) -> Result<Chunks, Malformed> {
    let turns = history::arrange(request, true, losses);
    let echoed_from = tool_loop(&turns, target);
    let mut failed = None;
    let mut writer = Writer::new();
    // The conversation stands last, so that a request is the beginning of the one after it.
    writer.object(|w| {
        w.key("model").string(target.model);
        write_settings(w, request, target, losses);
        write_tools(w, request, losses);
        w.key("messages").list(|w| {
            write_system(w, request, losses);
            for (at, turn) in turns.iter().enumerate() {
                failed = failed.take().or(write_turn(w, turn, target, at >= echoed_from, losses).err());
            }
        });
    });
    request.extras.iter().for_each(|extra| losses.add(extra.name.clone(), Reason::Unsupported));
    match failed {
        Some(error) => Err(error),
        None => Ok(writer.finish()),
    }
}

fn write_settings(w: &mut Writer, request: &Request, target: &Target<'_>, losses: &mut Losses) {
    let reasons = matches!(target.capabilities.thinking, ThinkingAsk::Effort | ThinkingAsk::Level);
    if let Some(max) = request.max_tokens {
        w.key(if reasons { "max_completion_tokens" } else { "max_tokens" }).integer(max);
    }
    write_sampling(w, request, target, losses);
    if !request.stop.is_empty() {
        w.key("stop").list(|w| request.stop.iter().take(STOPS_MAX).for_each(|stop| w.text(stop)));
        if request.stop.len() > STOPS_MAX {
            losses.add("stop", Reason::Clamped);
        }
    }
    if let Some(n) = request.candidates.filter(|n| *n != 1) {
        w.key("n").integer(n);
    }
    if let Some(logprobs) = request.logprobs {
        w.key("logprobs").boolean(logprobs);
    }
    if let Some(top) = request.top_logprobs {
        w.key("top_logprobs").integer(top);
    }
    write_effort(w, request, reasons, losses);
    write_output(w, request);
    if let Some(user) = &request.user {
        w.key("user").text(user);
    }
    if let Some(tier) = request.service_tier {
        w.key("service_tier").string(wire::tier_name(tier));
    }
    if let Some(key) = &request.prompt_cache_key {
        w.key("prompt_cache_key").text(key);
    }
    if request.stream {
        w.key("stream").boolean(true);
        if target.ask_usage {
            w.key("stream_options").object(|w| w.key("include_usage").boolean(true));
        }
    }
}

fn write_sampling(w: &mut Writer, request: &Request, target: &Target<'_>, losses: &mut Losses) {
    let refused = target.capabilities.sampling == Sampling::None;
    for (name, value) in [
        ("temperature", &request.temperature),
        ("top_p", &request.top_p),
        ("presence_penalty", &request.presence_penalty),
        ("frequency_penalty", &request.frequency_penalty),
        ("seed", &request.seed),
    ] {
        match value {
            Some(value) if !refused || name == "seed" => w.key(name).json(value),
            Some(_) => losses.add(name, Reason::Model),
            None => {}
        }
    }
    if request.top_k.is_some() {
        losses.add("top_k", Reason::Unsupported);
    }
}

fn write_effort(w: &mut Writer, request: &Request, reasons: bool, losses: &mut Losses) {
    let reasoning = &request.reasoning;
    let effort = match (reasoning.mode, reasoning.effort) {
        (Some(ThinkingMode::Off), _) => reasons.then_some(Effort::Minimal),
        (Some(ThinkingMode::Budget(tokens)), None) => Some(Effort::of_budget(tokens)),
        (_, effort) => effort,
    };
    if let (Some(ThinkingMode::Budget(_)), Some(_)) = (reasoning.mode, reasoning.effort) {
        losses.add("thinking.budget_tokens", Reason::Approximated);
    }
    if reasoning.effort != effort {
        losses.add("thinking", if reasons { Reason::Approximated } else { Reason::Model });
    } else if effort.is_some() && !reasons {
        losses.add("reasoning_effort", Reason::Model);
    } else if reasoning.mode == Some(ThinkingMode::Adaptive) && !reasons {
        losses.add("thinking", Reason::Model);
    }
    if reasoning.show.is_some() {
        losses.add("reasoning.summary", Reason::Unsupported);
    }
    if let Some(effort) = effort.filter(|_| reasons) {
        if effort == Effort::Max {
            losses.add("reasoning_effort", Reason::Approximated);
        }
        w.key("reasoning_effort").string(match effort {
            Effort::Max => "xhigh",
            effort => effort.name(),
        });
    }
}

fn write_output(w: &mut Writer, request: &Request) {
    match &request.output {
        None => {}
        Some(OutputFormat::JsonObject) => {
            w.key("response_format").object(|w| w.key("type").word("json_object"));
        }
        Some(OutputFormat::Schema { name, description, schema, strict }) => {
            w.key("response_format").object(|w| {
                w.key("type").word("json_schema");
                w.key("json_schema").object(|w| {
                    w.key("name").text(name.as_ref().unwrap_or(&Text::plain("answer")));
                    if let Some(description) = description {
                        w.key("description").text(description);
                    }
                    w.key("schema").json(schema);
                    if let Some(strict) = strict {
                        w.key("strict").boolean(*strict);
                    }
                });
            });
        }
    }
}

fn write_tools(w: &mut Writer, request: &Request, losses: &mut Losses) {
    if request.tools.is_empty() {
        return;
    }
    w.key("tools").list(|w| request.tools.iter().for_each(|tool| write_tool(w, tool, losses)));
    match &request.tool_choice {
        None => {}
        Some(ToolChoice::Auto) => w.key("tool_choice").word("auto"),
        Some(ToolChoice::None) => w.key("tool_choice").word("none"),
        Some(ToolChoice::Required) => w.key("tool_choice").word("required"),
        Some(ToolChoice::OneOf(_)) => {
            losses.add("tool_choice", Reason::Approximated);
            w.key("tool_choice").word("required");
        }
        Some(ToolChoice::Tool(name)) => w.key("tool_choice").object(|w| {
            w.key("type").word("function");
            w.key("function").object(|w| w.key("name").string(&ids::tool_name(name, ids::OPENAI_NAME_MAX)));
        }),
    }
    if let Some(parallel) = request.parallel_tool_calls {
        w.key("parallel_tool_calls").boolean(parallel);
    }
}

fn write_tool(w: &mut Writer, tool: &Tool, losses: &mut Losses) {
    declare_mark(tool.cache, losses);
    w.object(|w| {
        w.key("type").word("function");
        w.key("function").object(|w| {
            w.key("name").string(&ids::tool_name(&tool.name, ids::OPENAI_NAME_MAX));
            if let Some(description) = &tool.description {
                w.key("description").text(description);
            }
            match &tool.parameters {
                Some(parameters) => w.key("parameters").json(parameters),
                None => w.key("parameters").literal(r#"{"type":"object","properties":{}}"#),
            }
            if let Some(strict) = tool.strict {
                w.key("strict").boolean(strict);
            }
        });
    });
}

fn declare_mark(mark: Option<CacheMark>, losses: &mut Losses) {
    if mark.is_some() {
        losses.add("cache_control", Reason::Unsupported);
    }
}

fn write_system(w: &mut Writer, request: &Request, losses: &mut Losses) {
    request.system.iter().for_each(|block| declare_mark(block.cache, losses));
    let texts: Vec<Text> =
        request.system.iter().filter(|block| !block.text.is_empty()).map(|block| block.text.clone()).collect();
    if !texts.is_empty() {
        w.object(|w| {
            w.key("role").word("system");
            w.key("content").text(&joined(&texts, "\\n\\n"));
        });
    }
}

/// Texts as one, with something between them that is written as in JSON.
fn joined(texts: &[Text], between: &'static str) -> Text {
    let mut pieces = texts.iter();
    let first = pieces.next().cloned().unwrap_or_default();
    if texts.len() < 2 {
        return first;
    }
    let mut joined = first.raw().to_vec();
    for piece in pieces {
        joined.extend_from_slice(between.as_bytes());
        joined.extend_from_slice(piece.raw());
    }
    Text::of_raw(Bytes::from(joined))
}

/// Where the tool loop at the end begins, for models that want their thoughts back inside of it.
fn tool_loop(turns: &[Turn], target: &Target<'_>) -> usize {
    let asks =
        |turn: &Turn| turn.role == Role::User && turn.parts.iter().any(|part| !matches!(part, Part::ToolResult(_)));
    match target.capabilities.echoes_thinking {
        true => turns.iter().rposition(asks).map_or(0, |at| at + 1),
        false => turns.len(),
    }
}

fn write_turn(
    w: &mut Writer,
    turn: &Turn,
    target: &Target<'_>,
    echoes: bool,
    losses: &mut Losses,
) -> Result<(), Malformed> {
    match turn.role {
        Role::Assistant => {
            write_assistant(w, turn, target, echoes, losses);
            Ok(())
        }
        Role::System => write_parts(w, "system", turn.parts.iter().collect(), losses),
        Role::User => {
            // Pictures and documents have no place in a tool's message; they come right behind.
            let mut rest: Vec<&Part> = Vec::new();
            for part in &turn.parts {
                match part {
                    Part::ToolResult(result) => rest.extend(write_result(w, result, losses)),
                    other => rest.push(other),
                }
            }
            match rest.is_empty() {
                true => Ok(()),
                false => write_parts(w, "user", rest, losses),
            }
        }
    }
}

/// Writes a tool's message and gives what has no place in it.
fn write_result<'a>(w: &mut Writer, result: &'a ToolResult, losses: &mut Losses) -> Vec<&'a Part> {
    declare_mark(result.cache, losses);
    let (mut texts, mut rest) = (Vec::new(), Vec::new());
    for part in &result.parts {
        match part {
            Part::Text(text) => {
                declare_mark(text.cache, losses);
                texts.push(text.text.clone());
            }
            other => rest.push(other),
        }
    }
    if !rest.is_empty() {
        losses.add("messages.tool_result.content", Reason::Approximated);
    }
    if texts.is_empty() && !rest.is_empty() {
        texts.push(Text::plain("(see the next message)"));
    }
    let mut content = joined(&texts, "\\n");
    if result.is_error {
        losses.add("messages.tool_result.is_error", Reason::Approximated);
        content = Text::plain(ERROR_PREFIX).join(&content);
    }
    w.object(|w| {
        w.key("role").word("tool");
        w.key("tool_call_id").string(&ids::sent(result.id.as_deref().unwrap_or_default(), ids::CALL));
        w.key("content").text(&content);
    });
    rest
}

fn write_parts(w: &mut Writer, role: &str, mut parts: Vec<&Part>, losses: &mut Losses) -> Result<(), Malformed> {
    parts.retain(|part| is_content(part, losses));
    if let [Part::Text(text)] = &parts[..] {
        declare_mark(text.cache, losses);
        w.object(|w| {
            w.key("role").string(role);
            w.key("content").text(&text.text);
        });
        return Ok(());
    }
    let mut failed = None;
    let mut content = Writer::new();
    content.list(|w| {
        for part in parts {
            failed = failed.take().or(write_part(w, part, losses).err());
        }
    });
    let content = Json::written(content);
    // A message with nothing in it is refused.
    if !content.is_nothing() {
        w.object(|w| {
            w.key("role").string(role);
            w.key("content").json(&content);
        });
    }
    failed.map_or(Ok(()), Err)
}

fn write_part(w: &mut Writer, part: &Part, losses: &mut Losses) -> Result<(), Malformed> {
    match part {
        Part::Text(text) => {
            declare_mark(text.cache, losses);
            write_text(w, &text.text);
        }
        Part::Image(image) => write_image(w, image, losses),
        Part::Document(document) => write_document(w, document, losses),
        Part::Audio(Audio { source: Source::Base64 { media_type, data } }) => {
            let kind = media_type.read();
            let format = match kind.rsplit('/').next().unwrap_or_default() {
                "mpeg" | "mp3" => "mp3",
                "wav" | "x-wav" | "wave" => "wav",
                _ => return Err(Malformed::new("messages.content", format!("{kind} cannot be sent to this backend"))),
            };
            w.object(|w| {
                w.key("type").word("input_audio");
                w.key("input_audio").object(|w| {
                    w.key("data").text(data);
                    w.key("format").string(format);
                });
            });
        }
        Part::Audio(_) => {
            return Err(Malformed::new("messages.content", "audio must be sent as base64 to this backend"));
        }
        Part::Refusal(text) => write_text(w, text),
        Part::Unknown(_) | Part::Thinking(_) | Part::RedactedThinking(_) | Part::ToolCall(_) | Part::ToolResult(_) => {}
    }
    Ok(())
}

/// Whether a part has a place in the content of a message that is not the model's; what has none is declared.
fn is_content(part: &Part, losses: &mut Losses) -> bool {
    match part {
        Part::Unknown(kind) => losses.add(format!("messages.content.{kind}"), Reason::Unsupported),
        Part::Thinking(_) | Part::RedactedThinking(_) => losses.add("messages.thinking", Reason::Foreign),
        Part::ToolCall(_) | Part::ToolResult(_) => losses.add("messages.content", Reason::Invalid),
        Part::Text(_) | Part::Image(_) | Part::Document(_) | Part::Audio(_) | Part::Refusal(_) => return true,
    }
    false
}

fn write_text(w: &mut Writer, text: &Text) {
    w.object(|w| {
        w.key("type").word("text");
        w.key("text").text(text);
    });
}

fn write_data_url(w: &mut Writer, media_type: &Text, data: &Text) {
    w.texts(&[&Text::plain("data:"), media_type, &Text::plain(";base64,"), data]);
}

fn write_image(w: &mut Writer, image: &Image, losses: &mut Losses) {
    declare_mark(image.cache, losses);
    match &image.source {
        Source::File(_) => losses.add("messages.image.file_id", Reason::Foreign),
        Source::Text(_) => losses.add("messages.image.source", Reason::Invalid),
        source => w.object(|w| {
            w.key("type").word("image_url");
            w.key("image_url").object(|w| {
                match source {
                    Source::Base64 { media_type, data } => write_data_url(w.key("url"), media_type, data),
                    Source::Url { url, .. } | Source::File(url) | Source::Text(url) => w.key("url").text(url),
                }
                if let Some(detail) = &image.detail {
                    w.key("detail").text(detail);
                }
            });
        }),
    }
}

fn write_document(w: &mut Writer, document: &Document, losses: &mut Losses) {
    declare_mark(document.cache, losses);
    if document.citations {
        losses.add("messages.document.citations", Reason::Unsupported);
    }
    if document.context.is_some() {
        losses.add("messages.document.context", Reason::Unsupported);
    }
    match &document.source {
        Source::Text(text) => {
            losses.add("messages.content.document", Reason::Approximated);
            if document.name.is_some() {
                losses.add("messages.document.title", Reason::Unsupported);
            }
            write_text(w, text);
        }
        Source::Base64 { media_type, data } => w.object(|w| {
            w.key("type").word("file");
            w.key("file").object(|w| {
                w.key("filename").text(document.name.as_ref().unwrap_or(&Text::plain(DOCUMENT_NAME)));
                write_data_url(w.key("file_data"), media_type, data);
            });
        }),
        Source::Url { .. } => losses.add("messages.document.url", Reason::Unsupported),
        Source::File(_) => losses.add("messages.document.file_id", Reason::Foreign),
    }
}

fn write_assistant(w: &mut Writer, turn: &Turn, target: &Target<'_>, echoes: bool, losses: &mut Losses) {
    let (mut texts, mut thoughts, mut calls, mut refusal) = (Vec::new(), Vec::new(), Vec::new(), None);
    let echoes = echoes && turn.parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    for part in &turn.parts {
        match part {
            Part::Text(text) => {
                declare_mark(text.cache, losses);
                texts.push(text.text.clone());
            }
            Part::ToolCall(call) => calls.push(call),
            Part::Refusal(text) => refusal = Some(text),
            Part::Thinking(thinking) if echoes => thoughts.push(thinking.text.clone()),
            Part::Thinking(_) | Part::RedactedThinking(_) => losses.add("messages.thinking", Reason::Foreign),
            Part::Unknown(kind) => losses.add(format!("messages.content.{kind}"), Reason::Unsupported),
            Part::Image(_) | Part::Document(_) | Part::Audio(_) | Part::ToolResult(_) => {
                losses.add("messages.content", Reason::Unsupported);
            }
        }
    }
    if texts.is_empty() && calls.is_empty() && refusal.is_none() {
        return;
    }
    w.object(|w| {
        w.key("role").word("assistant");
        match texts.is_empty() {
            true => w.key("content").literal("null"),
            false => w.key("content").text(&joined(&texts, "")),
        }
        if !thoughts.is_empty() {
            w.key("reasoning_content").text(&joined(&thoughts, "\\n\\n"));
        }
        if let Some(refusal) = refusal {
            w.key("refusal").text(refusal);
        }
        if !calls.is_empty() {
            w.key("tool_calls").list(|w| {
                for (at, call) in calls.iter().enumerate() {
                    write_call(w, call, signature(call, at == 0, target), losses);
                }
            });
        }
    });
}

/// The signature that goes with a call: its own, or, where the model refuses a step whose first call has none, the word for that.
fn signature(call: &ToolCall, is_first: bool, target: &Target<'_>) -> Option<Text> {
    let own = call.signature.clone().filter(|_| target.own_state);
    let foreign = is_first && target.capabilities.thinking == ThinkingAsk::Level;
    own.or_else(|| foreign.then(|| Text::plain(FOREIGN_CALL)))
}

fn write_call(w: &mut Writer, call: &ToolCall, signature: Option<Text>, losses: &mut Losses) {
    declare_mark(call.cache, losses);
    w.object(|w| {
        w.key("id").string(&ids::sent(call.id.as_deref().unwrap_or_default(), ids::CALL));
        w.key("type").word("function");
        w.key("function").object(|w| {
            w.key("name").string(&ids::tool_name(&call.name, ids::OPENAI_NAME_MAX));
            w.key("arguments").text(&call.arguments.as_text());
        });
        if let Some(signature) = &signature {
            wire::write_signature(w, signature);
        }
    });
}
