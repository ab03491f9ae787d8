//! Which calls can be translated to which upstreams, and the course of one translation.

use std::borrow::Cow;
use std::sync::Arc;

use berry_core::config::provider_data::RerankForm;
use berry_core::config::snapshot::{Backend, Provider};
use berry_core::operation::{Dialect, Operation};
use berry_core::usage::Usage;
use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::anthropic_messages::AnthropicMessages;
use super::embeddings;
use super::gemini_generate::GeminiGenerate;
use super::ir::{Block, Delta, Event, Part, Request, Response, ToolCall};
use super::loss::{Losses, Reason};
use super::openai_chat::OpenAiChat;
use super::openai_responses::OpenAiResponses;
use super::reader::StreamReader;
use super::rerank;
use super::steps;
use super::text::Text;
use super::{Codec, Malformed, Reply, StreamEncoder, Target, Wire, error, ids, issuer};
use crate::body::Chunks;
use crate::sse;

/// The codec of a format.
fn codec(wire: Wire) -> &'static dyn Codec {
    match wire {
        Wire::OpenAiChat => &OpenAiChat,
        Wire::OpenAiResponses => &OpenAiResponses,
        Wire::AnthropicMessages => &AnthropicMessages,
        Wire::GeminiGenerate => &GeminiGenerate,
    }
}

/// The format of a client's call, where it is one that asks a model for an answer.
fn client_wire(operation: Operation) -> Option<Wire> {
    match operation {
        Operation::ChatCompletions => Some(Wire::OpenAiChat),
        Operation::Responses => Some(Wire::OpenAiResponses),
        Operation::Messages => Some(Wire::AnthropicMessages),
        Operation::GenerateContent | Operation::StreamGenerateContent | Operation::StreamGenerateContentArray => {
            Some(Wire::GeminiGenerate)
        }
        _ => None,
    }
}

/// The dialects that a call can be translated to, beside its own.
pub fn reachable(operation: Operation) -> &'static [Dialect] {
    match client_wire(operation) {
        None if operation == Operation::Embeddings => &[Dialect::Gemini],
        None => &[],
        Some(Wire::OpenAiChat | Wire::OpenAiResponses) => &[Dialect::Anthropic, Dialect::Gemini],
        Some(Wire::AnthropicMessages) => &[Dialect::OpenAi, Dialect::Gemini],
        Some(Wire::GeminiGenerate) => &[Dialect::OpenAi, Dialect::Anthropic],
    }
}

/// The call that is made at a provider for a client's `operation`; the operation itself where nothing is translated.
pub fn upstream_operation(operation: Operation, provider: &Provider, streams: bool) -> Operation {
    let dialect = provider.upstream.dialect();
    if operation == Operation::Responses && dialect == Dialect::OpenAi && !provider.responses {
        return Operation::ChatCompletions;
    }
    if operation.dialect() == dialect || !reachable(operation).contains(&dialect) {
        return operation;
    }
    match dialect {
        _ if operation == Operation::Embeddings => Operation::BatchEmbedContents,
        Dialect::OpenAi => Operation::ChatCompletions,
        Dialect::Anthropic => Operation::Messages,
        Dialect::Gemini if streams => Operation::StreamGenerateContent,
        Dialect::Gemini => Operation::GenerateContent,
    }
}

/// Whether a client's `operation` has to be translated for a provider.
pub fn is_needed(operation: Operation, provider: &Provider, streams: bool) -> bool {
    match operation {
        Operation::Rerank => foreign_ranking(provider).is_some(),
        _ => upstream_operation(operation, provider, streams) != operation,
    }
}

/// The form of ranking that a provider insists on. Where it has the common one, or is not known, requests pass as they are.
fn foreign_ranking(provider: &Provider) -> Option<RerankForm> {
    let rerank = provider.vendor.as_ref()?.rerank.as_ref()?;
    Some(rerank.form).filter(|form| *form != RerankForm::Jina && provider.upstream.dialect() == Dialect::OpenAi)
}

