//! A chosen endpoint, held while an attempt runs there.

use std::sync::Arc;

use berry_core::config::snapshot::Backend;
use berry_core::time::Instant;

use crate::endpoint::Endpoint;
use crate::outcome::Outcome;

/// One attempt's claim on an endpoint. Reported once; dropping it unreported counts as cancelled, so no in-flight count leaks.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    /// Place of the endpoint in its pool, so that the next choice can leave it out.
    position: usize,
    reported: bool,
}

impl Lease {
    pub(crate) fn new(endpoint: Arc<Endpoint>, position: usize) -> Self {
        endpoint.begin();
        Self {
            endpoint,
            position,
            reported: false,
        }
    }

    /// The backend to send to.
    pub fn backend(&self) -> &Arc<Backend> {
        self.endpoint.backend()
    }

    /// Place of the endpoint in its pool.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Tells how the attempt ended and gives the endpoint back.
    pub fn report(mut self, outcome: Outcome, now: Instant) {
        self.reported = true;
        self.endpoint.end(outcome, Some(now));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.reported {
            self.endpoint.end(Outcome::Cancelled, None);
        }
    }
}
