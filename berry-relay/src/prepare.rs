//! The few edits between a client's bytes and an upstream's, in both directions.

use std::sync::Arc;

use berry_core::config::snapshot::{Azure, Backend, LossPolicy, Model, StreamUsage, Upstream as Kind};
use berry_core::operation::{Dialect, Operation};
use bytes::Bytes;

use crate::body::Edit;
use crate::client::Upstream;
use crate::dialect::loss::{Losses, Reason};
use crate::dialect::translate::{self, Asked, Decoded, Translation};
use crate::dialect::{Malformed, Reply};
use crate::error::ForwardError;
use crate::exchange::Facts;
use crate::forward::{RelayRequest, RequestBody};
use crate::headers;
use crate::json::{Kind as JsonKind, Members, Scanner, Wanted, quote};
use crate::params::{Control, Edited};
use crate::repair;
use crate::sse::Event;
use crate::upstream_body::UpstreamBody;

/// First dated version of Azure's API that knows `stream_options` (Microsoft's API lifecycle page, 2024).
const AZURE_KNOWS_STREAM_OPTIONS: &str = "2024-09-01-preview";

/// A body made ready for one backend.
pub(crate) struct Prepared {
    pub(crate) body: UpstreamBody,
    /// Whether `include_usage` was put in, so that its chunk must be hidden again.
    pub(crate) usage_was_added: bool,
    /// What the operator's settings did to its parameters.
    pub(crate) edited: Vec<Edited>,
}

/// Makes the upstream's body from the client's.
///
/// # Errors
/// A form whose rest was sent before and cannot be sent again.
pub(crate) fn request(
    backend: &Backend,
    upstream: &Upstream,
    operation: Operation,
    streams: bool,
    request: &mut RelayRequest,
) -> Result<Prepared, ForwardError> {
    match &mut request.body {
        RequestBody::Json { body, envelope } => {
            let model = backend.upstream_model(&envelope.model);
            let usage_was_added = streams
                && operation.knows_stream_options()
                && !envelope.wants_usage
                && envelope.can_add_usage()
                && asks_for_usage(backend, upstream);
            let mut edits = envelope.edits(model, usage_was_added);
            let body = if edits.is_empty() { body.clone() } else { body.splice(&mut edits) };
            let mut edited = Vec::new();
            let control = Control::new(&request.model.edits, &backend.edits, operation, &backend.provider.upstream);
            let body = control.apply(body, &mut edited);
            let body = repair::apply(body, &upstream.repairs.of(&backend.id.upstream), &mut edited);
            Ok(Prepared { body: UpstreamBody::from(body), usage_was_added, edited })
        }
        RequestBody::Form(form) => {
            let model = backend.upstream_model(form.model()).to_owned();
            Ok(Prepared { body: form.take(&model)?, usage_was_added: false, edited: Vec::new() })
        }
    }
}

/// Makes the upstream's body from a translation of the client's request.
///
/// # Errors
/// [`ForwardError::Untranslatable`]: it cannot be said there, or not whole where the model asks for that.
pub(crate) fn translated(
    backend: &Backend,
    upstream: &Upstream,
    translation: &Translation,
    request: &RelayRequest,
    facts: &mut Facts,
) -> Result<Prepared, ForwardError> {
    let untranslatable = |why: String| ForwardError::Untranslatable { backend: backend.id.clone(), why };
    let decoded = request.decoded.as_ref().ok_or_else(|| untranslatable("the body was not read".to_owned()))?;
    let operation = translate::upstream_operation(facts.operation, &backend.provider, facts.stream);
    let usage_was_added = facts.stream && operation.knows_stream_options() && asks_for_usage(backend, upstream);
    let model = backend.upstream_model(request.body.model());
    let mut losses = Losses::default();
    let body = translation.request(
        decoded,
        backend,
        (model, request.model.edits.max_output_tokens),
        usage_was_added,
        &mut losses,
    );
    let body = body.map_err(|error| untranslatable(error.to_string()))?;
    if facts.operation.dialect() == Dialect::Anthropic && request.headers.contains_key(headers::BETA) {
        losses.add("anthropic-beta", Reason::Unsupported);
    }
    if request.model.loss_policy == LossPolicy::Reject && !losses.is_empty() {
        let fields = losses.fields();
        return Err(untranslatable(format!(
            "The request cannot be carried whole to a backend of another dialect, which this model asks for \
             (loss_policy = \"reject\"). Leave out or change: {fields}."
        )));
    }
    facts.loss = (!losses.is_empty()).then(|| Box::new(losses));
    let mut edited = Vec::new();
    let control = Control::new(&request.model.edits, &backend.edits, operation, &backend.provider.upstream);
    let body = control.apply(body, &mut edited);
    let body = repair::apply(body, &upstream.repairs.of(&backend.id.upstream), &mut edited);
    Ok(Prepared { body: UpstreamBody::from(body), usage_was_added, edited })
}

