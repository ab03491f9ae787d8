//! Confidence, cost and exploration: for small traffic and mixed prices.
//!
//! Each endpoint has a confidence c, learnt from tens of requests rather than thousands ([`crate::confidence`]).
//!
//! effective weight = weight × g(c) × bonus
//! g(c) = min(1, 0.3 + 0.7·√c) for c ≥ 0.1, else 0.1
//! bonus = `non_premium_stability_bonus` for an endpoint without the tag `premium` and with c > 0.95, else 1
//!
//! With probability 1 − `exploration_ratio` it *exploits*. Considered are the confident ones (c ≥ 0.6) without the tag
//! `premium`; the confident premium ones only when there is none of those; everybody only when nobody is confident. Of the
//! considered ones, the cheapest when the prices of all of them are known, and then the highest effective weight; exact ties are
//! drawn. Otherwise it *explores*: `weighted_random` by effective weight over everybody but the one that it would exploit.
//!
//! Endpoints whose circuit is open are no candidates, so they are never explored; a recovering one is a candidate with the
//! probability of its stage.
//!
//! Use it for a few requests an hour up to a few a second, with a cheap and a dear way to get an answer. Not for exact shares, and
//! not for high traffic over equal backends: exploitation sends most of it to one.
//! Source: an ε-greedy bandit (Sutton, Barto, chapter 2) with the house's own value function.

use super::{Candidate, Needs, PickContext, Picker, Weights, any_of, draw};
use crate::chance::Chance;

/// From here on an endpoint is trusted with ordinary traffic.
const CONFIDENT: f64 = 0.6;
/// From here on it counts as proven.
const PROVEN: f64 = 0.95;
/// Below this there is next to no trust left.
const DOUBTFUL: f64 = 0.1;
/// What a doubtful one keeps of its weight, so that it is still looked at.
const DOUBTFUL_FACTOR: f64 = 0.1;

/// See the module's text.
#[derive(Debug)]
pub(super) struct SmartAi;

fn confidence(candidate: &Candidate) -> f64 {
    candidate.confidence.unwrap_or(1.0)
}

/// g(c).
fn trust(confidence: f64) -> f64 {
    if confidence < DOUBTFUL {
        return DOUBTFUL_FACTOR;
    }
    (0.3 + 0.7 * confidence.sqrt()).min(1.0)
}

fn effective_weight(context: &PickContext, candidate: &Candidate) -> f64 {
    let confidence = confidence(candidate);
    let bonus = match !candidate.premium && confidence > PROVEN {
        true => context.non_premium_stability_bonus,
        false => 1.0,
    };
    candidate.weight * trust(confidence) * bonus
}

/// Whom to exploit first: confident ones without the tag `premium`, then confident ones, then anybody.
fn tier(candidate: &Candidate) -> u8 {
    match (confidence(candidate) >= CONFIDENT, candidate.premium) {
        (true, false) => 0,
        (true, true) => 1,
        (false, _) => 2,
    }
}

/// What the one to exploit looks like.
struct Lead {
    tier: u8,
    /// Of everybody in the tier.
    heaviest: f64,
    /// `None` when somebody in the tier has no known cost.
    lowest: Option<i64>,
    /// Of those at the lowest cost.
    heaviest_at_lowest: f64,
}

/// One pass: with a thousand candidates every further one shows.
fn lead(candidates: &[Candidate], weights: &[f64]) -> Lead {
    let mut lead = Lead { tier: u8::MAX, heaviest: 0.0, lowest: None, heaviest_at_lowest: 0.0 };
    for (candidate, weight) in candidates.iter().zip(weights) {
        let (tier, cost) = (tier(candidate), candidate.cost_nanos);
        if tier > lead.tier {
            continue;
        }
        if tier < lead.tier {
            lead = Lead { tier, heaviest: *weight, lowest: cost, heaviest_at_lowest: *weight };
            continue;
        }
        lead.heaviest = lead.heaviest.max(*weight);
        if cost == lead.lowest {
            lead.heaviest_at_lowest = lead.heaviest_at_lowest.max(*weight);
        } else if cost < lead.lowest {
            // `None` is below every cost, and stays: one unknown cost makes them all incomparable.
            (lead.lowest, lead.heaviest_at_lowest) = (cost, *weight);
        }
    }
    lead
}

/// The one to exploit.
fn best(candidates: &[Candidate], weights: &[f64], chance: &mut Chance<'_>) -> Option<usize> {
    let lead = lead(candidates, weights);
    let least = if lead.lowest.is_some() { lead.heaviest_at_lowest } else { lead.heaviest };
    let is_best = |i: usize| {
        let candidate = &candidates[i];
        weights[i] >= least
            && tier(candidate) == lead.tier
            && (lead.lowest.is_none() || candidate.cost_nanos == lead.lowest)
    };
    any_of(candidates.len(), is_best, chance)
}

