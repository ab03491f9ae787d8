//! The facts of one client request, gathered while it runs and told exactly once when it is over.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Backend, Model, User};
use berry_core::error::ErrorKind;
use berry_core::id::RequestId;
use berry_core::money::NanoUsd;
use berry_core::operation::Operation;
use berry_core::tariff::{Cost, Tariff};
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::eligibility::Rescue;
use berry_loadbalance::figures::Figures;
use berry_loadbalance::lease::Lease;
use berry_loadbalance::outcome::Outcome;
use http::HeaderValue;
use smallvec::SmallVec;

use crate::clock::Clock;
use crate::dialect::loss::Losses;
use crate::params::Edited;
use crate::trace::Trace;

/// How a request ended, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Longest name of its own for a request that is kept of a client, bytes.
const CLIENT_REQUEST_ID_MAX: usize = 128;

/// Why a backend was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The model's strategy chose it first.
    Strategy,
    /// The client forced its provider.
    Forced,
    /// An attempt before it failed.
    Retry,
    /// Something had to be given up to find it.
    Rescue(Rescue),
}

impl Reason {
    /// Its name in the record of a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strategy => "strategy",
            Self::Forced => "forced",
            Self::Retry => "retry",
            Self::Rescue(Rescue::Recovering) => "recovering",
            Self::Rescue(Rescue::Panic) => "panic",
            Self::Rescue(Rescue::Trial) => "trial",
            Self::Rescue(Rescue::LetThrough) => "let_through",
        }
    }
}

/// One attempt.
#[derive(Clone, Debug)]
pub struct Try {
    /// Where.
    pub backend: Arc<Backend>,
    /// Why there.
    pub reason: Reason,
    /// How it ended, as its endpoint was told. `Cancelled` until something else is known.
    pub outcome: Outcome,
    /// Status that the upstream answered with; 0 = it answered none.
    pub status: u16,
    /// When it began.
    pub started: Instant,
    /// From its beginning to the first content; for a plain answer, to its end.
    pub ttft: Option<Duration>,
    /// From its beginning to its end; `None` while it runs.
    pub duration: Option<Duration>,
    /// What it is billed with, once that is known; nothing where the upstream did not accept it.
    pub cost: NanoUsd,
}

impl Try {
    /// Its outcome in one word: a class of failure, or `success`, `caller_fault`, `cancelled`.
    pub const fn outcome_name(&self) -> &'static str {
        match self.outcome {
            Outcome::Success { .. } => "success",
            Outcome::CallerFault => "caller_fault",
            Outcome::Failure { class, .. } => class.as_str(),
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// A client's own name for its request, as far as it can be kept: visible ASCII, cut to a length. `None` when nothing is left.
pub fn client_request_id(value: &HeaderValue) -> Option<Box<str>> {
    let visible = value.as_bytes().iter().filter(|byte| byte.is_ascii_graphic());
    let kept: String = visible.take(CLIENT_REQUEST_ID_MAX).map(|&byte| char::from(byte)).collect();
    (!kept.is_empty()).then(|| kept.into_boxed_str())
}

/// Most labels that are kept of a request.
const LABELS_MAX: usize = 8;

/// Longest key or value of a label, bytes.
const LABEL_PART_MAX: usize = 64;

/// The labels that a client gave its request in `x-berry-labels`, as `key=value` with commas between: at most 8, each once by its
/// key (the first counts). What is not of that form, is not visible ASCII or is longer than 64 bytes on either side is left out.
/// `None` when nothing is left.
pub fn labels(value: &HeaderValue) -> Option<Box<str>> {
    let fits =
        |part: &str| (1..=LABEL_PART_MAX).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_graphic());
    let mut kept = SmallVec::<[(&str, &str); LABELS_MAX]>::new();
    for pair in value.to_str().ok()?.split(',') {
        let Some((key, value)) = pair.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        if fits(key) && fits(value) && kept.iter().all(|(known, _)| *known != key) {
            kept.push((key, value));
            if kept.len() == LABELS_MAX {
                break;
            }
        }
    }
    let pairs: Vec<String> = kept.iter().map(|(key, value)| format!("{key}={value}")).collect();
    (!pairs.is_empty()).then(|| pairs.join(",").into_boxed_str())
}

/// What is known of a request. Filled in as it goes.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Our name for it.
    pub request_id: RequestId,
    /// The client's own name for it, of its header `x-request-id`.
    pub client_request_id: Option<Box<str>>,
    /// The client's own user, where somebody wants to know.
    pub end_user: Option<Box<str>>,
    /// What the client labelled it with, as `key=value` with commas between.
    pub labels: Option<Box<str>>,
    /// Where it stands in a trace; `None` when it is not traced.
    pub trace: Option<Trace>,
    /// What it asked for.
    pub operation: Operation,
    /// When its head had arrived.
    pub started: Instant,
    /// Who asked.
    pub user: Option<Arc<User>>,
    /// Which model.
    pub model: Option<Arc<Model>>,
    /// The name that was asked for, of a model that has many.
    pub requested: Option<Box<str>>,
    /// The backend of the last attempt.
    pub backend: Option<Arc<Backend>>,
    /// Where the figures of that backend grow.
    pub figures: Option<Arc<Figures>>,
    /// Attempts made.
    pub attempts: u32,
    /// Each of them, in order. Room for one, so that an ordinary request allocates nothing for it.
    pub tries: SmallVec<[Try; 1]>,
    /// Whether an administrator asked that the choices and the end of this request be kept.
    pub explained: bool,
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
    /// Of a stream, what its prompt comes to by our own estimate; `None` where no upstream has accepted it.
    pub prompt_tokens: Option<u64>,
    /// What the upstream that accepted the request charges; `None` while none has.
    pub tariff: Option<Arc<Tariff>>,
    /// What it cost, once the request settles, with what failed attempts were billed; `None` when no upstream accepted it.
    /// Until then, the attempts that failed.
    pub cost: Option<Cost>,
    /// How it ended.
    pub end: End,
}

