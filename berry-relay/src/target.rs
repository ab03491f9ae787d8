//! Where a request goes and with which headers: URL styles and key headers of the upstream kinds.
//!
//! Azure's three styles follow Microsoft's REST reference (2025): `openai/deployments/{deployment}/…?api-version=` with an
//! `api-key` header; `openai/v1/…` with the deployment in `model`; `models/…?api-version=` of the inference endpoint. The
//! Responses API of the dated style is not below a deployment. Gemini has `models/{model}:{action}`; its streams are always asked for
//! as events, whatever framing the client wants.

use berry_core::config::snapshot::{Azure, AzureStyle, KeyHeader, Provider, Upstream};
use berry_core::operation::Operation;
use berry_core::secret::Secret;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Uri, uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Address that the demo upstream goes by; nothing is ever looked up or sent there.
const DEMO_BASE: &str = "http://demo.invalid/v1";

/// What may stand in one path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The base address of a provider.
fn base(provider: &Provider) -> Uri {
    match &provider.upstream {
        Upstream::OpenAi { base } | Upstream::Anthropic { base, .. } | Upstream::Gemini { base } => base.clone(),
        Upstream::Azure(azure) => azure.base.clone(),
        Upstream::Demo(_) => Uri::from_static(DEMO_BASE),
    }
}

/// Scheme and authority of a provider: what its connections depend on.
pub(crate) fn origin(provider: &Provider) -> Uri {
    let mut parts = base(provider).into_parts();
    parts.path_and_query = Some(uri::PathAndQuery::from_static("/"));
    Uri::from_parts(parts).expect("scheme, authority and `/` make an address")
}

/// Whether the model's name is part of the URL of `operation`.
pub(crate) fn names_model(provider: &Provider, operation: Operation) -> bool {
    match &provider.upstream {
        Upstream::Azure(azure) => azure.style == AzureStyle::Deployments && operation != Operation::Responses,
        Upstream::Gemini { .. } => true,
        _ => false,
    }
}

/// The path, with its query, of `operation` for `model` at a provider.
///
/// # Errors
/// When the parts do not make a URL; `compile` has checked the base, so this means a hostile model name.
pub(crate) fn url(provider: &Provider, operation: Operation, model: &str) -> Result<Uri, http::Error> {
    let call = operation.upstream_path();
    if operation == Operation::Rerank
        && let Some(path) = ranking_path(provider)
    {
        let mut parts = base(provider).into_parts();
        parts.path_and_query = Some(path.parse()?);
        return Ok(Uri::from_parts(parts)?);
    }
    match &provider.upstream {
        Upstream::Azure(Azure { style: AzureStyle::Deployments, .. }) if names_model(provider, operation) => {
            below(provider, &format!("openai/deployments/{}/{call}", utf8_percent_encode(model, SEGMENT)))
        }
        Upstream::Azure(Azure { style: AzureStyle::Deployments, .. }) => below(provider, &format!("openai/{call}")),
        Upstream::Gemini { .. } => {
            let framing = if operation.always_streams() { "?alt=sse" } else { "" };
            below(provider, &format!("models/{}:{call}{framing}", utf8_percent_encode(model, SEGMENT)))
        }
        _ => below(provider, call),
    }
}

/// Where a vendor ranks, if that is not below its base.
fn ranking_path(provider: &Provider) -> Option<&str> {
    let rerank = provider.vendor.as_ref()?.rerank.as_ref()?;
    rerank.path.as_deref().filter(|_| matches!(provider.upstream, Upstream::OpenAi { .. }))
}

/// A path below the provider's base, with the query that goes with every call there.
///
/// # Errors
/// When the parts do not make a URL.
pub(crate) fn below(provider: &Provider, path: &str) -> Result<Uri, http::Error> {
    let base = base(provider);
    let root = base.path().trim_end_matches('/');
    let version = match &provider.upstream {
        Upstream::Azure(azure) => azure.api_version.as_deref(),
        _ => None,
    };
    let target = match version {
        Some(version) => format!("{root}/{path}?api-version={}", utf8_percent_encode(version, SEGMENT)),
        None => format!("{root}/{path}"),
    };
    Ok(Uri::from(target.parse::<uri::PathAndQuery>()?))
}

/// The header that carries our key; none for keyless servers.
pub(crate) fn key_header(provider: &Provider) -> Option<(HeaderName, HeaderValue)> {
    if provider.api_key.is_empty() {
        return None;
    }
    let kind = match &provider.upstream {
        Upstream::OpenAi { .. } | Upstream::Demo(_) => KeyHeader::Bearer,
        Upstream::Azure(azure) => azure.auth,
        Upstream::Anthropic { auth, .. } => *auth,
        Upstream::Gemini { .. } => KeyHeader::XGoogApiKey,
    };
    let (name, value) = match kind {
        KeyHeader::Bearer => (AUTHORIZATION, sensitive(&format!("Bearer {}", provider.api_key.expose()))),
        KeyHeader::ApiKey => (HeaderName::from_static("api-key"), secret(&provider.api_key)),
        KeyHeader::XApiKey => (HeaderName::from_static("x-api-key"), secret(&provider.api_key)),
        KeyHeader::XGoogApiKey => (HeaderName::from_static("x-goog-api-key"), secret(&provider.api_key)),
    };
    Some((name, value?))
}

fn secret(key: &Secret) -> Option<HeaderValue> {
    sensitive(key.expose())
}

/// `compile` refuses keys that no header can carry, so `None` is not met in a running server.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
