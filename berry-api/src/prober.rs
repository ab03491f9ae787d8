//! Asks backends whether they are well, in the background. When to ask and what an answer means is decided by
//! [`berry_loadbalance::probe`]; how to ask by [`berry_relay::probe`].
//!
//! Everything runs on one task, beside the traffic and never before it: a request that comes before the first answer is served
//! as if all were well. At most `AT_A_PROVIDER_MAX` probes are under way at a provider, and each provider has its own line, so
//! a silent one delays nobody else's. A probe that waited in its line for longer than it may take is dropped; it comes again.
//!
//! A provider is asked for its models list once for all of its backends that are due at about the same time; from there on they
//! stay together. What probes ask and cost is counted apart from the traffic of users ([`ProbeFigures`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{HealthCheck, Provider};
use berry_core::id::{BackendId, ProviderId};
use berry_core::money::NanoUsd;
use berry_core::time::Instant;
use berry_loadbalance::probe::{Answer, Probe};
use berry_relay::forward::Relay;
use berry_relay::probe::{self, Checked, List};
use futures_util::future::{BoxFuture, Shared};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tracing::Level;

use crate::app::App;

/// Probes under way at one provider.
const AT_A_PROVIDER_MAX: usize = 4;
/// Longest time without a look at what is due, since requests change it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two looks, so that nothing that stays due makes the task spin.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(10);
/// Between two closings of idle connections.
const CLOSE_IDLE_EVERY: Duration = Duration::from_secs(5);

/// Probes until the drain begins.
pub async fn run(app: Arc<App>) {
    tokio::select! {
        biased;
        () = app.shutdown.drained() => {}
        () = probe_for_ever(&app) => {}
        () = close_idle(&app) => {}
    }
}

/// Closes upstream connections that nobody uses any more.
async fn close_idle(app: &App) {
    loop {
        tokio::time::sleep(CLOSE_IDLE_EVERY).await;
        app.runtime().relay.upstreams().close_idle();
    }
}

async fn probe_for_ever(app: &App) {
    let mut rng = app.seeds.next_rng();
    let mut lines = Lines::default();
    let mut lists = Lists::default();
    let mut verdicts = Verdicts::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        let runtime = app.runtime();
        let now = app.clock.now();
        lines.enter(runtime.selector.due_probes(now), now);
        while let Some(mut probe) = lines.next(now) {
            let list = lists.list_for(&mut probe, &runtime.relay, &app.probes, now);
            under_way.push(ask(Arc::clone(&runtime.relay), probe, list));
        }
        let due = runtime.selector.next_probe(now).unwrap_or(now + LOOK_EVERY);
        let look = due.clamp(now + LOOK_AT_MOST_EVERY, now + LOOK_EVERY);
        // Not held while waiting: a configuration that was replaced is to go.
        drop(runtime);
        tokio::select! {
            biased;
            Some((probe, checked)) = under_way.next() => {
                lines.leave(&probe.backend().provider.id);
                verdicts.tell(&probe, &checked);
                app.probes.count(&probe, &checked);
                probe.report(checked.answer, app.clock.now(), &mut rng);
            }
            () = tokio::time::sleep_until(app.clock.at(look)) => {}
        }
    }
}

/// A models list that is known, or is being asked for.
type SharedList = Shared<BoxFuture<'static, List>>;

async fn ask(relay: Arc<Relay>, probe: Probe, list: SharedList) -> (Probe, Checked) {
    let checked = probe::check(relay.upstreams(), probe.backend(), probe.method(), probe.timeout(), list).await;
    (probe, checked)
}

/// The last models list of each provider.
#[derive(Default)]
struct Lists(HashMap<ProviderId, Asked>);

struct Asked {
    /// As it was configured then.
    provider: Arc<Provider>,
    at: Instant,
    list: SharedList,
}

impl Lists {
    /// The list that a probe may use. Nothing is asked before it is looked at.
    fn list_for(
        &mut self,
        probe: &mut Probe,
        relay: &Arc<Relay>,
        figures: &Arc<ProbeFigures>,
        now: Instant,
    ) -> SharedList {
        let provider = Arc::clone(&probe.backend().provider);
        if !matches!(probe.method(), HealthCheck::Models | HealthCheck::ModelsThenChat) {
            return asking(relay, figures, provider, probe.timeout());
        }
        let known = self.0.get(&provider.id).filter(|known| Arc::ptr_eq(&known.provider, &provider));
        if let Some(known) = known.filter(|known| probe.shares(known.at, now)) {
            return known.list.clone();
        }
        let list = asking(relay, figures, Arc::clone(&provider), probe.timeout());
        self.0.insert(provider.id.clone(), Asked { provider, at: now, list: list.clone() });
        list
    }
}

