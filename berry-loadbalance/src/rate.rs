//! How many requests and tokens went to a backend in the last minute, against what its configuration says that it takes.
//!
//! A window of sixteen buckets of 3.75 s, the oldest counted whole: never more than the limit in any minute, and never refused
//! because of anything older than 63.75 s. Requests are counted when they are given out, tokens when they are known.

use std::time::Duration;

use berry_core::config::snapshot::BackendLimits;
use berry_core::time::Instant;

/// Length of a bucket: a minute over sixteen.
const BUCKET: Duration = Duration::from_millis(3_750);
/// The minute's sixteen and the one that has begun.
const BUCKETS: usize = 17;

/// What went to one backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate {
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    number: u64,
    requests: u64,
    tokens: u64,
}

impl Rate {
    /// Counts what was given out or used.
    pub(crate) fn record(&mut self, requests: u64, tokens: u64, now: Instant) {
        let number = number(now);
        let bucket = &mut self.buckets[number as usize % BUCKETS];
        if bucket.number != number {
            *bucket = Bucket { number, ..Bucket::default() };
        }
        bucket.requests += requests;
        bucket.tokens += tokens;
    }

    /// When another request may go there; `None` = now.
    pub(crate) fn free_at(&self, limits: &BackendLimits, now: Instant) -> Option<Instant> {
        let requests = self.passes(limits.requests_per_minute, |bucket| bucket.requests, now);
        let tokens = self.passes(limits.tokens_per_minute, |bucket| bucket.tokens, now);
        requests.max(tokens)
    }

    fn passes(&self, limit: Option<u64>, count: impl Fn(&Bucket) -> u64, now: Instant) -> Option<Instant> {
        let limit = limit?;
        let current = number(now);
        let mut held: Vec<&Bucket> = self
            .buckets
            .iter()
            .filter(|bucket| bucket.number <= current && current - bucket.number < BUCKETS as u64)
            .collect();
        held.sort_unstable_by_key(|bucket| bucket.number);
        let mut sum: u64 = held.iter().map(|bucket| count(bucket)).sum();
        let mut free_at = None;
        for bucket in held {
            if sum < limit {
                break;
            }
            sum -= count(bucket);
            free_at = Some(Instant::START + BUCKET.saturating_mul((bucket.number + BUCKETS as u64) as u32));
        }
        free_at
    }
}

fn number(now: Instant) -> u64 {
    now.as_nanos() / BUCKET.as_nanos() as u64
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
        let (limits, mut rate, mut given) = (limits(10, u64::MAX), Rate::default(), Vec::new());
        for ms in (0..300_000).step_by(250) {
            match rate.free_at(&limits, at(ms)) {
                None => {
                    rate.record(1, 0, at(ms));
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
            assert!(within <= 10, "{within} from {start} ms on");
        }
        assert!(given.len() >= 40, "{given:?}");
    }

    #[test]
    fn tokens_are_limited_as_requests_are() {
        let mut rate = Rate::default();
        rate.record(1, 500, at(0));
        assert_eq!(rate.free_at(&limits(100, 501), at(1)), None);
        assert!(rate.free_at(&limits(100, 500), at(1)).is_some());
    }
}
