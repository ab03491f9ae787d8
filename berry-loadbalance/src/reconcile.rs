//! A new snapshot's pools, with the live state of every backend that is still there.
//!
//! Carried over by `BackendId`: counters, latency, confidence, circuit, pauses, probes, attempts under way; by model: rotation,
//! selections, retry budget. A backend that is new starts cold; one that is gone finishes its attempts, whose leases hold it, and
//! is forgotten. Circuit and pauses of a backend start afresh when its provider's address or key was changed.

use std::collections::HashMap;
use std::sync::Arc;

use berry_core::config::snapshot::{Backend, Model, Snapshot};
use berry_core::id::BackendId;

use crate::endpoint::Endpoint;
use crate::pool::Pool;
use crate::rules::Rules;

/// The pool of `model`, continuing `old`. Each backend is what `adjust` makes of the configured one.
pub(crate) fn pool(
    model: &Arc<Model>,
    snapshot: &Snapshot,
    old: Option<&Pool>,
    adjust: &dyn Fn(&Arc<Backend>) -> Arc<Backend>,
) -> Pool {
    let rules = Arc::new(Rules::from(&snapshot.settings));
    let known: HashMap<&BackendId, &Arc<Endpoint>> =
        old.into_iter().flat_map(Pool::endpoints).map(|endpoint| (&endpoint.backend().id, endpoint)).collect();
    let state = old.map(|pool| Arc::clone(pool.state())).unwrap_or_default();
    let endpoint = |backend: &Arc<Backend>| {
        let (new, prices) = (adjust(backend), *backend.tariff.base());
        let endpoint = match known.get(&backend.id) {
            Some(endpoint) => endpoint.reconfigured(new, Arc::clone(&rules), prices),
            None => Endpoint::new(new, Arc::clone(&rules), prices),
        };
        let queue = (!model.queue_timeout.is_zero()).then(|| Arc::clone(&state.queue));
        Arc::new(endpoint.with_queue(queue))
    };
    let endpoints = model.backends.iter().map(endpoint).collect();
    Pool::assemble(Arc::clone(model), rules, endpoints, state)
}
