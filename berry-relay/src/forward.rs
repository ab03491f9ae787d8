//! One client request, from the choice of a backend to the head of its answer.
//!
//! [`Relay::forward`] runs the request; what it returns is either an answer whose body goes on by itself, or the error and the
//! record of the request, so that the caller can say it in the client's dialect. A stream that is silent for long gets its
//! status 200 and keep-alive comments while the work goes on inside its body ([`crate::answer::RelayBody`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berry_core::config::snapshot::{Model, User};
use berry_loadbalance::eligibility::{Demand, Hints};
use berry_loadbalance::lease::Lease;
use berry_loadbalance::selector::{NoRoute, RouteSelector};
use bytes::Bytes;
use http::HeaderMap;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, KeepAlive, RelayBody};
use crate::attempt::{self, Committed, Setback};
use crate::body::Chunks;
use crate::buffer::{BufferBudget, BufferPermit};
use crate::client::Upstreams;
use crate::clock::Clock;
use crate::disposition::Retry;
use crate::envelope::Envelope;
use crate::error::ForwardError;
use crate::exchange::{End, Exchange, Facts};
use crate::multipart::Form;

/// No attempt starts with less time left than this.
const LEAST_TIME: Duration = Duration::from_millis(50);
/// First step of the back-off before a backend is tried again.
const BACKOFF_BASE: Duration = Duration::from_millis(50);
/// Longest back-off.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Longest Retry-After that is waited out.
const RETRY_AFTER_WAIT_MAX: Duration = Duration::from_secs(2);

/// Says an error in the dialect of the request, as an event of its stream or as a body. `berry-api` has the one mapping.
pub trait SayError: Send + Sync {
    /// A frame that ends a stream.
    fn event(&self, error: &ForwardError, facts: &Facts) -> Bytes;

    /// A body that takes the place of a plain answer.
    fn body(&self, error: &ForwardError, facts: &Facts) -> Bytes;
}

/// Random sources for choices, each with a seed of its own, all from one.
#[derive(Debug)]
pub struct Seeds(AtomicU64);

impl Seeds {
    /// The same start gives the same sequence.
    pub fn new(start: u64) -> Self {
        Self(AtomicU64::new(start))
    }

    /// The next random source.
    pub fn next_rng(&self) -> SmallRng {
        // An odd step visits every number; the generator's own seeding scatters them.
        SmallRng::seed_from_u64(self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }
}

/// Limits of one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest plain answer, bytes.
    pub max_response_bytes: usize,
    /// Silence after which a stream carries a comment.
    pub keep_alive: Duration,
    /// Silence after which a plain answer is kept alive with white space.
    pub plain_keep_alive: Option<Duration>,
    /// Longest time to the head of an answer, over all attempts.
    pub total_timeout: Duration,
    /// Attempts beyond the first, over all backends.
    pub max_retries: u32,
    /// Of these, how many may repeat a backend.
    pub max_internal_retries: u32,
}

/// What outlives a reload.
#[derive(Clone)]
pub struct Shared {
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub seeds: Arc<Seeds>,
    /// The bound on held bytes.
    pub buffers: BufferBudget,
    /// Cancelled when the grace period of a shutdown is over.
    pub cut: CancellationToken,
    /// How errors are said.
    pub say: Arc<dyn SayError>,
}

/// Serves requests under one configuration.
pub struct Relay {
    pub(crate) selector: Arc<dyn RouteSelector>,
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) limits: Limits,
    pub(crate) shared: Shared,
}

/// Body of a client's request.
pub enum RequestBody {
    /// JSON, held whole and peeked at.
    Json {
        /// The bytes.
        body: Chunks,
        /// What they say.
        envelope: Envelope,
    },
    /// A form whose beginning was read as far as its `model` field.
    Form(Form),
}

impl RequestBody {
    /// The model's name as the client wrote it.
    pub(crate) fn model(&self) -> &str {
        match self {
            Self::Json { envelope, .. } => &envelope.model,
            Self::Form(form) => form.model(),
        }
    }

    /// Whether all of it is at hand.
    pub(crate) fn can_be_sent_again(&self) -> bool {
        match self {
            Self::Json { .. } => true,
            Self::Form(form) => form.is_whole(),
        }
    }
}

/// A request that has passed authentication and permission.
pub struct RelayRequest {
    /// Who asks.
    pub user: Arc<User>,
    /// For which model.
    pub model: Arc<Model>,
    /// The client's headers.
    pub headers: HeaderMap,
    /// The provider that the client forces.
    pub provider: Option<String>,
    /// The body.
    pub body: RequestBody,
    /// Keeps the held bytes counted.
    pub permit: BufferPermit,
    /// The client's own limit on the time to the head.
    pub timeout: Option<Duration>,
}

/// A request that got no answer, with its record.
pub struct Refusal {
    /// Why.
    pub error: ForwardError,
    /// The record; dropping it settles the request.
    pub exchange: Exchange,
}

