//! The strategies, one small file each.
//!
//! A picker sees candidates that are already eligible, each a plain copy of what a choice may depend on. Feedback arrives
//! through the lease, never through the picker; a picker has no state of its own. What is random, and whose turn it is, it asks
//! of [`Chance`], which notes the answers, so that every choice can be made again from its record.
//!
//! To add a strategy: write its file with a [`Picker`], name it in `berry_core::config::snapshot::Strategy`, and give it a line
//! in [`for_strategy`]. The harness in `tests.rs` runs over it from then on. All there is to the simplest one:
//!
//! ```
//! use berry_loadbalance::chance::Chance;
//! use berry_loadbalance::picker::{Candidate, PickContext, Picker};
//!
//! #[derive(Debug)]
//! struct LeastLoaded;
//!
//! impl Picker for LeastLoaded {
//!     fn pick(&self, _: &PickContext, candidates: &[Candidate], _: &mut Chance<'_>) -> Option<usize> {
//!         (0..candidates.len()).min_by_key(|i| candidates[*i].in_flight)
//!     }
//! }
//! ```

mod cheapest;
mod failover;
mod least_busy;
mod least_latency;
mod random;
mod round_robin;
mod smart_ai;
mod smart_weighted_failover;
mod sticky;
#[cfg(test)]
mod tests;
mod weighted_failover;
mod weighted_random;

use berry_core::config::snapshot::{SmartAi, Strategy};
use berry_core::time::Instant;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::chance::Chance;

/// What a picker may know of an endpoint. Fields that its [`Needs`] do not name are `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Place in the pool.
    pub position: usize,
    /// Configured share; finite and above 0.
    pub weight: f64,
    /// Lower is tried first.
    pub priority: u32,
    /// Whether it has the tag `premium`.
    pub premium: bool,
    /// Whether the last probe and the last attempt went well.
    pub healthy: bool,
    /// Whether it would be the one trial of its half-open circuit.
    pub trial: bool,
    /// Share of its traffic that its circuit allows: 1, or 0.3 and 0.5 while it recovers. A trial counts as 0.3.
    pub recovery: f64,
    /// Attempts under way.
    pub in_flight: u32,
    /// Time to first token as it is now, nanoseconds; `None` also when it was never measured.
    pub latency_nanos: Option<u64>,
    /// Confidence, 0 to 1, after time decay.
    pub confidence: Option<f64>,
    /// Expected cost of the request, nano-USD; `None` also when no price is stated.
    pub cost_nanos: Option<i64>,
    /// A number below 2³² that belongs to this endpoint and the conversation; `None` also without a conversation.
    pub affinity: Option<u32>,
}

impl Candidate {
    /// A healthy candidate of which nothing more is known.
    pub const fn new(position: usize, weight: f64, priority: u32) -> Self {
        Self {
            position,
            weight,
            priority,
            premium: false,
            healthy: true,
            trial: false,
            recovery: 1.0,
            in_flight: 0,
            latency_nanos: None,
            confidence: None,
            cost_nanos: None,
            affinity: None,
        }
    }
}

/// What a picker wants to know of each candidate beside what is cheap to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// [`Candidate::latency_nanos`].
    pub latency: bool,
    /// [`Candidate::confidence`].
    pub confidence: bool,
    /// [`Candidate::cost_nanos`].
    pub cost: bool,
    /// [`Candidate::affinity`].
    pub affinity: bool,
}

impl Needs {
    /// Everything, for reports.
    pub const ALL: Self = Self { latency: true, confidence: true, cost: true, affinity: true };
}

/// What a choice depends on beside its candidates and chance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PickContext {
    /// The moment of the choice, nanoseconds since the start.
    pub now_nanos: u64,
    /// `exploration_ratio` of `[settings.smart_ai]`.
    pub exploration_ratio: f64,
    /// `non_premium_stability_bonus` of `[settings.smart_ai]`.
    pub non_premium_stability_bonus: f64,
}

impl PickContext {
    /// With the configured figures.
    pub fn new(now: Instant, settings: &SmartAi) -> Self {
        Self {
            now_nanos: now.as_nanos(),
            exploration_ratio: settings.exploration_ratio,
            non_premium_stability_bonus: settings.non_premium_stability_bonus,
        }
    }
}

/// One number for each candidate.
pub type Weights = SmallVec<[f64; 16]>;

/// Chooses among eligible endpoints.
pub trait Picker: Send + Sync + std::fmt::Debug {
    /// What it wants to know of the candidates.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether [`Candidate::recovery`] is part of its weights, so that a recovering endpoint is always a candidate. Otherwise
    /// it is one with that probability.
    fn weighs_recovery(&self) -> bool {
        false
    }

    /// The weight that each candidate has in its choice, in their order: what reports show.
    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        candidates.iter().map(|candidate| candidate.weight).collect()
    }

    /// Index into `candidates`; `None` only when there are none. The same context, candidates and chance give the same answer.
    fn pick(&self, context: &PickContext, candidates: &[Candidate], chance: &mut Chance<'_>) -> Option<usize>;
}

/// The picker of a strategy.
pub fn for_strategy(strategy: Strategy) -> &'static dyn Picker {
    match strategy {
        Strategy::WeightedRandom => &weighted_random::WeightedRandom,
        Strategy::RoundRobin => &round_robin::RoundRobin,
        Strategy::LeastLatency => &least_latency::LeastLatency,
        Strategy::Failover => &failover::Failover,
        Strategy::Random => &random::Random,
        Strategy::WeightedFailover => &weighted_failover::WeightedFailover,
        Strategy::SmartWeightedFailover => &smart_weighted_failover::SmartWeightedFailover,
        Strategy::SmartAi => &smart_ai::SmartAi,
        Strategy::LeastBusy => &least_busy::LeastBusy,
        Strategy::Cheapest => &cheapest::Cheapest,
        Strategy::Sticky => &sticky::Sticky,
    }
}

/// An index in proportion to its weight: one draw over the sum, walked off in order. Weights of 0 are never drawn, unless there
/// is nothing else.
fn draw(weights: &[f64], chance: &mut Chance<'_>) -> Option<usize> {
    if weights.len() < 2 {
        return weights.len().checked_sub(1);
    }
    let total: f64 = weights.iter().sum();
    let mut point = chance.unit() * total;
    let hit = weights.iter().position(|weight| {
        point -= weight;
        point < 0.0
    });
    // Rounding can leave a sliver behind the last weight; it belongs to the last one that has any.
    hit.or_else(|| weights.iter().rposition(|weight| *weight > 0.0)).or(Some(weights.len() - 1))
}

/// One of the indices at which `is_best` holds, each equally likely. Draws only when there are several.
fn any_of(len: usize, is_best: impl Fn(usize) -> bool, chance: &mut Chance<'_>) -> Option<usize> {
    let (mut first, mut count) = (None, 0);
    for i in (0..len).filter(|i| is_best(*i)) {
        first = first.or(Some(i));
        count += 1;
    }
    if count < 2 {
        return first;
    }
    let skip = chance.below(count);
    (0..len).filter(|i| is_best(*i)).nth(skip)
}
