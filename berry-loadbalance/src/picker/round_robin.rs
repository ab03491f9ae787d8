//! Strict rotation over the eligible endpoints in file order; weights are ignored.
//!
//! Next = the first candidate behind the one that had the last turn, else the first of all. Turns are taken one after another
//! whatever the concurrency, so while the eligible set does not change any k·n choices give each of n endpoints exactly k; where
//! it changes, the rotation goes on behind the last one.
//!
//! Use it for equal backends, and where exact counts matter. Not when they differ in size or speed: a slow one gets as many
//! requests as a fast one, and they pile up there.

use super::{Candidate, PickContext, Picker, Weights};
use crate::chance::Chance;

/// See the module's text.
#[derive(Debug)]
pub(super) struct RoundRobin;

impl Picker for RoundRobin {
    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        candidates.iter().map(|_| 1.0).collect()
    }

    fn pick(&self, _: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        let first = candidates.first()?.position;
        let next = |last: Option<usize>| {
            let behind = |candidate: &&Candidate| last.is_some_and(|last| candidate.position > last);
            candidates.iter().find(behind).map_or(first, |candidate| candidate.position)
        };
        let position = chance.rotate(next);
        candidates.iter().position(|candidate| candidate.position == position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::{CONTEXT, Shares, by_weight, with_chance};

    #[test]
    fn counts_are_exact_and_in_order() {
        let shares = Shares::of(&RoundRobin, &by_weight(&[1.0, 2.0, 3.0]), 999);
        assert_eq!(shares.counts, [333; 3]);
        assert_eq!(shares.order[..6], [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn the_rotation_goes_on_when_the_set_changes() {
        let all = by_weight(&[1.0; 4]);
        let without = |gone: usize| all.iter().copied().filter(|c| c.position != gone).collect::<Vec<_>>();
        with_chance(1, |chance| {
            let mut turn =
                |candidates: &[Candidate]| candidates[RoundRobin.pick(&CONTEXT, candidates, chance).unwrap()].position;
            assert_eq!((turn(&all), turn(&all)), (0, 1));
            assert_eq!((turn(&without(2)), turn(&without(2))), (3, 0));
            assert_eq!(turn(&without(0)), 1);
            assert_eq!(turn(&all), 2);
        });
    }

    #[test]
    fn counts_stay_exact_when_many_choose_at_once() {
        let candidates = by_weight(&[1.0; 4]);
        let rotation = crate::chance::Rotation::default();
        let count = |seed: u64| {
            let mut rng = <rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(seed);
            let mut counts = [0_u32; 4];
            for _ in 0..1_000 {
                counts[RoundRobin.pick(&CONTEXT, &candidates, &mut Chance::new(&mut rng, &rotation)).unwrap()] += 1;
            }
            counts
        };
        let counts: Vec<[u32; 4]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || count(seed))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for position in 0..4 {
            assert_eq!(counts.iter().map(|counts| counts[position]).sum::<u32>(), 1_000);
        }
    }
}
