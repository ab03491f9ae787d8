//! Strict rotation over the eligible endpoints; weights are ignored.
//!
//! One shared counter: while the eligible set does not change, any `k·n` picks give each of `n` endpoints exactly `k`, whatever
//! the concurrency. Good for equal backends. Where the set changes the rotation goes on from where it was.

use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::SmallRng;

use super::{Candidate, Picker};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    turn: AtomicUsize,
}

impl Picker for RoundRobin {
    fn pick(&self, candidates: &[Candidate], _: &mut SmallRng) -> Option<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        turn.checked_rem(candidates.len())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn counts_are_exact_and_in_order() {
        let candidates = [0, 1, 2].map(|position| Candidate {
            position,
            weight: 1.0 + position as f64,
            priority: 1,
        });
        let (picker, mut rng) = (RoundRobin::default(), SmallRng::seed_from_u64(0));
        let picks: Vec<_> = (0..6).map(|_| picker.pick(&candidates, &mut rng).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
        assert_eq!(picker.pick(&[], &mut rng), None);
    }
}
