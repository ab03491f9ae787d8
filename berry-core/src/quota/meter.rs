//! All limits of one [`RateLimit`] together: checked first, then counted.

use std::time::Duration;

use super::shared::{Shared, Sharing};
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

/// What one user did, as far as limits ask for it. Windows come into being with the first request that they limit.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    requests: [Option<RequestWindow>; 3],
    tokens: [Option<AmountWindow>; 2],
    running: u32,
    shared: Option<Box<Shared>>,
}

impl Meter {
    /// Whether one more request may pass. Counts nothing.
    ///
    /// Tokens are known only when requests end: a token limit refuses from the moment when the known ones reach it. With
    /// `sharing`, several instances share the limits.
    ///
    /// # Errors
    /// The limit that holds longest.
    pub fn check(&mut self, limits: &RateLimit, sharing: Option<&Sharing>, now: Instant) -> Result<(), Denied> {
        let limits = &match sharing {
            None => *limits,
            Some(sharing) => self.shared.get_or_insert_default().check(limits, sharing, now)?,
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
                && let Some(at) = window.passes_at(1, limit, now)
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

    /// Counts a request that passed [`Meter::check`] and lets it run.
    pub fn begin(&mut self, limits: &RateLimit, now: Instant) {
        for (window, (limit, _, span)) in self.requests.iter_mut().zip(request_limits(limits)) {
            if let Some(limit) = limit {
                window.get_or_insert_with(|| RequestWindow::new(span, limit)).count(now);
            }
        }
        self.running = self.running.saturating_add(1);
        if let Some(shared) = &mut self.shared {
            shared.begin(limits, now);
        }
    }

    /// Ends a request that began, with the tokens that it used.
    pub fn end(&mut self, limits: &RateLimit, tokens: u64, now: Instant) {
        self.running = self.running.saturating_sub(1);
        if let Some(shared) = &mut self.shared {
            shared.end();
        }
        for (window, (limit, _, span)) in self.tokens.iter_mut().zip(token_limits(limits)) {
            if limit.is_some() && tokens > 0 {
                window.get_or_insert_with(|| AmountWindow::new(span)).add(tokens, now);
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

pub(super) fn request_limits(limits: &RateLimit) -> [(Option<u64>, LimitKind, Duration); 3] {
    [
        (limits.requests_per_minute, LimitKind::RequestsPerMinute, MINUTE),
        (limits.requests_per_hour, LimitKind::RequestsPerHour, HOUR),
        (limits.requests_per_day, LimitKind::RequestsPerDay, DAY),
    ]
}

fn token_limits(limits: &RateLimit) -> [(Option<u64>, LimitKind, Duration); 2] {
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
        meter.begin(&limits, Instant::START);
        let denied =
            Denied { limit: LimitKind::RequestsPerHour, passes_at: Some(Instant::START + HOUR), reason: Reason::Spent };
        assert_eq!(meter.check(&limits, None, Instant::START), Err(denied));
        assert_eq!(meter.check(&limits, None, Instant::START + HOUR), Ok(()));
    }

    #[test]
    fn places_come_back_when_requests_end() {
        let limits = RateLimit { max_concurrent: Some(1), ..RateLimit::default() };
        let mut meter = Meter::default();
        meter.begin(&limits, Instant::START);
        let denied = Denied { limit: LimitKind::MaxConcurrent, passes_at: None, reason: Reason::Spent };
        assert_eq!(meter.check(&limits, None, Instant::START), Err(denied));
        meter.end(&limits, 0, Instant::START);
        assert_eq!((meter.check(&limits, None, Instant::START), meter.running()), (Ok(()), 0));
    }

    #[test]
    fn tokens_refuse_from_the_moment_when_the_known_ones_reach_the_limit() {
        let limits = RateLimit { tokens_per_minute: Some(10), ..RateLimit::default() };
        let mut meter = Meter::default();
        meter.end(&limits, 9, Instant::START);
        assert_eq!(meter.check(&limits, None, Instant::START), Ok(()));
        meter.end(&limits, 1, Instant::START);
        assert_eq!(
            meter.check(&limits, None, Instant::START).map_err(|denied| denied.limit),
            Err(LimitKind::TokensPerMinute)
        );
    }
}
