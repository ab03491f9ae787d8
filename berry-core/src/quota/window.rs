//! Sliding windows: never more than the limit in any of them, and never a refusal because of anything older than 17/16 of one.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

/// Up to this limit every request has its own timestamp.
const EXACT_MAX: u64 = 64;
/// A window's sixteen buckets and the one that has begun.
const BUCKETS: usize = 17;

/// Requests in a sliding window. Takes constant memory, whatever the limit, and none before the first request.
#[derive(Clone, Debug)]
pub struct RequestWindow {
    span: Duration,
    limit: u64,
    held: Held,
}

#[derive(Clone, Debug)]
enum Held {
    /// When each was counted, oldest first.
    Exact(VecDeque<Instant>),
    Buckets(AmountWindow),
}

impl RequestWindow {
    /// An empty window of `span` that lets `limit` requests through.
    pub fn new(span: Duration, limit: u64) -> Self {
        let held = match limit <= EXACT_MAX {
            true => Held::Exact(VecDeque::new()),
            false => Held::Buckets(AmountWindow::new(span)),
        };
        Self { span, limit, held }
    }

    /// Changes the limit and keeps what was counted.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
        match (&self.held, limit <= EXACT_MAX) {
            (Held::Exact(times), false) => {
                let mut window = AmountWindow::new(self.span);
                times.iter().for_each(|time| window.add(1, *time));
                self.held = Held::Buckets(window);
            }
            (Held::Buckets(window), true) => self.held = Held::Exact(window.ends(limit)),
            _ => {}
        }
    }

    /// When a request would pass; `None` = now.
    pub fn passes_at(&self, now: Instant) -> Option<Instant> {
        match &self.held {
            Held::Buckets(window) => window.passes_at(1, self.limit, now),
            Held::Exact(times) => {
                let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
                // The request that has to leave before there is room for one more.
                let last = times.len().checked_sub(limit)?;
                let free_at = times.get(last).map_or(now + self.span, |time| *time + self.span);
                (free_at > now).then_some(free_at)
            }
        }
    }

    /// Counts a request.
    pub fn count(&mut self, now: Instant) {
        match &mut self.held {
            Held::Buckets(window) => window.add(1, now),
            Held::Exact(times) => {
                while times.front().is_some_and(|time| *time + self.span <= now) {
                    times.pop_front();
                }
                times.push_back(now);
            }
        }
    }

    /// How many still count.
    pub fn used(&self, now: Instant) -> u64 {
        match &self.held {
            Held::Buckets(window) => window.used(now),
            Held::Exact(times) => times.iter().filter(|time| **time + self.span > now).count() as u64,
        }
    }
}

/// Amounts in a sliding window of sixteen buckets, the oldest counted whole.
#[derive(Clone, Debug)]
pub struct AmountWindow {
    width: u64,
    /// Number and sum of each bucket, the number modulo [`BUCKETS`] being its place.
    buckets: Box<[(u64, u64); BUCKETS]>,
}

