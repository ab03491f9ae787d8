//! `weighted_random` over the healthy ones; over all of them, by weight, when none is healthy.
//!
//! wᵢ counts if i is healthy or nobody is. Unhealthy = the last probe or the last attempt failed; what a request found out is
//! forgotten after the open time of a circuit.
//!
//! Use it for fixed shares that should not wait for a circuit to open: one failure moves the traffic away. Not where single
//! failures are normal (a busy public endpoint): `smart_weighted_failover` reacts less sharply.

use super::{Candidate, PickContext, Picker, Weights, draw};
use crate::chance::Chance;

/// See the module's text.
#[derive(Debug)]
pub(super) struct WeightedFailover;

impl Picker for WeightedFailover {
    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        let any_healthy = candidates.iter().any(|candidate| candidate.healthy);
        let weight = |candidate: &Candidate| match candidate.healthy || !any_healthy {
            true => candidate.weight,
            false => 0.0,
        };
        candidates.iter().map(weight).collect()
    }

    fn pick(&self, context: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        draw(&self.weights(context, candidates), chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::{Shares, by_weight};

    #[test]
    fn the_healthy_share_by_weight_and_the_unhealthy_get_nothing() {
        let mut candidates = by_weight(&[5.0, 3.0, 1.0]);
        candidates[0].healthy = false;
        Shares::of(&WeightedFailover, &candidates, 100_000).within(0.01, &[0.0, 0.75, 0.25]);
    }

    #[test]
    fn when_all_are_unhealthy_weight_decides_and_not_priority() {
        let mut candidates = by_weight(&[3.0, 1.0]);
        for (candidate, priority) in candidates.iter_mut().zip([2, 1]) {
            (candidate.healthy, candidate.priority) = (false, priority);
        }
        Shares::of(&WeightedFailover, &candidates, 100_000).within(0.01, &[0.75, 0.25]);
    }
}
