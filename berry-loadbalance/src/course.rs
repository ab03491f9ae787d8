//! The attempts of one request: what may still be tried, where, and when.
//!
//! Whoever carries requests out (the relay, the simulator) asks the same rules: another backend first; a backend that was tried
//! before only when no other is left, within `max_internal_retries`, after a short Retry-After or a back-off with full jitter;
//! never more attempts than `max_retries` beyond the first, and none with next to no time left. The model's retry budget
//! ([`crate::retry_budget`]) is asked beside this.

use std::time::Duration;

use berry_core::config::snapshot::Model;
use berry_core::time::Instant;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

use crate::outcome::FailureClass;

/// No attempt starts with less time left than this.
const LEAST_TIME: Duration = Duration::from_millis(50);
/// First step of the back-off before a backend is tried again.
const BACKOFF_BASE: Duration = Duration::from_millis(50);
/// Longest back-off.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Longest Retry-After that is waited out.
const RETRY_AFTER_WAIT_MAX: Duration = Duration::from_secs(2);

/// Where a request may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nowhere: it would end the same way.
    No,
    /// At another backend.
    Elsewhere,
    /// At another backend, or here after a pause.
    Anywhere,
    /// At a backend with a larger context window.
    LargerWindow,
}

/// How many attempts a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Attempts beyond the first, over all backends.
    pub max_retries: u32,
    /// Of these, how many may repeat a backend.
    pub max_internal_retries: u32,
}

/// An attempt that brought nothing for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setback {
    /// Place of its backend in the pool.
    pub position: usize,
    /// Where it may go better.
    pub retry: Retry,
    /// What the backend did; `None` = it was not at fault.
    pub class: Option<FailureClass>,
    /// When the backend wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Setback {
    /// How long the backend is to be left alone before it is tried again in the same request; `None` where that is too long,
    /// or not known: a rate limit that does not say when it is over.
    fn wait_before_repeat(&self) -> Option<Duration> {
        let unknown = (self.class != Some(FailureClass::RateLimit)).then_some(Duration::ZERO);
        self.retry_after.or(unknown).filter(|wait| *wait <= RETRY_AFTER_WAIT_MAX)
    }
}

/// What the attempts of one request have come to so far.
#[derive(Clone, Debug)]
pub struct Course {
    allowance: Allowance,
    /// Positions of the attempts made, in order.
    made: SmallVec<[usize; 4]>,
    /// Positions that are not to be chosen now.
    barred: SmallVec<[usize; 4]>,
    /// Of these, the ones that may be tried again, and when at the earliest.
    repeatable: SmallVec<[(usize, Instant); 4]>,
    /// Attempts at a backend that was tried before.
    repeats: u32,
    /// The window that was too small.
    window_above: Option<u64>,
}

