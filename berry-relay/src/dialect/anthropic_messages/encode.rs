//! Requests of Messages, written.

use super::wire::write_mark;
use crate::body::Chunks;
use crate::dialect::ir::{
    Audio, CacheMark, Document, Effort, Image, OutputFormat, Part, Request, Role, ServiceTier, Source, TextPart,
    ThinkingMode, ToolCall, ToolChoice, ToolResult, Turn,
};
use crate::dialect::loss::{Losses, Reason};
use crate::dialect::text::{Json, Text, Writer};
use crate::dialect::{Malformed, Sampling, Target, ThinkingAsk, history, ids, schema};

/// Output limit where neither the client nor the catalogue names one.
const OUTPUT_DEFAULT: u64 = 8192;
/// Least budget for thinking.
const BUDGET_MIN: u64 = 1024;
/// Most cache marks of one request.
const MARKS_MAX: usize = 4;
/// Stands for a turn that must be there.
const FILLER: &str = ".";

/// How the model is asked to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thinks {
    /// Nothing is said.
    Unsaid,
    Off,
    Budget(u64),
    Adaptive(Option<Effort>),
}

impl Thinks {
    fn is_on(self) -> bool {
        matches!(self, Self::Budget(_) | Self::Adaptive(_))
    }
}

/// What the parts of one request are written with.
struct Parts<'a, 'b> {
    target: &'a Target<'a>,
    losses: &'b mut Losses,
    /// Cache marks that are left.
    marks: usize,
    /// Whether a mark for five minutes was written: one for an hour behind it would be refused.
    is_short: bool,
    thinking: bool,
}

pub(super) fn encode(request: &Request, target: &Target<'_>, losses: &mut Losses) -> Result<Chunks, Malformed> {
    let mut turns = history::arrange(request, false, losses);
    let max_tokens = request.max_tokens.or(target.capabilities.max_output_tokens).unwrap_or(OUTPUT_DEFAULT);
    let max_tokens = clamp_output(max_tokens, target, losses);
    let thinks = settle_thinking(request, target, &turns, max_tokens, losses);
    complete(&mut turns, target, losses);
    let mut failed = None;
    let mut writer = Writer::new();
    // The conversation stands last, so that a request is the beginning of the one after it.
    writer.object(|w| {
        w.key("model").string(target.model);
        w.key("max_tokens").integer(max_tokens);
        write_thinking(w, request, target, thinks, losses);
        write_sampling(w, request, target, thinks, losses);
        write_settings(w, request, losses);
        let schema = output_schema(request, target, losses);
        write_output_config(w, schema.as_ref(), thinks, losses);
        let mut parts = Parts { target, losses, marks: MARKS_MAX, is_short: false, thinking: thinks.is_on() };
        parts.tools(w, request, thinks);
        parts.system(w, request);
        w.key("messages").list(|w| {
            for turn in &turns {
                failed = failed.take().or(parts.turn(w, turn).err());
            }
        });
    });
    declare_rest(request, losses);
    failed.map_or_else(|| Ok(writer.finish()), Err)
}

fn clamp_output(asked: u64, target: &Target<'_>, losses: &mut Losses) -> u64 {
    match target.capabilities.max_output_tokens {
        Some(cap) if asked > cap => {
            losses.add("max_tokens", Reason::Clamped);
            cap
        }
        _ => asked.max(1),
    }
}

/// What Messages has no place for.
fn declare_rest(request: &Request, losses: &mut Losses) {
    let asked = [
        ("n", request.candidates.is_some_and(|n| n > 1)),
        ("seed", request.seed.is_some()),
        ("presence_penalty", request.presence_penalty.as_ref().is_some_and(is_not_zero)),
        ("frequency_penalty", request.frequency_penalty.as_ref().is_some_and(is_not_zero)),
        ("logprobs", request.logprobs == Some(true)),
        ("top_logprobs", request.top_logprobs.is_some()),
        ("prompt_cache_key", request.prompt_cache_key.is_some()),
    ];
    for (name, _) in asked.into_iter().filter(|(_, asked)| *asked) {
        losses.add(name, Reason::Unsupported);
    }
    request.extras.iter().for_each(|extra| losses.add(extra.name.clone(), Reason::Unsupported));
}

