//! Read-only views for the admin endpoints, `/smart-ai/*` and the metrics: the numbers that the next choice would use, from the
//! functions that it would use.

use std::sync::Arc;
use std::time::Duration;

use berry_core::id::BackendId;
use berry_core::time::Instant;

use crate::breaker::Circuit;
use crate::cooldown::Cooling;
use crate::eligibility::Hints;
use crate::endpoint::{Endpoint, EndpointStats, Suspicion};
use crate::picker::{Candidate, Needs};
use crate::pool::{Pool, Question};
use crate::signal::Tally;

/// One endpoint at one moment.
#[derive(Clone, Debug)]
pub struct EndpointReport {
    /// Which.
    pub id: BackendId,
    /// Switched on, with its provider and model.
    pub enabled: bool,
    /// Whether it may be sent to and nothing speaks against it.
    pub healthy: bool,
    /// As configured.
    pub weight: f64,
    /// The weight that the strategy gives it now, its stage of recovery included; 0 when it gets no traffic.
    pub effective_weight: f64,
    /// Confidence of `smart_ai`, whichever the strategy.
    pub confidence: f64,
    /// Its circuit.
    pub circuit: Circuit,
    /// What it waits out.
    pub cooling: Option<Cooling>,
    /// Until when it is ejected.
    pub ejected_until: Option<Instant>,
    /// Who says that it is unhealthy.
    pub suspicion: Option<Suspicion>,
    /// Time to first token as it is now.
    pub latency: Option<Duration>,
    /// Successes and failures of the last ten seconds.
    pub tally: Tally,
    /// Why it gets no or less traffic, in a few words.
    pub reason: Option<&'static str>,
    /// Its counters.
    pub stats: EndpointStats,
}

impl EndpointReport {
    /// When it may be sent to again, where it may not now.
    pub fn blocked_until(&self) -> Option<Instant> {
        let cooling = self.cooling.map(|cooling| cooling.until);
        cooling.max(self.ejected_until).max(self.circuit.trial_due())
    }
}

impl Pool {
    /// Every endpoint, in file order.
    pub fn report(&self, now: Instant) -> Vec<EndpointReport> {
        let question = Question::new(now, &Hints::default(), Needs::ALL);
        let look_at = |(position, endpoint): (usize, &Arc<Endpoint>)| {
            let mut candidate = Candidate::new(position, 1.0, 0);
            question.answer(&mut candidate, endpoint);
            candidate.recovery = endpoint.circuit().share();
            candidate
        };
        let looks: Vec<Candidate> = self.endpoints().iter().enumerate().map(look_at).collect();
        let usable = |candidate: &&Candidate| self.gets_traffic(candidate.position, now);
        let candidates: Vec<Candidate> = looks.iter().filter(usable).copied().collect();
        let weights = self.picker().weights(&self.context(now), &candidates);
        let effective = |position: usize| {
            let i = candidates.iter().position(|candidate| candidate.position == position)?;
            let drawn = if self.picker().weighs_recovery() { 1.0 } else { candidates[i].recovery };
            Some(weights[i] * drawn)
        };
        (0..self.endpoints().len())
            .map(|position| self.endpoint_report(position, effective(position).unwrap_or(0.0), now))
            .collect()
    }

    fn gets_traffic(&self, position: usize, now: Instant) -> bool {
        let endpoint = &self.endpoints()[position];
        endpoint.backend().enabled
            && endpoint.circuit().share() > 0.0
            && endpoint.cooling(now).is_none()
            && endpoint.ejected_until(now).is_none()
    }

    fn endpoint_report(&self, position: usize, effective_weight: f64, now: Instant) -> EndpointReport {
        let endpoint = &self.endpoints()[position];
        let backend = endpoint.backend();
        let mut report = EndpointReport {
            id: backend.id.clone(),
            enabled: backend.enabled,
            healthy: endpoint.is_healthy(now),
            weight: backend.weight,
            effective_weight,
            confidence: endpoint.confidence(now),
            circuit: endpoint.circuit(),
            cooling: endpoint.cooling(now),
            ejected_until: endpoint.ejected_until(now),
            suspicion: endpoint.suspicion(now),
            latency: endpoint.latency(now),
            tally: endpoint.tally(now),
            reason: None,
            stats: endpoint.stats(),
        };
        report.reason = reason(&report);
        report
    }
}

fn reason(report: &EndpointReport) -> Option<&'static str> {
    use crate::breaker::{Cause, Phase};
    use crate::cooldown::Reason;
    match (report.circuit.phase, report.circuit.cause, report.cooling) {
        _ if !report.enabled => Some("disabled"),
        (Phase::Open { .. }, Cause::Traffic, _) => Some("circuit open: requests failed"),
        (Phase::Open { .. }, Cause::Probes, _) => Some("circuit open: probes failed"),
        (Phase::Open { .. }, Cause::Key, _) => Some("circuit open: the key was refused"),
        (Phase::HalfOpen { .. }, ..) => Some("circuit half-open: one trial is under way"),
        (.., Some(cooling)) => Some(match cooling.reason {
            Reason::RateLimit => "cooling down: rate limited",
            Reason::RetryAfter => "cooling down: asked to retry later",
            Reason::Exhausted => "cooling down: its rate limit is used up",
            Reason::Quota => "parked: no quota or money left at the provider",
            Reason::Model => "parked: the provider does not know the model",
        }),
        _ if report.ejected_until.is_some() => Some("ejected: succeeds too seldom"),
        (Phase::Recovering { .. }, ..) => Some("recovering"),
        _ => report.suspicion.map(|who| match who {
            Suspicion::Traffic => "unhealthy: the last request failed",
            Suspicion::Probe => "unhealthy: the last probe failed",
        }),
    }
}
