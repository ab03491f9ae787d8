//! How many retries a model may make, so that an outage is not amplified.
//!
//! Allowed per second: the larger of a fifth of that second's requests and ten. What is not used is saved, up to 100; a model
//! starts with 10. When everything fails at 100 requests a second, that is at most 1.2 attempts for each request.
//!
//! Counted in fifths of a retry: a request earns one unit, a second earns fifty (one every 20 ms), a retry costs five. Within
//! one second the two ways of earning do not add up; the larger one counts. The whole state is one word.
//! Sources: Finagle's retry budget; tower's `TpsBudget`; SRE book, chapter 22.

use std::sync::atomic::AtomicU64;

use berry_core::time::Instant;

use crate::word::{Word, update};

/// Units that a retry costs.
const COST: u64 = 5;
/// Units at the start.
const START: u64 = 10 * COST;
/// Units at most.
const MAX: u64 = 100 * COST;
/// Ticks, and so units from time alone, in a second.
const TICKS: u64 = 50;
/// Requests of one second that are counted.
const REQUESTS_MAX: u64 = (1 << 19) - 1;

/// The state behind the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Purse {
    units: u64,
    second: u64,
    /// Of the second, when it was last looked at.
    tick: u64,
    /// In this second.
    requests: u64,
}

impl Purse {
    fn new(ticks: u64) -> Self {
        Self { units: START, second: ticks / TICKS, tick: ticks % TICKS, requests: 0 }
    }

    /// What this second has earned so far.
    fn earned(&self) -> u64 {
        self.tick.max(self.requests)
    }

    /// Brings it up to `now`, with `requests` more.
    fn advance(mut self, now: u64, requests: u64) -> Self {
        let (second, tick) = (now / TICKS, now % TICKS);
        let before = self.earned();
        let mut gain = 0;
        if second > self.second {
            let rest_of_last = TICKS.max(self.requests) - before;
            gain = rest_of_last + (second - self.second - 1).saturating_mul(TICKS);
            self = Self { second, tick: 0, requests: 0, ..self };
        }
        let before = self.earned();
        // A clock reading from before another thread's moves nothing back.
        if second == self.second {
            self.tick = self.tick.max(tick);
        }
        self.requests = (self.requests + requests).min(REQUESTS_MAX);
        gain = gain.saturating_add(self.earned() - before);
        self.units = self.units.saturating_add(gain).min(MAX);
        self
    }

    fn pack(self) -> u64 {
        let second = self.second & ((1 << 30) - 1);
        // Plus one, so that no state packs to 0, which stands for "not yet looked at".
        (self.units + 1) << 55 | second << 25 | self.tick << 19 | self.requests
    }

    fn unpack(word: u64, now: u64) -> Self {
        if word == 0 {
            return Self::new(now);
        }
        let field = |from_low: u32, bits: u32| (word >> from_low) & ((1 << bits) - 1);
        Self { units: field(55, 9) - 1, second: field(25, 30), tick: field(19, 6), requests: field(0, 19) }
    }
}

/// The retries that are left.
#[derive(Debug)]
pub struct RetryBudget<W = AtomicU64>(W);

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(private_bounds, reason = "the word is std's everywhere but in the model tests")]
impl<W: Word> RetryBudget<W> {
    /// A budget that begins when it is first used.
    pub fn new() -> Self {
        Self(W::new(0))
    }

    /// Counts a request.
    pub fn deposit(&self, now: Instant) {
        let now = ticks(now);
        update(&self.0, |word| Some((Purse::unpack(word, now).advance(now, 1).pack(), ())));
    }

    /// Takes a retry out, if one is left.
    pub fn withdraw(&self, now: Instant) -> bool {
        let now = ticks(now);
        let taken = update(&self.0, |word| {
            let mut purse = Purse::unpack(word, now).advance(now, 0);
            let enough = purse.units >= COST;
            purse.units -= if enough { COST } else { 0 };
            Some((purse.pack(), enough))
        });
        taken.unwrap_or(false)
    }

    /// Puts a retry back that was taken out and not made.
    pub fn put_back(&self, now: Instant) {
        let now = ticks(now);
        update(&self.0, |word| {
            let mut purse = Purse::unpack(word, now).advance(now, 0);
            purse.units = (purse.units + COST).min(MAX);
            Some((purse.pack(), ()))
        });
    }

    /// Whole retries that are left now.
    pub fn left(&self, now: Instant) -> u64 {
        let now = ticks(now);
        Purse::unpack(self.0.load(), now).advance(now, 0).units / COST
    }
}

fn ticks(now: Instant) -> u64 {
    now.as_nanos() / (1_000_000_000 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Instant {
        Instant::START + Duration::from_millis(ms)
    }

    fn drain(budget: &RetryBudget, now: Instant) -> u32 {
        let mut taken = 0;
        while budget.withdraw(now) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn starts_with_ten_whenever_that_is_and_saves_at_most_a_hundred() {
        let budget = RetryBudget::<AtomicU64>::new();
        assert_eq!(drain(&budget, at(3_600_000)), 10);
        assert_eq!(drain(&budget, at(7_200_000)), 100);
    }

    #[test]
    fn ten_a_second_without_traffic_and_a_fifth_of_much_traffic_but_not_both() {
        for (per_second, expected) in [(0, 10), (30, 10), (50, 10), (100, 20), (400, 80)] {
            let budget = RetryBudget::<AtomicU64>::new();
            drain(&budget, at(0));
            for i in 0..per_second {
                budget.deposit(at(i * 1_000 / per_second));
            }
            assert_eq!(drain(&budget, at(1_000)), expected, "{per_second} requests");
        }
    }

    #[test]
    fn when_everything_fails_a_hundred_requests_a_second_make_twelve_hundred_attempts_in_ten() {
        let budget = RetryBudget::<AtomicU64>::new();
        let (mut requests, mut retries) = (0_u32, 0_u32);
        for ms in (0..60_000).step_by(10) {
            budget.deposit(at(ms));
            requests += 1;
            while budget.withdraw(at(ms)) {
                retries += 1;
            }
        }
        assert!(f64::from(retries) <= f64::from(requests) * 0.2 + 10.0, "{retries} for {requests}");
    }

    #[test]
    fn an_older_clock_reading_gives_nothing_twice() {
        let budget = RetryBudget::<AtomicU64>::new();
        drain(&budget, at(0));
        assert_eq!(drain(&budget, at(500)), 5);
        assert_eq!(drain(&budget, at(100)), 0);
        assert_eq!(drain(&budget, at(500)), 0);
    }

    #[test]
    fn a_retry_that_was_not_made_is_put_back_and_nothing_beyond_the_most() {
        let budget = RetryBudget::<AtomicU64>::new();
        assert_eq!(drain(&budget, at(0)), 10);
        budget.put_back(at(0));
        assert_eq!(drain(&budget, at(0)), 1);
        assert_eq!(budget.left(at(3_600_000)), 100);
        budget.put_back(at(3_600_000));
        assert_eq!(drain(&budget, at(3_600_000)), 100);
    }

    proptest::proptest! {
        #[test]
        fn a_purse_survives_its_word(units in 0..=MAX, second in 0_u64..1 << 30, tick in 0..TICKS, requests in 0..=REQUESTS_MAX) {
            let purse = Purse { units, second, tick, requests };
            proptest::prop_assert_eq!(Purse::unpack(purse.pack(), 0), purse);
        }
    }
}
