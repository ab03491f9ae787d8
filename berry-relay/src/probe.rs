//! Asks an upstream whether it is there: the models list, which costs nothing, or a one-token chat.
//!
//! [`ask`] asks one question and tells what came; [`check`] asks what a backend's `health_check` wants and judges it by the table
//! that also judges the answers to clients.
//!
//! Not here: asking a model for what it is made for. A backend that serves only embeddings, at an upstream whose models list does
//! not name it, cannot be proved by a chat; `health_check = "models"` or `"connect"` is for those.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::provider_data::ErrorTable;
use berry_core::config::snapshot::{Azure, AzureStyle, Backend, HealthCheck, Provider, Upstream as Kind};
use berry_core::operation::{Dialect, Operation};
use berry_core::usage::Usage;
use berry_loadbalance::breaker::Verdict;
use berry_loadbalance::outcome::FailureClass;
use berry_loadbalance::probe::Answer;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use crate::body::Chunks;
use crate::client::Upstreams;
use crate::error::root_cause;
use crate::json::{Scanner, Wanted, unmarked};
use crate::pool::{Choice, SendError};
use crate::upstream_body::UpstreamBody;
use crate::{decode, disposition, meter, retry_after, target};

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
    /// What the answer used, as far as it says so.
    pub usage: Usage,
    /// What a backend's health follows from; `None` = the question was at fault, not the upstream.
    judged: Option<Answer>,
}

impl Finding {
    fn new(response: http::response::Parts, body: &[u8], latency: Duration, errors: &ErrorTable) -> Self {
        let (status, body) = (response.status, unmarked(body));
        let judged = match status.is_success() {
            true if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => Some(Answer::Good),
            // A page of a proxy, or of something that is no API at all.
            true => Some(Answer::Failed { class: FailureClass::Server, retry_after: None }),
            false => failure(status, body, retry_after::of(&response.headers, body), errors),
        };
        Self { status, latency, models: model_names(body), usage: usage(body), judged }
    }
}

/// The usage that a chat reports.
fn usage(body: &[u8]) -> Usage {
    let chunks = Chunks::from(Bytes::copy_from_slice(body));
    let mut scanner = Scanner::new(const { &Wanted::new(&["usage", "usageMetadata"]) });
    match scanner.push(body).and_then(|()| scanner.finish()) {
        Ok(members) => meter::usage_of_answer(&chunks, &members),
        Err(_) => Usage::default(),
    }
}

/// What an error status says about the backend.
fn failure(status: StatusCode, body: &[u8], retry_after: Option<Duration>, errors: &ErrorTable) -> Option<Answer> {
    let judged = disposition::of(status, body, retry_after, errors);
    let class = match (judged.class?, judged.consequence.and_then(|consequence| consequence.circuit)) {
        // A refusal that names no reason is one failure like any other; only a bad key opens the circuit at once.
        (FailureClass::Auth, Some(Verdict::Strike)) => FailureClass::Server,
        (class, _) => class,
    };
    Some(Answer::Failed { class, retry_after })
}

/// What a check of a backend came to.
#[derive(Debug)]
pub struct Checked {
    /// For its health.
    pub answer: Answer,
    /// For a person: a status or the reason why there is none.
    pub detail: String,
    /// What a chat used, where one was sent; nothing where it was not answered.
    pub chat: Option<Usage>,
}

impl Checked {
    fn new(answer: Answer, detail: impl Into<String>) -> Self {
        Self { answer, detail: detail.into(), chat: None }
    }

    fn of_error(error: &ProbeError) -> Self {
        Self::new(Answer::Failed { class: error.class(), retry_after: None }, error.to_string())
    }

    fn of(finding: &Finding) -> Self {
        // A request that the upstream finds fault with was read by something that knows the API.
        Self::new(finding.judged.unwrap_or(Answer::Good), format!("status {}", finding.status.as_u16()))
    }
}

/// What came of a question for the models list. Cheap to hand to every backend that it is about.
pub type List = Arc<Result<Finding, ProbeError>>;

