//! Latency and success as they are now, rather than on average since the start.
//!
//! **Peak EWMA.** A figure `v` that is `dt` old reads as `v·w` with `w = e^(−dt/τ)`, τ = 3 s: what was not looked at for a while
//! fades towards zero, so a slow endpoint is seen again. A sample `s` replaces a lower reading at once (trouble shows
//! immediately) and pulls down a higher one slowly: `s + (v·w − s)·w`. At τ = 3 s a figure sixty times too high has faded after
//! `3·ln 60` = 12.3 s; with the ten seconds that are common between fast servers it would take 41. A failure is recorded as
//! `max(elapsed, 5 s, Retry-After)`, at most 300 s, so that failing fast never looks like being fast.
//! Source: Finagle's peak EWMA; tower's and linkerd's descend from it.
//!
//! **Window.** Successes and failures of the last ten seconds in slots of one second.
//!
//! Not here: percentiles (hedging brings them), and weighting a sample by the number of prompt tokens, which would be fairer to
//! backends that get the long prompts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berry_core::time::Instant;

/// How fast a latency fades.
const TAU: Duration = Duration::from_secs(3);
/// A failure counts as at least this slow.
const PENALTY: Duration = Duration::from_secs(5);
/// And as at most this slow.
const PENALTY_MAX: Duration = Duration::from_secs(300);

/// Peak-sensitive, fading average of the time to first token.
///
/// Readers take no lock: they may see a new value with the time of the one before, which fades it by a moment more or less.
/// Writers are serialised by the endpoint.
#[derive(Debug, Default)]
pub(crate) struct PeakEwma {
    /// Nanoseconds, as of `at`; 0 = never measured.
    nanos: AtomicU64,
    /// When.
    at: AtomicU64,
}

impl PeakEwma {
    /// The faded figure; `None` when nothing was ever measured.
    pub(crate) fn read_nanos(&self, now: Instant) -> Option<u64> {
        let nanos = self.nanos.load(Ordering::Relaxed);
        let age = now.as_nanos().saturating_sub(self.at.load(Ordering::Relaxed));
        (nanos != 0).then(|| faded(nanos, age))
    }

    /// The figure as it was when the last sample came; `None` when nothing was ever measured.
    pub(crate) fn last_nanos(&self) -> Option<u64> {
        Some(self.nanos.load(Ordering::Relaxed)).filter(|nanos| *nanos != 0)
    }

    /// Takes a sample in.
    pub(crate) fn record(&self, sample: Duration, now: Instant) {
        let sample = nanos(sample).max(1);
        let old = self.nanos.load(Ordering::Relaxed);
        let age = now.as_nanos().saturating_sub(self.at.load(Ordering::Relaxed));
        let new = if old == 0 { sample } else { folded(old, age, sample) };
        self.nanos.store(new, Ordering::Relaxed);
        self.at.store(now.as_nanos(), Ordering::Relaxed);
    }
}

/// What a failure after `elapsed` counts as.
pub(crate) fn penalised(elapsed: Duration, retry_after: Option<Duration>) -> Duration {
    elapsed.max(PENALTY).max(retry_after.unwrap_or_default()).min(PENALTY_MAX)
}

/// What is left after an age: e^(−age/τ), as 2^(−x).
///
/// The whole part of x goes into the exponent, the rest through a cubic that is right at both ends and within 0.02 % between
/// them. A choice among a thousand asks this a thousand times, and the library's exponential takes several times as long.
fn remaining(age_nanos: u64) -> f64 {
    const PER_NANO: f64 = std::f64::consts::LOG2_E / TAU.as_nanos() as f64;
    // Signed, which converts in one instruction; what is out of its range is older than the program.
    let x = age_nanos as i64 as f64 * PER_NANO;
    if !(0.0..1_000.0).contains(&x) {
        return 0.0;
    }
    let whole = x as i64;
    let f = x - whole as f64;
    let two_to_minus_f = 1.0 + f * (-0.691_6 + f * (0.231_0 - f * 0.039_4));
    two_to_minus_f * f64::from_bits(((1_023 - whole) as u64) << 52)
}

fn faded(nanos: u64, age_nanos: u64) -> u64 {
    if age_nanos == 0 {
        return nanos;
    }
    // It was measured once, so it never reads as unmeasured.
    ((nanos as i64 as f64 * remaining(age_nanos)) as i64 as u64).max(1)
}

