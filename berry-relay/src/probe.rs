//! Asks an upstream whether it is there: the models list, which costs nothing, or a one-token chat.

use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Azure, AzureStyle, Provider, Upstream as Kind};
use berry_core::operation::{Dialect, Operation};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};

use crate::body::Chunks;
use crate::client::Upstreams;
use crate::pool::{Choice, SendError};
use crate::target;
use crate::upstream_body::UpstreamBody;

/// Longest answer to a probe that is read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What to ask.
#[derive(Clone, Copy, Debug)]
pub enum Probe<'a> {
    /// Which models there are.
    Models,
    /// One token from this model.
    Chat(&'a str),
}

/// What an upstream said.
#[derive(Debug)]
pub struct Finding {
    /// Status of its answer.
    pub status: StatusCode,
    /// Start to the end of the answer.
    pub latency: Duration,
    /// Names in its models list, where that was asked and could be read.
    pub models: Option<Vec<String>>,
}

/// Why an upstream said nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It is disabled, so it has no client.
    #[error("provider {0} is disabled")]
    Disabled(berry_core::id::ProviderId),
    /// It could not be asked.
    #[error("{0}")]
    Request(#[from] http::Error),
    /// No connection, or it broke.
    #[error(transparent)]
    Connection(#[from] Unreachable),
    /// Its answer broke off or is too long.
    #[error("the answer cannot be read: {0}")]
    Answer(crate::error::BoxError),
    /// Silence.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The reason at the bottom of a failed connection.
#[derive(Debug, thiserror::Error)]
#[error("{}", root_cause(.0))]
pub struct Unreachable(#[source] SendError);

impl From<SendError> for ProbeError {
    fn from(error: SendError) -> Self {
        Self::Connection(Unreachable(error))
    }
}

/// Asks once, within `timeout`.
///
/// # Errors
/// [`ProbeError`] when there is no answer; an answer with an error status is a [`Finding`].
pub async fn ask(
    upstreams: &Upstreams,
    provider: &Arc<Provider>,
    probe: Probe<'_>,
    timeout: Duration,
) -> Result<Finding, ProbeError> {
    let upstream = upstreams.get(&provider.id).ok_or_else(|| ProbeError::Disabled(provider.id.clone()))?;
    let mut request = build(provider, probe)?;
    request.headers_mut().extend(upstream.headers.iter().cloned());
    let started = tokio::time::Instant::now();
    let answered = async {
        let response = upstream.pool.send(request, Choice::Any).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(ProbeError::Answer)?.to_bytes();
        Ok(Finding { status, latency: started.elapsed(), models: model_names(&body) })
    };
    tokio::time::timeout(timeout, answered).await.unwrap_or(Err(ProbeError::Timeout(timeout)))
}

fn build(provider: &Provider, probe: Probe<'_>) -> Result<Request<UpstreamBody>, http::Error> {
    let (method, url, body) = match probe {
        Probe::Models => (Method::GET, models_url(provider)?, Chunks::default()),
        Probe::Chat(model) => {
            let (operation, body) = one_token(provider.upstream.dialect(), model);
            (Method::POST, target::url(provider, operation, model)?, Chunks::from(body))
        }
    };
    let mut request = Request::new(UpstreamBody::Held(body));
    *request.method_mut() = method;
    *request.uri_mut() = url;
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if provider.upstream.dialect() == Dialect::Anthropic {
        let version = HeaderName::from_static("anthropic-version");
        request.headers_mut().insert(version, HeaderValue::from_static("2023-06-01"));
    }
    Ok(request)
}

/// The smallest chat that a dialect has.
fn one_token(dialect: Dialect, model: &str) -> (Operation, Bytes) {
    let operation = match dialect {
        Dialect::OpenAi | Dialect::Gemini => Operation::ChatCompletions,
        Dialect::Anthropic => Operation::Messages,
    };
    let body = serde_json::json!({
        "model": model,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "hi"}],
    });
    (operation, Bytes::from(body.to_string()))
}

fn models_url(provider: &Provider) -> Result<Uri, http::Error> {
    match &provider.upstream {
        Kind::Azure(Azure { style: AzureStyle::Deployments, .. }) => target::below(provider, "openai/models"),
        _ => target::below(provider, "models"),
    }
}

/// The ids of `{"data": [{"id": …}]}`, or the names of Gemini's `{"models": [{"name": "models/…"}]}`.
fn model_names(body: &[u8]) -> Option<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct List {
        #[serde(alias = "models")]
        data: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(alias = "name")]
        id: String,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    Some(list.data.into_iter().map(|item| item.id.strip_prefix("models/").unwrap_or(&item.id).to_owned()).collect())
}

/// The innermost cause says what happened; what is around it only says that it happened.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
