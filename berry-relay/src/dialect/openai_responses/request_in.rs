//! A client's request.

use bytes::Bytes;

use super::super::Malformed;
use super::super::ir::{
    Arguments, Audio, Document, Effort, Extra, Image, OutputFormat, Part, Reasoning, Request, Role, ServiceTier,
    Source, SystemBlock, TextPart, Thinking, Tool, ToolCall, ToolChoice, ToolResult, Turn,
};
use super::super::loss::{Losses, Reason};
use super::super::text::{Fields, Json, Text};
use crate::json::Kind;

/// Reads a request.
pub(super) fn decode(body: &Bytes, losses: &mut Losses) -> Result<Request, Malformed> {
    let mut fields = Fields::read(body)?;
    fields.take("model");
    for name in ["previous_response_id", "conversation"] {
        if fields.take(name).is_some() {
            let why = "earlier responses live at the backend that gave them, and this model's backends speak another protocol; \
                       send the whole conversation as `input`";
            return Err(Malformed::new(name, why));
        }
    }
    let mut request = Request { wants_stream_usage: true, ..Request::default() };
    if let Some(text) = fields.text("instructions") {
        request.system.push(SystemBlock { text, cache: None });
    }
    let input = fields.take("input").ok_or_else(|| Malformed::new("input", "is needed"))?;
    read_input(&input, &mut request, losses)?;
    read_tools(&mut fields, &mut request, losses);
    read_output(&mut fields, &mut request, losses);
    read_settings(&mut fields, &mut request, losses);
    request.extras.extend(fields.rest().map(|(name, value)| Extra { name, value }));
    Ok(request)
}

fn read_input(input: &Json, request: &mut Request, losses: &mut Losses) -> Result<(), Malformed> {
    if let Some(text) = input.text() {
        request.turns.push(Turn { role: Role::User, parts: vec![plain(text)] });
        return Ok(());
    }
    for item in input.elements() {
        read_item(item.fields(), request, losses)?;
    }
    Ok(())
}

fn read_item(mut fields: Fields, request: &mut Request, losses: &mut Losses) -> Result<(), Malformed> {
    let kind = fields.string("type");
    // Nothing but an id: what it names is kept at the vendor.
    let is_reference = kind.is_none() && fields.clone().take("role").is_none() && fields.clone().take("id").is_some();
    let kind = kind.unwrap_or_else(|| if is_reference { "item_reference" } else { "message" }.to_owned());
    match kind.as_str() {
        "message" => return message(fields, request, losses),
        "function_call" => {
            let call = ToolCall {
                id: fields.string("call_id").or_else(|| fields.string("id")),
                name: fields.string("name").unwrap_or_default(),
                arguments: Arguments::Text(fields.text("arguments").unwrap_or_default()),
                signature: None,
                cache: None,
            };
            add(request, Role::Assistant, Part::ToolCall(call));
        }
        "function_call_output" => {
            let output = fields.take("output").unwrap_or_else(|| Json::fixed("\"\""));
            let mut parts = Vec::new();
            content(&output, &mut parts, losses)?;
            let (id, name) = (fields.string("call_id"), fields.string("name"));
            let result = ToolResult { id, name, parts, is_error: false, cache: None };
            add(request, Role::User, Part::ToolResult(result));
        }
        "reasoning" => {
            reasoning_item(fields, request);
            return Ok(());
        }
        "item_reference" => {
            let why = "a reference to a stored item cannot be followed here; send the item itself";
            return Err(Malformed::new("input.item_reference", why));
        }
        other => {
            add(request, Role::Assistant, Part::Unknown(other.to_owned()));
            return Ok(());
        }
    }
    declare_rest(fields, losses);
    Ok(())
}

/// What else an item says; its name and its state mean nothing elsewhere.
fn declare_rest(mut fields: Fields, losses: &mut Losses) {
    ["id", "status"].iter().for_each(|name| drop(fields.take(name)));
    // Everybody may call a tool where there are no programs that do.
    fields.take("caller");
    fields.rest().for_each(|(name, _)| losses.below("input", &name, Reason::Unsupported));
}

/// Items of one side are parts of one turn.
fn add(request: &mut Request, role: Role, part: Part) {
    match request.turns.last_mut() {
        Some(last) if last.role == role => last.parts.push(part),
        _ => request.turns.push(Turn { role, parts: vec![part] }),
    }
}

fn plain(text: Text) -> Part {
    Part::Text(TextPart { text, ..TextPart::default() })
}

fn message(mut fields: Fields, request: &mut Request, losses: &mut Losses) -> Result<(), Malformed> {
    let role = match fields.string("role").as_deref() {
        Some("user") | None => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system" | "developer") => Role::System,
        Some(other) => return Err(Malformed::new("input.role", format!("`{other}` is no role"))),
    };
    let mut parts = Vec::new();
    content(&fields.take("content").unwrap_or_else(|| Json::fixed("[]")), &mut parts, losses)?;
    if role == Role::System && request.turns.is_empty() {
        let texts = parts.into_iter().filter_map(|part| match part {
            Part::Text(text) => Some(SystemBlock { text: text.text, cache: None }),
            _ => None,
        });
        request.system.extend(texts);
    } else {
        parts.into_iter().for_each(|part| add(request, role, part));
    }
    declare_rest(fields, losses);
    Ok(())
}

