//! A request for a Responses upstream.

use super::super::ir::{
    Arguments, CacheMark, DOCUMENT_NAME, Document, Effort, Image, OutputFormat, Part, Reasoning, Request, Role,
    ServiceTier, Source, ThinkingMode, ToolChoice, ToolResult,
};
use super::super::loss::{Losses, Reason};
use super::super::text::{Text, Writer};
use super::super::{Malformed, Sampling, Target, ThinkingAsk};
use crate::body::Chunks;

/// Fields that this dialect knows by the name that the chat dialect has for them.
const SHARED: &[&str] = &["metadata", "store", "prompt_cache_retention"];

/// Writes a request. Nothing is kept at the vendor: the conversation comes whole each time.
pub(super) fn encode(request: &Request, target: &Target<'_>, losses: &mut Losses) -> Result<Chunks, Malformed> {
    let mut out = Out { request, target, losses };
    let mut input = Writer::new();
    let mut failed = None;
    input.list(|w| failed = out.input(w).err());
    if let Some(error) = failed {
        return Err(error);
    }
    let input = super::super::text::Json::written(input);
    let mut writer = Writer::new();
    writer.object(|w| {
        w.key("model").string(target.model);
        out.instructions(w);
        out.tools(w);
        out.settings(w);
        out.extras(w);
        w.key("include").list(|w| {
            w.string("reasoning.encrypted_content");
            if request.logprobs == Some(true) {
                w.string("message.output_text.logprobs");
            }
        });
        if request.extras.iter().all(|extra| extra.name != "store") {
            w.key("store").boolean(false);
        }
        if request.stream {
            w.key("stream").boolean(true);
        }
        w.key("input").json(&input);
    });
    out.left_over();
    Ok(writer.finish())
}

struct Out<'a, 'l> {
    request: &'a Request,
    target: &'a Target<'a>,
    losses: &'l mut Losses,
}

impl Out<'_, '_> {
    fn instructions(&mut self, w: &mut Writer) {
        let blocks = &self.request.system;
        if blocks.iter().any(|block| block.cache.is_some()) {
            self.losses.add("cache_control", Reason::Unsupported);
        }
        let gap = Text::write("\n\n");
        let texts: Vec<&Text> = blocks.iter().flat_map(|block| [&gap, &block.text]).skip(1).collect();
        if !texts.is_empty() {
            w.key("instructions").texts(&texts);
        }
    }

    fn input(&mut self, w: &mut Writer) -> Result<(), Malformed> {
        for turn in &self.request.turns {
            let mut run: Vec<&Part> = Vec::new();
            for part in &turn.parts {
                if is_content(part) {
                    run.push(part);
                    continue;
                }
                self.message(turn.role, &std::mem::take(&mut run), w)?;
                self.item(part, w)?;
            }
            self.message(turn.role, &run, w)?;
        }
        Ok(())
    }

    fn message(&mut self, role: Role, parts: &[&Part], w: &mut Writer) -> Result<(), Malformed> {
        if parts.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        w.object(|w| {
            w.key("type").word("message");
            w.key("role").string(match role {
                Role::System => "developer",
                Role::User => "user",
                Role::Assistant => "assistant",
            });
            w.key("content").list(|w| {
                for part in parts {
                    failed = self.content(part, role == Role::Assistant, w).err().or(failed.take());
                }
            });
        });
        failed.map_or(Ok(()), Err)
    }

