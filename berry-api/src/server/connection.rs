//! What the service knows of the connection that a request came on, and what the connection's guard knows of its requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use berry_core::time::Instant;
use http::StatusCode;

use crate::app::App;
use crate::auth::Known;
use crate::telemetry::metrics::{MethodLabel, Path};

/// What a request is counted under whose client left before there was an answer.
const CLIENT_LEFT: u16 = 499;

/// One client connection. Its requests and its I/O guard share it; all of them run on the connection's own task, except the
/// streams of HTTP/2.
pub struct Connection {
    /// Address of the client, or of the proxy before it; from the PROXY protocol where that is on.
    pub peer: SocketAddr,
    /// The token that was last accepted on it.
    pub known: Known,
    app: Arc<App>,
    /// Requests that were handed to the service.
    begun: AtomicU32,
    /// Of these, those whose answer is not over.
    active: AtomicU32,
    /// When the last answer was over; nanoseconds of [`Instant`].
    idle_since: AtomicU64,
    /// A body was left unread: the connection must not be cut before the client has had the chance to read the answer.
    linger: AtomicBool,
}

impl Connection {
    /// A connection on which nothing was asked yet.
    pub fn new(peer: SocketAddr, app: Arc<App>) -> Self {
        Self {
            peer,
            known: Known::default(),
            begun: AtomicU32::new(0),
            active: AtomicU32::new(0),
            idle_since: AtomicU64::new(app.clock.now().as_nanos()),
            linger: AtomicBool::new(false),
            app,
        }
    }

    /// Counts a request until the result is dropped; then it goes into the figures.
    pub fn begin(self: &Arc<Self>, path: Path, method: MethodLabel) -> ActiveRequest {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        self.app.in_flight.fetch_add(1, Ordering::Relaxed);
        let started = self.app.clock.now();
        ActiveRequest { connection: Arc::clone(self), path, method, started, status: CLIENT_LEFT }
    }

    /// Asks for the rest of an unread body to be read away, for a while, when the connection closes.
    pub fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.linger.load(Ordering::Relaxed)
    }

    pub(super) fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    pub(super) fn idle_since(&self) -> Instant {
        Instant::from_nanos(self.idle_since.load(Ordering::Relaxed))
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }
}

/// A request that is being served; lives in its answer's body.
pub struct ActiveRequest {
    connection: Arc<Connection>,
    path: Path,
    method: MethodLabel,
    /// When its head had arrived.
    pub started: Instant,
    status: u16,
}

impl ActiveRequest {
    /// Notes the status of its answer and, where only the router knew it, its path.
    pub fn answered(&mut self, status: StatusCode, template: Option<&'static str>) {
        self.status = status.as_u16();
        if let (Path::Page(path), Some(template)) = (&mut self.path, template) {
            *path = Some(template);
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let connection = &self.connection;
        let now = connection.app.clock.now();
        connection.idle_since.store(now.as_nanos(), Ordering::Relaxed);
        connection.active.fetch_sub(1, Ordering::Relaxed);
        connection.app.in_flight.fetch_sub(1, Ordering::Relaxed);
        connection.app.metrics.request(self.path, self.method, self.status, now.since(self.started));
    }
}