fn is_not_zero(value: &Json) -> bool {
    value.number() != Some(0.0)
}

/// Puts in the turns that must be there: one of the user at the start, and at the end where the model does not go on with a turn of
/// its own.
fn complete(turns: &mut Vec<Turn>, target: &Target<'_>, losses: &mut Losses) {
    let filler = || {
        let text = TextPart { text: Text::plain(FILLER), ..TextPart::default() };
        Turn { role: Role::User, parts: vec![Part::Text(text)] }
    };
    if turns.first().is_none_or(|turn| turn.role != Role::User) {
        losses.add("messages", Reason::Added);
        turns.insert(0, filler());
    }
    let Some(last) = turns.last_mut().filter(|turn| turn.role == Role::Assistant) else { return };
    if !target.capabilities.prefill {
        losses.add("messages.prefill", Reason::Model);
        turns.push(filler());
        return;
    }
    // White space at the end of what is gone on with is refused.
    if let Some(Part::Text(part)) = last.parts.last_mut() {
        let text = part.text.read();
        let trimmed = text.trim_end();
        if trimmed.len() != text.len() {
            part.text = Text::write(trimmed);
        }
    }
}

fn settle_thinking(
    request: &Request,
    target: &Target<'_>,
    turns: &[Turn],
    max_tokens: u64,
    losses: &mut Losses,
) -> Thinks {
    let reasoning = &request.reasoning;
    let effort = reasoning.effort;
    let field = if effort.is_some() { "reasoning_effort" } else { "thinking" };
    let wanted = match (reasoning.mode, effort) {
        (Some(ThinkingMode::Off), _) | (None, Some(Effort::None)) => Thinks::Off,
        (Some(ThinkingMode::Budget(tokens)), _) => Thinks::Budget(tokens),
        (Some(ThinkingMode::Adaptive), effort) => Thinks::Adaptive(effort),
        (None, Some(effort)) => Thinks::Adaptive(Some(effort)),
        (None, None) => return Thinks::Unsaid,
    };
    let able = match (target.capabilities.thinking, wanted) {
        (ThinkingAsk::None | ThinkingAsk::Effort | ThinkingAsk::Level, Thinks::Off) => return Thinks::Unsaid,
        (ThinkingAsk::None | ThinkingAsk::Effort | ThinkingAsk::Level, _) => {
            losses.add(field, Reason::Model);
            return Thinks::Unsaid;
        }
        (ThinkingAsk::Budget, Thinks::Adaptive(effort)) => {
            losses.add(field, Reason::Approximated);
            Thinks::Budget(effort.unwrap_or(Effort::Medium).budget())
        }
        (ThinkingAsk::Adaptive, Thinks::Budget(tokens)) => {
            losses.add(field, Reason::Approximated);
            Thinks::Adaptive(Some(Effort::of_budget(tokens)))
        }
        (_, wanted) => wanted,
    };
    if able.is_on() && lacks_thinking(turns, target) {
        losses.add(field, Reason::Foreign);
        return Thinks::Unsaid;
    }
    match able {
        Thinks::Budget(tokens) if max_tokens <= BUDGET_MIN => {
            losses.add(field, Reason::Clamped);
            debug_assert!(tokens > 0 || max_tokens > 0);
            Thinks::Unsaid
        }
        Thinks::Budget(tokens) => {
            let fits = tokens.clamp(BUDGET_MIN, max_tokens - 1);
            if fits != tokens {
                losses.add(field, Reason::Clamped);
            }
            Thinks::Budget(fits)
        }
        other => other,
    }
}

/// Whether the tool loop at the end of the conversation has calls whose thoughts cannot be sent: then the model must not think now.
fn lacks_thinking(turns: &[Turn], target: &Target<'_>) -> bool {
    let in_loop = turns.last().is_some_and(|turn| matches!(turn.parts.first(), Some(Part::ToolResult(_))));
    let calling = turns.iter().rev().find(|turn| turn.role == Role::Assistant);
    in_loop && calling.is_some_and(|turn| !turn.parts.iter().any(|part| own_thinking(part, target).is_some()))
}