/// Asks a provider for its models list.
pub async fn list(upstreams: &Upstreams, provider: &Arc<Provider>, timeout: Duration) -> List {
    Arc::new(ask(upstreams, provider, Probe::Models, timeout).await)
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

impl ProbeError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Timeout(_) => FailureClass::Timeout,
            Self::Connection(_) | Self::Answer(_) => FailureClass::Network,
            Self::Disabled(_) | Self::Request(_) => FailureClass::Server,
        }
    }
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
        let (response, body) = match upstream.pool.send(request, Choice::Any, started + timeout).await {
            Err(SendError::TimedOut) => return Err(ProbeError::Timeout(timeout)),
            sent => sent?.into_parts(),
        };
        let body = Limited::new(body, ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(ProbeError::Answer)?.to_bytes();
        let body = decode::whole(&response.headers, body, ANSWER_BYTES_MAX);
        let body = body.map_err(|error| ProbeError::Answer(Box::new(error)))?;
        Ok(Finding::new(response, &body, started.elapsed(), &provider.errors))
    };
    tokio::time::timeout_at(started + timeout, answered).await.unwrap_or(Err(ProbeError::Timeout(timeout)))
}

/// Finds out how a backend does, by `method` and within `timeout`. `list` asks for the provider's models list, or knows it from
/// another backend's probe; it is polled only where the method wants one.
///
/// | method | asked | good |
/// |---|---|---|
/// | `models_then_chat` | the models list; a one-token chat unless it names the model or says enough | the list names the model, or the chat is answered |
/// | `models` | the models list | there is one |
/// | `chat` | a one-token chat | it is answered |
/// | `connect` | nothing | TCP, TLS and the handshake of the protocol come up |
///
/// What a list says enough with: a refused key (401), 429, 5xx, silence. A 403 does not: many keys may chat and not list. A 400 or
/// 422 to the chat counts as good, since only an API that knows the model finds fault with parameters.
///
/// A provider that is not probed by its list alone may be asked for it all the same, where no tokens are to be spent (`smart_ai`);
/// then a missing list is no fault.
pub async fn check(
    upstreams: &Upstreams,
    backend: &Backend,
    method: HealthCheck,
    timeout: Duration,
    list: impl Future<Output = List>,
) -> Checked {
    match method {
        HealthCheck::Off => Checked::new(Answer::Good, "not probed"),
        HealthCheck::Connect => connect(upstreams, backend, timeout).await,
        HealthCheck::Chat => chat(upstreams, backend, timeout).await,
        HealthCheck::Models | HealthCheck::ModelsThenChat => match &*list.await {
            Ok(finding) if method == HealthCheck::ModelsThenChat && !proves(finding, backend) => {
                chat(upstreams, backend, timeout).await
            }
            Ok(finding) => judge_list(finding, &backend.provider),
            Err(error) => Checked::of_error(error),
        },
    }
}

async fn connect(upstreams: &Upstreams, backend: &Backend, timeout: Duration) -> Checked {
    let provider = &backend.provider.id;
    let opened = async {
        let upstream = upstreams.get(provider).ok_or_else(|| ProbeError::Disabled(provider.clone()))?;
        Ok(upstream.pool.open().await?)
    };
    let opened = tokio::time::timeout(timeout, opened).await.unwrap_or(Err(ProbeError::Timeout(timeout)));
    match opened {
        Ok(_) => Checked::new(Answer::Good, "connected"),
        Err(error) => Checked::of_error(&error),
    }
}

async fn chat(upstreams: &Upstreams, backend: &Backend, timeout: Duration) -> Checked {
    let model = backend.id.upstream.as_str();
    match ask(upstreams, &backend.provider, Probe::Chat(model), timeout).await {
        Ok(finding) => Checked { chat: Some(finding.usage), ..Checked::of(&finding) },
        Err(error) => Checked { chat: Some(Usage::default()), ..Checked::of_error(&error) },
    }
}

