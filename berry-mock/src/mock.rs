//! The server: connections, the order of things within a request, and the handle that tests hold.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use parking_lot::RwLock;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Answer, Step};
use crate::body::MockBody;
use crate::error::ApiError;
use crate::fault::Fault;
use crate::hash::mix;
use crate::observe::{Cancellation, InFlight, Observer, SeenRequest, Stats};
use crate::route::{self, Call};
use crate::script::{FaultScope, Script};
use crate::wire::{Cutter, Transport, Wire};

/// Bytes that one direction of an in-memory connection holds before the writer has to wait.
const MEMORY_BYTES: usize = 64 * 1024;
/// Largest request body; above it the answer is 413.
const BODY_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Pause after a failed accept: the process is out of descriptors, and asking again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Names the faults of one request.
const FAULT_HEADER: HeaderName = HeaderName::from_static("x-mock-fault");

/// A scripted upstream. Clones are the same upstream.
///
/// Its connections live until their client closes them or [`Mock::shutdown`] is called, whatever becomes of the handles. An idle
/// one has no timer and no buffer.
#[derive(Clone)]
pub struct Mock(Arc<Inner>);

struct Inner {
    compiled: RwLock<Arc<Compiled>>,
    observer: Arc<Observer>,
    gate: watch::Sender<bool>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A script made ready, with the state that belongs to it.
struct Compiled {
    script: Script,
    replies: Vec<CompiledReply>,
    /// Requests that took an entry of the fault list.
    faulted: AtomicUsize,
}

struct CompiledReply {
    method: Option<Method>,
    path: String,
    left: Option<AtomicUsize>,
    answer: Answer,
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mock").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Mock {
    /// An upstream that follows `script`. Nothing runs until somebody connects.
    ///
    /// # Panics
    ///
    /// When a reply of the script is not valid HTTP. [`Script::validate`] says so without a panic.
    pub fn new(script: Script) -> Self {
        Self(Arc::new(Inner {
            compiled: RwLock::new(Arc::new(Compiled::new(script))),
            observer: Arc::new(Observer::default()),
            gate: watch::Sender::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Follows another script from the next request on. The list of faults and the `times` of replies start anew; figures,
    /// request numbers and what was seen stay.
    ///
    /// # Panics
    ///
    /// As [`Mock::new`] does.
    pub fn update(&self, script: Script) {
        *self.0.compiled.write() = Arc::new(Compiled::new(script));
    }

    /// Opens an in-memory HTTP/1 connection and returns the client's end. After [`Mock::shutdown`] it is closed at once.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn connect(&self) -> DuplexStream {
        let (client, server) = tokio::io::duplex(MEMORY_BYTES);
        if !self.0.stop.is_cancelled() {
            self.0.tasks.spawn(serve_memory(Arc::clone(&self.0), server));
        }
        client
    }

    /// Serves HTTP/1 and HTTP/2 without TLS on a listener, until [`Mock::shutdown`].
    pub async fn serve(&self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, _)) => {
                    self.0.tasks.spawn(serve_tcp(Arc::clone(&self.0), tcp));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Serves on a free port of the loopback interface, in the background, and returns its address.
    ///
    /// # Errors
    ///
    /// When no socket can be bound.
    pub async fn listen(&self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mock = self.clone();
        self.0.tasks.spawn(async move { mock.serve(listener).await });
        Ok(address)
    }

    /// Stops for good, as a killed process would: listeners and connections are closed with whatever they were doing.
    pub fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
    }

    /// Waits until everything that [`Mock::shutdown`] stops has stopped.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
        self.0.tasks.wait().await;
    }

    /// Lets answers pass that wait at a gate ([`Fault::Gate`], [`ReplyChunk::gate`](crate::ReplyChunk::gate)), and all later ones.
    pub fn open_gate(&self) {
        self.0.gate.send_replace(true);
    }

    /// The figures now.
    pub fn stats(&self) -> Stats {
        self.0.observer.stats()
    }

    /// Waits until the figures satisfy `condition`, and returns them. There is no time limit: a test brings its own.
    pub async fn wait_until(&self, condition: impl FnMut(&Stats) -> bool) -> Stats {
        self.0.observer.wait_until(condition).await
    }

    /// The last requests whose bodies arrived whole, oldest first; [`Script::keep_requests`] of them.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.0.observer.requests()
    }