/// Declares the values of `anthropic-beta` that the vendor of a backend of the client's own dialect must not get.
///
/// # Errors
/// [`ForwardError::Untranslatable`]: there are some, and the model asks for requests to be carried whole.
pub(crate) fn declare_betas(backend: &Backend, request: &RelayRequest, facts: &mut Facts) -> Result<(), ForwardError> {
    let Some(vendor) = backend.provider.vendor.as_ref().filter(|vendor| !vendor.betas.pass_all()) else {
        return Ok(());
    };
    let mut losses = Losses::default();
    for beta in headers::betas(&request.headers).filter(|beta| vendor.betas.name_of(beta).is_none()) {
        losses.below("anthropic-beta", beta, Reason::Unsupported);
    }
    if losses.is_empty() {
        return Ok(());
    }
    if request.model.loss_policy == LossPolicy::Reject {
        let why = format!("This backend does not take all of anthropic-beta. Leave out: {}.", losses.fields());
        return Err(ForwardError::Untranslatable { backend: backend.id.clone(), why });
    }
    facts.loss = Some(Box::new(losses));
    Ok(())
}

/// The translation that a backend needs, if it speaks another dialect. The client's body is read once.
///
/// # Errors
/// [`ForwardError::Untranslatable`]: the body is not what its dialect says.
pub(crate) fn translation(
    backend: &Backend,
    request: &mut RelayRequest,
    facts: &Facts,
) -> Result<Option<Box<Translation>>, ForwardError> {
    let RequestBody::Json { body, .. } = &request.body else { return Ok(None) };
    if !translate::is_needed(facts.operation, &backend.provider, facts.stream) {
        return Ok(None);
    }
    let decoded = match &mut request.decoded {
        Some(decoded) => decoded,
        none => {
            let read = Decoded::read(facts.operation, facts.stream, &body.clone().into_bytes());
            let why =
                |error: Malformed| ForwardError::Untranslatable { backend: backend.id.clone(), why: error.to_string() };
            none.insert(Box::new(read.map_err(why)?))
        }
    };
    let asked = Asked {
        request_id: facts.request_id.as_str().to_owned(),
        public_model: public_name(facts),
        asked_model: request.body.model().to_owned(),
        created: unix_seconds(),
    };
    Ok(Translation::new(decoded, facts.operation, backend, asked).map(Box::new))
}

/// The name of the model that an answer must carry; none where the upstream's stays.
fn public_name(facts: &Facts) -> Option<String> {
    let model = facts.model.as_ref().filter(|model| model.rewrite_response_model)?;
    Some(model.name.as_str().to_owned()).filter(|name| !name.contains('*'))
}

/// What an answer is to look like that is written here in the client's own dialect.
pub(crate) fn reply_to(facts: &Facts, stream_usage: bool) -> Reply {
    let name = || facts.model.as_ref().map(|model| model.name.as_str().to_owned());
    Reply {
        request_id: facts.request_id.as_str().to_owned(),
        model: public_name(facts),
        asked_model: facts.requested.as_deref().map(str::to_owned).or_else(name).unwrap_or_default(),
        created: unix_seconds(),
        stream_usage,
        estimated_input: 0,
    }
}

/// The time that answers carry; nothing is decided by it.
fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether a stream of this backend is asked for its usage.
fn asks_for_usage(backend: &Backend, upstream: &Upstream) -> bool {
    match backend.provider.stream_usage {
        StreamUsage::On => true,
        StreamUsage::Off => false,
        StreamUsage::Auto => {
            let dated_before = match &backend.provider.upstream {
                Kind::Azure(Azure { api_version: Some(version), .. }) => version.as_str() < AZURE_KNOWS_STREAM_OPTIONS,
                _ => false,
            };
            !dated_before && !upstream.refuses_stream_options(&backend.id.upstream)
        }
    }
}

/// The public name of a model as JSON, for answers that must carry it.
#[derive(Clone, Debug)]
pub(crate) struct PublicModel(Bytes);

impl PublicModel {
    /// The name to put into answers; none where the upstream's name stays. A pattern has no name of its own to put there.
    pub(crate) fn wanted(model: Option<&Arc<Model>>) -> Option<Self> {
        model
            .filter(|model| model.rewrite_response_model && !model.name.as_str().contains('*'))
            .map(|model| Self(Bytes::from(quote(model.name.as_str()))))
    }

    /// The edit of a plain answer, when it names a model.
    pub(crate) fn edit(&self, members: &Members) -> Option<Edit> {
        let member = members.get("model").filter(|member| member.kind == JsonKind::String)?;
        Some(Edit { range: member.value.clone(), replacement: self.0.clone() })
    }

    /// An event with this name in it; none when it names no model. The data must stand on one line, as it does everywhere.
    pub(crate) fn rename_event(&self, event: &Event<'_>) -> Option<Bytes> {
        let data = event.data.as_deref()?;
        let data_at = memchr::memmem::find(event.raw, data)?;
        let (object, object_at) = nested(data).unwrap_or((data, 0));
        let mut scanner = Scanner::new(const { &Wanted::new(&["model"]) });
        scanner.push(object).ok()?;
        let value = scanner.finish().ok()?.get("model").filter(|member| member.kind == JsonKind::String)?.value.clone();
        let start = data_at + object_at;
        Some(Bytes::from([&event.raw[..start + value.start], &self.0, &event.raw[start + value.end..]].concat()))
    }
}

/// The object that holds the model's name in events that wrap it: Responses in `response`, Messages in `message`.
fn nested(data: &[u8]) -> Option<(&[u8], usize)> {
    let mut scanner = Scanner::new(const { &Wanted::new(&["response", "message"]) });
    scanner.push(data).ok()?;
    let members = scanner.finish().ok()?;
    let member = members.get("response").or_else(|| members.get("message"))?;
    (member.kind == JsonKind::Object).then(|| (&data[member.value.clone()], member.value.start))
}
