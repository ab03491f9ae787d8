//! Rate limits of users: who may pass now, and what a request in flight holds until it ends.
//!
//! Nothing is kept for a user before the first request that a limit concerns, and the counts live by user id, so that a reload
//! changes limits and forgets nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Model, RateLimit, User, UserLimits};
use berry_core::error::ErrorKind;
use berry_core::id::{ModelName, UserId};
use berry_core::operation::Dialect;
use berry_core::quota::share::Share;
use berry_core::quota::{Denied, Meter, Part, Reason, Sharing, Standing, Used};
use berry_core::time::Instant;
use berry_relay::exchange::{Facts, Held};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::cluster::{Lending, ShareKey};
use crate::error::ApiError;
use crate::status::WallClock;

/// Parts of the table, so that users seldom wait for each other; each is held for a few comparisons.
const SHARDS: usize = 64;

/// What limited users did.
pub struct Quotas {
    /// Where several instances share the limits.
    lending: Option<Arc<Lending>>,
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<UserId, Metered>>]>,
}

/// What one user did: over all models, and for single ones.
#[derive(Debug, Default)]
struct Metered {
    all: Meter,
    by_model: Vec<(ModelName, Meter)>,
}

impl Quotas {
    /// Nothing is counted yet. With `lending` the limits are shared with other instances.
    pub fn new(lending: Option<Arc<Lending>>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { lending, hasher: RandomState::new(), shards }
    }

    /// Lets a request pass, or says why not; a refused one consumes nothing. All limits are checked before any is counted.
    ///
    /// `None` for users whom no limit concerns. Otherwise the returned [`Held`] has to live as long as the request. `may_ask`
    /// says whether the request has time to ask the store that instances share; then [`Refused::is_unasked`] may hold.
    ///
    /// # Errors
    /// The limit that holds longest of the first table that refuses.
    pub fn admit(
        self: &Arc<Self>,
        user: &Arc<User>,
        model: &Model,
        may_ask: bool,
        now: Instant,
    ) -> Result<Option<Admitted>, Refused> {
        let Some(limits) = &user.limits else { return Ok(None) };
        let of_model = limits.by_model.iter().find(|(name, _)| is_named(model, name.as_str()));
        if of_model.is_none() && limits.rate == RateLimit::default() {
            return Ok(None);
        }
        let sharing = self.lending.as_ref().map(|lending| lending.sharing(may_ask));
        let mut shard = self.shard(&user.id).lock();
        let metered = shard.entry(user.id.clone()).or_default();
        let admitted = self.decide(metered, user, limits, of_model, sharing.as_ref(), now);
        if let Some(lending) = &self.lending {
            lending.touch(metered.touched(&user.id, of_model.map(|(name, _)| name), now));
        }
        admitted
    }

    fn decide(
        self: &Arc<Self>,
        metered: &mut Metered,
        user: &Arc<User>,
        limits: &UserLimits,
        of_model: Option<&(ModelName, RateLimit)>,
        sharing: Option<&Sharing>,
        now: Instant,
    ) -> Result<Option<Admitted>, Refused> {
        let refused = |denied, standing| Refused { denied, standing, now };
        if let Err(denied) = metered.all.check(&limits.rate, sharing, now) {
            return Err(refused(denied, metered.all.standing(&limits.rate, now)));
        }
        if let Some((name, rate)) = of_model {
            let meter = metered.of(name);
            if let Err(denied) = meter.check(rate, sharing, now) {
                return Err(refused(denied, meter.standing(rate, now)));
            }
            meter.begin(rate, now);
        }
        metered.all.begin(&limits.rate, now);
        let standing = metered.all.standing(&limits.rate, now);
        let standing = standing.or_else(|| of_model.and_then(|(name, rate)| metered.of(name).standing(rate, now)));
        let running = Running { quotas: Arc::clone(self), user: Arc::clone(user), of_model: of_model.cloned() };
        Ok(Some(Admitted { held: Box::new(running), standing }))
    }

    /// What counts against a user's limits now: over all models, and for those with limits of their own.
    pub fn used(&self, user: &UserId, now: Instant) -> (Used, Vec<(ModelName, Used)>) {
        let shard = self.shard(user).lock();
        let Some(metered) = shard.get(user) else { return Default::default() };
        let by_model = metered.by_model.iter().map(|(name, meter)| (name.clone(), meter.used(now)));
        (metered.all.used(now), by_model.collect())
    }

    /// Works on a share, where there is one.
    pub(crate) fn with_share<T>(&self, key: &ShareKey, work: impl FnOnce(&mut Share) -> T) -> Option<T> {
        let mut shard = self.shard(&key.user).lock();
        let metered = shard.get_mut(&key.user)?;
        let meter = match &key.model {
            None => &mut metered.all,
            Some(model) => metered.of(model),
        };
        Some(work(meter.shared()?.part(key.part)))
    }