/// The opaque state of a thought, where it was issued here.
fn own_thinking(part: &Part, target: &Target<'_>) -> Option<Text> {
    match part {
        _ if !target.own_state => None,
        Part::Thinking(thinking) => thinking.signature.clone().filter(|signature| !signature.is_empty()),
        Part::RedactedThinking(data) => Some(data.clone()),
        _ => None,
    }
}

fn write_thinking(w: &mut Writer, request: &Request, target: &Target<'_>, thinks: Thinks, losses: &mut Losses) {
    let show = request.reasoning.show;
    let takes_display = matches!(target.capabilities.thinking, ThinkingAsk::Adaptive | ThinkingAsk::BudgetOrAdaptive);
    match show {
        Some(_) if thinks.is_on() && takes_display => {}
        // Where nothing is said of it, thoughts are shown.
        Some(true) if thinks.is_on() => {}
        Some(_) => losses.add("reasoning.summary", Reason::Model),
        None => {}
    }
    if thinks == Thinks::Unsaid {
        return;
    }
    w.key("thinking").object(|w| {
        match thinks {
            Thinks::Unsaid | Thinks::Off => return w.key("type").word("disabled"),
            Thinks::Budget(tokens) => {
                w.key("type").word("enabled");
                w.key("budget_tokens").integer(tokens);
            }
            Thinks::Adaptive(_) => w.key("type").word("adaptive"),
        }
        if let Some(show) = show.filter(|_| takes_display) {
            w.key("display").string(if show { "summarized" } else { "omitted" });
        }
    });
}

/// `temperature`, `top_p` and `top_k`, as far as the model takes them, which with thinking is hardly.
fn write_sampling(w: &mut Writer, request: &Request, target: &Target<'_>, thinks: Thinks, losses: &mut Losses) {
    let sampling = target.capabilities.sampling;
    let mut temperature = request.temperature.clone();
    let mut top_p = request.top_p.clone();
    let mut top_k = request.top_k.clone();
    let mut refuse = |name: &'static str, value: &mut Option<Json>| {
        if value.take().is_some() {
            losses.add(name, Reason::Model);
        }
    };
    if thinks.is_on() || sampling == Sampling::None {
        if temperature.as_ref().and_then(Json::number) != Some(1.0) || sampling == Sampling::None {
            refuse("temperature", &mut temperature);
        }
        if top_p.as_ref().and_then(Json::number).is_none_or(|p| p < 0.95) || sampling == Sampling::None {
            refuse("top_p", &mut top_p);
        }
        refuse("top_k", &mut top_k);
    }
    if sampling == Sampling::One && temperature.is_some() {
        refuse("top_p", &mut top_p);
    }
    match temperature {
        Some(value) if value.number().is_some_and(|number| number > 1.0) => {
            losses.add("temperature", Reason::Clamped);
            w.key("temperature").integer(1);
        }
        Some(value) => w.key("temperature").json(&value),
        None => {}
    }
    for (name, value) in [("top_p", top_p), ("top_k", top_k)] {
        if let Some(value) = value {
            w.key(name).json(&value);
        }
    }
}

fn write_settings(w: &mut Writer, request: &Request, losses: &mut Losses) {
    let stops: Vec<&Text> = request.stop.iter().filter(|stop| !stop.is_blank()).collect();
    if stops.len() < request.stop.len() {
        losses.add("stop", Reason::Unsupported);
    }
    if !stops.is_empty() {
        w.key("stop_sequences").list(|w| stops.iter().for_each(|stop| w.text(stop)));
    }
    if let Some(user) = &request.user {
        w.key("metadata").object(|w| w.key("user_id").text(user));
    }
    match request.service_tier {
        None => {}
        Some(tier @ (ServiceTier::Auto | ServiceTier::Priority)) => {
            if tier == ServiceTier::Priority {
                losses.add("service_tier", Reason::Approximated);
            }
            w.key("service_tier").word("auto");
        }
        Some(ServiceTier::Default) => w.key("service_tier").word("standard_only"),
        Some(ServiceTier::Flex) => losses.add("service_tier", Reason::Unsupported),
    }
    if request.stream {
        w.key("stream").boolean(true);
    }
}

