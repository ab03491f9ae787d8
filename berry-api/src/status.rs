//! The state of the gateway for `/health`, `/v1/health` and `/metrics`: built when asked for, from the configuration and the
//! counters of the endpoints. Upstream addresses are in none of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berry_core::config::snapshot::{Provider, Snapshot};
use berry_core::id::{BackendId, ModelId, ModelName, ProviderId, UpstreamModel};
use berry_core::time::{Epoch, Instant};
use berry_loadbalance::endpoint::EndpointStats;
use berry_loadbalance::pool::Pool;
use berry_loadbalance::selector::PoolSelector;
use serde::Serialize;

use crate::app::App;
use crate::telemetry::format::rfc3339;

/// Between two looks at the system's clock.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// `healthy`, `degraded` or `unhealthy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Everything that is switched on works.
    Healthy,
    /// Something does not, but some model can be served.
    Degraded,
    /// No model can be served.
    Unhealthy,
}

/// How many of a kind are healthy.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Ratio {
    /// Those that are switched on.
    pub total: usize,
    /// Of these, those that work.
    pub healthy: usize,
    /// Their share; 0 of 0 is 0.
    pub ratio: f64,
}

impl Ratio {
    fn of(healthy: impl Iterator<Item = bool>) -> Self {
        let (mut total, mut good) = (0_usize, 0_usize);
        for healthy in healthy {
            total += 1;
            good += usize::from(healthy);
        }
        Self { total, healthy: good, ratio: share(good, total) }
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    // Counts of configured things are far below where a float loses precision.
    part as f64 / whole as f64
}

/// One upstream model of a provider, over all pools that it is in.
#[derive(Debug, Default, Serialize)]
pub struct ProviderModel {
    /// Whether it may be sent to and nothing speaks against it, in one of its pools.
    pub healthy: bool,
    /// Attempts that ended with something to learn.
    pub requests: u64,
    /// Of these, failures.
    pub errors: u64,
    /// Mean over successes.
    pub latency_ms: Option<f64>,
    /// Failures since the last success.
    pub failure_count: u32,
}

/// One provider.
#[derive(Debug, Serialize)]
pub struct ProviderReport {
    /// Name for people.
    pub name: String,
    /// Whether at least one of its backends works.
    pub healthy: bool,
    /// Whether it is switched on.
    pub enabled: bool,
    /// When something was last learnt about it.
    pub last_check: Option<String>,
    /// Attempts that ended with something to learn.
    pub total_requests: u64,
    /// Of these, those that were not its failure.
    pub successful_requests: u64,
    /// Of these, failures.
    pub failed_requests: u64,
    /// Mean over successes.
    pub average_latency_ms: Option<f64>,
    /// Upstream models that pools use.
    pub total_models: usize,
    /// Of these, those that work.
    pub healthy_models: usize,
    /// By upstream name.
    pub models: BTreeMap<UpstreamModel, ProviderModel>,
}

/// One backend of a model.
#[derive(Debug, Serialize)]
pub struct BackendReport {
    /// Whose.
    pub provider: ProviderId,
    /// Its name there.
    pub model: UpstreamModel,
    /// As configured.
    pub weight: f64,
    /// As configured.
    pub priority: u32,
    /// Whether it works.
    pub healthy: bool,
    /// Whether it is switched on.
    pub enabled: bool,
    /// Mean over successes.
    pub latency_ms: Option<f64>,
    /// Failures since the last success.
    pub failure_count: u32,
}

/// One model.
#[derive(Debug, Serialize)]
pub struct ModelReport {
    /// What clients ask for.
    pub name: ModelName,
    /// How a backend is chosen.
    pub strategy: &'static str,
    /// Whether it is switched on.
    pub enabled: bool,
    /// Backends that are switched on.
    pub total_backends: usize,
    /// Of these, those that work.
    pub healthy_backends: usize,
    /// Their share.
    pub health_ratio: f64,
    /// All of them, in file order.
    pub backends: Vec<BackendReport>,
}

/// Requests of one model.
#[derive(Debug, Default, Serialize)]
pub struct ModelCounts {
    /// Attempts that ended with something to learn.
    pub total_requests: u64,
    /// Of these, those that were no backend's failure.
    pub successful_requests: u64,
    /// Of these, failures.
    pub failed_requests: u64,
}

/// Choices made.
#[derive(Debug, Default, Serialize)]
pub struct LoadBalancerReport {
    /// All of them.
    pub total_selections: u64,
    /// By strategy.
    pub strategy_distribution: BTreeMap<&'static str, u64>,
}

/// The state at one moment.
#[derive(Debug)]
pub struct Status {
    /// In a word.
    pub condition: Condition,
    /// Enabled providers.
    pub provider_health: Ratio,
    /// Enabled models.
    pub model_health: Ratio,
    /// Enabled backends.
    pub backend_health: Ratio,
    /// By table key.
    pub providers: BTreeMap<ProviderId, ProviderReport>,
    /// By table key.
    pub models: BTreeMap<ModelId, ModelReport>,
    /// By public name.
    pub model_counts: BTreeMap<ModelName, ModelCounts>,
    /// Choices.
    pub load_balancer: LoadBalancerReport,
}

/// Turns moments of the monotonic clock into wall-clock text, as the system's clock was set at one moment.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// The wall clock when the monotonic one was zero.
    pub start: SystemTime,
}

