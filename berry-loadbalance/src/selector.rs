//! The face of this crate: choose a route, tell how it went, look at the figures.
//!
//! `examples/route_selector.rs` is a program that uses nothing else.

use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Backend, Snapshot, Strategy};
use berry_core::id::{BackendId, ModelId, ModelName};
use berry_core::time::Instant;
use rand::rngs::SmallRng;
use rustc_hash::FxHashMap;

use crate::eligibility::{Demand, Exclusion};
use crate::endpoint::EndpointStats;
use crate::explain::Decision;
use crate::lease::Lease;
use crate::outcome::Outcome;
use crate::pool::Pool;
use crate::probe::Probe;
use crate::queue::Queue;
use crate::reconcile;

/// Why there is no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// The model has no pool.
    #[error("model {0} is not served")]
    UnknownModel(ModelId),
    /// The forced provider has no backend in the pool.
    #[error("model {model} has no enabled backend at the forced provider")]
    UnknownProvider {
        /// The model that was asked for.
        model: ModelName,
    },
    /// The user shares no tag with any backend.
    #[error("no backend of {model} has one of the tags {}", tags.join(", "))]
    Tags {
        /// The model that was asked for.
        model: ModelName,
        /// The user's tags.
        tags: Vec<String>,
    },
    /// Every backend has a reason of its own.
    #[error("no backend of {model} can take the request")]
    NothingEligible {
        /// The model that was asked for.
        model: ModelName,
        /// Each backend and its reason.
        skipped: Vec<(BackendId, Exclusion)>,
        /// What there is too little of.
        shortage: Shortage,
        /// When it is worth asking again; `None` when waiting changes nothing.
        retry_after: Option<Duration>,
    },
}

impl NoRoute {
    /// When it is worth asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NothingEligible { retry_after, .. } => *retry_after,
            Self::UnknownModel(_) | Self::UnknownProvider { .. } | Self::Tags { .. } => None,
        }
    }

    /// Whether only places are missing, so that the request may wait for one.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::NothingEligible { shortage: Shortage::Busy, .. })
    }
}

/// Why no backend can take a request now. Decides what the client is told: 429 for `Cooling`, 503 for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The rate limits of all of them are used up.
    Cooling,
    /// Some are at their limit of requests and nothing else is left; the request may wait in a queue.
    Busy,
    /// They fail: circuits are open, or they asked to be left alone.
    Circuits,
    /// All of them are parked, and the one request that may pass has just passed.
    Parked,
    /// None will do however long one waits.
    Lasting,
}

impl Shortage {
    /// From the reasons that waiting can change.
    pub(crate) fn of(waiting: impl Iterator<Item = Exclusion> + Clone) -> Self {
        let any = |wanted: &[Exclusion]| waiting.clone().any(|reason| wanted.contains(&reason));
        if waiting.clone().next().is_none() {
            Self::Lasting
        } else if waiting.clone().all(|reason| reason == Exclusion::Cooling) {
            Self::Cooling
        } else if any(&[Exclusion::Busy]) {
            Self::Busy
        } else if waiting.clone().all(|reason| matches!(reason, Exclusion::Parked | Exclusion::KeyRefused)) {
            Self::Parked
        } else {
            Self::Circuits
        }
    }

    /// What to say where no moment is known.
    pub(crate) fn default_wait(self) -> Option<Duration> {
        (self != Self::Lasting).then_some(Duration::from_secs(1))
    }
}

/// Counters of one pool.
#[derive(Clone, Debug)]
pub struct PoolStats {
    /// The model.
    pub model: ModelId,
    /// Its strategy.
    pub strategy: Strategy,
    /// Choices made.
    pub selections: u64,
    /// Of these, those made in panic.
    pub panics: u64,
    /// One entry for each backend.
    pub endpoints: Vec<(BackendId, EndpointStats)>,
}

