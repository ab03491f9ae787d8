//! The choices of the last explained requests, for `GET /admin/explain/{request_id}`.
//!
//! A choice is recorded when an administrator asks for it with the header `x-berry-explain: 1`. Such a request goes through a relay
//! of its own, over a selector that writes down what it decides; all others pass the bare selector and pay nothing.
//! When the request has settled, its attempts and what it cost, line by line, stand beside the choices.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berry_core::id::{BackendId, ModelId, ProviderId, RequestId, UpstreamModel, UserId};
use berry_core::tariff::{Cost, PriceSource, Tariff};
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::eligibility::Demand;
use berry_loadbalance::explain::{Decision, Explanation};
use berry_loadbalance::lease::Lease;
use berry_loadbalance::queue::Queue;
use berry_loadbalance::selector::{NoRoute, PoolSelector, PoolStats, RouteSelector};
use berry_relay::dialect::loss::Loss;
use berry_relay::exchange::Facts;
use berry_relay::params::Edited;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use serde::Serialize;

use crate::telemetry::format::rfc3339;

/// Requests that are remembered.
const REQUESTS_MAX: usize = 1000;

/// A backend by its names.
#[derive(Clone, Debug, Serialize)]
pub struct Chosen {
    /// Whose.
    pub provider: ProviderId,
    /// Its name there.
    pub model: UpstreamModel,
}

impl From<&BackendId> for Chosen {
    fn from(id: &BackendId) -> Self {
        Self { provider: id.provider.clone(), model: id.upstream.clone() }
    }
}

/// One choice of a request: one for each attempt, and the one that found nobody.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// Start of the request to the choice.
    pub after_ms: f64,
    /// Who was chosen.
    pub chosen: Option<Chosen>,
    /// Why nobody was.
    pub error: Option<String>,
    /// Everything that the choice depended on.
    pub decision: Explanation,
}

/// All choices of one request.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Our name for it.
    pub request_id: String,
    /// When the first choice was made, RFC 3339.
    pub timestamp: String,
    /// Table key of who asked.
    pub user: UserId,
    /// In order.
    pub choices: Vec<Choice>,
    /// How it went; `None` while it runs.
    pub outcome: Option<Ended>,
}

/// How a request went.
#[derive(Clone, Debug, Serialize)]
pub struct Ended {
    /// What the client got.
    pub status: u16,
    /// How it ended, seen from the client.
    pub end: &'static str,
    /// Its head to its end.
    pub latency_ms: f64,
    /// Its head to the first content.
    pub ttft_ms: Option<f64>,
    /// In order.
    pub attempts: Vec<Attempted>,
    /// What settings and repairs did to the request, in the last attempt.
    pub edited: Vec<Change>,
    /// What of the request the last attempt did not carry.
    pub loss: Vec<Loss>,
    /// The bill; `None` when no upstream accepted the request.
    pub price: Option<Bill>,
}

/// One parameter that settings or repairs changed.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The parameter, `a.b` inside a table.
    pub parameter: String,
    /// `defaulted`, `overridden`, `dropped` or `repaired`.
    pub how: &'static str,
}

/// One attempt.
#[derive(Clone, Debug, Serialize)]
pub struct Attempted {
    /// Whose.
    pub provider: ProviderId,
    /// The model's name there.
    pub model: UpstreamModel,
    /// Why there.
    pub reason: &'static str,
    /// `success`, `caller_fault`, `cancelled`, or the class of the failure.
    pub outcome: &'static str,
    /// What the upstream answered; `None` = nothing.
    pub status: Option<u16>,
    /// Start of the request to the start of the attempt.
    pub after_ms: f64,
    /// Start of the attempt to its first content.
    pub ttft_ms: Option<f64>,
    /// Start of the attempt to its end.
    pub duration_ms: Option<f64>,
}

/// What a request cost and why.
#[derive(Clone, Debug, Serialize)]
pub struct Bill {
    /// Where the prices come from.
    pub source: PriceSource,
    /// The tokens that were charged.
    pub usage: Usage,
    /// In USD: the lines and their sum.
    pub cost: Cost,
}

impl From<&Edited> for Change {
    fn from(edited: &Edited) -> Self {
        Self { parameter: edited.name.clone(), how: edited.how.as_str() }
    }
}

