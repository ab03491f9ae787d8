//! The face of this crate: choose a route, tell how it went, look at the figures.

use std::collections::HashMap;
use std::sync::Arc;

use berry_core::config::snapshot::{Models, Strategy};
use berry_core::id::{BackendId, ModelId, ModelName};
use berry_core::time::Instant;
use rand::rngs::SmallRng;

use crate::eligibility::{Demand, Exclusion};
use crate::endpoint::EndpointStats;
use crate::lease::Lease;
use crate::outcome::Outcome;
use crate::pool::Pool;

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
    },
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
        self.select_route(
            model,
            &Demand {
                provider: Some(provider),
                ..*demand
            },
            rng,
        )
    }

    /// Tells how an attempt ended. A lease that is dropped instead counts as cancelled.
    fn report_result(&self, lease: Lease, outcome: Outcome, now: Instant) {
        lease.report(outcome, now);
    }

    /// Counters of every pool, in file order.
    fn route_stats(&self) -> Vec<PoolStats>;
}

/// The selector over the pools of one snapshot.
#[derive(Debug, Default)]
pub struct PoolSelector {
    pools: HashMap<ModelId, Arc<Pool>>,
    order: Vec<ModelId>,
}

impl PoolSelector {
    /// Pools for `models`; live state of what `old` knew is carried over.
    pub fn new(models: &Models, old: Option<&Self>) -> Self {
        let pools = models
            .all
            .iter()
            .map(|model| {
                let old = old.and_then(|selector| selector.pools.get(&model.id));
                (
                    model.id.clone(),
                    Arc::new(Pool::new(Arc::clone(model), old.map(Arc::as_ref))),
                )
            })
            .collect();
        Self {
            pools,
            order: models.all.iter().map(|model| model.id.clone()).collect(),
        }
    }

    /// The pools, in file order.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.order.iter().filter_map(|id| self.pools.get(id))
    }
}

impl RouteSelector for PoolSelector {
    fn select_route(&self, model: &ModelId, demand: &Demand<'_>, rng: &mut SmallRng) -> Result<Lease, NoRoute> {
        let pool = self
            .pools
            .get(model)
            .ok_or_else(|| NoRoute::UnknownModel(model.clone()))?;
        pool.choose(demand, rng)
    }

    fn route_stats(&self) -> Vec<PoolStats> {
        self.pools()
            .map(|pool| PoolStats {
                model: pool.model().id.clone(),
                strategy: pool.model().strategy,
                selections: pool.selections(),
                endpoints: pool
                    .endpoints()
                    .iter()
                    .map(|endpoint| (endpoint.backend().id.clone(), endpoint.stats()))
                    .collect(),
            })
            .collect()
    }
}