fn asking(relay: &Arc<Relay>, figures: &Arc<ProbeFigures>, provider: Arc<Provider>, timeout: Duration) -> SharedList {
    let (relay, figures) = (Arc::clone(relay), Arc::clone(figures));
    let asked = async move {
        figures.add(&provider.id, |counts| counts.lists += 1);
        probe::list(relay.upstreams(), &provider, timeout).await
    };
    asked.boxed().shared()
}

/// What was asked of a provider by probes. Only grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProbeCounts {
    /// Models lists.
    pub lists: u64,
    /// One-token chats.
    pub chats: u64,
    /// Connections, for nothing else.
    pub connections: u64,
    /// Backends that were found to be unwell.
    pub failures: u64,
    /// Input and output tokens of the chats, as reported.
    pub tokens: u64,
    /// What the chats cost, as far as prices are known.
    pub cost: NanoUsd,
}

/// What probes asked and cost, by provider; no part of the figures of requests.
#[derive(Debug, Default)]
pub struct ProbeFigures(Mutex<BTreeMap<ProviderId, ProbeCounts>>);

impl ProbeFigures {
    /// The counters now.
    pub fn read(&self) -> BTreeMap<ProviderId, ProbeCounts> {
        self.0.lock().clone()
    }

    fn add(&self, provider: &ProviderId, add: impl FnOnce(&mut ProbeCounts)) {
        add(self.0.lock().entry(provider.clone()).or_default());
    }

    fn count(&self, probe: &Probe, checked: &Checked) {
        let backend = probe.backend();
        self.add(&backend.provider.id, |counts| {
            counts.failures += u64::from(checked.answer != Answer::Good);
            counts.connections += u64::from(probe.method() == HealthCheck::Connect);
            if let Some(usage) = &checked.chat {
                counts.chats += 1;
                counts.tokens += usage.total();
                // Nothing was reported: it was not answered, and is not charged.
                if !usage.is_empty() {
                    counts.cost += backend.tariff_of(backend.id.upstream.as_str()).cost(usage).total;
                }
            }
        });
    }
}

/// The probes that wait, by provider.
#[derive(Default)]
struct Lines(BTreeMap<ProviderId, Line>);

#[derive(Default)]
struct Line {
    waiting: VecDeque<(Probe, Instant)>,
    under_way: usize,
}

impl Lines {
    fn enter(&mut self, due: Vec<Probe>, now: Instant) {
        for probe in due {
            let line = self.0.entry(probe.backend().provider.id.clone()).or_default();
            line.waiting.push_back((probe, now));
        }
    }

    /// One that may be sent now.
    fn next(&mut self, now: Instant) -> Option<Probe> {
        self.0.values_mut().find_map(|line| line.next(now))
    }

    /// One is over.
    fn leave(&mut self, provider: &ProviderId) {
        if let Some(line) = self.0.get_mut(provider) {
            line.under_way -= 1;
            if line.under_way == 0 && line.waiting.is_empty() {
                self.0.remove(provider);
            }
        }
    }
}

impl Line {
    fn next(&mut self, now: Instant) -> Option<Probe> {
        self.waiting.retain(|(probe, since)| now.since(*since) < probe.timeout());
        if self.under_way >= AT_A_PROVIDER_MAX {
            return None;
        }
        let (probe, _) = self.waiting.pop_front()?;
        self.under_way += 1;
        Some(probe)
    }
}

/// What the last probe of each backend said, so that the log tells changes from repetitions.
#[derive(Default)]
struct Verdicts(HashMap<BackendId, bool>);

impl Verdicts {
    fn tell(&mut self, probe: &Probe, checked: &Checked) {
        let backend = &probe.backend().id;
        let healthy = checked.answer == Answer::Good;
        let (kind, detail) = (probe.kind().as_str(), checked.detail.as_str());
        match self.weigh(backend, healthy) {
            Level::WARN => tracing::warn!(%backend, kind, healthy, detail, "health_check"),
            Level::INFO => tracing::info!(%backend, kind, healthy, detail, "health_check"),
            _ => tracing::debug!(%backend, kind, healthy, detail, "health_check"),
        }
    }

    /// A failure is a warning, its end is news, and that all goes on well is for those who look closely.
    fn weigh(&mut self, backend: &BackendId, healthy: bool) -> Level {
        match (self.0.insert(backend.clone(), healthy), healthy) {
            (_, false) => Level::WARN,
            (Some(false), true) => Level::INFO,
            (_, true) => Level::DEBUG,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_probe_is_a_warning_and_the_end_of_the_trouble_is_news() {
        let id = |model: &str| BackendId { model: model.into(), provider: "p".into(), upstream: "u".into(), repeat: 0 };
        let mut verdicts = Verdicts::default();
        for (model, healthy, level) in [
            ("a", true, Level::DEBUG),
            ("a", false, Level::WARN),
            ("b", true, Level::DEBUG),
            ("a", false, Level::WARN),
            ("a", true, Level::INFO),
            ("a", true, Level::DEBUG),
        ] {
            assert_eq!(verdicts.weigh(&id(model), healthy), level, "{model} {healthy}");
        }
    }
}
