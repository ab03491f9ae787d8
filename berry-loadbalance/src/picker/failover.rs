//! Lowest priority number first; equal priorities share by weight.
//!
//! Only the healthy ones count as long as there is one: an unhealthy main backend is passed over while a spare is healthy. When
//! none is healthy, the first priority of all takes the traffic. Within the tier: `weighted_random`.
//!
//! Use it for a main backend with spares. Not for sharing load: all traffic goes to one tier, and the spares stay cold.

use super::{Candidate, PickContext, Picker, Weights, draw};
use crate::chance::Chance;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Failover;

impl Picker for Failover {
    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        let any_healthy = candidates.iter().any(|candidate| candidate.healthy);
        let counts = |candidate: &&Candidate| candidate.healthy || !any_healthy;
        let tier = candidates.iter().filter(counts).map(|candidate| candidate.priority).min();
        let in_tier = |candidate: &Candidate| counts(&candidate) && Some(candidate.priority) == tier;
        candidates.iter().map(|candidate| if in_tier(candidate) { candidate.weight } else { 0.0 }).collect()
    }

    fn pick(&self, context: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        draw(&self.weights(context, candidates), chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::Shares;

    fn candidates(list: &[(u32, f64, bool)]) -> Vec<Candidate> {
        list.iter()
            .enumerate()
            .map(|(position, (priority, weight, healthy))| Candidate {
                healthy: *healthy,
                ..Candidate::new(position, *weight, *priority)
            })
            .collect()
    }

    #[test]
    fn only_the_first_tier_is_chosen_and_shared_by_weight() {
        let tiers = candidates(&[(2, 9.0, true), (1, 3.0, true), (1, 1.0, true)]);
        Shares::of(&Failover, &tiers, 100_000).within(0.01, &[0.0, 0.75, 0.25]);
    }

    #[test]
    fn an_unhealthy_backend_is_passed_over_while_a_healthy_one_is_left() {
        let tiers = candidates(&[(1, 1.0, false), (2, 1.0, true), (3, 1.0, true)]);
        assert_eq!(Shares::of(&Failover, &tiers, 100).counts, [0, 100, 0]);
    }

    #[test]
    fn when_all_are_unhealthy_the_first_priority_takes_it() {
        let tiers = candidates(&[(2, 1.0, false), (1, 1.0, false)]);
        assert_eq!(Shares::of(&Failover, &tiers, 100).counts, [0, 100]);
    }
}