impl WallClock {
    /// As it is set now.
    pub fn of(epoch: &Epoch) -> Self {
        Self { start: UNIX_EPOCH + Duration::from_nanos(u64::try_from(epoch.nanos()).unwrap_or(0)) }
    }

    /// The moment in RFC 3339.
    pub fn text(self, at: Instant) -> String {
        rfc3339(self.start + at.since(Instant::START))
    }
}

/// Keeps the process's idea of the wall clock in step with the system's, which may be set at any time, and which goes on while a
/// machine sleeps.
pub async fn follow(app: Arc<App>) {
    let looks = async {
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            if let Some(moved) = app.epoch.follow(SystemTime::now(), app.clock.now()) {
                tracing::info!(
                    moved_seconds = moved as f64 / 1e9,
                    "the system's clock was set; days and months follow it"
                );
            }
        }
    };
    tokio::select! {
        () = app.shutdown.drained() => {}
        () = looks => {}
    }
}

impl Status {
    /// The state now.
    pub fn gather(snapshot: &Snapshot, selector: &PoolSelector, wall: WallClock, now: Instant) -> Self {
        let pools: Vec<&Pool> = selector.pools().map(AsRef::as_ref).collect();
        let providers: BTreeMap<_, _> = snapshot
            .providers
            .values()
            .map(|provider| (provider.id.clone(), provider_report(provider, &pools, wall, now)))
            .collect();
        let models: BTreeMap<_, _> =
            pools.iter().map(|pool| (pool.model().id.clone(), model_report(pool, now))).collect();
        let provider_health = Ratio::of(providers.values().filter(|p| p.enabled).map(|p| p.healthy));
        let enabled_models = || models.values().filter(|model| model.enabled);
        let model_health = Ratio::of(enabled_models().map(|model| model.healthy_backends > 0));
        let backends = enabled_models().flat_map(|model| &model.backends).filter(|backend| backend.enabled);
        let backend_health = Ratio::of(backends.map(|backend| backend.healthy));
        let condition = if model_health.healthy == 0 {
            Condition::Unhealthy
        } else if backend_health.healthy < backend_health.total || model_health.healthy < model_health.total {
            Condition::Degraded
        } else {
            Condition::Healthy
        };
        Self {
            condition,
            provider_health,
            model_health,
            backend_health,
            providers,
            models,
            model_counts: pools.iter().map(|pool| (pool.model().name.clone(), model_counts(pool))).collect(),
            load_balancer: load_balancer(&pools),
        }
    }
}

