//! What goes back to the client: a head, and a body that ends exactly once, with the record of the request inside it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use berry_core::config::snapshot::Backend;
use berry_core::error::ErrorKind;
use berry_core::id::BackendId;
use berry_core::operation::{Dialect, Operation};
use berry_core::time::Instant;
use berry_loadbalance::lease::Lease;
use berry_loadbalance::outcome::{FailureClass, Outcome};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::alarm::Alarm;
use crate::attempt::{self, Through};
use crate::body::Chunks;
use crate::buffer::BufferPermit;
use crate::decode;
use crate::dialect::loss::Losses;
use crate::error::{BoxError, ForwardError};
use crate::exchange::{End, Exchange};
use crate::forward::{Refusal, Relay, SayError};
use crate::sse;
use crate::stream::{EventStream, Progress};

/// An answer for the client. Its headers are those of the upstream that may pass; ours are added by the caller.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers of the upstream that may pass.
    pub headers: HeaderMap,
    /// Body; carries the record of the request.
    pub body: RelayBody,
}

impl Answer {
    /// An answer whose status is fixed while the work on it goes on.
    pub(crate) fn waiting(body: RelayBody, keep_alive: KeepAlive) -> Self {
        let content_type = match keep_alive {
            KeepAlive::Comment(_) if body.is_array() => "application/json",
            KeepAlive::Comment(_) => "text/event-stream",
            KeepAlive::WhiteSpace(_) => "application/json",
        };
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Self { status: StatusCode::OK, headers, body }
    }

    /// The backend that answered; none while that is not decided.
    pub fn backend(&self) -> Option<&Arc<Backend>> {
        self.body.exchange()?.backend.as_ref()
    }

    /// What a translation could not carry; none while that is not decided.
    pub fn loss(&self) -> Option<&Losses> {
        self.body.exchange()?.loss.as_deref()
    }

    /// Attempts that it took; none while that is not decided.
    pub fn attempts(&self) -> Option<u32> {
        Some(self.body.exchange()?.attempts)
    }
}

/// How the silence of an answer is filled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeepAlive {
    /// With a comment, or whatever the dialect has, between events.
    Comment(Duration),
    /// With white space before the JSON.
    WhiteSpace(Duration),
}

impl KeepAlive {
    pub(crate) fn period(self) -> Duration {
        match self {
            Self::Comment(period) | Self::WhiteSpace(period) => period,
        }
    }
}

/// The frame that fills a silence between events.
fn filler(operation: Operation) -> Bytes {
    match operation {
        Operation::Messages => Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n"),
        // Google's Python client reads any line that is not empty and not data as JSON; in an array it is white space.
        _ if operation.dialect() == Dialect::Gemini => Bytes::from_static(b"\n"),
        _ => Bytes::from_static(b": keep-alive\n\n"),
    }
}

type Work = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// Body of an answer. Dropping it before its end cancels what runs upstream and counts as the client having left.
pub struct RelayBody(State);

enum State {
    Held { chunks: Chunks, _permit: Option<BufferPermit>, exchange: Exchange },
    Events(Box<Events>),
    Through(Box<Passing>),
    Waiting(Box<Waiting>),
    Over,
}

/// What of a request is open until it settles, which is before the last bytes of its answer leave.
struct Open {
    lease: Lease,
    exchange: Exchange,
}

impl Open {
    /// Tells the endpoint and the record how it went. Dropping the record settles the request.
    fn settle(self, outcome: Outcome, now: Instant) {
        let Self { lease, mut exchange } = self;
        attempt::tell(lease, outcome, now, &mut exchange);
    }
}

struct Events {
    stream: Box<EventStream>,
    /// `None` once the request has settled.
    open: Option<Open>,
    quiet: Quiet,
    say: Arc<dyn SayError>,
    cut: Cut,
    array: Option<JsonArray>,
    /// How the upstream's stream ended, once it has.
    ended: Option<Result<(), ForwardError>>,
}

struct Passing {
    through: Box<Through>,
    /// `None` once the request has settled.
    open: Option<Open>,
    quiet: Quiet,
}

