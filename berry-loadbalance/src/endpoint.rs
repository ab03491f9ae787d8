//! A backend with its live state: what is in flight there and how it has been doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use berry_core::config::snapshot::Backend;
use berry_core::time::Instant;

use crate::outcome::{FailureClass, Outcome};

/// The live side of one backend. Survives a reload as long as its `BackendId` does.
#[derive(Debug)]
pub struct Endpoint {
    backend: Arc<Backend>,
    state: Arc<State>,
}

/// What is carried over when a reload changes the configured side.
#[derive(Debug, Default)]
struct State {
    in_flight: AtomicU32,
    selections: AtomicU64,
    successes: AtomicU64,
    caller_faults: AtomicU64,
    cancellations: AtomicU64,
    failures: [AtomicU64; FailureClass::ALL.len()],
    consecutive_failures: AtomicU32,
    latency_sum_nanos: AtomicU64,
    /// Nanoseconds of [`Instant`] plus one; 0 = never.
    last_report: AtomicU64,
}

/// Counters of one endpoint at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointStats {
    /// Attempts under way.
    pub in_flight: u32,
    /// Times that it was chosen.
    pub selections: u64,
    /// Attempts that ended well.
    pub successes: u64,
    /// Attempts whose caller was at fault.
    pub caller_faults: u64,
    /// Attempts that were given up.
    pub cancellations: u64,
    /// Failures by class, in the order of [`FailureClass::ALL`].
    pub failures: [u64; FailureClass::ALL.len()],
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Sum over successes, for an average.
    pub latency_sum: Duration,
    /// When something was last learnt about it.
    pub last_report: Option<Instant>,
}

impl EndpointStats {
    /// Failures of all classes.
    pub fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Finished attempts that say something about the backend.
    pub fn requests(&self) -> u64 {
        self.successes + self.caller_faults + self.failed()
    }
}

impl Endpoint {
    /// A cold endpoint.
    pub fn new(backend: Arc<Backend>) -> Self {
        Self {
            backend,
            state: Arc::default(),
        }
    }

    /// The same live state under a newer configuration.
    pub fn reconfigured(&self, backend: Arc<Backend>) -> Self {
        Self {
            backend,
            state: Arc::clone(&self.state),
        }
    }

    /// The configured side.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// The counters as they stand.
    pub fn stats(&self) -> EndpointStats {
        let state = &self.state;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EndpointStats {
            in_flight: self.in_flight(),
            selections: read(&state.selections),
            successes: read(&state.successes),
            caller_faults: read(&state.caller_faults),
            cancellations: read(&state.cancellations),
            failures: std::array::from_fn(|class| read(&state.failures[class])),
            consecutive_failures: state.consecutive_failures.load(Ordering::Relaxed),
            latency_sum: Duration::from_nanos(read(&state.latency_sum_nanos)),
            last_report: read(&state.last_report).checked_sub(1).map(Instant::from_nanos),
        }
    }

    pub(crate) fn begin(&self) {
        self.state.in_flight.fetch_add(1, Ordering::Relaxed);
        self.state.selections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self, outcome: Outcome, now: Option<Instant>) {
        let state = &self.state;
        state.in_flight.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Outcome::Success { latency, .. } => {
                state.successes.fetch_add(1, Ordering::Relaxed);
                state.consecutive_failures.store(0, Ordering::Relaxed);
                let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
                state.latency_sum_nanos.fetch_add(nanos, Ordering::Relaxed);
            }
            Outcome::CallerFault => {
                state.caller_faults.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Failure { class, .. } => {
                state.failures[class.index()].fetch_add(1, Ordering::Relaxed);
                state.consecutive_failures.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Cancelled => {
                state.cancellations.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let Some(now) = now {
            state
                .last_report
                .store(now.as_nanos().saturating_add(1), Ordering::Relaxed);
        }
    }
}
