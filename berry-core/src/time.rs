//! The one notion of "now" that rules use.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the process started, monotonic.
///
/// The edge (berry-api, berry-relay) derives it from the runtime's clock and hands it down; nothing below reads a clock. So a
/// paused clock drives a whole test, and a jump of the wall clock moves no limit and no circuit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment the process started.
    pub const START: Self = Self(0);

    /// From nanoseconds since the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates after some 584 years.
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}

/// Unix time, found from the process's own clock: what the system's clock showed when that was zero.
///
/// All clones are one. Reading it costs one load and no call to the system; [`Epoch::follow`] keeps it right when the system's
/// clock is set, or the machine slept and the process's clock with it.
#[derive(Clone, Debug)]
pub struct Epoch(Arc<AtomicI64>);

impl Epoch {
    /// Up to this the two clocks may differ, so that the time between two readings is not taken for a step.
    pub const TOLERANCE: Duration = Duration::from_millis(100);

    /// For a process whose clock was zero at `start`.
    pub fn new(start: SystemTime) -> Self {
        Self(Arc::new(AtomicI64::new(unix_nanos(start))))
    }

    /// Nanoseconds of Unix time at the zero of the process's clock.
    pub fn nanos(&self) -> i64 {
        // Relaxed: it stands for itself.
        self.0.load(Ordering::Relaxed)
    }

    /// Unix time of a moment, nanoseconds.
    pub fn unix(&self, at: Instant) -> i64 {
        self.nanos().saturating_add_unsigned(at.as_nanos())
    }

    /// The moment at which it is `unix` nanoseconds; the zero of the process's clock for what was before that.
    pub fn moment(&self, unix: i64) -> Instant {
        Instant::from_nanos(u64::try_from(unix.saturating_sub(self.nanos())).unwrap_or(0))
    }

    /// Takes in that the system's clock shows `system` now. By how many nanoseconds Unix time moved, where it did.
    pub fn follow(&self, system: SystemTime, now: Instant) -> Option<i64> {
        let nanos = unix_nanos(system).saturating_sub_unsigned(now.as_nanos());
        let moved = nanos.saturating_sub(self.nanos());
        if u128::from(moved.unsigned_abs()) < Self::TOLERANCE.as_nanos() {
            return None;
        }
        self.0.store(nanos, Ordering::Relaxed);
        Some(moved)
    }
}

fn unix_nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn unix_time_follows_steps_of_the_systems_clock_in_both_directions_and_no_jitter() {
        let start = UNIX_EPOCH + 10 * HOUR;
        let (epoch, now) = (Epoch::new(start), Instant::START + HOUR);
        let hours = |hours: i64| hours * 3_600_000_000_000;
        assert_eq!((epoch.unix(now), epoch.moment(hours(12))), (hours(11), Instant::START + 2 * HOUR));
        assert_eq!(epoch.follow(start + HOUR + Epoch::TOLERANCE / 2, now), None);
        let clone = epoch.clone();
        assert_eq!(epoch.follow(start + 9 * HOUR, now), Some(hours(8)));
        assert_eq!((clone.unix(now), clone.moment(hours(20))), (hours(19), now + HOUR));
        assert_eq!(epoch.follow(UNIX_EPOCH, now), Some(hours(-19)));
        assert_eq!((epoch.unix(now), epoch.moment(hours(-9))), (0, Instant::START));
        assert_eq!(epoch.follow(UNIX_EPOCH - HOUR, now), Some(hours(-1)), "before 1970 too");
        assert_eq!(epoch.unix(now), hours(-1));
    }
}
