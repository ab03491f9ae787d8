//! Uniform choice; weights are ignored. For tests and for backends that are all alike.

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::{Candidate, Picker};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Random;

impl Picker for Random {
    fn pick(&self, candidates: &[Candidate], rng: &mut SmallRng) -> Option<usize> {
        (!candidates.is_empty()).then(|| rng.random_range(0..candidates.len()))
    }
}
