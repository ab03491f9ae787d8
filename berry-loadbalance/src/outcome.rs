//! How an attempt ended, seen from the backend's side.

use std::time::Duration;

/// Class of a backend failure. Closed, so it can label `backend_error_count_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// Connect, TLS, DNS or a connection that broke.
    Network,
    /// Our key was refused.
    Auth,
    /// 429.
    RateLimit,
    /// 5xx, or an answer that is not one.
    Server,
    /// The model or deployment is unknown there.
    Model,
    /// Silence for too long.
    Timeout,
    /// A stream that ended without its terminal event.
    StreamIncomplete,
}

impl FailureClass {
    /// Every class, in the order of [`FailureClass::index`].
    pub const ALL: [Self; 7] = [
        Self::Network,
        Self::Auth,
        Self::RateLimit,
        Self::Server,
        Self::Model,
        Self::Timeout,
        Self::StreamIncomplete,
    ];

    /// Its name as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Auth => "auth",
            Self::RateLimit => "rate_limit",
            Self::Server => "server",
            Self::Model => "model",
            Self::Timeout => "timeout",
            Self::StreamIncomplete => "stream_incomplete",
        }
    }

    /// Its place in [`FailureClass::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The classified end of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete answer.
    Success {
        /// Time to the first content event; for a plain answer, to its head.
        ttft: Option<Duration>,
        /// Time to the end.
        latency: Duration,
    },
    /// The backend did its part and the caller was at fault (400, 413, 422, a content filter): counts for nobody.
    CallerFault,
    /// The backend failed.
    Failure {
        /// How.
        class: FailureClass,
        /// When it asked to be left alone for a while.
        retry_after: Option<Duration>,
    },
    /// The client left, or the attempt was given up for reasons that are not the backend's.
    Cancelled,
}