    /// The last 4096 clients that left, oldest first.
    pub fn cancellations(&self) -> Vec<Cancellation> {
        self.0.observer.cancellations()
    }
}

/// The client has left in the middle of its request: there is nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("the client left before its request was complete")]
struct ClientGone;

async fn serve_memory(inner: Arc<Inner>, server: DuplexStream) {
    let _open = inner.observer.connection();
    let cutter = Arc::new(Cutter::default());
    let wire = TokioIo::new(Wire::new(Transport::Memory(server), Arc::clone(&cutter)));
    let service = service_fn(|request| respond(Arc::clone(&inner), Arc::clone(&cutter), request));
    let connection = hyper::server::conn::http1::Builder::new().auto_date_header(false).serve_connection(wire, service);
    until_cut(&inner, &cutter, connection).await;
}

async fn serve_tcp(inner: Arc<Inner>, tcp: TcpStream) {
    let _open = inner.observer.connection();
    // Without it a streamed token may wait 40 ms for the acknowledgement of the one before.
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let cutter = Arc::new(Cutter::default());
    let wire = TokioIo::new(Wire::new(Transport::Tcp(tcp), Arc::clone(&cutter)));
    let service = {
        let (inner, cutter) = (Arc::clone(&inner), Arc::clone(&cutter));
        service_fn(move |request| respond(Arc::clone(&inner), Arc::clone(&cutter), request))
    };
    let mut builder = auto::Builder::new(Tracked(inner.tasks.clone()));
    builder.http1().auto_date_header(false);
    builder.http2().auto_date_header(false);
    until_cut(&inner, &cutter, builder.serve_connection(wire, service)).await;
}

/// Drives a connection to its own end, the script's or the mock's. Dropping it closes the socket.
async fn until_cut(inner: &Inner, cutter: &Cutter, connection: impl Future) {
    tokio::select! {
        biased;
        _ = connection => {}
        () = cutter.killed() => {}
        () = inner.stop.cancelled() => {}
    }
}

/// Runs the tasks of HTTP/2 streams where [`Mock::stopped`] can wait for them.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// Answers one request: read, remember, make an answer, spoil it, send it.
async fn respond(
    inner: Arc<Inner>,
    cutter: Arc<Cutter>,
    request: Request<Incoming>,
) -> Result<Response<MockBody>, ClientGone> {
    let in_flight = inner.observer.request();
    let compiled = Arc::clone(&inner.compiled.read());
    let (head, body) = request.into_parts();
    let reply = compiled.reply(&head);
    let keep = compiled.script.keep_requests;
    let body = if reply.is_some() && keep == Some(0) {
        // Nobody will look at it.
        drain(body).await?;
        Some(Bytes::new())
    } else {
        read(body).await?
    };
    let number = in_flight.number();
    if let Some(body) = &body
        && keep != Some(0)
    {
        inner.observer.record(seen(number, &head, body.clone()), keep);
    }
    let answer = match body {
        Some(body) => compiled.answer(&head, &body, reply, number),
        None => ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE).answer(route::vendor(&head)),
    };
    Ok(send(&inner, answer, in_flight, cutter).await)
}

fn seen(number: u64, head: &Parts, body: Bytes) -> SeenRequest {
    SeenRequest {
        number,
        version: head.version,
        method: head.method.clone(),
        path_and_query: path_and_query(head).to_owned(),
        headers: head.headers.clone(),
        body,
        at: Instant::now(),
    }
}

fn path_and_query(head: &Parts) -> &str {
    head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

async fn drain(mut body: Incoming) -> Result<(), ClientGone> {
    while let Some(frame) = body.frame().await {
        frame.map_err(|_| ClientGone)?;
    }
    Ok(())
}

/// The whole body, or nothing when it is too large.
async fn read(mut body: Incoming) -> Result<Option<Bytes>, ClientGone> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ClientGone)?.into_data() else {
            continue;
        };
        if first.len() + rest.len() + data.len() > BODY_BYTES_MAX {
            return Ok(None);
        }
        if first.is_empty() && rest.is_empty() {
            // Most bodies come in one piece, and that is passed on as it is.
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok(Some(if rest.is_empty() { first } else { rest.freeze() }))
}