struct Waiting {
    work: Work,
    filler: Bytes,
    quiet: Quiet,
    /// Whether the first filler has gone out; it fixes the status.
    spoke: bool,
    streams: bool,
    array: bool,
    say: Arc<dyn SayError>,
}

impl RelayBody {
    pub(crate) fn held(chunks: Chunks, permit: BufferPermit, exchange: Exchange) -> Self {
        Self(State::Held { chunks, _permit: Some(permit), exchange })
    }

    pub(crate) fn events(stream: Box<EventStream>, lease: Lease, exchange: Exchange, relay: &Relay) -> Self {
        let quiet = Quiet::new(relay.limits.keep_alive, Some(stream.idle()));
        let say = Arc::clone(&relay.shared.say);
        let cut = Cut::new(&relay.shared.cut);
        let array = JsonArray::wanted(exchange.operation);
        Self(State::Events(Box::new(Events {
            stream,
            open: Some(Open { lease, exchange }),
            quiet,
            say,
            cut,
            array,
            ended: None,
        })))
    }

    pub(crate) fn through(through: Box<Through>, lease: Lease, exchange: Exchange) -> Self {
        // Nothing can be said inside bytes that are not understood, so the only limit is the idle one.
        let quiet = Quiet::new(through.idle, Some(through.idle));
        Self(State::Through(Box::new(Passing { through, open: Some(Open { lease, exchange }), quiet })))
    }

    pub(crate) fn waiting(work: Work, keep_alive: KeepAlive, operation: Operation, say: Arc<dyn SayError>) -> Self {
        let (filler, streams) = match keep_alive {
            KeepAlive::Comment(_) => (filler(operation), true),
            KeepAlive::WhiteSpace(_) => (Bytes::from_static(b" "), false),
        };
        let quiet = Quiet::new(keep_alive.period(), None);
        let array = operation == Operation::StreamGenerateContentArray;
        Self(State::Waiting(Box::new(Waiting { work, filler, quiet, spoke: false, streams, array, say })))
    }

    /// Whether it is a stream written as a JSON array.
    fn is_array(&self) -> bool {
        matches!(&self.0, State::Waiting(waiting) if waiting.array)
    }

    fn exchange(&self) -> Option<&Exchange> {
        match &self.0 {
            State::Held { exchange, .. } => Some(exchange),
            State::Events(events) => Some(&events.open.as_ref()?.exchange),
            State::Through(passing) => Some(&passing.open.as_ref()?.exchange),
            State::Waiting(_) | State::Over => None,
        }
    }
}

