//! The one operation that the shared state machines need: replace a 64-bit word if nobody else did.
//!
//! Each machine (circuit, slots, retry budget, pauses) is a pure function over a word, and the word is the whole state, so no
//! ordering between different words matters and relaxed accesses are enough. In the program the word is std's atomic; the model
//! tests put loom's in its place and try every interleaving.

use std::sync::atomic::{AtomicU64, Ordering};

/// A shared 64-bit word.
pub(crate) trait Word {
    /// A word that holds `value`.
    fn new(value: u64) -> Self;

    /// What it holds.
    fn load(&self) -> u64;

    /// Puts `new` in the place of `old`.
    ///
    /// # Errors
    /// What it holds, when that is not `old`, or when the processor lost the race with itself.
    fn replace(&self, old: u64, new: u64) -> Result<(), u64>;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    fn load(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        self.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed).map(|_| ())
    }
}

/// Applies `step` to the word until nobody interferes. `step` gives the new value and what to return; `None` leaves the word
/// alone.
pub(crate) fn update<W: Word, R>(word: &W, mut step: impl FnMut(u64) -> Option<(u64, R)>) -> Option<R> {
    let mut old = word.load();
    loop {
        let (new, result) = step(old)?;
        if new == old {
            return Some(result);
        }
        match word.replace(old, new) {
            Ok(()) => return Some(result),
            Err(seen) => old = seen,
        }
    }
}
