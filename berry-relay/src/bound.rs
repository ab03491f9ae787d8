//! The most that a request may use, before anything of it is sent: what budgets and limits on tokens reserve.
//!
//! ```text
//! input  = bytes of the body, data of pictures and documents left out
//!        + a fixed maximum for each picture, page and tool that the vendor runs      at most the context window
//! output = what the request allows, times the answers that it asks for
//! ```
//!
//! A token of a tokenizer that works on bytes stands for at least one byte, so nothing has to be tokenised. What the bytes do not
//! show (documents by reference, conversations that the vendor keeps) counts as a full context window. Where that is too much for
//! what is left, [`Measure::closer`] counts the text by classes of characters: an estimate that lies above what tokenizers of
//! vendors make of prose, code and most other text, at a third to a half of the bytes of English.
//!
//! Only requests whose user has a budget or a limit on tokens pay for this.

use berry_core::config::snapshot::{Backend, Edits, Model};
use berry_core::money::NanoUsd;
use berry_core::operation::Operation;
use berry_core::tariff::SERVER_TOOL_CALLS_MAX;
use smallvec::SmallVec;

use crate::forward::RequestBody;
use crate::json::{Cursor, Kind, Raw, unquote};

/// Most tokens that one picture is billed as (vendors' pages, 2026: OpenAI's high detail and Gemini's tiles stay below).
pub const IMAGE_TOKENS_MAX: u64 = 16_384;
/// Most tokens that a document is billed as: a hundred pages, each with its text and its picture.
pub const DOCUMENT_TOKENS_MAX: u64 = 100 * 8_192;
/// Most tokens that a file of a form is billed as: an hour and a half of speech.
pub const FILE_TOKENS_MAX: u64 = 65_536;
/// Most tokens that one call of a tool which the vendor runs adds to the prompt.
pub const TOOL_TOKENS_MAX: u64 = 8_192;
/// Tokens of prompts that vendors put before tools (Anthropic's tool use page, 2026: up to 804 with all of its tools).
pub const TOOL_PROMPT_TOKENS: u64 = 1_024;
/// A full context window, where the backend states none.
pub const WINDOW_TOKENS: u64 = 2_097_152;
/// Output tokens of a request that states no limit, where neither the model nor the backend has `default_max_output_tokens` and
/// the upstream's own limit is not known.
pub const OUTPUT_TOKENS_ASSUMED: u64 = 16_384;
/// Output tokens for each byte of a text that is spoken: slow speech at the vendors' rate of some 21 tokens a second.
const SPEECH_TOKENS_PER_BYTE: u64 = 4;

/// Bytes of a data URL that hold its type.
const DATA_URL_HEAD: usize = 40;

/// What parameters that limit the output are called.
const OUTPUT_LIMITS: &[&str] = &["max_tokens", "max_completion_tokens", "max_output_tokens"];
/// What parameters that ask for several answers are called.
const ANSWERS: &[&[u8]] = &[b"n", b"best_of", b"candidateCount", b"candidate_count"];
/// Members that stand for a conversation or prompt which the vendor keeps.
const KEPT: &[&[u8]] = &[b"previous_response_id", b"conversation", b"prompt", b"cachedContent", b"cached_content"];
/// How the types of tools begin that the client runs itself.
const CLIENT_TOOLS: &[&[u8]] = &[
    b"function",
    b"custom",
    b"local_shell",
    b"shell",
    b"apply_patch",
    b"bash",
    b"text_editor",
    b"computer",
    b"memory",
];

/// What a request says about its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Tokens of its text at most.
    text: u64,
    /// Tokens of its pictures, documents and files at most.
    media: u64,
    /// Whether there is more than the body shows.
    unseen: bool,
    /// Tools that the vendor runs.
    server_tools: u64,
    /// What the client limits an answer to.
    max_output: Option<u64>,
    /// Answers that it asks for.
    answers: u64,
    output: Output,
}

/// What decides how much may be generated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Output {
    /// The limit on tokens.
    #[default]
    Limit,
    /// Nothing is generated.
    None,
    /// This, whatever the request says.
    Fixed(u64),
}

/// The most that a request may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// At the dearest backend that may answer it.
    pub cost: NanoUsd,
    /// Input and output together.
    pub tokens: u64,
}

impl Measure {
    /// Measures by bytes.
    pub fn coarse(operation: Operation, body: &RequestBody) -> Self {
        Self::of(operation, body, |text| text.len() as u64)
    }

    /// Measures by classes of characters: closer, and slower by a look at each.
    pub fn closer(operation: Operation, body: &RequestBody) -> Self {
        Self::of(operation, body, likely_tokens)
    }

