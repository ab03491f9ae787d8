//! Connections to one provider, kept between requests.
//!
//! HTTP/1.1 connections wait in a stack, so that the warmest is used first; an HTTP/2 connection is shared by all requests. The
//! handling of a connection is hyper's; what is here is which one a request gets, and who drives it. A pool of our own costs a
//! quarter fewer instructions per request than the general one of `hyper-util`, and knows what the attempt loop must know:
//! whether a connection had been used before, so that a request which it lost before any answer may be sent once more.
//!
//! An HTTP/1.1 connection has no task: whoever waits for its answer drives it. So a request is one task from end to end, is woken
//! once by the upstream's bytes instead of twice, and closes its connection by being dropped. Nobody drives an idle connection;
//! whether it still stands is seen when it is looked at, before its next use or by [`Pool::close_idle`]. The timer of its requests is
//! the connection's too, so that a request sets none.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::alarm::Alarm;
use crate::client::{Connector, UpstreamIo};
use crate::error::BoxError;
use crate::upstream_body::UpstreamBody;

/// Idle connections are closed before the other side is likely to do it. Counted from the first look at them, see
/// [`Pool::close_idle`].
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Most connections that are kept idle.
const IDLE_MAX: usize = 1024;
/// Most headers of an answer.
const HEADERS_MAX: usize = 100;
/// Largest head of an answer, bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How often a silent HTTP/2 connection is asked whether it is still there.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Connections to one origin.
pub(crate) struct Pool {
    connector: Connector,
    origin: Uri,
    host: HeaderValue,
    /// Send the whole address in the request line, as a forward proxy wants it.
    absolute_form: bool,
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Option<http2::SendRequest<UpstreamBody>>>,
    has_shared: AtomicBool,
    tasks: TaskTracker,
}

struct Idle {
    link: Box<Link>,
    /// When it was first seen idle, so that a request need not read the clock; `None` before that.
    seen: Option<Instant>,
}

/// One HTTP/1.1 connection, with the two ends of it that hyper gives.
struct Link {
    sender: http1::SendRequest<UpstreamBody>,
    /// `None` once it has ended.
    connection: Option<http1::Connection<UpstreamIo, UpstreamBody>>,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
    /// For the head of an answer.
    alarm: Alarm,
}

impl Link {
    fn new(sender: http1::SendRequest<UpstreamBody>, connection: http1::Connection<UpstreamIo, UpstreamBody>) -> Self {
        let bell = Arc::new(Bell::rung());
        let waker = Waker::from(Arc::clone(&bell));
        Self { sender, connection: Some(connection), bell, waker, alarm: Alarm::default() }
    }

