//! Every interleaving of the shared words, tried by loom in place of std's atomics.

use std::sync::atomic::Ordering;
use std::time::Duration;

use berry_core::config::snapshot::Circuit as Settings;
use berry_core::time::Instant;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use crate::breaker::{Breaker, Verdict};
use crate::retry_budget::RetryBudget;
use crate::slots::Slots;
use crate::word::Word;

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    fn load(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed).map(|_| ())
    }
}

const SETTINGS: Settings = Settings { failure_threshold: 2, timeout: Duration::from_secs(60) };

fn at(secs: u64) -> Instant {
    Instant::START + Duration::from_secs(secs)
}

/// Runs `work` in two threads and here, and gives what each returned.
fn three<T: Send + 'static>(work: impl Fn() -> T + Clone + Send + 'static) -> [T; 3] {
    let others = [0, 1].map(|_| thread::spawn(work.clone()));
    let own = work();
    let [a, b] = others.map(|thread| thread.join().unwrap());
    [a, b, own]
}

fn opened() -> Breaker<AtomicU64> {
    let breaker = Breaker::<AtomicU64>::new();
    for _ in 0..2 {
        breaker.fail(breaker.pass(), Verdict::Strike, &SETTINGS, at(0), 0.5);
    }
    breaker
}

#[test]
fn exactly_one_of_many_gets_the_half_open_trial() {
    loom::model(|| {
        let breaker = Arc::new(opened());
        let trials = three(move || breaker.take_trial(at(60), at(70)).is_some());
        assert_eq!(trials.iter().filter(|given| **given).count(), 1);
    });
}

#[test]
fn a_trial_that_is_given_back_is_given_out_once_more() {
    loom::model(|| {
        let breaker = Arc::new(opened());
        let first = breaker.take_trial(at(60), at(70)).unwrap();
        let giver = {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || breaker.return_trial(first))
        };
        let taker = {
            let breaker = Arc::clone(&breaker);
            thread::spawn(move || breaker.take_trial(at(61), at(71)).is_some())
        };
        let here = breaker.take_trial(at(61), at(71)).is_some();
        giver.join().unwrap();
        let there = taker.join().unwrap();
        assert!(!(here && there), "two trials at once");
        let left = breaker.take_trial(at(61), at(71)).is_some();
        assert_eq!(u8::from(here) + u8::from(there) + u8::from(left), 1);
    });
}

#[test]
fn no_failure_is_lost_and_the_circuit_opens_once() {
    loom::model(|| {
        let breaker = Arc::new(Breaker::<AtomicU64>::new());
        let pass = breaker.pass();
        let opened = {
            let breaker = Arc::clone(&breaker);
            three(move || breaker.fail(pass, Verdict::Strike, &SETTINGS, at(0), 0.5))
        };
        assert_eq!(opened.iter().filter(|opened| **opened).count(), 1);
        assert_eq!(breaker.read().trial_due(), Some(at(60)));
    });
}

#[test]
fn slots_are_never_overbooked() {
    loom::model(|| {
        let slots = Arc::new(Slots::<AtomicU64>::new());
        let taken = {
            let slots = Arc::clone(&slots);
            three(move || slots.take(Some(2)))
        };
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 2);
        assert_eq!(slots.taken(), 2);
    });
}

#[test]
fn no_slot_is_lost_between_takers_and_givers() {
    loom::model(|| {
        let slots = Arc::new(Slots::<AtomicU64>::new());
        assert!(slots.take(Some(2)));
        let other = Arc::clone(&slots);
        let giver = thread::spawn(move || other.give_back());
        assert!(slots.take(Some(2)));
        slots.give_back();
        giver.join().unwrap();
        assert_eq!(slots.taken(), 0);
    });
}

#[test]
fn a_retry_is_spent_once() {
    loom::model(|| {
        let budget = Arc::new(RetryBudget::<AtomicU64>::new());
        for _ in 0..8 {
            assert!(budget.withdraw(at(0)));
        }
        let spent = {
            let budget = Arc::clone(&budget);
            three(move || budget.withdraw(at(0)))
        };
        assert_eq!(spent.iter().filter(|spent| **spent).count(), 2);
    });
}

#[test]
fn no_deposit_is_lost() {
    loom::model(|| {
        let budget = Arc::new(RetryBudget::<AtomicU64>::new());
        for _ in 0..10 {
            assert!(budget.withdraw(at(0)));
        }
        for _ in 0..2 {
            budget.deposit(at(0));
        }
        three({
            let budget = Arc::clone(&budget);
            move || budget.deposit(at(0))
        });
        assert_eq!(budget.left(at(0)), 1);
    });
}