/// A client's request, read once.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    request: Request,
    losses: Losses,
    /// Tokens of its input, roughly.
    estimate: u64,
    /// For a request for vectors, what it asks for; nothing of the rest is meant then.
    vectors: Option<Arc<embeddings::Request>>,
    /// For a request for a ranking, what it asks for; nothing of the rest is meant then.
    ranking: Option<Arc<rerank::Request>>,
}

impl Decoded {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`]: not a request of its dialect.
    pub fn read(operation: Operation, streams: bool, body: &Bytes) -> Result<Self, Malformed> {
        if operation == Operation::Embeddings {
            let vectors = embeddings::Request::read(body)?;
            let estimate = vectors.estimate();
            return Ok(Self { estimate, vectors: Some(Arc::new(vectors)), ..Self::default() });
        }
        if operation == Operation::Rerank {
            let ranking = rerank::Request::read(body)?;
            let estimate = ranking.estimate();
            return Ok(Self { estimate, ranking: Some(Arc::new(ranking)), ..Self::default() });
        }
        let codec = client_wire(operation).map(codec);
        let codec = codec.ok_or_else(|| Malformed::new("", "this call cannot be translated"))?;
        let mut losses = Losses::default();
        let mut request = codec.decode_request(body, &mut losses)?;
        // Gemini says it in the path.
        request.stream = streams;
        let estimate = estimate(&request);
        Ok(Self { request, losses, estimate, ..Self::default() })
    }
}

impl Decoded {
    /// Whether it holds opaque state that some backend issued.
    pub fn has_state(&self) -> bool {
        self.request.turns.iter().flat_map(|turn| &turn.parts).any(|part| match part {
            Part::Text(text) => text.signature.is_some(),
            Part::ToolCall(call) => call.signature.is_some(),
            Part::Thinking(thinking) => thinking.signature.is_some(),
            Part::RedactedThinking(_) => true,
            _ => false,
        })
    }

    /// Leaves its opaque state out from now on.
    pub fn forget_state(&mut self) {
        claim(&mut self.request, "", &mut self.losses);
    }
}

/// Characters that make a token, roughly, in English and code.
const BYTES_PER_TOKEN: u64 = 4;
/// Tokens that a picture or a page costs, roughly.
const TOKENS_PER_IMAGE: u64 = 1000;

/// Input tokens of a request by a rule of thumb, where nobody counts.
pub fn estimate(request: &Request) -> u64 {
    fn of_parts(parts: &[Part]) -> u64 {
        parts.iter().map(of_part).sum()
    }
    fn of_part(part: &Part) -> u64 {
        match part {
            Part::Text(text) => text.text.raw().len() as u64,
            Part::Thinking(thinking) => thinking.text.raw().len() as u64,
            Part::Refusal(text) => text.raw().len() as u64,
            Part::ToolCall(call) => (call.name.len() + call.arguments.as_text().raw().len()) as u64,
            Part::ToolResult(result) => of_parts(&result.parts),
            Part::Image(_) | Part::Document(_) | Part::Audio(_) => TOKENS_PER_IMAGE * BYTES_PER_TOKEN,
            Part::RedactedThinking(_) | Part::Unknown(_) => 0,
        }
    }
    let system: u64 = request.system.iter().map(|block| block.text.raw().len() as u64).sum();
    let turns: u64 = request.turns.iter().map(|turn| of_parts(&turn.parts)).sum();
    let tools = request.tools.iter().map(|tool| {
        let description = tool.description.as_ref().map_or(0, |text| text.raw().len());
        let parameters = tool.parameters.as_ref().map_or(0, |json| json.raw().len());
        (tool.name.len() + description + parameters) as u64
    });
    (system + turns + tools.sum::<u64>()).div_ceil(BYTES_PER_TOKEN).max(1)
}

/// Input tokens of a body of Anthropic's token counting, estimated.
///
/// # Errors
/// [`Malformed`]: not a request of that dialect.
pub fn count_messages(body: &Bytes) -> Result<u64, Malformed> {
    AnthropicMessages.decode_request(body, &mut Losses::default()).map(|request| estimate(&request))
}

/// Who issues opaque state at a provider: its kind, and which account, as a digest of its table key.
fn issuer_of(provider: &Provider) -> String {
    format!("{}/{:08x}", provider.upstream.dialect().as_str(), ids::digest(provider.id.as_str().as_bytes()) as u32)
}

/// What the answer of a translation is to look like.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Our name for the request.
    pub request_id: String,
    /// The public name of the model, where answers must carry it.
    pub public_model: Option<String>,
    /// The name that the client asked for.
    pub asked_model: String,
    /// Unix time of the request, seconds.
    pub created: u64,
}

/// A plain answer in the client's form.
pub struct Translated {
    /// Its body.
    pub body: Bytes,
    /// What was used; `None` where that is to be read in the upstream's answer.
    pub usage: Option<Usage>,
}

/// The translation of one attempt: the request is written, the answer is yet to be read.
#[derive(Clone)]
pub struct Translation {
    client: &'static dyn Codec,
    upstream: &'static dyn Codec,
    reply: Reply,
    /// Who answers.
    provider: Arc<Provider>,
    /// Names of tools as the upstream was told them, with those of the client, where they differ.
    names: Vec<(String, String)>,
    vectors: Option<Arc<embeddings::Request>>,
    ranking: Option<Arc<rerank::Request>>,
}

impl Translation {
    /// The translation of `decoded` for a backend that does not have the call itself; `None` where there is none.
    pub fn new(decoded: &Decoded, operation: Operation, backend: &Backend, asked: Asked) -> Option<Self> {
        let upstream = upstream_operation(operation, &backend.provider, decoded.request.stream);
        let reply = Reply {
            request_id: asked.request_id,
            model: asked.public_model,
            asked_model: asked.asked_model,
            created: asked.created,
            stream_usage: decoded.request.wants_stream_usage,
            estimated_input: decoded.estimate,
        };
        Some(Self {
            // A request for vectors shares the form of errors with these.
            client: codec(client_wire(operation).unwrap_or(Wire::OpenAiChat)),
            upstream: codec(client_wire(upstream).unwrap_or(Wire::GeminiGenerate)),
            reply,
            provider: Arc::clone(&backend.provider),
            names: names(&decoded.request),
            vectors: decoded.vectors.clone(),
            ranking: decoded.ranking.clone(),
        })
    }

    /// Writes the client's request for `model` of the backend. `output_max` is what the public model assumes where a request states
    /// no limit on its output; `losses` gets everything that was not carried.
    ///
    /// # Errors
    /// [`Malformed`]: it cannot be said there.
    pub fn request(
        &self,
        decoded: &Decoded,
        backend: &Backend,
        (model, output_max): (&str, Option<u64>),
        ask_usage: bool,
        losses: &mut Losses,
    ) -> Result<Chunks, Malformed> {
        if let Some(vectors) = &decoded.vectors {
            return Ok(vectors.for_gemini(model, losses));
        }
        if let (Some(ranking), Some(form)) = (&decoded.ranking, foreign_ranking(&backend.provider)) {
            return Ok(ranking.write(form, model, losses));
        }
        losses.extend(&decoded.losses);
        let mut request = Cow::Borrowed(&decoded.request);
        if decoded.has_state() {
            claim(request.to_mut(), &issuer_of(&self.provider), losses);
        }
        let assumed = backend.edits.max_output_tokens.or(output_max);
        if request.max_tokens.is_none() && assumed.is_some() {
            request.to_mut().max_tokens = assumed;
        }
        let capabilities = backend.capabilities_of(model);
        let target = Target { model, capabilities: &capabilities, own_state: true, ask_usage };
        self.upstream.encode_request(&request, &target, losses)
    }

    /// Whether it reads all of a plain answer, what was used included, and refuses what is none.
    pub fn reads_answers(&self) -> bool {
        self.vectors.is_none() && self.ranking.is_none()
    }

    /// The client's form of a plain answer.
    ///
    /// # Errors
    /// [`Malformed`]: it is no answer.
    pub fn answer(&self, body: &Bytes) -> Result<Translated, Malformed> {
        let model = self.reply.model.as_ref().unwrap_or(&self.reply.asked_model);
        if let Some(vectors) = &self.vectors {
            // The upstream's answer has no place to say what was used.
            let usage = Usage { input_tokens: Some(vectors.estimate()), estimated: true, ..Usage::default() };
            return Ok(Translated { body: vectors.answer(body, model)?, usage: Some(usage) });
        }
        if let Some(ranking) = &self.ranking {
            return Ok(Translated { body: ranking.answer(body, model)?, usage: None });
        }
        Ok(said(self.decoded(body)?, self.client, &self.reply))
    }

    /// A stream as the plain answer of the client's dialect that was asked for.
    ///
    /// # Errors
    /// [`Malformed`]: it is no stream, or not a whole one.
    pub fn stream_as_answer(&self, body: &Bytes) -> Result<Translated, Malformed> {
        Ok(said(self.named(gathered(self.upstream, body)?), self.client, &self.reply))
    }

    /// A plain answer as the stream of the client's dialect that was asked for.
    ///
    /// # Errors
    /// [`Malformed`]: it is no answer.
    pub fn answer_as_stream(&self, body: &Bytes) -> Result<Translated, Malformed> {
        Ok(streamed(self.decoded(body)?, self.client, &self.reply))
    }

    /// What a plain answer means, with the client's names in it.
    fn decoded(&self, body: &Bytes) -> Result<Response, Malformed> {
        Ok(self.named(self.upstream.decode_response(body)?))
    }

    fn named(&self, mut response: Response) -> Response {
        for part in response.candidates.iter_mut().flat_map(|candidate| &mut candidate.parts) {
            match part {
                Part::Thinking(thinking) => self.tag(&mut thinking.signature),
                Part::RedactedThinking(data) => *data = issuer::tag(data, &issuer_of(&self.provider)),
                Part::Text(text) => self.tag(&mut text.signature),
                Part::ToolCall(ToolCall { name, signature, .. }) => {
                    self.tag(signature);
                    self.rename(name);
                }
                _ => {}
            }
        }
        response
    }

    /// The client's form of an error answer.
    pub fn error(&self, status: StatusCode, body: &Bytes) -> (StatusCode, Bytes) {
        let error = error::of_answer(status.as_u16(), body, &self.provider.errors);
        let (told, body) = self.client.encode_error(&error, status.as_u16(), &self.reply.request_id);
        (StatusCode::from_u16(told).unwrap_or(status), body)
    }

    /// A translator for a streamed answer.
    pub fn stream(&self) -> StreamTranslator {
        StreamTranslator {
            reader: StreamReader::new(self.upstream),
            encoder: self.client.stream_encoder(&self.reply),
            translation: self.clone(),
            events: Vec::new(),
            finished: false,
            failed: false,
        }
    }

    fn tag(&self, signature: &mut Option<Text>) {
        if let Some(signature) = signature {
            *signature = issuer::tag(signature, &issuer_of(&self.provider));
        }
    }

    fn rename(&self, name: &mut String) {
        if let Some((_, own)) = self.names.iter().find(|(told, _)| told == name) {
            name.clone_from(own);
        }
    }

    fn mend(&self, event: &mut Event) {
        match event {
            Event::Open { block: Block::ToolCall { name, signature, .. }, .. } => {
                self.tag(signature);
                self.rename(name);
            }
            Event::Open { block: Block::RedactedThinking(data), .. } => {
                *data = issuer::tag(data, &issuer_of(&self.provider))
            }
            Event::Delta { delta: Delta::Signature(signature), .. } => {
                *signature = issuer::tag(signature, &issuer_of(&self.provider))
            }
            _ => {}
        }
    }
}

/// A plain answer of a call as the stream that it should have been.
///
/// # Errors
/// [`Malformed`]: it is no answer, or one of a call that cannot be written here. Of the Responses API none can: its names for an
/// answer are those by which clients come back to the upstream.
pub fn as_stream(operation: Operation, body: &Bytes, reply: &Reply) -> Result<Translated, Malformed> {
    let codec = written_here(operation)?;
    Ok(streamed(codec.decode_response(body)?, codec, reply))
}

/// A stream of a call as the plain answer that it should have been.
///
/// # Errors
/// As [`as_stream`].
pub fn as_answer(operation: Operation, body: &Bytes, reply: &Reply) -> Result<Translated, Malformed> {
    let codec = written_here(operation)?;
    Ok(said(gathered(codec, body)?, codec, reply))
}

/// The codec of a call whose answers can be written here in its own dialect.
fn written_here(operation: Operation) -> Result<&'static dyn Codec, Malformed> {
    let wire = client_wire(operation).filter(|wire| *wire != Wire::OpenAiResponses);
    wire.map(codec).ok_or_else(|| Malformed::new("", "this call cannot be translated"))
}

/// What a whole stream means.
fn gathered(codec: &dyn Codec, body: &Bytes) -> Result<Response, Malformed> {
    let (mut reader, mut events) = (StreamReader::new(codec), Vec::new());
    for event in sse::events(body) {
        reader.push(&event, body, &mut events)?;
    }
    reader.finish(&mut events);
    steps::answer_of(events)
}

fn said(response: Response, client: &dyn Codec, reply: &Reply) -> Translated {
    Translated { body: client.encode_response(&response, reply), usage: Some(response.usage) }
}

/// A whole answer as a stream of the client's dialect.
fn streamed(response: Response, client: &dyn Codec, reply: &Reply) -> Translated {
    let (mut encoder, mut body, usage) = (client.stream_encoder(reply), BytesMut::new(), response.usage);
    response.into_events().into_iter().for_each(|event| encoder.push(event, &mut body));
    encoder.finish(&mut body);
    Translated { body: body.freeze(), usage: Some(usage) }
}

/// Leaves of the opaque state what this issuer issued; nothing of it for no issuer.
fn claim(request: &mut Request, issued_by: &str, losses: &mut Losses) {
    let mut own = |signature: &mut Option<Text>| {
        let kept = signature.as_ref().filter(|_| !issued_by.is_empty());
        let kept = kept.and_then(|signature| issuer::own(signature, issued_by));
        if signature.is_some() && kept.is_none() {
            losses.add("messages.signature", Reason::Foreign);
        }
        *signature = kept;
    };
    for turn in &mut request.turns {
        turn.parts.retain_mut(|part| {
            match part {
                Part::Text(text) => own(&mut text.signature),
                Part::ToolCall(call) => own(&mut call.signature),
                Part::Thinking(thinking) => own(&mut thinking.signature),
                Part::RedactedThinking(data) => {
                    let mut kept = Some(data.clone());
                    own(&mut kept);
                    match kept {
                        Some(kept) => *data = kept,
                        None => return false,
                    }
                }
                _ => {}
            }
            true
        });
    }
}

/// The tools whose names no dialect but the client's allows.
fn names(request: &Request) -> Vec<(String, String)> {
    let lengths = [ids::OPENAI_NAME_MAX, ids::ANTHROPIC_NAME_MAX];
    let told = request.tools.iter().flat_map(|tool| lengths.map(|max| (ids::tool_name(&tool.name, max), &tool.name)));
    told.filter(|(told, own)| told != *own).map(|(told, own)| (told.into_owned(), own.clone())).collect()
}

/// Translates one streamed answer.
pub struct StreamTranslator {
    reader: StreamReader,
    encoder: Box<dyn StreamEncoder>,
    translation: Translation,
    events: Vec<Event>,
    finished: bool,
    failed: bool,
}

impl StreamTranslator {
    /// The client's frames for an event of the upstream, which lies in `bytes`; often none.
    ///
    /// # Errors
    /// [`Malformed`]: not an event of its dialect.
    pub fn push(&mut self, event: &sse::Event<'_>, bytes: &Bytes, out: &mut BytesMut) -> Result<(), Malformed> {
        self.reader.push(event, bytes, &mut self.events)?;
        self.write(out);
        Ok(())
    }

    /// Whether the client was told an error.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The end of a stream that ended well.
    pub fn finish(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.reader.finish(&mut self.events);
        self.write(out);
        self.encoder.finish(out);
    }

    fn write(&mut self, out: &mut BytesMut) {
        for mut event in self.events.drain(..) {
            self.failed |= matches!(event, Event::Error(_));
            self.translation.mend(&mut event);
            self.encoder.push(event, out);
        }
    }
}
