//! One try at one endpoint: send, wait under deadlines, and read as far as it takes to know whether this is an answer.
//!
//! A plain answer is held whole and must be JSON; a stream is read up to its first content event. Until then nothing has gone
//! to the client, so a failure can still be rescued elsewhere.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use berry_core::config::snapshot::{Backend, Commit};
use berry_core::operation::{BodyForm, Dialect, Operation, StreamFormat};
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::course::{self, Retry};
use berry_loadbalance::figures::Figures;
use berry_loadbalance::lease::{Lease, Remaining};
use berry_loadbalance::outcome::{FailureClass, Outcome};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt as _;

use crate::answer::{Answer, JsonArray, RelayBody};
use crate::body::Chunks;
use crate::buffer::BufferPermit;
use crate::client::{ConnectTimeout, Upstream};
use crate::decode::Decoder;
use crate::dialect::embeddings::{self, Encoding};
use crate::dialect::loss::Reason;
use crate::dialect::translate::{self, Translated, Translation};
use crate::disposition::{self, Disposition};
use crate::error::ForwardError;
use crate::exchange::{Exchange, Facts};
use crate::forward::{Deadline, Relay, RelayRequest};
use crate::json::{Kind, Members, Scanner, Wanted};
use crate::meter::told::Told;
use crate::meter::{EventClass, StreamTap};
use crate::objects::Issuer;
use crate::params::{Edited, How};
use crate::pool::{Choice, PooledBody, SendError};
use crate::prepare::{self, Prepared, PublicModel};
use crate::sse;
use crate::stream::{EventStream, Treatment};
use crate::upstream_body::UpstreamBody;
use crate::{headers, meter, repair, retry_after};

/// Longest error body that is passed on.
const ERROR_BODY_MAX: usize = 1024 * 1024;
/// How much of an error body is read for what it means.
const ERROR_BODY_READ_MAX: usize = 64 * 1024;
/// Members of a plain answer that are looked at.
static ANSWER_MEMBERS: Wanted =
    Wanted::new(&["model", "usage", "usageMetadata", "meta", "service_tier", "error", "id"]);

/// What an attempt came to: an answer that may go to the client.
pub(crate) struct Committed {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

/// The body of an answer.
enum Content {
    /// Held whole.
    Held(Chunks, BufferPermit),
    /// Events, of which the first ones are held.
    Events(Box<EventStream>, Lease),
    /// Bytes that pass as they come.
    Through(Box<Through>, Lease),
}

/// A body that is not looked into.
pub(crate) struct Through {
    pub(crate) incoming: PooledBody,
    pub(crate) decoder: Option<Decoder>,
    pub(crate) length: Option<u64>,
    pub(crate) idle: Duration,
    pub(crate) sent_at: Instant,
}

impl Committed {
    /// The answer with its record inside.
    pub(crate) fn into_answer(mut self, mut exchange: Exchange, relay: &Relay) -> Answer {
        exchange.status = self.status.as_u16();
        if exchange.operation == Operation::StreamGenerateContentArray {
            self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = match self.content {
            Content::Held(chunks, permit) => RelayBody::held(chunks, permit, exchange),
            Content::Events(events, lease) => RelayBody::events(events, lease, exchange, relay),
            Content::Through(through, lease) => RelayBody::through(through, lease, exchange),
        };
        Answer { status: self.status, headers: self.headers, body }
    }
}

/// A try that brought nothing for the client, or something that another backend may better.
pub(crate) struct Setback {
    /// Where.
    pub(crate) backend: Arc<Backend>,
    /// What went wrong.
    pub(crate) error: ForwardError,
    /// The upstream's own error answer, which the client gets when nothing better comes.
    pub(crate) answer: Option<Committed>,
    /// Where it may go better.
    pub(crate) retry: Retry,
}

impl Setback {
    /// What of it decides how to go on.
    pub(crate) fn at(&self, position: usize) -> course::Setback {
        let (class, retry_after) = (self.error.failure_class(), self.error.retry_after());
        course::Setback { position, retry: self.retry, class, retry_after }
    }

    /// Whether the request itself was refused, which is the last word on it.
    pub(crate) fn is_callers_fault(&self) -> bool {
        matches!(self.error, ForwardError::Rejected { class: None, .. })
    }

    /// Whether both are rate limits, and this one is known to be over before the other.
    pub(crate) fn is_sooner_than(&self, other: &Self) -> bool {
        let limits = self.is_rate_limit() && other.is_rate_limit();
        let until = |setback: &Self| setback.error.retry_after().unwrap_or(Duration::MAX);
        limits && until(self) < until(other)
    }

