//! Asks providers with `models = "auto"` what they serve, in the background.
//!
//! Nothing waits for it. Each is asked at once when it appears in a configuration and again every `REFRESH_EVERY` ±10 %; one that
//! cannot tell is asked sooner, and its last list stays in force meanwhile. What follows from a list is
//! [`berry_core::config::snapshot::Discovered`]; a list that differs is laid over the configuration in one swap, as a change at
//! run time is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Model, Provider, Snapshot};
use berry_core::id::{ProviderId, UpstreamModel};
use berry_core::time::Instant;
use berry_relay::probe;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::app::{App, Runtime};

/// Between two questions to a provider that answers.
pub const REFRESH_EVERY: Duration = Duration::from_secs(600);
/// After the first question that was not answered; doubled with each further one, up to [`REFRESH_EVERY`].
pub const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Longest time until a new configuration is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Names that a line of the log gives.
const NAMES_LOGGED: usize = 10;

/// Asks until the drain begins.
pub async fn run(app: Arc<App>) {
    tokio::select! {
        biased;
        () = app.shutdown.drained() => {}
        () = ask_for_ever(&app) => {}
    }
}

async fn ask_for_ever(app: &App) {
    let mut rng = app.seeds.next_rng();
    let mut plans = Plans::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        let runtime = app.runtime();
        let configured = &runtime.configured;
        plans.follow(configured);
        app.discovered.lock().retain(|id| configured.providers.get(id).is_some_and(|provider| asks(provider)));
        for provider in plans.take_due(app.clock.now()) {
            under_way.push(ask(Arc::clone(&runtime), provider));
        }
        // Not held while waiting: a configuration that was replaced is to go.
        drop(runtime);
        tokio::select! {
            biased;
            Some((provider, answer)) = under_way.next() => {
                let heard = take_in(app, &provider, answer);
                plans.heard(&provider, heard, app.clock.now(), &mut rng);
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn asks(provider: &Provider) -> bool {
    provider.enabled && provider.discover
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
enum NoList {
    #[error("{0}")]
    NotAsked(String),
    #[error("status {0}, no models list")]
    Status(u16),
    /// Taken for a fault over there: nothing would be left to serve.
    #[error("the list is empty")]
    Empty,
}

async fn ask(runtime: Arc<Runtime>, provider: Arc<Provider>) -> (Arc<Provider>, Result<Vec<String>, NoList>) {
    let timeout = runtime.snapshot.settings.probing.timeout;
    let found = match &*probe::list(runtime.relay.upstreams(), &provider, timeout).await {
        Err(error) => Err(NoList::NotAsked(error.to_string())),
        Ok(finding) => match &finding.models {
            Some(models) if finding.status.is_success() && models.is_empty() => Err(NoList::Empty),
            Some(models) if finding.status.is_success() => Ok(models.clone()),
            _ => Err(NoList::Status(finding.status.as_u16())),
        },
    };
    (provider, found)
}

/// Puts a list in force, where it is another one. Whether there was a list.
fn take_in(app: &App, provider: &Provider, answer: Result<Vec<String>, NoList>) -> bool {
    let id = provider.id.as_str();
    let names = match answer {
        Ok(names) => names,
        Err(error) => {
            let kept = app.discovered.lock().of(&provider.id).map_or(0, |list| list.len());
            tracing::warn!(provider = id, %error, kept, "models not discovered");
            return false;
        }
    };
    let (before, after) = {
        let mut discovered = app.discovered.lock();
        let before = discovered.of(&provider.id).cloned();
        if !discovered.learn(&provider.id, &names) {
            return true;
        }
        (before.unwrap_or_default(), discovered.of(&provider.id).cloned().unwrap_or_default())
    };
    if let Err(error) = app.renew() {
        tracing::error!(provider = id, %error, "models were discovered but could not be put in force");
    }
    let (added, removed) = (missing_in(&before, &after), missing_in(&after, &before));
    tracing::info!(provider = id, models = after.len(), added, removed, "models discovered");
    let unknown = unknown(&app.runtime().configured, &provider.id, &after);
    if !unknown.is_empty() {
        tracing::warn!(provider = id, models = unknown, "the provider does not list what backends ask it for");
    }
    true
}

/// The first of the names that are in `all` and not in `known`, and how many more there are.
fn missing_in(known: &[UpstreamModel], all: &[UpstreamModel]) -> String {
    named(all.iter().filter(|model| known.binary_search(model).is_err()).map(UpstreamModel::as_str).collect())
}

/// Models that are asked of a provider and that it does not list.
fn unknown(configured: &Snapshot, provider: &ProviderId, list: &[UpstreamModel]) -> String {
    let models = configured.models.all.iter().filter(|model| model.enabled);
    let asked =
        models.flat_map(|model: &Arc<Model>| &model.backends).filter(|backend| backend.id.provider == *provider);
    let wanted =
        asked.filter(|backend| backend.enabled && !backend.takes_any_name()).map(|backend| &backend.id.upstream);
    named(wanted.filter(|model| list.binary_search(model).is_err()).map(UpstreamModel::as_str).collect())
}

fn named(names: Vec<&str>) -> String {
    let (first, rest) = names.split_at(names.len().min(NAMES_LOGGED));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    first.join(", ") + &more
}

/// When each provider is to be asked.
#[derive(Default)]
struct Plans(HashMap<ProviderId, Plan>);

struct Plan {
    /// As it is configured; another one is asked at once.
    provider: Arc<Provider>,
    /// `None` while an answer is waited for.
    next: Option<Instant>,
    failures: u32,
}

impl Plans {
    fn follow(&mut self, configured: &Snapshot) {
        let same = |plan: &Plan| {
            configured.providers.get(&plan.provider.id).is_some_and(|provider| Arc::ptr_eq(provider, &plan.provider))
        };
        self.0.retain(|_, plan| same(plan));
        for provider in configured.providers.values().filter(|provider| asks(provider)) {
            let plan = || Plan { provider: Arc::clone(provider), next: Some(Instant::START), failures: 0 };
            self.0.entry(provider.id.clone()).or_insert_with(plan);
        }
    }

    fn take_due(&mut self, now: Instant) -> Vec<Arc<Provider>> {
        let due = self.0.values_mut().filter(|plan| plan.next.is_some_and(|at| at <= now));
        due.map(|plan| {
            plan.next = None;
            Arc::clone(&plan.provider)
        })
        .collect()
    }

    /// Plans the next question, unless the provider was replaced since the last one.
    fn heard(&mut self, provider: &Arc<Provider>, well: bool, now: Instant, rng: &mut SmallRng) {
        let plan = self.0.get_mut(&provider.id).filter(|plan| Arc::ptr_eq(&plan.provider, provider));
        let Some(plan) = plan else {
            return;
        };
        plan.failures = if well { 0 } else { plan.failures.saturating_add(1) };
        let wait = match plan.failures {
            0 => REFRESH_EVERY,
            failures => RETRY_AFTER.saturating_mul(1 << (failures - 1).min(16)).min(REFRESH_EVERY),
        };
        plan.next = Some(now + wait.mul_f64(rng.random_range(0.9..1.1)));
    }
}
