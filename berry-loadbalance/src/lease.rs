//! A chosen endpoint, held while an attempt runs there.

use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::Backend;
use berry_core::time::Instant;

use crate::cooldown::Reason;
use crate::eligibility::Rescue;
use crate::endpoint::{Claim, Endpoint};
use crate::figures::Figures;
use crate::outcome::{Consequence, FailureClass, Outcome};

/// One attempt's claim on an endpoint. Reported once; dropping it unreported counts as cancelled, so no in-flight count and no
/// trial leaks.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    /// Place of the endpoint in its pool, so that the next choice can leave it out.
    position: usize,
    claim: Claim,
    rescue: Option<Rescue>,
    sampled: bool,
    reported: bool,
}

/// What an upstream's rate-limit headers say is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// `x-ratelimit-remaining-requests`.
    pub requests: Option<u64>,
    /// `x-ratelimit-remaining-tokens`.
    pub tokens: Option<u64>,
    /// The matching `x-ratelimit-reset-*`.
    pub reset: Option<Duration>,
}

impl Lease {
    pub(crate) fn new(endpoint: Arc<Endpoint>, position: usize, claim: Claim, rescue: Option<Rescue>) -> Self {
        Self { endpoint, position, claim, rescue, sampled: false, reported: false }
    }

    /// The backend to send to.
    pub fn backend(&self) -> &Arc<Backend> {
        self.endpoint.backend()
    }

    /// Where the figures of its backend grow.
    pub fn figures(&self) -> &Arc<Figures> {
        self.endpoint.figures()
    }

    /// Place of the endpoint in its pool.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Whether this attempt is the one trial of a half-open circuit.
    pub fn is_trial(&self) -> bool {
        self.claim.pass.is_trial()
    }

    /// What had to be given up to find this endpoint; `None` for an ordinary choice. After [`Rescue::Trial`] and
    /// [`Rescue::LetThrough`] nothing is to be retried.
    pub fn rescue(&self) -> Option<Rescue> {
        self.rescue
    }

    /// Whether nothing is to be retried after this attempt: it is a trial, or a parked endpoint's exception.
    pub fn is_last_chance(&self) -> bool {
        matches!(self.rescue, Some(Rescue::Trial | Rescue::LetThrough))
    }

    /// The first content arrived `ttft` after the attempt began. Optional: without it the outcome's own figure is taken.
    pub fn first_token(&mut self, ttft: Duration, now: Instant) {
        if !std::mem::replace(&mut self.sampled, true) {
            self.endpoint.no_longer_waiting();
        }
        self.endpoint.first_token(&self.claim, ttft, now);
    }

    /// Takes in rate-limit headers, so that an exhausted backend is left alone before it has to say 429.
    pub fn learn_remaining(&self, remaining: Remaining, now: Instant) {
        if remaining.requests == Some(0) || remaining.tokens == Some(0) {
            let until = now + Reason::Exhausted.time(remaining.reset);
            self.endpoint.pause(Reason::Exhausted, until);
        }
    }

    /// Input and output tokens that the attempt used, for the backend's configured rate.
    pub fn used_tokens(&self, tokens: u64, now: Instant) {
        self.endpoint.used_tokens(tokens, now);
    }

    /// Tells how the attempt ended and gives the endpoint back. What follows from a failure is [`Consequence::of`] its class.
    pub fn report(self, outcome: Outcome, now: Instant) {
        self.settle(outcome, None, now);
    }

    /// As [`Lease::report`], with another consequence than the class alone would have.
    pub fn report_with(self, outcome: Outcome, consequence: Consequence, now: Instant) {
        self.settle(outcome, Some(consequence), now);
    }

    fn settle(mut self, outcome: Outcome, consequence: Option<Consequence>, now: Instant) {
        self.reported = true;
        let unknown_name = matches!(outcome, Outcome::Failure { class: FailureClass::Model, .. });
        // Of a backend that is asked for whatever was requested, a name that it does not know says nothing of the other names.
        let (outcome, consequence) = match unknown_name && self.backend().takes_any_name() {
            true => (Outcome::CallerFault, None),
            false => (outcome, consequence),
        };
        self.endpoint.end(&self.claim, outcome, consequence, self.sampled, now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.sampled {
            self.endpoint.no_longer_waiting();
        }
        if !self.reported {
            self.endpoint.abandon(&self.claim);
        }
    }
}