    fn of(operation: Operation, body: &RequestBody, weigh: fn(&[u8]) -> u64) -> Self {
        if matches!(operation, Operation::CountTokens | Operation::GeminiCountTokens) {
            return Self { output: Output::None, ..Self::default() };
        }
        let Some(chunks) = body.json() else {
            // The rest of a form may not have arrived yet.
            let output = Output::Fixed(generated(operation, 0).unwrap_or(OUTPUT_TOKENS_ASSUMED));
            return Self { media: FILE_TOKENS_MAX, answers: 1, output, ..Self::default() };
        };
        let text = chunks.slice(0..chunks.len());
        let mut reader = Reader::default();
        // The scan has checked the syntax; what the cursor cannot read is still counted by its bytes.
        let _ = reader.request(&mut Cursor::new(&text));
        let left_out: u64 = reader.left_out.iter().map(|data| weigh(data)).sum();
        let weight = weigh(&text).saturating_sub(left_out);
        let hidden = if reader.has_tools { TOOL_PROMPT_TOKENS } else { 0 };
        Self {
            text: weight + hidden,
            media: reader.images * IMAGE_TOKENS_MAX + reader.documents * DOCUMENT_TOKENS_MAX,
            unseen: reader.unseen,
            server_tools: reader.server_tools,
            max_output: reader.max_output,
            answers: reader.answers.max(1),
            output: match operation {
                Operation::Embeddings
                | Operation::Moderations
                | Operation::Rerank
                | Operation::EmbedContent
                | Operation::BatchEmbedContents => Output::None,
                _ => generated(operation, text.len() as u64).map_or(Output::Limit, Output::Fixed),
            },
        }
    }

    /// The most that it may use at any backend of `model` that it may be sent to. `requested` is the model's name as the client
    /// wrote it; `provider` the one that it forces. A backend of which no price is known counts as the smallest amount there is,
    /// so that an exhausted budget refuses it.
    pub fn bound(&self, model: &Model, requested: &str, provider: Option<&str>) -> Bound {
        let mut bound = Bound::default();
        if *self == (Self { output: Output::None, ..Self::default() }) {
            return bound;
        }
        let may_serve = |backend: &&std::sync::Arc<Backend>| {
            let is_forced = provider.is_none_or(|id| backend.provider.id.as_str() == id);
            backend.enabled && backend.provider.enabled && is_forced
        };
        for backend in model.backends.iter().filter(may_serve) {
            let window = backend.limits.context_window.unwrap_or(WINDOW_TOKENS);
            let tools = self.server_tools.saturating_mul(SERVER_TOOL_CALLS_MAX * TOOL_TOKENS_MAX);
            let counted = self.text.saturating_add(self.media).saturating_add(tools);
            let input = match backend.limits.context_window {
                _ if self.unseen => window,
                Some(window) => counted.min(window),
                None => counted,
            };
            let output = self.output(model, backend, requested).saturating_mul(self.answers);
            let tariff = backend.tariff_of(requested);
            let cost = match tariff.is_known() {
                true => tariff.upper_bound(input, self.server_tools, output),
                false => NanoUsd::from_nanos(1),
            };
            bound = Bound { cost: bound.cost.max(cost), tokens: bound.tokens.max(input.saturating_add(output)) };
        }
        bound
    }

    /// Output tokens of one answer of a backend, after the operator's edits of parameters.
    fn output(&self, model: &Model, backend: &Backend, requested: &str) -> u64 {
        match self.output {
            Output::None => return 0,
            Output::Fixed(tokens) => return tokens,
            Output::Limit => {}
        }
        let edits = [&backend.edits, &model.edits];
        let own = |of: fn(&Edits) -> &Parameters| edits.into_iter().find_map(|edits| limit_in(of(edits)));
        let is_dropped = edits.into_iter().any(|edits| edits.drop.iter().any(|name| OUTPUT_LIMITS.contains(&&**name)));
        let asked = self.max_output.filter(|_| !is_dropped);
        let configured = || backend.edits.max_output_tokens.or(model.edits.max_output_tokens);
        let known = || backend.capabilities_of(requested).max_output_tokens;
        own(|edits| &edits.overrides)
            .or(asked)
            .or_else(|| own(|edits| &edits.defaults))
            .or_else(configured)
            .or_else(known)
            .unwrap_or(OUTPUT_TOKENS_ASSUMED)
    }
}

/// Parameters with their values.
type Parameters = [(Box<str>, Box<str>)];

