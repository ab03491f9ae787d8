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
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self((0..count(cores)).map(make).map(Lane).collect())
    }

    /// That of this thread.
    #[inline]
    pub fn own(&self) -> &T {
        self.of(this_thread())
    }

    #[inline]
    fn of(&self, thread: usize) -> &T {
        &self.0[thread % self.0.len()].0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|lane| &lane.0)
    }
}

/// Twice as many as cores: lanes are given in turn, also to threads that are gone by now.
fn count(cores: usize) -> usize {
    cores.saturating_mul(2).min(MAX)
}

/// Numbers the threads of the process in the order in which they first ask.
#[inline]
fn this_thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static THREAD: Cell<Option<usize>> = const { Cell::new(None) });
    THREAD.get().unwrap_or_else(|| {
        let next = THREADS.fetch_add(1, Ordering::Relaxed);
        THREAD.set(Some(next));
        next
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twice_as_many_lanes_as_cores_and_no_more_than_the_most() {
        assert_eq!([1, 2, 31, 32, 33, usize::MAX].map(count), [2, 4, 62, 64, 64, 64]);
        let cores = thread::available_parallelism().unwrap().get();
        assert_eq!(Lanes::new(|number| number).iter().copied().collect::<Vec<_>>(), Vec::from_iter(0..count(cores)));
    }

    #[test]
    fn threads_share_a_lane_only_when_there_are_more_of_them_than_lanes() {
        let lanes = Lanes::new(|number| number);
        let count = lanes.iter().count();
        let given: Vec<usize> = (0..2 * count).map(|thread| *lanes.of(thread)).collect();
        assert_eq!(given, (0..count).chain(0..count).collect::<Vec<_>>());
        let (this, other) = (this_thread(), thread::spawn(this_thread).join().unwrap());
        assert_ne!(this, other);
        assert_eq!((this_thread(), *lanes.own()), (this, this % count));
    }

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
