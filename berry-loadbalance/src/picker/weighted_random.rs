//! Probability in proportion to weight.
//!
//! P(i) = wᵢ / Σw. One uniform draw over the sum, walked off in order: O(n), no state. Weights need not add up to one, and
//! removing an endpoint leaves the ratios of the others as they are.
//!
//! Use it for fixed shares (contracts, quotas, canaries). Not when latency, load or health should matter: it is blind to them.

use super::{Candidate, PickContext, Picker, draw};
use crate::chance::Chance;

/// See the module's text.
#[derive(Debug)]
pub(super) struct WeightedRandom;

impl Picker for WeightedRandom {
    fn pick(&self, context: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        draw(&self.weights(context, candidates), chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::{Shares, by_weight};

    #[test]
    fn shares_follow_weights_within_one_percent() {
        let shares = Shares::of(&WeightedRandom, &by_weight(&[0.5, 0.3, 0.2]), 1_000_000);
        shares.within(0.01, &[0.5, 0.3, 0.2]);
    }

    #[test]
    fn removing_one_leaves_the_ratio_of_the_others() {
        let shares = Shares::of(&WeightedRandom, &by_weight(&[0.3, 0.2]), 200_000);
        shares.within(0.01, &[0.6, 0.4]);
    }
}