fn mean_ms(stats: &EndpointStats) -> Option<f64> {
    (stats.successes > 0).then(|| {
        let mean_us = stats.latency_sum.as_secs_f64() * 1e6 / stats.successes as f64;
        mean_us.round() / 1e3
    })
}

fn add(sum: &mut EndpointStats, stats: &EndpointStats) {
    sum.successes += stats.successes;
    sum.caller_faults += stats.caller_faults;
    sum.latency_sum += stats.latency_sum;
    sum.consecutive_failures = sum.consecutive_failures.max(stats.consecutive_failures);
    sum.last_report = sum.last_report.max(stats.last_report);
    for (sum, count) in sum.failures.iter_mut().zip(stats.failures) {
        *sum += count;
    }
}

fn provider_report(provider: &Provider, pools: &[&Pool], wall: WallClock, now: Instant) -> ProviderReport {
    let mut all = EndpointStats::default();
    let mut by_model: BTreeMap<UpstreamModel, (bool, EndpointStats)> = BTreeMap::new();
    let endpoints = pools.iter().flat_map(|pool| pool.endpoints());
    for endpoint in endpoints.filter(|endpoint| endpoint.backend().provider.id == provider.id) {
        let stats = endpoint.stats();
        add(&mut all, &stats);
        let (healthy, sum) = by_model.entry(endpoint.backend().id.upstream.clone()).or_default();
        *healthy |= endpoint.is_healthy(now);
        add(sum, &stats);
    }
    let healthy_models = by_model.values().filter(|(healthy, _)| *healthy).count();
    ProviderReport {
        name: provider.name.clone(),
        // A provider that no pool uses has shown no fault.
        healthy: provider.enabled && (healthy_models > 0 || by_model.is_empty()),
        enabled: provider.enabled,
        last_check: all.last_report.map(|at| wall.text(at)),
        total_requests: all.requests(),
        successful_requests: all.requests() - all.failed(),
        failed_requests: all.failed(),
        average_latency_ms: mean_ms(&all),
        total_models: by_model.len(),
        healthy_models,
        models: by_model
            .into_iter()
            .map(|(name, (healthy, stats))| {
                let report = ProviderModel {
                    healthy,
                    requests: stats.requests(),
                    errors: stats.failed(),
                    latency_ms: mean_ms(&stats),
                    failure_count: stats.consecutive_failures,
                };
                (name, report)
            })
            .collect(),
    }
}

fn model_report(pool: &Pool, now: Instant) -> ModelReport {
    let model = pool.model();
    let backends: Vec<BackendReport> = pool
        .endpoints()
        .iter()
        .map(|endpoint| {
            let (backend, stats) = (endpoint.backend(), endpoint.stats());
            let BackendId { provider, upstream, .. } = backend.id.clone();
            BackendReport {
                provider,
                model: upstream,
                weight: backend.weight,
                priority: backend.priority,
                healthy: endpoint.is_healthy(now),
                enabled: backend.enabled,
                latency_ms: mean_ms(&stats),
                failure_count: stats.consecutive_failures,
            }
        })
        .collect();
    let health = Ratio::of(backends.iter().filter(|backend| backend.enabled).map(|backend| backend.healthy));
    ModelReport {
        name: model.name.clone(),
        strategy: model.strategy.as_str(),
        enabled: model.enabled,
        total_backends: health.total,
        healthy_backends: health.healthy,
        health_ratio: health.ratio,
        backends,
    }
}

fn model_counts(pool: &Pool) -> ModelCounts {
    let mut sum = EndpointStats::default();
    for endpoint in pool.endpoints() {
        add(&mut sum, &endpoint.stats());
    }
    ModelCounts {
        total_requests: sum.requests(),
        successful_requests: sum.requests() - sum.failed(),
        failed_requests: sum.failed(),
    }
}

fn load_balancer(pools: &[&Pool]) -> LoadBalancerReport {
    let mut report = LoadBalancerReport::default();
    for pool in pools {
        report.total_selections += pool.selections();
        *report.strategy_distribution.entry(pool.model().strategy.as_str()).or_default() += pool.selections();
    }
    report
}
