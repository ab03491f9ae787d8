//! Uniform choice; weights are ignored.
//!
//! P(i) = 1/n. Use it for tests and for backends that are all alike. `round_robin` spreads a small number of requests more
//! evenly, `least_busy` looks at what the backends are doing.

use super::{Candidate, PickContext, Picker, Weights};
use crate::chance::Chance;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Random;

impl Picker for Random {
    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        candidates.iter().map(|_| 1.0).collect()
    }

    fn pick(&self, _: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        (!candidates.is_empty()).then(|| chance.below(candidates.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::{Shares, by_weight};

    #[test]
    fn everybody_has_the_same_share_whatever_the_weights() {
        Shares::of(&Random, &by_weight(&[9.0, 1.0, 1.0]), 300_000).within(0.01, &[1.0 / 3.0; 3]);
    }
}
