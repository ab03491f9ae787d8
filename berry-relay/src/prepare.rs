//! The few edits between a client's bytes and an upstream's, in both directions.

use std::sync::Arc;

use berry_core::config::snapshot::{Azure, Backend, Model, StreamUsage, Upstream as Kind};
use berry_core::operation::Operation;
use bytes::Bytes;

use crate::body::Edit;
use crate::client::Upstream;
use crate::error::ForwardError;
use crate::forward::{RelayRequest, RequestBody};
use crate::json::{Kind as JsonKind, Members, Scanner, quote};
use crate::params::{Control, Edited};
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
    let model = backend.upstream_model(request.body.model()).to_owned();
    match &mut request.body {
        RequestBody::Json { body, envelope } => {
            let usage_was_added = streams
                && operation.knows_stream_options()
                && !envelope.wants_usage
                && envelope.can_add_usage()
                && asks_for_usage(backend, upstream);
            let mut edits = envelope.edits(&model, usage_was_added);
            let body = if edits.is_empty() { body.clone() } else { body.splice(&mut edits) };
            let mut edited = Vec::new();
            let control = Control::new(&request.model.edits, &backend.edits, operation, &backend.provider.upstream);
            let body = control.apply(body, &mut edited);
            Ok(Prepared { body: UpstreamBody::from(body), usage_was_added, edited })
        }
        RequestBody::Form(form) => {
            Ok(Prepared { body: form.take(&model)?, usage_was_added: false, edited: Vec::new() })
        }
    }
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
        let mut scanner = Scanner::new(&["model"]);
        scanner.push(object).ok()?;
        let value = scanner.finish().ok()?.get("model").filter(|member| member.kind == JsonKind::String)?.value.clone();
        let start = data_at + object_at;
        Some(Bytes::from([&event.raw[..start + value.start], &self.0, &event.raw[start + value.end..]].concat()))
    }
}

/// The object that holds the model's name in events that wrap it: Responses in `response`, Messages in `message`.
fn nested(data: &[u8]) -> Option<(&[u8], usize)> {
    let mut scanner = Scanner::new(&["response", "message"]);
    scanner.push(data).ok()?;
    let members = scanner.finish().ok()?;
    let member = members.get("response").or_else(|| members.get("message"))?;
    (member.kind == JsonKind::Object).then(|| (&data[member.value.clone()], member.value.start))
}