/// Chooses where each attempt of a request goes.
pub trait RouteSelector: Send + Sync {
    /// Chooses among the backends of `model`.
    ///
    /// # Errors
    /// [`NoRoute`] with the reason, when no backend may be considered.
    fn select_route(&self, model: &ModelId, demand: &Demand<'_>, rng: &mut SmallRng) -> Result<Lease, NoRoute>;

    /// Chooses among the backends of `model` at one provider.
    ///
    /// # Errors
    /// As [`RouteSelector::select_route`], and [`NoRoute::UnknownProvider`] when the pool has none there.
    fn select_specific_route(
        &self,
        model: &ModelId,
        provider: &str,
        demand: &Demand<'_>,
        rng: &mut SmallRng,
    ) -> Result<Lease, NoRoute> {
        self.select_route(model, &Demand { provider: Some(provider), ..*demand }, rng)
    }

    /// Tells how an attempt ended. A lease that is dropped instead counts as cancelled.
    fn report_result(&self, lease: Lease, outcome: Outcome, now: Instant) {
        lease.report(outcome, now);
    }

    /// As [`RouteSelector::select_route`], with the record of how it was decided; `None` when the model has no pool.
    fn select_route_explained(
        &self,
        model: &ModelId,
        demand: &Demand<'_>,
        rng: &mut SmallRng,
    ) -> (Result<Lease, NoRoute>, Option<Decision>);

    /// Takes a retry out of the model's budget; `false` when it is used up.
    fn may_retry(&self, model: &ModelId, now: Instant) -> bool;

    /// Puts a retry back that [`RouteSelector::may_retry`] gave, because no backend was left to make it at.
    fn retry_not_made(&self, model: &ModelId, now: Instant);

    /// Who waits for a place in the pool of `model`; `None` when it has none.
    fn queue(&self, model: &ModelId) -> Option<Arc<Queue>>;

    /// Counters of every pool, in file order.
    fn route_stats(&self) -> Vec<PoolStats>;
}

/// The selector over the pools of one snapshot.
#[derive(Debug, Default)]
pub struct PoolSelector {
    pools: FxHashMap<ModelId, Arc<Pool>>,
    order: Vec<ModelId>,
}

impl PoolSelector {
    /// Pools for the models of `snapshot`; live state of what `old` knew is carried over.
    pub fn new(snapshot: &Snapshot, old: Option<&Self>) -> Self {
        Self::adjusted(snapshot, old, &Arc::clone)
    }

    /// The same, with each backend as `adjust` makes it of the configured one: what an operator changed at run time. Its id must
    /// stay.
    pub fn adjusted(snapshot: &Snapshot, old: Option<&Self>, adjust: &dyn Fn(&Arc<Backend>) -> Arc<Backend>) -> Self {
        let models = &snapshot.models.all;
        let pools = models
            .iter()
            .map(|model| {
                let old = old.and_then(|selector| selector.pools.get(&model.id));
                let pool = reconcile::pool(model, snapshot, old.map(Arc::as_ref), adjust);
                (model.id.clone(), Arc::new(pool))
            })
            .collect();
        Self { pools, order: models.iter().map(|model| model.id.clone()).collect() }
    }

    /// The pool of a model.
    pub fn pool(&self, model: &ModelId) -> Option<&Arc<Pool>> {
        self.pools.get(model)
    }

    /// Takes the probes that are due now. Send them, at most a few at a time, and report what came of each.
    pub fn due_probes(&self, now: Instant) -> Vec<Probe> {
        self.pools().flat_map(|pool| pool.due_probes(now)).collect()
    }

    /// When the next probe is due; ask again then, or after a second, since requests change what is due.
    pub fn next_probe(&self, now: Instant) -> Option<Instant> {
        self.pools().filter_map(|pool| pool.next_probe(now)).min()
    }

    /// The pools, in file order.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.order.iter().filter_map(|id| self.pools.get(id))
    }
}

impl RouteSelector for PoolSelector {
    fn select_route(&self, model: &ModelId, demand: &Demand<'_>, rng: &mut SmallRng) -> Result<Lease, NoRoute> {
        let pool = self.pools.get(model).ok_or_else(|| NoRoute::UnknownModel(model.clone()))?;
        pool.choose(demand, rng)
    }

    fn select_route_explained(
        &self,
        model: &ModelId,
        demand: &Demand<'_>,
        rng: &mut SmallRng,
    ) -> (Result<Lease, NoRoute>, Option<Decision>) {
        match self.pools.get(model) {
            None => (Err(NoRoute::UnknownModel(model.clone())), None),
            Some(pool) => {
                let (result, decision) = pool.choose_explained(demand, rng);
                (result, Some(decision))
            }
        }
    }

    fn may_retry(&self, model: &ModelId, now: Instant) -> bool {
        self.pools.get(model).is_some_and(|pool| pool.retries().withdraw(now))
    }

    fn retry_not_made(&self, model: &ModelId, now: Instant) {
        if let Some(pool) = self.pools.get(model) {
            pool.retries().put_back(now);
        }
    }

    fn queue(&self, model: &ModelId) -> Option<Arc<Queue>> {
        self.pools.get(model).map(|pool| Arc::clone(pool.queue()))
    }

    fn route_stats(&self) -> Vec<PoolStats> {
        self.pools()
            .map(|pool| PoolStats {
                model: pool.model().id.clone(),
                strategy: pool.model().strategy,
                selections: pool.selections(),
                panics: pool.panics(),
                endpoints: pool
                    .endpoints()
                    .iter()
                    .map(|endpoint| (endpoint.backend().id.clone(), endpoint.stats()))
                    .collect(),
            })
            .collect()
    }
}
