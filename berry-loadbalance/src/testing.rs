//! Pools made from configuration text, and a hand-driven clock and random source, for tests.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Adjustments, SmartAi, Snapshot};
use berry_core::config::{Config, ProcessEnvironment};
use berry_core::id::ModelId;
use berry_core::operation::Dialect;
use berry_core::time::Instant;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::eligibility::{Demand, Hints};
use crate::lease::Lease;
use crate::outcome::{FailureClass, Outcome};
use crate::pool::Pool;
use crate::selector::{NoRoute, PoolSelector};

/// The documented defaults.
pub(crate) const SMART_AI: SmartAi = SmartAi {
    initial_confidence: 0.8,
    min_confidence: 0.05,
    time_decay: true,
    lightweight_check_interval: Duration::from_secs(600),
    exploration_ratio: 0.2,
    non_premium_stability_bonus: 1.1,
    adjustments: Adjustments {
        success_boost: 0.1,
        network_error_penalty: 0.3,
        auth_error_penalty: 0.8,
        rate_limit_penalty: 0.1,
        server_error_penalty: 0.2,
        model_error_penalty: 0.3,
        timeout_penalty: 0.2,
    },
};

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn at(secs: u64) -> Instant {
    Instant::START + Duration::from_secs(secs)
}

/// The configuration of one model `m` with a provider `p0`, `p1`, … for each of `backends`, whose text is further keys.
pub(crate) fn config(strategy: &str, backends: &[&str]) -> String {
    let mut text = format!("[models.m]\nname = \"m\"\nstrategy = \"{strategy}\"\n");
    for (i, keys) in backends.iter().enumerate() {
        write!(text, "[[models.m.backends]]\nprovider = \"p{i}\"\nmodel = \"u\"\n{keys}\n").unwrap();
    }
    for i in 0..backends.len() {
        write!(text, "[providers.p{i}]\nname = \"p{i}\"\nbase_url = \"http://127.0.0.1:9/v1\"\napi_key = \"k\"\n")
            .unwrap();
    }
    text
}

pub(crate) fn snapshot(text: &str) -> Arc<Snapshot> {
    match Config::from_text("test", text, &ProcessEnvironment) {
        Ok(loaded) => loaded.snapshot,
        Err(error) => panic!("{error}\n{text}"),
    }
}

/// A pool with a clock and a random source of its own.
pub(crate) struct Rig {
    pub(crate) selector: PoolSelector,
    pub(crate) now: Instant,
    pub(crate) rng: SmallRng,
}

impl Rig {
    pub(crate) fn new(text: &str) -> Self {
        Self { selector: PoolSelector::new(&snapshot(text), None), now: at(1_000), rng: SmallRng::seed_from_u64(1) }
    }

    pub(crate) fn of(strategy: &str, backends: &[&str]) -> Self {
        Self::new(&config(strategy, backends))
    }

    /// Backends that nobody probes.
    pub(crate) fn unprobed(strategy: &str, count: usize) -> Self {
        Self::of(strategy, &vec!["billing_mode = \"per_request\""; count])
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        self.selector.pool(&ModelId::from("m")).unwrap()
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    pub(crate) fn demand(&self) -> Demand<'static> {
        Demand {
            now: self.now,
            tags: &[],
            dialect: Dialect::OpenAi,
            translatable: &[],
            provider: None,
            requested: "",
            tried: &[],
            hints: Hints::default(),
        }
    }

    pub(crate) fn choose(&mut self) -> Result<Lease, NoRoute> {
        self.choose_beside(&[])
    }

    pub(crate) fn choose_beside(&mut self, tried: &[usize]) -> Result<Lease, NoRoute> {
        let pool = Arc::clone(self.pool());
        pool.choose(&Demand { tried, ..self.demand() }, &mut self.rng)
    }

    /// Chooses and ends the attempt well.
    pub(crate) fn succeed(&mut self) -> usize {
        let lease = self.choose().unwrap();
        let position = lease.position();
        lease.report(SUCCESS, self.now);
        position
    }

    /// One attempt at `position` that fails, whatever the strategy would choose.
    pub(crate) fn fail_at(&mut self, position: usize, class: FailureClass) {
        self.end_at(position, failure(class));
    }

    /// One attempt at `position` that ends so.
    pub(crate) fn end_at(&mut self, position: usize, outcome: Outcome) {
        let provider = format!("p{position}");
        let demand = Demand { provider: Some(&provider), ..self.demand() };
        let pool = Arc::clone(self.pool());
        pool.choose(&demand, &mut self.rng).unwrap().report(outcome, self.now);
    }

    /// How often each of `backends` is chosen and succeeds, out of `times`.
    pub(crate) fn counts<const N: usize>(&mut self, times: u32) -> [u32; N] {
        let mut counts = [0; N];
        for _ in 0..times {
            counts[self.choose().unwrap().position()] += 1;
        }
        counts
    }
}

pub(crate) const SUCCESS: Outcome =
    Outcome::Success { ttft: Some(Duration::from_millis(100)), latency: Duration::from_millis(500) };

pub(crate) fn failure(class: FailureClass) -> Outcome {
    Outcome::Failure { class, retry_after: None }
}
