//! How much an endpoint is trusted, learnt from few requests: the memory of the `smart_ai` strategy.
//!
//! Starts at `initial_confidence`. A success adds `success_boost`, up to 1. A failure takes off the penalty of its class (network,
//! auth, rate limit, server, model, timeout; a stream that broke off counts as network), down to `min_confidence`.
//!
//! Time decay, where `enable_time_decay` is set: what was learnt long ago says less. With the idle time t since the last report,
//! f(t) = 1 up to 1 h, 0.95 up to 6 h, 0.9 up to 24 h, 0.8 up to 72 h, 0.7 after that.
//! Above the initial value: `max(initial, c·f)`; below it: `initial − (initial − c)·f`, which gives it a second chance.
//!
//! A new step starts from the decayed value, so idle time is never counted twice.

use std::sync::atomic::{AtomicU64, Ordering};

use berry_core::config::snapshot::SmartAi;
use berry_core::time::Instant;

use crate::outcome::FailureClass;

const HOUR: u64 = 3_600 * 1_000_000_000;

/// The confidence in one endpoint. Readers take no lock; writers are serialised by the endpoint.
#[derive(Debug, Default)]
pub(crate) struct Confidence {
    /// The bits of the value as of `at`; 0 = nothing learnt.
    bits: AtomicU64,
    at: AtomicU64,
}

impl Confidence {
    /// The value now.
    pub(crate) fn read(&self, settings: &SmartAi, now: Instant) -> f64 {
        match self.bits.load(Ordering::Relaxed) {
            0 => settings.initial_confidence,
            bits => {
                let idle = now.as_nanos().saturating_sub(self.at.load(Ordering::Relaxed));
                decayed(f64::from_bits(bits), idle, settings)
            }
        }
    }

    /// Takes in the end of an attempt: `None` for a success.
    pub(crate) fn learn(&self, failure: Option<FailureClass>, settings: &SmartAi, now: Instant) {
        let value = stepped(self.read(settings, now), failure, settings);
        self.bits.store(value.to_bits(), Ordering::Relaxed);
        self.at.store(now.as_nanos(), Ordering::Relaxed);
    }
}

fn stepped(value: f64, failure: Option<FailureClass>, settings: &SmartAi) -> f64 {
    let steps = &settings.adjustments;
    let value = match failure {
        None => value + steps.success_boost,
        Some(FailureClass::Network | FailureClass::StreamIncomplete) => value - steps.network_error_penalty,
        Some(FailureClass::Auth) => value - steps.auth_error_penalty,
        Some(FailureClass::RateLimit) => value - steps.rate_limit_penalty,
        Some(FailureClass::Server) => value - steps.server_error_penalty,
        Some(FailureClass::Model) => value - steps.model_error_penalty,
        Some(FailureClass::Timeout) => value - steps.timeout_penalty,
    };
    // Zero bits stand for "nothing learnt", so a minimum of 0 is kept a hair above it.
    value.min(1.0).max(settings.min_confidence).max(f64::MIN_POSITIVE)
}

fn decayed(value: f64, idle_nanos: u64, settings: &SmartAi) -> f64 {
    let initial = settings.initial_confidence;
    let factor = if settings.time_decay { decay_factor(idle_nanos) } else { 1.0 };
    if factor == 1.0 {
        value
    } else if value >= initial {
        (value * factor).max(initial)
    } else {
        initial - (initial - value) * factor
    }
}

fn decay_factor(idle_nanos: u64) -> f64 {
    let passed = |hours: u64| idle_nanos > hours * HOUR;
    match () {
        () if !passed(1) => 1.0,
        () if !passed(6) => 0.95,
        () if !passed(24) => 0.9,
        () if !passed(72) => 0.8,
        () => 0.7,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::SMART_AI;

    fn hours(hours: f64) -> Instant {
        Instant::START + Duration::from_secs_f64(hours * 3_600.0)
    }

    fn learnt(steps: &[Option<FailureClass>]) -> Confidence {
        let confidence = Confidence::default();
        for step in steps {
            confidence.learn(*step, &SMART_AI, hours(0.0));
        }
        confidence
    }

    #[test]
    fn a_success_adds_and_each_failure_takes_off_its_own_penalty() {
        let read = |steps: &[Option<FailureClass>]| learnt(steps).read(&SMART_AI, hours(0.0));
        assert_eq!(read(&[]), 0.8);
        for (step, expected) in [
            (None, 0.9),
            (Some(FailureClass::Network), 0.5),
            (Some(FailureClass::StreamIncomplete), 0.5),
            (Some(FailureClass::Auth), 0.05),
            (Some(FailureClass::RateLimit), 0.7),
            (Some(FailureClass::Server), 0.6),
            (Some(FailureClass::Model), 0.5),
            (Some(FailureClass::Timeout), 0.6),
        ] {
            assert!((read(&[step]) - expected).abs() < 1e-9, "{step:?}: {}", read(&[step]));
        }
        assert_eq!(read(&[None; 5]), 1.0);
        assert_eq!(read(&[Some(FailureClass::Network); 9]), 0.05);
    }

    #[test]
    fn idle_time_moves_it_towards_the_initial_value_and_not_past_it() {
        let (high, low) = (learnt(&[None; 5]), learnt(&[Some(FailureClass::Auth)]));
        for (idle, expected_high, expected_low) in
            [(1.0, 1.0, 0.05), (6.0, 0.95, 0.0875), (24.0, 0.9, 0.125), (72.0, 0.8, 0.2), (720.0, 0.8, 0.275)]
        {
            let read = |confidence: &Confidence| confidence.read(&SMART_AI, hours(idle));
            assert!((read(&high) - expected_high).abs() < 1e-9, "{idle} h: {}", read(&high));
            assert!((read(&low) - expected_low).abs() < 1e-9, "{idle} h: {}", read(&low));
        }
    }

    #[test]
    fn without_time_decay_it_stays() {
        let settings = SmartAi { time_decay: false, ..SMART_AI };
        assert_eq!(learnt(&[None; 5]).read(&settings, hours(720.0)), 1.0);
    }

    #[test]
    fn a_minimum_of_zero_is_not_taken_for_nothing_learnt() {
        let settings = SmartAi { min_confidence: 0.0, ..SMART_AI };
        let confidence = Confidence::default();
        confidence.learn(Some(FailureClass::Auth), &settings, hours(0.0));
        confidence.learn(Some(FailureClass::Auth), &settings, hours(0.0));
        assert!(confidence.read(&settings, hours(0.0)) < 1e-9);
    }
}
