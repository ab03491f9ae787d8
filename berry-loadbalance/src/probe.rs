//! When to probe an endpoint, and what an answer means. Sending is the relay's job.
//!
//! | kind | due | for |
//! |---|---|---|
//! | initial | at once | every probed endpoint that never was |
//! | trial | when its circuit may be tried again | one whose circuit is open; takes the one half-open permit |
//! | recovery | `recovery_check_interval_seconds` after the last probe | one that is unhealthy, ejected or recovering |
//! | lightweight | `lightweight_check_interval_seconds` after the last probe and the last request | the healthy ones of a `smart_ai` model |
//! | periodic | `health_check_interval_seconds` after the last probe | all other healthy ones |
//!
//! Probed are enabled `per_token` backends whose provider does not say `health_check = "off"`; what is charged by the request is
//! never probed. One probe of an endpoint is under way at a time; one that hangs counts for nothing after its deadline. Every
//! interval is ±10 %, drawn anew each time, so that endpoints drift apart.
//!
//! Three failed probes in a row open the circuit, a failed trial opens it again, a refused key opens it at once; a 429 proves
//! that the backend is there and pauses it. A good probe makes the endpoint healthy and counts as a success while its circuit
//! is half-open or recovering. It leaves the failures that requests had alone: a models list says little about chat.

use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Backend, HealthCheck, Strategy};
use berry_core::time::Instant;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::breaker::{Cause, Pass, Phase, Verdict};
use crate::cooldown::Reason;
use crate::endpoint::Endpoint;
use crate::outcome::FailureClass;
use crate::outlier::jittered;

/// Failed probes in a row that open a circuit.
const FAILURES_TO_OPEN: u8 = 3;
/// What was found out at a provider serves all of its backends that are due within this part of their interval: more than the
/// jitter takes them apart, so that one question is enough.
const SHARED_FOR: u32 = 5;
/// A trial wants to know how things are now.
const SHARED_WITH_TRIAL_FOR: Duration = Duration::from_secs(1);
/// What a hung probe is allowed beyond its own timeout before another one may be sent.
const GRACE: Duration = Duration::from_secs(1);

/// Why a probe is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first one.
    Initial,
    /// In place of a request, through a half-open circuit.
    Trial,
    /// Is it well again?
    Recovery,
    /// Of an idle `smart_ai` backend; must cost no tokens.
    Lightweight,
    /// The ordinary one.
    Periodic,
}

impl Kind {
    /// Its name in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Trial => "trial",
            Self::Recovery => "recovery",
            Self::Lightweight => "lightweight",
            Self::Periodic => "periodic",
        }
    }
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there and serves the model.
    Good,
    /// It failed.
    Failed {
        /// How.
        class: FailureClass,
        /// When it asked to be left alone for a while.
        retry_after: Option<Duration>,
    },
}

/// What an endpoint remembers of its probes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    last: Option<Instant>,
    /// Until when one is under way.
    running_until: Option<Instant>,
    failures: u8,
    /// Of the current interval, 0 to below 1.
    jitter: f64,
}

/// A probe to send. Report what came of it; dropping it says that nothing did.
#[derive(Debug)]
pub struct Probe {
    endpoint: Arc<Endpoint>,
    kind: Kind,
    pass: Pass,
    /// When the question was asked whose answer is reported, if that was before this probe.
    asked_at: Option<Instant>,
    reported: bool,
}

/// When the next probe is due, and why. `None` = never. Nobody is probed while it waits out what it asked for.
pub(crate) fn due(endpoint: &Endpoint, strategy: Strategy, now: Instant) -> Option<(Instant, Kind)> {
    if !endpoint.is_probed() {
        return None;
    }
    let (at, kind) = due_by_schedule(endpoint, strategy, now)?;
    let pause = endpoint.cooling(now).map_or(Instant::START, |cooling| cooling.until);
    Some((at.max(pause), kind))
}

fn due_by_schedule(endpoint: &Endpoint, strategy: Strategy, now: Instant) -> Option<(Instant, Kind)> {
    let schedule = endpoint.with_schedule(|schedule| *schedule);
    let (circuit, rules) = (endpoint.circuit(), endpoint.rules());
    if let Some(until) = schedule.running_until.filter(|until| *until > now) {
        return Some((until, Kind::Recovery));
    }
    if let Some(due) = circuit.trial_due() {
        return Some((due, Kind::Trial));
    }
    let Some(last) = schedule.last else {
        return Some((Instant::START, Kind::Initial));
    };
    let after = |time: Duration| last + jittered(time, schedule.jitter);
    let ailing = endpoint.suspicion(now).is_some()
        || endpoint.ejected_until(now).is_some()
        || matches!(circuit.phase, Phase::Recovering { .. });
    if ailing {
        return Some((after(rules.probing.recovery_interval), Kind::Recovery));
    }
    if strategy == Strategy::SmartAi {
        let idle = jittered(rules.smart_ai.lightweight_check_interval, schedule.jitter);
        let last_news = last.max(endpoint.stats().last_report.unwrap_or_default());
        return Some((last_news + idle, Kind::Lightweight));
    }
    Some((after(rules.probing.interval), Kind::Periodic))
}

