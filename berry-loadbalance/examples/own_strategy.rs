//! A strategy of one's own, whole: the backend with the most room left, beside `random`.
//!
//! `cargo run -p berry-loadbalance --example own_strategy`
//!
//! To use it in the configuration, move the struct and its `impl` to `berry-loadbalance/src/picker/most_room.rs`, name it in
//! `Strategy` (`berry-core/src/config/snapshot.rs`) and give it a line in `picker::for_strategy`.
#![expect(clippy::print_stdout, reason = "an example shows something")]

use berry_core::config::snapshot::Strategy;
use berry_loadbalance::chance::{Chance, Rotation};
use berry_loadbalance::picker::{Candidate, PickContext, Picker, Weights, for_strategy};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

/// The lowest load wins: attempts under way divided by weight. Ties go to the first in file order.
///
/// Good for self-hosted backends of different sizes. Not when their latencies differ for other reasons: `least_busy`.
#[derive(Debug)]
struct MostRoom;

fn load(candidate: &Candidate) -> f64 {
    f64::from(candidate.in_flight + 1) / candidate.weight
}

impl Picker for MostRoom {
    /// What reports show: room, so that more is better.
    fn weights(&self, _: &PickContext, candidates: &[Candidate]) -> Weights {
        candidates.iter().map(|candidate| 1.0 / load(candidate)).collect()
    }

    fn pick(&self, _: &PickContext, candidates: &[Candidate], _: &mut Chance<'_>) -> Option<usize> {
        (0..candidates.len()).min_by(|a, b| load(&candidates[*a]).total_cmp(&load(&candidates[*b])))
    }
}

/// Requests go where the picker says and stay for a while; the fullest a backend ever was, for its weight.
fn fullest(picker: &dyn Picker) -> f64 {
    let mut candidates: Vec<Candidate> = [1.0, 2.0, 4.0].iter().enumerate().map(candidate).collect();
    let context = PickContext { now_nanos: 0, exploration_ratio: 0.2, non_premium_stability_bonus: 1.1 };
    let (mut rng, rotation) = (SmallRng::seed_from_u64(1), Rotation::default());
    let (mut under_way, mut fullest) = (std::collections::VecDeque::new(), 0.0_f64);
    for _ in 0..10_000 {
        if under_way.len() == 70
            && let Some(oldest) = under_way.pop_front()
        {
            let done: &mut Candidate = &mut candidates[oldest];
            done.in_flight -= 1;
        }
        let chosen = picker.pick(&context, &candidates, &mut Chance::new(&mut rng, &rotation));
        let chosen = chosen.expect("there are candidates");
        candidates[chosen].in_flight += 1;
        under_way.push_back(chosen);
        fullest = fullest.max(f64::from(candidates[chosen].in_flight) / candidates[chosen].weight);
    }
    fullest
}

fn candidate((position, weight): (usize, &f64)) -> Candidate {
    Candidate::new(position, *weight, 1)
}

fn main() {
    println!("most room: at most {:.1} requests for each unit of weight", fullest(&MostRoom));
    println!("random:    at most {:.1} requests for each unit of weight", fullest(for_strategy(Strategy::Random)));
}
