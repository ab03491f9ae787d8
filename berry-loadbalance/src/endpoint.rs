//! A backend with its live state: what is in flight there, how it has been doing, and whether it may be used.
//!
//! What a choice reads are single atomic words; nothing on that path takes a lock. What a finished attempt teaches is written
//! under one short lock of the endpoint, so writers do not lose each other's samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use berry_core::config::snapshot::{Backend, BillingMode, HealthCheck};
use berry_core::money::Prices;
use berry_core::operation::Dialect;
use berry_core::time::Instant;
use parking_lot::Mutex;

use crate::affinity;
use crate::breaker::{Breaker, Circuit, Pass};
use crate::chance;
use crate::confidence::Confidence;
use crate::cooldown::{Cooldown, Cooling};
use crate::cost::Expense;
use crate::eligibility::Exclusion;
use crate::figures::Figures;
use crate::outcome::{Consequence, FailureClass, Outcome};
use crate::outlier::Ejections;
use crate::probe::Schedule;
use crate::queue::Queue;
use crate::rate::Rate;
use crate::rules::Rules;
use crate::signal::{PeakEwma, Tally, Window, penalised};
use crate::slots::Slots;

/// The live side of one backend. Survives a reload as long as its `BackendId` does.
#[derive(Debug)]
pub struct Endpoint {
    facts: Facts,
    state: Arc<State>,
    backend: Arc<Backend>,
    rules: Arc<Rules>,
    prices: Box<Prices>,
    /// Who waits for a place here, where requests may wait.
    queue: Option<Arc<Queue>>,
}

/// What every choice asks of the configuration, side by side: a choice among a thousand would otherwise spend most of its time
/// on the way to backends and providers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) enabled: bool,
    /// Whether it is open to every user.
    pub(crate) untagged: bool,
    pub(crate) premium: bool,
    pub(crate) probed: bool,
    /// Whether it has a limit on requests or tokens a minute.
    pub(crate) rated: bool,
    pub(crate) dialect: Dialect,
    pub(crate) priority: u32,
    pub(crate) max_concurrent: Option<u32>,
    pub(crate) context_window: Option<u64>,
    pub(crate) weight: f64,
    /// For `sticky`.
    pub(crate) hash: u64,
    pub(crate) expense: Expense,
}

impl Facts {
    fn of(backend: &Backend, prices: &Prices) -> Self {
        let limits = &backend.limits;
        Self {
            enabled: backend.enabled,
            untagged: backend.tags.is_empty(),
            premium: backend.tags.iter().any(|tag| tag == "premium"),
            probed: backend.enabled
                && backend.billing == BillingMode::PerToken
                && backend.provider.health_check != HealthCheck::Off,
            rated: limits.requests_per_minute.is_some() || limits.tokens_per_minute.is_some(),
            dialect: backend.provider.upstream.dialect(),
            priority: backend.priority,
            max_concurrent: limits.max_concurrent,
            context_window: limits.context_window,
            weight: backend.weight,
            hash: affinity::backend_hash(&backend.id),
            expense: Expense::of(prices),
        }
    }
}

/// What is carried over when a reload changes the configured side.
#[derive(Debug)]
struct State {
    slots: Slots,
    breaker: Breaker,
    cooldown: Cooldown,
    latency: PeakEwma,
    /// Attempts under way whose first token has not come.
    waiting: AtomicU32,
    confidence: Confidence,
    /// Since when the last news was bad; see [`Suspicion`].
    suspicion: AtomicU64,
    /// Nanoseconds; 0 = never.
    ejected_until: AtomicU64,
    // Apart, so that the words above, which every choice reads, lie close together.
    counters: Box<Counters>,
    figures: Arc<Figures>,
    learnt: Box<Mutex<Learnt>>,
}

#[derive(Debug, Default)]
struct Counters {
    selections: AtomicU64,
    successes: AtomicU64,
    caller_faults: AtomicU64,
    cancellations: AtomicU64,
    failures: [AtomicU64; FailureClass::ALL.len()],
    consecutive_failures: AtomicU64,
    latency_sum_nanos: AtomicU64,
    /// Nanoseconds of [`Instant`] plus one; 0 = never.
    last_report: AtomicU64,
    probes: AtomicU64,
    failed_probes: AtomicU64,
}

/// What only writers touch.
#[derive(Debug, Default)]
pub(crate) struct Learnt {
    window: Window,
    ejections: Ejections,
    rate: Rate,
    pub(crate) schedule: Schedule,
}

/// Who brought the last news, when it was bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// A request failed there.
    Traffic,
    /// A probe failed there.
    Probe,
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
    /// Probes that came to a result.
    pub probes: u64,
    /// Of these, those that failed.
    pub failed_probes: u64,
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

