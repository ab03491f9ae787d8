//! The record of one choice: everything that it depended on, so that it can be made again from the record alone.
//!
//! [`Decision`] is plain data and cheap enough to be kept for every request of a bounded ring; [`Decision::recompute`] makes the
//! choice again. In JSON, a draw is a whole number below 2³² (as a share: divide by that); weights are those of the formula in
//! the strategy's module.

use berry_core::config::snapshot::Strategy;
use berry_core::id::{ModelId, ProviderId, UpstreamModel};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::chance::Chance;
use crate::eligibility::{Exclusion, Rescue};
use crate::picker::{self, Candidate, PickContext, Weights};
use crate::pool::{Field, Pool};

/// One choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The strategy that chose.
    pub strategy: Strategy,
    /// What it looked at beside the candidates.
    pub context: PickContext,
    /// What it chose among, in file order.
    pub candidates: SmallVec<[Candidate; 8]>,
    /// Who was left out: place in the pool and reason.
    pub excluded: SmallVec<[(usize, Exclusion); 8]>,
    /// What had to be given up to have candidates at all.
    pub rescue: Option<Rescue>,
    /// What was drawn, in order.
    pub draws: SmallVec<[u32; 4]>,
    /// Where the rotation stood, for a strategy that takes turns.
    pub turn: Option<usize>,
    /// Index of the chosen one in `candidates`.
    pub chosen: Option<usize>,
}

impl Decision {
    pub(crate) fn new(
        pool: &Pool,
        context: PickContext,
        field: Field,
        chosen: Option<usize>,
        chance: &Chance<'_>,
    ) -> Self {
        let (draws, turn) = chance.noted();
        Self {
            strategy: pool.model().strategy,
            context,
            candidates: field.candidates.iter().copied().collect(),
            excluded: field.skipped.iter().map(|skip| (skip.position, skip.reason)).collect(),
            rescue: field.rescue,
            draws: draws.into(),
            turn,
            chosen,
        }
    }

    /// Makes the choice again.
    pub fn recompute(&self) -> Option<usize> {
        let mut chance = Chance::replay(&self.draws, self.turn);
        picker::for_strategy(self.strategy).pick(&self.context, &self.candidates, &mut chance)
    }

    /// The weight of each candidate in the choice.
    pub fn weights(&self) -> Weights {
        picker::for_strategy(self.strategy).weights(&self.context, &self.candidates)
    }

    /// With names, for people and for JSON. `pool` is the one that decided.
    pub fn named(&self, pool: &Pool) -> Explanation {
        let weights = self.weights();
        let name = |position: usize| {
            let id = &pool.endpoints()[position].backend().id;
            (id.provider.clone(), id.upstream.clone())
        };
        Explanation {
            model: pool.model().id.clone(),
            strategy: self.strategy.as_str().to_owned(),
            context: self.context,
            candidates: self
                .candidates
                .iter()
                .zip(weights)
                .enumerate()
                .map(|(i, (terms, weight))| {
                    let (provider, model) = name(terms.position);
                    ExplainedCandidate {
                        provider,
                        model,
                        chosen: self.chosen == Some(i),
                        effective_weight: weight,
                        terms: *terms,
                    }
                })
                .collect(),
            excluded: self
                .excluded
                .iter()
                .map(|(position, reason)| {
                    let (provider, model) = name(*position);
                    ExplainedExclusion { provider, model, reason: *reason, message: reason.as_str().to_owned() }
                })
                .collect(),
            rescue: self.rescue,
            draws: self.draws.to_vec(),
            turn: self.turn,
            chosen: self.chosen,
        }
    }
}

/// A choice with names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Table key of the model.
    pub model: ModelId,
    /// Name of the strategy.
    pub strategy: String,
    /// What it looked at beside the candidates.
    pub context: PickContext,
    /// What it chose among.
    pub candidates: Vec<ExplainedCandidate>,
    /// Who was left out.
    pub excluded: Vec<ExplainedExclusion>,
    /// What had to be given up to have candidates at all.
    pub rescue: Option<Rescue>,
    /// What was drawn, in order; each below 2³².
    pub draws: Vec<u32>,
    /// The position that had the turn before, for a strategy that takes turns.
    pub turn: Option<usize>,
    /// Index of the chosen one in `candidates`.
    pub chosen: Option<usize>,
}

/// A candidate with every term of its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedCandidate {
    /// Whose.
    pub provider: ProviderId,
    /// Its name there.
    pub model: UpstreamModel,
    /// Whether it was chosen.
    pub chosen: bool,
    /// Its weight in the choice.
    pub effective_weight: f64,
    /// What the choice knew of it.
    pub terms: Candidate,
}

/// Somebody who was left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedExclusion {
    /// Whose.
    pub provider: ProviderId,
    /// Its name there.
    pub model: UpstreamModel,
    /// Why, as a code.
    pub reason: Exclusion,
    /// Why, in a few words.
    pub message: String,
}

/// What is needed of an explanation to make its choice again; reads what [`Explanation`] writes.
#[derive(Clone, Debug, Deserialize)]
pub struct Replay {
    strategy: String,
    context: PickContext,
    candidates: Vec<ReplayCandidate>,
    draws: Vec<u32>,
    turn: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
struct ReplayCandidate {
    terms: Candidate,
}

impl Replay {
    /// Makes the choice again; `None` also for a strategy that is not known.
    pub fn recompute(&self) -> Option<usize> {
        let (_, strategy) = Strategy::ALL.iter().find(|(name, _)| *name == self.strategy)?;
        let candidates: Vec<Candidate> = self.candidates.iter().map(|candidate| candidate.terms).collect();
        let mut chance = Chance::replay(&self.draws, self.turn);
        picker::for_strategy(*strategy).pick(&self.context, &candidates, &mut chance)
    }
}

#[cfg(test)]
mod tests;
