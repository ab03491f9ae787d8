//! What the upstream saw, for tests that must not sleep.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// How many requests are remembered unless the script says otherwise.
const REQUESTS_KEPT: usize = 256;
/// Bytes of bodies that are remembered at most; older requests are forgotten first.
const BODY_BYTES_KEPT: usize = 64 * 1024 * 1024;
/// How many cancellations are remembered.
const CANCELLATIONS_KEPT: usize = 4096;

/// Figures of a [`Mock`](crate::Mock) at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted since the start.
    pub connections: u64,
    /// Connections open now.
    pub open_connections: u64,
    /// Requests whose head has arrived, since the start.
    pub requests: u64,
    /// Requests that have arrived and whose answer has not ended.
    pub in_flight: u64,
    /// Answers handed over to their last byte.
    pub completed: u64,
    /// Answers that the client did not wait for: the connection or the stream closed before the last byte.
    pub cancelled: u64,
    /// Answers that the script cut.
    pub cut: u64,
}

/// A request as it arrived.
#[derive(Clone)]
pub struct SeenRequest {
    /// Counted from 0 over the life of the mock.
    pub number: u64,
    /// HTTP version it came with.
    pub version: Version,
    /// Method.
    pub method: Method,
    /// Path and query as they were sent.
    pub path_and_query: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
    /// When its body was complete, on tokio's clock.
    pub at: Instant,
}

impl fmt::Debug for SeenRequest {
    /// Without header values and body: they hold keys and prompts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.keys().map(http::HeaderName::as_str).collect();
        f.debug_struct("SeenRequest")
            .field("number", &self.number)
            .field("method", &self.method)
            .field("path_and_query", &self.path_and_query)
            .field("headers", &names)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A client that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancellation {
    /// Number of its request.
    pub request: u64,
    /// When the upstream saw the close, on tokio's clock.
    pub at: Instant,
    /// How far the answer was.
    pub phase: Phase,
}

/// How far an answer was when its client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The request was still being read, or the head had not been sent.
    BeforeHead,
    /// The head had been sent, and no content.
    BeforeContent,
    /// Some content had been sent.
    Content,
}

/// Collects everything above. One lock at a time, none of them held across an await.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    stats: watch::Sender<Stats>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: VecDeque<SeenRequest>,
    body_bytes: usize,
    cancellations: VecDeque<Cancellation>,
}

impl Observer {
    pub(crate) fn stats(&self) -> Stats {
        *self.stats.borrow()
    }

    pub(crate) fn requests(&self) -> Vec<SeenRequest> {
        self.seen.lock().requests.iter().cloned().collect()
    }

    pub(crate) fn cancellations(&self) -> Vec<Cancellation> {
        self.seen.lock().cancellations.iter().copied().collect()
    }

    pub(crate) async fn wait_until(&self, mut condition: impl FnMut(&Stats) -> bool) -> Stats {
        let mut stats = self.stats.subscribe();
        let seen = stats.wait_for(|stats| condition(stats)).await;
        *seen.expect("the sender lives as long as self")
    }

    /// Remembers a request, and forgets old ones.
    pub(crate) fn record(&self, request: SeenRequest, keep: Option<usize>) {
        let keep = keep.unwrap_or(REQUESTS_KEPT);
        let mut seen = self.seen.lock();
        seen.body_bytes += request.body.len();
        seen.requests.push_back(request);
        while seen.requests.len() > keep || (seen.body_bytes > BODY_BYTES_KEPT && seen.requests.len() > 1) {
            let Some(oldest) = seen.requests.pop_front() else { break };
            seen.body_bytes -= oldest.body.len();
        }
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn connection(self: &Arc<Self>) -> OpenConnection {
        self.stats.send_modify(|stats| {
            stats.connections += 1;
            stats.open_connections += 1;
        });
        OpenConnection(Arc::clone(self))
    }

    /// Counts a request; the guard settles how it ended.
    pub(crate) fn request(self: &Arc<Self>) -> InFlight {
        let mut number = 0;
        self.stats.send_modify(|stats| {
            number = stats.requests;
            stats.requests += 1;
            stats.in_flight += 1;
        });
        InFlight { observer: Arc::clone(self), number, phase: Phase::BeforeHead, settled: false }
    }
}

/// A connection while it is open.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<Observer>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.stats.send_modify(|stats| stats.open_connections -= 1);
    }
}

/// A request until its answer has ended. Dropped unsettled, its client has left.
#[derive(Debug)]
pub(crate) struct InFlight {
    observer: Arc<Observer>,
    number: u64,
    phase: Phase,
    settled: bool,
}

impl InFlight {
    /// Number of the request, from 0.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn reached(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// The last byte was handed over.
    pub(crate) fn complete(&mut self) {
        self.settle(|stats| stats.completed += 1);
    }

    /// The script ended the answer.
    pub(crate) fn cut(&mut self) {
        self.settle(|stats| stats.cut += 1);
    }

    fn settle(&mut self, count: impl FnOnce(&mut Stats)) {
        if !std::mem::replace(&mut self.settled, true) {
            self.observer.stats.send_modify(|stats| {
                stats.in_flight -= 1;
                count(stats);
            });
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let cancellation = Cancellation { request: self.number, at: Instant::now(), phase: self.phase };
        {
            let mut seen = self.observer.seen.lock();
            if seen.cancellations.len() == CANCELLATIONS_KEPT {
                seen.cancellations.pop_front();
            }
            seen.cancellations.push_back(cancellation);
        }
        // Counted last: who waits for the count finds the cancellation.
        self.settle(|stats| stats.cancelled += 1);
    }
}
