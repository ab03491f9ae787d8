//! What takes the place of the metrics and traces in a build without the feature `observability`: the same calls, without effect.

use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::Telemetry;
use berry_core::operation::Operation;
use berry_core::time::Epoch;
use berry_relay::exchange::Facts;
use berry_relay::forward::Seeds;
use berry_relay::trace::Trace;
use http::{HeaderMap, Method};
use tokio_util::sync::CancellationToken;

use super::access::Finished;

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

/// Traces nothing.
#[derive(Debug)]
pub struct Traces;

impl Traces {
    /// Nothing.
    pub fn new(_: &Telemetry, _: Arc<Seeds>, _: Epoch) -> Self {
        Self
    }

    /// No request is traced.
    pub fn begin(&self, _: Option<&HeaderMap>) -> Option<Trace> {
        None
    }

    /// Nothing.
    pub fn take(&self, _: &Finished) {}

    /// Nothing.
    pub fn lose(&self, _: &Finished) {}

    /// Nothing.
    pub async fn export(self: Arc<Self>, _: CancellationToken) {}
}