impl Relay {
    /// A relay for one configuration.
    pub fn new(selector: Arc<dyn RouteSelector>, upstreams: Arc<Upstreams>, limits: Limits, shared: Shared) -> Self {
        Self { selector, upstreams, limits, shared }
    }

    /// The selector, for its figures.
    pub fn selector(&self) -> &Arc<dyn RouteSelector> {
        &self.selector
    }

    /// The same relay with another selector: one that watches the choices of a single request.
    pub fn with_selector(&self, selector: Arc<dyn RouteSelector>) -> Self {
        let (upstreams, shared) = (Arc::clone(&self.upstreams), self.shared.clone());
        Self { selector, upstreams, limits: self.limits, shared }
    }

    /// The upstreams, for probes and for closing what is idle.
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Runs a request. Dropping the future, or later the body, cancels what runs upstream.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was sent to the client yet and nothing can be.
    pub async fn forward(self: Arc<Self>, request: RelayRequest, exchange: Exchange) -> Result<Answer, Refusal> {
        let keep_alive = match (exchange.stream, self.limits.plain_keep_alive) {
            (true, _) => Some(KeepAlive::Comment(self.limits.keep_alive)),
            (false, Some(period)) if exchange.operation.holds_plain_answer() => Some(KeepAlive::WhiteSpace(period)),
            (false, _) => None,
        };
        let (say, operation) = (Arc::clone(&self.shared.say), exchange.operation);
        // Boxed, so that what the attempts need is not part of every connection's task for as long as that lives.
        let mut work = Box::pin(self.run(request, exchange));
        let Some(keep_alive) = keep_alive else {
            return work.await;
        };
        match tokio::time::timeout(keep_alive.period(), &mut work).await {
            Ok(done) => done,
            Err(_) => Ok(Answer::waiting(RelayBody::waiting(work, keep_alive, operation, say), keep_alive)),
        }
    }

    async fn run(self: Arc<Self>, mut request: RelayRequest, mut exchange: Exchange) -> Result<Answer, Refusal> {
        let limit = request.timeout.map_or(self.limits.total_timeout, |own| own.min(self.limits.total_timeout));
        let deadline = Deadline { at: tokio::time::Instant::now() + limit, limit };
        match self.attempts(&mut request, deadline, &mut exchange).await {
            Ok(committed) => Ok(committed.into_answer(exchange, &self)),
            Err(error) => {
                exchange.end = End::Failed(error.kind());
                Err(Refusal { error, exchange })
            }
        }
    }

    /// The attempt loop: choose, try, and on a setback that another backend may better, choose again, until something may go to
    /// the client or nothing is left to spend: attempts, retry budget, time.
    async fn attempts(
        &self,
        request: &mut RelayRequest,
        deadline: Deadline,
        exchange: &mut Exchange,
    ) -> Result<Committed, ForwardError> {
        let mut rng = self.shared.seeds.next_rng();
        let mut course = Course::default();
        loop {
            let lease = match self.choose(request, &course, exchange, &mut rng) {
                Ok(lease) => lease,
                Err(no_route) => match course.pause_before_repeat(&self.limits, deadline, &mut rng) {
                    Some(pause) => {
                        tokio::time::sleep(pause).await;
                        course.allow_repeats();
                        continue;
                    }
                    None => return course.give_up(no_route.into(), exchange),
                },
            };
            let (position, last_chance) = (lease.position(), lease.is_last_chance());
            exchange.backend = Some(Arc::clone(lease.backend()));
            exchange.attempts += 1;
            let setback = match attempt::run(self, lease, request, deadline, exchange).await {
                Ok(committed) => return Ok(committed),
                Err(setback) => setback,
            };
            let may_go_on = setback.retry != Retry::No
                && !last_chance
                && exchange.attempts <= self.limits.max_retries
                && request.body.can_be_sent_again()
                && deadline.left() >= LEAST_TIME
                && self.selector.may_retry(&request.model.id, exchange.now());
            tracing::debug!(request_id = exchange.request_id.as_str(), error = %setback.error, may_go_on, "attempt failed");
            course.note(setback, position, &request.model, &self.limits);
            if !may_go_on {
                return course.give_up(ForwardError::Internal("no attempt was made".to_owned()), exchange);
            }
        }
    }

    fn choose(
        &self,
        request: &RelayRequest,
        course: &Course,
        exchange: &Exchange,
        rng: &mut SmallRng,
    ) -> Result<Lease, NoRoute> {
        let demand = Demand {
            now: exchange.now(),
            tags: &request.user.tags,
            dialect: exchange.operation.dialect(),
            provider: request.provider.as_deref(),
            tried: &course.barred,
            hints: Hints { retried: exchange.attempts > 0, window_above: course.window_above, ..Hints::default() },
        };
        let lease = self.selector.select_route(&request.model.id, &demand, rng)?;
        tracing::debug!(
            request_id = exchange.request_id.as_str(),
            provider = lease.backend().provider.id.as_str(),
            model = lease.backend().id.upstream.as_str(),
            strategy = request.model.strategy.as_str(),
            "selected backend"
        );
        Ok(lease)
    }
}

