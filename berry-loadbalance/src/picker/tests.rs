//! What every picker has to keep, and helpers for what each one promises.

use berry_core::config::snapshot;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::{Candidate, Chance, PickContext, Picker, draw, for_strategy};
use crate::chance::Rotation;

pub(super) const CONTEXT: PickContext =
    PickContext { now_nanos: 0, exploration_ratio: 0.2, non_premium_stability_bonus: 1.1 };

pub(super) fn by_weight(weights: &[f64]) -> Vec<Candidate> {
    let candidate = |(position, weight): (usize, &f64)| Candidate::new(position, *weight, 1);
    weights.iter().enumerate().map(candidate).collect()
}

pub(super) fn with_chance<R>(seed: u64, f: impl FnOnce(&mut Chance<'_>) -> R) -> R {
    f(&mut Chance::new(&mut SmallRng::seed_from_u64(seed), &Rotation::default()))
}

/// How often each candidate was chosen.
pub(super) struct Shares {
    pub(super) counts: Vec<u32>,
    pub(super) order: Vec<usize>,
}

impl Shares {
    pub(super) fn of(picker: &dyn Picker, candidates: &[Candidate], times: u32) -> Self {
        Self::with(picker, &CONTEXT, candidates, times)
    }

    pub(super) fn with(picker: &dyn Picker, context: &PickContext, candidates: &[Candidate], times: u32) -> Self {
        let (mut rng, rotation) = (SmallRng::seed_from_u64(7), Rotation::default());
        let (mut counts, mut order) = (vec![0; candidates.len()], Vec::new());
        for _ in 0..times {
            let chosen = picker.pick(context, candidates, &mut Chance::new(&mut rng, &rotation)).unwrap();
            counts[chosen] += 1;
            if order.len() < 16 {
                order.push(chosen);
            }
        }
        Self { counts, order }
    }

    /// Every share is within `tolerance` of what is expected, as a difference of shares; what is expected to get nothing gets
    /// nothing.
    pub(super) fn within(&self, tolerance: f64, expected: &[f64]) {
        let total: u32 = self.counts.iter().sum();
        for (count, expected) in self.counts.iter().zip(expected) {
            let share = f64::from(*count) / f64::from(total);
            assert!((share - expected).abs() < tolerance, "{:?}, expected {expected}", self.counts);
            assert!(*expected > 0.0 || *count == 0, "{:?}", self.counts);
        }
    }
}

prop_compose! {
    fn any_candidate()(
        weight in 0.001..1_000.0_f64,
        priority in 0_u32..4,
        (premium, healthy, trial) in any::<(bool, bool, bool)>(),
        recovery in prop::sample::select(&[0.3, 0.5, 1.0][..]),
        in_flight in 0_u32..50,
        latency_nanos in prop::option::of(1_u64..10_000_000_000),
        confidence in prop::option::of(0.0..=1.0_f64),
        cost_nanos in prop::option::of(0_i64..1_000),
        affinity in prop::option::of(any::<u32>()),
    ) -> Candidate {
        Candidate {
            position: 0, weight, priority, premium, healthy, trial, recovery, in_flight, latency_nanos, confidence, cost_nanos, affinity,
        }
    }
}

fn any_fleet() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec(any_candidate(), 0..20).prop_map(|mut fleet| {
        // Places in the pool, with gaps where somebody was left out.
        for (i, candidate) in fleet.iter_mut().enumerate() {
            candidate.position = 2 * i + 1;
        }
        fleet
    })
}

fn all_pickers() -> impl Iterator<Item = (&'static str, &'static dyn Picker)> {
    snapshot::Strategy::ALL.iter().map(|(name, strategy)| (*name, for_strategy(*strategy)))
}