impl Body for RelayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut self.get_mut().0;
        loop {
            let step = match this {
                State::Held { chunks, exchange, .. } => {
                    let bytes = chunks.pop_front();
                    if chunks.is_empty() {
                        exchange.finish();
                    }
                    match bytes {
                        Some(bytes) if chunks.is_empty() => Step::Last(bytes),
                        Some(bytes) => Step::Bytes(bytes),
                        None => Step::End,
                    }
                }
                State::Events(events) => ready!(events.poll(cx)),
                State::Through(passing) => ready!(passing.poll(cx)),
                State::Waiting(waiting) => ready!(waiting.poll(cx)),
                State::Over => Step::End,
            };
            match step {
                Step::Bytes(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Step::Last(bytes) => {
                    *this = State::Over;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Step::Become(next) => *this = next,
                Step::Break(error) => {
                    *this = State::Over;
                    return Poll::Ready(Some(Err(error)));
                }
                Step::End => {
                    *this = State::Over;
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Held { chunks, .. } => chunks.is_empty(),
            State::Over => true,
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Held { chunks, .. } => SizeHint::with_exact(chunks.len() as u64),
            State::Through(passing) => passing.through.length.map_or_else(SizeHint::default, SizeHint::with_exact),
            State::Over => SizeHint::with_exact(0),
            State::Events(_) | State::Waiting(_) => SizeHint::default(),
        }
    }
}

/// What a poll of a body came to.
enum Step {
    /// More for the client.
    Bytes(Bytes),
    /// The last of it; the request settles before it leaves.
    Last(Bytes),
    /// The body goes on as another kind.
    Become(State),
    /// Nothing more, and the client must see that it is not whole.
    Break(BoxError),
    /// The end.
    End,
}

impl Events {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if self.stream.last_seen() || matches!(self.ended, Some(Ok(()))) {
                self.settle(None);
            }
            if let Some(bytes) = self.stream.pop() {
                self.quiet.sent();
                let bytes = match &mut self.array {
                    Some(array) => array.elements(&bytes),
                    None => bytes,
                };
                return Poll::Ready(Step::Bytes(bytes));
            }
            match self.ended.take() {
                Some(Ok(())) => return Poll::Ready(self.end()),
                Some(Err(error)) => return Poll::Ready(self.fail(error)),
                None => {}
            }
            match self.stream.poll_progress(cx) {
                Poll::Ready(Progress::More) => {
                    self.quiet.received(self.stream.take_meant());
                    // Shorter after the terminal event.
                    self.quiet.idle = Some(self.stream.idle());
                }
                // What was whole before the end goes out first.
                Poll::Ready(Progress::End(ended)) => self.ended = Some(ended),
                Poll::Pending => break,
            }
        }
        if self.cut.poll(cx).is_ready() {
            return Poll::Ready(self.fail(ForwardError::Shutdown));
        }
        match ready!(self.quiet.poll(cx)) {
            Silence::Upstream(waited) => {
                if let Some(error) = self.stream.went_silent(waited) {
                    return Poll::Ready(self.fail(error));
                }
                self.stream.conclude();
                self.settle(None);
                if let Some(bytes) = self.stream.pop() {
                    self.ended = Some(Ok(()));
                    return Poll::Ready(Step::Bytes(bytes));
                }
                Poll::Ready(self.end())
            }
            Silence::Client => {
                self.quiet.sent();
                match &self.open {
                    Some(open) if self.stream.between_events() => {
                        Poll::Ready(Step::Bytes(filler(open.exchange.operation)))
                    }
                    _ => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            }
        }
    }

    /// Tells the client in its dialect, then ends. After the last event of the answer there is nothing to tell.
    fn fail(&mut self, error: ForwardError) -> Step {
        let Some(open) = &self.open else {
            return self.end();
        };
        let mut event = self.say.event(&error, &open.exchange);
        if self.stream.cut_inside_event() {
            event = Bytes::from([b"\n\n", &event[..]].concat());
        }
        tracing::warn!(
            request_id = open.exchange.request_id.as_str(),
            error = error.with_cause(),
            "stream failed after its start"
        );
        self.settle(Some(error));
        Step::Last(match &mut self.array {
            Some(array) => array.last(&event),
            None => event,
        })
    }

    /// The end of a stream that ended well.
    fn end(&mut self) -> Step {
        self.array.as_mut().map_or(Step::End, |array| Step::Last(array.last(&[])))
    }

    fn settle(&mut self, error: Option<ForwardError>) {
        let Some(mut open) = self.open.take() else { return };
        let told = self.stream.error_told();
        let now = open.exchange.now();
        let outcome = match error.as_ref().map(ForwardError::failure_class) {
            None if told => Outcome::Failure { class: FailureClass::Server, retry_after: None },
            None => self.stream.success(now),
            Some(Some(class)) => Outcome::Failure { class, retry_after: None },
            Some(None) => Outcome::Cancelled,
        };
        open.exchange.note_used(self.stream.settled_usage(error.is_none() && !told));
        open.exchange.end = match error {
            None if told => End::Failed(ErrorKind::UpstreamError),
            None => End::Complete,
            Some(error) => End::Failed(error.kind()),
        };
        open.lease.used_tokens(open.exchange.usage.total(), now);
        open.settle(outcome, now);
    }
}

/// A client that leaves takes what has come, and that is paid for.
impl Drop for Events {
    fn drop(&mut self) {
        if let Some(open) = &mut self.open {
            open.exchange.note_used(self.stream.settled_usage(false));
        }
    }
}

impl Passing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            match Pin::new(&mut self.through.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.quiet.received(true);
                    let Ok(data) = frame.into_data() else { continue };
                    return Poll::Ready(self.pass(data));
                }
                Poll::Ready(Some(Err(error))) => {
                    let what = "the connection broke inside the answer";
                    return Poll::Ready(self.fail(|backend| ForwardError::Network {
                        backend,
                        what,
                        source: Box::new(error),
                    }));
                }
                Poll::Ready(None) => {
                    if let Some(rest) = decode::rest(&mut self.through.decoder) {
                        return Poll::Ready(Step::Bytes(rest));
                    }
                    self.complete();
                    return Poll::Ready(Step::End);
                }
                Poll::Pending => {}
            }
            if let Silence::Upstream(waited) = ready!(self.quiet.poll(cx)) {
                let what = "the next part of its answer";
                return Poll::Ready(self.fail(|backend| ForwardError::Timeout { backend, what, waited }));
            }
            self.quiet.sent();
        }
    }

    fn pass(&mut self, data: Bytes) -> Step {
        if let Some(Open { exchange, .. }) = &mut self.open
            && exchange.ttft.is_none()
        {
            let now = exchange.now();
            exchange.note_first_content(now);
        }
        let decoded = match &mut self.through.decoder {
            Some(decoder) => decoder.push(data),
            None => Ok(data),
        };
        match decoded {
            Ok(bytes) => {
                self.through.length = self.through.length.map(|length| length.saturating_sub(bytes.len() as u64));
                if self.through.length == Some(0) {
                    // Nobody asks for more than was declared, so the end would never be seen.
                    self.complete();
                }
                Step::Bytes(bytes)
            }
            Err(error) => self.fail(|backend| ForwardError::BadAnswer { backend, why: error.to_string() }),
        }
    }

    fn complete(&mut self) {
        if let Some(mut open) = self.open.take() {
            let now = open.exchange.now();
            open.exchange.finish();
            open.settle(Outcome::Success { ttft: None, latency: now.since(self.through.sent_at) }, now);
        }
    }

    /// Nothing can be said inside bytes that are not understood: the connection is broken off, so that the cut shows.
    fn fail(&mut self, error: impl FnOnce(BackendId) -> ForwardError) -> Step {
        let Some(mut open) = self.open.take() else {
            return Step::End;
        };
        let error = error(open.lease.backend().id.clone());
        tracing::warn!(
            request_id = open.exchange.request_id.as_str(),
            error = error.with_cause(),
            "answer failed after its start"
        );
        open.exchange.end = End::Failed(error.kind());
        let now = open.exchange.now();
        let failed = error.failure_class().map(|class| Outcome::Failure { class, retry_after: None });
        open.settle(failed.unwrap_or(Outcome::Cancelled), now);
        Step::Break(Box::new(error))
    }
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Poll::Ready(done) = self.work.as_mut().poll(cx) {
            return Poll::Ready(self.resolve(done));
        }
        if !std::mem::replace(&mut self.spoke, true) {
            return Poll::Ready(Step::Bytes(self.filler.clone()));
        }
        ready!(self.quiet.poll(cx));
        self.quiet.sent();
        Poll::Ready(Step::Bytes(self.filler.clone()))
    }

    /// The status 200 is out: what is not an answer can only be told in the body.
    fn resolve(&mut self, done: Result<Answer, Refusal>) -> Step {
        match done {
            Ok(answer) if answer.status.is_success() => Step::Become(answer.body.0),
            Ok(answer) => self.tell_upstream_error(answer),
            Err(Refusal { error, mut exchange }) => {
                exchange.status = StatusCode::OK.as_u16();
                let told =
                    if self.streams { self.say.event(&error, &exchange) } else { self.say.body(&error, &exchange) };
                Step::Last(JsonArray::alone(exchange.operation, told))
            }
        }
    }

    fn tell_upstream_error(&self, answer: Answer) -> Step {
        let State::Held { chunks, mut exchange, .. } = answer.body.0 else {
            return Step::End;
        };
        exchange.status = StatusCode::OK.as_u16();
        exchange.end = End::Failed(ErrorKind::UpstreamError);
        let body = chunks.into_bytes();
        let operation = exchange.operation;
        Step::Last(if self.streams { JsonArray::alone(operation, error_event(operation, &body)) } else { body })
    }
}

