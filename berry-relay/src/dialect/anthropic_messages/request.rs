//! Requests of Messages, read.

use bytes::Bytes;

use crate::dialect::Malformed;
use crate::dialect::ir::{
    Arguments, CacheMark, Document, Effort, Extra, Image, OutputFormat, Part, Request, Role, ServiceTier, Source,
    SystemBlock, TextPart, Thinking, ThinkingMode, Tool, ToolCall, ToolChoice, ToolResult, Turn,
};
use crate::dialect::loss::{Losses, Reason};
use crate::dialect::text::{Fields, Json, Text};
use crate::json::Kind;

pub(super) fn decode(body: &Bytes, losses: &mut Losses) -> Result<Request, Malformed> {
    let mut fields = Fields::read(body)?;
    let mut request = Request::default();
    for name in ["model", "backend"] {
        fields.take(name);
    }
    let messages = fields.take("messages").filter(|messages| messages.kind() == Kind::Array);
    let messages = messages.ok_or_else(|| Malformed::new("messages", "a list of messages is needed"))?;
    for message in messages.elements() {
        request.turns.push(read_turn(message.fields(), losses)?);
    }
    request.system = fields.take("system").map(|system| read_system(&system, losses)).unwrap_or_default();
    request.tools = read_tools(&mut fields, losses);
    if let Some(choice) = fields.take("tool_choice") {
        read_choice(choice.fields(), &mut request, losses);
    }
    read_thinking(&mut fields, &mut request, losses);
    read_output(&mut fields, &mut request, losses);
    request.max_tokens = fields.take("max_tokens").and_then(|value| value.integer());
    request.temperature = fields.take("temperature");
    request.top_p = fields.take("top_p");
    request.top_k = fields.take("top_k");
    request.stop = fields.list("stop_sequences").iter().filter_map(Json::text).collect();
    let mut metadata = fields.object("metadata");
    request.user = metadata.text("user_id");
    metadata.rest().for_each(|(name, _)| losses.below("metadata", &name, Reason::Unknown));
    request.service_tier = fields.string("service_tier").map(|name| match name.as_str() {
        "standard_only" => ServiceTier::Default,
        _ => ServiceTier::Auto,
    });
    request.stream = fields.take("stream").and_then(|value| value.boolean()).unwrap_or(false);
    request.extras.extend(fields.rest().map(|(name, value)| Extra { name, value }));
    Ok(request)
}

fn read_system(system: &Json, losses: &mut Losses) -> Vec<SystemBlock> {
    if let Some(text) = system.text() {
        return vec![SystemBlock { text, cache: None }];
    }
    let mut blocks = Vec::new();
    for block in system.elements() {
        match read_block(&block, losses) {
            Part::Text(text) => blocks.push(SystemBlock { text: text.text, cache: text.cache }),
            _ => losses.add("system", Reason::Unsupported),
        }
    }
    blocks
}

fn read_turn(mut message: Fields, losses: &mut Losses) -> Result<Turn, Malformed> {
    let role = match message.string("role").as_deref() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system") => Role::System,
        _ => return Err(Malformed::new("messages.role", "`user` or `assistant` is needed")),
    };
    let parts = message.take("content").map(|content| read_content(&content, losses)).unwrap_or_default();
    message.rest().for_each(|(name, _)| losses.below("messages", &name, Reason::Unknown));
    Ok(Turn { role, parts })
}

/// The parts of a `content`: a string or a list of blocks.
pub(super) fn read_content(content: &Json, losses: &mut Losses) -> Vec<Part> {
    match content.text() {
        Some(text) => vec![Part::Text(TextPart { text, ..TextPart::default() })],
        None => content.elements().iter().map(|block| read_block(block, losses)).collect(),
    }
}

fn read_mark(fields: &mut Fields) -> Option<CacheMark> {
    let mut mark = fields.take("cache_control")?.fields();
    match mark.string("ttl").as_deref() {
        Some("1h") => Some(CacheMark::OneHour),
        _ => Some(CacheMark::FiveMinutes),
    }
}

fn read_block(block: &Json, losses: &mut Losses) -> Part {
    let mut fields = block.fields();
    let kind = fields.string("type").unwrap_or_default();
    let cache = read_mark(&mut fields);
    let part = match kind.as_str() {
        "text" => {
            if fields.take("citations").is_some_and(|citations| !citations.is_nothing()) {
                losses.add("messages.content.citations", Reason::Unsupported);
            }
            Part::Text(TextPart { text: fields.text("text").unwrap_or_default(), cache, ..TextPart::default() })
        }
        "image" => Part::Image(Image { source: read_source(fields.object("source"), losses), detail: None, cache }),
        "document" => Part::Document(read_document(&mut fields, cache, losses)),
        "tool_use" => Part::ToolCall(ToolCall {
            id: fields.string("id"),
            name: fields.string("name").unwrap_or_default(),
            arguments: Arguments::Json(fields.take("input").unwrap_or_else(|| Json::fixed("{}"))),
            signature: None,
            cache,
        }),
        "tool_result" => Part::ToolResult(ToolResult {
            id: fields.string("tool_use_id"),
            name: None,
            parts: fields.take("content").map(|content| read_content(&content, losses)).unwrap_or_default(),
            is_error: fields.take("is_error").and_then(|value| value.boolean()).unwrap_or(false),
            cache,
        }),
        "thinking" => {
            let signature = fields.text("signature").filter(|signature| !signature.is_empty());
            Part::Thinking(Thinking { text: fields.text("thinking").unwrap_or_default(), signature })
        }
        "redacted_thinking" => Part::RedactedThinking(fields.text("data").unwrap_or_default()),
        _ => return Part::Unknown(kind),
    };
    // A call's `caller` says who may call it, which is the rule for all of them elsewhere.
    fields.take("caller");
    fields.rest().for_each(|(name, _)| losses.below("messages.content", &name, Reason::Unknown));
    part
}

