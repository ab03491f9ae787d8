//! What a pool does while its backends fail, ask for pauses and come back.

use std::time::Duration;

use berry_core::config::snapshot;
use berry_core::time::Instant;
use rand::RngExt as _;

use crate::breaker::Phase;
use crate::cooldown::Reason;
use crate::eligibility::{Demand, Exclusion, Hints, Rescue};
use crate::lease::{Lease, Remaining};
use crate::outcome::{Consequence, FailureClass, Outcome};
use crate::probe::Answer;
use crate::selector::{NoRoute, Shortage};
use crate::testing::{Rig, SUCCESS, config, failure, secs, snapshot as load};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn open(rig: &mut Rig, position: usize) {
    for _ in 0..5 {
        rig.fail_at(position, FailureClass::Server);
    }
    assert_eq!(rig.pool().endpoints()[position].circuit().name(), "open");
}

fn until(rig: &Rig, position: usize) -> Instant {
    rig.pool().endpoints()[position].circuit().trial_due().unwrap()
}

fn shortage(result: Result<Lease, NoRoute>) -> (Shortage, Option<Duration>, Vec<Exclusion>) {
    match result.unwrap_err() {
        NoRoute::NothingEligible { shortage, retry_after, skipped, .. } => {
            (shortage, retry_after, skipped.into_iter().map(|(_, reason)| reason).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_open_circuit_gets_no_traffic_in_any_strategy() {
    for (name, _) in snapshot::Strategy::ALL {
        let mut rig = Rig::unprobed(name, 3);
        open(&mut rig, 0);
        assert_eq!(rig.counts::<3>(200)[0], 0, "{name}");
    }
}

#[test]
fn a_half_open_circuit_takes_one_request_and_no_second_one_until_it_is_answered() {
    for (name, _) in snapshot::Strategy::ALL {
        let mut rig = Rig::unprobed(name, 2);
        open(&mut rig, 0);
        rig.now = until(&rig, 0);
        let leases: Vec<Lease> = (0..50).map(|_| rig.choose().unwrap()).collect();
        let trials = leases.iter().filter(|lease| lease.position() == 0).count();
        assert!(trials <= 1, "{name}: {trials}");
        assert_eq!(leases.iter().filter(|lease| lease.is_trial()).count(), trials, "{name}");
    }
}

#[test]
fn recovery_shapes_traffic_in_stages() {
    for name in ["weighted_random", "random", "smart_weighted_failover"] {
        let mut rig = Rig::unprobed(name, 2);
        open(&mut rig, 0);
        rig.now = until(&rig, 0);
        rig.end_at(0, SUCCESS);
        for stage in [0.3, 0.5, 1.0] {
            // Drawn with that probability, or with that weight.
            let expected = match name {
                "smart_weighted_failover" => stage / (1.0 + stage),
                _ => stage / 2.0,
            };
            let share = f64::from(rig.counts::<2>(10_000)[0]) / 10_000.0;
            assert!((share - expected).abs() < 0.02, "{name} at {stage}: {share}");
            for _ in 0..2 {
                rig.end_at(0, SUCCESS);
            }
        }
        assert_eq!(rig.pool().endpoints()[0].circuit().name(), "closed");
    }
}

#[test]
fn a_recovering_backend_that_is_alone_takes_everything() {
    let mut rig = Rig::unprobed("weighted_random", 1);
    open(&mut rig, 0);
    rig.now = until(&rig, 0);
    rig.end_at(0, SUCCESS);
    assert_eq!(rig.counts::<1>(100), [100]);
    assert_eq!(rig.pool().panics(), 0, "that is no panic");
}

#[test]
fn with_all_circuits_open_the_answer_names_the_earliest_half_open_moment_and_then_lets_one_through() {
    let mut rig = Rig::of("weighted_random", &[""; 2]);
    open(&mut rig, 0);
    rig.wait(secs(5));
    open(&mut rig, 1);
    let earliest = until(&rig, 0);
    let (short, retry_after, reasons) = shortage(rig.choose());
    assert_eq!((short, reasons), (Shortage::Circuits, vec![Exclusion::CircuitOpen; 2]));
    assert_eq!(retry_after, Some(earliest.since(rig.now)));
    rig.now = earliest;
    let trial = rig.choose().unwrap();
    assert_eq!((trial.is_trial(), trial.rescue()), (true, Some(Rescue::Trial)));
    assert_eq!(shortage(rig.choose()).0, Shortage::Circuits);
    trial.report(SUCCESS, rig.now);
    assert!(rig.choose().is_ok());
}

#[test]
fn a_probe_has_the_first_ten_seconds_of_a_due_trial_while_somebody_else_can_serve() {
    let mut rig = Rig::of("failover", &["priority = 1", "priority = 2"]);
    open(&mut rig, 0);
    rig.now = until(&rig, 0);
    assert_eq!(rig.succeed(), 1);
    rig.wait(secs(9));
    assert_eq!(rig.succeed(), 1);
    rig.wait(secs(1));
    assert_eq!(rig.succeed(), 0, "the probe never came");
}

#[test]
fn a_dropped_trial_is_given_to_the_next_one() {
    let mut rig = Rig::unprobed("weighted_random", 1);
    open(&mut rig, 0);
    rig.now = until(&rig, 0);
    drop(rig.choose().unwrap());
    assert!(rig.choose().unwrap().is_trial());
}

#[test]
fn all_cooling_names_the_smallest_retry_after_and_ends_exactly_then() {
    let mut rig = Rig::of("weighted_random", &[""; 2]);
    for (position, seconds) in [(0, 40), (1, 7)] {
        let outcome = Outcome::Failure { class: FailureClass::RateLimit, retry_after: Some(secs(seconds)) };
        rig.end_at(position, outcome);
    }
    let (short, retry_after, _) = shortage(rig.choose());
    assert_eq!((short, retry_after), (Shortage::Cooling, Some(secs(7))));
    rig.wait(secs(7) - Duration::from_nanos(1));
    assert!(rig.choose().is_err());
    rig.wait(Duration::from_nanos(1));
    assert_eq!(rig.succeed(), 1);
}

#[test]
fn failing_with_a_retry_after_is_an_outage_and_no_rate_limit() {
    let mut rig = Rig::of("weighted_random", &[""]);
    rig.end_at(0, Outcome::Failure { class: FailureClass::Server, retry_after: Some(secs(9)) });
    let (short, retry_after, reasons) = shortage(rig.choose());
    assert_eq!((short, retry_after, reasons), (Shortage::Circuits, Some(secs(9)), vec![Exclusion::RetryLater]));
}

#[test]
fn a_429_never_opens_the_circuit() {
    let mut rig = Rig::of("weighted_random", &[""]);
    for _ in 0..50 {
        rig.fail_at(0, FailureClass::RateLimit);
        rig.wait(secs(5));
    }
    let endpoint = &rig.pool().endpoints()[0];
    assert_eq!(endpoint.circuit().name(), "closed");
    assert!(endpoint.confidence(rig.now) < 0.1);
}

#[test]
fn an_exhausted_limit_is_respected_before_any_429() {
    let mut rig = Rig::of("weighted_random", &[""; 2]);
    let lease = rig.choose().unwrap();
    let spent = lease.position();
    let remaining = Remaining { requests: Some(0), tokens: None, reset: Some(secs(3)) };
    lease.learn_remaining(remaining, rig.now);
    lease.report(SUCCESS, rig.now);
    assert_eq!(rig.counts::<2>(50)[spent], 0);
    rig.wait(secs(3));
    assert!(rig.counts::<2>(50)[spent] > 0);
}

#[test]
fn what_only_probes_speak_against_is_chosen_when_nobody_better_is_left() {
    let mut rig = Rig::of("weighted_random", &[""; 2]);
    let failing = Answer::Failed { class: FailureClass::Server, retry_after: None };
    for _ in 0..40 {
        for probe in rig.selector.due_probes(rig.now) {
            probe.report(failing, rig.now, &mut rig.rng);
        }
        rig.wait(secs(10));
    }
    assert!(rig.pool().endpoints().iter().all(|endpoint| endpoint.circuit().share() == 0.0));
    for _ in 0..100 {
        rig.succeed();
    }
    assert_eq!(rig.pool().panics(), 100);
}

#[test]
fn in_panic_every_weighted_strategy_goes_by_weight() {
    for name in ["weighted_random", "weighted_failover", "smart_weighted_failover"] {
        let mut rig = Rig::of(name, &["weight = 3.0", "weight = 1.0"]);
        let failing = Answer::Failed { class: FailureClass::Server, retry_after: None };
        while rig.pool().endpoints().iter().any(|endpoint| endpoint.circuit().share() > 0.0) {
            for probe in rig.selector.due_probes(rig.now) {
                probe.report(failing, rig.now, &mut rig.rng);
            }
            rig.wait(secs(1));
        }
        // A good answer takes away the suspicion, but only a probe closes the circuit.
        rig.end_at(0, SUCCESS);
        let share = f64::from(rig.counts::<2>(10_000)[0]) / 10_000.0;
        assert!((share - 0.75).abs() < 0.02, "{name}: {share}");
    }
}

#[test]
fn one_failed_probe_of_everybody_is_a_panic_until_a_request_proves_otherwise() {
    let mut rig = Rig::of("weighted_failover", &[""; 2]);
    for probe in rig.selector.due_probes(rig.now) {
        let class = FailureClass::Network;
        let failing = Answer::Failed { class, retry_after: None };
        probe.report(failing, rig.now, &mut rig.rng);
    }
    let served = rig.succeed();
    assert_eq!(rig.pool().panics(), 1);
    for _ in 0..20 {
        assert_eq!(rig.succeed(), served, "that one is healthy now");
    }
    assert_eq!(rig.pool().panics(), 1);
}

#[test]
fn failures_in_panic_turn_it_into_an_open_circuit() {
    let mut rig = Rig::of("weighted_random", &[""]);
    let failing = Answer::Failed { class: FailureClass::Server, retry_after: None };
    while rig.pool().endpoints()[0].circuit().share() > 0.0 {
        for probe in rig.selector.due_probes(rig.now) {
            probe.report(failing, rig.now, &mut rig.rng);
        }
        rig.wait(secs(1));
    }
    for _ in 0..5 {
        rig.choose().unwrap().report(failure(FailureClass::Server), rig.now);
    }
    assert_eq!(shortage(rig.choose()).0, Shortage::Circuits);
}

#[test]
fn a_parked_backend_lets_one_through_every_thirty_seconds_only_when_alone() {
    let mut rig = Rig::of("weighted_random", &[""; 2]);
    for position in 0..2 {
        let provider = format!("p{position}");
        let demand = Demand { provider: Some(&provider), ..rig.demand() };
        let lease = rig.pool().clone().choose(&demand, &mut rig.rng).unwrap();
        lease.report_with(failure(FailureClass::RateLimit), Consequence::quota(None), rig.now);
        if position == 0 {
            assert_eq!(rig.counts::<2>(20), [0, 20], "the other one serves");
        }
    }
    let first = rig.choose().unwrap();
    let second = rig.choose().unwrap();
    assert_ne!(first.position(), second.position());
    assert_eq!(first.rescue(), Some(Rescue::LetThrough));
    let (short, retry_after, _) = shortage(rig.choose());
    assert_eq!((short, retry_after), (Shortage::Parked, Some(secs(30))));
    rig.wait(secs(30));
    let paid = rig.choose().unwrap();
    let position = paid.position();
    paid.report(SUCCESS, rig.now);
    assert!(rig.pool().endpoints()[position].cooling(rig.now).is_none(), "somebody paid the bill");
    assert_eq!(rig.succeed(), position);
}

#[test]
fn a_failover_is_not_let_through_to_a_parked_backend() {
    let mut rig = Rig::of("weighted_random", &[""; 2]);
    let endpoint = rig.pool().endpoints()[1].clone();
    endpoint.pause(Reason::Quota, rig.now + secs(3_600));
    assert!(rig.choose_beside(&[0]).is_err());
}

#[test]
fn a_refused_key_opens_the_circuit_and_one_request_a_while_shows_it_to_the_client() {
    let mut rig = Rig::of("weighted_random", &[""]);
    rig.fail_at(0, FailureClass::Auth);
    let lease = rig.choose().unwrap();
    assert_eq!(lease.rescue(), Some(Rescue::LetThrough));
    lease.report(failure(FailureClass::Auth), rig.now);
    assert_eq!(shortage(rig.choose()).0, Shortage::Parked);
    rig.wait(secs(30));
    rig.choose().unwrap().report(SUCCESS, rig.now);
    assert!(matches!(rig.pool().endpoints()[0].circuit().phase, Phase::Recovering { .. }));
}

#[test]
fn max_concurrent_is_exact_and_comes_back_with_the_lease() {
    let mut rig = Rig::of("weighted_random", &["max_concurrent = 2", "max_concurrent = 1"]);
    let leases: Vec<Lease> = (0..3).map(|_| rig.choose().unwrap()).collect();
    let (short, retry_after, reasons) = shortage(rig.choose());
    assert_eq!((short, reasons), (Shortage::Busy, vec![Exclusion::Busy; 2]));
    assert_eq!(retry_after, Some(secs(1)));
    drop(leases);
    assert!(rig.choose().is_ok());
    assert!(rig.pool().endpoints().iter().all(|endpoint| endpoint.in_flight() == 0));
}

#[test]
fn requests_per_minute_of_a_backend_move_the_rest_elsewhere() {
    let mut rig = Rig::of("failover", &["requests_per_minute = 3\npriority = 1", "priority = 2"]);
    assert_eq!(rig.counts::<2>(10), [3, 7]);
    rig.wait(secs(64));
    assert_eq!(rig.counts::<2>(10), [3, 7]);
}

#[test]
fn a_request_goes_where_it_fits() {
    let mut rig = Rig::of("weighted_random", &["context_window = 1000", "context_window = 9000"]);
    let pool = rig.pool().clone();
    let demand = |rig: &Rig, input_tokens| Demand {
        hints: Hints { input_tokens: Some(input_tokens), ..Hints::default() },
        ..rig.demand()
    };
    for _ in 0..20 {
        assert_eq!(pool.choose(&demand(&rig, 5_000), &mut rig.rng).unwrap().position(), 1);
    }
    let refused = pool.choose(&demand(&rig, 10_000), &mut rig.rng);
    assert_eq!(shortage(refused).0, Shortage::Lasting);
}

#[test]
fn tags_and_forced_providers_are_told_apart_from_outages() {
    let mut rig = Rig::of("weighted_random", &["tags = [\"a\"]", "tags = [\"a\"]"]);
    let pool = rig.pool().clone();
    let tags = ["b".to_owned()];
    let demand = Demand { tags: &tags, ..rig.demand() };
    assert!(matches!(pool.choose(&demand, &mut rig.rng), Err(NoRoute::Tags { .. })));
    let demand = Demand { provider: Some("nobody"), ..rig.demand() };
    assert!(matches!(pool.choose(&demand, &mut rig.rng), Err(NoRoute::UnknownProvider { .. })));
    open(&mut rig, 0);
    let demand = Demand { provider: Some("p0"), ..rig.demand() };
    assert_eq!(shortage(pool.choose(&demand, &mut rig.rng)).0, Shortage::Circuits);
}

#[test]
fn b32_a_backend_that_fails_every_second_request_is_ejected_within_ten_seconds() {
    let mut rig = Rig::unprobed("round_robin", 3);
    let (start, mut turn, mut ejected) = (rig.now, 0, None);
    while ejected.is_none() && rig.now.since(start) < secs(10) {
        let lease = rig.choose().unwrap();
        let fails = lease.position() == 0 && {
            turn += 1;
            turn % 2 == 0
        };
        lease.report(if fails { failure(FailureClass::Server) } else { SUCCESS }, rig.now);
        rig.wait(MS(5));
        ejected = rig.pool().endpoints()[0].ejected_until(rig.now);
    }
    let endpoint = &rig.pool().endpoints()[0];
    assert_eq!(endpoint.circuit().name(), "closed", "it never failed five times in a row");
    assert!(ejected.unwrap() >= rig.now + secs(26));
    assert_eq!(rig.counts::<3>(100)[0], 0);
}

#[test]
fn ejection_never_takes_the_last_one() {
    let mut rig = Rig::unprobed("round_robin", 2);
    for i in 0..400 {
        let lease = rig.choose().unwrap();
        lease.report(if i % 4 < 2 { failure(FailureClass::Server) } else { SUCCESS }, rig.now);
        rig.wait(MS(5));
    }
    let ejected = |rig: &Rig| {
        let endpoints = rig.pool().endpoints().iter();
        endpoints.filter(|endpoint| endpoint.ejected_until(rig.now).is_some()).count()
    };
    assert_eq!(ejected(&rig), 2);
    let panics = rig.pool().panics();
    assert!(rig.counts::<2>(100).iter().all(|count| *count > 0));
    assert_eq!(rig.pool().panics(), panics + 100);
}

/// A backend with a fixed latency behind a pool, for a number of seconds; who got how much.
fn serve<const N: usize>(
    rig: &mut Rig,
    per_second: u64,
    time: Duration,
    latency: impl Fn(usize) -> Duration,
) -> [u32; N] {
    let mut counts = [0; N];
    let mut under_way: Vec<(Instant, Duration, Lease)> = Vec::new();
    let end = rig.now + time;
    while rig.now < end {
        let (done, still): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|(at, ..)| *at <= rig.now);
        under_way = still;
        for (at, latency, lease) in done {
            lease.report(Outcome::Success { ttft: Some(latency), latency }, at);
        }
        let lease = rig.choose().unwrap();
        counts[lease.position()] += 1;
        let latency = latency(lease.position());
        under_way.push((rig.now + latency, latency, lease));
        rig.wait(secs(1) / per_second as u32);
    }
    counts
}

#[test]
fn a_slow_backend_is_seen_again_by_one_request_and_not_by_all_that_come_meanwhile() {
    for strategy in ["least_latency", "least_busy"] {
        let mut rig = Rig::unprobed(strategy, 2);
        let slow = Outcome::Success { ttft: Some(secs(8)), latency: secs(9) };
        let now = rig.now;
        rig.end_at(0, slow);
        rig.end_at(1, SUCCESS);
        let mut waiting = Vec::new();
        while rig.now < now + secs(30) {
            rig.wait(Duration::from_millis(200));
            let mut lease = rig.choose().unwrap();
            match lease.position() {
                0 => waiting.push(lease),
                _ => {
                    lease.first_token(Duration::from_millis(100), rig.now);
                    lease.report(SUCCESS, rig.now);
                }
            }
        }
        assert_eq!(waiting.len(), 1, "{strategy}");
    }
}

#[test]
fn b25_a_slow_node_loses_its_share_and_gets_it_back_after_it_heals() {
    for seed in 0..20 {
        let mut rig = Rig::unprobed("least_latency", 2);
        rig.rng = <rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(seed);
        let jitter = |ms: u64, seed: u64| Duration::from_micros(ms * 1_000 + (seed * 7_919 + ms) % 997);
        let slow = |position| {
            if position == 0 { jitter(300, seed) } else { jitter(5, seed) }
        };
        serve::<2>(&mut rig, 200, secs(2), slow);
        let counts = serve::<2>(&mut rig, 200, secs(10) + MS(seed * 500), slow);
        assert!(counts[0] * 10 <= counts[0] + counts[1], "{counts:?}");
        // Whenever it heals, it is found out within 15 s.
        serve::<2>(&mut rig, 200, secs(15), |_| jitter(5, seed));
        let endpoint = &rig.pool().endpoints()[0];
        assert!(endpoint.latency(rig.now).unwrap() < MS(10), "seed {seed}: {:?}", endpoint.latency(rig.now));
    }
}

#[test]
fn b01_after_one_of_three_dies_at_most_a_handful_of_attempts_reach_it_in_every_strategy() {
    for (name, _) in snapshot::Strategy::ALL {
        let mut rig = Rig::of(name, &["priority = 1", "priority = 2", "priority = 3"]);
        for _ in 0..50 {
            rig.succeed();
        }
        let (mut wasted, mut unanswered) = (0, 0);
        for _ in 0..2_000 {
            let mut tried = Vec::new();
            let answered = loop {
                let Ok(lease) = rig.choose_beside(&tried) else {
                    break false;
                };
                let dead = lease.position() == 0;
                tried.push(lease.position());
                lease.report(if dead { failure(FailureClass::Network) } else { SUCCESS }, rig.now);
                if !dead {
                    break true;
                }
                wasted += 1;
            };
            unanswered += u32::from(!answered);
            rig.wait(MS(5));
        }
        assert_eq!(unanswered, 0, "{name}");
        assert!(wasted <= 5, "{name}: {wasted}");
    }
}

#[test]
fn b18_with_everything_failing_retries_stay_within_a_fifth() {
    let mut rig = Rig::of("weighted_random", &[""; 3]);
    let (mut requests, mut attempts) = (0_u32, 0_u32);
    let pool = rig.pool().clone();
    for _ in 0..3_000 {
        requests += 1;
        let mut tried = Vec::new();
        while let Ok(lease) = rig.choose_beside(&tried) {
            attempts += 1;
            tried.push(lease.position());
            // A caller's fault opens no circuit, so nothing but the budget holds retries back here.
            lease.report(Outcome::CallerFault, rig.now);
            if !pool.retries().withdraw(rig.now) {
                break;
            }
        }
        rig.wait(MS(10));
    }
    assert!(f64::from(attempts) <= f64::from(requests) * 1.2 + 10.0, "{attempts} for {requests}");
}

#[test]
fn a_dead_backend_with_ninety_percent_of_the_weight_gets_at_most_three_of_a_low_traffic_hour() {
    let mut worst = 0;
    for seed in 0..200 {
        let mut rig = Rig::of("smart_ai", &["weight = 0.9", "weight = 0.1"]);
        rig.rng = <rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(seed);
        let mut reached = 0;
        let mut next_request = rig.now + secs(600);
        let end = rig.now + secs(4_200);
        while rig.now < end {
            for probe in rig.selector.due_probes(rig.now) {
                let dead = rig.now > Instant::START + secs(1_500) && probe.backend().id.provider.as_str() == "p0";
                let class = FailureClass::Network;
                let answer = if dead { Answer::Failed { class, retry_after: None } } else { Answer::Good };
                probe.report(answer, rig.now, &mut rig.rng);
            }
            if rig.now >= next_request {
                let lease = rig.choose().unwrap();
                let dead = rig.now > Instant::START + secs(1_500) && lease.position() == 0;
                reached += u32::from(dead);
                lease.report(if dead { failure(FailureClass::Network) } else { SUCCESS }, rig.now);
                // Five an hour, at irregular times.
                next_request = rig.now + secs(rig.rng.random_range(60..1_380));
            }
            rig.wait(secs(1));
        }
        worst = worst.max(reached);
    }
    assert!(worst <= 3, "{worst}");
}

#[test]
fn a_reload_keeps_what_was_learnt_and_a_new_key_starts_afresh() {
    let text = config("weighted_random", &[""; 2]);
    let mut rig = Rig::new(&text);
    open(&mut rig, 0);
    rig.end_at(1, SUCCESS);
    let held = rig.choose().unwrap();
    let changed = text.replace("model = \"u\"\n", "model = \"u\"\nweight = 3.0\n");
    rig.selector = crate::selector::PoolSelector::new(&load(&changed), Some(&rig.selector));
    let endpoints = rig.pool().endpoints();
    assert_eq!(endpoints[0].circuit().name(), "open");
    assert_eq!(endpoints[1].stats().successes, 1);
    assert_eq!((endpoints[1].in_flight(), endpoints[1].backend().weight), (1, 3.0));
    drop(held);
    assert_eq!(rig.pool().endpoints()[1].in_flight(), 0, "the lease from before the reload gives back what it took");
    let new_key = changed.replacen("api_key = \"k\"", "api_key = \"new\"", 1);
    rig.selector = crate::selector::PoolSelector::new(&load(&new_key), Some(&rig.selector));
    assert_eq!(rig.pool().endpoints()[0].circuit().name(), "closed");
    assert_eq!(rig.pool().endpoints()[0].stats().failed(), 5, "counters are history, not judgement");
}

#[test]
fn the_report_shows_the_weights_that_choices_follow() {
    for name in ["weighted_random", "smart_weighted_failover", "weighted_failover", "failover", "random"] {
        let mut rig = Rig::of(name, &["weight = 5.0\npriority = 2", "weight = 3.0", "weight = 2.0"]);
        rig.fail_at(0, FailureClass::Server);
        open(&mut rig, 1);
        let report = rig.pool().report(rig.now);
        let total: f64 = report.iter().map(|endpoint| endpoint.effective_weight).sum();
        let counts = rig.counts::<3>(50_000);
        for (endpoint, count) in report.iter().zip(counts) {
            let share = f64::from(count) / 50_000.0;
            assert!((share - endpoint.effective_weight / total).abs() < 0.01, "{name}: {counts:?}");
        }
        assert_eq!(report[1].reason, Some("circuit open: requests failed"));
    }
}

#[test]
fn a_lease_that_was_reported_gives_back_one_place_and_is_no_cancellation() {
    let rig = &mut Rig::unprobed("random", 1);
    let (first, second) = (rig.choose().unwrap(), rig.choose().unwrap());
    let stats = |rig: &Rig| {
        let stats = rig.pool().endpoints()[0].stats();
        (stats.in_flight, stats.successes, stats.cancellations)
    };
    first.report(SUCCESS, rig.now);
    assert_eq!(stats(rig), (1, 1, 0));
    drop(second);
    assert_eq!(stats(rig), (0, 1, 1));
}