impl Facts {
    /// The model that `backend` was asked for.
    pub fn upstream_model<'a>(&'a self, backend: &'a Backend) -> &'a str {
        self.requested.as_deref().map_or(backend.id.upstream.as_str(), |requested| backend.upstream_model(requested))
    }

    /// Notes that an attempt begins with `lease`, now.
    pub(crate) fn begin_try(&mut self, lease: &Lease, forced: bool, now: Instant) {
        let reason = match lease.rescue() {
            Some(rescue) => Reason::Rescue(rescue),
            None if self.attempts > 0 => Reason::Retry,
            None if forced => Reason::Forced,
            None => Reason::Strategy,
        };
        self.bill_failed();
        let backend = Arc::clone(lease.backend());
        self.backend = Some(Arc::clone(&backend));
        self.figures = Some(Arc::clone(lease.figures()));
        self.attempts += 1;
        self.tries.push(Try {
            backend,
            reason,
            outcome: Outcome::Cancelled,
            status: 0,
            started: now,
            ttft: None,
            duration: None,
            cost: NanoUsd::ZERO,
        });
    }

    /// Takes note of what the last attempt is billed with although it failed: a fixed price of a request that was accepted, and
    /// what was used until then.
    fn bill_failed(&mut self) {
        let usage = std::mem::take(&mut self.usage);
        self.cost = self.cost_with(&usage);
        if let (Some(_), Some(figures), Some(last)) = (self.tariff.take(), &self.figures, self.tries.last()) {
            figures.count_tokens(&usage);
            figures.add_cost(last.cost);
        }
    }

    /// What the last attempt cost, together with those before it.
    fn cost_with(&mut self, usage: &Usage) -> Option<Cost> {
        let earlier = self.cost;
        let Some(tariff) = &self.tariff else { return earlier };
        let mut cost = tariff.cost(usage);
        if let Some(last) = self.tries.last_mut() {
            last.cost = cost.total;
        }
        if let Some(earlier) = &earlier {
            cost.add_failed(earlier);
        }
        Some(cost)
    }

    /// Notes the status that the upstream of the running attempt answered with.
    pub(crate) fn note_status(&mut self, status: u16) {
        if let Some(last) = self.tries.last_mut() {
            last.status = status;
        }
    }

    /// Notes what a stream used. Where what came had to be counted by us and the upstream told nothing of the prompt, it is estimated.
    pub(crate) fn note_used(&mut self, mut usage: Usage) {
        if usage.estimated && usage.input_tokens.is_none() {
            usage.input_tokens = self.prompt_tokens;
        }
        self.usage = usage;
    }