/// What an attempt took from an endpoint and has to settle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) pass: Pass,
    pub(crate) let_through: bool,
    pub(crate) started: Instant,
    /// For the open times and ejections that its end may cause.
    pub(crate) jitter: u32,
}

impl Endpoint {
    /// A cold endpoint. `prices` are those of the backend or, where it states none, of its upstream model.
    pub fn new(backend: Arc<Backend>, rules: Arc<Rules>, prices: Prices) -> Self {
        let state = State {
            slots: Slots::new(),
            breaker: Breaker::new(),
            cooldown: Cooldown::default(),
            latency: PeakEwma::default(),
            waiting: AtomicU32::new(0),
            confidence: Confidence::default(),
            suspicion: AtomicU64::new(0),
            ejected_until: AtomicU64::new(0),
            counters: Box::default(),
            figures: Arc::default(),
            learnt: Box::default(),
        };
        Self::with_state(backend, rules, prices, Arc::new(state))
    }

    /// The same live state under a newer configuration. Circuit and pauses start afresh when the provider's address or key was
    /// changed: what was found out about the old ones says nothing about the new.
    pub fn reconfigured(&self, backend: Arc<Backend>, rules: Arc<Rules>, prices: Prices) -> Self {
        let (old, new) = (&self.backend.provider, &backend.provider);
        let same_upstream = format!("{:?}", old.upstream) == format!("{:?}", new.upstream);
        if old.api_key != new.api_key || !same_upstream {
            self.reset();
        }
        Self::with_state(backend, rules, prices, Arc::clone(&self.state))
    }

    /// Closes its circuit and ends its pauses and its ejection, as if nothing had ever gone wrong there. Figures stay.
    pub fn reset(&self) {
        self.state.breaker.reset();
        self.state.cooldown.clear();
        self.state.suspicion.store(0, Ordering::Relaxed);
        self.state.ejected_until.store(0, Ordering::Relaxed);
    }

    /// Opens its circuit: no traffic until the first trial after `until`.
    pub fn open_circuit(&self, until: Instant) {
        self.state.breaker.force_open(until);
    }

    fn with_state(backend: Arc<Backend>, rules: Arc<Rules>, prices: Prices, state: Arc<State>) -> Self {
        Self { facts: Facts::of(&backend, &prices), state, backend, rules, prices: Box::new(prices), queue: None }
    }

    /// The same, with those who are to be called when a place comes back.
    pub(crate) fn with_queue(mut self, queue: Option<Arc<Queue>>) -> Self {
        self.queue = queue;
        self
    }

    /// The configured side.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// What it charges, as far as anybody states it.
    pub fn prices(&self) -> &Prices {
        &self.prices
    }

    /// Whether it has the tag `premium`.
    pub fn is_premium(&self) -> bool {
        self.facts.premium
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> u32 {
        self.state.slots.taken()
    }

    /// Its circuit.
    pub fn circuit(&self) -> Circuit {
        self.state.breaker.read()
    }

    /// What it waits out, if anything.
    pub fn cooling(&self, now: Instant) -> Option<Cooling> {
        self.state.cooldown.read(now)
    }

    /// When a parked one lets the next request through.
    pub(crate) fn next_let_through(&self) -> Instant {
        self.state.cooldown.next_let_through()
    }

    /// Until when it is ejected.
    pub fn ejected_until(&self, now: Instant) -> Option<Instant> {
        let until = Instant::from_nanos(self.state.ejected_until.load(Ordering::Relaxed));
        (until > now).then_some(until)
    }

    /// When its configured rate lets another request pass; `None` = now.
    pub fn rate_limited_until(&self, now: Instant) -> Option<Instant> {
        if !self.facts.rated {
            return None;
        }
        self.state.learnt.lock().rate.free_at(&self.backend.limits, now)
    }

    /// Time to first token as it is now; `None` before the first sample.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        self.latency_nanos(now).map(Duration::from_nanos)
    }

    /// [`Endpoint::latency`] in nanoseconds. It does not fade while an attempt waits for its first token: one is enough to see
    /// how a slow endpoint is by now, and until it knows, nobody else is to follow it there.
    pub(crate) fn latency_nanos(&self, now: Instant) -> Option<u64> {
        match self.state.waiting.load(Ordering::Relaxed) {
            0 => self.state.latency.read_nanos(now),
            _ => self.state.latency.last_nanos(),
        }
    }

    /// Confidence of `smart_ai`, 0 to 1.
    pub fn confidence(&self, now: Instant) -> f64 {
        self.state.confidence.read(&self.rules.smart_ai, now)
    }

    /// Successes and failures of the last ten seconds.
    pub fn tally(&self, now: Instant) -> Tally {
        self.state.learnt.lock().window.tally(now)
    }