/// A stream of events written as one JSON array that grows, which is what Gemini's clients get who do not ask for events.
#[derive(Default)]
pub(crate) struct JsonArray {
    begun: bool,
}

impl JsonArray {
    /// For the call that has this framing.
    fn wanted(operation: Operation) -> Option<Self> {
        (operation == Operation::StreamGenerateContentArray).then(Self::default)
    }

    /// Events as a whole answer of `operation`.
    pub(crate) fn alone(operation: Operation, event: Bytes) -> Bytes {
        Self::wanted(operation).map_or(event.clone(), |mut array| array.last(&event))
    }

    /// Whole events as further elements; comments and empty lines become white space.
    fn elements(&mut self, events: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(events.len() + 8);
        for data in sse::events(events).filter_map(|event| event.data) {
            out.extend_from_slice(if std::mem::replace(&mut self.begun, true) { b",\n" } else { b"[" });
            out.extend_from_slice(&data);
        }
        if out.is_empty() {
            out.push(b'\n');
        }
        Bytes::from(out)
    }

    /// The last events and the end of the array.
    fn last(&mut self, events: &[u8]) -> Bytes {
        let mut out = if events.is_empty() { Vec::new() } else { self.elements(events).to_vec() };
        if !self.begun {
            out.push(b'[');
        }
        out.extend_from_slice(b"]\n");
        Bytes::from(out)
    }
}

