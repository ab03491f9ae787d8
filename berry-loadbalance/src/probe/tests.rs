//! Who is probed when, and what the answers do.

use std::time::Duration;

use berry_core::time::Instant;

use super::*;
use crate::testing::{Rig, SUCCESS, at, secs};

const BAD: Answer = Answer::Failed { class: FailureClass::Server, retry_after: None };

/// Answers every probe for a while, looking once a second; when they were sent and why.
fn run(rig: &mut Rig, time: Duration, answer: impl Fn(&Probe, Instant) -> Answer) -> Vec<(Instant, Kind)> {
    let mut sent = Vec::new();
    let end = rig.now + time;
    while rig.now < end {
        for probe in rig.selector.due_probes(rig.now) {
            sent.push((rig.now, probe.kind()));
            let answer = answer(&probe, rig.now);
            probe.report(answer, rig.now, &mut rig.rng);
        }
        rig.wait(secs(1));
    }
    sent
}

fn gaps(sent: &[(Instant, Kind)]) -> Vec<u64> {
    sent.windows(2).map(|pair| pair[1].0.since(pair[0].0).as_secs()).collect()
}

#[test]
fn healthy_backends_are_probed_at_once_and_then_every_interval_with_jitter() {
    let mut rig = Rig::of("weighted_random", &[""]);
    let sent = run(&mut rig, secs(3_600), |_, _| Answer::Good);
    assert_eq!((sent[0].0, sent[0].1), (at(1_000), Kind::Initial));
    assert!(sent[1..].iter().all(|(_, kind)| *kind == Kind::Periodic));
    let gaps = gaps(&sent);
    assert!(gaps.iter().all(|gap| (27..=34).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap < 30) && gaps.iter().any(|gap| *gap > 30), "{gaps:?}");
}

#[test]
fn what_is_charged_by_the_request_or_switched_off_is_never_probed() {
    let mut rig = Rig::of("weighted_random", &["billing_mode = \"per_request\"", "enabled = false"]);
    assert!(run(&mut rig, secs(600), |_, _| Answer::Good).is_empty());
    assert_eq!(rig.selector.next_probe(rig.now), None);
    let text = crate::testing::config("weighted_random", &[""]) + "health_check = \"off\"\n";
    let mut rig = Rig::new(&text);
    assert!(run(&mut rig, secs(600), |_, _| Answer::Good).is_empty());
}

#[test]
fn smart_ai_backends_are_left_alone_while_they_have_traffic_and_looked_at_when_idle() {
    let mut rig = Rig::of("smart_ai", &[""]);
    run(&mut rig, secs(1), |_, _| Answer::Good);
    for _ in 0..30 {
        rig.end_at(0, SUCCESS);
        assert!(run(&mut rig, secs(500), |_, _| Answer::Good).is_empty());
    }
    rig.end_at(0, SUCCESS);
    let sent = run(&mut rig, secs(700), |_, _| Answer::Good);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1, Kind::Lightweight);
}

#[test]
fn a_lightweight_probe_never_sends_a_chat() {
    for (configured, light) in [
        ("models_then_chat", HealthCheck::Models),
        ("chat", HealthCheck::Connect),
        ("models", HealthCheck::Models),
        ("connect", HealthCheck::Connect),
    ] {
        let text = crate::testing::config("smart_ai", &[""]) + &format!("health_check = \"{configured}\"\n");
        let mut rig = Rig::new(&text);
        run(&mut rig, secs(1), |_, _| Answer::Good);
        rig.wait(secs(700));
        let probe = rig.selector.due_probes(rig.now).pop().unwrap();
        assert_eq!((probe.kind(), probe.method()), (Kind::Lightweight, light), "{configured}");
    }
}

#[test]
fn an_unhealthy_backend_has_the_recovery_period() {
    let mut rig = Rig::of("weighted_random", &[""]);
    run(&mut rig, secs(1), |_, _| Answer::Good);
    rig.fail_at(0, FailureClass::Server);
    // The mark of a request is forgotten after a minute, so the first of these is an ordinary one.
    let sent = run(&mut rig, secs(100), |_, _| BAD);
    assert_eq!(sent[0].1, Kind::Periodic);
    let sent = run(&mut rig, secs(300), |_, _| Answer::Good);
    assert_eq!(sent[0].1, Kind::Recovery);
    assert_eq!(sent[1].1, Kind::Periodic, "well again");
}

#[test]
fn three_failed_probes_open_the_circuit_and_two_do_not() {
    let mut rig = Rig::of("weighted_random", &[""]);
    let mut probes = 0;
    while rig.pool().endpoints()[0].circuit().name() == "closed" {
        probes += run(&mut rig, secs(1), |_, _| BAD).len();
    }
    assert_eq!(probes, 3);
    assert_eq!(rig.pool().endpoints()[0].circuit().cause, Cause::Probes);
    assert_eq!(rig.pool().endpoints()[0].stats().failed_probes, 3);
    assert_eq!(rig.pool().endpoints()[0].stats().requests(), 0, "probes are counted apart");
}

