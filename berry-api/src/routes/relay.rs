//! API calls that go to a backend: the data path.
//!
//! The checks come in the order of the contract: method, token, size, coding, body and model, permission, limits. Each refusal costs
//! nothing of what comes after it. No layers, no extractors: this is the code that every request pays for.

use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Backend, Ledger, Model, Server, User};
use berry_core::end_user;
use berry_core::error::ErrorKind;
use berry_core::id::RequestId;
use berry_core::operation::{BodyForm, Dialect, Operation};
use berry_relay::answer::Answer;
use berry_relay::body::{Chunks, Edit};
use berry_relay::dialect::Malformed;
use berry_relay::dialect::translate;
use berry_relay::envelope::{Envelope, EnvelopeError};
use berry_relay::exchange::{self, End, Exchange};
use berry_relay::forward::{Refusal, Relay, RelayRequest, RequestBody};
use berry_relay::json::MARK;
use berry_relay::multipart::{self, Form, FormError, FormScanner};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri};
use http_body::Body;

use crate::admission::{self, Admitted};
use crate::app::{App, Runtime};
use crate::bodies::Logged;
use crate::cluster::Patience;
use crate::decisions::Recorder;
use crate::error::ApiError;
use crate::intake::{Reader, Timed};
use crate::quotas::write_standing;
use crate::reply::{BoxError, Content};
use crate::routes::{gemini, responses};
use crate::server::connection::Connection;
use crate::{bodies, cluster, gate, intake};

const PROVIDER: HeaderName = HeaderName::from_static("x-berry-provider");
const MODEL: HeaderName = HeaderName::from_static("x-berry-model");
const ESTIMATED: HeaderName = HeaderName::from_static("x-berry-estimated");
const LOSS: HeaderName = HeaderName::from_static("x-berry-loss");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-berry-attempts");

/// Serves one API call, whose record `exchange` is.
pub async fn serve<B>(
    app: &App,
    runtime: Arc<Runtime>,
    connection: &Connection,
    mut exchange: Exchange,
    parts: &mut Parts,
    body: B,
) -> Response<Content>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let wishes = Wishes::read(&parts.headers);
    exchange.trace = app.traces.begin(wishes.traced.then_some(&parts.headers));
    exchange.client_request_id = wishes.request_id.as_ref().and_then(exchange::client_request_id);
    exchange.labels = wishes.labels.as_ref().and_then(exchange::labels);
    let mut body = Some(body);
    let admitted = admit(app, &runtime, connection, &mut exchange, &wishes, parts, &mut body).await;
    let request = match admitted {
        Ok(request) => request,
        Err(mut error) => {
            if let Some(body) = &mut body {
                error.close = error.close || !intake::discard(body, parts, connection).await;
            }
            return refuse(exchange, &error);
        }
    };
    // The clock is asked only where something may want to know.
    let may_be_limited = request.user.limits.is_some() || !runtime.snapshot.tags.is_empty();
    let now = if may_be_limited { exchange.now() } else { exchange.started };
    let operation = exchange.operation;
    let decide = |patience, now| admission::admit(app, &runtime, &request, operation, patience, now);
    let decided = match decide(Patience::Fresh, now) {
        Err(refused) if refused.is_unasked() => Box::pin(cluster::ask(app, &request.user, decide)).await,
        decided => decided,
    };
    let standing = match decided {
        Ok(Admitted { held, standing }) => {
            if let Some(held) = held {
                exchange.hold(held);
            }
            standing
        }
        Err(refused) => {
            let mut response = refuse(exchange, &refused.error());
            if let Some(standing) = refused.standing() {
                write_standing(response.headers_mut(), standing, operation.dialect(), now, app.wall());
            }
            return response;
        }
    };
    let mut response = forward(app, &runtime, request, wishes.explain, exchange).await;
    if let Some(standing) = &standing {
        write_standing(response.headers_mut(), standing, operation.dialect(), now, app.wall());
    }
    response
}