/// Takes the probe that is due now, if one is.
pub(crate) fn take(endpoint: &Arc<Endpoint>, strategy: Strategy, now: Instant) -> Option<Probe> {
    let (_, kind) = due(endpoint, strategy, now).filter(|(at, _)| *at <= now)?;
    let running_until = now + endpoint.rules().probing.timeout + GRACE;
    let free = endpoint.with_schedule(|schedule| {
        let free = schedule.running_until.is_none_or(|until| until <= now);
        if free {
            schedule.running_until = Some(running_until);
        }
        free
    });
    let pass = match kind {
        _ if !free => None,
        Kind::Trial => endpoint.breaker().take_trial(now, running_until),
        _ => Some(endpoint.breaker().pass()),
    };
    if pass.is_none() && free {
        endpoint.with_schedule(|schedule| schedule.running_until = None);
    }
    Some(Probe { endpoint: Arc::clone(endpoint), kind, pass: pass?, asked_at: None, reported: false })
}

impl Probe {
    /// The backend to ask.
    pub fn backend(&self) -> &Arc<Backend> {
        self.endpoint.backend()
    }

    /// Why.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How. A lightweight probe never costs tokens: where a chat would be sent, a connection has to do. The same holds for
    /// backends that nobody wrote down one by one, and for those that have no one model to chat with.
    pub fn method(&self) -> HealthCheck {
        let backend = self.backend();
        let free = self.kind == Kind::Lightweight || backend.derived || backend.takes_any_name();
        match backend.provider.health_check {
            HealthCheck::ModelsThenChat if free => HealthCheck::Models,
            HealthCheck::Chat if free => HealthCheck::Connect,
            method => method,
        }
    }

    /// How long to wait for the answer.
    pub fn timeout(&self) -> Duration {
        self.endpoint.rules().probing.timeout
    }

    /// Whether the answer to a question that another backend's probe asked at `asked_at` will do: it is recent, and nothing was
    /// held against this backend since then. If so, the next interval of this one runs from there too, which keeps the backends
    /// of a provider together.
    pub fn shares(&mut self, asked_at: Instant, now: Instant) -> bool {
        let rules = self.endpoint.rules();
        let shared_for = match self.kind {
            Kind::Trial => SHARED_WITH_TRIAL_FOR,
            Kind::Recovery => rules.probing.recovery_interval / SHARED_FOR,
            Kind::Lightweight => rules.smart_ai.lightweight_check_interval / SHARED_FOR,
            Kind::Initial | Kind::Periodic => rules.probing.interval / SHARED_FOR,
        };
        let shares = now.since(asked_at) <= shared_for
            && self.endpoint.suspected_since().is_none_or(|suspected| suspected <= asked_at);
        self.asked_at = shares.then_some(asked_at);
        shares
    }

    /// Tells what came of it.
    pub fn report(mut self, answer: Answer, now: Instant, rng: &mut SmallRng) {
        self.reported = true;
        let jitter: f64 = rng.random();
        let failures = self.endpoint.with_schedule(|schedule| {
            schedule.running_until = None;
            schedule.last = Some(self.asked_at.unwrap_or(now));
            schedule.jitter = jitter;
            schedule.failures = match answer {
                Answer::Good => 0,
                Answer::Failed { class: FailureClass::RateLimit, .. } => 0,
                Answer::Failed { .. } => schedule.failures.saturating_add(1),
            };
            schedule.failures
        });
        match answer {
            Answer::Good => self.endpoint.probe_good(self.pass, now),
            Answer::Failed { class, retry_after } => self.failed(class, retry_after, failures, now, jitter),
        }
    }

    fn failed(&self, class: FailureClass, retry_after: Option<Duration>, failures: u8, now: Instant, jitter: f64) {
        let endpoint = &self.endpoint;
        endpoint.probe_bad(class, now);
        let open = |cause| {
            let settings = &endpoint.rules().circuit;
            endpoint.breaker().fail(self.pass, Verdict::Open(cause), settings, now, jitter);
        };
        match class {
            FailureClass::Auth => open(Cause::Key),
            FailureClass::RateLimit | FailureClass::Model => {
                let reason = match class {
                    FailureClass::Model => Reason::Model,
                    _ => Reason::RateLimit,
                };
                endpoint.pause(reason, now + reason.time(retry_after));
                endpoint.breaker().return_trial(self.pass);
            }
            _ if self.pass.is_trial() || failures >= FAILURES_TO_OPEN => open(Cause::Probes),
            _ => {}
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // The schedule takes it for one that hangs, so that giving up probes does not make more of them.
        if !self.reported {
            self.endpoint.breaker().return_trial(self.pass);
        }
    }
}

#[cfg(test)]
mod tests;
