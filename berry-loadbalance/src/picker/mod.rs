//! The strategies, one small file each.
//!
//! A picker sees candidates that are already eligible, each a plain copy of what a choice may depend on. Feedback arrives
//! through the lease, never through the picker. To add a strategy: write its file with a [`Picker`], name it in
//! `berry_core::config::snapshot::Strategy`, and give it a line in [`for_strategy`].

mod failover;
mod random;
mod round_robin;
mod weighted_random;

use berry_core::config::snapshot::Strategy;
use rand::rngs::SmallRng;

/// What a picker may know of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Place in the pool.
    pub position: usize,
    /// Configured share; finite and above 0.
    pub weight: f64,
    /// Lower is tried first.
    pub priority: u32,
}

/// Chooses among eligible endpoints.
pub trait Picker: Send + Sync + std::fmt::Debug {
    /// Index into `candidates`; `None` only when there are none. The same candidates, state and random source give the same
    /// answer.
    fn pick(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Option<usize>;
}

/// The picker of a strategy, with fresh state.
pub fn for_strategy(strategy: Strategy) -> Box<dyn Picker> {
    match strategy {
        Strategy::RoundRobin => Box::<round_robin::RoundRobin>::default(),
        Strategy::Random => Box::new(random::Random),
        Strategy::Failover => Box::new(failover::Failover),
        // These need health, latency and cost, which the endpoints do not gather yet; by weight is what each of them does
        // while it knows nothing.
        Strategy::WeightedRandom
        | Strategy::LeastLatency
        | Strategy::WeightedFailover
        | Strategy::SmartWeightedFailover
        | Strategy::SmartAi
        | Strategy::LeastBusy
        | Strategy::Cheapest
        | Strategy::Sticky => Box::new(weighted_random::WeightedRandom),
    }
}

/// Whether a strategy does all that its name promises, or chooses by weight for now.
pub fn is_complete(strategy: Strategy) -> bool {
    matches!(
        strategy,
        Strategy::WeightedRandom | Strategy::RoundRobin | Strategy::Random | Strategy::Failover
    )
}