impl Picker for SmartAi {
    fn needs(&self) -> Needs {
        Needs { confidence: true, cost: true, ..Needs::default() }
    }

    fn weights(&self, context: &PickContext, candidates: &[Candidate]) -> Weights {
        candidates.iter().map(|candidate| effective_weight(context, candidate)).collect()
    }

    fn pick(&self, context: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        let mut weights = self.weights(context, candidates);
        let best = best(candidates, &weights, chance)?;
        if candidates.len() < 2 || chance.unit() >= context.exploration_ratio {
            return Some(best);
        }
        weights[best] = 0.0;
        draw(&weights, chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::tests::{CONTEXT, Shares, by_weight};

    fn fleet(list: &[(f64, f64, bool)]) -> Vec<Candidate> {
        let mut candidates = by_weight(&list.iter().map(|(weight, ..)| *weight).collect::<Vec<_>>());
        for (candidate, (_, confidence, premium)) in candidates.iter_mut().zip(list) {
            (candidate.confidence, candidate.premium) = (Some(*confidence), *premium);
        }
        candidates
    }

    #[test]
    fn effective_weights_follow_the_formula() {
        for (confidence, premium, expected) in [
            (1.0, false, 2.0 * 1.1),
            (1.0, true, 2.0),
            (0.95, false, 2.0 * (0.3 + 0.7 * 0.95_f64.sqrt())),
            (0.8, false, 2.0 * (0.3 + 0.7 * 0.8_f64.sqrt())),
            (0.1, false, 2.0 * (0.3 + 0.7 * 0.1_f64.sqrt())),
            (0.099, false, 0.2),
            (0.05, true, 0.2),
        ] {
            let weight = SmartAi.weights(&CONTEXT, &fleet(&[(2.0, confidence, premium)]))[0];
            assert!((weight - expected).abs() < 1e-12, "{confidence} {premium}: {weight}");
        }
    }

    #[test]
    fn with_cheap_and_premium_both_healthy_four_fifths_go_cheap() {
        let shares = Shares::of(&SmartAi, &fleet(&[(1.0, 0.9, false), (9.0, 1.0, true)]), 100_000);
        shares.within(0.01, &[0.8, 0.2]);
    }

    #[test]
    fn premium_takes_over_when_no_cheap_one_is_confident() {
        let shares = |cheap| Shares::of(&SmartAi, &fleet(&[(1.0, cheap, false), (9.0, 1.0, true)]), 100_000);
        shares(0.6).within(0.01, &[0.8, 0.2]);
        shares(0.59).within(0.01, &[0.2, 0.8]);
    }

    #[test]
    fn when_nobody_is_confident_the_highest_effective_weight_wins() {
        let shares = Shares::of(&SmartAi, &fleet(&[(1.0, 0.2, false), (1.0, 0.5, true)]), 100_000);
        shares.within(0.01, &[0.2, 0.8]);
    }

    #[test]
    fn the_cheapest_of_the_confident_wins_when_all_their_prices_are_known() {
        let mut candidates = fleet(&[(9.0, 1.0, false), (1.0, 0.7, false), (1.0, 0.3, false)]);
        candidates[0].cost_nanos = Some(20);
        candidates[1].cost_nanos = Some(10);
        candidates[2].cost_nanos = Some(1);
        let exploiting = PickContext { exploration_ratio: 0.0, ..CONTEXT };
        assert_eq!(Shares::with(&SmartAi, &exploiting, &candidates, 100).counts, [0, 100, 0]);
        candidates[1].cost_nanos = None;
        assert_eq!(Shares::with(&SmartAi, &exploiting, &candidates, 100).counts, [100, 0, 0]);
    }

    #[test]
    fn exploration_goes_to_the_others_by_effective_weight() {
        let exploring = PickContext { exploration_ratio: 1.0, ..CONTEXT };
        let candidates = fleet(&[(5.0, 0.9, false), (3.0, 0.8, false), (1.0, 0.8, false)]);
        Shares::with(&SmartAi, &exploring, &candidates, 100_000).within(0.01, &[0.0, 0.75, 0.25]);
    }

    #[test]
    fn equals_share_what_is_exploited() {
        let counts = Shares::of(&SmartAi, &fleet(&[(1.0, 1.0, false); 2]), 100_000).counts;
        assert!(counts[0].abs_diff(counts[1]) < 1_500, "{counts:?}");
    }
}
