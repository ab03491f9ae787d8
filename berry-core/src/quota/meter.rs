//! All limits of one [`RateLimit`] together: checked first, then counted.

use std::time::Duration;

use super::shared::{Shared, Sharing, Taken};
use super::window::{AmountWindow, RequestWindow};
use crate::config::snapshot::RateLimit;
use crate::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A limit of a [`RateLimit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// `requests_per_minute`
    RequestsPerMinute,
    /// `requests_per_hour`
    RequestsPerHour,
    /// `requests_per_day`
    RequestsPerDay,
    /// `tokens_per_minute`
    TokensPerMinute,
    /// `tokens_per_day`
    TokensPerDay,
    /// `max_concurrent`
    MaxConcurrent,
}

impl LimitKind {
    const ALL: [Self; 6] = [
        Self::RequestsPerMinute,
        Self::RequestsPerHour,
        Self::RequestsPerDay,
        Self::TokensPerMinute,
        Self::TokensPerDay,
        Self::MaxConcurrent,
    ];

    /// The limit with this key.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key() == key)
    }

    /// The key in the configuration.
    pub const fn key(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::RequestsPerHour => "requests_per_hour",
            Self::RequestsPerDay => "requests_per_day",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::TokensPerDay => "tokens_per_day",
            Self::MaxConcurrent => "max_concurrent",
        }
    }
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The limit that holds longest.
    pub limit: LimitKind,
    /// When the request would pass; `None` where that depends on when others end.
    pub passes_at: Option<Instant>,
    /// How that is known.
    pub reason: Reason,
}

/// How it is known that a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The limit is used up.
    Spent,
    /// It is not known: the store that instances share has to be asked.
    Unasked,
    /// The store is away, and requests are to be refused then.
    Away,
}

/// How much of a request window is left: of the one with the fewest requests left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Requests in the window.
    pub limit: u64,
    /// Requests that would pass now.
    pub remaining: u64,
    /// When the next one would pass; now, where one would.
    pub resets_at: Instant,
}

/// What counts against limits at one moment. `None` = not counted, because it was not limited so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Used {
    /// Requests of the last minute.
    pub requests_this_minute: Option<u64>,
    /// Requests of the last hour.
    pub requests_this_hour: Option<u64>,
    /// Requests of the last 24 hours.
    pub requests_this_day: Option<u64>,
    /// Tokens of the last minute.
    pub tokens_this_minute: Option<u64>,
    /// Tokens of the last 24 hours.
    pub tokens_this_day: Option<u64>,
    /// Requests that began and have not ended.
    pub concurrent: u32,
}

/// A request that was counted, for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    at: Instant,
    /// Tokens, by window.
    reserved: [u64; 2],
    shared: Taken,
}

/// What one user did, as far as limits ask for it. Windows come into being with the first request that they limit.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    requests: [Option<RequestWindow>; 3],
    tokens: [Option<AmountWindow>; 2],
    running: u32,
    shared: Option<Box<Shared>>,
}

impl Meter {
    /// Whether one more request may pass that may use up to `tokens`. Counts nothing. One that may use more than a whole limit
    /// passes as long as anything is left of it, since it could never pass otherwise. With `sharing`, several instances share the
    /// limits.
    ///
    /// # Errors
    /// The limit that holds longest.
    pub fn check(
        &mut self,
        limits: &RateLimit,
        tokens: u64,
        sharing: Option<&Sharing>,
        now: Instant,
    ) -> Result<(), Denied> {
        let limits = &match sharing {
            None => *limits,
            Some(sharing) => self.shared.get_or_insert_default().check(limits, tokens, sharing, now)?,
        };
        let mut denied: Option<Denied> = None;
        let mut hold = |limit: LimitKind, at: Instant| {
            if denied.is_none_or(|other| other.passes_at < Some(at)) {
                denied = Some(Denied { limit, passes_at: Some(at), reason: Reason::Spent });
            }
        };
        for (window, (limit, kind, _)) in self.requests.iter_mut().zip(request_limits(limits)) {
            if let (Some(window), Some(limit)) = (window, limit) {
                window.set_limit(limit);
                if let Some(at) = window.passes_at(now) {
                    hold(kind, at);
                }
            }
        }
        for (window, (limit, kind, _)) in self.tokens.iter().zip(token_limits(limits)) {
            if let (Some(window), Some(limit)) = (window, limit)
                && let Some(at) = window.passes_at(fitting(tokens, limit), limit, now)
            {
                hold(kind, at);
            }
        }
        if denied.is_none() && limits.max_concurrent.is_some_and(|max| self.running >= max) {
            let limit = LimitKind::MaxConcurrent;
            denied = Some(Denied { limit, passes_at: None, reason: Reason::Spent });
        }
        denied.map_or(Ok(()), Err)
    }

    /// Counts a request that passed [`Meter::check`], with the tokens that it may use, and lets it run.
    pub fn begin(&mut self, limits: &RateLimit, tokens: u64, now: Instant) -> Begun {
        for (window, (limit, _, span)) in self.requests.iter_mut().zip(request_limits(limits)) {
            if let Some(limit) = limit {
                window.get_or_insert_with(|| RequestWindow::new(span, limit)).count(now);
            }
        }
        let mut reserved = [0; 2];
        for ((window, (limit, _, span)), reserved) in
            self.tokens.iter_mut().zip(token_limits(limits)).zip(&mut reserved)
        {
            if let Some(limit) = limit {
                let window = window.get_or_insert_with(|| AmountWindow::new(span));
                *reserved = tokens.min(limit.saturating_sub(window.used(now)));
                window.add(*reserved, now);
            }
        }
        self.running = self.running.saturating_add(1);
        let shared = self.shared.as_mut().map_or(Taken::default(), |shared| shared.begin(tokens, now));
        Begun { at: now, reserved, shared }
    }

    /// Ends a request that began: it used `tokens`, which count from when it began.
    pub fn end(&mut self, begun: &Begun, tokens: u64, now: Instant) {
        self.running = self.running.saturating_sub(1);
        if let Some(shared) = &mut self.shared {
            shared.end(begun.shared, tokens);
        }
        for (window, reserved) in self.tokens.iter_mut().zip(begun.reserved) {
            if let Some(window) = window {
                window.correct(begun.at, reserved, tokens, now);
            }
        }
    }

    /// What counts now, window by window; only what is limited is counted.
    pub fn used(&self, now: Instant) -> Used {
        let [minute, hour, day] = self.requests.each_ref().map(|window| window.as_ref().map(|window| window.used(now)));
        let [tokens_minute, tokens_day] =
            self.tokens.each_ref().map(|window| window.as_ref().map(|window| window.used(now)));
        Used {
            requests_this_minute: minute,
            requests_this_hour: hour,
            requests_this_day: day,
            tokens_this_minute: tokens_minute,
            tokens_this_day: tokens_day,
            concurrent: self.running,
        }
    }

    /// Requests that began and have not ended.
    pub fn running(&self) -> u32 {
        self.running
    }

    /// What is shared with other instances, where anything is.
    pub fn shared(&mut self) -> Option<&mut Shared> {
        self.shared.as_deref_mut()
    }

    /// How much is left for requests; `None` where their number is not limited.
    pub fn standing(&self, limits: &RateLimit, now: Instant) -> Option<Standing> {
        if let Some(standing) = self.shared.as_ref().and_then(|shared| shared.standing(now)) {
            return Some(standing);
        }
        let windows = self.requests.iter().zip(request_limits(limits));
        let standings = windows.filter_map(|(window, (limit, _, _))| {
            let limit = limit?;
            let used = window.as_ref().map_or(0, |window| window.used(now));
            let passes_at = window.as_ref().and_then(|window| window.passes_at(now));
            Some(Standing { limit, remaining: limit.saturating_sub(used), resets_at: passes_at.unwrap_or(now) })
        });
        standings.min_by_key(|standing| (standing.remaining, std::cmp::Reverse(standing.resets_at)))
    }
}

/// What a request that may use `tokens` has to fit in with.
pub(super) fn fitting(tokens: u64, limit: u64) -> u64 {
    if tokens > limit { 1 } else { tokens.max(1) }
}

pub(super) fn request_limits(limits: &RateLimit) -> [(Option<u64>, LimitKind, Duration); 3] {
    [
        (limits.requests_per_minute, LimitKind::RequestsPerMinute, MINUTE),
        (limits.requests_per_hour, LimitKind::RequestsPerHour, HOUR),
        (limits.requests_per_day, LimitKind::RequestsPerDay, DAY),
    ]
}

pub(super) fn token_limits(limits: &RateLimit) -> [(Option<u64>, LimitKind, Duration); 2] {
    [
        (limits.tokens_per_minute, LimitKind::TokensPerMinute, MINUTE),
        (limits.tokens_per_day, LimitKind::TokensPerDay, DAY),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_limits_the_one_that_holds_longest_is_told() {
        let limits = RateLimit { requests_per_minute: Some(1), requests_per_hour: Some(1), ..RateLimit::default() };
        let mut meter = Meter::default();
        meter.begin(&limits, 0, Instant::START);
        let denied =
            Denied { limit: LimitKind::RequestsPerHour, passes_at: Some(Instant::START + HOUR), reason: Reason::Spent };
        assert_eq!(meter.check(&limits, 0, None, Instant::START), Err(denied));
        assert_eq!(meter.check(&limits, 0, None, Instant::START + HOUR), Ok(()));
        // The hour lets one through in half a minute, the minute only in a whole one.
        let limits = RateLimit { requests_per_hour: Some(2), ..limits };
        let (mut meter, late) = (Meter::default(), Instant::START + (HOUR - MINUTE / 2));
        meter.begin(&limits, 0, Instant::START);
        meter.begin(&limits, 0, late);
        let denied =
            Denied { limit: LimitKind::RequestsPerMinute, passes_at: Some(late + MINUTE), reason: Reason::Spent };
        assert_eq!(meter.check(&limits, 0, None, late), Err(denied));
    }

    #[test]
    fn the_standing_is_that_of_the_fewest_requests_left_and_of_two_as_few_the_one_that_lasts() {
        let limits = |minute, hour| RateLimit {
            requests_per_minute: Some(minute),
            requests_per_hour: Some(hour),
            ..RateLimit::default()
        };
        let (mut meter, later) = (Meter::default(), Instant::START + Duration::from_secs(1));
        let standing = |meter: &Meter, limits| {
            let standing = meter.standing(&limits, later).unwrap();
            (standing.limit, standing.remaining, standing.resets_at)
        };
        assert_eq!(standing(&meter, limits(3, 5)), (3, 3, later), "nothing was counted");
        meter.begin(&limits(3, 5), 0, Instant::START);
        assert_eq!(standing(&meter, limits(3, 5)), (3, 2, later));
        assert_eq!(standing(&meter, limits(5, 3)), (3, 2, later));
        for _ in 0..2 {
            meter.begin(&limits(3, 3), 0, Instant::START);
        }
        meter.check(&limits(3, 3), 0, None, later).unwrap_err();
        assert_eq!(standing(&meter, limits(3, 3)), (3, 0, Instant::START + HOUR));
        assert_eq!(meter.standing(&RateLimit::default(), later), None);
    }

    #[test]
    fn a_limit_that_was_raised_holds_at_once_and_forgets_nothing() {
        let limits = |limit| RateLimit { requests_per_minute: Some(limit), ..RateLimit::default() };
        let mut meter = Meter::default();
        meter.begin(&limits(1), 0, Instant::START);
        assert!(meter.check(&limits(1), 0, None, Instant::START).is_err());
        assert_eq!(meter.check(&limits(2), 0, None, Instant::START), Ok(()));
        meter.begin(&limits(2), 0, Instant::START);
        assert!(meter.check(&limits(2), 0, None, Instant::START).is_err());
    }

    #[test]
    fn no_request_passes_where_no_token_is_left_and_one_as_large_as_the_limit_needs_all_of_it() {
        let limits = RateLimit { tokens_per_minute: Some(10), ..RateLimit::default() };
        let mut meter = Meter::default();
        assert_eq!(meter.check(&limits, 10, None, Instant::START), Ok(()));
        meter.begin(&limits, 1, Instant::START);
        assert!(meter.check(&limits, 10, None, Instant::START).is_err());
        meter.begin(&limits, 9, Instant::START);
        assert!(meter.check(&limits, 0, None, Instant::START).is_err());
    }

    #[test]
    fn what_is_limited_is_counted_and_shown_window_by_window() {
        let limits = RateLimit {
            requests_per_minute: Some(9),
            requests_per_hour: Some(9),
            tokens_per_day: Some(100),
            ..RateLimit::default()
        };
        let mut meter = Meter::default();
        meter.begin(&limits, 7, Instant::START);
        let expected = Used {
            requests_this_minute: Some(0),
            requests_this_hour: Some(1),
            tokens_this_day: Some(7),
            concurrent: 1,
            ..Used::default()
        };
        assert_eq!(meter.used(Instant::START + MINUTE), expected);
    }

    #[test]
    fn places_come_back_when_requests_end() {
        let limits = RateLimit { max_concurrent: Some(1), ..RateLimit::default() };
        let mut meter = Meter::default();
        let begun = meter.begin(&limits, 0, Instant::START);
        let denied = Denied { limit: LimitKind::MaxConcurrent, passes_at: None, reason: Reason::Spent };
        assert_eq!(meter.check(&limits, 0, None, Instant::START), Err(denied));
        meter.end(&begun, 0, Instant::START);
        assert_eq!((meter.check(&limits, 0, None, Instant::START), meter.running()), (Ok(()), 0));
    }

    #[test]
    fn tokens_are_reserved_while_a_request_runs_and_corrected_when_it_ends() {
        let limits = RateLimit { tokens_per_minute: Some(10), ..RateLimit::default() };
        let mut meter = Meter::default();
        let later = Instant::START + Duration::from_secs(30);
        let begun = meter.begin(&limits, 8, Instant::START);
        assert_eq!(meter.check(&limits, 2, None, later), Ok(()));
        let free_at = Instant::START + MINUTE * 17 / 16;
        let denied = Denied { limit: LimitKind::TokensPerMinute, passes_at: Some(free_at), reason: Reason::Spent };
        assert_eq!(meter.check(&limits, 3, None, later), Err(denied));
        assert!(meter.check(&limits, 3, None, Instant::from_nanos(free_at.as_nanos() - 1)).is_err());
        assert_eq!(meter.check(&limits, 3, None, free_at), Ok(()));
        meter.end(&begun, 5, later);
        assert_eq!(
            (meter.check(&limits, 5, None, later), meter.check(&limits, 6, None, later).is_err()),
            (Ok(()), true)
        );
    }

    #[test]
    fn a_request_larger_than_the_limit_passes_while_anything_is_left_and_holds_the_rest() {
        let limits = RateLimit { tokens_per_minute: Some(10), ..RateLimit::default() };
        let mut meter = Meter::default();
        let small = meter.begin(&limits, 9, Instant::START);
        assert_eq!(meter.check(&limits, 50, None, Instant::START), Ok(()));
        let large = meter.begin(&limits, 50, Instant::START);
        assert!(meter.check(&limits, 1, None, Instant::START).is_err());
        meter.end(&large, 0, Instant::START);
        assert_eq!(meter.check(&limits, 1, None, Instant::START), Ok(()));
        meter.end(&small, 10, Instant::START);
        assert!(meter.check(&limits, 50, None, Instant::START).is_err());
    }
}