/// The largest limit on the output that a list of parameters sets.
fn limit_in(parameters: &Parameters) -> Option<u64> {
    let limits = parameters.iter().filter(|(name, _)| OUTPUT_LIMITS.contains(&&**name));
    limits.filter_map(|(_, value)| number(Raw(value.as_bytes()))).max()
}

/// Output tokens of calls that know no limit on them.
fn generated(operation: Operation, text_bytes: u64) -> Option<u64> {
    match operation {
        Operation::ImageGenerations | Operation::ImageEdits | Operation::ImageVariations => Some(IMAGE_TOKENS_MAX),
        Operation::AudioSpeech => Some(text_bytes.saturating_mul(SPEECH_TOKENS_PER_BYTE)),
        _ => None,
    }
}

/// Finds what is not text, and what limits the answer.
#[derive(Default)]
struct Reader<'a> {
    left_out: SmallVec<[&'a [u8]; 4]>,
    images: u64,
    documents: u64,
    unseen: bool,
    server_tools: u64,
    has_tools: bool,
    max_output: Option<u64>,
    answers: u64,
}

/// The members of an object that may carry something.
#[derive(Default)]
struct Carrier<'a> {
    kind: &'a [u8],
    mime: &'a [u8],
    /// Base64, or a data URL.
    data: Option<&'a [u8]>,
    /// A name or address that stands for data elsewhere.
    reference: bool,
    /// An object that carries for this one.
    source: Option<Raw<'a>>,
}

impl<'a> Reader<'a> {
    /// The request's own members, then everything below them.
    fn request(&mut self, cursor: &mut Cursor<'a>) -> Option<()> {
        cursor.members(|key, cursor| {
            let plain = plain(key);
            let key = plain.as_deref().unwrap_or(key);
            match key {
                b"tools" => self.tools(cursor),
                b"mcp_servers" => cursor.elements(|server| {
                    self.server_tools += 1;
                    server.skip()
                }),
                b"web_search_options" => {
                    self.server_tools += 1;
                    cursor.skip()
                }
                b"generationConfig" | b"generation_config" => cursor.members(|key, value| {
                    let value = value.value()?;
                    match key {
                        b"maxOutputTokens" | b"max_output_tokens" => self.limit(value),
                        key if ANSWERS.contains(&key) => self.ask(value),
                        _ => {}
                    }
                    Some(())
                }),
                key if OUTPUT_LIMITS.iter().any(|name| name.as_bytes() == key) => {
                    let value = cursor.value()?;
                    self.limit(value);
                    Some(())
                }
                key if ANSWERS.contains(&key) => {
                    let value = cursor.value()?;
                    self.ask(value);
                    Some(())
                }
                key if KEPT.contains(&key) => {
                    let mut inside = cursor.clone();
                    let value = cursor.value()?;
                    // Completions have a text called `prompt`; only a stored one is an object.
                    self.unseen |= match key {
                        b"prompt" => value.kind() == Kind::Object,
                        _ => !value.is_nothing(),
                    };
                    self.any(&mut inside)
                }
                _ => self.any(cursor),
            }
        })
    }

    fn limit(&mut self, value: Raw<'_>) {
        self.max_output = self.max_output.max(number(value));
    }

    fn ask(&mut self, value: Raw<'_>) {
        self.answers = self.answers.max(number(value).unwrap_or(1));
    }

    /// Counts the tools that the vendor runs.
    fn tools(&mut self, cursor: &mut Cursor<'a>) -> Option<()> {
        cursor.elements(|tool| {
            self.has_tools = true;
            let (mut kind, mut named, mut others) = (None, false, 0);
            tool.members(|key, value| {
                let value = value.value()?;
                match key {
                    b"type" => kind = value.text(),
                    b"name" | b"function" => named = true,
                    b"functionDeclarations" | b"function_declarations" => {}
                    _ => others += 1,
                }
                Some(())
            })?;
            self.server_tools += match kind {
                Some(kind) => u64::from(!CLIENT_TOOLS.iter().any(|known| kind.starts_with(known))),
                None if named => 0,
                // Gemini's: each member is a tool.
                None => others,
            };
            Some(())
        })
    }

    fn any(&mut self, cursor: &mut Cursor<'a>) -> Option<()> {
        let mut inside = cursor.clone();
        match cursor.value()?.kind() {
            Kind::Object => self.object(&mut inside),
            Kind::Array => inside.elements(|element| self.any(element)),
            _ => Some(()),
        }
    }