/// The schema that the answer must follow, where the model can be told so.
fn output_schema(request: &Request, target: &Target<'_>, losses: &mut Losses) -> Option<Json> {
    if !target.capabilities.structured_output {
        return None;
    }
    match request.output.as_ref()? {
        OutputFormat::JsonObject => None,
        OutputFormat::Schema { name, description, schema, .. } => {
            let schema = schema::named(schema, name.as_ref(), description.as_ref());
            Some(schema::for_anthropic(&schema, "response_format.schema", losses))
        }
    }
}

fn write_output_config(w: &mut Writer, schema: Option<&Json>, thinks: Thinks, losses: &mut Losses) {
    let effort = match thinks {
        Thinks::Adaptive(effort) => effort,
        _ => None,
    };
    if schema.is_none() && effort.is_none() {
        return;
    }
    w.key("output_config").object(|w| {
        if let Some(effort) = effort {
            let (level, exact) = match effort {
                Effort::None | Effort::Minimal => ("low", false),
                Effort::Low => ("low", true),
                Effort::Medium => ("medium", true),
                Effort::High => ("high", true),
                Effort::XHigh => ("max", false),
                Effort::Max => ("max", true),
            };
            if !exact {
                losses.add("reasoning_effort", Reason::Approximated);
            }
            w.key("effort").string(level);
        }
        if let Some(schema) = schema {
            w.key("format").object(|w| {
                w.key("type").word("json_schema");
                w.key("schema").json(schema);
            });
        }
    });
}

impl Parts<'_, '_> {
    /// Writes a cache mark while there is one left.
    fn mark(&mut self, w: &mut Writer, mark: Option<CacheMark>) {
        if mark.is_some() && self.marks == 0 {
            return self.losses.add("cache_control", Reason::Clamped);
        }
        self.marks -= usize::from(mark.is_some());
        let mark = match mark {
            Some(CacheMark::OneHour) if self.is_short => {
                self.losses.add("cache_control.ttl", Reason::Clamped);
                Some(CacheMark::FiveMinutes)
            }
            mark => mark,
        };
        self.is_short |= mark == Some(CacheMark::FiveMinutes);
        write_mark(w, mark);
    }

    fn tools(&mut self, w: &mut Writer, request: &Request, thinks: Thinks) {
        if request.tools.is_empty() {
            return;
        }
        w.key("tools").list(|w| {
            for tool in &request.tools {
                w.object(|w| {
                    w.key("name").string(&ids::tool_name(&tool.name, ids::ANTHROPIC_NAME_MAX));
                    if let Some(description) = &tool.description {
                        w.key("description").text(description);
                    }
                    w.key("input_schema").json(&schema::of_tool(tool.parameters.as_ref()));
                    if tool.strict == Some(true) {
                        self.losses.add("tools.strict", Reason::Unsupported);
                    }
                    self.mark(w, tool.cache);
                });
            }
        });
        self.choice(w, request, thinks);
    }

    fn choice(&mut self, w: &mut Writer, request: &Request, thinks: Thinks) {
        let serial = request.parallel_tool_calls == Some(false);
        let mut choice = request.tool_choice.clone();
        let forces = matches!(choice, Some(ToolChoice::Required | ToolChoice::Tool(_) | ToolChoice::OneOf(_)));
        if forces && thinks.is_on() {
            self.losses.add("tool_choice", Reason::Model);
            choice = Some(ToolChoice::Auto);
        }
        if choice.is_none() && !serial {
            return;
        }
        w.key("tool_choice").object(|w| {
            match &choice {
                None | Some(ToolChoice::Auto) => w.key("type").word("auto"),
                Some(ToolChoice::None) => w.key("type").word("none"),
                Some(ToolChoice::Required) => w.key("type").word("any"),
                Some(ToolChoice::OneOf(_)) => {
                    self.losses.add("tool_choice", Reason::Approximated);
                    w.key("type").word("any");
                }
                Some(ToolChoice::Tool(name)) => {
                    w.key("type").word("tool");
                    w.key("name").string(&ids::tool_name(name, ids::ANTHROPIC_NAME_MAX));
                }
            }
            if serial && choice != Some(ToolChoice::None) {
                w.key("disable_parallel_tool_use").boolean(true);
            }
        });
    }