    /// Who says that it is unhealthy: the last probe or attempt failed, although its circuit is closed.
    ///
    /// What a request found out is forgotten after the open time of a circuit, so that a backend that nobody probes is not
    /// passed over for ever for one failure.
    pub fn suspicion(&self, now: Instant) -> Option<Suspicion> {
        let word = self.state.suspicion.load(Ordering::Relaxed);
        let since = Instant::from_nanos(word >> 2);
        match word & 3 {
            1 => (now.since(since) < self.rules.circuit.timeout).then_some(Suspicion::Traffic),
            2 => Some(Suspicion::Probe),
            _ => None,
        }
    }

    /// When what speaks against it was found out, as long as no good probe or answer came after it.
    pub(crate) fn suspected_since(&self) -> Option<Instant> {
        let word = self.state.suspicion.load(Ordering::Relaxed);
        (word & 3 != 0).then(|| Instant::from_nanos(word >> 2))
    }

    /// Whether it may be sent to and nothing speaks against it.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.backend.enabled
            && self.circuit().share() > 0.0
            && self.suspicion(now).is_none()
            && self.ejected_until(now).is_none()
            && !self.cooling(now).is_some_and(|cooling| cooling.reason.is_parking())
    }

    /// Latencies and tokens so far.
    pub fn figures(&self) -> &Arc<Figures> {
        &self.state.figures
    }

    /// Whether probes are sent to it at all.
    pub fn is_probed(&self) -> bool {
        self.facts.probed
    }

    /// The counters as they stand.
    pub fn stats(&self) -> EndpointStats {
        let counters = &self.state.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EndpointStats {
            in_flight: self.in_flight(),
            selections: read(&counters.selections),
            successes: read(&counters.successes),
            caller_faults: read(&counters.caller_faults),
            cancellations: read(&counters.cancellations),
            failures: std::array::from_fn(|class| read(&counters.failures[class])),
            consecutive_failures: u32::try_from(read(&counters.consecutive_failures)).unwrap_or(u32::MAX),
            latency_sum: Duration::from_nanos(read(&counters.latency_sum_nanos)),
            last_report: read(&counters.last_report).checked_sub(1).map(Instant::from_nanos),
            probes: read(&counters.probes),
            failed_probes: read(&counters.failed_probes),
        }
    }

    /// Takes a slot, and the trial of the circuit or the passage of a parked endpoint where the choice rests on it.
    ///
    /// # Errors
    /// What somebody else took in the meantime.
    pub(crate) fn claim(&self, trial: bool, let_through: bool, now: Instant, jitter: u32) -> Result<Claim, Exclusion> {
        if !self.state.slots.take(self.facts.max_concurrent) {
            return Err(Exclusion::Busy);
        }
        let pass = if trial {
            let deadline = now + self.backend.provider.timeouts.stream_headers;
            self.state.breaker.take_trial(now, deadline)
        } else if let_through && !self.state.cooldown.take_let_through(now) {
            None
        } else {
            Some(self.state.breaker.pass())
        };
        let Some(pass) = pass else {
            self.give_back();
            return Err(if trial { Exclusion::CircuitOpen } else { Exclusion::Parked });
        };
        self.state.counters.selections.fetch_add(1, Ordering::Relaxed);
        self.state.waiting.fetch_add(1, Ordering::Relaxed);
        if self.facts.rated {
            self.state.learnt.lock().rate.record_request(&self.backend.limits, now);
        }
        Ok(Claim { pass, let_through, started: now, jitter })
    }

    /// An attempt has its first token, or none will come.
    pub(crate) fn no_longer_waiting(&self) {
        self.state.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// The first content arrived: what there is to learn from it is not kept back until the end of a long answer.
    pub(crate) fn first_token(&self, claim: &Claim, ttft: Duration, now: Instant) {
        let _writing = self.state.learnt.lock();
        self.state.latency.record(ttft, now);
        self.state.breaker.succeed_early(claim.pass, now);
    }

    /// Tokens that an answer used, for the configured rate.
    pub(crate) fn used_tokens(&self, tokens: u64, now: Instant) {
        if self.facts.rated {
            self.state.learnt.lock().rate.record_tokens(&self.backend.limits, tokens, now);
        }
    }

    /// Leaves it alone until `until`.
    pub(crate) fn pause(&self, reason: crate::cooldown::Reason, until: Instant) {
        self.state.cooldown.pause(reason, until);
    }

    /// Nothing was found out: the claim is given back.
    pub(crate) fn abandon(&self, claim: &Claim) {
        self.state.breaker.return_trial(claim.pass);
        self.state.counters.cancellations.fetch_add(1, Ordering::Relaxed);
        self.give_back();
    }

    fn give_back(&self) {
        self.state.slots.give_back();
        if let Some(queue) = &self.queue {
            queue.freed();
        }
    }

    /// Settles a claim. `sampled` = its time to first token was taken in already.
    pub(crate) fn end(
        &self,
        claim: &Claim,
        outcome: Outcome,
        consequence: Option<Consequence>,
        sampled: bool,
        now: Instant,
    ) {
        let counters = &self.state.counters;
        match outcome {
            Outcome::Cancelled => return self.abandon(claim),
            Outcome::CallerFault => {
                counters.caller_faults.fetch_add(1, Ordering::Relaxed);
                self.state.breaker.return_trial(claim.pass);
            }
            Outcome::Success { ttft, latency } => {
                self.good(claim, (!sampled).then(|| ttft.unwrap_or(latency)), latency, now);
            }
            Outcome::Failure { class, retry_after } => {
                let consequence = consequence.unwrap_or_else(|| Consequence::of(class, retry_after));
                self.bad(claim, class, retry_after, consequence, now);
            }
        }
        counters.last_report.store(now.as_nanos().saturating_add(1), Ordering::Relaxed);
        self.give_back();
    }

    fn good(&self, claim: &Claim, sample: Option<Duration>, latency: Duration, now: Instant) {
        let (state, counters) = (&*self.state, &self.state.counters);
        counters.successes.fetch_add(1, Ordering::Relaxed);
        counters.consecutive_failures.store(0, Ordering::Relaxed);
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        counters.latency_sum_nanos.fetch_add(nanos, Ordering::Relaxed);
        state.figures.latency.record(latency);
        let mut learnt = state.learnt.lock();
        learnt.window.record(true, now);
        if let Some(sample) = sample {
            state.latency.record(sample, now);
        }
        state.confidence.learn(None, &self.rules.smart_ai, now);
        state.suspicion.store(0, Ordering::Relaxed);
        if claim.let_through {
            state.cooldown.clear();
            state.breaker.revive(claim.pass);
        }
        state.breaker.succeed(claim.pass, now);
    }

    fn bad(
        &self,
        claim: &Claim,
        class: FailureClass,
        retry_after: Option<Duration>,
        consequence: Consequence,
        now: Instant,
    ) {
        let (state, counters) = (&*self.state, &self.state.counters);
        counters.failures[class.index()].fetch_add(1, Ordering::Relaxed);
        counters.consecutive_failures.fetch_add(1, Ordering::Relaxed);
        let jitter = chance::unit(claim.jitter);
        let mut learnt = state.learnt.lock();
        state.latency.record(penalised(now.since(claim.started), retry_after), now);
        state.confidence.learn(Some(class), &self.rules.smart_ai, now);
        if let Some((reason, time)) = consequence.pause {
            state.cooldown.pause(reason, now + time);
        }
        match consequence.circuit {
            None => state.breaker.return_trial(claim.pass),
            Some(verdict) => {
                self.suspect(Suspicion::Traffic, now);
                state.breaker.fail(claim.pass, verdict, &self.rules.circuit, now, jitter);
                learnt.window.record(false, now);
                let tally = learnt.window.tally(now);
                if let Some(until) = learnt.ejections.judge(tally, now, jitter) {
                    state.ejected_until.store(until.as_nanos(), Ordering::Relaxed);
                    learnt.window = Window::default();
                }
            }
        }
    }

    fn suspect(&self, suspicion: Suspicion, now: Instant) {
        let kind = match suspicion {
            Suspicion::Traffic => 1,
            Suspicion::Probe => 2,
        };
        self.state.suspicion.store(now.as_nanos() << 2 | kind, Ordering::Relaxed);
    }
}