    fn is_rate_limit(&self) -> bool {
        self.error.failure_class() == Some(FailureClass::RateLimit)
    }
}

/// Runs one attempt, which begins now. The lease is told how it went; for a stream, when the stream ends.
pub(crate) async fn run(
    relay: &Relay,
    lease: Lease,
    request: &mut RelayRequest,
    sent_at: Instant,
    deadline: Deadline,
    exchange: &mut Exchange,
) -> Result<Committed, Box<Setback>> {
    let backend = Arc::clone(lease.backend());
    let Some(upstream) = relay.upstreams.get(&backend.provider.id) else {
        let error = ForwardError::Internal(format!("{}: no client for its provider", backend.id));
        return Err(Box::new(Setback { backend, error, answer: None, retry: Retry::No }));
    };
    let translation = match prepare::translation(&backend, request, exchange) {
        Ok(translation) => translation,
        Err(error) => return Err(Box::new(untranslatable(lease, backend, error, exchange))),
    };
    let streams = exchange.stream;
    let operation = match &translation {
        Some(_) => translate::upstream_operation(exchange.operation, &backend.provider, streams),
        None => exchange.operation,
    };
    exchange.loss = None;
    let encoding = request.body.encoding();
    let attempt = Attempt { relay, upstream, operation, translation, streams, encoding, sent_at, deadline, backend };
    match attempt.send(request, exchange).await {
        Ok((head, reply)) => {
            let remaining = retry_after::remaining(&head.headers);
            if remaining != Remaining::default() {
                lease.learn_remaining(remaining, exchange.now());
            }
            if let Reply::Held(answer, _) = &reply
                && head.status.is_success()
                && exchange.usage.output_tokens.is_none()
            {
                estimate(answer, request, exchange);
            }
            attempt.conclude(head, reply, lease, exchange)
        }
        Err(error @ ForwardError::Untranslatable { .. }) => {
            Err(Box::new(untranslatable(lease, attempt.backend, error, exchange)))
        }
        Err(error) => {
            let retry = if error.failure_class().is_some() { Retry::Anywhere } else { Retry::No };
            let now = exchange.now();
            match error.failure_class() {
                Some(class) => tell(lease, Outcome::Failure { class, retry_after: None }, now, exchange),
                None => exchange.end_try(Outcome::Cancelled, now),
            }
            Err(Box::new(Setback { backend: attempt.backend, error, answer: None, retry }))
        }
    }
}

/// Counts what a plain answer used whose upstream does not tell, from what was sent and what came. Nothing where no text came.
fn estimate(answer: &Chunks, request: &RelayRequest, exchange: &mut Exchange) {
    let is_vectors = makes_vectors(exchange.operation);
    let is_text = exchange.operation.stream_format() != StreamFormat::Opaque;
    let output = if is_text { meter::likely_answer_tokens(answer) } else { 0 };
    if output == 0 && !(is_vectors && exchange.usage.input_tokens.is_none()) {
        return;
    }
    exchange.prompt_tokens = request.body.json().map(meter::likely_tokens);
    let output_tokens = is_text.then_some(output);
    let usage = Usage { output_tokens, estimated: true, ..exchange.usage };
    exchange.note_used(usage);
}

/// The bit of a kind of call among those that a backend has answered.
fn bit(operation: Operation) -> u32 {
    const { assert!(Operation::ALL.len() <= u32::BITS as usize, "a bit for each") };
    1 << operation as u32
}

fn makes_vectors(operation: Operation) -> bool {
    matches!(operation, Operation::Embeddings | Operation::EmbedContent | Operation::BatchEmbedContents)
}

/// A request that this backend cannot be told: nothing was sent, and one of another dialect may take it.
fn untranslatable(lease: Lease, backend: Arc<Backend>, error: ForwardError, exchange: &mut Exchange) -> Setback {
    let now = exchange.now();
    tell(lease, Outcome::CallerFault, now, exchange);
    Setback { backend, error, answer: None, retry: Retry::Elsewhere }
}

/// Tells the endpoint and the record how an attempt ended.
pub(crate) fn tell(lease: Lease, outcome: Outcome, now: Instant, facts: &mut Facts) {
    lease.report(outcome, now);
    facts.end_try(outcome, now);
}

/// Declares what settings and repairs changed of what the client had said. A default takes nothing away.
fn declare_edits(facts: &mut Facts) {
    for Edited { name, how } in &facts.edited {
        let reason = match how {
            How::Defaulted => continue,
            How::Overridden => Reason::Overridden,
            How::Dropped => Reason::Dropped,
            How::Repaired => Reason::Repaired,
        };
        facts.loss.get_or_insert_default().add(name.clone(), reason);
    }
}

/// What one attempt works with.
struct Attempt<'a> {
    relay: &'a Relay,
    upstream: &'a Upstream,
    backend: Arc<Backend>,
    /// The call as it is made there.
    operation: Operation,
    /// For a backend of another dialect than the client's.
    translation: Option<Box<Translation>>,
    streams: bool,
    /// How the client wants vectors to be written.
    encoding: Encoding,
    sent_at: Instant,
    /// End of the time for the whole request.
    deadline: Deadline,
}

/// Status and headers of an upstream's answer.
struct Head {
    status: StatusCode,
    headers: HeaderMap,
}

impl Head {
    fn committed(self, content: Content) -> Committed {
        Committed { status: self.status, headers: headers::response(&self.headers), content }
    }