/// Sends an admitted request on and answers it.
async fn forward(
    app: &App,
    runtime: &Runtime,
    request: Box<RelayRequest>,
    explain: bool,
    mut exchange: Exchange,
) -> Response<Content> {
    if let Some(count) = count_here(exchange.operation, &request) {
        return counted(exchange, count);
    }
    let id = exchange.request_id;
    bodies::request(&runtime.snapshot, &id, &request.body);
    let show_route = runtime.snapshot.server.berry_headers;
    let model = Arc::clone(&request.model);
    let relay = match request.user.admin && explain {
        true => recording(app, runtime, &request.user, &exchange),
        false => Arc::clone(&runtime.relay),
    };
    exchange.explained = !Arc::ptr_eq(&relay, &runtime.relay);
    match relay.forward(request, exchange).await {
        Ok(answer) => {
            let response = reply(answer, show_route.then_some(&*model));
            if bodies::answers_are_logged(&runtime.snapshot) {
                return response.map(|content| logged(content, id, runtime));
            }
            response
        }
        Err(Refusal { error, exchange }) => {
            let (backend, attempts) = (exchange.backend.clone(), exchange.attempts);
            let mut response = refuse(exchange, &ApiError::of_relay(&error));
            if response.status().is_server_error() {
                tracing::warn!(request_id = id.as_str(), error = error.with_cause(), "request failed");
            }
            if show_route {
                write_route(response.headers_mut(), &model, backend.as_deref(), Some(attempts));
            }
            response
        }
    }
}

/// An answer that is logged when it is over.
#[cold]
fn logged(content: Content, id: RequestId, runtime: &Runtime) -> Content {
    match content {
        Content::Relayed(body) => Content::Logged(Box::new(Logged::new(body, id, Arc::clone(&runtime.snapshot)))),
        other => other,
    }
}

/// What the headers ask of the gateway itself, found in one look at them, since most requests ask nothing. Of a header that
/// stands there twice the first counts.
#[derive(Default)]
struct Wishes {
    coding: Option<HeaderValue>,
    timeout: Option<HeaderValue>,
    provider: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    labels: Option<HeaderValue>,
    /// Something is said of a trace.
    traced: bool,
    /// `x-berry-explain: 1`, which only administrators may say; of others it is ignored.
    explain: bool,
}

impl Wishes {
    fn read(headers: &HeaderMap) -> Self {
        let mut wishes = Self::default();
        for (name, value) in headers {
            let wish = match name.as_str() {
                "content-encoding" => &mut wishes.coding,
                "x-berry-backend" => &mut wishes.provider,
                "x-request-id" => &mut wishes.request_id,
                "x-berry-labels" => &mut wishes.labels,
                "x-request-timeout" => &mut wishes.timeout,
                "traceparent" | "tracestate" => {
                    wishes.traced = true;
                    continue;
                }
                "x-berry-explain" => {
                    wishes.explain |= value.as_bytes() == b"1";
                    continue;
                }
                _ => continue,
            };
            wish.get_or_insert_with(|| value.clone());
        }
        wishes
    }
}

/// A relay that keeps the choices of one request for `/admin/explain`.
#[cold]
fn recording(app: &App, runtime: &Runtime, user: &User, exchange: &Exchange) -> Arc<Relay> {
    let recorder = Recorder {
        selector: Arc::clone(&runtime.selector),
        decisions: Arc::clone(&app.decisions),
        request_id: exchange.request_id,
        started: exchange.started,
        user: user.id.clone(),
    };
    Arc::new(runtime.relay.with_selector(Arc::new(recorder)))
}

