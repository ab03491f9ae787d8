//! Ejection of an endpoint that answers but fails too often: the gray failure that never fails five times in a row.
//!
//! Ejected when at most half of at least 20 attempts in the last ten seconds succeeded. (At most, and not less than: a backend
//! that fails every second request is the very case.) The first ejection lasts 30 s, the next one twice as long, at most 300 s,
//! each with ±10 % of jitter; after as much good time as the last one took, counting starts afresh.
//!
//! Bounded: an ejection only moves traffic to somebody better. When no other endpoint of the pool is left, ejected ones are
//! chosen among as if nothing had happened ([`crate::eligibility`]), so at most all but one are ever out for this reason.

use std::time::Duration;

use berry_core::time::Instant;

use crate::signal::Tally;

/// Attempts below which a rate says nothing.
const ATTEMPTS_MIN: u32 = 20;
/// The first ejection.
const BASE: Duration = Duration::from_secs(30);
/// The longest ejection.
const LONGEST: Duration = Duration::from_secs(300);

/// How often an endpoint was ejected in a row, and until when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ejections {
    in_a_row: u32,
    until: Instant,
}

impl Ejections {
    /// Looks at the window after a failure. Gives the end of an ejection that begins now.
    pub(crate) fn judge(&mut self, tally: Tally, now: Instant, jitter: f64) -> Option<Instant> {
        let failing = tally.total() >= ATTEMPTS_MIN && tally.bad >= tally.good;
        if !failing || now < self.until {
            return None;
        }
        let forgiven = now.since(self.until) >= time(self.in_a_row);
        self.in_a_row = if forgiven { 1 } else { self.in_a_row + 1 };
        self.until = now + jittered(time(self.in_a_row), jitter);
        Some(self.until)
    }
}

fn time(in_a_row: u32) -> Duration {
    match in_a_row {
        0 => Duration::ZERO,
        n => BASE.saturating_mul(1 << (n - 1).min(8)).min(LONGEST),
    }
}

/// `time` ± 10 %, for a `jitter` from 0 to below 1.
pub(crate) fn jittered(time: Duration, jitter: f64) -> Duration {
    time.mul_f64(0.9 + 0.2 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECS: fn(u64) -> Duration = Duration::from_secs;
    /// The jitter that changes nothing.
    const MIDDLE: f64 = 0.5;

    fn at(secs: u64) -> Instant {
        Instant::START + SECS(secs)
    }

    #[test]
    fn half_of_twenty_is_ejected_and_less_evidence_or_a_better_rate_is_not() {
        for (good, bad, expected) in [(10, 10, true), (9, 10, false), (11, 10, false), (0, 20, true), (0, 19, false)] {
            let ejected = Ejections::default().judge(Tally { good, bad }, at(5), MIDDLE).is_some();
            assert_eq!(ejected, expected, "{good} good, {bad} bad");
        }
    }

    #[test]
    fn repeated_ejections_last_longer_and_are_forgiven_after_a_good_time() {
        let bad = Tally { good: 0, bad: 20 };
        let mut ejections = Ejections::default();
        assert_eq!(ejections.judge(bad, at(0), MIDDLE), Some(at(30)));
        assert_eq!(ejections.judge(bad, at(10), MIDDLE), None, "already out");
        assert_eq!(ejections.judge(bad, at(31), MIDDLE), Some(at(91)));
        assert_eq!(ejections.judge(bad, at(91), MIDDLE), Some(at(211)));
        assert_eq!(ejections.judge(bad, at(331), MIDDLE), Some(at(361)));
    }

    #[test]
    fn jitter_is_a_tenth_to_either_side() {
        assert_eq!(jittered(SECS(100), 0.0), SECS(90));
        assert!(jittered(SECS(100), 0.999_999) < SECS(110));
    }
}