    fn object(&mut self, cursor: &mut Cursor<'a>) -> Option<()> {
        let mut carrier = Carrier::default();
        cursor.members(|key, cursor| self.member(key, cursor, &mut carrier))?;
        if let Some(source) = carrier.source {
            let mut of_source = Carrier::default();
            Cursor::new(source.0).members(|key, cursor| self.member(key, cursor, &mut of_source))?;
            of_source.kind = carrier.kind;
            self.carried(&of_source);
        }
        self.carried(&carrier);
        Some(())
    }

    fn member(&mut self, key: &'a [u8], cursor: &mut Cursor<'a>, carrier: &mut Carrier<'a>) -> Option<()> {
        let mut inside = cursor.clone();
        let value = cursor.value()?;
        match (key, value.text()) {
            (b"type", Some(kind)) => carrier.kind = kind,
            (b"media_type" | b"mime_type" | b"mimeType", Some(mime)) => carrier.mime = mime,
            (b"data" | b"file_data" | b"fileData", Some(data)) => carrier.data = Some(data),
            (b"image_url", Some(url)) => self.image(url),
            (b"url" | b"file_id" | b"file_url" | b"file_uri" | b"fileUri", Some(_)) => carrier.reference = true,
            (b"source" | b"file" | b"inlineData" | b"inline_data" | b"fileData" | b"file_data", None) => {
                carrier.source = Some(value);
            }
            (b"image_url", None) => match address(value) {
                Some(url) => self.image(url),
                // The same words in a schema.
                None => return self.any(&mut inside),
            },
            (_, None) => return self.any(&mut inside),
            _ => {}
        }
        Some(())
    }

    fn image(&mut self, data: &'a [u8]) {
        self.images += 1;
        self.left_out.push(data);
    }

    /// Counts what an object carries. Audio and video stay with their bytes, which are more than their tokens.
    fn carried(&mut self, carrier: &Carrier<'a>) {
        let is = |what: &[u8]| {
            let data = carrier.data.map(|data| &data[..data.len().min(DATA_URL_HEAD)]).unwrap_or_default();
            [carrier.kind, carrier.mime, data].iter().any(|text| memchr::memmem::find(text, what).is_some())
        };
        match carrier.data {
            Some(data) if is(b"image") => self.image(data),
            Some(data) if is(b"application/pdf") || is(b"file") => {
                self.documents += 1;
                self.left_out.push(data);
            }
            None if carrier.reference && is(b"image") => self.images += 1,
            None if carrier.reference => {
                self.unseen |= is(b"file") || is(b"document") || !carrier.mime.is_empty();
            }
            _ => {}
        }
    }
}

/// The address in the object around it.
fn address(value: Raw<'_>) -> Option<&[u8]> {
    let mut address = None;
    Cursor::new(value.0).members(|key, value| {
        let value = value.value()?;
        if key == b"url" {
            address = value.text();
        }
        Some(())
    })?;
    address
}

/// A key without its escapes; `None` where it has none.
fn plain(key: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'\\', key)?;
    let quoted = [b"\"", key, b"\""].concat();
    unquote(&quoted).ok().map(String::into_bytes)
}

/// A number that is not negative, rounded up.
fn number(value: Raw<'_>) -> Option<u64> {
    let number: f64 = std::str::from_utf8(value.0).ok()?.trim().parse().ok()?;
    // Saturates: what is larger than any count is refused by every upstream.
    (number >= 0.0).then_some(number.ceil() as u64)
}

/// Tokens of a text as tokenizers of byte pairs split it first: words, single digits and signs, and bytes beyond ASCII one by one.
/// A word counts a token for every two letters, a change of case begins another one, and a space belongs to the word behind it.
fn likely_tokens(text: &[u8]) -> u64 {
    let (mut tokens, mut letters, mut spaces) = (0u64, 0u64, 0u64);
    let mut before = 0u8;
    for &byte in text {
        let is_space = byte == b' ';
        let ends_word = !byte.is_ascii_alphabetic() || (byte.is_ascii_uppercase() && before.is_ascii_lowercase());
        if ends_word && letters > 0 {
            tokens += letters.div_ceil(2);
            letters = 0;
        }
        if byte.is_ascii_alphabetic() {
            letters += 1;
        } else if !is_space {
            tokens += 1;
        }
        // Of several spaces, all but the last are a token in pairs.
        if is_space {
            spaces += 1;
        } else if spaces > 0 {
            tokens += (spaces - 1).div_ceil(2);
            spaces = 0;
        }
        before = byte;
    }
    tokens + letters.div_ceil(2) + spaces.div_ceil(2)
}

#[cfg(test)]
mod tests;