/// What probes do to an endpoint; when they are sent and what they mean is said in [`crate::probe`].
impl Endpoint {
    pub(crate) fn with_schedule<R>(&self, f: impl FnOnce(&mut Schedule) -> R) -> R {
        f(&mut self.state.learnt.lock().schedule)
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.state.breaker
    }

    /// The last probe went well.
    pub(crate) fn probe_good(&self, pass: Pass, now: Instant) {
        self.count_probe(false, now);
        self.state.suspicion.store(0, Ordering::Relaxed);
        // Where traffic flows, only traffic says how many failures there were in a row.
        if self.circuit().share() < 1.0 {
            self.state.breaker.succeed(pass, now);
        }
    }

    /// The last probe failed.
    pub(crate) fn probe_bad(&self, class: FailureClass, now: Instant) {
        self.count_probe(true, now);
        if class != FailureClass::RateLimit {
            self.suspect(Suspicion::Probe, now);
        }
        let _writing = self.state.learnt.lock();
        self.state.confidence.learn(Some(class), &self.rules.smart_ai, now);
    }

    fn count_probe(&self, failed: bool, now: Instant) {
        let counters = &self.state.counters;
        counters.last_report.store(now.as_nanos().saturating_add(1), Ordering::Relaxed);
        counters.probes.fetch_add(1, Ordering::Relaxed);
        counters.failed_probes.fetch_add(u64::from(failed), Ordering::Relaxed);
    }
}
