//! What one choice costs: eligibility, picking, claiming and giving back, for every strategy.
//!
//! `cargo bench -p berry-loadbalance`. To be kept: under 1 µs for 10 backends, under 20 µs for 1,000; no allocation up to 16.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it must")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::Strategy;
use berry_core::config::{Config, ProcessEnvironment};
use berry_core::id::ModelId;
use berry_core::operation::Dialect;
use berry_core::time::Instant;
use berry_loadbalance::eligibility::{Demand, Hints};
use berry_loadbalance::outcome::Outcome;
use berry_loadbalance::pool::Pool;
use berry_loadbalance::selector::PoolSelector;
use divan::{AllocProfiler, Bencher};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

/// A pool in which every endpoint has been used once, so that nothing is unmeasured.
fn pool(strategy: &str, backends: usize) -> Arc<Pool> {
    let mut text = format!("[models.m]\nname = \"m\"\nstrategy = \"{strategy}\"\n");
    for i in 0..backends {
        let price = 1.0 + i as f64 / 100.0;
        writeln!(text, "[[models.m.backends]]\nprovider = \"p{i}\"\nmodel = \"u\"\ninput_price = {price}").unwrap();
    }
    for i in 0..backends {
        writeln!(text, "[providers.p{i}]\nname = \"p\"\nbase_url = \"http://127.0.0.1:9/v1\"\napi_key = \"k\"")
            .unwrap();
    }
    let snapshot = Config::from_text("bench", &text, &ProcessEnvironment).unwrap().snapshot;
    let selector = PoolSelector::new(&snapshot, None);
    let pool = Arc::clone(selector.pool(&ModelId::from("m")).unwrap());
    let mut rng = SmallRng::seed_from_u64(1);
    for i in 0..backends {
        let provider = format!("p{i}");
        let latency = Duration::from_millis(100 + i as u64);
        let lease = pool.choose(&demand(Some(&provider)), &mut rng).unwrap();
        lease.report(Outcome::Success { ttft: Some(latency), latency }, NOW);
    }
    pool
}

fn demand(provider: Option<&str>) -> Demand<'_> {
    Demand {
        // A moment later, so that figures have to be faded.
        now: NOW + Duration::from_millis(1_500),
        tags: &[],
        dialect: Dialect::OpenAi,
        translatable: &[],
        provider,
        requested: "",
        tried: &[],
        hints: Hints { conversation: Some(42), ..Hints::default() },
    }
}

fn strategies() -> impl Iterator<Item = &'static str> {
    Strategy::ALL.iter().map(|(name, _)| *name)
}

#[divan::bench(args = strategies())]
fn of_10(bencher: Bencher<'_, '_>, strategy: &str) {
    let (pool, mut rng) = (pool(strategy, 10), SmallRng::seed_from_u64(1));
    bencher.bench_local(|| drop(pool.choose(&demand(None), &mut rng).unwrap()));
}

#[divan::bench(args = strategies())]
fn of_1000(bencher: Bencher<'_, '_>, strategy: &str) {
    let (pool, mut rng) = (pool(strategy, 1_000), SmallRng::seed_from_u64(1));
    bencher.bench_local(|| drop(pool.choose(&demand(None), &mut rng).unwrap()));
}

/// With the record of the choice, as it is kept for the explanations.
#[divan::bench]
fn of_10_explained(bencher: Bencher<'_, '_>) {
    let (pool, mut rng) = (pool("smart_ai", 10), SmallRng::seed_from_u64(1));
    bencher.bench_local(|| pool.choose_explained(&demand(None), &mut rng).1);
}

/// The end of an attempt.
#[divan::bench]
fn report(bencher: Bencher<'_, '_>) {
    let (pool, mut rng) = (pool("smart_ai", 10), SmallRng::seed_from_u64(1));
    let latency = Duration::from_millis(100);
    bencher
        .with_inputs(|| pool.choose(&demand(None), &mut rng).unwrap())
        .bench_local_values(|lease| lease.report(Outcome::Success { ttft: Some(latency), latency }, NOW));
}
