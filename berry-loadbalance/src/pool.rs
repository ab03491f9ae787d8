//! The endpoints behind one model, and the choice among them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berry_core::config::snapshot::Model;
use berry_core::id::BackendId;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

use crate::eligibility::{self, Demand, Exclusion};
use crate::endpoint::Endpoint;
use crate::lease::Lease;
use crate::picker::{self, Candidate, Picker};
use crate::selector::NoRoute;

/// The live side of one model.
#[derive(Debug)]
pub struct Pool {
    model: Arc<Model>,
    endpoints: Vec<Arc<Endpoint>>,
    picker: Arc<dyn Picker>,
    selections: Arc<AtomicU64>,
}

impl Pool {
    /// The pool of `model`. What `old` knows of backends that are still there is carried over; the rest starts cold.
    pub fn new(model: Arc<Model>, old: Option<&Self>) -> Self {
        let known: HashMap<&BackendId, &Arc<Endpoint>> = old
            .into_iter()
            .flat_map(|pool| &pool.endpoints)
            .map(|endpoint| (&endpoint.backend().id, endpoint))
            .collect();
        let endpoints = model
            .backends
            .iter()
            .map(|backend| match known.get(&backend.id) {
                Some(endpoint) => Arc::new(endpoint.reconfigured(Arc::clone(backend))),
                None => Arc::new(Endpoint::new(Arc::clone(backend))),
            })
            .collect();
        let picker = match old {
            Some(pool) if pool.model.strategy == model.strategy => Arc::clone(&pool.picker),
            _ => Arc::from(picker::for_strategy(model.strategy)),
        };
        let selections = old.map(|pool| Arc::clone(&pool.selections)).unwrap_or_default();
        Self {
            model,
            endpoints,
            picker,
            selections,
        }
    }

    /// The model as configured.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Its endpoints, in file order.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// How often one of them was chosen.
    pub fn selections(&self) -> u64 {
        self.selections.load(Ordering::Relaxed)
    }

    /// Chooses an endpoint for one attempt.
    ///
    /// # Errors
    /// Every endpoint's reason, when none may be considered.
    pub fn choose(&self, demand: &Demand<'_>, rng: &mut SmallRng) -> Result<Lease, NoRoute> {
        let candidates: SmallVec<[Candidate; 8]> = self
            .endpoints
            .iter()
            .enumerate()
            .filter(|(position, endpoint)| eligibility::check(endpoint, *position, demand).is_ok())
            .map(|(position, endpoint)| {
                let backend = endpoint.backend();
                Candidate {
                    position,
                    weight: backend.weight,
                    priority: backend.priority,
                }
            })
            .collect();
        let chosen = self.picker.pick(&candidates, rng).ok_or_else(|| self.refusal(demand))?;
        let position = candidates[chosen].position;
        self.selections.fetch_add(1, Ordering::Relaxed);
        Ok(Lease::new(Arc::clone(&self.endpoints[position]), position))
    }

    /// Why nothing can be chosen; off the hot path, so it asks every endpoint again.
    fn refusal(&self, demand: &Demand<'_>) -> NoRoute {
        let skipped: Vec<(BackendId, Exclusion)> = self
            .endpoints
            .iter()
            .enumerate()
            .filter_map(|(position, endpoint)| {
                let reason = eligibility::check(endpoint, position, demand).err()?;
                Some((endpoint.backend().id.clone(), reason))
            })
            .collect();
        let all = |reason: Exclusion| !skipped.is_empty() && skipped.iter().all(|(_, other)| *other <= reason);
        if demand.provider.is_some() && all(Exclusion::OtherProvider) {
            return NoRoute::UnknownProvider {
                model: self.model.name.clone(),
            };
        }
        if all(Exclusion::Tags) && skipped.iter().any(|(_, reason)| *reason == Exclusion::Tags) {
            return NoRoute::Tags {
                model: self.model.name.clone(),
                tags: demand.tags.to_vec(),
            };
        }
        NoRoute::NothingEligible {
            model: self.model.name.clone(),
            skipped,
        }
    }
}