    /// Requests in flight of a user whom limits concern.
    pub fn running(&self, user: &UserId) -> u32 {
        self.shard(user).lock().get(user).map_or(0, |metered| metered.all.running())
    }

    fn shard(&self, user: &UserId) -> &Mutex<HashMap<UserId, Metered>> {
        &self.shards[self.hasher.hash_one(user) as usize % SHARDS]
    }
}

impl Metered {
    fn of(&mut self, model: &ModelName) -> &mut Meter {
        let at = self.by_model.iter().position(|(name, _)| name == model).unwrap_or_else(|| {
            self.by_model.push((model.clone(), Meter::default()));
            self.by_model.len() - 1
        });
        &mut self.by_model[at].1
    }
}

impl Metered {
    /// The shares of a request that have something to say to the store and are not on its list, or cannot wait.
    fn touched(&mut self, user: &UserId, model: Option<&ModelName>, now: Instant) -> Vec<ShareKey> {
        let mut touched = Vec::new();
        let mut look = |meter: &mut Meter, model: Option<&ModelName>| {
            let Some(shared) = meter.shared() else { return };
            for part in [Part::Requests, Part::Places] {
                let share = shared.part(part);
                if share.next_ask().is_some() && (share.list() || share.is_urgent(now)) {
                    touched.push(ShareKey { user: user.clone(), model: model.cloned(), part });
                }
            }
        };
        look(&mut self.all, None);
        if let Some(model) = model {
            look(self.of(model), Some(model));
        }
        touched
    }
}

/// Whether a name in the configuration means this model.
fn is_named(model: &Model, name: &str) -> bool {
    model.name.as_str() == name || model.id.as_str() == name || model.aliases.iter().any(|alias| alias.as_str() == name)
}

/// A request that may pass.
pub struct Admitted {
    /// What it holds until it ends.
    pub held: Box<dyn Held>,
    /// What is left for requests after it.
    pub standing: Option<Standing>,
}

/// A request that may not pass.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    denied: Denied,
    /// What is left for requests.
    pub standing: Option<Standing>,
    now: Instant,
}

impl Refused {
    /// Whether the store has to be asked before it is known.
    pub fn is_unasked(&self) -> bool {
        self.denied.reason == Reason::Unasked
    }

    /// What the client is told.
    pub fn error(&self) -> ApiError {
        let limit = self.denied.limit.key();
        if self.denied.reason == Reason::Away {
            let message = format!(
                "Your limit `{limit}` is shared by several servers, and what they share is out of reach. Try again later."
            );
            return ApiError {
                retry_after: Some(Duration::from_secs(1)),
                ..ApiError::new(ErrorKind::Overloaded, message)
            };
        }
        let wait = self.denied.passes_at.map_or(Duration::from_secs(1), |at| at.since(self.now));
        ApiError {
            retry_after: Some(wait),
            ..ApiError::new(
                ErrorKind::RateLimitExceeded,
                format!(
                    "Your limit `{limit}` is used up. Wait as long as the header Retry-After says, then try again."
                ),
            )
        }
    }
}

/// A request in flight.
struct Running {
    quotas: Arc<Quotas>,
    user: Arc<User>,
    of_model: Option<(ModelName, RateLimit)>,
}

impl Held for Running {
    fn settle(&mut self, facts: &Facts, now: Instant) {
        let Some(limits) = &self.user.limits else { return };
        let mut shard = self.quotas.shard(&self.user.id).lock();
        let Some(metered) = shard.get_mut(&self.user.id) else { return };
        let tokens = facts.usage.total();
        let model = self.of_model.as_ref().map(|(name, _)| name);
        metered.all.end(&limits.rate, tokens, now);
        if let Some((name, rate)) = &self.of_model {
            metered.of(name).end(rate, tokens, now);
        }
        if let Some(lending) = &self.quotas.lending {
            lending.touch(metered.touched(&self.user.id, model, now));
        }
    }
}

/// Says what is left, with the headers that the client's SDK knows.
///
/// Sources, read in 2025: platform.openai.com/docs/guides/rate-limits, docs.anthropic.com/en/api/rate-limits.
pub fn write_standing(headers: &mut HeaderMap, standing: &Standing, dialect: Dialect, now: Instant, wall: WallClock) {
    let wait = standing.resets_at.since(now);
    let (limit, remaining, reset, value) = if dialect == Dialect::Anthropic {
        (
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
            wall.text(standing.resets_at),
        )
    } else {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        (
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
            format!("{seconds}s"),
        )
    };
    headers.insert(HeaderName::from_static(limit), HeaderValue::from(standing.limit));
    headers.insert(HeaderName::from_static(remaining), HeaderValue::from(standing.remaining));
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(HeaderName::from_static(reset), value);
    }
}