fn folded(old: u64, age_nanos: u64, sample: u64) -> u64 {
    let old = faded(old, age_nanos);
    if sample >= old {
        return sample;
    }
    sample + ((old - sample) as f64 * remaining(age_nanos)) as u64
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Successes and failures of the last ten seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    slots: [Slot; Self::SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    good: u32,
    bad: u32,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Successes.
    pub good: u32,
    /// Failures.
    pub bad: u32,
}

impl Tally {
    /// Attempts.
    pub fn total(self) -> u32 {
        self.good + self.bad
    }

    /// Share of successes; `None` of nothing.
    pub fn success_rate(self) -> Option<f64> {
        (self.total() > 0).then(|| f64::from(self.good) / f64::from(self.total()))
    }
}

impl Window {
    const SLOTS: usize = 10;

    /// Counts one attempt.
    pub(crate) fn record(&mut self, good: bool, now: Instant) {
        let second = second(now);
        let slot = &mut self.slots[second as usize % Self::SLOTS];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot.good += u32::from(good);
        slot.bad += u32::from(!good);
    }

    /// The attempts of this second and the nine before it.
    pub(crate) fn tally(&self, now: Instant) -> Tally {
        let second = second(now);
        let recent = |slot: &&Slot| slot.second <= second && second - slot.second < Self::SLOTS as u64;
        self.slots
            .iter()
            .filter(recent)
            .fold(Tally::default(), |sum, slot| Tally { good: sum.good + slot.good, bad: sum.bad + slot.bad })
    }
}

fn second(now: Instant) -> u64 {
    now.as_nanos() / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn at(ms: u64) -> Instant {
        Instant::START + MS(ms)
    }

    fn read(ewma: &PeakEwma, ms: u64) -> Option<Duration> {
        ewma.read_nanos(at(ms)).map(Duration::from_nanos)
    }

    #[test]
    fn a_slower_sample_shows_at_once_and_a_faster_one_slowly() {
        let ewma = PeakEwma::default();
        assert_eq!(read(&ewma, 0), None);
        ewma.record(MS(100), at(0));
        ewma.record(MS(300), at(10));
        assert_eq!(read(&ewma, 10), Some(MS(300)));
        ewma.record(MS(100), at(20));
        let read = read(&ewma, 20).unwrap();
        assert!(read > MS(290) && read < MS(300), "{read:?}");
    }

    #[test]
    fn fading_is_exponential_to_two_hundredths_of_a_percent() {
        for ms in 0..60_000 {
            let exact = (-(ms as f64) / 3_000.0).exp();
            let left = remaining(ms * 1_000_000);
            assert!((left / exact - 1.0).abs() < 2e-4, "{ms} ms: {left} for {exact}");
        }
        assert_eq!(remaining(u64::MAX), 0.0);
    }

    #[test]
    fn a_stale_figure_sixty_times_too_high_fades_within_thirteen_seconds() {
        let ewma = PeakEwma::default();
        ewma.record(MS(300), at(0));
        assert!(read(&ewma, 12_000).unwrap() > MS(5));
        assert!(read(&ewma, 12_500).unwrap() < MS(5));
        // Seen again and healed, it is believed at once.
        ewma.record(MS(5), at(12_500));
        assert!(read(&ewma, 12_500).unwrap() < Duration::from_micros(5_100));
    }

    #[test]
    fn a_measured_figure_never_fades_into_unmeasured() {
        let ewma = PeakEwma::default();
        ewma.record(Duration::ZERO, at(0));
        assert_eq!(read(&ewma, 1_000_000_000), Some(Duration::from_nanos(1)));
    }

    #[test]
    fn a_fast_failure_counts_as_slow() {
        let secs = Duration::from_secs;
        assert_eq!(penalised(MS(2), None), secs(5));
        assert_eq!(penalised(secs(8), None), secs(8));
        assert_eq!(penalised(MS(2), Some(secs(60))), secs(60));
        assert_eq!(penalised(MS(2), Some(secs(9_000))), secs(300));
    }

    #[test]
    fn a_window_forgets_after_ten_seconds() {
        let mut window = Window::default();
        for second in 0..15 {
            window.record(second % 2 == 0, at(second * 1_000));
        }
        assert_eq!(window.tally(at(14_999)), Tally { good: 5, bad: 5 });
        assert_eq!(window.tally(at(20_000)), Tally { good: 2, bad: 2 });
        assert_eq!(window.tally(at(40_000)).success_rate(), None);
    }
}