impl Ended {
    fn new(facts: &Facts, latency: Duration) -> Self {
        let attempts = facts.tries.iter().map(|attempt| Attempted {
            provider: attempt.backend.id.provider.clone(),
            model: attempt.backend.id.upstream.clone(),
            reason: attempt.reason.as_str(),
            outcome: attempt.outcome_name(),
            status: (attempt.status != 0).then_some(attempt.status),
            after_ms: millis(attempt.started.since(facts.started)),
            ttft_ms: attempt.ttft.map(millis),
            duration_ms: attempt.duration.map(millis),
        });
        let bill = |(tariff, cost): (&Arc<Tariff>, Cost)| Bill { source: tariff.source(), usage: facts.usage, cost };
        Self {
            status: facts.status,
            end: facts.end.as_str(),
            latency_ms: millis(latency),
            ttft_ms: facts.ttft.map(millis),
            attempts: attempts.collect(),
            edited: facts.edited.iter().map(Change::from).collect(),
            loss: facts.loss.iter().flat_map(|loss| loss.iter().cloned()).collect(),
            price: facts.tariff.as_ref().zip(facts.cost).map(bill),
        }
    }
}

/// In milliseconds, exact to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The last explained requests.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<VecDeque<Explained>>);

impl Decisions {
    /// The choices of a request, while it is remembered.
    pub fn get(&self, request_id: &str) -> Option<Explained> {
        self.0.lock().iter().find(|explained| explained.request_id == request_id).cloned()
    }

    /// Takes in how a request ended, while its choices are remembered.
    pub fn settle(&self, facts: &Facts, latency: Duration) {
        let mut ring = self.0.lock();
        if let Some(explained) = ring.iter_mut().rev().find(|one| one.request_id == facts.request_id.as_str()) {
            explained.outcome = Some(Ended::new(facts, latency));
        }
    }

    /// Adds to the entry of a request; the oldest one makes room for a new one.
    fn note(&self, request_id: &RequestId, user: &UserId, add: impl FnOnce(&mut Explained)) {
        let mut ring = self.0.lock();
        let known = ring.iter_mut().rev().find(|explained| explained.request_id == request_id.as_str());
        if let Some(explained) = known {
            return add(explained);
        }
        if ring.len() == REQUESTS_MAX {
            ring.pop_front();
        }
        let mut explained = Explained {
            request_id: request_id.as_str().to_owned(),
            timestamp: rfc3339(SystemTime::now()),
            user: user.clone(),
            choices: Vec::new(),
            outcome: None,
        };
        add(&mut explained);
        ring.push_back(explained);
    }
}

/// A selector that writes down what it decides for one request.
pub struct Recorder {
    /// Decides.
    pub selector: Arc<PoolSelector>,
    /// Where to write.
    pub decisions: Arc<Decisions>,
    /// The request.
    pub request_id: RequestId,
    /// When it began.
    pub started: Instant,
    /// Who asked.
    pub user: UserId,
}

impl RouteSelector for Recorder {
    fn select_route(&self, model: &ModelId, demand: &Demand<'_>, rng: &mut SmallRng) -> Result<Lease, NoRoute> {
        self.select_route_explained(model, demand, rng).0
    }

    fn select_route_explained(
        &self,
        model: &ModelId,
        demand: &Demand<'_>,
        rng: &mut SmallRng,
    ) -> (Result<Lease, NoRoute>, Option<Decision>) {
        let (result, decision) = self.selector.select_route_explained(model, demand, rng);
        if let (Some(decision), Some(pool)) = (&decision, self.selector.pool(model)) {
            let choice = Choice {
                after_ms: millis(demand.now.since(self.started)),
                chosen: result.as_ref().ok().map(|lease| Chosen::from(&lease.backend().id)),
                error: result.as_ref().err().map(ToString::to_string),
                decision: decision.named(pool),
            };
            self.decisions.note(&self.request_id, &self.user, |explained| explained.choices.push(choice));
        }
        (result, decision)
    }

    fn may_retry(&self, model: &ModelId, now: Instant) -> bool {
        self.selector.may_retry(model, now)
    }

    fn retry_not_made(&self, model: &ModelId, now: Instant) {
        self.selector.retry_not_made(model, now);
    }

    fn queue(&self, model: &ModelId) -> Option<Arc<Queue>> {
        self.selector.queue(model)
    }

    fn route_stats(&self) -> Vec<PoolStats> {
        self.selector.route_stats()
    }
}

#[cfg(test)]
mod tests {
    use berry_core::id::RequestId;

    use super::*;

    #[test]
    fn the_oldest_request_is_forgotten_when_the_ring_is_full() {
        let ids = crate::request_id::RequestIds::new(1);
        let decisions = Decisions::default();
        let add = |id: &RequestId| decisions.note(id, &"u".into(), |explained| explained.timestamp.push('+'));
        let first = ids.next();
        add(&first);
        add(&first);
        assert!(decisions.get(first.as_str()).unwrap().timestamp.ends_with("++"), "one entry for one request");
        let last: Vec<RequestId> = (0..REQUESTS_MAX).map(|_| ids.next()).collect();
        last.iter().for_each(add);
        assert!(decisions.get(first.as_str()).is_none());
        assert!(last.iter().all(|id| decisions.get(id.as_str()).is_some()));
    }
}
