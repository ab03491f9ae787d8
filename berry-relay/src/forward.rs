//! One client request, from the choice of a backend to the head of its answer.
//!
//! [`Relay::forward`] runs the request; what it returns is either an answer whose body goes on by itself, or the error and the
//! record of the request, so that the caller can say it in the client's dialect. A stream that is silent for long gets its
//! status 200 and keep-alive comments while the work goes on inside its body ([`crate::answer::RelayBody`]).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berry_core::config::snapshot::{Model, Strategy, User};
use berry_core::time::Instant;
use berry_loadbalance::course::{Allowance, Course};
use berry_loadbalance::eligibility::{Demand, Hints};
use berry_loadbalance::lease::Lease;
use berry_loadbalance::queue::Ended;
use berry_loadbalance::selector::{NoRoute, RouteSelector};
use bytes::Bytes;
use http::HeaderMap;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, KeepAlive, RelayBody};
use crate::attempt::{self, Committed, Setback};
use crate::body::Chunks;
use crate::buffer::{BufferBudget, BufferPermit};
use crate::client::Upstreams;
use crate::clock::Clock;
use crate::conversation;
use crate::dialect::embeddings::Encoding;
use crate::dialect::translate::{self, Decoded};
use crate::envelope::Envelope;
use crate::error::ForwardError;
use crate::exchange::{End, Exchange, Facts};
use crate::multipart::Form;
use crate::objects::Issued;

/// Says an error in the dialect of the request, as an event of its stream or as a body. `berry-api` has the one mapping.
pub trait SayError: Send + Sync {
    /// A frame that ends a stream.
    fn event(&self, error: &ForwardError, facts: &Facts) -> Bytes;

    /// A body that takes the place of a plain answer.
    fn body(&self, error: &ForwardError, facts: &Facts) -> Bytes;
}

/// Whoever waits for a place looks again after this time, although nobody said that there is one.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// And no sooner than this.
const LOOK_SOONEST: Duration = Duration::from_millis(1);

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
    /// How many attempts a request may take.
    pub attempts: Allowance,
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
    /// Responses that upstreams keep.
    pub issued: Arc<Issued>,
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
        envelope: Box<Envelope>,
    },
    /// A form whose beginning was read as far as its `model` field.
    Form(Box<Form>),
}

impl RequestBody {
    /// The model's name as the client wrote it.
    pub fn model(&self) -> &str {
        match self {
            Self::Json { envelope, .. } => &envelope.model,
            Self::Form(form) => form.model(),
        }
    }

    /// All of it, where it is JSON.
    pub(crate) fn json(&self) -> Option<&Chunks> {
        match self {
            Self::Json { body, .. } => Some(body),
            Self::Form(_) => None,
        }
    }

