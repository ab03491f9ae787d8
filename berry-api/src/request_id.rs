//! Names for requests: unique in this process by a counter, among processes by a number drawn at start.

use std::sync::atomic::{AtomicU64, Ordering};

use berry_core::id::RequestId;

/// Makes request ids.
#[derive(Debug)]
pub struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of one process.
    pub fn new(process: u64) -> Self {
        Self { process, next: AtomicU64::new(0) }
    }

    /// The next one.
    pub fn next(&self) -> RequestId {
        RequestId::new(self.process, self.next.fetch_add(1, Ordering::Relaxed))
    }
}
