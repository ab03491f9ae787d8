//! The health check at start: who is asked, how, and what the balancer makes of the answers.
//!
//! `cargo run --example initial_health_check_demo`, or with a configuration of your own:
//! `cargo run --example initial_health_check_demo -- config.toml`. The server does the same in the background and serves from the
//! first moment.
#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use berry_api::demo;
use berry_core::config::{Config, ProcessEnvironment};
use berry_loadbalance::selector::PoolSelector;
use berry_relay::client::Upstreams;
use berry_relay::clock::Clock;
use berry_relay::probe;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

/// Four backends that differ in what the check finds.
const CONFIG: &str = r#"
[providers.well]
backend_type = "demo"

[providers.failing]
backend_type = "demo"
health_check = "chat"
[providers.failing.demo]
failure_rate = 1.0

[providers.away]
base_url = "http://127.0.0.1:9/v1"

[providers.charged]
backend_type = "demo"

[models.chat]
name = "chat"
[[models.chat.backends]]
provider = "well"
model = "demo-model"
[[models.chat.backends]]
provider = "failing"
model = "demo-model"
[[models.chat.backends]]
provider = "away"
model = "demo-model"
[[models.chat.backends]]
provider = "charged"
model = "demo-model"
billing_mode = "per_request"
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let loaded = match std::env::args().nth(1) {
        Some(path) => Config::load(Path::new(&path), &ProcessEnvironment)?,
        None => Config::from_text("example", CONFIG, &ProcessEnvironment)?,
    };
    let (snapshot, clock) = (loaded.snapshot, Clock::start());
    let selector = PoolSelector::new(&snapshot, None);
    let dials = demo::dials(snapshot.providers.values());
    let upstreams = Upstreams::new(snapshot.providers.values(), &dials, None)?;
    let mut rng = SmallRng::seed_from_u64(1);

    println!("asked:");
    for probe in selector.due_probes(clock.now()) {
        let list = probe::list(&upstreams, &probe.backend().provider, probe.timeout());
        let checked = probe::check(&upstreams, probe.backend(), probe.method(), probe.timeout(), list).await;
        println!("  {:<24} {:<10} {}", probe.backend().id.to_string(), probe.kind().as_str(), checked.detail);
        probe.report(checked.answer, clock.now(), &mut rng);
    }
    println!("known now:");
    for pool in selector.pools() {
        for endpoint in pool.report(clock.now()) {
            let word = if endpoint.healthy { "healthy" } else { "unhealthy" };
            let asked = if endpoint.stats.probes == 0 { ", never asked" } else { "" };
            println!("  {:<24} {word}{asked}, circuit {}", endpoint.id.to_string(), endpoint.circuit.name());
        }
    }
    let next = selector.next_probe(clock.now()).map_or(Duration::ZERO, |at| at.since(clock.now()));
    println!("next probe in {} s", next.as_secs());
    Ok(())
}
