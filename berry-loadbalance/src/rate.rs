//! How many requests and tokens went to a backend in the last minute, against what its configuration says that it takes.
//!
//! The windows are those of users' limits: up to a limit of 64 requests every one has its own timestamp, above that and for tokens
//! there are sixteen buckets, the oldest counted whole. Never more than the limit in any minute, and never refused because of
//! anything older than 63.75 s. Requests are counted when they are given out, tokens when they are known.

use std::time::Duration;

use berry_core::config::snapshot::BackendLimits;
use berry_core::quota::{AmountWindow, RequestWindow};
use berry_core::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// What went to one backend. Windows come into being with the first request that they limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate {
    requests: Option<RequestWindow>,
    tokens: Option<AmountWindow>,
}

impl Rate {
    /// Counts a request that was given out.
    pub(crate) fn record_request(&mut self, limits: &BackendLimits, now: Instant) {
        if let Some(limit) = limits.requests_per_minute {
            self.requests.get_or_insert_with(|| RequestWindow::new(MINUTE, limit)).count(now);
        }
    }

    /// Counts tokens that were used.
    pub(crate) fn record_tokens(&mut self, limits: &BackendLimits, tokens: u64, now: Instant) {
        if limits.tokens_per_minute.is_some() {
            self.tokens.get_or_insert_with(|| AmountWindow::new(MINUTE)).add(tokens, now);
        }
    }

    /// When another request may go there; `None` = now.
    pub(crate) fn free_at(&mut self, limits: &BackendLimits, now: Instant) -> Option<Instant> {
        let requests = self.requests.as_mut().zip(limits.requests_per_minute).and_then(|(window, limit)| {
            window.set_limit(limit);
            window.passes_at(now)
        });
        let tokens = self.tokens.as_ref().zip(limits.tokens_per_minute);
        requests.max(tokens.and_then(|(window, limit)| window.passes_at(1, limit, now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::START + Duration::from_millis(ms)
    }

    fn limits(requests: u64, tokens: u64) -> BackendLimits {
        BackendLimits {
            requests_per_minute: Some(requests),
            tokens_per_minute: Some(tokens),
            ..BackendLimits::default()
        }
    }

    #[test]
    fn never_more_than_the_limit_in_any_minute_and_free_at_the_announced_moment() {
        for limit in [10, 100] {
            check(limit);
        }
    }

    fn check(limit: u64) {
        let (limits, mut rate, mut given) = (limits(limit, u64::MAX), Rate::default(), Vec::new());
        for ms in (0..300_000).step_by(250) {
            match rate.free_at(&limits, at(ms)) {
                None => {
                    rate.record_request(&limits, at(ms));
                    given.push(ms);
                }
                Some(free_at) => {
                    assert!(free_at > at(ms) && free_at <= at(ms + 63_750));
                    assert_eq!(rate.free_at(&limits, free_at), None);
                }
            }
        }
        for start in (0..240_000).step_by(50) {
            let within = given.iter().filter(|ms| (start..start + 60_000).contains(*ms)).count();
            assert!(within as u64 <= limit, "{within} from {start} ms on");
        }
        assert!(given.len() as u64 >= limit * 4, "{given:?}");
    }

    #[test]
    fn a_small_limit_is_exact_to_the_moment() {
        let (limits, mut rate) = (limits(2, u64::MAX), Rate::default());
        rate.record_request(&limits, at(100));
        rate.record_request(&limits, at(7_000));
        assert_eq!(rate.free_at(&limits, at(60_099)), Some(at(60_100)));
        assert_eq!(rate.free_at(&limits, at(60_100)), None);
    }

    #[test]
    fn another_limit_holds_for_what_was_given_out_before() {
        let mut rate = Rate::default();
        for ms in [0, 1_000, 2_000] {
            rate.record_request(&limits(3, u64::MAX), at(ms));
        }
        assert_eq!(rate.free_at(&limits(3, u64::MAX), at(3_000)), Some(at(60_000)));
        assert_eq!(rate.free_at(&limits(4, u64::MAX), at(3_000)), None);
        assert_eq!(rate.free_at(&limits(1, u64::MAX), at(3_000)), Some(at(62_000)));
    }

    #[test]
    fn tokens_are_limited_as_requests_are() {
        let mut rate = Rate::default();
        rate.record_tokens(&limits(100, 501), 500, at(0));
        assert_eq!(rate.free_at(&limits(100, 501), at(1)), None);
        assert!(rate.free_at(&limits(100, 500), at(1)).is_some());
    }
}