fn content(content: &Json, parts: &mut Vec<Part>, losses: &mut Losses) -> Result<(), Malformed> {
    if let Some(text) = content.text() {
        parts.push(plain(text));
        return Ok(());
    }
    for part in content.elements() {
        let mut fields = part.fields();
        let kind = fields.string("type").unwrap_or_default();
        parts.push(match kind.as_str() {
            "input_text" | "output_text" | "text" | "summary_text" => plain(fields.text("text").unwrap_or_default()),
            "refusal" => Part::Refusal(fields.text("refusal").unwrap_or_default()),
            "input_image" => image(&mut fields)?,
            "input_file" => document(&mut fields)?,
            "input_audio" => audio(&mut fields),
            _ => Part::Unknown(kind.clone()),
        });
        // Sources and probabilities of an earlier answer, of which there are mostly none.
        for (name, _) in fields.rest().filter(|(_, value)| !value.is_nothing()) {
            losses.below(&format!("input.content.{kind}"), &name, Reason::Unsupported);
        }
    }
    Ok(())
}

/// The parts of a `data:` address in base64.
fn data_address(url: &Text) -> Option<(Text, Text)> {
    let raw = url.raw();
    let rest = raw.strip_prefix(b"data:")?;
    let start = raw.len() - rest.len();
    let mark = memchr::memmem::find(rest, b";base64,")?;
    // Some media types have parameters; what comes first is the type.
    let kind = memchr::memchr(b';', rest).unwrap_or(mark).min(mark);
    Some((url.part(start..start + kind), url.part(start + mark + 8..raw.len())))
}

fn image(fields: &mut Fields) -> Result<Part, Malformed> {
    let detail = fields.text("detail");
    let source = match (fields.text("image_url"), fields.text("file_id")) {
        (Some(url), _) => match data_address(&url) {
            Some((media_type, data)) => Source::Base64 { media_type, data },
            None => Source::Url { url, media_type: None },
        },
        (None, Some(id)) => Source::File(id),
        (None, None) => return Err(Malformed::new("input.content.input_image", "has neither image_url nor file_id")),
    };
    Ok(Part::Image(Image { source, detail, cache: None }))
}

fn document(fields: &mut Fields) -> Result<Part, Malformed> {
    let name = fields.text("filename");
    let source = match (fields.text("file_data"), fields.text("file_url"), fields.text("file_id")) {
        (Some(data), ..) => {
            let (media_type, data) = data_address(&data).unwrap_or((Text::plain("application/pdf"), data));
            Source::Base64 { media_type, data }
        }
        (None, Some(url), _) => Source::Url { url, media_type: None },
        (None, None, Some(id)) => Source::File(id),
        (None, None, None) => return Err(Malformed::new("input.content.input_file", "has no file")),
    };
    Ok(Part::Document(Document { source, name, context: None, citations: false, cache: None }))
}

fn audio(fields: &mut Fields) -> Part {
    let mut inner = fields.object("input_audio");
    let format = inner.string("format").unwrap_or_else(|| "wav".to_owned());
    let data = inner.text("data").unwrap_or_default();
    Part::Audio(Audio { source: Source::Base64 { media_type: Text::write(&format!("audio/{format}")), data } })
}

/// Reasoning that the client sends back: what can be read of it, and what only its issuer can read.
fn reasoning_item(mut fields: Fields, request: &mut Request) {
    let mut text = Text::default();
    let pieces = fields.list("summary").into_iter().chain(fields.list("content"));
    for piece in pieces.filter_map(|piece| piece.fields().text("text")) {
        let gap = if text.is_empty() { Text::default() } else { Text::write("\n\n") };
        text = text.join(&gap).join(&piece);
    }
    let part = match (text.is_empty(), fields.text("encrypted_content")) {
        (true, None) => return,
        (true, Some(encrypted)) => Part::RedactedThinking(encrypted),
        (false, signature) => Part::Thinking(Thinking { text, signature }),
    };
    add(request, Role::Assistant, part);
}

fn read_tools(fields: &mut Fields, request: &mut Request, losses: &mut Losses) {
    for tool in fields.list("tools") {
        let mut tool = tool.fields();
        let kind = tool.string("type").unwrap_or_default();
        if kind != "function" {
            losses.below("tools", &kind, Reason::Unsupported);
            continue;
        }
        request.tools.push(Tool {
            name: tool.string("name").unwrap_or_default(),
            description: tool.text("description"),
            parameters: tool.take("parameters"),
            strict: tool.take("strict").and_then(|strict| strict.boolean()),
            cache: None,
        });
        tool.rest().for_each(|(name, _)| losses.below("tools", &name, Reason::Unsupported));
    }
    request.parallel_tool_calls = fields.take("parallel_tool_calls").and_then(|value| value.boolean());
    if let Some(choice) = fields.take("tool_choice") {
        request.tool_choice = tool_choice(&choice, losses);
    }
}