/// Whether the models list says enough of a backend: it names the model, or something is wrong.
fn proves(finding: &Finding, backend: &Backend) -> bool {
    let model = backend.id.upstream.as_str();
    let named = finding.models.as_ref().is_some_and(|models| models.iter().any(|name| name == model));
    !is_no_list(finding) && (named || !finding.status.is_success())
}

fn judge_list(finding: &Finding, provider: &Provider) -> Checked {
    if !is_no_list(finding) {
        return Checked::of(finding);
    }
    if provider.health_check != HealthCheck::Models {
        return Checked::new(Answer::Good, "there, without a models list");
    }
    let failed = Answer::Failed { class: FailureClass::Server, retry_after: None };
    Checked::new(failed, format!("status {}, no models list", finding.status.as_u16()))
}

/// Whether the answer to the question for the models says neither which there are nor that something is wrong.
fn is_no_list(finding: &Finding) -> bool {
    let status = finding.status.as_u16();
    match status {
        200..300 => finding.models.is_none(),
        401 | 408 | 429 => false,
        501 => true,
        _ => status < 500,
    }
}

fn build(provider: &Provider, probe: Probe<'_>) -> Result<Request<UpstreamBody>, http::Error> {
    let (method, url, body) = match probe {
        Probe::Models => (Method::GET, models_url(provider)?, Chunks::default()),
        Probe::Chat(model) => {
            let (operation, body) = one_token(provider.upstream.dialect(), model);
            (Method::POST, target::url(provider, operation, model)?, Chunks::from(body))
        }
    };
    let mut request = Request::new(UpstreamBody::from(body));
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
        Dialect::OpenAi => Operation::ChatCompletions,
        Dialect::Anthropic => Operation::Messages,
        Dialect::Gemini => {
            let body = serde_json::json!({
                "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
                "generationConfig": {"maxOutputTokens": 1},
            });
            return (Operation::GenerateContent, Bytes::from(body.to_string()));
        }
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
        // The defaults of these two are pages of 20 and of 50 models.
        _ if provider.upstream.dialect() == Dialect::Anthropic => target::below(provider, "models?limit=1000"),
        _ if provider.upstream.dialect() == Dialect::Gemini => target::below(provider, "models?pageSize=1000"),
        _ => target::below(provider, "models"),
    }
}

/// The ids of `{"data": [{"id": …}]}`, or the names of Gemini's `{"models": [{"name": "models/…"}]}`. Together gives the list alone,
/// llama.cpp both at once, and many give a model a name to be shown beside its id.
fn model_names(body: &[u8]) -> Option<Vec<String>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let list = [&body["data"], &body["models"], &body].into_iter().find_map(Value::as_array)?;
    let name = |item: &Value| {
        let name = [&item["id"], &item["name"], item].into_iter().find_map(Value::as_str)?;
        Some(name.strip_prefix("models/").unwrap_or(name).to_owned())
    };
    let names: Vec<String> = list.iter().filter_map(name).collect();
    (list.is_empty() || !names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_models_is_read_in_every_form_that_servers_write_it() {
        for list in [
            r#"{"object":"list","data":[{"id":"a"},{"id":"b","object":"model"}]}"#,
            r#"{"data":[{"id":"a","name":"The A"},{"name":"The B","id":"b"}]}"#,
            r#"{"models":[{"name":"models/a","displayName":"A"},{"name":"models/b"}]}"#,
            r#"{"models":[{"name":"x","model":"x"}],"object":"list","data":[{"id":"a"},{"id":"b"}]}"#,
            r#"[{"id":"a","object":"model"},{"id":"b"}]"#,
            r#"{"models":["a","b"]}"#,
            r#"{"data":[{"id":"a"},{"object":"model"},{"id":"b"}]}"#,
        ] {
            assert_eq!(model_names(list.as_bytes()), Some(vec!["a".to_owned(), "b".to_owned()]), "{list}");
        }
        assert_eq!(model_names(br#"{"data":[]}"#), Some(Vec::new()));
        for none in [r#"{"error":"x"}"#, r#"{"data":null}"#, r#"[{"message":"x"}]"#, "17", "<html>"] {
            assert_eq!(model_names(none.as_bytes()), None, "{none}");
        }
    }
}
