//! Latencies in buckets that grow with their size: bounded, mergeable, and good for percentiles.
//!
//! Values below 8 µs have a bucket each; above, every power of two is cut into 8 buckets of equal width, so that a bucket is at most
//! 1/8 of its lower edge wide. A percentile is answered with the middle of its bucket: at most 6.25 % from the true value.

/// Buckets for each power of two, as a power of two.
const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;

/// Larger values count as this: more than six days, in microseconds.
const MAX: u64 = (1 << 39) - 1;

/// How often each latency was seen, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By bucket, up to the last that is not zero.
    counts: Vec<u64>,
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value_us: u64) {
        self.add(bucket(value_us), 1);
    }

    /// Counts everything that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            self.add(bucket, *count);
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value that `percent` of all values do not exceed, in microseconds, to 6.25 %. `None` without values.
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((percent / 100.0 * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(middle)
    }

    fn add(&mut self, bucket: usize, count: u64) {
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
    }

    /// For the database: pairs of bucket and count, each number in four or eight bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            bytes.extend_from_slice(&(bucket as u16).to_le_bytes());
            bytes.extend_from_slice(&u32::try_from(*count).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes
    }

    /// Counts what [`Histogram::to_bytes`] wrote.
    pub(crate) fn merge_bytes(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(6) {
            let bucket = usize::from(u16::from_le_bytes([pair[0], pair[1]]));
            let count = u32::from_le_bytes([pair[2], pair[3], pair[4], pair[5]]);
            // Anything beyond the last bucket is no histogram of ours.
            if bucket <= self::bucket(MAX) {
                self.add(bucket, count.into());
            }
        }
    }
}

fn bucket(value: u64) -> usize {
    let value = value.min(MAX);
    if value < SUB {
        return value as usize;
    }
    let octave = value.ilog2() - SUB_BITS;
    ((u64::from(octave) + 1) * SUB + ((value >> octave) - SUB)) as usize
}

fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let octave = bucket / SUB - 1;
    ((bucket % SUB + SUB) << octave) + ((1 << octave) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_a_sixteenth_of_the_middle_of_its_bucket() {
        for value in (0..2000).chain((0..39).map(|bits| (1 << bits) + 1)).chain((3..39).map(|bits| (1 << bits) - 1)) {
            let found = middle(bucket(value));
            assert!(found.abs_diff(value) as f64 <= value as f64 * 0.0625 + 0.5, "{value} became {found}");
        }
    }

    #[test]
    fn buckets_grow_with_their_values() {
        let buckets: Vec<usize> = (0..5000).map(bucket).collect();
        assert!(buckets.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
        assert_eq!(bucket(u64::MAX), bucket(MAX));
    }

    #[test]
    fn percentiles_survive_merging_and_storing() {
        let mut halves = [Histogram::default(), Histogram::default()];
        for value in 1..=10_000u64 {
            halves[value as usize % 2].record(value * 100);
        }
        let mut whole = Histogram::default();
        whole.merge(&halves[0]);
        whole.merge_bytes(&halves[1].to_bytes());
        assert_eq!(whole.count(), 10_000);
        for percent in [1.0, 50.0, 90.0, 99.0, 100.0] {
            let (found, truth) = (whole.percentile(percent).unwrap() as f64, percent * 10_000.0);
            assert!((found - truth).abs() <= truth * 0.0625, "{percent}: {found} for {truth}");
        }
        assert_eq!(Histogram::default().percentile(50.0), None);
    }
}
