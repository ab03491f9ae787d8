//! How the process ends: first not ready, then no new connections, then no new requests, then cut.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio_util::sync::CancellationToken;

/// The stages of a shutdown. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<Stages>);

#[derive(Debug, Default)]
struct Stages {
    /// `/readyz` fails.
    leaving: AtomicBool,
    /// Connections finish what they are doing and close.
    draining: AtomicBool,
    drain: Arc<Notify>,
    /// What is still running is ended.
    cut: CancellationToken,
}

impl Shutdown {
    /// Stage one: tell load balancers.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the process is about to go.
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed)
    }

    /// Stage two: every connection closes after what it is doing.
    pub fn drain(&self) {
        self.leave();
        self.0.draining.store(true, Ordering::Release);
        self.0.drain.notify_waiters();
    }

    /// Whether stage two was reached.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Stage three: streams that still run end with an error event.
    pub fn cut(&self) {
        self.0.cut.cancel();
    }

    /// Cancelled at stage three.
    pub fn cut_token(&self) -> &CancellationToken {
        &self.0.cut
    }

    /// Completes at stage two.
    pub async fn drained(&self) {
        let notified = self.0.drain.notified();
        if !self.is_draining() {
            notified.await;
        }
    }

    /// For a connection's task, see [`DrainWatch`].
    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            shutdown: self.clone(),
            notified: Box::pin(Arc::clone(&self.0.drain).notified_owned()),
            registered: false,
            seen: false,
        }
    }
}

/// Tells a connection's task, once, that stage two was reached.
///
/// A task is polled for every read and write of its connection, so looking must cost next to nothing: the task is registered
/// at the first look, which is enough since a task's waker stays the same, and each further look is one load.
#[derive(Debug)]
pub struct DrainWatch {
    shutdown: Shutdown,
    notified: Pin<Box<OwnedNotified>>,
    registered: bool,
    seen: bool,
}

impl DrainWatch {
    /// Whether the connection should begin to close now; true once.
    pub fn begins(&mut self, cx: &mut Context<'_>) -> bool {
        if self.seen {
            return false;
        }
        if !self.registered {
            self.registered = true;
            // Registered before the flag is looked at, so that no notification falls between the two.
            let _: Poll<()> = self.notified.as_mut().poll(cx);
        }
        self.seen = self.shutdown.is_draining();
        self.seen
    }
}

/// The signals that ask the process to end: SIGTERM and SIGINT, Ctrl-C elsewhere. From its making on, none is missed.
#[derive(Debug)]
pub struct EndSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl EndSignals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub fn listen() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
        }
        #[cfg(not(unix))]
        {
            Ok(Self {})
        }
    }

    /// Completes at the next one, with its name.
    pub async fn next(&mut self) -> &'static str {
        #[cfg(unix)]
        {
            tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            }
        }
        #[cfg(not(unix))]
        {
            // An error means that Ctrl-C cannot be caught; then it ends the process by itself.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            "Ctrl-C"
        }
    }
}