/// Every check before the relay. The body stays where it is, unless what is left of it streams on.
async fn admit<B>(
    app: &App,
    runtime: &Runtime,
    connection: &Connection,
    exchange: &mut Exchange,
    wishes: &Wishes,
    parts: &mut Parts,
    body: &mut Option<B>,
) -> Result<Box<RelayRequest>, ApiError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    if parts.method != Method::POST {
        return Err(method_not_allowed(&parts.method));
    }
    let snapshot = &runtime.snapshot;
    let user = gate::authenticate(app, snapshot, connection, &exchange.request_id, parts)?;
    exchange.user = Some(Arc::clone(&user));
    app.ledger.admit(&snapshot.ledger)?;
    let incoming = body.as_mut().expect("taken at the end only");
    intake::check_declared_size(incoming, &snapshot.server)?;
    check_coding(wishes.coding.as_ref())?;
    let timeout = wishes.timeout.as_ref().map(timeout).transpose()?;

    let mut permit = app.buffers.permit();
    let reader = Reader::new(incoming, &snapshot.server, &mut permit);
    let asked = match exchange.operation.body_form() {
        BodyForm::Json => read_json(reader, exchange.operation, &parts.uri).await?,
        BodyForm::Multipart => Box::pin(read_form(reader, &parts.headers)).await?,
    };
    exchange.stream = asked.stream;
    exchange.end_user = end_user(&asked.body, &snapshot.ledger);
    let model = permitted(runtime, &user, asked.body.model())?;
    exchange.requested = model.pattern.is_some().then(|| asked.body.model().into());
    exchange.model = Some(Arc::clone(&model));
    let provider = match asked.backend {
        Some(provider) => Some(provider),
        None => wishes.provider.as_ref().map(forced_provider).transpose()?,
    };
    let provider = match &asked.previous_response {
        Some(previous) if exchange.operation == Operation::Responses => {
            Some(issuer_of(app, &user, previous, provider.as_deref())?)
        }
        _ => provider,
    };
    // Boxed, because it moves from hand to hand.
    Ok(Box::new(RelayRequest {
        user,
        model,
        provider,
        body: asked.body.finish(body, &parts.headers, &snapshot.server)?,
        decoded: None,
        headers: std::mem::take(&mut parts.headers),
        permit,
        timeout,
    }))
}

/// The client's own user, in the form in which the ledger records it; not looked for where there is no ledger.
fn end_user(asked: &Read, ledger: &Ledger) -> Option<Box<str>> {
    match asked {
        Read::Json(body, envelope) if ledger.is_on() => {
            let name = envelope.end_user(body)?;
            Some(if ledger.hash_end_users { end_user::hashed(&name) } else { name }.into_boxed_str())
        }
        _ => None,
    }
}

/// What a body says, as far as it was read.
struct Asked {
    stream: bool,
    backend: Option<String>,
    previous_response: Option<String>,
    body: Read,
}

/// A body as far as it was read.
enum Read {
    Json(Chunks, Box<Envelope>),
    /// With its model.
    Form(Chunks, Box<FormScanner>, String),
}

impl Read {
    /// The model's name as the client wrote it.
    fn model(&self) -> &str {
        match self {
            Self::Json(_, envelope) => &envelope.model,
            Self::Form(_, _, model) => model,
        }
    }

    /// Together with what is still arriving.
    fn finish<B>(self, rest: &mut Option<B>, headers: &HeaderMap, server: &Server) -> Result<RequestBody, ApiError>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        match self {
            Self::Json(body, envelope) => Ok(RequestBody::Json { body, envelope }),
            Self::Form(held, scanner, _) => {
                let rest = rest.take().filter(|rest| !rest.is_end_stream());
                let rest = rest.map(|rest| Timed::new(rest, server));
                let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
                let form = Form::new(held, rest, *scanner, length, server.max_body_bytes);
                Ok(RequestBody::Form(Box::new(form.map_err(|error| unreadable_form(&error))?)))
            }
        }
    }
}

async fn read_json<B>(reader: Reader<'_, B>, operation: Operation, uri: &Uri) -> Result<Asked, ApiError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let mut body = reader.read_whole().await?;
    // It means nothing, and most upstreams refuse it.
    if body.slice(0..MARK.len()) == MARK {
        body = body.splice(&mut [Edit { range: 0..MARK.len(), replacement: Bytes::new() }]);
    }
    let envelope = match gemini::call(uri) {
        Some((_, model)) if operation.dialect() == Dialect::Gemini => Envelope::read_gemini(&body, model, operation),
        _ => Envelope::read(&body),
    };
    let mut envelope = Box::new(envelope.map_err(|error| unreadable(&error))?);
    Ok(Asked {
        stream: envelope.stream,
        backend: envelope.backend.take(),
        previous_response: envelope.previous_response.take(),
        body: Read::Json(body, envelope),
    })
}