    fn content(&mut self, part: &Part, is_output: bool, w: &mut Writer) -> Result<(), Malformed> {
        match part {
            Part::Text(text) => {
                self.note_mark(text.cache);
                w.object(|w| {
                    w.key("type").string(if is_output { "output_text" } else { "input_text" });
                    w.key("text").text(&text.text);
                });
            }
            Part::Refusal(text) => w.object(|w| {
                w.key("type").word("refusal");
                w.key("refusal").text(text);
            }),
            Part::Image(image) => self.image(image, w)?,
            Part::Document(document) => self.document(document, w)?,
            Part::Audio(audio) => match &audio.source {
                Source::Base64 { media_type, data } => w.object(|w| {
                    w.key("type").word("input_audio");
                    w.key("input_audio").object(|w| {
                        w.key("data").text(data);
                        let kind = media_type.read();
                        w.key("format").string(match kind.strip_prefix("audio/").unwrap_or(&kind) {
                            "mpeg" => "mp3",
                            "x-wav" | "wave" => "wav",
                            other => other,
                        });
                    });
                }),
                _ => return Err(Malformed::new("messages.content.audio", "sound must be sent as its bytes")),
            },
            Part::Unknown(kind) => self.losses.below("messages.content", kind, Reason::Unsupported),
            _ => self.losses.add("messages.content", Reason::Invalid),
        }
        Ok(())
    }

    fn note_mark(&mut self, mark: Option<CacheMark>) {
        if mark.is_some() {
            self.losses.add("cache_control", Reason::Unsupported);
        }
    }

    fn image(&mut self, image: &Image, w: &mut Writer) -> Result<(), Malformed> {
        self.note_mark(image.cache);
        let url = address(&image.source, "messages.content.image")?;
        w.object(|w| {
            w.key("type").word("input_image");
            w.key("image_url").text(&url);
            w.key("detail").text(image.detail.as_ref().unwrap_or(&Text::plain("auto")));
        });
        Ok(())
    }

    fn document(&mut self, document: &Document, w: &mut Writer) -> Result<(), Malformed> {
        self.note_mark(document.cache);
        if document.citations {
            self.losses.add("messages.content.document.citations", Reason::Unsupported);
        }
        if document.context.is_some() {
            self.losses.add("messages.content.document.context", Reason::Unsupported);
        }
        if document.name.is_some() && matches!(document.source, Source::Text(_) | Source::Url { .. }) {
            self.losses.add("messages.content.document.name", Reason::Unsupported);
        }
        if let Source::Text(text) = &document.source {
            self.losses.add("messages.content.document", Reason::Approximated);
            w.object(|w| {
                w.key("type").word("input_text");
                w.key("text").text(text);
            });
            return Ok(());
        }
        let address = address(&document.source, "messages.content.document")?;
        w.object(|w| {
            w.key("type").word("input_file");
            match &document.source {
                Source::Url { .. } => w.key("file_url").text(&address),
                _ => {
                    w.key("filename").text(document.name.as_ref().unwrap_or(&Text::plain(DOCUMENT_NAME)));
                    w.key("file_data").text(&address);
                }
            }
        });
        Ok(())
    }

    /// A part that is an item of its own.
    fn item(&mut self, part: &Part, w: &mut Writer) -> Result<(), Malformed> {
        match part {
            Part::ToolCall(call) => {
                self.note_mark(call.cache);
                w.object(|w| {
                    w.key("type").word("function_call");
                    w.key("call_id").string(call.id.as_deref().unwrap_or_default());
                    w.key("name").string(&call.name);
                    w.key("arguments").text(&arguments_text(&call.arguments));
                });
            }
            Part::ToolResult(result) => self.result(result, w)?,
            Part::Thinking(thinking) => match &thinking.signature {
                Some(signature) if self.target.own_state => reasoning(Some(&thinking.text), signature, w),
                _ => self.losses.add("messages.thinking", Reason::Foreign),
            },
            Part::RedactedThinking(data) if self.target.own_state => reasoning(None, data, w),
            _ => self.losses.add("messages.redacted_thinking", Reason::Foreign),
        }
        Ok(())
    }

    fn result(&mut self, result: &ToolResult, w: &mut Writer) -> Result<(), Malformed> {
        self.note_mark(result.cache);
        if result.is_error {
            self.losses.add("messages.tool_result.is_error", Reason::Approximated);
        }
        let mut failed = None;
        w.object(|w| {
            w.key("type").word("function_call_output");
            w.key("call_id").string(result.id.as_deref().unwrap_or_default());
            w.key("output");
            if let [Part::Text(text)] = &result.parts[..] {
                let mark = if result.is_error { Text::plain("Error: ") } else { Text::default() };
                return w.texts(&[&mark, &text.text]);
            }
            w.list(|w| {
                for part in &result.parts {
                    failed = self.content(part, false, w).err().or(failed.take());
                }
            });
        });
        failed.map_or(Ok(()), Err)
    }

