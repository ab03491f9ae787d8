//! Lowest peak-EWMA of the time to first token.
//!
//! An endpoint that was never measured comes first (of several, the one with the fewest attempts under way); then the lowest
//! figure wins. Figures fade with time ([`crate::signal`]), so a slow endpoint is seen again: once in about `3·ln(slow/fast)`
//! seconds, which is 12 s for 300 ms against 5 ms, and by one request, since a figure does not fade while an attempt waits for its
//! first token there. Ties, which only unmeasured or equally faded ones have, are drawn.
//!
//! Use it when speed is what counts and traffic is steady enough to keep the figures fresh, about one request a second and more.
//! Not for shares (the fastest takes nearly all), not against overload (it looks at load only through latency: `least_busy`),
//! not for a few requests an hour (every figure is stale then: `smart_ai`).
//! Source: peak EWMA of Finagle, with time to first token in the place of response time, which answers' lengths would dominate.

use super::{Candidate, Needs, PickContext, Picker, Weights, any_of};
use crate::chance::Chance;

/// See the module's text.
#[derive(Debug)]
pub(super) struct LeastLatency;

/// Smaller is better: unmeasured ones by load, then the others by latency, which nobody measures in centuries.
fn rank(candidate: &Candidate) -> u64 {
    match candidate.latency_nanos {
        None => u64::from(candidate.in_flight),
        Some(nanos) => nanos | 1 << 63,
    }
}

impl Picker for LeastLatency {
    fn needs(&self) -> Needs {
        Needs { latency: true, ..Needs::default() }
    }

    /// 1 for the one that it would choose, 0 for the others.
    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        let best = candidates.iter().map(rank).min();
        let weight = |candidate| if Some(rank(candidate)) == best { 1.0 } else { 0.0 };
        candidates.iter().map(weight).collect()
    }

    fn pick(&self, _: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        let best = candidates.iter().map(rank).min()?;
        any_of(candidates.len(), |i| rank(&candidates[i]) == best, chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::{Shares, by_weight};

    fn measured(latencies: &[Option<u64>]) -> Vec<Candidate> {
        let mut candidates = by_weight(&vec![1.0; latencies.len()]);
        for (candidate, latency) in candidates.iter_mut().zip(latencies) {
            candidate.latency_nanos = *latency;
        }
        candidates
    }

    #[test]
    fn the_lowest_latency_wins() {
        let candidates = measured(&[Some(30), Some(10), Some(20)]);
        assert_eq!(Shares::of(&LeastLatency, &candidates, 10).counts, [0, 10, 0]);
    }

    #[test]
    fn an_unmeasured_one_is_tried_first_and_several_share_the_burst_of_a_cold_start() {
        let mut candidates = measured(&[Some(1), None, None]);
        let counts = Shares::of(&LeastLatency, &candidates, 1_000).counts;
        assert!(counts[0] == 0 && counts[1] > 400 && counts[2] > 400, "{counts:?}");
        candidates[1].in_flight = 1;
        assert_eq!(Shares::of(&LeastLatency, &candidates, 10).counts, [0, 0, 10]);
    }
}