proptest! {
    #[test]
    fn the_answer_is_a_candidate_and_there_is_one_whenever_there_are_candidates(fleet in any_fleet(), seed in any::<u64>()) {
        for (name, picker) in all_pickers() {
            let chosen = with_chance(seed, |chance| picker.pick(&CONTEXT, &fleet, chance));
            prop_assert_eq!(chosen.is_none(), fleet.is_empty(), "{}", name);
            prop_assert!(chosen.is_none_or(|chosen| chosen < fleet.len()), "{}", name);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_answer(fleet in any_fleet(), seed in any::<u64>()) {
        for (name, picker) in all_pickers() {
            let pick = || with_chance(seed, |chance| picker.pick(&CONTEXT, &fleet, chance));
            prop_assert_eq!(pick(), pick(), "{}", name);
        }
    }

    #[test]
    fn what_was_drawn_gives_the_same_answer(fleet in any_fleet(), seed in any::<u64>()) {
        for (name, picker) in all_pickers() {
            let (chosen, draws, turn) = with_chance(seed, |chance| {
                let chosen = picker.pick(&CONTEXT, &fleet, chance);
                let (draws, turn) = chance.noted();
                (chosen, draws.to_vec(), turn)
            });
            let mut replay = Chance::replay(&draws, turn);
            prop_assert_eq!(picker.pick(&CONTEXT, &fleet, &mut replay), chosen, "{}", name);
        }
    }

    #[test]
    fn there_is_a_finite_weight_for_each_and_some_weight_for_the_chosen(fleet in any_fleet(), seed in any::<u64>()) {
        for (name, picker) in all_pickers() {
            let weights = picker.weights(&CONTEXT, &fleet);
            prop_assert_eq!(weights.len(), fleet.len());
            prop_assert!(weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0), "{}: {:?}", name, weights);
            if let Some(chosen) = with_chance(seed, |chance| picker.pick(&CONTEXT, &fleet, chance)) {
                prop_assert!(weights[chosen] > 0.0, "{}", name);
            }
        }
    }
}

#[test]
fn a_draw_at_either_end_lands_on_a_weight() {
    for draws in [[0], [u32::MAX]] {
        let mut chance = Chance::replay(&draws, None);
        let hit = draw(&[0.0, 0.1, 0.2, 0.3, 0.0], &mut chance).unwrap();
        assert!((1..=3).contains(&hit), "{hit}");
    }
}

/// Pearson's sum over what was counted and what was expected.
fn chi_square(counts: &[u32], weights: &[f64]) -> f64 {
    let (total, sum) = (f64::from(counts.iter().sum::<u32>()), weights.iter().sum::<f64>());
    let term = |(count, weight): (&u32, &f64)| {
        let expected = total * weight / sum;
        (f64::from(*count) - expected).powi(2) / expected
    };
    counts.iter().zip(weights).map(term).sum()
}

#[test]
fn b26_shares_by_weight_pass_a_chi_square_test_over_twenty_thousand_picks() {
    /// What chance alone exceeds once in a thousand times, with four degrees of freedom (tables of the distribution).
    const CRITICAL: f64 = 18.467;
    let weights = [1.0, 2.0, 3.0, 4.0, 10.0];
    // The second three share by weight where priority, cost or conversation do not decide.
    for name in ["weighted_random", "weighted_failover", "smart_weighted_failover", "failover", "cheapest", "sticky"] {
        let (_, picker) = all_pickers().find(|(known, _)| *known == name).unwrap();
        let counts = Shares::of(picker, &by_weight(&weights), 20_000).counts;
        let sum = chi_square(&counts, &weights);
        assert!(sum < CRITICAL, "{name}: {sum:.1} from {counts:?}");
    }
}

#[test]
fn the_chi_square_test_notices_a_share_that_is_off_by_a_twentieth() {
    assert!(chi_square(&[1_000, 2_000, 3_000, 4_000, 10_000], &[1.0, 2.0, 3.0, 4.0, 10.0]) < 1e-9);
    assert!(chi_square(&[1_000, 2_000, 3_000, 4_500, 9_500], &[1.0, 2.0, 3.0, 4.0, 10.0]) > 18.467);
}
