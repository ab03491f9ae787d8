//! Lowest expected cost; equal costs share by weight.
//!
//! cost = input tokens × input price + output tokens × output price + request price, in whole nano-USD, with the request's own
//! figures where they are known and 1,000 tokens in and 250 out where they are not ([`crate::cost`]). A backend whose prices
//! nobody states comes after every one whose prices are known: unknown is not free.
//!
//! Use it when price is what counts and all backends are good enough: health, circuits and limits still apply before it. Not for
//! sharing load: the cheapest takes everything until it is full. Prompt caches are not looked at; with long conversations
//! `sticky` may cost less.

use super::{Candidate, Needs, PickContext, Picker, Weights, draw};
use crate::chance::Chance;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Cheapest;

impl Picker for Cheapest {
    fn needs(&self) -> Needs {
        Needs { cost: true, ..Needs::default() }
    }

    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        // Where any cost is known, no unknown one equals the lowest; where none is, all of them do.
        let lowest = candidates.iter().filter_map(|candidate| candidate.cost_nanos).min();
        let weight = |candidate: &Candidate| if candidate.cost_nanos == lowest { candidate.weight } else { 0.0 };
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

    fn priced(costs: &[Option<i64>], weights: &[f64]) -> Vec<Candidate> {
        let mut candidates = by_weight(weights);
        for (candidate, cost) in candidates.iter_mut().zip(costs) {
            candidate.cost_nanos = *cost;
        }
        candidates
    }

    #[test]
    fn the_lowest_cost_wins_and_equal_costs_share_by_weight() {
        let candidates = priced(&[Some(9), Some(2), Some(2)], &[9.0, 3.0, 1.0]);
        Shares::of(&Cheapest, &candidates, 100_000).within(0.01, &[0.0, 0.75, 0.25]);
    }

    #[test]
    fn an_unknown_price_is_not_free() {
        let candidates = priced(&[None, Some(1_000_000), None], &[1.0; 3]);
        assert_eq!(Shares::of(&Cheapest, &candidates, 50).counts, [0, 50, 0]);
        let unknown = priced(&[None, None], &[3.0, 1.0]);
        Shares::of(&Cheapest, &unknown, 100_000).within(0.01, &[0.75, 0.25]);
    }
}
