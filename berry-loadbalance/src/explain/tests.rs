//! A record says how its choice came about, completely.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use berry_core::config::snapshot;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::eligibility::{Demand, Hints};
use crate::outcome::{FailureClass, Outcome};
use crate::testing::{Rig, SUCCESS, config};

/// Keys of a backend, at random.
fn random_backend(rng: &mut SmallRng) -> String {
    let mut keys = format!("weight = {:?}\npriority = {}\n", rng.random_range(0.1..10.0), rng.random_range(1..4));
    if rng.random_bool(0.5) {
        write!(keys, "input_price = {:?}\noutput_price = 2.0\n", rng.random_range(0.0..3.0)).unwrap();
    }
    if rng.random_bool(0.3) {
        keys.push_str("tags = [\"premium\"]\n");
    }
    if rng.random_bool(0.2) {
        keys.push_str("max_concurrent = 2\n");
    }
    if rng.random_bool(0.5) {
        keys.push_str("billing_mode = \"per_request\"\n");
    }
    keys
}

fn random_outcome(rng: &mut SmallRng) -> Outcome {
    let latency = Duration::from_millis(rng.random_range(5..3_000));
    match rng.random_range(0..10) {
        0..6 => Outcome::Success { ttft: Some(latency), latency: latency * 2 },
        6 => Outcome::Cancelled,
        class => Outcome::Failure { class: FailureClass::ALL[class as usize - 6], retry_after: None },
    }
}

/// Some history: attempts that end somehow, some that do not end yet, and time that passes.
fn live(rig: &mut Rig) -> Vec<crate::lease::Lease> {
    let mut held = Vec::new();
    for _ in 0..rig.rng.random_range(0..30) {
        let Ok(lease) = rig.choose() else { break };
        if rig.rng.random_bool(0.2) {
            held.push(lease);
        } else {
            let outcome = random_outcome(&mut rig.rng);
            lease.report(outcome, rig.now);
        }
        let pause = rig.rng.random_range(0..20_000);
        rig.wait(Duration::from_millis(pause));
    }
    held
}

#[test]
fn the_record_of_ten_thousand_random_fleets_recomputes_to_the_recorded_choice() {
    let mut seeds = SmallRng::seed_from_u64(4);
    let (mut chosen, mut kinds) = (0, BTreeSet::new());
    for round in 0..500 {
        let (strategy, _) = snapshot::Strategy::ALL[round % 11];
        let backends: Vec<String> = (0..seeds.random_range(1..9)).map(|_| random_backend(&mut seeds)).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let snapshot = crate::testing::snapshot(&config(strategy, &backends));
        for _ in 0..20 {
            let mut rig = Rig {
                selector: crate::selector::PoolSelector::new(&snapshot, None),
                now: crate::testing::at(100),
                rng: SmallRng::seed_from_u64(seeds.random()),
            };
            let _held = live(&mut rig);
            let conversation = rig.rng.random_bool(0.8).then(|| rig.rng.random());
            let demand = Demand { hints: Hints { conversation, ..Hints::default() }, ..rig.demand() };
            let pool = rig.pool().clone();
            let (result, decision) = pool.choose_explained(&demand, &mut rig.rng);
            let position = decision.chosen.map(|chosen| decision.candidates[chosen].position);
            assert_eq!(position, result.as_ref().ok().map(crate::lease::Lease::position));
            assert_eq!(decision.recompute(), decision.chosen, "{decision:?}");

            let json = serde_json::to_string(&decision.named(&pool)).unwrap();
            let replay: Replay = serde_json::from_str(&json).unwrap();
            assert_eq!(replay.recompute(), decision.chosen, "{json}");
            let everybody = decision.candidates.len() + decision.excluded.len();
            assert_eq!(everybody, pool.endpoints().len(), "nobody is left unexplained: {json}");
            chosen += usize::from(position.is_some());
            kinds.extend(decision.excluded.iter().map(|(_, reason)| *reason));
        }
    }
    // The histories must be worth explaining.
    assert!(chosen > 7_000, "{chosen}");
    assert!(kinds.len() >= 5, "{kinds:?}");
}

#[test]
fn a_record_in_which_a_term_is_changed_may_recompute_to_another_choice() {
    let mut rig = Rig::of("failover", &["priority = 1", "priority = 2"]);
    let demand = rig.demand();
    let pool = rig.pool().clone();
    let (_, mut decision) = pool.choose_explained(&demand, &mut rig.rng);
    assert_eq!(decision.recompute(), Some(0));
    decision.candidates[0].priority = 3;
    assert_eq!(decision.recompute(), Some(1));
}

#[test]
fn the_json_names_everybody_and_every_reason() {
    let mut rig = Rig::of("weighted_random", &["weight = 2.0", "enabled = false", ""]);
    rig.end_at(0, SUCCESS);
    rig.end_at(2, Outcome::Failure { class: FailureClass::RateLimit, retry_after: None });
    let demand = rig.demand();
    let pool = rig.pool().clone();
    let (_, decision) = pool.choose_explained(&demand, &mut rig.rng);
    let json = serde_json::to_value(decision.named(&pool)).unwrap();
    assert_eq!(json["strategy"], "weighted_random");
    assert_eq!(json["candidates"][0]["provider"], "p0");
    assert_eq!(json["candidates"][0]["effective_weight"], 2.0);
    assert_eq!(json["candidates"][0]["terms"]["priority"], 1);
    let reasons: Vec<&str> = (0..2).map(|i| json["excluded"][i]["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["disabled", "cooling"]);
}