    fn system(&mut self, w: &mut Writer, request: &Request) {
        let instruction = self.instruction(request);
        let blocks: Vec<_> = request.system.iter().filter(|block| !block.text.is_empty()).collect();
        if blocks.is_empty() && instruction.is_none() {
            return;
        }
        w.key("system").list(|w| {
            for block in blocks {
                w.object(|w| {
                    w.key("type").word("text");
                    w.key("text").text(&block.text);
                    self.mark(w, block.cache);
                });
            }
            if let Some(instruction) = instruction {
                w.object(|w| {
                    w.key("type").word("text");
                    w.key("text").string(&instruction);
                });
            }
        });
    }

    /// What the model is told where it has no field for the form of its answer.
    fn instruction(&mut self, request: &Request) -> Option<String> {
        let output = request.output.as_ref()?;
        match output {
            OutputFormat::Schema { .. } if self.target.capabilities.structured_output => return None,
            OutputFormat::Schema { .. } | OutputFormat::JsonObject => {}
        }
        self.losses.add("response_format", Reason::Approximated);
        Some(match output {
            OutputFormat::JsonObject => "Answer with one JSON object and nothing else.".to_owned(),
            OutputFormat::Schema { schema, .. } => format!(
                "Answer with JSON that follows this schema, and nothing else:\n{}",
                String::from_utf8_lossy(schema.raw())
            ),
        })
    }

    fn turn(&mut self, w: &mut Writer, turn: &Turn) -> Result<(), Malformed> {
        let mut failed = None;
        let mut content = Writer::new();
        let mut any = false;
        content.list(|w| {
            for part in &turn.parts {
                match self.part(w, part) {
                    Ok(written) => any |= written,
                    Err(error) => failed = failed.take().or(Some(error)),
                }
            }
            if !any {
                write_text(w, FILLER);
            }
        });
        w.object(|w| {
            w.key("role").string(if turn.role == Role::Assistant { "assistant" } else { "user" });
            w.key("content").chunks(content.finish());
        });
        failed.map_or(Ok(()), Err)
    }

