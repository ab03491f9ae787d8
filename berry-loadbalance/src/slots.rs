//! Attempts under way at one endpoint, with the configured limit on them.

use std::sync::atomic::AtomicU64;

use crate::word::{Word, update};

/// A counter that never passes its limit, whoever counts at the same time.
#[derive(Debug)]
pub(crate) struct Slots<W = AtomicU64>(W);

impl<W: Word> Slots<W> {
    pub(crate) fn new() -> Self {
        Self(W::new(0))
    }

    /// Attempts under way.
    pub(crate) fn taken(&self) -> u32 {
        u32::try_from(self.0.load()).unwrap_or(u32::MAX)
    }

    /// Takes one, unless `max` are taken.
    pub(crate) fn take(&self, max: Option<u32>) -> bool {
        let free = |taken: u64| max.is_none_or(|max| taken < u64::from(max));
        update(&self.0, |taken| free(taken).then_some((taken + 1, ()))).is_some()
    }

    /// Gives one back.
    pub(crate) fn give_back(&self) {
        update(&self.0, |taken| Some((taken.saturating_sub(1), ())));
    }
}