/// Does what comes before the head, then hands the body to hyper.
async fn send(inner: &Inner, answer: Answer, mut in_flight: InFlight, cutter: Arc<Cutter>) -> Response<MockBody> {
    let gate = Gate(inner.gate.subscribe());
    for step in answer.before_head {
        match step {
            Step::Wait(wait) if !wait.is_zero() => tokio::time::sleep(wait).await,
            Step::Gate => gate.opened().await,
            Step::Hang => std::future::pending().await,
            Step::Kill(end) => {
                in_flight.cut();
                cutter.kill(end);
                std::future::pending().await
            }
            Step::CutHead(end) => {
                in_flight.cut();
                cutter.kill_in_head(end);
            }
            Step::Wait(_) | Step::Chunk(..) | Step::Flush | Step::Beat(..) => {}
        }
    }
    let body = MockBody::new(answer.body, answer.length, in_flight, cutter, gate);
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// The gate of one mock, as bodies see it.
pub(crate) struct Gate(watch::Receiver<bool>);

impl Gate {
    /// Returns when the gate is open.
    pub(crate) fn opened(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut open = self.0.clone();
        Box::pin(async move {
            // The mock outlives its connections; were it gone, nothing could open the gate.
            if open.wait_for(|open| *open).await.is_err() {
                std::future::pending::<Infallible>().await;
            }
        })
    }
}

impl Compiled {
    fn new(script: Script) -> Self {
        let replies = script.replies.iter().map(|reply| {
            let answer = reply.answer().unwrap_or_else(|error| panic!("reply to {:?}: {error}", reply.path));
            let method = reply.method.as_ref().map(|method| method.parse().expect("checked with the answer"));
            let left = reply.times.map(|times| AtomicUsize::new(times as usize));
            CompiledReply { method, path: reply.path.clone(), left, answer }
        });
        let replies = replies.collect();
        Self { script, replies, faulted: AtomicUsize::new(0) }
    }

    /// The scripted reply to a request, if there is one; it uses up one of its `times`.
    fn reply(&self, head: &Parts) -> Option<&Answer> {
        if self.replies.is_empty() {
            return None;
        }
        let path = path_and_query(head);
        self.replies.iter().find(|reply| reply.matches(&head.method, path) && reply.take()).map(|reply| &reply.answer)
    }

    fn answer(&self, head: &Parts, body: &Bytes, reply: Option<&Answer>, number: u64) -> Answer {
        let vendor = route::vendor(head);
        let mut rng = fastrand::Rng::with_seed(mix(self.script.seed) ^ mix(number));
        let faults = match self.faults(head, &mut rng) {
            Ok(faults) => faults,
            Err(error) => return error.answer(vendor),
        };
        let mut answer = match reply {
            Some(reply) => reply.clone(),
            None => {
                let usage = !faults.contains(&Fault::NoUsage);
                Call { head, body, script: &self.script, usage, rng }.answer()
            }
        };
        for fault in &faults {
            fault.apply(&mut answer, vendor);
        }
        answer
    }

    /// What goes wrong with a request: what it asks for itself, else what the script has for it.
    fn faults(&self, head: &Parts, rng: &mut fastrand::Rng) -> Result<Vec<Fault>, ApiError> {
        if let Some(wanted) = head.headers.get(FAULT_HEADER) {
            let wanted = wanted.to_str().map_err(|_| ApiError::invalid("x-mock-fault is not text"))?;
            let faults = wanted.split(',').map(str::parse).collect::<Result<_, _>>();
            return faults.map_err(|error: crate::FaultParseError| ApiError::invalid(error.to_string()));
        }
        let hit = match self.script.fault_scope {
            FaultScope::All => true,
            FaultScope::Post => head.method == Method::POST,
            FaultScope::Get => head.method == Method::GET,
        };
        if !hit {
            return Ok(Vec::new());
        }
        // Drawn for every request, so that a list of faults does not shift which ones fail.
        let (fails, overloaded) = (rng.f64() < self.script.failure_rate, rng.bool());
        if let Some(fault) = self.next_fault() {
            return Ok(vec![fault]);
        }
        let code = if overloaded { 503 } else { 500 };
        Ok(if fails { vec![Fault::Status { code, retry_after: None }] } else { Vec::new() })
    }

    fn next_fault(&self) -> Option<Fault> {
        let faults = &self.script.faults;
        if faults.is_empty() {
            return None;
        }
        let turn = self.faulted.fetch_add(1, Ordering::Relaxed);
        let turn = if self.script.faults_once { turn } else { turn % faults.len() };
        faults.get(turn).cloned()
    }
}

impl CompiledReply {
    fn matches(&self, method: &Method, path: &str) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted == method) && path.starts_with(&self.path)
    }

    /// Uses up one of its times; `false` when none is left.
    fn take(&self) -> bool {
        let Some(left) = &self.left else { return true };
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}
