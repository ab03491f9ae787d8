//! What administrators change while the server runs: a provider or a backend switched off or on, or given another weight.
//!
//! A change lasts until it is taken back or its time is over. It is kept apart from the configuration and laid over each new one,
//! so a reload neither loses it nor writes it down. What it names may be missing from a configuration for a while; then it is
//! listed as without effect. A restart forgets all changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berry_core::config::snapshot::{Backend, Snapshot};
use berry_core::id::{BackendId, ModelId, ProviderId, UpstreamModel, UserId};
use berry_core::time::Instant;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::app::App;

/// Changes in force at a time.
pub const CHANGES_MAX: usize = 1_000;
/// How often it is looked for changes whose time is over, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a change is about: everything at a provider, or of it what is in one model's pool, or of that one upstream model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The provider.
    pub provider: ProviderId,
    /// The public model; all without it.
    pub model: Option<ModelId>,
    /// The upstream model; all without it.
    pub upstream: Option<UpstreamModel>,
}

impl Target {
    /// Whether a backend is meant.
    pub fn covers(&self, id: &BackendId) -> bool {
        self.provider == id.provider
            && self.model.as_ref().is_none_or(|model| *model == id.model)
            && self.upstream.as_ref().is_none_or(|upstream| *upstream == id.upstream)
    }

    /// How much is said of it; of two changes of the same thing the narrower one counts.
    fn narrowness(&self) -> u32 {
        u32::from(self.model.is_some()) + u32::from(self.upstream.is_some())
    }
}

/// What a change sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// Takes new requests, or not. What is under way is finished.
    Enabled(bool),
    /// Has this weight; finite and above 0.
    Weight(f64),
}

impl Setting {
    fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// A change in force.
#[derive(Clone, Debug)]
pub struct Change {
    /// Names it, for taking it back.
    pub id: u64,
    /// What it is about.
    pub target: Target,
    /// What it sets.
    pub setting: Setting,
    /// Who made it.
    pub by: UserId,
    /// When.
    pub at: SystemTime,
    /// When it ends by itself.
    pub until: Option<Instant>,
    /// Why, in the words of who made it.
    pub reason: Option<String>,
}

/// There are [`CHANGES_MAX`] changes already.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("there are {CHANGES_MAX} changes in force; take some back first")]
pub struct TooMany;

/// The changes in force.
#[derive(Debug, Default)]
pub struct Changes {
    state: Mutex<State>,
    /// Told when an end may have come nearer.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    list: Vec<Change>,
}

impl Changes {
    /// Adds a change in place of an earlier one of the same thing; `change.id` is given here.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn add(&self, mut change: Change) -> Result<u64, TooMany> {
        let mut state = self.state.lock();
        state.list.retain(|old| !(old.target == change.target && old.setting.is_like(change.setting)));
        if state.list.len() >= CHANGES_MAX {
            return Err(TooMany);
        }
        state.last_id += 1;
        change.id = state.last_id;
        state.list.push(change);
        self.news.notify_one();
        Ok(state.last_id)
    }

    /// Takes a change back.
    pub fn remove(&self, id: u64) -> Option<Change> {
        let mut state = self.state.lock();
        let place = state.list.iter().position(|change| change.id == id)?;
        Some(state.list.remove(place))
    }

    /// Takes back what switches a target off.
    pub fn remove_disabling(&self, target: &Target) -> bool {
        let mut state = self.state.lock();
        let before = state.list.len();
        state.list.retain(|change| !(change.target == *target && change.setting == Setting::Enabled(false)));
        state.list.len() < before
    }

    /// All of them, in the order in which they were made.
    pub fn list(&self) -> Vec<Change> {
        self.state.lock().list.clone()
    }

    /// Those whose time is over, taken out.
    fn expired(&self, now: Instant) -> Vec<Change> {
        let mut state = self.state.lock();
        state.list.extract_if(.., |change| change.until.is_some_and(|until| until <= now)).collect()
    }

    fn next_end(&self) -> Option<Instant> {
        self.state.lock().list.iter().filter_map(|change| change.until).min()
    }

    /// What the changes make of each backend of `snapshot`. Backends that are not there are not changed.
    pub(crate) fn over(&self, snapshot: &Snapshot) -> HashMap<BackendId, Arc<Backend>> {
        let mut list = self.list();
        list.sort_by_key(|change| change.target.narrowness());
        let backends =
            snapshot.models.all.iter().flat_map(|model| model.backends.iter().map(move |backend| (model, backend)));
        let mut changed: HashMap<BackendId, Arc<Backend>> = HashMap::new();
        for (model, backend) in backends.filter(|_| !list.is_empty()) {
            for change in list.iter().filter(|change| change.target.covers(&backend.id)) {
                let backend = changed.entry(backend.id.clone()).or_insert_with(|| Arc::clone(backend));
                let backend = Arc::make_mut(backend);
                match change.setting {
                    // A provider or a model that is off in the file has perhaps no key and no name: that is for the file.
                    Setting::Enabled(on) => backend.enabled = on && backend.provider.enabled && model.enabled,
                    Setting::Weight(weight) => backend.weight = weight,
                }
            }
        }
        changed
    }
}

/// Ends changes when their time is over, until the process drains.
pub async fn expire(app: Arc<App>) {
    loop {
        let now = app.clock.now();
        let next = app.changes.next_end().map(|end| app.clock.at(end.max(now + LOOK_EVERY)));
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            () = app.changes.news.notified() => continue,
            () = app.shutdown.drained() => return,
        }
        let expired = app.changes.expired(app.clock.now());
        if expired.is_empty() {
            continue;
        }
        for change in &expired {
            let (id, provider) = (change.id, change.target.provider.as_str());
            tracing::info!(id, provider, "a change at run time has ended");
        }
        if let Err(error) = app.renew() {
            tracing::error!(%error, "a change at run time has ended but could not be undone");
        }
    }
}
