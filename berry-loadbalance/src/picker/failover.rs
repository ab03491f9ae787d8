//! Lowest priority number first; equal priorities share by weight.
//!
//! For a main backend with spares. All traffic goes to the first tier, so the spares stay cold.

use rand::rngs::SmallRng;
use smallvec::SmallVec;

use super::weighted_random::WeightedRandom;
use super::{Candidate, Picker};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Failover;

impl Picker for Failover {
    fn pick(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Option<usize> {
        let first = candidates.iter().map(|candidate| candidate.priority).min()?;
        let (places, tier): (SmallVec<[usize; 8]>, SmallVec<[Candidate; 8]>) = candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| candidate.priority == first)
            .map(|(i, c)| (i, *c))
            .unzip();
        WeightedRandom.pick(&tier, rng).map(|chosen| places[chosen])
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn only_the_lowest_priority_number_is_chosen_and_shared_by_weight() {
        let candidates = [(2, 9.0), (1, 3.0), (1, 1.0)].map(|(priority, weight)| Candidate {
            position: 0,
            weight,
            priority,
        });
        let mut rng = SmallRng::seed_from_u64(3);
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[Failover.pick(&candidates, &mut rng).unwrap()] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!((7_300..7_700).contains(&counts[1]), "{counts:?}");
    }
}