impl AmountWindow {
    /// An empty window of `span`.
    pub fn new(span: Duration) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up: sixteen of them must cover the window.
        Self { width: span.div_ceil(BUCKETS as u64 - 1).max(1), buckets: Box::default() }
    }

    /// Counts an amount.
    pub fn add(&mut self, amount: u64, now: Instant) {
        let number = now.as_nanos() / self.width;
        let bucket = &mut self.buckets[(number % BUCKETS as u64) as usize];
        if bucket.0 != number {
            *bucket = (number, 0);
        }
        bucket.1 = bucket.1.saturating_add(amount);
    }

    /// Corrects what was added at `then`: `reserved` turned out to be `actual`. What is more than that counts from `now` on where
    /// the moment has left the window.
    pub fn correct(&mut self, then: Instant, reserved: u64, actual: u64, now: Instant) {
        let number = then.as_nanos() / self.width;
        let bucket = &mut self.buckets[(number % BUCKETS as u64) as usize];
        let is_held = bucket.0 == number && now.as_nanos() / self.width - number < BUCKETS as u64;
        if is_held {
            bucket.1 = bucket.1.saturating_sub(reserved).saturating_add(actual);
        } else {
            self.add(actual.saturating_sub(reserved), now);
        }
    }

    /// How much still counts.
    pub fn used(&self, now: Instant) -> u64 {
        self.held(now).fold(0, |sum, (_, amount)| sum.saturating_add(amount))
    }

    /// When `amount` more would fit under `limit`; `None` = now. An amount over the limit passes when nothing else is held.
    pub fn passes_at(&self, amount: u64, limit: u64, now: Instant) -> Option<Instant> {
        let room = limit.saturating_sub(amount);
        let mut sum = self.used(now);
        if sum <= room {
            return None;
        }
        let mut free_at = now;
        for (number, held) in self.held(now) {
            sum = sum.saturating_sub(held);
            free_at = Instant::from_nanos((number + BUCKETS as u64).saturating_mul(self.width));
            if sum <= room {
                break;
            }
        }
        Some(free_at)
    }

    /// What counts, oldest first.
    fn held(&self, now: Instant) -> impl Iterator<Item = (u64, u64)> {
        let current = now.as_nanos() / self.width;
        let first = current.saturating_sub(BUCKETS as u64 - 1);
        (first..=current).filter_map(|number| {
            let bucket = self.buckets[(number % BUCKETS as u64) as usize];
            (bucket.0 == number && bucket.1 > 0).then_some(bucket)
        })
    }

    /// The newest `max` units, each at the end of its bucket: no earlier than it was.
    fn ends(&self, max: u64) -> VecDeque<Instant> {
        let mut buckets = self.buckets.to_vec();
        buckets.sort_unstable_by_key(|(number, _)| *number);
        let mut times = VecDeque::new();
        for (number, amount) in buckets.into_iter().rev() {
            let end = Instant::from_nanos((number + 1).saturating_mul(self.width));
            for _ in 0..amount.min(max.saturating_sub(times.len() as u64)) {
                times.push_front(end);
            }
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    proptest! {
        #[test]
        fn never_over_the_limit_in_any_window_and_never_refused_for_what_is_older_than_17_16(
            limit in prop_oneof![1_u64..6, 60_u64..80],
            gaps in prop::collection::vec(0_u64..9_000, 1..400),
        ) {
            let (mut window, mut now, mut passed) = (RequestWindow::new(SPAN, limit), Instant::START, Vec::new());
            for gap in gaps {
                now = now + Duration::from_millis(gap);
                match window.passes_at(now) {
                    None => {
                        window.count(now);
                        passed.push(now);
                        let within = passed.iter().filter(|time| now.since(**time) < SPAN).count() as u64;
                        prop_assert!(within <= limit);
                    }
                    Some(free_at) => {
                        let recent = passed.iter().filter(|time| now.since(**time) <= SPAN * 17 / 16).count() as u64;
                        prop_assert!(recent >= limit);
                        prop_assert!(free_at > now);
                        prop_assert!(window.passes_at(Instant::from_nanos(free_at.as_nanos() - 1)).is_some());
                        prop_assert_eq!(window.passes_at(free_at), None);
                    }
                }
            }
        }

        #[test]
        fn a_changed_limit_forgets_nothing(from in 1_u64..130, to in 1_u64..130, count in 1_u64..130) {
            let mut window = RequestWindow::new(SPAN, from);
            (0..count.min(from)).for_each(|_| window.count(Instant::START));
            window.set_limit(to);
            let now = Instant::START + (SPAN - Duration::from_nanos(1));
            prop_assert_eq!(window.passes_at(now).is_some(), count.min(from) >= to);
            prop_assert_eq!(window.passes_at(Instant::START + SPAN * 17 / 16), None);
        }
    }

    #[test]
    fn a_correction_counts_where_the_amount_was_added() {
        let (mut window, later) = (AmountWindow::new(SPAN), Instant::START + SPAN);
        window.add(500, Instant::START);
        window.correct(Instant::START, 500, 20, later);
        assert_eq!((window.used(later), window.used(Instant::START + SPAN * 17 / 16)), (20, 0));
        let much_later = Instant::START + SPAN * 3;
        window.add(10, much_later);
        window.correct(Instant::START, 500, 20, much_later);
        assert_eq!(window.used(much_later), 10);
        window.correct(Instant::START, 500, 507, much_later);
        assert_eq!(window.used(much_later), 17, "what nobody reserved counts when it is known");
    }

    #[test]
    fn amounts_leave_with_their_bucket() {
        let mut window = AmountWindow::new(SPAN);
        window.add(500, Instant::START);
        assert_eq!(window.passes_at(1, 501, Instant::START), None);
        let free_at = Instant::START + SPAN * 17 / 16;
        assert_eq!(window.passes_at(1, 500, Instant::START), Some(free_at));
        assert_eq!((window.passes_at(1, 500, free_at), window.used(free_at)), (None, 0));
    }
}