    /// How the client wants vectors to be written.
    pub(crate) fn encoding(&self) -> Encoding {
        match self {
            Self::Json { envelope, .. } => envelope.encoding,
            Self::Form(_) => Encoding::Float,
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
    /// The body as it was read for a translation; none until one is needed.
    pub decoded: Option<Box<Decoded>>,
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
    pub async fn forward(self: Arc<Self>, request: Box<RelayRequest>, exchange: Exchange) -> Result<Answer, Refusal> {
        let keep_alive = match (exchange.stream, self.limits.plain_keep_alive) {
            (true, _) => Some(KeepAlive::Comment(self.limits.keep_alive)),
            (false, Some(period)) if exchange.operation.holds_plain_answer() => Some(KeepAlive::WhiteSpace(period)),
            (false, _) => None,
        };
        let (say, operation) = (Arc::clone(&self.shared.say), exchange.operation);
        // Boxed, so that what the attempts need is not part of every connection's task for as long as that lives; and made where it
        // stays, since to move it is to copy all that it may ever hold.
        let mut work = Box::into_pin(Box::write(Box::new_uninit(), self.run(request, exchange)));
        let Some(keep_alive) = keep_alive else {
            return work.await;
        };
        match tokio::time::timeout(keep_alive.period(), &mut work).await {
            Ok(done) => done,
            Err(_) => Ok(Answer::waiting(RelayBody::waiting(work, keep_alive, operation, say), keep_alive)),
        }
    }

    #[inline]
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn would hold the request twice: as it came and as it is used"
    )]
    fn run(
        self: Arc<Self>,
        mut request: Box<RelayRequest>,
        mut exchange: Exchange,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send {
        async move {
            let limit = request.timeout.map_or(self.limits.total_timeout, |own| own.min(self.limits.total_timeout));
            let now = exchange.now();
            let deadline = Deadline { at: self.shared.clock.at(now) + limit, limit };
            match self.attempts(&mut request, now, deadline, &mut exchange).await {
                Ok(committed) => Ok(committed.into_answer(exchange, &self)),
                Err(error) => {
                    exchange.end = End::Failed(error.kind());
                    Err(Refusal { error, exchange })
                }
            }
        }
    }

    /// The attempt loop: choose, try, and on a setback that another backend may better, choose again, until something may go to
    /// the client or nothing is left to spend: attempts, retry budget, time.
    async fn attempts(
        &self,
        request: &mut RelayRequest,
        mut now: Instant,
        deadline: Deadline,
        exchange: &mut Exchange,
    ) -> Result<Committed, ForwardError> {
        let mut rng = self.shared.seeds.next_rng();
        // Only `sticky` wants to know.
        let sticky = request.model.strategy == Strategy::Sticky;
        let conversation = sticky.then(|| conversation::key(&request.headers, request.body.json())).flatten();
        let (mut course, mut errors) = (Course::new(self.limits.attempts), Errors::default());
        let mut patience = request.model.queue_timeout;
        loop {
            let choose = |now, waited, rng: &mut SmallRng| {
                self.choose(request, conversation, &course, exchange, now, waited, rng)
            };
            let decided = match patience.is_zero() {
                true => choose(now, false, &mut rng),
                false => {
                    let decided = self.choose_in_line(request, patience, choose, deadline, &mut rng).await;
                    let began = std::mem::replace(&mut now, exchange.now());
                    patience = patience.saturating_sub(now.since(began));
                    decided
                }
            };
            let lease = match decided {
                Ok(lease) => lease,
                Err(no_route) => match course.pause_before_repeat(now, deadline.left(), &mut rng) {
                    Some(pause) => {
                        tokio::time::sleep(pause).await;
                        now = exchange.now();
                        course.allow_repeats(now);
                        continue;
                    }
                    None => {
                        if exchange.attempts > 0 {
                            self.selector.retry_not_made(&request.model.id, exchange.now());
                        }
                        return errors.give_up(no_route.into(), exchange);
                    }
                },
            };
            let (position, last_chance) = (lease.position(), lease.is_last_chance());
            exchange.begin_try(&lease, request.provider.is_some(), now);
            let setback = match attempt::run(self, lease, request, now, deadline, exchange).await {
                Ok(committed) => return Ok(committed),
                Err(setback) => setback,
            };
            let told = setback.at(position);
            let may_go_on = course.may_go_on(&told, deadline.left())
                && !last_chance
                && request.body.can_be_sent_again()
                && self.selector.may_retry(&request.model.id, exchange.now());
            tracing::debug!(
                request_id = exchange.request_id.as_str(),
                error = setback.error.with_cause(),
                may_go_on,
                "attempt failed"
            );
            course.note(&told, &request.model, exchange.now());
            if exchange.operation.makes_vectors() && !request.model.interchangeable {
                course.bar(other_models(&request.model, position));
            }
            errors.note(setback);
            if !may_go_on {
                return errors.give_up(ForwardError::Internal("no attempt was made".to_owned()), exchange);
            }
            now = exchange.now();
        }
    }

    /// [`Relay::choose`], and where only places are missing, again when it is this request's turn, for as long as it may wait.
    async fn choose_in_line(
        &self,
        request: &RelayRequest,
        patience: Duration,
        choose: impl Fn(Instant, bool, &mut SmallRng) -> Result<Lease, NoRoute>,
        deadline: Deadline,
        rng: &mut SmallRng,
    ) -> Result<Lease, NoRoute> {
        let (clock, began) = (self.shared.clock, self.shared.clock.now());
        let Some(queue) = self.selector.queue(&request.model.id) else { return choose(began, false, rng) };
        // What comes back is theirs who waited for it.
        if !queue.is_calling() {
            match choose(began, false, rng) {
                Err(no_route) if no_route.is_busy() => {}
                decided => return decided,
            }
        }
        let until = deadline.at.min(clock.at(began + patience));
        let Some(mut turn) = queue.join(&request.user.id, request.model.queue_max) else {
            return choose(clock.now(), true, rng);
        };
        let mut is_called = !queue.is_calling();
        loop {
            let mut look_again = LOOK_AGAIN;
            if is_called {
                match choose(clock.now(), true, rng) {
                    Err(no_route) if no_route.is_busy() => {
                        look_again = no_route.retry_after().unwrap_or(LOOK_AGAIN).clamp(LOOK_SOONEST, LOOK_AGAIN);
                        turn.pass_on();
                    }
                    decided => {
                        let ended = if decided.is_ok() { Ended::Served } else { Ended::Refused };
                        turn.end(ended, clock.now().since(began));
                        return decided;
                    }
                }
            }
            let next = until.min(clock.at(clock.now() + look_again));
            is_called = tokio::time::timeout_at(next, turn.called()).await.is_ok();
            if !is_called && next == until {
                turn.end(Ended::TimedOut, clock.now().since(began));
                return choose(clock.now(), true, rng);
            }
            if !is_called {
                // A minute of a rate limit is over, or a circuit closed, which calls nobody: whoever is first may look.
                queue.call();
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a choice depends on, each thing once")]
    fn choose(
        &self,
        request: &RelayRequest,
        conversation: Option<u64>,
        course: &Course,
        exchange: &Exchange,
        now: Instant,
        waited: bool,
        rng: &mut SmallRng,
    ) -> Result<Lease, NoRoute> {
        let demand = Demand {
            now,
            tags: &request.user.tags,
            dialect: exchange.operation.dialect(),
            translatable: translate::reachable(exchange.operation),
            provider: request.provider.as_deref(),
            requested: request.body.model(),
            tried: course.barred(),
            hints: Hints {
                conversation,
                retried: exchange.attempts > 0 || waited,
                window_above: course.window_above(),
                ..Hints::default()
            },
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

/// Positions of the backends that ask for another model than the one at `position`.
fn other_models(model: &Model, position: usize) -> impl Iterator<Item = usize> {
    let asked = &model.backends[position].id.upstream;
    let others = model.backends.iter().enumerate().filter(move |(_, backend)| backend.id.upstream != *asked);
    others.map(|(position, _)| position)
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

/// The errors of one request, of which the client sees one.
#[derive(Default)]
struct Errors {
    first: Option<Box<Setback>>,
    last: Option<Box<Setback>>,
}

impl Errors {
    fn note(&mut self, setback: Box<Setback>) {
        match &self.first {
            None => self.first = Some(setback),
            // When everybody is at a limit, the client is told of the one that is over first.
            Some(first) if setback.is_sooner_than(first) => self.first = Some(setback),
            Some(_) => self.last = Some(setback),
        }
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