/// Reads a form as far as its model and the fields beside it. A file that comes after them is not held.
async fn read_form<B>(mut reader: Reader<'_, B>, headers: &HeaderMap) -> Result<Asked, ApiError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let boundary = multipart::boundary(content_type).map_err(|error| unreadable_form(&error))?;
    let mut scanner = FormScanner::new(&boundary);
    let mut held = Chunks::default();
    while !scanner.is_settled() {
        let Some(piece) = reader.next().await? else { break };
        scanner.push(&piece).map_err(|error| unreadable_form(&error))?;
        held.push(piece);
    }
    if scanner.model().is_none() || reader.is_at_end() {
        scanner.finish().map_err(|error| unreadable_form(&error))?;
    }
    let model = scanner.model().ok_or_else(|| unreadable_form(&FormError::MissingModel))?.to_owned();
    Ok(Asked {
        stream: false,
        backend: scanner.backend().map(str::to_owned),
        previous_response: None,
        body: Read::Form(held, Box::new(scanner), model),
    })
}

fn unreadable_form(error: &FormError) -> ApiError {
    let (kind, field) = match error {
        FormError::MissingModel => (ErrorKind::MissingModel, Some("model")),
        FormError::Repeated(field) | FormError::BadField(field) => (ErrorKind::InvalidRequest, Some(*field)),
        FormError::Boundary | FormError::Malformed(_) => (ErrorKind::InvalidRequest, None),
        FormError::TooLarge(_) => (ErrorKind::PayloadTooLarge, None),
    };
    ApiError { param: field, ..ApiError::new(kind, error.to_string()) }
}

/// The model by any of its names, where the user may use it. One that does not exist is 404 for everybody.
fn permitted(runtime: &Runtime, user: &User, name: &str) -> Result<Arc<Model>, ApiError> {
    let model = runtime.snapshot.models.find(name);
    let model = model.ok_or_else(|| ApiError::model_not_found(name))?;
    if !user.models.allows(&model.id, &model.name, &model.aliases) && !user.models.allows_name(name) {
        return Err(ApiError::model_denied(name));
    }
    Ok(Arc::clone(model))
}

fn check_coding(coding: Option<&HeaderValue>) -> Result<(), ApiError> {
    // Some clients name the character set here, or nothing at all.
    const NONE: [&[u8]; 4] = [b"identity", b"", b"utf-8", b"utf8"];
    match coding {
        None => Ok(()),
        Some(coding) if NONE.iter().any(|none| coding.as_bytes().eq_ignore_ascii_case(none)) => Ok(()),
        Some(_) => Err(ApiError::new(
            ErrorKind::UnsupportedEncoding,
            "Request bodies with a content-encoding are not accepted. Send the body as it is.",
        )),
    }
}

/// `x-request-timeout`: seconds, fractions allowed.
fn timeout(value: &HeaderValue) -> Result<Duration, ApiError> {
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match timeout.filter(|timeout| !timeout.is_zero()) {
        Some(timeout) => Ok(timeout),
        None => Err(ApiError::new(
            ErrorKind::InvalidRequest,
            "The header x-request-timeout must be a number of seconds above 0, such as `30` or `2.5`.",
        )
        .on("x-request-timeout")),
    }
}

/// The provider that a conversation has to go on at: the one that holds its earlier response.
fn issuer_of(app: &App, user: &User, previous: &str, forced: Option<&str>) -> Result<String, ApiError> {
    let issuer = app.issued.of_user(previous, &user.id);
    let issuer = issuer.filter(|issuer| forced.is_none_or(|forced| forced == issuer.as_str()));
    let issuer = issuer.ok_or_else(|| responses::unknown().on("previous_response_id"))?;
    Ok(issuer.as_str().to_owned())
}