impl Course {
    /// Before the first attempt.
    pub fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            made: SmallVec::new(),
            barred: SmallVec::new(),
            repeatable: SmallVec::new(),
            repeats: 0,
            window_above: None,
        }
    }

    /// Positions that are not to be chosen now, for [`crate::eligibility::Demand::tried`].
    pub fn barred(&self) -> &[usize] {
        &self.barred
    }

    /// Bars further positions, for a reason of the request's own.
    pub fn bar(&mut self, positions: impl Iterator<Item = usize>) {
        self.barred.extend(positions);
    }

    /// Only a context window larger than this will do, for [`crate::eligibility::Hints::window_above`].
    pub fn window_above(&self) -> Option<u64> {
        self.window_above
    }

    /// Whether a next attempt may follow this setback, with `left` of the request's time. Ask before [`Course::note`], and the
    /// retry budget after it said yes.
    pub fn may_go_on(&self, setback: &Setback, left: Duration) -> bool {
        let made_with_this = self.made.len() as u64 + 1;
        setback.retry != Retry::No && made_with_this <= u64::from(self.allowance.max_retries) && left >= LEAST_TIME
    }

    /// Takes in an attempt that failed.
    pub fn note(&mut self, setback: &Setback, model: &Model, now: Instant) {
        let position = setback.position;
        self.repeats += u32::from(self.made.contains(&position));
        self.made.push(position);
        self.barred.push(position);
        match setback.retry {
            Retry::Anywhere => {
                self.repeatable.extend(setback.wait_before_repeat().map(|wait| (position, now + wait)));
            }
            Retry::LargerWindow => self.bar_windows_up_to(model.backends[position].limits.context_window, model),
            Retry::Elsewhere | Retry::No => {}
        }
        self.bar_exhausted_provider(position, model);
        if self.repeats >= self.allowance.max_internal_retries {
            self.repeatable.clear();
            self.barred.extend_from_slice(&self.made);
        }
    }

    /// Leaves the backends whose window is known to be larger; where it is not known, asking would be guessing.
    fn bar_windows_up_to(&mut self, too_small: Option<u64>, model: &Model) {
        let is_larger = |window: Option<u64>| too_small.zip(window).is_some_and(|(small, window)| window > small);
        let windows = model.backends.iter().map(|backend| backend.limits.context_window).enumerate();
        self.barred.extend(windows.filter(|(_, window)| !is_larger(*window)).map(|(position, _)| position));
        self.window_above = too_small;
    }

    /// A provider's own `max_retries` counts its attempts over all of its backends.
    fn bar_exhausted_provider(&mut self, position: usize, model: &Model) {
        let provider = &model.backends[position].provider;
        let at_provider = |position: &usize| model.backends[*position].provider.id == provider.id;
        let made = self.made.iter().filter(|position| at_provider(position)).count();
        if provider.max_retries.is_some_and(|max| made > max as usize) {
            self.repeatable.retain(|(position, _)| !at_provider(position));
            self.barred.extend((0..model.backends.len()).filter(at_provider));
        }
    }

    /// How long to wait before a backend is tried again, when no other is left: a short Retry-After, or a back-off with full
    /// jitter. `None` when nothing may be repeated, or not in time.
    pub fn pause_before_repeat(&self, now: Instant, left: Duration, rng: &mut SmallRng) -> Option<Duration> {
        if self.repeats >= self.allowance.max_internal_retries {
            return None;
        }
        let soonest = self.repeatable.iter().map(|(_, at)| *at).min()?;
        let asked = soonest.since(now);
        let backoff = BACKOFF_BASE.saturating_mul(1 << self.repeats.min(10)).min(BACKOFF_MAX);
        let pause = if asked.is_zero() { backoff.mul_f64(rng.random::<f64>()) } else { asked };
        (pause + LEAST_TIME < left).then_some(pause)
    }

    /// Opens what may be repeated by now.
    pub fn allow_repeats(&mut self, now: Instant) {
        let (due, later): (SmallVec<[_; 4]>, _) = self.repeatable.iter().copied().partition(|(_, at)| *at <= now);
        self.repeatable = later;
        self.barred.retain(|position| due.iter().all(|(due, _)| due != position));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::SeedableRng as _;

    use super::*;
    use crate::testing::{Rig, at, secs};

    const DEFAULT: Allowance = Allowance { max_retries: 3, max_internal_retries: 2 };
    const LONG: Duration = Duration::from_secs(900);

    fn model(backends: usize) -> Arc<Model> {
        Arc::clone(Rig::unprobed("random", backends).pool().model())
    }

    fn failed(position: usize) -> Setback {
        Setback { position, retry: Retry::Anywhere, class: Some(FailureClass::Server), retry_after: None }
    }

    fn limited(position: usize, retry_after: Option<Duration>) -> Setback {
        Setback { class: Some(FailureClass::RateLimit), retry_after, ..failed(position) }
    }

    fn pause(course: &Course, left: Duration) -> Option<Duration> {
        course.pause_before_repeat(at(10), left, &mut SmallRng::seed_from_u64(1))
    }

    #[test]
    fn attempts_end_at_max_retries_at_a_final_word_and_shortly_before_the_deadline() {
        let (model, mut course) = (model(5), Course::new(DEFAULT));
        for position in 0..3 {
            assert!(course.may_go_on(&failed(position), LONG));
            course.note(&failed(position), &model, at(10));
        }
        assert!(!course.may_go_on(&failed(3), LONG), "three retries were made");
        let course = Course::new(DEFAULT);
        assert!(!course.may_go_on(&Setback { retry: Retry::No, ..failed(0) }, LONG));
        assert!(!course.may_go_on(&failed(0), Duration::from_millis(49)));
    }

    #[test]
    fn a_tried_backend_is_barred_until_its_pause_is_over() {
        let (model, mut course) = (model(2), Course::new(DEFAULT));
        course.note(&limited(0, Some(secs(2))), &model, at(10));
        assert_eq!((course.barred(), pause(&course, LONG)), (&[0][..], Some(secs(2))));
        course.allow_repeats(at(11));
        assert_eq!(course.barred(), [0]);
        course.allow_repeats(at(12));
        assert!(course.barred().is_empty());
    }

    #[test]
    fn a_long_or_unknown_rate_limit_is_not_waited_out() {
        for retry_after in [None, Some(Duration::from_millis(2_001))] {
            let mut course = Course::new(DEFAULT);
            course.note(&limited(0, retry_after), &model(1), at(10));
            assert_eq!(pause(&course, LONG), None, "{retry_after:?}");
        }
    }

    #[test]
    fn back_off_is_jittered_grows_and_stays_within_the_time_that_is_left() {
        let (model, mut course) = (model(1), Course::new(Allowance { max_internal_retries: 9, ..DEFAULT }));
        course.note(&failed(0), &model, at(10));
        assert!(pause(&course, LONG).is_some_and(|pause| pause <= BACKOFF_BASE));
        assert_eq!(pause(&course, LEAST_TIME), None);
        (0..8).for_each(|_| course.note(&failed(0), &model, at(10)));
        let longest = (0..100).map(|seed| course.pause_before_repeat(at(10), LONG, &mut SmallRng::seed_from_u64(seed)));
        let longest = longest.max().flatten().unwrap();
        assert!(longest > secs(1) && longest <= BACKOFF_MAX, "{longest:?}");
    }

    #[test]
    fn repeats_end_at_max_internal_retries() {
        let (model, mut course) = (model(1), Course::new(DEFAULT));
        for repeats in 0..3 {
            course.note(&failed(0), &model, at(10));
            assert_eq!(pause(&course, LONG).is_some(), repeats < 2, "after {repeats} repeats");
            course.allow_repeats(at(11));
        }
        assert!(course.barred().contains(&0));
    }
}