    /// Writes a part; says whether it came to anything.
    fn part(&mut self, w: &mut Writer, part: &Part) -> Result<bool, Malformed> {
        let own = own_thinking(part, self.target).filter(|_| self.thinking);
        match (part, own) {
            (Part::Text(text), _) if text.text.is_blank() => return Ok(false),
            (Part::Text(text), _) => w.object(|w| {
                w.key("type").word("text");
                w.key("text").text(&text.text);
                self.mark(w, text.cache);
            }),
            (Part::Refusal(text), _) => w.object(|w| {
                w.key("type").word("text");
                w.key("text").text(text);
            }),
            (Part::Thinking(thinking), Some(signature)) => w.object(|w| {
                w.key("type").word("thinking");
                w.key("thinking").text(&thinking.text);
                w.key("signature").text(&signature);
            }),
            (Part::RedactedThinking(_), Some(data)) => w.object(|w| {
                w.key("type").word("redacted_thinking");
                w.key("data").text(&data);
            }),
            (Part::Thinking(_) | Part::RedactedThinking(_), None) => {
                self.losses.add("messages.thinking", Reason::Foreign);
                return Ok(false);
            }
            (Part::Image(image), _) => return Ok(self.image(w, image)),
            (Part::Document(document), _) => return self.document(w, document),
            (Part::Audio(audio), _) => return Err(no_audio(audio)),
            (Part::ToolCall(call), _) => self.call(w, call),
            (Part::ToolResult(result), _) => return self.result(w, result).map(|()| true),
            (Part::Unknown(kind), _) => {
                self.losses.add(format!("messages.content.{kind}"), Reason::Unsupported);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn image(&mut self, w: &mut Writer, image: &Image) -> bool {
        if image.detail.as_ref().is_some_and(|detail| &detail.raw()[..] != b"auto") {
            self.losses.add("messages.image.detail", Reason::Unsupported);
        }
        match &image.source {
            Source::File(_) => self.losses.add("messages.image.file_id", Reason::Foreign),
            Source::Text(_) => self.losses.add("messages.image.source", Reason::Invalid),
            source => {
                w.object(|w| {
                    w.key("type").word("image");
                    write_source(w, source);
                    self.mark(w, image.cache);
                });
                return true;
            }
        }
        false
    }

    fn document(&mut self, w: &mut Writer, document: &Document) -> Result<bool, Malformed> {
        if matches!(document.source, Source::File(_)) {
            self.losses.add("messages.file.file_id", Reason::Foreign);
            return Ok(false);
        }
        if let Source::Base64 { media_type, .. } = &document.source
            && &media_type.raw().to_ascii_lowercase()[..] != b"application/pdf"
            && &media_type.read() != "application/pdf"
        {
            let why = format!("{} cannot be sent to this backend, only PDF and text", media_type.read());
            return Err(Malformed::new("messages.content.file", why));
        }
        w.object(|w| {
            w.key("type").word("document");
            write_source(w, &document.source);
            if let Some(name) = document.name.as_ref().filter(|name| !name.is_empty()) {
                w.key("title").text(name);
            }
            if let Some(context) = &document.context {
                w.key("context").text(context);
            }
            if document.citations {
                w.key("citations").object(|w| w.key("enabled").boolean(true));
            }
            self.mark(w, document.cache);
        });
        Ok(true)
    }

    fn call(&mut self, w: &mut Writer, call: &ToolCall) {
        let (input, valid) = call.arguments.as_object();
        if !valid {
            self.losses.add("messages.tool_calls.arguments", Reason::Invalid);
        }
        w.object(|w| {
            w.key("type").word("tool_use");
            w.key("id").string(&ids::sent(call.id.as_deref().unwrap_or_default(), ids::TOOLU));
            w.key("name").string(&ids::tool_name(&call.name, ids::ANTHROPIC_NAME_MAX));
            w.key("input").json(&input);
            self.mark(w, call.cache);
        });
    }

    fn result(&mut self, w: &mut Writer, result: &ToolResult) -> Result<(), Malformed> {
        let mut failed = None;
        w.object(|w| {
            w.key("type").word("tool_result");
            w.key("tool_use_id").string(&ids::sent(result.id.as_deref().unwrap_or_default(), ids::TOOLU));
            let says = result.parts.iter().any(|part| !matches!(part, Part::Text(text) if text.text.is_blank()));
            if says {
                w.key("content").list(|w| {
                    for part in &result.parts {
                        failed = failed.take().or(self.part(w, part).err());
                    }
                });
            }
            if result.is_error {
                w.key("is_error").boolean(true);
            }
            self.mark(w, result.cache);
        });
        failed.map_or(Ok(()), Err)
    }
}

fn no_audio(audio: &Audio) -> Malformed {
    let kind = match &audio.source {
        Source::Base64 { media_type, .. } => media_type.read().into_owned(),
        _ => "audio".to_owned(),
    };
    Malformed::new("messages.content.input_audio", format!("{kind} cannot be sent to this backend"))
}

fn write_text(w: &mut Writer, text: &'static str) {
    w.object(|w| {
        w.key("type").word("text");
        w.key("text").string(text);
    });
}

fn write_source(w: &mut Writer, source: &Source) {
    w.key("source").object(|w| match source {
        Source::Base64 { media_type, data } => {
            w.key("type").word("base64");
            w.key("media_type").text(media_type);
            w.key("data").text(data);
        }
        Source::Url { url, .. } => {
            w.key("type").word("url");
            w.key("url").text(url);
        }
        Source::Text(text) => {
            w.key("type").word("text");
            w.key("media_type").word("text/plain");
            w.key("data").text(text);
        }
        Source::File(id) => {
            w.key("type").word("file");
            w.key("file_id").text(id);
        }
    });
}
