//! Figures of one backend that only grow: how long its answers took and how many tokens they used.
//!
//! They live beside the endpoint's state, so that whoever holds the endpoint adds to them without looking anything up, and they
//! survive a reload as long as the backend does. Every write is a few relaxed additions.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use berry_core::money::NanoUsd;
use berry_core::usage::Usage;

/// Upper bounds for whole requests and for the time to the first token, in milliseconds.
pub const REQUEST_BOUNDS_MS: &[u64] =
    &[5, 10, 25, 50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000];

/// Upper bounds for the time of one token, in milliseconds.
pub const TOKEN_BOUNDS_MS: &[u64] = &[1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1_000, 2_000];

/// Counts durations by size. A bound belongs to its bucket.
#[derive(Debug)]
pub struct Histogram {
    bounds_ms: &'static [u64],
    /// One for each bound, and one for what is longer than all of them.
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// An empty one over ascending bounds.
    pub fn new(bounds_ms: &'static [u64]) -> Self {
        let buckets = (0..=bounds_ms.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds_ms, buckets, sum_nanos: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds_ms.partition_point(|bound| bound * 1_000_000 < nanos);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Distribution {
        Distribution {
            bounds_ms: self.bounds_ms,
            buckets: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)),
        }
    }
}

/// The contents of a [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Upper bounds, in milliseconds.
    pub bounds_ms: &'static [u64],
    /// Durations in each bucket, the last one without a bound. Not cumulative.
    pub buckets: Vec<u64>,
    /// All of them together.
    pub sum: Duration,
}

impl Distribution {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another one over the same bounds.
    pub fn add(&mut self, other: &Self) {
        debug_assert_eq!(self.bounds_ms, other.bounds_ms, "only figures of one kind are added");
        for (own, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += more;
        }
        self.sum += other.sum;
    }
}

/// What tokens are counted as. Cached and cache writes are parts of the input, reasoning of the output.
pub const TOKEN_KINDS: [&str; 5] = ["input", "output", "cached", "cache_write", "reasoning"];

/// The figures of one backend.
#[derive(Debug)]
pub struct Figures {
    /// Attempts that ended well, to their end.
    pub latency: Histogram,
    /// Streamed requests, from their head to the first content.
    pub ttft: Histogram,
    /// Streamed answers: time after the first content, for each token after the first.
    pub token_time: Histogram,
    tokens: [AtomicU64; TOKEN_KINDS.len()],
    cost_nanos: AtomicU64,
    compared_nanos: AtomicU64,
    reported_nanos: AtomicU64,
    unpriced: AtomicU64,
    estimated: AtomicU64,
    served: AtomicU32,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            latency: Histogram::new(REQUEST_BOUNDS_MS),
            ttft: Histogram::new(REQUEST_BOUNDS_MS),
            token_time: Histogram::new(TOKEN_BOUNDS_MS),
            tokens: Default::default(),
            cost_nanos: AtomicU64::new(0),
            compared_nanos: AtomicU64::new(0),
            reported_nanos: AtomicU64::new(0),
            unpriced: AtomicU64::new(0),
            estimated: AtomicU64::new(0),
            served: AtomicU32::new(0),
        }
    }
}

impl Figures {
    /// Notes that the backend answered a call of this kind, one bit for each kind.
    pub fn note_served(&self, kind: u32) {
        if self.served() & kind == 0 {
            self.served.fetch_or(kind, Ordering::Relaxed);
        }
    }

    /// The kinds of calls that the backend has answered.
    pub fn served(&self) -> u32 {
        self.served.load(Ordering::Relaxed)
    }

    /// Adds the tokens of one answer.
    pub fn count_tokens(&self, usage: &Usage) {
        let [input, output, cached, cache_write, reasoning] = &self.tokens;
        // One by one: in a loop, the counts would be gathered in memory first.
        count_some(input, usage.input_tokens);
        count_some(output, usage.output_tokens);
        count_some(cached, usage.cached_tokens);
        count_some(cache_write, usage.cache_write_tokens);
        count_some(reasoning, usage.reasoning_tokens);
    }

    /// Adds the cost of one answer. Nothing costs less than nothing.
    pub fn add_cost(&self, cost: NanoUsd) {
        add(&self.cost_nanos, cost);
    }

    /// Adds our cost of one answer and what the vendor says that it cost.
    pub fn compare_cost(&self, ours: NanoUsd, reported: NanoUsd) {
        add(&self.compared_nanos, ours);
        add(&self.reported_nanos, reported);
    }

    /// Counts an answer that used something without a price, and one of which some tokens were counted by us.
    pub fn count_doubts(&self, unpriced: bool, estimated: bool) {
        for (count, is_so) in [(&self.unpriced, unpriced), (&self.estimated, estimated)] {
            if is_so {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Answers so far that used something without a price, and those of which some tokens were counted by us.
    pub fn doubts(&self) -> (u64, u64) {
        (self.unpriced.load(Ordering::Relaxed), self.estimated.load(Ordering::Relaxed))
    }

    /// Cost so far.
    pub fn cost(&self) -> NanoUsd {
        sum(&self.cost_nanos)
    }

    /// Of the answers whose cost the vendor told, our cost so far and the vendor's.
    pub fn compared_cost(&self) -> (NanoUsd, NanoUsd) {
        (sum(&self.compared_nanos), sum(&self.reported_nanos))
    }

    /// Tokens so far, in the order of [`TOKEN_KINDS`].
    pub fn tokens(&self) -> [u64; TOKEN_KINDS.len()] {
        std::array::from_fn(|kind| self.tokens[kind].load(Ordering::Relaxed))
    }
}

fn count_some(sum: &AtomicU64, count: Option<u64>) {
    if let Some(count) = count.filter(|count| *count > 0) {
        sum.fetch_add(count, Ordering::Relaxed);
    }
}

fn add(nanos: &AtomicU64, cost: NanoUsd) {
    nanos.fetch_add(u64::try_from(cost.as_nanos()).unwrap_or(0), Ordering::Relaxed);
}

fn sum(nanos: &AtomicU64) -> NanoUsd {
    NanoUsd::from_nanos(i64::try_from(nanos.load(Ordering::Relaxed)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_on_a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[1, 10]);
        for micros in [999, 1_000, 1_001, 10_000, 10_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let read = histogram.read();
        assert_eq!(read.buckets, [2, 2, 1]);
        assert_eq!((read.count(), read.sum), (5, Duration::from_micros(23_001)));
    }

    #[test]
    fn tokens_that_were_not_reported_are_not_counted() {
        let figures = Figures::default();
        figures.count_tokens(&Usage { input_tokens: Some(3), cached_tokens: Some(2), ..Usage::default() });
        figures.count_tokens(&Usage { input_tokens: Some(4), output_tokens: Some(9), ..Usage::default() });
        assert_eq!(figures.tokens(), [7, 9, 2, 0, 0]);
    }
}