    /// Notes that the running attempt brought the first content, which is the client's.
    pub(crate) fn note_first_content(&mut self, now: Instant) {
        self.ttft = Some(now.since(self.started));
        if let Some(last) = self.tries.last_mut() {
            last.ttft = Some(now.since(last.started));
        }
    }

    /// Notes how the running attempt ended. What is known already stays.
    pub(crate) fn end_try(&mut self, outcome: Outcome, now: Instant) {
        if let Some(last) = self.tries.last_mut().filter(|last| last.duration.is_none()) {
            last.outcome = outcome;
            last.duration = Some(now.since(last.started));
        }
    }
}

/// Takes the facts of finished requests: access log, metrics, ledger.
pub trait ExchangeSink: Send + Sync {
    /// Called once for each request, from whatever task dropped it, so it must neither block nor panic. What it takes out of the
    /// facts is its own; they end with the request.
    fn settle(&self, facts: &mut Facts, now: Instant);
}

/// What a request holds until it is over: places and counts of limits.
pub trait Held: Send + Sync {
    /// Called once, with everything that is known of the request, before its record is told. Must neither block nor panic.
    fn settle(&mut self, facts: &Facts, now: Instant);
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
    held: Option<Box<dyn Held>>,
}

impl Exchange {
    /// Starts the record of a request.
    pub fn begin(
        request_id: RequestId,
        operation: Operation,
        started: Instant,
        clock: Clock,
        sink: Arc<dyn ExchangeSink>,
    ) -> Self {
        let facts = Facts {
            request_id,
            client_request_id: None,
            end_user: None,
            labels: None,
            trace: None,
            operation,
            started,
            user: None,
            model: None,
            requested: None,
            backend: None,
            figures: None,
            attempts: 0,
            tries: SmallVec::new(),
            explained: false,
            stream: false,
            status: 0,
            ttft: None,
            edited: Vec::new(),
            loss: None,
            usage: Usage::default(),
            prompt_tokens: None,
            tariff: None,
            cost: None,
            end: End::Cancelled,
        };
        Self { inner: Some(Box::new(Inner { facts, clock, sink, held: None })) }
    }

    /// Now, by the clock that the record started with.
    pub fn now(&self) -> Instant {
        self.get().clock.now()
    }

    /// Keeps what the request holds, and settles it when the request is over, however it ends.
    pub fn hold(&mut self, held: Box<dyn Held>) {
        self.inner.as_deref_mut().expect("taken by drop only").held = Some(held);
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
        if let Some(mut inner) = self.inner.take() {
            let Inner { facts, clock, sink, held } = &mut *inner;
            let usage = facts.usage;
            facts.cost = facts.cost_with(&usage);
            let now = clock.now();
            // The client left while it ran.
            facts.end_try(Outcome::Cancelled, now);
            if let Some(mut held) = held.take() {
                held.settle(facts, now);
            }
            sink.settle(facts, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_own_id_is_visible_ascii_of_bounded_length() {
        let kept = |bytes: &[u8]| client_request_id(&HeaderValue::from_bytes(bytes).unwrap());
        assert_eq!(kept(b"job-7/a").as_deref(), Some("job-7/a"));
        assert_eq!(kept(b"a b\tc\xffd").as_deref(), Some("abcd"));
        assert_eq!(kept(b" \t").as_deref(), None);
        assert_eq!(kept(&[b'x'; 500]).map(|id| id.len()), Some(CLIENT_REQUEST_ID_MAX));
    }

    #[test]
    fn labels_are_bounded_pairs_and_the_first_of_a_key_counts() {
        let kept = |text: &str| labels(&HeaderValue::from_str(text).unwrap()).map(String::from);
        assert_eq!(kept("team=a, job = 7").as_deref(), Some("team=a,job=7"));
        assert_eq!(kept("team=a,team=b,none,=x,y=,b a=c,d=e=f").as_deref(), Some("team=a,d=e=f"));
        assert_eq!(kept(" ,"), None);
        assert_eq!(kept(&format!("long={},k=v", "x".repeat(65))).as_deref(), Some("k=v"));
        let many: Vec<String> = (0..20).map(|i| format!("k{i}=v")).collect();
        assert_eq!(kept(&many.join(",")), Some(many[..LABELS_MAX].join(",")));
    }
}