    /// Whether the content type begins with `kind`; parameters and case do not count.
    fn is(&self, kind: &str) -> bool {
        self.headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.as_bytes().get(..kind.len()))
            .is_some_and(|start| start.eq_ignore_ascii_case(kind.as_bytes()))
    }

    fn declared_length(&self) -> Option<u64> {
        self.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

/// The body that came with a head.
enum Reply {
    Held(Chunks, BufferPermit),
    Events(Box<EventStream>),
    Through(Box<Through>),
}

/// A look at a plain answer while it arrives: whether it is JSON, and where what it is judged by stands.
struct Check {
    scanner: Scanner,
    is_wrong: bool,
}

impl Check {
    fn new() -> Self {
        Self { scanner: Scanner::new(&ANSWER_MEMBERS), is_wrong: false }
    }

    /// The look at an answer that is here.
    fn of(body: &Chunks) -> Option<Members> {
        let mut check = Self::new();
        body.iter().for_each(|chunk| check.push(chunk));
        check.finish()
    }

    fn push(&mut self, piece: &[u8]) {
        self.is_wrong = self.is_wrong || self.scanner.push(piece).is_err();
    }

    /// `None` = not JSON.
    fn finish(self) -> Option<Members> {
        if self.is_wrong { None } else { self.scanner.finish().ok() }
    }
}

impl Attempt<'_> {
    /// Tells the lease what a whole answer says of its backend, and decides whether it may go to the client.
    fn conclude(
        &self,
        head: Head,
        reply: Reply,
        mut lease: Lease,
        exchange: &mut Exchange,
    ) -> Result<Committed, Box<Setback>> {
        if let Some(figures) = exchange.figures.as_deref().filter(|_| head.status.is_success()) {
            figures.note_served(bit(self.operation));
        }
        let (chunks, permit) = match reply {
            Reply::Events(events) => {
                let now = exchange.now();
                lease.first_token(now.since(self.sent_at), now);
                exchange.note_first_content(now);
                let mut head = head;
                if self.translation.is_some() {
                    head.headers = headers::translated(std::mem::take(&mut head.headers), "text/event-stream");
                }
                return Ok(head.committed(Content::Events(events, lease)));
            }
            Reply::Through(through) => return Ok(head.committed(Content::Through(through, lease))),
            Reply::Held(chunks, permit) => (chunks, permit),
        };
        let now = exchange.now();
        if head.status.is_success() {
            let latency = now.since(self.sent_at);
            lease.used_tokens(exchange.usage.total(), now);
            exchange.note_first_content(now);
            tell(lease, Outcome::Success { ttft: Some(latency), latency }, now, exchange);
            return Ok(head.committed(Content::Held(chunks, permit)));
        }
        let body = chunks.slice(0..chunks.len().min(ERROR_BODY_READ_MAX));
        let retry_after = retry_after::of(&head.headers, &body);
        let mut disposition = disposition::of(head.status, &body, retry_after, &self.backend.provider.errors);
        // llama.cpp answers 501 where it was started for other calls.
        let is_missing = disposition.class == Some(FailureClass::Model) || head.status == StatusCode::NOT_IMPLEMENTED;
        if is_missing && !self.is_of_the_model(exchange) {
            disposition = Disposition { class: None, retry: Retry::Elsewhere, consequence: None };
        }
        match disposition.class {
            None => tell(lease, Outcome::CallerFault, now, exchange),
            Some(class) => {
                let outcome = Outcome::Failure { class, retry_after };
                lease.report_with(outcome, disposition.consequence_of(class, retry_after), now);
                exchange.end_try(outcome, now);
            }
        }
        let is_json = Scanner::check(&chunks);
        let mut head = head;
        let (chunks, is_json) = match &self.translation {
            Some(translation) => {
                let (status, body) = translation.error(head.status, &chunks.slice(0..chunks.len()).into_owned().into());
                head.status = status;
                head.headers = headers::translated(std::mem::take(&mut head.headers), "application/json");
                (Chunks::from(body), true)
            }
            None => (chunks, is_json),
        };
        let error = self.error_of(&head, &disposition, retry_after);
        let answer = (is_json && !disposition.refuses_key()).then(|| head.committed(Content::Held(chunks, permit)));
        match (disposition.retry, answer) {
            (Retry::No, Some(answer)) => Ok(answer),
            (retry, answer) => Err(Box::new(Setback { backend: Arc::clone(&self.backend), error, answer, retry })),
        }
    }

    /// Whether a path that is not there speaks against the model, and not only against calling it in this way: a server without
    /// rankings, and a model that does not chat, are there for everybody else. So it counts where this call was answered before,
    /// or where none was and the call is one that models are made for.
    fn is_of_the_model(&self, exchange: &Exchange) -> bool {
        let served = exchange.figures.as_deref().map_or(0, Figures::served);
        let is_usual = self.operation.stream_format() != StreamFormat::Opaque || makes_vectors(self.operation);
        served & bit(self.operation) != 0 || (served == 0 && is_usual)
    }

    fn error_of(&self, head: &Head, disposition: &Disposition, retry_after: Option<Duration>) -> ForwardError {
        let backend = self.backend.id.clone();
        match disposition.refuses_key() {
            true => ForwardError::KeyRefused { backend, status: head.status },
            false => ForwardError::Rejected { backend, status: head.status, class: disposition.class, retry_after },
        }
    }

    async fn send(&self, request: &mut RelayRequest, exchange: &mut Exchange) -> Result<(Head, Reply), ForwardError> {
        let (mut head, incoming, usage_was_added) = self.ask(request, exchange).await?;
        let has_state =
            self.translation.is_some() && request.decoded.as_ref().is_some_and(|decoded| decoded.has_state());
        if repair::is_refusal(head.status) && (usage_was_added || has_state || self.may_repair(request)) {
            return Box::pin(self.mend(head, incoming, usage_was_added, has_state, request, exchange)).await;
        }
        let reply = self.reply(&mut head, incoming, usage_was_added, exchange).await?;
        Ok((head, reply))
    }

    /// Sends the request as it is to be now. Tells whether usage was asked for that the client had not asked for.
    async fn ask(
        &self,
        request: &mut RelayRequest,
        exchange: &mut Exchange,
    ) -> Result<(Head, PooledBody, bool), ForwardError> {
        let mut prepared = self.prepared(request, exchange)?;
        let usage_was_added = prepared.usage_was_added;
        exchange.edited = std::mem::take(&mut prepared.edited);
        declare_edits(exchange);
        let (head, incoming) = self.exchange_heads(request, prepared, exchange).await?;
        self.note_acceptance(&head, request, exchange);
        Ok((head, incoming, usage_was_added))
    }

    fn may_repair(&self, request: &RelayRequest) -> bool {
        self.backend.provider.repair || request.model.repair
    }

    /// Handles a refusal that may be of what we added, or of what can be left out: then the request has not been answered yet,
    /// and is sent once more without it.
    async fn mend(
        &self,
        head: Head,
        mut incoming: PooledBody,
        usage_was_added: bool,
        has_state: bool,
        request: &mut RelayRequest,
        exchange: &mut Exchange,
    ) -> Result<(Head, Reply), ForwardError> {
        let (body, permit) = self.hold(&head, &mut incoming, ERROR_BODY_MAX, None).await?;
        let is_blamed = usage_was_added && names_stream_options(&body);
        if is_blamed {
            self.upstream.note_refused_stream_options(&self.backend.id.upstream);
        } else if has_state && names_signature(&body) {
            // Signatures may have lost their value, with a key or a region. Without them the question can still be answered.
            request.decoded.iter_mut().for_each(|decoded| decoded.forget_state());
        } else if !(self.may_repair(request) && self.learn(head.status, &body)) {
            return Ok((head, Reply::Held(body, permit)));
        }
        let asked = self.ask(request, exchange).await;
        // Some servers quote the whole request in their errors. What helped is remembered, what did not was something else.
        if is_blamed && !asked.as_ref().is_ok_and(|(head, ..)| head.status.is_success()) {
            self.upstream.forget_refused_stream_options(&self.backend.id.upstream);
        }
        let (mut head, incoming, usage_was_added) = asked?;
        let reply = self.reply(&mut head, incoming, usage_was_added, exchange).await?;
        Ok((head, reply))
    }

    /// Remembers what an error answer asks to be left out; whether that is new, so that asking again may help.
    fn learn(&self, status: StatusCode, body: &Chunks) -> bool {
        let fix = repair::asked(status, &body.slice(0..body.len().min(ERROR_BODY_READ_MAX)));
        fix.is_some_and(|fix| {
            tracing::debug!(backend = %self.backend.id, ?fix, "a refused parameter is left out from now on");
            self.upstream.repairs.note(&self.backend.id.upstream, fix)
        })
    }

    /// Notes the status. After a success the request is paid for, whatever becomes of its answer.
    fn note_acceptance(&self, head: &Head, request: &RelayRequest, exchange: &mut Exchange) {
        exchange.note_status(head.status.as_u16());
        if head.status.is_success() {
            exchange.tariff = Some(Arc::clone(self.backend.tariff_of(request.body.model())));
            exchange.prompt_tokens = request.body.json().filter(|_| self.streams).map(meter::likely_tokens);
        }
    }

    fn prepared(&self, request: &mut RelayRequest, facts: &mut Facts) -> Result<Prepared, ForwardError> {
        match &self.translation {
            None => {
                if self.operation.dialect() == Dialect::Anthropic {
                    prepare::declare_betas(&self.backend, request, facts)?;
                }
                prepare::request(&self.backend, self.upstream, self.operation, self.streams, request)
            }
            Some(translation) => prepare::translated(&self.backend, self.upstream, translation, request, facts),
        }
    }

    /// Sends the request and waits for the head of the answer. A request that a used connection lost by closing under it,
    /// before the head of an answer, is sent once more on a new one; that is no attempt of its own.
    async fn exchange_heads(
        &self,
        request: &mut RelayRequest,
        prepared: Prepared,
        exchange: &mut Exchange,
    ) -> Result<(Head, PooledBody), ForwardError> {
        let timeouts = &self.backend.provider.timeouts;
        let patience = if self.streams { timeouts.stream_headers } else { timeouts.completion };
        let outgoing = self.outgoing(request, prepared, exchange)?;
        let until = (self.relay.shared.clock.at(self.sent_at) + patience).min(self.deadline.at);
        let mut sent = self.upstream.pool.send(outgoing, Choice::Any, until).await;
        if let Err(SendError::Broken { stale: true, .. }) = sent
            && request.body.can_be_sent_again()
        {
            let prepared = self.prepared(request, exchange)?;
            let outgoing = self.outgoing(request, prepared, exchange)?;
            sent = Box::pin(self.upstream.pool.send(outgoing, Choice::Fresh, until)).await;
        }
        let (parts, incoming) = sent.map_err(|error| self.not_sent(error, until, patience))?.into_parts();
        Ok((Head { status: parts.status, headers: parts.headers }, incoming))
    }

    fn outgoing(
        &self,
        request: &RelayRequest,
        prepared: Prepared,
        facts: &Facts,
    ) -> Result<Request<UpstreamBody>, ForwardError> {
        let provider = &self.backend.provider;
        let mut outgoing = Request::new(prepared.body);
        *outgoing.method_mut() = Method::POST;
        *outgoing.uri_mut() = self
            .upstream
            .url(provider, self.operation, self.backend.upstream_model(request.body.model()))
            .map_err(|error| ForwardError::Internal(format!("{}: {error}", self.backend.id)))?;
        let mut headers = headers::request(&request.headers, &provider.forward_headers, &self.upstream.headers);
        if self.operation.body_form() == BodyForm::Json {
            headers::of_json(&mut headers, &self.upstream.headers);
        }
        if self.translation.is_some() {
            headers::of_another_dialect(&mut headers);
        }
        if provider.upstream.dialect() == Dialect::Anthropic {
            if let Some(vendor) = provider.vendor.as_ref().filter(|vendor| !vendor.betas.pass_all()) {
                headers::filter_betas(&mut headers, &vendor.betas);
            }
            headers::default_version(&mut headers);
        }
        repair::apply_to_headers(&mut headers, &self.upstream.repairs.of(&self.backend.id.upstream));
        for edits in [&request.model.edits, &self.backend.edits] {
            for (name, value) in &edits.extra_headers {
                headers.insert(name, value.clone());
            }
        }
        if let Some(trace) = &facts.trace {
            trace.continue_in(&mut headers, facts.attempts);
        }
        *outgoing.headers_mut() = headers;
        Ok(outgoing)
    }

    fn not_sent(&self, error: SendError, until: tokio::time::Instant, patience: Duration) -> ForwardError {
        let backend = self.backend.id.clone();
        match error {
            SendError::Connect(source) if is_connect_timeout(source.as_ref()) => {
                let waited = self.backend.provider.timeouts.connect;
                ForwardError::Timeout { backend, what: "a connection", waited }
            }
            SendError::Connect(source) => ForwardError::Unreachable { backend, source },
            SendError::Broken { source, .. } => {
                let what = "the connection broke before an answer";
                ForwardError::Network { backend, what, source: Box::new(source) }
            }
            SendError::TimedOut => self.late(until, "the head of its answer", patience),
        }
    }

    /// What did not come until then.
    fn late(&self, until: tokio::time::Instant, what: &'static str, waited: Duration) -> ForwardError {
        match until == self.deadline.at {
            true => ForwardError::TotalTimeout(self.deadline.limit),
            false => ForwardError::Timeout { backend: self.backend.id.clone(), what, waited },
        }
    }

    async fn reply(
        &self,
        head: &mut Head,
        mut incoming: PooledBody,
        usage_was_added: bool,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        match head.status {
            status if status.is_client_error() || status.is_server_error() => {
                let (body, permit) = self.hold(head, &mut incoming, ERROR_BODY_MAX, None).await?;
                Ok(Reply::Held(body, permit))
            }
            status if !status.is_success() => Err(self.bad(format!("unexpected status {}", status.as_u16()))),
            _ if self.streams && head.is("text/event-stream") => {
                self.open_stream(head, incoming, usage_was_added, exchange).await
            }
            _ if !self.operation.holds_plain_answer() => self.through(head, incoming),
            // Many servers and proxies call a stream something else; what is none shows in its first bytes.
            _ if self.streams => {
                head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                self.open_stream(head, incoming, usage_was_added, exchange).await
            }
            _ => self.plain(head, &mut incoming, exchange).await,
        }
    }

    /// A plain JSON answer: held whole, checked, its usage read.
    async fn plain(
        &self,
        head: &mut Head,
        incoming: &mut PooledBody,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        let reader = self.translation.as_deref().filter(|translation| translation.reads_answers());
        let mut check = reader.is_none().then(Check::new);
        let (chunks, permit) = self.hold(head, incoming, self.relay.limits.max_response_bytes, check.as_mut()).await?;
        // Nothing else need look at what a translation reads. An error among it, and what it cannot read, goes the long way.
        if let Some(reader) = reader
            && !may_hold_error(&chunks)
            && let Ok(answer) = reader.answer(&chunks.clone().into_bytes())
        {
            return Ok(translated(answer, Usage::default(), permit, head, exchange));
        }
        let Some(members) = check.map_or_else(|| Check::of(&chunks), Check::finish) else {
            return self.instead_of_an_answer(head, &chunks.into_bytes(), permit, exchange);
        };
        if let Some(status) = self.error_in_answer(&chunks, &members) {
            head.status = status;
            return Ok(Reply::Held(chunks, permit));
        }
        let usage = meter::usage_of_answer(&chunks, &members);
        if let Some(Told { status, body }) = self.failure_in_answer(&chunks, usage) {
            head.status = status;
            return Ok(Reply::Held(Chunks::from(body), permit));
        }
        if let Some(translation) = &self.translation {
            let answer = translation.answer(&chunks.into_bytes()).map_err(|error| self.bad(error.to_string()))?;
            return Ok(translated(answer, usage, permit, head, exchange));
        }
        exchange.usage = usage;
        if let Some(id) = members.get("id") {
            self.note_issued(&chunks.slice(id.value.clone()), exchange);
        }
        let rename = PublicModel::wanted(exchange.model.as_ref()).and_then(|name| name.edit(&members));
        let chunks = match rename {
            Some(edit) => chunks.splice(&mut [edit]),
            None => chunks,
        };
        // Some servers ignore in which form vectors are asked for, and clients cannot read the other one.
        let chunks = match self.operation {
            Operation::Embeddings => embeddings::in_encoding(chunks, self.encoding),
            _ => Ok(chunks),
        };
        let chunks = chunks.map_err(|error| self.bad(error.to_string()))?;
        Ok(Reply::Held(chunks, permit))
    }

    /// What is no JSON where a plain answer was asked for: a stream, which some relays always give, is said as the answer that it
    /// should have been, and one that tells an error is that error.
    fn instead_of_an_answer(
        &self,
        head: &mut Head,
        body: &Bytes,
        permit: BufferPermit,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        let no_json = || self.bad("it is not valid JSON".to_owned());
        let mut tap = StreamTap::new(self.operation.stream_format());
        for event in sse::events(body) {
            match tap.see(&event) {
                EventClass::Error => {
                    let told = event.data.as_deref().and_then(meter::told::of_event);
                    let Told { status, body } = told.ok_or_else(no_json)?;
                    head.status = status;
                    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                    return Ok(Reply::Held(Chunks::from(body), permit));
                }
                EventClass::Unparsable => return Err(no_json()),
                _ => {}
            }
        }
        if !tap.terminal_seen() {
            return Err(no_json());
        }
        let answer = match &self.translation {
            Some(translation) => translation.stream_as_answer(body),
            None => translate::as_answer(self.operation, body, &prepare::reply_to(exchange, false)),
        };
        let answer = answer.map_err(|_| no_json())?;
        Ok(translated(answer, Usage::default(), permit, head, exchange))
    }

    /// A plain answer where a stream was asked for: an error that came with the wrong status, or a whole answer, which is said as
    /// the stream that it should have been.
    fn instead_of_a_stream(
        &self,
        head: &mut Head,
        body: Bytes,
        hide_usage: bool,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        let no_stream = || self.bad("a plain answer where a stream was asked for".to_owned());
        let mut permit = self.relay.shared.buffers.permit();
        permit.grow(body.len()).map_err(|_| ForwardError::Overloaded)?;
        let chunks = Chunks::from(body);
        let members = Check::of(&chunks).ok_or_else(no_stream)?;
        let told = match self.error_in_answer(&chunks, &members) {
            Some(status) => Some((status, chunks.clone())),
            None => self
                .failure_in_answer(&chunks, Usage::default())
                .map(|Told { status, body }| (status, Chunks::from(body))),
        };
        if let Some((status, body)) = told {
            head.status = status;
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Ok(Reply::Held(body, permit));
        }
        let body = chunks.into_bytes();
        let answer = match &self.translation {
            Some(translation) => translation.answer_as_stream(&body),
            None => translate::as_stream(self.operation, &body, &prepare::reply_to(exchange, !hide_usage)),
        };
        let answer = answer.map_err(|_| no_stream())?;
        exchange.usage = answer.usage.unwrap_or_default();
        if self.translation.is_some() {
            head.headers = headers::translated(std::mem::take(&mut head.headers), "text/event-stream");
        }
        Ok(Reply::Held(Chunks::from(JsonArray::alone(exchange.operation, answer.body)), permit))
    }

    /// Remembers whose a response is that the upstream keeps.
    fn note_issued(&self, id: &[u8], exchange: &Exchange) {
        if self.operation == Operation::Responses
            && let Some(user) = &exchange.user
        {
            let issuer = Issuer { provider: self.backend.provider.id.clone(), user: user.id.clone() };
            self.relay.shared.issued.note(id, issuer);
        }
    }

    /// The status that an error object in an answer with status 200 stands for. A failed response of the Responses API holds
    /// one by right.
    fn error_in_answer(&self, body: &Chunks, members: &Members) -> Option<StatusCode> {
        let error = members.get("error").filter(|member| member.kind == Kind::Object)?;
        if self.operation == Operation::Responses {
            return None;
        }
        Some(meter::told::status_of(&body.slice(error.value.clone())))
    }

    /// The failure that an answer with status 200 ended with, or that stands in its place, as an error answer. Gemini's own clients
    /// read its reasons themselves.
    fn failure_in_answer(&self, body: &Chunks, usage: Usage) -> Option<Told> {
        let is_chat = self.operation == Operation::ChatCompletions;
        // Few answers have nothing in them.
        if is_chat && usage.output_tokens.unwrap_or(0) == 0 {
            let told = meter::told::of_no_answer(&body.slice(0..body.len()));
            if told.is_some() {
                return told;
            }
        }
        let may_be = match self.translation {
            Some(_) => true,
            None => is_chat && may_have_failed(body),
        };
        may_be.then(|| meter::told::of_choices(&body.slice(0..body.len()))).flatten()
    }

    async fn hold(
        &self,
        head: &Head,
        incoming: &mut PooledBody,
        limit: usize,
        mut check: Option<&mut Check>,
    ) -> Result<(Chunks, BufferPermit), ForwardError> {
        if head.declared_length().is_some_and(|length| length > limit as u64) {
            return Err(self.bad(format!("it announces more than {limit} bytes (server.max_response_bytes)")));
        }
        let mut decoder = self.decoder(head)?;
        let (mut chunks, mut permit) = (Chunks::default(), self.relay.shared.buffers.permit());
        let idle = self.backend.provider.timeouts.stream_idle;
        while let Some(piece) = self.next_piece(incoming, idle, &mut decoder).await? {
            if chunks.len() + piece.len() > limit {
                return Err(self.bad(format!("it is over {limit} bytes (server.max_response_bytes)")));
            }
            permit.grow(piece.len()).map_err(|_| ForwardError::Overloaded)?;
            // What is not JSON is still read to its end, so that the connection can be used again.
            check.iter_mut().for_each(|check| check.push(&piece));
            chunks.push(piece);
        }
        Ok((chunks, permit))
    }

    /// The next bytes of a body, decoded; `None` at its end.
    async fn next_piece(
        &self,
        incoming: &mut PooledBody,
        idle: Duration,
        decoder: &mut Option<Decoder>,
    ) -> Result<Option<Bytes>, ForwardError> {
        loop {
            let frame = match self.within(idle, "the next part of its answer", incoming.frame()).await? {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(self.broken(error)),
                None => return Ok(None),
            };
            let Ok(data) = frame.into_data() else { continue };
            return match decoder {
                Some(decoder) => decoder.push(&data).map(Some).map_err(|error| self.bad(error.to_string())),
                None => Ok(Some(data)),
            };
        }
    }

    /// A stream, read up to its first content. One that begins with an error is that error, as an answer with its status.
    async fn open_stream(
        &self,
        head: &mut Head,
        incoming: PooledBody,
        hide_usage: bool,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        let timeouts = &self.backend.provider.timeouts;
        let model = PublicModel::wanted(exchange.model.as_ref());
        let translator = self.translation.as_ref().map(|translation| Box::new(translation.stream()));
        let treatment = Treatment { hide_usage, model, idle: timeouts.stream_idle, translator };
        let (decoder, backend) = (self.decoder(head)?, Arc::clone(&self.backend));
        let events = EventStream::new(incoming, decoder, backend, self.operation, treatment, self.sent_at);
        let commit = exchange.model.as_ref().map(|model| model.commit).unwrap_or_default();
        let mut opening = Opening { events: Some(Box::new(events)), facts: exchange };
        let events = opening.events.as_mut().expect("taken at the end only");
        let until_content = async {
            while !self.within(timeouts.stream_idle, "the next part of the stream", events.advance()).await?? {}
            Ok::<(), ForwardError>(())
        };
        let mut opened = match timeouts.first_token {
            Some(patience) => self.within(patience, "the first token", until_content).await?,
            None => until_content.await,
        };
        if opened.is_ok() && commit != Commit::default() {
            opened = Box::pin(self.hold_back(events, commit)).await;
        }
        if let Err(error) = opened {
            if let Some(document) = events.take_document() {
                drop(opening);
                return self.instead_of_a_stream(head, document, hide_usage, exchange);
            }
            let Told { status, body } = events.take_told().ok_or(error)?;
            head.status = status;
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Ok(Reply::Held(Chunks::from(body), self.relay.shared.buffers.permit()));
        }
        let mut events = opening.events.take().expect("taken here only");
        drop(opening);
        if let Some(id) = events.response_id() {
            self.note_issued(id, exchange);
        }
        events.committed_at(exchange.now());
        Ok(Reply::Events(events))
    }

    /// Holds a stream back after its first content, as its model asks, so that more failures can be rescued.
    async fn hold_back(&self, events: &mut EventStream, commit: Commit) -> Result<(), ForwardError> {
        let idle = self.backend.provider.timeouts.stream_idle;
        let enough = async {
            while events.may_hold_back(commit.tokens) {
                self.within(idle, "the next part of the stream", events.advance()).await??;
            }
            Ok(())
        };
        match commit.time.is_zero() {
            true => enough.await,
            // Time that is over is no failure: what has come is the client's then.
            false => tokio::time::timeout(commit.time, enough).await.unwrap_or(Ok(())),
        }
    }

    fn through(&self, head: &Head, incoming: PooledBody) -> Result<Reply, ForwardError> {
        let decoder = self.decoder(head)?;
        let length = if decoder.is_some() { None } else { head.declared_length() };
        let idle = self.backend.provider.timeouts.stream_idle;
        let through = Through { incoming, decoder, length, idle, sent_at: self.sent_at };
        Ok(Reply::Through(Box::new(through)))
    }

    fn decoder(&self, head: &Head) -> Result<Option<Decoder>, ForwardError> {
        Decoder::for_headers(&head.headers).map_err(|coding| self.bad(format!("it is encoded as {coding:?}, unasked")))
    }

    /// Waits for `future` no longer than `patience` and the request's deadline allow.
    async fn within<T>(
        &self,
        patience: Duration,
        what: &'static str,
        future: impl Future<Output = T>,
    ) -> Result<T, ForwardError> {
        let (mut future, mut timer) = (pin!(future), pin!(None));
        let until = poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            // Often it is there already; then no clock is read and no timer made.
            if timer.is_none() {
                let until = (tokio::time::Instant::now() + patience).min(self.deadline.at);
                timer.set(Some(tokio::time::sleep_until(until)));
            }
            let mut timer = timer.as_mut().as_pin_mut().expect("made above");
            timer.as_mut().poll(cx).map(|()| Err(timer.deadline()))
        });
        until.await.map_err(|until| self.late(until, what, patience))
    }

    fn bad(&self, why: String) -> ForwardError {
        ForwardError::BadAnswer { backend: self.backend.id.clone(), why }
    }

    fn broken(&self, error: hyper::Error) -> ForwardError {
        let what = "the connection broke inside the answer";
        ForwardError::Network { backend: self.backend.id.clone(), what, source: Box::new(error) }
    }
}

