//! Waiting out what an upstream asked for. Neither a circuit nor an ejection: nothing is wrong with a backend that cools down.
//!
//! | reason | how long | the endpoint |
//! |---|---|---|
//! | 429 | its Retry-After, at most an hour; without one 5 s | cools down |
//! | another failure with a Retry-After | that, at most 300 s | cools down |
//! | its rate-limit headers say that nothing is left | until they say it is refilled, at most 60 s | cools down |
//! | quota or billing | an hour, or its Retry-After if longer | is parked |
//! | the model is unknown there | ten minutes | is parked |
//!
//! A parked endpoint lets one request through every 30 s when nothing else is left, and the client sees what the upstream says.
//! A "retry after 0" counts as no hint: it must not make a failing backend look better than one that sent none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berry_core::time::Instant;

use crate::word::update;

/// Without a hint.
const DEFAULT: Duration = Duration::from_secs(5);
/// The longest Retry-After of a 429 that is believed.
const RATE_LIMIT_MAX: Duration = Duration::from_secs(3_600);
/// The longest Retry-After of another failure that is believed.
const HINT_MAX: Duration = Duration::from_secs(300);
/// The longest refill time that is believed before any 429 came.
const EXHAUSTED_MAX: Duration = Duration::from_secs(60);
/// Parked for quota or billing.
const QUOTA: Duration = Duration::from_secs(3_600);
/// Parked for an unknown model.
const MODEL: Duration = Duration::from_secs(600);
/// Between two requests that a parked endpoint lets through.
pub(crate) const LET_THROUGH: Duration = Duration::from_secs(30);

/// Why an endpoint is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It answered 429.
    RateLimit,
    /// It failed and named a time.
    RetryAfter,
    /// Its headers say that its limit is used up.
    Exhausted,
    /// The account has no quota or no money left.
    Quota,
    /// It does not know the model.
    Model,
}

impl Reason {
    const ALL: [Self; 5] = [Self::RateLimit, Self::RetryAfter, Self::Exhausted, Self::Quota, Self::Model];

    /// Whether somebody has to do something about it before it goes away.
    pub fn is_parking(self) -> bool {
        matches!(self, Self::Quota | Self::Model)
    }

    /// How long, given what the upstream asked for.
    pub fn time(self, hint: Option<Duration>) -> Duration {
        let hint = hint.filter(|hint| !hint.is_zero());
        match self {
            Self::RateLimit => hint.unwrap_or(DEFAULT).min(RATE_LIMIT_MAX),
            Self::RetryAfter => hint.unwrap_or(DEFAULT).min(HINT_MAX),
            Self::Exhausted => hint.unwrap_or(DEFAULT).min(EXHAUSTED_MAX),
            Self::Quota => hint.unwrap_or(QUOTA).max(QUOTA),
            Self::Model => MODEL,
        }
    }
}

/// A pause of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cooling {
    /// Why.
    pub reason: Reason,
    /// When it is over.
    pub until: Instant,
}

/// The pause of one endpoint, in one word: nanoseconds · 8 + reason. 0 = none ever.
#[derive(Debug, Default)]
pub(crate) struct Cooldown {
    word: AtomicU64,
    /// When a parked endpoint let a request through last, nanoseconds plus one; 0 = never.
    let_through: AtomicU64,
}

impl Cooldown {
    /// The pause that holds now.
    pub(crate) fn read(&self, now: Instant) -> Option<Cooling> {
        let word = self.word.load(Ordering::Relaxed);
        // The time alone, first: most endpoints never paused.
        if word >> 3 <= now.as_nanos() {
            return None;
        }
        unpack(word).filter(|cooling| cooling.until > now)
    }

    /// Pauses until `until`, unless it is paused for longer already.
    pub(crate) fn pause(&self, reason: Reason, until: Instant) {
        // The time stands above the reason, so the larger word is the longer pause.
        self.word.fetch_max(pack(Cooling { reason, until }), Ordering::Relaxed);
    }

    /// Ends the pause.
    pub(crate) fn clear(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    /// When the next request may pass although the endpoint is parked.
    pub(crate) fn next_let_through(&self) -> Instant {
        match self.let_through.load(Ordering::Relaxed) {
            0 => Instant::START,
            last => Instant::from_nanos(last - 1) + LET_THROUGH,
        }
    }

    /// Takes the one request that may pass now.
    pub(crate) fn take_let_through(&self, now: Instant) -> bool {
        update(&self.let_through, |last| {
            let due = last == 0 || Instant::from_nanos(last - 1) + LET_THROUGH <= now;
            due.then(|| (now.as_nanos().saturating_add(1), ()))
        })
        .is_some()
    }
}

fn pack(cooling: Cooling) -> u64 {
    let nanos = cooling.until.as_nanos().min(u64::MAX >> 3);
    nanos << 3 | cooling.reason as u64
}

fn unpack(word: u64) -> Option<Cooling> {
    let reason = *Reason::ALL.get((word & 7) as usize)?;
    (word != 0).then_some(Cooling { reason, until: Instant::from_nanos(word >> 3) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECS: fn(u64) -> Duration = Duration::from_secs;

    fn at(secs: u64) -> Instant {
        Instant::START + SECS(secs)
    }

    #[test]
    fn retry_after_is_obeyed_within_bounds_and_zero_is_no_hint() {
        for (reason, hint, expected) in [
            (Reason::RateLimit, None, 5),
            (Reason::RateLimit, Some(0), 5),
            (Reason::RateLimit, Some(1), 1),
            (Reason::RateLimit, Some(90_000), 3_600),
            (Reason::RetryAfter, Some(20), 20),
            (Reason::RetryAfter, Some(9_000), 300),
            (Reason::Exhausted, Some(600), 60),
            (Reason::Quota, None, 3_600),
            (Reason::Quota, Some(7_200), 7_200),
            (Reason::Model, Some(1), 600),
        ] {
            assert_eq!(reason.time(hint.map(SECS)), SECS(expected), "{reason:?} {hint:?}");
        }
    }

    #[test]
    fn the_longer_pause_wins_and_ends_at_its_time() {
        let cooldown = Cooldown::default();
        cooldown.pause(Reason::Quota, at(100));
        cooldown.pause(Reason::RateLimit, at(10));
        let held = Cooling { reason: Reason::Quota, until: at(100) };
        assert_eq!(cooldown.read(at(99)), Some(held));
        assert_eq!(cooldown.read(at(100)), None);
        cooldown.clear();
        assert_eq!(cooldown.read(at(1)), None);
    }

    #[test]
    fn a_parked_endpoint_lets_one_through_every_thirty_seconds() {
        let cooldown = Cooldown::default();
        assert!(cooldown.take_let_through(at(0)));
        assert!(!cooldown.take_let_through(at(29)));
        assert_eq!(cooldown.next_let_through(), at(30));
        assert!(cooldown.take_let_through(at(30)));
        assert!(!cooldown.take_let_through(at(31)));
    }
}
