//! A balancer without a gateway: routes are chosen, attempts end well or badly, and the figures follow.
//!
//! `cargo run -p berry-loadbalance --example route_selector`
#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::time::Duration;

use berry_core::config::{Config, LoadError, ProcessEnvironment};
use berry_core::id::ModelId;
use berry_core::operation::Dialect;
use berry_core::time::Instant;
use berry_loadbalance::eligibility::{Demand, Hints};
use berry_loadbalance::outcome::{FailureClass, Outcome};
use berry_loadbalance::selector::{PoolSelector, RouteSelector as _};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

const CONFIG: &str = r#"
[providers.near]
name = "Near"
backend_type = "demo"

[providers.far]
name = "Far"
backend_type = "demo"

[models.chat]
name = "chat"
strategy = "weighted_failover"
[[models.chat.backends]]
provider = "near"
model = "demo"
weight = 3.0
[[models.chat.backends]]
provider = "far"
model = "demo"
"#;

fn main() -> Result<(), LoadError> {
    let snapshot = Config::from_text("example", CONFIG, &ProcessEnvironment)?.snapshot;
    let selector = PoolSelector::new(&snapshot, None);
    let model = ModelId::from("chat");
    // The caller has the clock and the random source, so the same run can be had again.
    let (mut now, mut rng) = (Instant::START, SmallRng::seed_from_u64(1));

    for request in 0..1_000 {
        now = now + Duration::from_millis(50);
        let mut tried = Vec::new();
        loop {
            let demand = Demand {
                now,
                tags: &[],
                dialect: Dialect::OpenAi,
                translatable: &[],
                provider: None,
                requested: "chat",
                tried: &tried,
                hints: Hints::default(),
            };
            let lease = match selector.select_route(&model, &demand, &mut rng) {
                Ok(lease) => lease,
                Err(no_route) => {
                    println!("request {request}: {no_route}, retry after {:?}", no_route.retry_after());
                    break;
                }
            };
            tried.push(lease.position());
            // Here the request would be sent to `lease.backend()`. The near provider is down for a while.
            let down = lease.backend().id.provider.as_str() == "near" && (200..600).contains(&request);
            let latency = Duration::from_millis(80);
            let outcome = if down {
                Outcome::Failure { class: FailureClass::Network, retry_after: None }
            } else {
                Outcome::Success { ttft: Some(latency), latency }
            };
            selector.report_result(lease, outcome, now + latency);
            if !down || !selector.may_retry(&model, now) {
                break;
            }
        }
    }

    for pool in selector.pools() {
        for endpoint in pool.report(now) {
            let reason = endpoint.reason.unwrap_or("fine");
            let (good, failed) = (endpoint.stats.successes, endpoint.stats.failed());
            println!("{}: {good} good, {failed} failed, circuit {}, {reason}", endpoint.id, endpoint.circuit.name());
        }
    }
    Ok(())
}