/// A stream before its commit point. When it comes to nothing, or the client leaves, what it used so far is kept: that is billed.
struct Opening<'a> {
    events: Option<Box<EventStream>>,
    facts: &'a mut Facts,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(events) = &self.events {
            self.facts.note_used(events.settled_usage(false));
        }
    }
}

/// A translated answer, and what was used by its own word or else by `usage`.
fn translated(
    answer: Translated,
    usage: Usage,
    permit: BufferPermit,
    head: &mut Head,
    exchange: &mut Exchange,
) -> Reply {
    exchange.usage = answer.usage.unwrap_or(usage);
    head.headers = headers::translated(std::mem::take(&mut head.headers), "application/json");
    Reply::Held(Chunks::from(answer.body), permit)
}

/// Whether an answer may have a member `error`. Its text may quote the word too.
fn may_hold_error(body: &Chunks) -> bool {
    memchr::memmem::find(&body.slice(0..body.len()), b"\"error\"").is_some()
}

/// Whether a plain chat answer may end with a failure. Its reason stands behind its content.
fn may_have_failed(body: &Chunks) -> bool {
    const TAIL: usize = 4096;
    meter::told::may_have_failed(&body.slice(body.len().saturating_sub(TAIL)..body.len()))
}

/// Whether an error body complains about the parameter that we had added.
fn names_stream_options(body: &Chunks) -> bool {
    let text = body.slice(0..body.len());
    memchr::memmem::find(&text, b"stream_options").is_some() || memchr::memmem::find(&text, b"include_usage").is_some()
}

/// Whether an error body complains about a signature of earlier thoughts.
fn names_signature(body: &Chunks) -> bool {
    let text = body.slice(0..body.len().min(ERROR_BODY_READ_MAX)).to_ascii_lowercase();
    memchr::memmem::find(&text, b"signature").is_some()
}

fn is_connect_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<ConnectTimeout>() {
            return true;
        }
        cause = error.source();
    }
    false
}