/// An upstream's error body as an event.
fn error_event(operation: Operation, body: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(body.len() + 32);
    if operation == Operation::Messages {
        event.extend_from_slice(b"event: error\n");
    }
    for line in body.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty()) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.push(b'\n');
    Bytes::from(event)
}

/// Comments and pings keep an answer alive for so many idle timeouts, and no longer.
const SIGNS_OF_LIFE_MAX: u32 = 10;

/// Which side has heard nothing for too long.
enum Silence {
    /// Nothing came from the upstream for this long.
    Upstream(Duration),
    /// Nothing went to the client for its keep-alive period.
    Client,
}

/// Watches both silences of an answer with one timer.
///
/// What happens between two waits is only marked; the clock is read when there is nothing else to do.
struct Quiet {
    period: Duration,
    idle: Option<Duration>,
    received_at: tokio::time::Instant,
    /// When something came that was more than a sign of life.
    meant_at: tokio::time::Instant,
    sent_at: tokio::time::Instant,
    received: bool,
    meant: bool,
    sent: bool,
    alarm: Alarm,
}

impl Quiet {
    fn new(period: Duration, idle: Option<Duration>) -> Self {
        let now = tokio::time::Instant::now();
        let (received, meant, sent) = (false, false, false);
        Self {
            period,
            idle,
            received_at: now,
            meant_at: now,
            sent_at: now,
            received,
            meant,
            sent,
            alarm: Alarm::default(),
        }
    }

    fn received(&mut self, meant: bool) {
        self.received = true;
        self.meant |= meant;
    }

    fn sent(&mut self) {
        self.sent = true;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Silence> {
        let now = tokio::time::Instant::now();
        if std::mem::take(&mut self.received) {
            self.received_at = now;
        }
        if std::mem::take(&mut self.meant) {
            self.meant_at = now;
        }
        if std::mem::take(&mut self.sent) {
            self.sent_at = now;
        }
        let client_at = self.sent_at + self.period;
        let upstream_at = self.idle.map(|idle| (self.received_at + idle).min(self.meant_at + idle * SIGNS_OF_LIFE_MAX));
        let next = upstream_at.map_or(client_at, |at| at.min(client_at));
        ready!(self.alarm.poll(cx, next));
        Poll::Ready(match self.idle.filter(|_| upstream_at == Some(next)) {
            Some(idle) if self.received_at + idle == next => Silence::Upstream(idle),
            Some(_) => Silence::Upstream(next - self.meant_at),
            None => Silence::Client,
        })
    }
}

/// The end of a shutdown's grace period, waited for only once a stream has nothing else to do.
struct Cut {
    token: CancellationToken,
    wait: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Cut {
    fn new(token: &CancellationToken) -> Self {
        Self { token: token.clone(), wait: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wait.get_or_insert_with(|| Box::pin(self.token.clone().cancelled_owned())).as_mut().poll(cx)
    }
}