    fn tools(&mut self, w: &mut Writer) {
        if self.request.tools.is_empty() {
            return;
        }
        w.key("tools").list(|w| {
            for tool in &self.request.tools {
                self.note_mark(tool.cache);
                w.object(|w| {
                    w.key("type").word("function");
                    w.key("name").string(&tool.name);
                    if let Some(description) = &tool.description {
                        w.key("description").text(description);
                    }
                    match &tool.parameters {
                        Some(parameters) => w.key("parameters").json(parameters),
                        None => w.key("parameters").literal(r#"{"type":"object","properties":{}}"#),
                    }
                    // Left out it would mean true, which is not what other dialects mean.
                    w.key("strict").boolean(tool.strict == Some(true));
                });
            }
        });
        if let Some(parallel) = self.request.parallel_tool_calls {
            w.key("parallel_tool_calls").boolean(parallel);
        }
        match &self.request.tool_choice {
            None => {}
            Some(ToolChoice::Auto) => w.key("tool_choice").word("auto"),
            Some(ToolChoice::None) => w.key("tool_choice").word("none"),
            Some(ToolChoice::Required) => w.key("tool_choice").word("required"),
            Some(ToolChoice::Tool(name)) => w.key("tool_choice").object(|w| named(name, w)),
            Some(ToolChoice::OneOf(names)) => w.key("tool_choice").object(|w| {
                w.key("type").word("allowed_tools");
                w.key("mode").word("required");
                w.key("tools").list(|w| names.iter().for_each(|name| w.object(|w| named(name, w))));
            }),
        }
    }

    fn settings(&mut self, w: &mut Writer) {
        let request = self.request;
        if let Some(limit) = request.max_tokens {
            // The least that is accepted there.
            w.key("max_output_tokens").integer(limit.max(16));
        }
        let takes_sampling = self.target.capabilities.sampling != Sampling::None;
        for (name, value) in [("temperature", &request.temperature), ("top_p", &request.top_p)] {
            match value {
                Some(value) if takes_sampling => w.key(name).json(value),
                Some(_) => self.losses.add(name, Reason::Model),
                None => {}
            }
        }
        if request.logprobs == Some(true) {
            w.key("top_logprobs").integer(request.top_logprobs.unwrap_or(0));
        }
        if let Some(user) = &request.user {
            w.key("safety_identifier").text(user);
        }
        if let Some(key) = &request.prompt_cache_key {
            w.key("prompt_cache_key").text(key);
        }
        if let Some(tier) = request.service_tier {
            w.key("service_tier").string(match tier {
                ServiceTier::Auto => "auto",
                ServiceTier::Default => "default",
                ServiceTier::Flex => "flex",
                ServiceTier::Priority => "priority",
            });
        }
        self.reasoning(w);
        self.text(w);
    }

    fn reasoning(&mut self, w: &mut Writer) {
        let reasoning = &self.request.reasoning;
        let effort = match (reasoning.mode, reasoning.effort) {
            (Some(ThinkingMode::Off), _) => Some(Effort::None),
            (Some(ThinkingMode::Budget(tokens)), effort) => {
                self.losses.add("thinking.budget_tokens", Reason::Approximated);
                Some(effort.unwrap_or(Effort::of_budget(tokens)))
            }
            (_, effort) => effort,
        };
        let thinks = self.target.capabilities.thinking != ThinkingAsk::None;
        let is_off = reasoning.mode == Some(ThinkingMode::Off) || effort == Some(Effort::None);
        if !thinks && !is_off && *reasoning != Reasoning::default() {
            self.losses.add("reasoning", Reason::Model);
        }
        if reasoning.show == Some(false) || !thinks && reasoning.show.is_some() {
            self.losses.add("reasoning.summary", Reason::Unsupported);
        }
        if !thinks || effort.is_none() && reasoning.show != Some(true) {
            return;
        }
        w.key("reasoning").object(|w| {
            if let Some(effort) = effort {
                w.key("effort").string(effort.name());
            }
            if reasoning.show == Some(true) {
                w.key("summary").word("auto");
            }
        });
    }

    fn text(&mut self, w: &mut Writer) {
        let verbosity = self.request.extras.iter().find(|extra| extra.name == "verbosity");
        if self.request.output.is_none() && verbosity.is_none() {
            return;
        }
        w.key("text").object(|w| {
            match &self.request.output {
                None => {}
                Some(OutputFormat::JsonObject) => w.key("format").object(|w| w.key("type").word("json_object")),
                Some(OutputFormat::Schema { name, description, schema, strict }) => w.key("format").object(|w| {
                    w.key("type").word("json_schema");
                    w.key("name").text(name.as_ref().unwrap_or(&Text::plain("answer")));
                    if let Some(description) = description {
                        w.key("description").text(description);
                    }
                    w.key("schema").json(schema);
                    w.key("strict").boolean(*strict == Some(true));
                }),
            }
            if let Some(verbosity) = verbosity {
                w.key("verbosity").json(&verbosity.value);
            }
        });
    }

    fn extras(&mut self, w: &mut Writer) {
        for extra in &self.request.extras {
            match extra.name.as_str() {
                "verbosity" => {}
                name if SHARED.contains(&name) => w.key(name).json(&extra.value),
                name => self.losses.add(name.to_owned(), Reason::Unsupported),
            }
        }
    }

    /// Fields that this dialect has no place for.
    fn left_over(&mut self) {
        let request = self.request;
        for (field, present) in [
            ("top_k", request.top_k.is_some()),
            ("stop", !request.stop.is_empty()),
            ("n", request.candidates.is_some_and(|candidates| candidates > 1)),
            ("seed", request.seed.is_some()),
            ("presence_penalty", request.presence_penalty.is_some()),
            ("frequency_penalty", request.frequency_penalty.is_some()),
        ] {
            if present {
                self.losses.add(field, Reason::Unsupported);
            }
        }
        if request.max_tokens.is_some_and(|limit| limit < 16) {
            self.losses.add("max_tokens", Reason::Clamped);
        }
    }
}

fn is_content(part: &Part) -> bool {
    !matches!(part, Part::ToolCall(_) | Part::ToolResult(_) | Part::Thinking(_) | Part::RedactedThinking(_))
}

fn named(name: &str, w: &mut Writer) {
    w.key("type").word("function");
    w.key("name").string(name);
}

fn reasoning(text: Option<&Text>, encrypted: &Text, w: &mut Writer) {
    w.object(|w| {
        w.key("type").word("reasoning");
        w.key("summary").list(|w| {
            if let Some(text) = text {
                w.object(|w| {
                    w.key("type").word("summary_text");
                    w.key("text").text(text);
                });
            }
        });
        w.key("encrypted_content").text(encrypted);
    });
}

/// Arguments as the text that they are here.
pub(super) fn arguments_text(arguments: &Arguments) -> Text {
    match arguments {
        Arguments::Text(text) if text.is_blank() => Text::plain("{}"),
        Arguments::Text(text) => text.clone(),
        Arguments::Json(json) => Text::write(&String::from_utf8_lossy(json.raw())),
    }
}

/// The address of bytes: their own, or a `data:` one.
fn address(source: &Source, field: &str) -> Result<Text, Malformed> {
    match source {
        Source::Base64 { media_type, data } => {
            Ok(Text::plain("data:").join(media_type).join(&Text::plain(";base64,")).join(data))
        }
        Source::Url { url, .. } => Ok(url.clone()),
        Source::File(_) | Source::Text(_) => Err(Malformed::new(
            field,
            "a file in another vendor's store cannot be read by this backend; send its bytes",
        )),
    }
}