/// The end of the time that a request has.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    /// The moment.
    pub(crate) at: tokio::time::Instant,
    /// The time that there was at the start.
    pub(crate) limit: Duration,
}

impl Deadline {
    fn left(self) -> Duration {
        self.at.saturating_duration_since(tokio::time::Instant::now())
    }
}

/// What the attempts of one request have come to so far.
#[derive(Default)]
struct Course {
    /// Positions of the attempts made, in order.
    made: SmallVec<[usize; 4]>,
    /// Positions that are not to be chosen now.
    barred: SmallVec<[usize; 4]>,
    /// Of these, the ones that may be tried again, and when at the earliest.
    repeatable: SmallVec<[(usize, tokio::time::Instant); 4]>,
    /// Attempts at a backend that was tried before.
    repeats: u32,
    /// The window that was too small.
    window_above: Option<u64>,
    first: Option<Box<Setback>>,
    last: Option<Box<Setback>>,
}

impl Course {
    fn note(&mut self, setback: Box<Setback>, position: usize, model: &Model, limits: &Limits) {
        self.repeats += u32::from(self.made.contains(&position));
        self.made.push(position);
        self.barred.push(position);
        match setback.retry {
            Retry::Anywhere => {
                let wait = setback.wait_before_repeat().filter(|wait| *wait <= RETRY_AFTER_WAIT_MAX);
                self.repeatable.extend(wait.map(|wait| (position, tokio::time::Instant::now() + wait)));
            }
            Retry::LargerWindow => self.bar_windows_up_to(model.backends[position].limits.context_window, model),
            Retry::Elsewhere | Retry::No => {}
        }
        self.bar_exhausted_provider(position, model);
        if self.repeats >= limits.max_internal_retries {
            self.repeatable.clear();
            self.barred.extend_from_slice(&self.made);
        }
        match &self.first {
            None => self.first = Some(setback),
            // When everybody is at a limit, the client is told of the one that is over first.
            Some(first) if setback.is_sooner_than(first) => self.first = Some(setback),
            Some(_) => self.last = Some(setback),
        }
    }

    /// Leaves the backends whose window is known to be larger; where it is not known, asking would be guessing.
    fn bar_windows_up_to(&mut self, too_small: Option<u64>, model: &Model) {
        let is_larger = |window: Option<u64>| too_small.zip(window).is_some_and(|(small, window)| window > small);
        let windows = model.backends.iter().map(|backend| backend.limits.context_window).enumerate();
        self.barred.extend(windows.filter(|(_, window)| !is_larger(*window)).map(|(position, _)| position));
        self.window_above = too_small;
    }

    /// A provider's own `max_retries` counts its attempts over all of its backends.
    fn bar_exhausted_provider(&mut self, position: usize, model: &Model) {
        let provider = &model.backends[position].provider;
        let at_provider = |position: &usize| model.backends[*position].provider.id == provider.id;
        let made = self.made.iter().filter(|position| at_provider(position)).count();
        if provider.max_retries.is_some_and(|max| made > max as usize) {
            self.repeatable.retain(|(position, _)| !at_provider(position));
            self.barred.extend((0..model.backends.len()).filter(at_provider));
        }
    }

    /// How long to wait before a backend is tried again, when no other is left: a short Retry-After, or a back-off with full
    /// jitter. `None` when nothing may be repeated, or not in time.
    fn pause_before_repeat(&self, limits: &Limits, deadline: Deadline, rng: &mut SmallRng) -> Option<Duration> {
        if self.repeats >= limits.max_internal_retries {
            return None;
        }
        let soonest = self.repeatable.iter().map(|(_, at)| *at).min()?;
        let asked = soonest.saturating_duration_since(tokio::time::Instant::now());
        let backoff = BACKOFF_BASE.saturating_mul(1 << self.repeats.min(10)).min(BACKOFF_MAX);
        let pause = if asked.is_zero() { backoff.mul_f64(rng.random::<f64>()) } else { asked };
        (pause + LEAST_TIME < deadline.left()).then_some(pause)
    }

    /// Opens what may be repeated by now.
    fn allow_repeats(&mut self) {
        let now = tokio::time::Instant::now();
        let (due, later): (SmallVec<[_; 4]>, _) = self.repeatable.iter().copied().partition(|(_, at)| *at <= now);
        self.repeatable = later;
        self.barred.retain(|position| due.iter().all(|(due, _)| due != position));
    }

    /// What the client sees when nothing helped: a last error that is its own fault, else the first error, else ours. The record
    /// names the backend whose error it is.
    fn give_up(self, otherwise: ForwardError, exchange: &mut Exchange) -> Result<Committed, ForwardError> {
        let Some(shown) = self.last.filter(|setback| setback.is_callers_fault()).or(self.first) else {
            return Err(otherwise);
        };
        let Setback { backend, error, answer, .. } = *shown;
        exchange.backend = Some(backend);
        answer.ok_or(error)
    }
}
