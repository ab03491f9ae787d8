//! What takes the place of the metrics in a build without the feature `observability`: the same calls, without effect.

use std::time::Duration;

use berry_core::operation::Operation;
use berry_relay::exchange::Facts;
use http::Method;

/// Counts nothing.
#[derive(Default)]
pub struct Metrics;

/// Nothing is told apart.
#[derive(Clone, Copy, Debug)]
pub struct MethodLabel;

impl MethodLabel {
    /// Of a request.
    pub fn of(_: &Method) -> Self {
        Self
    }
}

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub enum Path {
    /// An API call.
    Call(Operation),
    /// Another route's template; `None` = no route.
    Page(Option<&'static str>),
}

impl Metrics {
    /// Nothing.
    pub fn new() -> Self {
        Self
    }

    /// Counts nothing.
    pub fn request(&self, _: Path, _: MethodLabel, _: u16, _: Duration) {}

    /// Counts nothing.
    pub fn settle(&self, _: &Facts, _: Duration) {}
}