#[test]
fn a_trial_probe_is_sent_when_the_open_time_is_over_and_a_good_one_starts_recovery() {
    let mut rig = Rig::of("weighted_random", &[""; 2]);
    run(&mut rig, secs(1), |_, _| Answer::Good);
    for _ in 0..5 {
        rig.fail_at(0, FailureClass::Server);
    }
    let due = rig.pool().endpoints()[0].circuit().trial_due().unwrap();
    rig.now = due;
    let probes = rig.selector.due_probes(due);
    let trial = probes.into_iter().find(|probe| probe.kind() == Kind::Trial).unwrap();
    for _ in 0..100 {
        assert_eq!(rig.succeed(), 1, "the probe has the one trial");
    }
    trial.report(Answer::Good, rig.now, &mut rig.rng);
    assert_eq!(rig.pool().endpoints()[0].circuit().name(), "recovering");
}

#[test]
fn a_good_probe_does_not_hide_failing_requests() {
    let mut rig = Rig::of("weighted_random", &[""]);
    for _ in 0..5 {
        rig.fail_at(0, FailureClass::Server);
        run(&mut rig, secs(40), |_, _| Answer::Good);
    }
    assert_eq!(rig.pool().endpoints()[0].stats().failed(), 5);
    assert_ne!(rig.pool().endpoints()[0].circuit().name(), "closed");
}

#[test]
fn a_refused_key_found_by_a_probe_opens_at_once_and_an_unknown_model_parks() {
    let mut rig = Rig::of("weighted_random", &[""; 2]);
    run(&mut rig, secs(1), |probe, _| {
        let class = match probe.backend().id.provider.as_str() {
            "p0" => FailureClass::Auth,
            _ => FailureClass::Model,
        };
        Answer::Failed { class, retry_after: None }
    });
    let endpoints = rig.pool().endpoints();
    assert_eq!(endpoints[0].circuit().cause, Cause::Key);
    assert_eq!(endpoints[1].cooling(rig.now).unwrap().reason, Reason::Model);
}

#[test]
fn a_429_to_a_probe_is_a_pause_and_nothing_worse_even_for_a_trial() {
    let limited = Answer::Failed { class: FailureClass::RateLimit, retry_after: Some(secs(20)) };
    let mut rig = Rig::of("weighted_random", &[""]);
    run(&mut rig, secs(600), |_, _| limited);
    assert_eq!(rig.pool().endpoints()[0].circuit().name(), "closed");
    assert!(rig.pool().endpoints()[0].suspicion(rig.now).is_none());
    let mut rig = Rig::of("weighted_random", &[""]);
    for _ in 0..5 {
        rig.fail_at(0, FailureClass::Server);
    }
    rig.now = rig.pool().endpoints()[0].circuit().trial_due().unwrap();
    let sent = run(&mut rig, secs(100), |_, _| limited);
    assert!(sent.len() <= 6, "one each 20 s, not one each second: {sent:?}");
}

#[test]
fn one_probe_at_a_time_and_a_hung_one_is_given_up() {
    let mut rig = Rig::of("weighted_random", &[""]);
    let hung = rig.selector.due_probes(rig.now).pop().unwrap();
    assert!(rig.selector.due_probes(rig.now).is_empty());
    let wake = rig.selector.next_probe(rig.now).unwrap();
    assert_eq!(wake, rig.now + secs(11), "its timeout and a second");
    rig.now = wake;
    assert_eq!(rig.selector.due_probes(rig.now).len(), 1);
    drop(hung);
}

#[test]
fn the_announced_moment_is_when_something_is_due() {
    let mut rig = Rig::of("weighted_random", &[""; 3]);
    run(&mut rig, secs(1), |_, _| Answer::Good);
    for _ in 0..50 {
        let next = rig.selector.next_probe(rig.now).unwrap();
        rig.now = Instant::from_nanos(next.as_nanos() - 1);
        assert!(rig.selector.due_probes(rig.now).is_empty());
        rig.now = next;
        let due = rig.selector.due_probes(rig.now);
        assert!(!due.is_empty());
        for probe in due {
            probe.report(Answer::Good, rig.now, &mut rig.rng);
        }
    }
}

#[test]
fn news_of_another_backend_serves_while_it_is_recent_and_nothing_spoke_against_this_one_since() {
    let mut rig = Rig::of("weighted_random", &[""]);
    let mut probe = rig.selector.due_probes(rig.now).pop().unwrap();
    let began = rig.now;
    assert!(probe.shares(began, began + secs(6)), "a fifth of 30 s");
    assert!(!probe.shares(began, began + secs(7)));
    assert!(probe.shares(began, began + secs(5)));
    rig.wait(secs(5));
    probe.report(Answer::Good, rig.now, &mut rig.rng);
    // The next one is due an interval after the question, not after the report.
    let due = rig.selector.next_probe(rig.now).unwrap().since(began);
    assert!(secs(27) <= due && due <= secs(33), "{due:?}");

    let before = rig.now;
    rig.wait(secs(1));
    rig.fail_at(0, FailureClass::Server);
    let failed = rig.now;
    rig.wait(secs(200));
    let mut probe = rig.selector.due_probes(rig.now).pop().unwrap();
    assert!(!probe.shares(before, failed + secs(1)), "it failed after that was asked");
    assert!(probe.shares(failed + secs(1), failed + secs(2)));
}

#[test]
fn a_trial_takes_no_old_news() {
    let mut rig = Rig::of("weighted_random", &[""]);
    for _ in 0..5 {
        rig.fail_at(0, FailureClass::Server);
    }
    rig.wait(secs(100));
    let mut probe = rig.selector.due_probes(rig.now).pop().unwrap();
    assert_eq!(probe.kind(), Kind::Trial);
    assert!(probe.shares(rig.now, rig.now + secs(1)));
    assert!(!probe.shares(rig.now, rig.now + secs(2)));
}
