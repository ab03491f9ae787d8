//! `weighted_random` over weight × recovery factor.
//!
//! Factor: 1 for a healthy endpoint, 0.1 for an unhealthy one (circuit closed, but the last probe or attempt failed), 0.3 and
//! 0.5 in the first stages of recovery. Because the factor is part of the weight, a recovering endpoint is always a candidate
//! here; the other strategies draw it with that probability instead.
//!
//! Use it for weighted shares with a soft reaction: traffic drains from a doubtful backend and a trickle finds out when it is
//! well again. Not where even one request in ten to a doubtful backend is too much: `weighted_failover`.

use super::{Candidate, PickContext, Picker, Weights, draw};
use crate::chance::Chance;

/// Factor of an unhealthy endpoint.
const UNHEALTHY: f64 = 0.1;

/// See the module's text.
#[derive(Debug)]
pub(super) struct SmartWeightedFailover;

impl Picker for SmartWeightedFailover {
    fn weighs_recovery(&self) -> bool {
        true
    }

    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        let factor = |candidate: &Candidate| match candidate.healthy {
            true => candidate.recovery,
            false => UNHEALTHY,
        };
        candidates.iter().map(|candidate| candidate.weight * factor(candidate)).collect()
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
    fn shares_follow_weight_times_recovery_factor() {
        let mut candidates = by_weight(&[1.0; 4]);
        candidates[1].healthy = false;
        candidates[2].recovery = 0.3;
        candidates[3].recovery = 0.5;
        let expected = [1.0, 0.1, 0.3, 0.5].map(|factor| factor / 1.9);
        Shares::of(&SmartWeightedFailover, &candidates, 300_000).within(0.01, &expected);
    }
}
