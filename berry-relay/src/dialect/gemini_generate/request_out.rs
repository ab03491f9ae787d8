//! A request for a Gemini upstream.

use std::collections::{HashMap, HashSet};

use super::super::ir::{
    Arguments, DOCUMENT_NAME, Document, Effort, Image, OutputFormat, Part, Request, Role, Source, SystemBlock,
    TextPart, ThinkingMode, ToolCall, ToolChoice, ToolResult,
};
use super::super::loss::{Losses, Reason};
use super::super::schema::named;
use super::super::text::{Json, Text, Writer};
use super::super::{Malformed, Target, ThinkingAsk, history};
use super::{FOREIGN_CALL, schema};
use crate::body::Chunks;
use crate::json::Kind;

/// Most stop texts.
const STOPS_MAX: usize = 5;

/// Writes a request. The conversation comes last, so that the next turn's request begins with the same bytes.
pub(super) fn encode(request: &Request, target: &Target<'_>, losses: &mut Losses) -> Result<Chunks, Malformed> {
    let mut writer = Writer::new();
    let mut out = Out { request, target, losses };
    let contents = out.contents()?;
    writer.object(|w| {
        out.system(w);
        out.tools(w);
        out.generation_config(w);
        w.key("contents").list(|w| contents.iter().for_each(|content| out.content(content, w)));
    });
    out.left_over();
    Ok(writer.finish())
}

struct Out<'a, 'l> {
    request: &'a Request,
    target: &'a Target<'a>,
    losses: &'l mut Losses,
}

/// A turn as Gemini takes it: roles alternate, all results of a turn's calls stand together and first.
struct Content<'a> {
    is_model: bool,
    pieces: Vec<Piece<'a>>,
}