fn tool_choice(choice: &Json, losses: &mut Losses) -> Option<ToolChoice> {
    let word = |word: &str| match word {
        "none" => ToolChoice::None,
        "required" => ToolChoice::Required,
        _ => ToolChoice::Auto,
    };
    if let Some(mode) = choice.string() {
        return Some(word(&mode));
    }
    let mut fields = choice.fields();
    match fields.string("type").as_deref() {
        Some("function") => fields.string("name").map(ToolChoice::Tool),
        Some("allowed_tools") => {
            let names = fields.list("tools").iter().filter_map(|tool| tool.fields().string("name")).collect();
            if fields.string("mode").as_deref() == Some("required") {
                return Some(ToolChoice::OneOf(names));
            }
            losses.add("tool_choice.allowed_tools", Reason::Unsupported);
            Some(ToolChoice::Auto)
        }
        _ => {
            losses.add("tool_choice", Reason::Unsupported);
            None
        }
    }
}

fn read_output(fields: &mut Fields, request: &mut Request, losses: &mut Losses) {
    let mut text = fields.object("text");
    if let Some(format) = text.take("format") {
        let mut format = format.fields();
        request.output = match format.string("type").as_deref() {
            Some("json_object") => Some(OutputFormat::JsonObject),
            Some("json_schema") => format.take("schema").map(|schema| OutputFormat::Schema {
                name: format.text("name"),
                description: format.text("description"),
                schema,
                strict: format.take("strict").and_then(|strict| strict.boolean()),
            }),
            _ => None,
        };
    }
    for (name, value) in text.rest() {
        match name.as_str() {
            "verbosity" => request.extras.push(Extra { name, value }),
            _ => losses.below("text", &name, Reason::Unsupported),
        }
    }
}

fn read_settings(fields: &mut Fields, request: &mut Request, losses: &mut Losses) {
    request.stream = fields.take("stream").and_then(|value| value.boolean()).unwrap_or(false);
    request.max_tokens = fields.take("max_output_tokens").and_then(|value| value.integer());
    request.temperature = fields.take("temperature");
    request.top_p = fields.take("top_p");
    request.top_logprobs = fields.take("top_logprobs").and_then(|value| value.integer()).filter(|top| *top > 0);
    request.logprobs = request.top_logprobs.map(|_| true);
    let user = fields.text("user");
    request.user = fields.text("safety_identifier").or(user);
    request.prompt_cache_key = fields.text("prompt_cache_key");
    request.service_tier = fields.string("service_tier").and_then(|tier| match tier.as_str() {
        "auto" => Some(ServiceTier::Auto),
        "default" => Some(ServiceTier::Default),
        "flex" => Some(ServiceTier::Flex),
        "priority" => Some(ServiceTier::Priority),
        _ => {
            losses.add("service_tier", Reason::Unknown);
            None
        }
    });
    let mut reasoning = fields.object("reasoning");
    let effort = reasoning.string("effort").as_deref().and_then(Effort::of_name);
    let summary = reasoning.take("summary").or_else(|| reasoning.take("generate_summary"));
    request.reasoning = Reasoning { mode: None, effort, show: summary.map(|_| true) };
    reasoning.rest().for_each(|(name, _)| losses.below("reasoning", &name, Reason::Unsupported));
    for wanted in fields.list("include").iter().filter_map(Json::string) {
        match wanted.as_str() {
            // It always comes.
            "reasoning.encrypted_content" => {}
            "message.output_text.logprobs" => request.logprobs = Some(true),
            other => losses.below("include", other, Reason::Unsupported),
        }
    }
    quiet(fields, request);
}

/// Takes what asks for nothing more than what happens anyway.
fn quiet(fields: &mut Fields, request: &mut Request) {
    let is = |value: &Json, word: &str| value.boolean().is_some_and(|_| &value.raw()[..] == word.as_bytes());
    let mut kept = Vec::new();
    for (name, word) in [("store", "false"), ("background", "false")] {
        kept.extend(fields.take(name).filter(|value| !is(value, word)).map(|value| (name, value)));
    }
    let truncation = fields.take("truncation").filter(|value| value.string().as_deref() != Some("disabled"));
    kept.extend(truncation.map(|value| ("truncation", value)));
    // Padding of a stream against listeners is a matter of the upstream's own stream.
    fields.take("stream_options");
    let metadata = fields.take("metadata").filter(|value| value.kind() != Kind::Object || !value.is_nothing());
    kept.extend(metadata.map(|value| ("metadata", value)));
    let kept = kept.into_iter().map(|(name, value)| Extra { name: name.to_owned(), value });
    request.extras.extend(kept);
}
