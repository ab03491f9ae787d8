//! The demo upstream: providers with `backend_type = "demo"` are answered by a scripted upstream in this process, over an
//! in-memory connection through the ordinary client. It is what runs without any account.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Demo, Provider, Upstream};
use berry_core::id::ProviderId;
use berry_mock::{Mock, Script};
use berry_relay::client::Dial;

/// A way to each demo provider.
pub fn dials<'a>(providers: impl Iterator<Item = &'a Arc<Provider>>) -> HashMap<ProviderId, Dial> {
    providers
        .filter_map(|provider| match &provider.upstream {
            Upstream::Demo(demo) => Some((provider.id.clone(), dial(demo))),
            _ => None,
        })
        .collect()
}

fn dial(demo: &Demo) -> Dial {
    let mock = Mock::new(Script {
        seed: demo.seed,
        first_token_latency_ms: milliseconds(demo.first_token_latency),
        token_latency_ms: milliseconds(demo.token_latency),
        failure_rate: demo.failure_rate,
        // Requests are prompts: nothing of them is kept.
        keep_requests: Some(0),
        ..Script::default()
    });
    Arc::new(move || mock.connect())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
