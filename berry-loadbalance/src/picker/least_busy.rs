//! Power of two choices on latency × load.
//!
//! load = peak EWMA of the time to first token (seconds) × (in flight + 1) / weight. Two distinct candidates are drawn
//! uniformly, the lighter one wins, and a tie goes to the first drawn. One that was never measured is taken to be as fast as the
//! other one of the pair, so that their attempts under way decide.
//!
//! Use it when latencies differ and change, and for self-hosted backends that slow down under load: nobody gets overrun, because
//! no two instances agree on a single best one. Not for strict shares: `weighted_random`.
//! Sources: Mitzenmacher 2001 (power of two choices); Finagle (peak EWMA times pending requests).

use super::{Candidate, Needs, PickContext, Picker, Weights};
use crate::chance::Chance;

/// See the module's text.
#[derive(Debug)]
pub(super) struct LeastBusy;

/// Latency of a pool in which nothing was measured, for the weights that are shown: any number would do.
const UNKNOWN_NANOS: u64 = 1_000_000_000;

fn load(candidate: &Candidate, unmeasured: u64) -> f64 {
    let seconds = candidate.latency_nanos.unwrap_or(unmeasured) as f64 / 1e9;
    seconds * f64::from(candidate.in_flight + 1) / candidate.weight
}

fn lighter(a: &Candidate, b: &Candidate) -> bool {
    let or = |latency: Option<u64>| latency.unwrap_or(UNKNOWN_NANOS);
    load(a, or(b.latency_nanos)) < load(b, or(a.latency_nanos))
}

impl Picker for LeastBusy {
    fn needs(&self) -> Needs {
        Needs { latency: true, ..Needs::default() }
    }

    /// The inverse of the load; an unmeasured one is taken to be as fast as the fastest.
    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        let fastest = candidates.iter().filter_map(|candidate| candidate.latency_nanos).min();
        let unmeasured = fastest.unwrap_or(UNKNOWN_NANOS);
        candidates.iter().map(|candidate| 1.0 / load(candidate, unmeasured)).collect()
    }

    fn pick(&self, _: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        let n = candidates.len();
        if n < 2 {
            return n.checked_sub(1);
        }
        let a = chance.below(n);
        // An offset of 1..n from `a` cannot land on `a` again.
        let b = (a + 1 + chance.below(n - 1)) % n;
        Some(if lighter(&candidates[b], &candidates[a]) { b } else { a })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::{Shares, by_weight};

    fn candidates(list: &[(Option<u64>, u32)]) -> Vec<Candidate> {
        let mut candidates = by_weight(&vec![1.0; list.len()]);
        for (candidate, (latency, in_flight)) in candidates.iter_mut().zip(list) {
            (candidate.latency_nanos, candidate.in_flight) = (*latency, *in_flight);
        }
        candidates
    }

    #[test]
    fn of_two_the_lighter_one_always_wins() {
        let pair = candidates(&[(Some(10), 9), (Some(99), 0)]);
        assert_eq!(Shares::of(&LeastBusy, &pair, 100).counts, [0, 100]);
    }

    #[test]
    fn the_heaviest_of_many_is_never_chosen_and_all_others_are() {
        let many = candidates(&[(Some(10), 0), (Some(10), 1), (Some(10), 2), (Some(10), 3)]);
        let counts = Shares::of(&LeastBusy, &many, 12_000).counts;
        assert_eq!(counts[3], 0);
        // A pair is one of six; the lightest wins three of them, the next two, the next one.
        for (count, expected) in counts.iter().zip([6_000, 4_000, 2_000]) {
            assert!(count.abs_diff(expected) < 300, "{counts:?}");
        }
    }

    #[test]
    fn an_unmeasured_one_competes_by_its_load_alone() {
        assert_eq!(Shares::of(&LeastBusy, &candidates(&[(None, 1), (Some(10), 0)]), 50).counts, [0, 50]);
        assert_eq!(Shares::of(&LeastBusy, &candidates(&[(None, 0), (Some(10), 1)]), 50).counts, [50, 0]);
    }

    #[test]
    fn weight_buys_more_load() {
        let mut pair = candidates(&[(Some(10), 3), (Some(10), 1)]);
        pair[0].weight = 4.0;
        assert_eq!(Shares::of(&LeastBusy, &pair, 50).counts, [50, 0]);
    }
}