    /// Takes a request. The answer comes while the connection is polled.
    fn begin(
        &mut self,
        request: Request<UpstreamBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, hyper::Error>> + use<> {
        let Self { sender, bell, .. } = self;
        bell.quietly(|| sender.send_request(request))
    }

    /// Polls `what` until it is ready or the connection can do no more; the task of `cx` is woken when it can. What is polled
    /// hangs on the connection alone, so it needs no waker: it is looked at each time that the connection has moved.
    fn poll<T>(&mut self, cx: &mut Context<'_>, mut what: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.bell.task.register(cx.waker());
        loop {
            self.drive();
            let polled = self.bell.quietly(|| what(&mut Context::from_waker(Waker::noop())));
            if polled.is_ready() || !self.bell.has_rung() {
                return polled;
            }
        }
    }

    /// Moves bytes as far as they go, if there may be any.
    fn drive(&mut self) {
        if self.bell.take()
            && let Some(connection) = &mut self.connection
            // How it ends is told to the request that it serves; the end of an idle one is of no concern.
            && Pin::new(connection).poll(&mut Context::from_waker(&self.waker)).is_ready()
        {
            self.connection = None;
        }
    }

    /// Whether it can take a request. Sees that the other side has closed.
    fn is_ready(&mut self) -> bool {
        self.drive();
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Tells whether a connection may have something to do, and wakes the task that drives it.
///
/// A ring that comes from the task's own dealings with the connection, such as taking a piece of a body, wakes nobody: the task is
/// running and looks at the bell before it waits, or polls again before that. Without this, each piece would cost one more poll of
/// everything.
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

/// The connection must be polled.
const RUNG: u8 = 1;
/// Nobody is to be woken.
const QUIET: u8 = 2;

impl Bell {
    fn rung() -> Self {
        Self { state: AtomicU8::new(RUNG), task: AtomicWaker::new() }
    }

    fn ring(&self) {
        if self.state.fetch_or(RUNG, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }

    fn has_rung(&self) -> bool {
        self.state.load(Ordering::Acquire) & RUNG != 0
    }

    fn take(&self) -> bool {
        self.state.fetch_and(!RUNG, Ordering::AcqRel) & RUNG != 0
    }

    fn quietly<T>(&self, dealings: impl FnOnce() -> T) -> T {
        self.state.fetch_or(QUIET, Ordering::AcqRel);
        let result = dealings();
        self.state.fetch_and(!QUIET, Ordering::AcqRel);
        result
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

/// Why a request got no head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// No connection.
    #[error("no connection")]
    Connect(#[source] BoxError),
    /// The connection broke before the head had come.
    #[error("the connection broke before an answer")]
    Broken {
        /// Whether it had served requests before and closed instead of answering: the usual race with an upstream that closes
        /// idle connections, after which the request may be sent again on another connection (RFC 9112 9.3.1).
        stale: bool,
        /// What happened.
        #[source]
        source: hyper::Error,
    },
    /// No head came in time.
    #[error("no answer in time")]
    TimedOut,
}

/// Which connection to use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// One that waits, if there is one.
    Any,
    /// A new one.
    Fresh,
}

impl Pool {
    /// A pool with no connection yet.
    pub(crate) fn new(connector: Connector, origin: Uri) -> Self {
        let authority = origin.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(authority).expect("an authority is visible ASCII");
        let absolute_form = connector.speaks_absolute_form();
        Self {
            connector,
            origin,
            host,
            absolute_form,
            idle: Mutex::default(),
            shared: Mutex::default(),
            has_shared: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        }
    }

    /// Sends a request whose address is a path; waits for the head of the answer, no longer than `until`.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would hold the request twice: as it came and as it is used"
    )]
    pub(crate) fn send(
        self: &Arc<Self>,
        mut request: Request<UpstreamBody>,
        choice: Choice,
        until: Instant,
    ) -> impl Future<Output = Result<Response<PooledBody>, SendError>> + Send {
        async move {
            let (connection, used_before) = match self.waiting(choice) {
                Some(connection) => (connection, true),
                // Boxed, as everything that is rare: what a request's future may need, every request has room for.
                None => (Box::pin(in_time(until, self.connect())).await?, false),
            };
            let mut link = match connection {
                Connection::Own(link) => link,
                Connection::Shared(sender) => return Box::pin(in_time(until, self.send_shared(sender, request))).await,
            };
            request.headers_mut().insert(header::HOST, self.host.clone());
            if self.absolute_form {
                self.make_absolute(&mut request);
            }
            let sending = link.begin(request);
            // Outside of the runtime's budget, whose end it would tell to a waker that nobody listens to.
            let mut sending = pin!(unconstrained(sending));
            let sent = poll_fn(|cx| match link.poll(cx, |cx| sending.as_mut().poll(cx)) {
                Poll::Ready(sent) => Poll::Ready(Some(sent)),
                Poll::Pending => link.alarm.poll(cx, until).map(|()| None),
            });
            let response = sent
                .await
                .ok_or(SendError::TimedOut)?
                .map_err(|source| SendError::Broken { stale: used_before && closed_under_us(&source), source })?;
            let home = Some((Arc::clone(self), link));
            Ok(response.map(|incoming| PooledBody { incoming, home }))
        }
    }

    /// Opens a connection and keeps it for the next request.
    pub(crate) async fn open(&self) -> Result<(), SendError> {
        if let Connection::Own(link) = Box::pin(self.connect()).await? {
            self.take_back(link);
        }
        Ok(())
    }

    /// Closes what has been idle for too long, and what the other side has closed. To be called every few seconds.
    pub(crate) fn close_idle(&self) {
        let now = Instant::now();
        self.idle.lock().retain_mut(|idle| {
            let seen = *idle.seen.get_or_insert(now);
            now.saturating_duration_since(seen) < IDLE_TIMEOUT && idle.link.is_ready()
        });
    }

    /// A connection that is there already.
    fn waiting(&self, choice: Choice) -> Option<Connection> {
        if self.has_shared.load(Ordering::Relaxed)
            && let Some(sender) = self.shared.lock().as_ref().filter(|sender| !sender.is_closed())
        {
            return Some(Connection::Shared(sender.clone()));
        }
        if choice == Choice::Fresh {
            return None;
        }
        loop {
            let mut link = self.idle.lock().pop()?.link;
            if link.is_ready() {
                return Some(Connection::Own(link));
            }
        }
    }

    async fn send_shared(
        &self,
        mut sender: http2::SendRequest<UpstreamBody>,
        mut request: Request<UpstreamBody>,
    ) -> Result<Response<PooledBody>, SendError> {
        self.make_absolute(&mut request);
        let sent = sender.send_request(request).await;
        let response = sent.map_err(|source| SendError::Broken { stale: source.is_canceled(), source })?;
        Ok(response.map(|incoming| PooledBody { incoming, home: None }))
    }

    fn make_absolute(&self, request: &mut Request<UpstreamBody>) {
        let mut parts = self.origin.clone().into_parts();
        let path = request.uri().path_and_query().cloned();
        parts.path_and_query = path.or_else(|| Some(PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(parts).expect("an origin and a path make an address");
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let mut connector = self.connector.clone();
        let io = connector.call(self.origin.clone()).await.map_err(SendError::Connect)?;
        let refused = |error: hyper::Error| SendError::Connect(Box::new(error));
        if io.connected().is_negotiated_h2() {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(HTTP2_KEEP_ALIVE).adaptive_window(true);
            let (sender, connection) = builder.handshake(io).await.map_err(refused)?;
            self.tasks.spawn(connection);
            *self.shared.lock() = Some(sender.clone());
            self.has_shared.store(true, Ordering::Relaxed);
            return Ok(Connection::Shared(sender));
        }
        let mut builder = http1::Builder::new();
        builder.max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX);
        // Old servers and careless ones still write these. What is no header at all makes an answer none.
        builder.allow_obsolete_multiline_headers_in_responses(true).allow_spaces_after_header_name_in_responses(true);
        let (sender, connection) = builder.handshake(io).await.map_err(refused)?;
        // Boxed, because it is large and moves from pool to request to body.
        Ok(Connection::Own(Box::new(Link::new(sender, connection))))
    }

    fn take_back(&self, link: Box<Link>) {
        if link.connection.is_none() {
            return;
        }
        link.bell.task.take();
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { link, seen: None });
        }
    }
}

/// What has come to nothing by then has timed out.
async fn in_time<T>(until: Instant, work: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
    tokio::time::timeout_at(until, work).await.unwrap_or(Err(SendError::TimedOut))
}

/// Whether the other side closed or reset the connection instead of answering. hyper does not tell a reset inside the head
/// from one before it.
fn closed_under_us(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let reset = cause.is_some_and(|io| matches!(io.kind(), ConnectionReset | ConnectionAborted | BrokenPipe));
    reset || error.is_incomplete_message() || error.is_canceled() || error.is_closed()
}

enum Connection {
    Own(Box<Link>),
    Shared(http2::SendRequest<UpstreamBody>),
}

/// The body of an upstream's answer. It drives its HTTP/1.1 connection, which goes back to its pool at the end; a body that is
/// dropped before closes it, and with it what the upstream is doing.
pub(crate) struct PooledBody {
    incoming: Incoming,
    home: Option<(Arc<Pool>, Box<Link>)>,
}

impl PooledBody {
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut incoming = Pin::new(&mut self.incoming);
        match &mut self.home {
            Some((_, link)) => link.poll(cx, |cx| incoming.as_mut().poll_frame(cx)),
            None => incoming.poll_frame(cx),
        }
    }

    fn release(&mut self) {
        if let Some((pool, link)) = self.home.take() {
            pool.take_back(link);
        }
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(self.poll_incoming(cx));
        match &frame {
            None => self.release(),
            Some(Ok(_)) if self.incoming.is_end_stream() => self.release(),
            Some(_) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count(AtomicU8);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn own_dealings_ring_the_bell_and_wake_nobody() {
        let (bell, count) = (Bell::rung(), Arc::new(Count::default()));
        bell.task.register(&Waker::from(Arc::clone(&count)));
        assert!(bell.take() && !bell.take());
        bell.quietly(|| bell.ring());
        assert!(bell.has_rung());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_connection_wakes_its_task_once_until_it_is_driven() {
        let (bell, count) = (Bell::rung(), Arc::new(Count::default()));
        assert!(bell.take());
        for round in 1..=2 {
            bell.task.register(&Waker::from(Arc::clone(&count)));
            bell.ring();
            bell.ring();
            assert_eq!(count.0.load(Ordering::Relaxed), round);
            assert!(bell.take());
        }
    }
}