/// A part that has its place.
enum Piece<'a> {
    Text(Text),
    Signed(&'a TextPart),
    Data { media_type: Text, data: &'a Text },
    File { url: &'a Text, media_type: Text },
    Call { call: &'a ToolCall, is_first: bool },
    Result { name: String, result: Option<&'a ToolResult> },
}

impl<'a> Out<'a, '_> {
    fn lose(&mut self, field: &'static str, reason: Reason) {
        self.losses.add(field, reason);
    }

    /// The conversation in the order that Gemini accepts.
    fn contents(&mut self) -> Result<Vec<Content<'a>>, Malformed> {
        let mut contents: Vec<Content<'a>> = Vec::new();
        let mut open: Vec<&'a ToolCall> = Vec::new();
        let mut at = 0;
        let turns = &self.request.turns;
        while let Some(turn) = turns.get(at) {
            let is_model = turn.role == Role::Assistant;
            let end = at + turns[at..].iter().take_while(|turn| (turn.role == Role::Assistant) == is_model).count();
            let run = &turns[at..end];
            at = end;
            let pieces = match is_model {
                true => self.model_pieces(run.iter().flat_map(|turn| &turn.parts), &mut open)?,
                false => {
                    let parts = run.iter().flat_map(|turn| turn.parts.iter().map(move |part| (turn.role, part)));
                    self.user_pieces(&parts.collect::<Vec<_>>(), &std::mem::take(&mut open))?
                }
            };
            if !pieces.is_empty() {
                match contents.last_mut() {
                    Some(last) if last.is_model == is_model => last.pieces.extend(pieces),
                    _ => contents.push(Content { is_model, pieces }),
                }
            }
        }
        let minimal = || Content { is_model: false, pieces: vec![Piece::Text(Text::plain("."))] };
        if contents.first().is_none_or(|first| first.is_model) {
            self.lose("messages", Reason::Added);
            contents.insert(0, minimal());
        }
        if contents.last().is_some_and(|last| last.is_model) && !self.target.capabilities.prefill {
            self.lose("messages", Reason::Added);
            contents.push(minimal());
        }
        Ok(contents)
    }

    fn model_pieces(
        &mut self,
        parts: impl Iterator<Item = &'a Part>,
        open: &mut Vec<&'a ToolCall>,
    ) -> Result<Vec<Piece<'a>>, Malformed> {
        let mut pieces = Vec::new();
        for part in parts {
            match part {
                Part::ToolCall(call) => {
                    self.note_cache(call.cache.is_some());
                    pieces.push(Piece::Call { call, is_first: open.is_empty() });
                    open.push(call);
                }
                // Gemini neither needs nor reads its own thoughts again; their signatures stand on other parts.
                Part::Thinking(_) => self.lose("messages.thinking", Reason::Unsupported),
                Part::RedactedThinking(_) => self.lose("messages.redacted_thinking", Reason::Foreign),
                part => self.common_piece(part, &mut pieces)?,
            }
        }
        Ok(pieces)
    }

    /// The results of the calls before, in the calls' order, and then what else the client says.
    fn user_pieces(&mut self, parts: &[(Role, &'a Part)], open: &[&'a ToolCall]) -> Result<Vec<Piece<'a>>, Malformed> {
        let mut results: HashMap<&str, &'a ToolResult> = HashMap::new();
        let mut unnamed: Vec<&'a ToolResult> = Vec::new();
        for (_, part) in parts {
            if let Part::ToolResult(result) = part {
                match &result.id {
                    Some(id)
                        if open.iter().any(|call| call.id.as_ref() == Some(id)) && !results.contains_key(&**id) =>
                    {
                        results.insert(id, result);
                    }
                    None => unnamed.push(result),
                    Some(_) => self.lose("messages.tool_result", Reason::Invalid),
                }
            }
        }
        let mut pieces = Vec::new();
        let mut unnamed = unnamed.into_iter();
        let mut after = Vec::new();
        for call in open {
            let result = call.id.as_deref().and_then(|id| results.get(id).copied()).or_else(|| unnamed.next());
            match result {
                None => self.lose("messages.tool_result", Reason::Added),
                Some(result) => {
                    let mut texts = result.parts.iter().filter_map(|part| match part {
                        Part::Text(text) => Some(text),
                        _ => None,
                    });
                    self.note_cache(result.cache.is_some() || texts.any(|text| text.cache.is_some()));
                    let others = result.parts.iter().filter(|part| !matches!(part, Part::Text(_)));
                    for part in others {
                        self.lose("messages.tool_result.content", Reason::Approximated);
                        self.common_piece(part, &mut after)?;
                    }
                }
            }
            pieces.push(Piece::Result { name: call.name.clone(), result });
        }
        if unnamed.next().is_some() {
            self.lose("messages.tool_result", Reason::Invalid);
        }
        pieces.extend(after);
        for (role, part) in parts.iter().filter(|(_, part)| !matches!(part, Part::ToolResult(_))) {
            if *role == Role::System {
                self.lose("messages.system", Reason::Approximated);
            }
            match part {
                Part::Text(text) if *role == Role::System && !text.text.is_empty() => {
                    self.note_cache(text.cache.is_some());
                    pieces.push(Piece::Text(history::as_instruction(&text.text)));
                }
                part => self.common_piece(part, &mut pieces)?,
            }
        }
        Ok(pieces)
    }

    fn common_piece(&mut self, part: &'a Part, pieces: &mut Vec<Piece<'a>>) -> Result<(), Malformed> {
        match part {
            Part::Text(text) => {
                self.note_cache(text.cache.is_some());
                let signed = text.signature.is_some() && self.target.own_state;
                match (signed, text.text.is_empty()) {
                    (true, _) => pieces.push(Piece::Signed(text)),
                    (false, false) => pieces.push(Piece::Text(text.text.clone())),
                    // Gemini refuses empty texts.
                    (false, true) => {}
                }
                if text.signature.is_some() && !signed {
                    self.lose("messages.signature", Reason::Foreign);
                }
            }
            Part::Image(image) => self.image(image, pieces)?,
            Part::Document(document) => self.document(document, pieces)?,
            Part::Audio(audio) => pieces.push(data(&audio.source, "audio/wav", "messages.content.audio")?),
            Part::Refusal(text) => pieces.push(Piece::Text(text.clone())),
            Part::Unknown(kind) => self.losses.below("messages.content", kind, Reason::Unsupported),
            Part::ToolCall(_) | Part::ToolResult(_) | Part::Thinking(_) | Part::RedactedThinking(_) => {
                self.lose("messages.content", Reason::Invalid);
            }
        }
        Ok(())
    }

    fn image(&mut self, image: &'a Image, pieces: &mut Vec<Piece<'a>>) -> Result<(), Malformed> {
        self.note_cache(image.cache.is_some());
        if image.detail.as_ref().is_some_and(|detail| detail.read() != "auto") {
            self.lose("messages.content.image.detail", Reason::Unsupported);
        }
        pieces.push(data(&image.source, "image/jpeg", "messages.content.image")?);
        Ok(())
    }

    fn document(&mut self, document: &'a Document, pieces: &mut Vec<Piece<'a>>) -> Result<(), Malformed> {
        self.note_cache(document.cache.is_some());
        if document.citations {
            self.lose("messages.content.document.citations", Reason::Unsupported);
        }
        if let Some(name) = document.name.as_ref().filter(|name| name.raw() != DOCUMENT_NAME) {
            self.lose("messages.content.document.name", Reason::Approximated);
            pieces.push(Piece::Text(Text::plain("File: ").join(name)));
        }
        if let Some(context) = &document.context {
            self.lose("messages.content.document.context", Reason::Approximated);
            pieces.push(Piece::Text(context.clone()));
        }
        pieces.push(match &document.source {
            Source::Text(text) => {
                self.lose("messages.content.document", Reason::Approximated);
                Piece::Text(text.clone())
            }
            source => data(source, "application/pdf", "messages.content.document")?,
        });
        Ok(())
    }

    fn note_cache(&mut self, marked: bool) {
        if marked {
            self.lose("cache_control", Reason::Unsupported);
        }
    }

    fn system(&mut self, w: &mut Writer) {
        let blocks: Vec<&SystemBlock> = self.request.system.iter().filter(|block| !block.text.is_empty()).collect();
        self.note_cache(blocks.iter().any(|block| block.cache.is_some()));
        if !blocks.is_empty() {
            w.key("systemInstruction").object(|w| {
                w.key("parts").list(|w| {
                    blocks.iter().for_each(|block| w.object(|w| w.key("text").text(&block.text)));
                });
            });
        }
    }

    fn content(&mut self, content: &Content<'_>, w: &mut Writer) {
        w.object(|w| {
            w.key("role").string(if content.is_model { "model" } else { "user" });
            w.key("parts").list(|w| content.pieces.iter().for_each(|piece| w.object(|w| self.piece(piece, w))));
        });
    }

    fn piece(&mut self, piece: &Piece<'_>, w: &mut Writer) {
        match piece {
            Piece::Text(text) => w.key("text").text(text),
            Piece::Signed(part) => {
                w.key("text").text(&part.text);
                if let Some(signature) = &part.signature {
                    w.key("thoughtSignature").text(signature);
                }
            }
            Piece::Data { media_type, data } => w.key("inlineData").object(|w| {
                w.key("mimeType").text(media_type);
                w.key("data").text(data);
            }),
            Piece::File { url, media_type } => w.key("fileData").object(|w| {
                w.key("mimeType").text(media_type);
                w.key("fileUri").text(url);
            }),
            Piece::Call { call, is_first } => self.call(call, *is_first, w),
            Piece::Result { name, result } => w.key("functionResponse").object(|w| {
                w.key("name").string(name);
                w.key("response");
                response(*result, w);
            }),
        }
    }

    fn call(&mut self, call: &ToolCall, is_first: bool, w: &mut Writer) {
        w.key("functionCall").object(|w| {
            w.key("name").string(&call.name);
            w.key("args");
            match arguments(&call.arguments) {
                Ok(object) => w.json(&object),
                Err(text) => {
                    self.losses.add("messages.tool_calls.arguments", Reason::Invalid);
                    w.object(|w| w.key("arguments").text(&text));
                }
            }
        });
        match &call.signature {
            Some(signature) if self.target.own_state => w.key("thoughtSignature").text(signature),
            // The newer models refuse a step whose first call has none.
            _ if is_first && self.target.capabilities.thinking == ThinkingAsk::Level => {
                w.key("thoughtSignature").string(FOREIGN_CALL);
            }
            _ => {}
        }
    }

    fn tools(&mut self, w: &mut Writer) {
        if self.request.tools.is_empty() {
            return;
        }
        let mut lost = HashSet::new();
        w.key("tools").list(|w| {
            w.object(|w| {
                w.key("functionDeclarations").list(|w| {
                    for tool in &self.request.tools {
                        self.note_cache(tool.cache.is_some());
                        if tool.strict == Some(true) {
                            self.lose("tools.strict", Reason::Unsupported);
                        }
                        w.object(|w| {
                            w.key("name").string(&tool.name);
                            if let Some(description) = &tool.description {
                                w.key("description").text(description);
                            }
                            // A tool without arguments has no schema here.
                            if let Some(parameters) = tool.parameters.as_ref().filter(|schema| has_properties(schema)) {
                                self.schema("parametersJsonSchema", "parameters", parameters, &mut lost, w);
                            }
                        });
                    }
                });
            });
        });
        self.note_lost("tools.parameters", lost);
        self.tool_choice(w);
    }

    fn tool_choice(&mut self, w: &mut Writer) {
        if self.request.parallel_tool_calls == Some(false) {
            self.lose("parallel_tool_calls", Reason::Unsupported);
        }
        let Some(choice) = &self.request.tool_choice else { return };
        let (mode, names): (_, &[String]) = match choice {
            ToolChoice::Auto => ("AUTO", &[]),
            ToolChoice::None => ("NONE", &[]),
            ToolChoice::Required => ("ANY", &[]),
            ToolChoice::Tool(name) => ("ANY", std::slice::from_ref(name)),
            ToolChoice::OneOf(names) => ("ANY", names),
        };
        w.key("toolConfig").object(|w| {
            w.key("functionCallingConfig").object(|w| {
                w.key("mode").string(mode);
                if !names.is_empty() {
                    w.key("allowedFunctionNames").list(|w| names.iter().for_each(|name| w.string(name)));
                }
            });
        });
    }

    /// Writes a schema under the key of the form that the model takes.
    fn schema(&mut self, new_key: &str, old_key: &str, schema: &Json, lost: &mut HashSet<String>, w: &mut Writer) {
        match self.target.capabilities.json_schema {
            true => w.key(new_key).json(&schema::for_new_models(schema)),
            false => w.key(old_key).json(&schema::to_google(schema, lost)),
        }
    }

    fn note_lost(&mut self, parent: &str, lost: HashSet<String>) {
        let mut lost: Vec<String> = lost.into_iter().collect();
        lost.sort_unstable();
        lost.iter().for_each(|keyword| self.losses.below(parent, keyword, Reason::Unsupported));
    }

    fn generation_config(&mut self, w: &mut Writer) {
        let request = self.request;
        let mut inside = Writer::new();
        inside.object(|w| {
            let mut number = |key: &str, value: &Option<Json>| {
                if let Some(value) = value {
                    w.key(key).json(value);
                }
            };
            number("temperature", &request.temperature);
            number("topP", &request.top_p);
            number("topK", &request.top_k);
            number("presencePenalty", &request.presence_penalty);
            number("frequencyPenalty", &request.frequency_penalty);
            self.counts(w);
            self.output(w);
            self.thinking(w);
        });
        let config = Json::written(inside);
        if !config.is_nothing() {
            w.key("generationConfig").json(&config);
        }
    }

    fn counts(&mut self, w: &mut Writer) {
        let request = self.request;
        match request.seed.as_ref().map(|seed| (seed, seed.number())) {
            Some((seed, Some(number))) if number.abs() <= f64::from(i32::MAX) => w.key("seed").json(seed),
            Some(_) => self.lose("seed", Reason::Unsupported),
            None => {}
        }
        let limit = request.max_tokens.map(|limit| match self.target.capabilities.max_output_tokens {
            Some(most) if most < limit => {
                self.lose("max_tokens", Reason::Clamped);
                most
            }
            _ => limit,
        });
        if let Some(limit) = limit {
            w.key("maxOutputTokens").integer(limit);
        }
        if let Some(candidates) = request.candidates.filter(|candidates| *candidates != 1) {
            w.key("candidateCount").integer(candidates);
        }
        if request.stop.len() > STOPS_MAX {
            self.lose("stop", Reason::Clamped);
        }
        if !request.stop.is_empty() {
            w.key("stopSequences").list(|w| request.stop.iter().take(STOPS_MAX).for_each(|stop| w.text(stop)));
        }
        if request.logprobs == Some(true) {
            w.key("responseLogprobs").boolean(true);
            // It refuses 0, which is its default.
            if let Some(top) = request.top_logprobs.filter(|top| *top > 0) {
                w.key("logprobs").integer(top);
            }
        } else if request.top_logprobs.is_some() {
            self.lose("top_logprobs", Reason::Invalid);
        }
    }

    fn output(&mut self, w: &mut Writer) {
        match &self.request.output {
            None => {}
            Some(OutputFormat::JsonObject) => w.key("responseMimeType").word("application/json"),
            Some(OutputFormat::Schema { name, description, schema, strict: _ }) => {
                w.key("responseMimeType").word("application/json");
                let mut lost = HashSet::new();
                let schema = named(schema, name.as_ref(), description.as_ref());
                self.schema("responseJsonSchema", "responseSchema", &schema, &mut lost, w);
                self.note_lost("response_format.schema", lost);
            }
        }
    }

    fn thinking(&mut self, w: &mut Writer) {
        let reasoning = &self.request.reasoning;
        if reasoning.mode.is_none() && reasoning.effort.is_none() && reasoning.show.is_none() {
            return;
        }
        let is_off = reasoning.mode == Some(ThinkingMode::Off) || reasoning.effort == Some(Effort::None);
        let ask = self.target.capabilities.thinking;
        if ask == ThinkingAsk::None {
            if !is_off {
                self.lose("reasoning", Reason::Model);
            }
            return;
        }
        w.key("thinkingConfig").object(|w| {
            match ask {
                ThinkingAsk::Level => self.level(is_off, w),
                _ => self.budget(is_off, w),
            }
            if !is_off {
                w.key("includeThoughts").boolean(reasoning.show != Some(false));
            }
        });
    }

    fn level(&mut self, is_off: bool, w: &mut Writer) {
        let reasoning = &self.request.reasoning;
        let effort = match reasoning.mode {
            _ if is_off => Effort::None,
            Some(ThinkingMode::Budget(tokens)) => {
                self.lose("thinking.budget_tokens", Reason::Approximated);
                reasoning.effort.unwrap_or(Effort::of_budget(tokens))
            }
            _ => match reasoning.effort {
                Some(effort) => effort,
                // Left to itself: its own default.
                None => return,
            },
        };
        let knows = |level: &str| self.target.capabilities.efforts.iter().any(|known| **known == *level);
        let (level, exact) = match effort {
            // It cannot be switched off; some think hardly at all at the least level, others have no lower one than `low`.
            Effort::None if knows("minimal") => ("minimal", false),
            Effort::Minimal if knows("minimal") => ("minimal", true),
            Effort::None | Effort::Minimal => ("low", false),
            Effort::Low => ("low", true),
            Effort::Medium if knows("medium") => ("medium", true),
            Effort::Medium => ("high", false),
            Effort::High => ("high", true),
            Effort::XHigh | Effort::Max => ("high", false),
        };
        if !exact {
            self.lose("reasoning.effort", Reason::Approximated);
        }
        w.key("thinkingLevel").string(level);
    }

    fn budget(&mut self, is_off: bool, w: &mut Writer) {
        let reasoning = &self.request.reasoning;
        let least = self.target.capabilities.min_thinking_tokens;
        let tokens = match (reasoning.mode, reasoning.effort) {
            _ if is_off => 0,
            (Some(ThinkingMode::Budget(tokens)), effort) => {
                if effort.is_some() {
                    self.lose("reasoning.effort", Reason::Approximated);
                }
                tokens
            }
            (_, Some(effort)) => {
                self.lose("reasoning.effort", Reason::Approximated);
                effort.budget()
            }
            _ => return w.key("thinkingBudget").literal("-1"),
        };
        if tokens < least {
            self.lose("reasoning", Reason::Clamped);
        }
        w.key("thinkingBudget").integer(tokens.max(least));
    }

    /// Fields that Gemini has no place for.
    fn left_over(&mut self) {
        let request = self.request;
        let absent = [
            ("user", request.user.is_some()),
            ("service_tier", request.service_tier.is_some()),
            ("prompt_cache_key", request.prompt_cache_key.is_some()),
            (
                "tool_choice",
                request.tools.is_empty()
                    && matches!(&request.tool_choice, Some(choice) if *choice != ToolChoice::None && *choice != ToolChoice::Auto),
            ),
        ];
        for (field, _) in absent.into_iter().filter(|(_, present)| *present) {
            self.lose(field, Reason::Unsupported);
        }
        for extra in &request.extras {
            self.losses.add(extra.name.clone(), Reason::Unsupported);
        }
    }
}

/// Bytes as Gemini takes them.
fn data<'a>(source: &'a Source, media_type: &'static str, field: &str) -> Result<Piece<'a>, Malformed> {
    match source {
        Source::Base64 { media_type, data } => Ok(Piece::Data { media_type: media_type.clone(), data }),
        Source::Url { url, media_type: known } => {
            let media_type = known.clone().unwrap_or_else(|| Text::plain(by_extension(&url.read(), media_type)));
            Ok(Piece::File { url, media_type })
        }
        Source::Text(text) => Ok(Piece::Text(text.clone())),
        Source::File(_) => Err(Malformed::new(
            field,
            "a file in another vendor's store cannot be read by this backend; send its bytes",
        )),
    }
}

/// The media type that an address ends in.
fn by_extension(url: &str, otherwise: &'static str) -> &'static str {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    match path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "pdf" => "application/pdf",
        _ => otherwise,
    }
}

/// The object that a tool is called with; the text where it is none.
fn arguments(arguments: &Arguments) -> Result<Json, Text> {
    match arguments {
        Arguments::Json(json) if json.kind() == Kind::Object => Ok(json.clone()),
        Arguments::Json(json) => Err(Text::write(&String::from_utf8_lossy(json.raw()))),
        Arguments::Text(text) if text.is_blank() => Ok(Json::fixed("{}")),
        Arguments::Text(text) => {
            let read = Json::read(&bytes::Bytes::from(text.read().into_owned()));
            read.ok().filter(|json| json.kind() == Kind::Object).ok_or_else(|| text.clone())
        }
    }
}

/// The object that a result must be: an object as it is, any text under a key of its own. An object with a `$ref` in it would be
/// taken for a reference.
fn response(result: Option<&ToolResult>, w: &mut Writer) {
    let Some(result) = result else {
        return w.object(|w| w.key("error").word("the client sent no result"));
    };
    let texts: Vec<&Text> = result
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Text(text) => Some(&text.text),
            _ => None,
        })
        .collect();
    if let ([text], false) = (&texts[..], result.is_error)
        && text.raw().starts_with(b"{")
        && !text.raw().windows(4).any(|window| window == b"$ref")
        && let Ok(object) = Json::read(&bytes::Bytes::from(text.read().into_owned()))
    {
        return w.json(&object);
    }
    w.object(|w| w.key(if result.is_error { "error" } else { "result" }).texts(&texts));
}

/// Whether a schema of arguments allows any.
fn has_properties(schema: &Json) -> bool {
    let mut fields = schema.fields();
    let is_object = fields.string("type").as_deref() == Some("object");
    // Words about the schema, and rules for members that cannot be there.
    ["title", "description", "$schema", "$id", "$comment", "required"].iter().for_each(|name| drop(fields.take(name)));
    let closed = fields.take("additionalProperties").is_none_or(|more| more.boolean() == Some(false));
    let empty = fields.take("properties").is_none_or(|properties| properties.is_nothing());
    !(is_object && closed && empty && fields.is_empty())
}
