//! Circuits: what one instance found out about a backend, told to the others.
//!
//! A circuit that opens here because requests failed or a key was refused is told once. Whoever hears it opens its own for the
//! same time, unless requests of its own went well there in the last ten seconds: what an instance sees for itself counts more
//! than what it hears, so that one with a broken line takes no backend away from the others. Each tries the backend again by
//! itself. What an administrator does to circuits holds everywhere.
//!
//! Nothing of this is kept in the store: an instance that is not connected misses it and finds out for itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_core::id::{BackendId, ModelId, ProviderId, UpstreamModel};
use berry_core::time::Instant;
use berry_loadbalance::breaker::{Cause, Phase};
use berry_loadbalance::endpoint::Endpoint;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::link::Link;
use crate::app::App;
use crate::changes::Target;

/// Between two looks at this instance's circuits.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What waits to be told or taken in; more is dropped.
const QUEUE_MAX: usize = 256;
/// The longest time that is believed.
const OPEN_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What instances tell each other.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct News {
    from: String,
    provider: String,
    model: Option<String>,
    upstream: Option<String>,
    change: Change,
}

impl News {
    fn new(from: &str, target: &Target, change: Change) -> Self {
        Self {
            from: from.to_owned(),
            provider: target.provider.as_str().to_owned(),
            model: target.model.as_ref().map(|model| model.as_str().to_owned()),
            upstream: target.upstream.as_ref().map(|upstream| upstream.as_str().to_owned()),
            change,
        }
    }

    fn target(&self) -> Target {
        Target {
            provider: ProviderId::from(self.provider.as_str()),
            model: self.model.as_deref().map(ModelId::from),
            upstream: self.upstream.as_deref().map(UpstreamModel::from),
        }
    }
}

/// What happened to circuits.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    /// One opened by itself.
    Opened { for_ms: u64 },
    /// An administrator opened them.
    Forced { for_ms: u64 },
    /// An administrator closed them.
    Reset,
}

/// Tells and hears of circuits.
pub(super) struct Circuits {
    link: Arc<Link>,
    to_tell: Mutex<Vec<News>>,
    news: Notify,
}

impl Circuits {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, to_tell: Mutex::default(), news: Notify::new() }
    }

    /// An administrator opened circuits for a time, or closed them.
    pub(super) fn turned(&self, target: &Target, open_for: Option<Duration>) {
        let change = match open_for {
            Some(time) => Change::Forced { for_ms: millis(time) },
            None => Change::Reset,
        };
        self.tell(News::new(&self.link.instance, target, change));
        self.news.notify_one();
    }

    fn tell(&self, news: News) {
        let mut to_tell = self.to_tell.lock();
        if to_tell.len() < QUEUE_MAX {
            to_tell.push(news);
        }
    }

    /// Looks and listens for ever.
    pub(super) async fn run(&self, app: &App) {
        // Until when each open circuit was when it was looked at last, or was opened for others.
        let mut known: HashMap<BackendId, Instant> = HashMap::new();
        loop {
            let _ = timeout(LOOK_EVERY, async {
                tokio::select! {
                    () = self.news.notified() => {}
                    () = self.link.circuit_news.notified() => {}
                }
            })
            .await;
            for heard in self.link.take_circuit_news() {
                if let Ok(news) = serde_json::from_slice::<News>(&heard)
                    && news.from != self.link.instance
                {
                    self.take_in(app, &news, &mut known);
                }
            }
            self.look(app, &mut known);
            let to_tell = std::mem::take(&mut *self.to_tell.lock());
            for news in &to_tell {
                let text = serde_json::to_string(news).expect("news are made of texts and numbers");
                // Who is not reached finds out for itself.
                let _ = self.link.publish(&text).await;
            }
        }
    }

    /// Finds circuits that opened by themselves.
    fn look(&self, app: &App, known: &mut HashMap<BackendId, Instant>) {
        let now = app.clock.now();
        known.retain(|_, until| *until > now);
        let runtime = app.runtime();
        for endpoint in runtime.selector.pools().flat_map(|pool| pool.endpoints()) {
            let id = &endpoint.backend().id;
            if let Some(until) = open_until(endpoint, now)
                && endpoint.circuit().cause != Cause::Probes
                && known.insert(id.clone(), until) != Some(until)
            {
                let change = Change::Opened { for_ms: millis(until.since(now)) };
                let BackendId { provider, model, upstream, .. } = id.clone();
                let target = Target { provider, model: Some(model), upstream: Some(upstream) };
                self.tell(News::new(&self.link.instance, &target, change));
            }
        }
    }

    fn take_in(&self, app: &App, news: &News, known: &mut HashMap<BackendId, Instant>) {
        let (target, change, now, runtime) = (news.target(), news.change, app.clock.now(), app.runtime());
        let endpoints = runtime.selector.pools().flat_map(|pool| pool.endpoints());
        for endpoint in endpoints.filter(|endpoint| target.covers(&endpoint.backend().id)) {
            let open_for = match change {
                Change::Reset => {
                    endpoint.reset();
                    continue;
                }
                Change::Opened { .. } if endpoint.tally(now).good > 0 || !is_closed(endpoint) => continue,
                Change::Opened { for_ms } | Change::Forced { for_ms } => Duration::from_millis(for_ms).min(OPEN_MAX),
            };
            endpoint.open_circuit(now + open_for);
            if let Some(until) = open_until(endpoint, now) {
                known.insert(endpoint.backend().id.clone(), until);
            }
            let backend = endpoint.backend().id.to_string();
            tracing::info!(backend, ?open_for, "another instance says that a circuit is open");
        }
    }
}

fn open_until(endpoint: &Endpoint, now: Instant) -> Option<Instant> {
    match endpoint.circuit().phase {
        Phase::Open { until, .. } if until > now => Some(until),
        _ => None,
    }
}

fn is_closed(endpoint: &Endpoint) -> bool {
    matches!(endpoint.circuit().phase, Phase::Closed { .. })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
