//! How an attempt ended, seen from the backend's side, and what follows from it.

use std::time::Duration;

use crate::breaker::{Cause, Verdict};
use crate::cooldown::Reason;

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
    pub const ALL: [Self; 7] =
        [Self::Network, Self::Auth, Self::RateLimit, Self::Server, Self::Model, Self::Timeout, Self::StreamIncomplete];

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

/// What a failure does to its backend, beside being counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// For its circuit; `None` = nothing.
    pub circuit: Option<Verdict>,
    /// How long it is left alone, and why.
    pub pause: Option<(Reason, Duration)>,
}

impl Consequence {
    /// What follows from a class where nothing more is known. A caller that knows more (an error code for quota, a 403 without
    /// one for the key) says so with [`crate::lease::Lease::report_with`].
    pub fn of(class: FailureClass, retry_after: Option<Duration>) -> Self {
        let pause = |reason: Reason| Some((reason, reason.time(retry_after)));
        let asked = retry_after.and_then(|_| pause(Reason::RetryAfter));
        match class {
            FailureClass::RateLimit => Self { circuit: None, pause: pause(Reason::RateLimit) },
            FailureClass::Auth => Self { circuit: Some(Verdict::Open(Cause::Key)), pause: None },
            FailureClass::Model => Self { circuit: None, pause: pause(Reason::Model) },
            FailureClass::Network | FailureClass::Server | FailureClass::Timeout | FailureClass::StreamIncomplete => {
                Self { circuit: Some(Verdict::Strike), pause: asked }
            }
        }
    }

    /// The account has no quota or no money left: parked.
    pub fn quota(retry_after: Option<Duration>) -> Self {
        Self { circuit: None, pause: Some((Reason::Quota, Reason::Quota.time(retry_after))) }
    }

    /// One ordinary failure, whatever the class: an unrecognised 403.
    pub fn strike() -> Self {
        Self { circuit: Some(Verdict::Strike), pause: None }
    }
}
