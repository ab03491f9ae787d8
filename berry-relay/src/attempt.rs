//! One try at one endpoint: send, wait under deadlines, and read as far as it takes to know whether this is an answer.
//!
//! A plain answer is held whole and must be JSON; a stream is read up to its first content event. Until then nothing has gone
//! to the client, so a failure can still be rescued elsewhere.

mod opening;
mod reply;
mod request;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use berry_core::config::snapshot::Backend;
use berry_core::operation::{Operation, StreamFormat};
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::course::{self, Retry};
use berry_loadbalance::figures::Figures;
use berry_loadbalance::lease::{Lease, Remaining};
use berry_loadbalance::outcome::{FailureClass, Outcome};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::answer::{Answer, RelayBody};
use crate::body::Chunks;
use crate::buffer::BufferPermit;
use crate::client::Upstream;
use crate::decode::Decoder;
use crate::dialect::embeddings::Encoding;
use crate::dialect::translate::{self, Translation};
use crate::disposition::{self, Disposition};
use crate::error::ForwardError;
use crate::exchange::{Exchange, Facts};
use crate::forward::{Deadline, Relay, RelayRequest};
use crate::json::Scanner;
use crate::pool::PooledBody;
use crate::stream::EventStream;
use crate::{headers, meter, prepare, repair, retry_after};

/// Longest error body that is passed on.
const ERROR_BODY_MAX: usize = 1024 * 1024;
/// How much of an error body is read for what it means.
const ERROR_BODY_READ_MAX: usize = 64 * 1024;

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

    /// Makes the headers those of an answer in another dialect, of this content type.
    fn translated(&mut self, content_type: &'static str) {
        self.headers = headers::translated(std::mem::take(&mut self.headers), content_type);
    }

    /// Makes it the head of an error that came with another status, or as an event: its body is JSON.
    fn fail(&mut self, status: StatusCode) {
        self.status = status;
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
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

impl Attempt<'_> {
    /// Tells the lease what an answer says of its backend, as far as it is known, and decides whether it may go to the client.
    fn conclude(
        &self,
        mut head: Head,
        reply: Reply,
        mut lease: Lease,
        exchange: &mut Exchange,
    ) -> Result<Committed, Box<Setback>> {
        let is_success = head.status.is_success();
        if let Some(figures) = exchange.figures.as_deref().filter(|_| is_success) {
            figures.note_served(bit(self.operation));
        }
        let content = match reply {
            Reply::Held(chunks, permit) if !is_success => return self.reject(head, chunks, permit, lease, exchange),
            Reply::Held(chunks, permit) => {
                let now = exchange.now();
                let latency = now.since(self.sent_at);
                lease.used_tokens(exchange.usage.total(), now);
                exchange.note_first_content(now);
                tell(lease, Outcome::Success { ttft: Some(latency), latency }, now, exchange);
                Content::Held(chunks, permit)
            }
            Reply::Events(events) => {
                let now = exchange.now();
                lease.first_token(now.since(self.sent_at), now);
                exchange.note_first_content(now);
                if self.translation.is_some() {
                    head.translated("text/event-stream");
                }
                Content::Events(events, lease)
            }
            Reply::Through(through) => Content::Through(through, lease),
        };
        Ok(head.committed(content))
    }

    /// Concludes an error answer: whose fault it is, and whether the client gets it now or when nothing better comes.
    fn reject(
        &self,
        mut head: Head,
        mut chunks: Chunks,
        permit: BufferPermit,
        lease: Lease,
        exchange: &mut Exchange,
    ) -> Result<Committed, Box<Setback>> {
        let body = chunks.slice(0..chunks.len().min(ERROR_BODY_READ_MAX));
        let retry_after = retry_after::of(&head.headers, &body);
        let disposition = self.disposition(head.status, &body, retry_after, exchange);
        let now = exchange.now();
        match disposition.class {
            None => tell(lease, Outcome::CallerFault, now, exchange),
            Some(class) => {
                let outcome = Outcome::Failure { class, retry_after };
                lease.report_with(outcome, disposition.consequence_of(class, retry_after), now);
                exchange.end_try(outcome, now);
            }
        }
        let mut is_json = Scanner::check(&chunks);
        if let Some(translation) = &self.translation {
            let (status, body) = translation.error(head.status, &chunks.into_bytes());
            head.status = status;
            head.translated("application/json");
            (chunks, is_json) = (Chunks::from(body), true);
        }
        let error = self.error_of(&head, &disposition, retry_after);
        let answer = (is_json && !disposition.refuses_key()).then(|| head.committed(Content::Held(chunks, permit)));
        match (disposition.retry, answer) {
            (Retry::No, Some(answer)) => Ok(answer),
            (retry, answer) => Err(Box::new(Setback { backend: Arc::clone(&self.backend), error, answer, retry })),
        }
    }

    /// What an error answer says. One that speaks of the model only where the call is no usual one is of nobody's fault.
    fn disposition(
        &self,
        status: StatusCode,
        body: &[u8],
        retry_after: Option<Duration>,
        exchange: &Exchange,
    ) -> Disposition {
        let disposition = disposition::of(status, body, retry_after, &self.backend.provider.errors);
        // llama.cpp answers 501 where it was started for other calls.
        let is_missing = disposition.class == Some(FailureClass::Model) || status == StatusCode::NOT_IMPLEMENTED;
        match is_missing && !self.is_of_the_model(exchange) {
            true => Disposition { class: None, retry: Retry::Elsewhere, consequence: None },
            false => disposition,
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

    /// What did not come until then.
    fn late(&self, until: tokio::time::Instant, what: &'static str, waited: Duration) -> ForwardError {
        match until == self.deadline.at {
            true => ForwardError::TotalTimeout(self.deadline.limit),
            false => ForwardError::Timeout { backend: self.backend.id.clone(), what, waited },
        }
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