fn forced_provider(value: &HeaderValue) -> Result<String, ApiError> {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(provider) => Ok(provider.trim().to_owned()),
        Err(_) => {
            Err(ApiError::new(ErrorKind::UnknownBackend, "The header x-berry-backend is not text.").on("backend"))
        }
    }
}

fn method_not_allowed(method: &Method) -> ApiError {
    ApiError {
        allow: Some("POST"),
        ..ApiError::new(ErrorKind::MethodNotAllowed, format!("This path does not know {method}. Use POST."))
    }
}

/// A body that cannot be understood.
fn unreadable(error: &EnvelopeError) -> ApiError {
    let kind = match error {
        EnvelopeError::Syntax { .. } | EnvelopeError::Empty | EnvelopeError::NotAnObject => ErrorKind::InvalidJson,
        EnvelopeError::MissingModel => ErrorKind::MissingModel,
        EnvelopeError::WrongType { .. } | EnvelopeError::BadText { .. } | EnvelopeError::Repeated { .. } => {
            ErrorKind::InvalidRequest
        }
    };
    ApiError { param: error.field(), ..ApiError::new(kind, error.to_string()) }
}

/// Ends the record of a request that gets an error of ours, and says it.
fn refuse(mut exchange: Exchange, error: &ApiError) -> Response<Content> {
    let response = error.respond(exchange.operation.dialect(), &exchange.request_id);
    exchange.status = response.status().as_u16();
    exchange.end = End::Failed(error.kind);
    response.map(Content::Whole)
}

/// The tokens of a request of Anthropic's token counting, where no backend of the model can count them.
fn count_here(operation: Operation, request: &RelayRequest) -> Option<Result<u64, Malformed>> {
    let counts = |backend: &Arc<Backend>| {
        backend.enabled && backend.provider.enabled && backend.provider.upstream.dialect() == Dialect::Anthropic
    };
    match &request.body {
        RequestBody::Json { body, .. }
            if operation == Operation::CountTokens && !request.model.backends.iter().any(counts) =>
        {
            Some(translate::count_messages(&body.clone().into_bytes()))
        }
        _ => None,
    }
}

/// Says an estimate of ours, marked as one.
fn counted(mut exchange: Exchange, count: Result<u64, Malformed>) -> Response<Content> {
    let count = match count {
        Ok(count) => count,
        Err(error) => return refuse(exchange, &ApiError::new(ErrorKind::InvalidRequest, error.to_string())),
    };
    exchange.status = 200;
    exchange.end = End::Complete;
    let mut response = Response::new(Content::Whole(Bytes::from(format!("{{\"input_tokens\":{count}}}"))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(ESTIMATED, HeaderValue::from_static("1"));
    response
}

/// The answer with our headers.
fn reply(answer: Answer, show_route: Option<&Model>) -> Response<Content> {
    let loss = answer.loss().and_then(|loss| HeaderValue::try_from(loss.header()).ok());
    let route = show_route.map(|model| (model, answer.backend().cloned(), answer.attempts()));
    let Answer { status, headers, body } = answer;
    let mut response = Response::new(Content::Relayed(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(loss) = loss {
        response.headers_mut().insert(LOSS, loss);
    }
    if let Some((model, backend, attempts)) = route {
        write_route(response.headers_mut(), model, backend.as_deref(), attempts);
    }
    response
}

/// Which way the request went. A name that no header can carry is left out.
fn write_route(headers: &mut HeaderMap, model: &Model, backend: Option<&Backend>, attempts: Option<u32>) {
    let provider = backend.map(|backend| (PROVIDER, &backend.provider.id_header));
    for (name, value) in [(MODEL, &model.name_header)].into_iter().chain(provider) {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    match attempts {
        None => {}
        Some(1) => {
            headers.insert(ATTEMPTS, HeaderValue::from_static("1"));
        }
        Some(attempts) => {
            headers.insert(ATTEMPTS, HeaderValue::from(attempts));
        }
    }
}
