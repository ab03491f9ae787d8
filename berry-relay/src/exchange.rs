//! The facts of one client request, gathered while it runs and told exactly once when it is over.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Backend, Model, User};
use berry_core::error::ErrorKind;
use berry_core::id::RequestId;
use berry_core::operation::Operation;
use berry_core::tariff::{Cost, Tariff};
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::figures::Figures;

use crate::clock::Clock;
use crate::dialect::loss::Losses;
use crate::params::Edited;

/// How a request ended, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole answer was handed over; it may have been an error of the upstream.
    Complete,
    /// We answered with an error of our own, or told one in the stream.
    Failed(ErrorKind),
    /// The client left first. What every request is until something else is known.
    Cancelled,
}

impl End {
    /// Its name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is known of a request. Filled in as it goes.
#[derive(Debug)]
pub struct Facts {
    /// Our name for it.
    pub request_id: RequestId,
    /// What it asked for.
    pub operation: Operation,
    /// When its head had arrived.
    pub started: Instant,
    /// Who asked.
    pub user: Option<Arc<User>>,
    /// Which model.
    pub model: Option<Arc<Model>>,
    /// The backend of the last attempt.
    pub backend: Option<Arc<Backend>>,
    /// Where the figures of that backend grow.
    pub figures: Option<Arc<Figures>>,
    /// Attempts made.
    pub attempts: u32,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Status that the client got; 0 before that.
    pub status: u16,
    /// Start of the request to the first content.
    pub ttft: Option<Duration>,
    /// What the operator's settings did to its parameters, in the last attempt.
    pub edited: Vec<Edited>,
    /// What the translation of the last attempt could not carry.
    pub loss: Option<Box<Losses>>,
    /// What was used.
    pub usage: Usage,
    /// What the upstream that accepted the request charges; `None` while none has.
    pub tariff: Option<Arc<Tariff>>,
    /// What it cost, once the request settles; `None` when no upstream accepted it.
    pub cost: Option<Cost>,
    /// How it ended.
    pub end: End,
}

/// Takes the facts of finished requests: access log, metrics, ledger.
pub trait ExchangeSink: Send + Sync {
    /// Called once for each request, from whatever task dropped it, so it must neither block nor panic.
    fn settle(&self, facts: Facts, now: Instant);
}

/// Owns the facts of a request; dropping it settles them, whatever happened.
pub struct Exchange {
    // Boxed because it moves from handler to attempt to body.
    inner: Option<Box<Inner>>,
}

struct Inner {
    facts: Facts,
    clock: Clock,
    sink: Arc<dyn ExchangeSink>,
}

impl Exchange {
    /// Starts the record of a request.
    pub fn begin(request_id: RequestId, operation: Operation, clock: Clock, sink: Arc<dyn ExchangeSink>) -> Self {
        let facts = Facts {
            request_id,
            operation,
            started: clock.now(),
            user: None,
            model: None,
            backend: None,
            figures: None,
            attempts: 0,
            stream: false,
            status: 0,
            ttft: None,
            edited: Vec::new(),
            loss: None,
            usage: Usage::default(),
            tariff: None,
            cost: None,
            end: End::Cancelled,
        };
        Self { inner: Some(Box::new(Inner { facts, clock, sink })) }
    }

    /// Now, by the clock that the record started with.
    pub fn now(&self) -> Instant {
        self.get().clock.now()
    }

    /// Marks the answer as handed over whole, unless something else is already known of its end.
    pub(crate) fn finish(&mut self) {
        if self.end == End::Cancelled {
            self.end = End::Complete;
        }
    }

    fn get(&self) -> &Inner {
        self.inner.as_deref().expect("taken by drop only")
    }
}

impl Deref for Exchange {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.get().facts
    }
}

impl DerefMut for Exchange {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.inner.as_deref_mut().expect("taken by drop only").facts
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let Inner { mut facts, clock, sink } = *inner;
            facts.cost = facts.tariff.as_ref().map(|tariff| tariff.cost(&facts.usage));
            sink.settle(facts, clock.now());
        }
    }
}