fn read_source(mut source: Fields, losses: &mut Losses) -> Source {
    match source.string("type").as_deref() {
        Some("base64") => Source::Base64 {
            media_type: source.text("media_type").unwrap_or_default(),
            data: source.text("data").unwrap_or_default(),
        },
        Some("url") => Source::Url { url: source.text("url").unwrap_or_default(), media_type: None },
        Some("text") => Source::Text(source.text("data").unwrap_or_default()),
        Some("content") => Source::Text(content_text(source.take("content"), losses)),
        _ => Source::File(source.text("file_id").unwrap_or_default()),
    }
}

/// The text of a document that is given as blocks.
fn content_text(content: Option<Json>, losses: &mut Losses) -> Text {
    let Some(content) = content else { return Text::default() };
    if let Some(text) = content.text() {
        return text;
    }
    let mut texts = Vec::new();
    for block in content.elements() {
        let mut block = block.fields();
        block.take("type");
        texts.extend(block.text("text"));
        block.rest().for_each(|(name, _)| losses.below("messages.content.document.source", &name, Reason::Unsupported));
    }
    texts.into_iter().fold(Text::default(), |all, text| match all.is_empty() {
        true => text,
        false => all.join(&Text::of_raw(Bytes::from_static(b"\\n"))).join(&text),
    })
}

fn read_document(fields: &mut Fields, cache: Option<CacheMark>, losses: &mut Losses) -> Document {
    let mut citations = fields.object("citations");
    Document {
        source: read_source(fields.object("source"), losses),
        name: fields.text("title"),
        context: fields.text("context"),
        citations: citations.take("enabled").and_then(|value| value.boolean()).unwrap_or(false),
        cache,
    }
}

fn read_tools(fields: &mut Fields, losses: &mut Losses) -> Vec<Tool> {
    let mut tools = Vec::new();
    for tool in fields.list("tools") {
        let mut tool = tool.fields();
        match tool.string("type").as_deref() {
            None | Some("custom") => {}
            Some(kind) => {
                losses.add(format!("tools.{kind}"), Reason::Unsupported);
                continue;
            }
        }
        tools.push(Tool {
            name: tool.string("name").unwrap_or_default(),
            description: tool.text("description"),
            parameters: tool.take("input_schema"),
            strict: tool.take("strict").and_then(|value| value.boolean()),
            cache: read_mark(&mut tool),
        });
        tool.rest().for_each(|(name, _)| losses.below("tools", &name, Reason::Unsupported));
    }
    tools
}

fn read_choice(mut choice: Fields, request: &mut Request, losses: &mut Losses) {
    request.tool_choice = match choice.string("type").as_deref() {
        Some("auto") => Some(ToolChoice::Auto),
        Some("none") => Some(ToolChoice::None),
        Some("any") => Some(ToolChoice::Required),
        Some("tool") => choice.string("name").map(ToolChoice::Tool),
        _ => {
            losses.add("tool_choice", Reason::Unknown);
            None
        }
    };
    let disabled = choice.take("disable_parallel_tool_use").and_then(|value| value.boolean());
    request.parallel_tool_calls = disabled.map(|disabled| !disabled);
}

fn read_thinking(fields: &mut Fields, request: &mut Request, losses: &mut Losses) {
    let Some(thinking) = fields.take("thinking") else { return };
    let mut thinking = thinking.fields();
    request.reasoning.mode = match thinking.string("type").as_deref() {
        Some("enabled") => thinking.take("budget_tokens").and_then(|value| value.integer()).map(ThinkingMode::Budget),
        Some("disabled") => Some(ThinkingMode::Off),
        Some("adaptive") => Some(ThinkingMode::Adaptive),
        _ => {
            losses.add("thinking", Reason::Unknown);
            None
        }
    };
    request.reasoning.show = thinking.string("display").map(|display| display != "omitted");
}

fn read_output(fields: &mut Fields, request: &mut Request, losses: &mut Losses) {
    let mut config = fields.object("output_config");
    request.reasoning.effort = config.string("effort").and_then(|name| Effort::of_name(&name));
    let format = config.take("format").or_else(|| fields.take("output_format"));
    request.output = format.and_then(|format| {
        let mut format = format.fields();
        let schema = format.take("schema")?;
        Some(OutputFormat::Schema { name: None, description: None, schema, strict: Some(true) })
    });
    config.rest().for_each(|(name, _)| losses.below("output_config", &name, Reason::Unknown));
}
