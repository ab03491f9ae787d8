//! The bound on all bytes that are held at once: request bodies kept for another attempt, answers being checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts held bytes of the whole process against `server.max_buffered_bytes`.
#[derive(Clone, Debug)]
pub struct BufferBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    held: AtomicUsize,
    /// Bytes; a reload may change it.
    limit: AtomicUsize,
}

/// The limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of buffered bytes is reached")]
pub struct Full;

impl BufferBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { held: AtomicUsize::new(0), limit: AtomicUsize::new(limit) }))
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Changes the limit; what is held stays.
    pub fn set_limit(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// A permit for nothing yet.
    pub fn permit(&self) -> BufferPermit {
        BufferPermit { budget: self.clone(), bytes: 0 }
    }
}

/// The bytes that one holder holds; given back when it is dropped.
#[derive(Debug)]
pub struct BufferPermit {
    budget: BufferBudget,
    bytes: usize,
}

impl BufferPermit {
    /// Claims `more` bytes.
    ///
    /// # Errors
    /// [`Full`] when they would pass the limit; nothing is claimed then.
    pub fn grow(&mut self, more: usize) -> Result<(), Full> {
        let Inner { held, limit } = &*self.budget.0;
        let before = held.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > limit.load(Ordering::Relaxed) {
            held.fetch_sub(more, Ordering::Relaxed);
            return Err(Full);
        }
        self.bytes += more;
        Ok(())
    }
}

impl Drop for BufferPermit {
    fn drop(&mut self) {
        self.budget.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_counted_and_what_is_dropped_is_given_back() {
        let budget = BufferBudget::new(10);
        let mut first = budget.permit();
        assert_eq!(first.grow(7), Ok(()));
        let mut second = budget.permit();
        assert_eq!(second.grow(4), Err(Full));
        assert_eq!(second.grow(3), Ok(()));
        assert_eq!(budget.held(), 10);
        drop((first, second));
        assert_eq!(budget.held(), 0);
    }
}
