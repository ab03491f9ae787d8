//! What a program that embeds the gateway may add: who a token belongs to, and who hears of finished requests. A strategy of one's own
//! is `berry-loadbalance/examples/own_strategy.rs`.
//!
//! `examples/own_gateway.rs` is a gateway with both. Without extensions nothing is asked and nobody is told.

use std::sync::Arc;
use std::time::Duration;

use berry_core::auth::key::TokenDigest;
use berry_core::config::snapshot::User;
use berry_relay::exchange::Facts;
use http::request::Parts;

/// Knows users beside those of the configuration and the holders of issued keys.
pub trait Authenticator: Send + Sync {
    /// The user that a token belongs to, when nobody else knows it; `None` refuses it (401, audited).
    ///
    /// Called on the way of a request, so it looks into memory and does not wait. `head` has the token itself, in the header that it
    /// came in. The answer is not remembered, so a user who is no longer named is refused at the next request.
    fn user(&self, digest: &TokenDigest, head: &Parts) -> Option<Arc<User>>;
}

/// Hears of every request of the data path, once, when it has ended however it ended.
pub trait Observer: Send + Sync {
    /// Called when the last byte has left, possibly in the middle of another request's work: count, or hand over to a queue of your
    /// own with a bound.
    fn finished(&self, facts: &Facts, latency: Duration);
}

/// What is added to a gateway.
#[derive(Clone, Default)]
pub struct Extensions {
    /// Asked last.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Told in this order.
    pub observers: Vec<Arc<dyn Observer>>,
}
