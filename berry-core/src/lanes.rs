//! One value for each thread: what two processor cores write in turns costs far more than what each has of its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Most lanes; more threads share.
const MAX: usize = 64;

/// A value for each thread that runs at once, as far as there are as many. Any thread may look at all of them, so a value needs what
/// makes that sound: atomics or a lock, which is hardly ever contended.
#[derive(Debug)]
pub struct Lanes<T>(Box<[Lane<T>]>);

/// Aligned, so that no two share a line of a cache or the one that is fetched with it.
#[derive(Debug)]
#[repr(align(128))]
struct Lane<T>(T);

impl<T> Lanes<T> {
    /// Makes them, each by its number.
    pub fn new(make: impl FnMut(usize) -> T) -> Self {
        // Twice as many as cores: lanes are given in turn, also to threads that are gone by now.
        let count = (2 * thread::available_parallelism().map_or(1, usize::from)).min(MAX);
        Self((0..count).map(make).map(Lane).collect())
    }

    /// That of this thread.
    #[inline]
    pub fn own(&self) -> &T {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static THREAD: Cell<Option<usize>> = const { Cell::new(None) });
        let thread = THREAD.get().unwrap_or_else(|| {
            let next = THREADS.fetch_add(1, Ordering::Relaxed);
            THREAD.set(Some(next));
            next
        });
        &self.0[thread % self.0.len()].0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|lane| &lane.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_lane_and_all_lanes_are_seen() {
        let lanes = Lanes::new(|_| AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let own = std::ptr::from_ref(lanes.own());
                    for _ in 0..100 {
                        lanes.own().fetch_add(1, Ordering::Relaxed);
                        assert_eq!(own, std::ptr::from_ref(lanes.own()));
                    }
                });
            }
        });
        assert_eq!(lanes.iter().map(|lane| lane.load(Ordering::Relaxed)).sum::<usize>(), 800);
    }
}
