//! Consistent hashing of the conversation, with bounded load, so that upstream prompt caches hit.
//!
//! Weighted rendezvous hashing: endpoint i scores `−wᵢ / ln u`, where u in (0, 1) is the hash of conversation and endpoint; the
//! highest score wins. Each endpoint gets its share of conversations by weight; when one goes, only its own conversations move,
//! each to where it would have gone next; when one comes, only those move that it now wins.
//!
//! Bounded load: an endpoint with more attempts under way than `1.25 · (all of them + 1) · wᵢ/Σw`, and more than 8, is passed
//! over for the next score. Below 8 nothing is overloaded, and moving a conversation costs its cache.
//!
//! A request without a conversation is drawn by weight.
//!
//! Use it where prompts are long and repeated and the upstreams cache them. Not where conversations are short, or one client
//! makes most of the traffic with one prefix: the bound then spreads it, but the cache is what one pays for it with.
//! Sources: Thaler, Ravishankar 1998 (rendezvous); Schindelhauer, Schomaker 2005 (weights); Mirrokni, Thorup, Zadimoghaddam
//! 2018 (bounded loads).

use super::{Candidate, Needs, PickContext, Picker, draw};
use crate::chance::Chance;

/// How much more than its share an endpoint may have under way.
const OVERLOAD: f64 = 1.25;
/// What is never an overload.
const ALWAYS_FITS: u32 = 8;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Sticky;

/// A hash of 2³² values as a number strictly between 0 and 1, so that its logarithm is finite and below 0.
fn open_unit(hash: u32) -> f64 {
    (f64::from(hash) + 0.5) / 4_294_967_296.0
}

fn score(candidate: &Candidate, hash: u32) -> f64 {
    -candidate.weight / open_unit(hash).ln()
}

/// A bound on the score that needs no logarithm, since ln u ≤ u − 1. Few candidates reach the best score so far, so few
/// logarithms are computed; the bound is rounded up a little, so that it never hides a tie.
fn at_most(candidate: &Candidate, hash: u32) -> f64 {
    candidate.weight / (1.0 - open_unit(hash)) * (1.0 + 1e-9)
}

impl Picker for Sticky {
    fn needs(&self) -> Needs {
        Needs { affinity: true, ..Needs::default() }
    }

    fn pick(&self, context: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize> {
        let under_way: u32 = candidates.iter().map(|candidate| candidate.in_flight).sum();
        let weight: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        let fits = |candidate: &Candidate| {
            let bound = OVERLOAD * f64::from(under_way + 1) * candidate.weight / weight;
            candidate.in_flight < ALWAYS_FITS || f64::from(candidate.in_flight) < bound
        };
        // Not everybody can be over the bound, which is more than the mean; if rounding says so, the score decides.
        let mut best: Option<(bool, f64, usize)> = None;
        for (i, candidate) in candidates.iter().enumerate() {
            let Some(hash) = candidate.affinity else { continue };
            let fits = fits(candidate);
            let better = best.is_none_or(|(best_fits, best_score, _)| {
                (fits && !best_fits)
                    || (fits == best_fits
                        && at_most(candidate, hash) > best_score
                        && score(candidate, hash) > best_score)
            });
            if better {
                best = Some((fits, score(candidate, hash), i));
            }
        }
        best.map(|(.., i)| i).or_else(|| draw(&self.weights(context, candidates), chance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::draw_of;
    use crate::picker::tests::{CONTEXT, Shares, by_weight, with_chance};

    const CONVERSATIONS: u64 = 20_000;

    fn fleet(weights: &[f64], conversation: u64) -> Vec<Candidate> {
        let mut candidates = by_weight(weights);
        for candidate in &mut candidates {
            let backend = crate::affinity::conversation_key(&[&[candidate.position as u8]]);
            candidate.affinity =
                Some(draw_of(crate::affinity::conversation_key(&[&conversation.to_le_bytes()]), backend));
        }
        candidates
    }

    fn pick(candidates: &[Candidate]) -> usize {
        let place = with_chance(0, |chance| Sticky.pick(&CONTEXT, candidates, chance).unwrap());
        candidates[place].position
    }

    #[test]
    fn conversations_are_shared_by_weight() {
        let weights = [4.0, 3.0, 2.0, 1.0];
        let mut counts = [0_u32; 4];
        for conversation in 0..CONVERSATIONS {
            counts[pick(&fleet(&weights, conversation))] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let share = f64::from(*count) / CONVERSATIONS as f64;
            assert!((share - weight / 10.0).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn when_one_goes_only_its_own_conversations_move() {
        for conversation in 0..CONVERSATIONS {
            let all = fleet(&[1.0; 5], conversation);
            let before = pick(&all);
            let left: Vec<_> = all.into_iter().filter(|candidate| candidate.position != 2).collect();
            let after = pick(&left);
            assert!(before == 2 || before == after, "{before} to {after}");
        }
    }

    #[test]
    fn when_one_comes_conversations_move_only_to_it() {
        let mut moved = 0;
        for conversation in 0..CONVERSATIONS {
            let more = fleet(&[1.0; 5], conversation);
            let (before, after) = (pick(&more[..4]), pick(&more));
            assert!(after == 4 || before == after);
            moved += u64::from(before != after);
        }
        assert!(moved.abs_diff(CONVERSATIONS / 5) < CONVERSATIONS / 50, "{moved}");
    }

    #[test]
    fn nobody_gets_more_than_its_bound_even_if_all_share_one_conversation() {
        let mut candidates = fleet(&[1.0; 4], 7);
        for _ in 0..400 {
            let chosen = pick(&candidates);
            candidates[chosen].in_flight += 1;
        }
        let most = candidates.iter().map(|candidate| candidate.in_flight).max().unwrap();
        assert!(most <= 126, "{most} of 400 over 4");
    }

    #[test]
    fn small_loads_stay_together() {
        let mut candidates = fleet(&[1.0; 4], 7);
        let home = pick(&candidates);
        for _ in 0..8 {
            let chosen = pick(&candidates);
            assert_eq!(chosen, home);
            candidates[chosen].in_flight += 1;
        }
    }

    #[test]
    fn without_a_conversation_weight_decides() {
        Shares::of(&Sticky, &by_weight(&[3.0, 1.0]), 100_000).within(0.01, &[0.75, 0.25]);
    }
}
