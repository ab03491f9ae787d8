//! Probability in proportion to weight.
//!
//! One uniform draw over the sum of weights, walked off in order: `O(n)`, no state. Good for fixed shares (cost, quota). Blind
//! to latency and load. Weights need not add up to one.

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::{Candidate, Picker};

/// See the module's text.
#[derive(Debug)]
pub(super) struct WeightedRandom;

impl Picker for WeightedRandom {
    fn pick(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Option<usize> {
        if candidates.len() < 2 {
            return candidates.len().checked_sub(1);
        }
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let mut point = rng.random::<f64>() * total;
        let hit = candidates.iter().position(|candidate| {
            point -= candidate.weight;
            point < 0.0
        });
        // Rounding can leave a sliver behind the last weight; it belongs to the last.
        hit.or(Some(candidates.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn shares_follow_weights_within_one_percent() {
        let candidates = [(0.5, 0), (0.3, 1), (0.2, 2)].map(|(weight, position)| Candidate {
            position,
            weight,
            priority: 1,
        });
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = [0_u32; 3];
        for _ in 0..1_000_000 {
            counts[WeightedRandom.pick(&candidates, &mut rng).unwrap()] += 1;
        }
        for (count, expected) in counts.iter().zip([500_000.0, 300_000.0, 200_000.0]) {
            assert!((f64::from(*count) - expected).abs() < 10_000.0, "{counts:?}");
        }
    }
}
