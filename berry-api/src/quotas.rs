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
use berry_core::money::NanoUsd;
use berry_core::operation::Dialect;
use berry_core::quota::share::Share;
use berry_core::quota::{
    Begun, Denied, Exhausted, Holder, LimitKind, Meter, Part, Reason, Refusal, Sharing, Standing, Used,
};
use berry_core::time::Instant;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::cluster::{Lending, LimitKey, ShareKey};
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

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The most tokens that it may use.
    pub tokens: u64,
    /// Whether it has time to ask the store that instances share; then [`Refused::is_unasked`] may hold.
    pub may_ask: bool,
    /// When it asks.
    pub now: Instant,
}

/// What is asked of budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To reserve what the request may cost.
    Reserve,
    /// Only whether they would refuse: limits do already, and the one that holds longest is told.
    Look,
}

/// A request that passed: how it is counted over all models and for its own, what is left, what was reserved.
type Decided<T> = (Begun, Option<(ModelName, Begun)>, Option<Standing>, T);

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

    /// Lets a request pass, or says why not; a refused one consumes nothing. All limits are checked before any is counted, and
    /// `budgets` is asked in between: what it refuses was never counted.
    ///
    /// Without windows for users whom no limit concerns. Otherwise the returned [`Counted`] has to be ended with the request.
    ///
    /// # Errors
    /// Of the limits and budgets that refuse, the one that holds longest.
    pub fn admit<T>(
        self: &Arc<Self>,
        user: &Arc<User>,
        model: &Model,
        asked: Asked,
        budgets: impl FnOnce(Wish) -> Result<T, Refused>,
    ) -> Result<(Option<Counted>, Option<Standing>, T), Refused> {
        let Some((limits, of_model)) = limits_of(user, model) else { return Ok((None, None, budgets(Wish::Reserve)?)) };
        let sharing = self.lending.as_ref().map(|lending| lending.sharing(asked.may_ask));
        let mut shard = self.shard(&user.id).lock();
        let metered = shard.entry(user.id.clone()).or_default();
        let decided = metered.decide(limits, of_model, asked, sharing.as_ref(), budgets);
        if let Some(lending) = &self.lending {
            lending.touch(metered.touched(&user.id, of_model.map(|(name, _)| name), asked.now));
        }
        let (all, of_model, standing, reserved) = decided?;
        let counted = Counted { quotas: Arc::clone(self), user: user.id.clone(), all, of_model };
        Ok((Some(counted), standing, reserved))
    }

    /// What counts against a user's limits now: over all models, and for those with limits of their own.
    pub fn used(&self, user: &UserId, now: Instant) -> (Used, Vec<(ModelName, Used)>) {
        let shard = self.shard(user).lock();
        let Some(metered) = shard.get(user) else { return Default::default() };
        let by_model = metered.by_model.iter().map(|(name, meter)| (name.clone(), meter.used(now)));
        (metered.all.used(now), by_model.collect())
    }

    /// Works on a share, where there is one.
    pub(crate) fn with_share<T>(&self, key: &LimitKey, work: impl FnOnce(&mut Share) -> T) -> Option<T> {
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
    /// Decides about a request and counts it, if it passes.
    fn decide<T>(
        &mut self,
        limits: &UserLimits,
        of_model: Option<&(ModelName, RateLimit)>,
        asked: Asked,
        sharing: Option<&Sharing>,
        budgets: impl FnOnce(Wish) -> Result<T, Refused>,
    ) -> Result<Decided<T>, Refused> {
        let Asked { tokens, now, .. } = asked;
        if let Some(refused) = self.refusal(limits, of_model, tokens, sharing, now) {
            return Err(match budgets(Wish::Look) {
                Err(other) if refused.is_spent() => refused.or_longer(other),
                _ => refused,
            });
        }
        let reserved = budgets(Wish::Reserve)?;
        let begun = of_model.map(|(name, rate)| (name.clone(), self.of(name).begin(rate, tokens, now)));
        let all = self.all.begin(&limits.rate, tokens, now);
        let standing = self.all.standing(&limits.rate, now);
        let standing = standing.or_else(|| of_model.and_then(|(name, rate)| self.of(name).standing(rate, now)));
        Ok((all, begun, standing, reserved))
    }

    /// The limit that holds longest, over all models and for this one. Where instances share limits, all that is not known is asked
    /// for at once.
    fn refusal(
        &mut self,
        limits: &UserLimits,
        of_model: Option<&(ModelName, RateLimit)>,
        tokens: u64,
        sharing: Option<&Sharing>,
        now: Instant,
    ) -> Option<Refused> {
        let refused = |denied, standing| Refused::Limit { denied, standing, now };
        let denied = self.all.check(&limits.rate, tokens, sharing, now).err();
        let first = denied.map(|denied| refused(denied, self.all.standing(&limits.rate, now)));
        let Some((name, rate)) = of_model else { return first };
        let meter = self.of(name);
        let Err(denied) = meter.check(rate, tokens, sharing, now) else { return first };
        let second = refused(denied, meter.standing(rate, now));
        Some(match first {
            Some(first) => first.or_longer(second),
            None => second,
        })
    }

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
            for part in Part::ALL {
                let share = shared.part(part);
                if share.next_ask().is_some() && (share.list() || share.is_urgent(now)) {
                    touched.push(ShareKey::Limit(LimitKey { user: user.clone(), model: model.cloned(), part }));
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

/// The limits that concern a request: the user's, and those for the model.
fn limits_of<'a>(user: &'a User, model: &Model) -> Option<(&'a UserLimits, Option<&'a (ModelName, RateLimit)>)> {
    let limits = user.limits.as_deref()?;
    let of_model = limits.by_model.iter().find(|(name, _)| is_named(model, name.as_str()));
    (of_model.is_some() || limits.rate != RateLimit::default()).then_some((limits, of_model))
}

/// Whether a limit on tokens concerns a request.
pub fn limits_tokens(user: &User, model: &Model) -> bool {
    let limits = |rate: &RateLimit| rate.tokens_per_minute.is_some() || rate.tokens_per_day.is_some();
    limits_of(user, model)
        .is_some_and(|(all, of_model)| limits(&all.rate) || of_model.is_some_and(|(_, rate)| limits(rate)))
}

/// A request that may not pass.
#[derive(Clone, Debug)]
pub enum Refused {
    /// By a limit.
    Limit {
        /// Which, and how long it holds.
        denied: Denied,
        /// What is left for requests.
        standing: Option<Standing>,
        /// When it was asked.
        now: Instant,
    },
    /// By a budget.
    Budget {
        /// Whose, and how long it holds.
        refusal: Box<Refusal>,
        /// What the request may cost.
        bound: NanoUsd,
        /// When it was asked.
        now: Instant,
    },
}

impl Refused {
    /// Whether the store that instances share has to be asked before it is known.
    pub fn is_unasked(&self) -> bool {
        let reason = match self {
            Self::Limit { denied, .. } => denied.reason,
            Self::Budget { refusal, .. } => refusal.exhausted.reason,
        };
        reason == Reason::Unasked
    }

    /// Whether something is used up, and it is not only that nobody knows.
    fn is_spent(&self) -> bool {
        matches!(self, Self::Limit { denied, .. } if denied.reason == Reason::Spent)
    }

    /// The one of two that holds longer. What is not known may hold longer than what is.
    fn or_longer(self, other: Self) -> Self {
        let rank = |refused: &Self| (refused.is_unasked(), refused.passes_at());
        if rank(&other) > rank(&self) { other } else { self }
    }

    /// When the request would pass. What waits for others to end may pass any moment, and what is larger than a whole budget never
    /// does.
    fn passes_at(&self) -> Instant {
        const NEVER: Instant = Instant::from_nanos(u64::MAX);
        match self {
            Self::Limit { denied, .. } => denied.passes_at.unwrap_or(Instant::START),
            Self::Budget { refusal, bound, .. } if *bound > refusal.exhausted.limit => NEVER,
            Self::Budget { refusal, .. } => refusal.exhausted.resets_at.unwrap_or(NEVER),
        }
    }

    /// Whether a smaller request would pass, so that a closer look at this one is worth it.
    pub fn is_by_size(&self) -> bool {
        match self {
            Self::Limit { denied, .. } => {
                matches!(denied.limit, LimitKind::TokensPerMinute | LimitKind::TokensPerDay)
            }
            Self::Budget { refusal, .. } => {
                let Exhausted { reason, left, .. } = &refusal.exhausted;
                *reason == Reason::Spent && *left > NanoUsd::ZERO
            }
        }
    }

    /// What is left for requests.
    pub fn standing(&self) -> Option<&Standing> {
        match self {
            Self::Limit { standing, .. } => standing.as_ref(),
            Self::Budget { .. } => None,
        }
    }

    /// What the client is told.
    pub fn error(&self) -> ApiError {
        match self {
            Self::Limit { denied, now, .. } => over_limit(denied, *now),
            Self::Budget { refusal, bound, now } => over_budget(refusal, *bound, *now),
        }
    }
}

fn over_limit(denied: &Denied, now: Instant) -> ApiError {
    let limit = denied.limit.key();
    let (kind, wait, message) = match denied.reason {
        Reason::Away => (
            ErrorKind::Overloaded,
            None,
            format!(
                "Your limit `{limit}` is shared by several servers, and what they share is out of reach. Try again later."
            ),
        ),
        Reason::Spent | Reason::Unasked => (
            ErrorKind::RateLimitExceeded,
            denied.passes_at.map(|at| at.since(now)),
            format!("Your limit `{limit}` is used up. Wait as long as the header Retry-After says, then try again."),
        ),
    };
    ApiError { retry_after: Some(wait.unwrap_or(Duration::from_secs(1))), ..ApiError::new(kind, message) }
}

fn over_budget(Refusal { holder, exhausted }: &Refusal, bound: NanoUsd, now: Instant) -> ApiError {
    let Exhausted { kind, limit, left, resets_at, reason } = exhausted;
    let whose = match holder {
        Holder::User(_) => "Your budget".to_owned(),
        Holder::Tag(tag) => format!("The budget of your tag `{tag}`"),
    };
    let key = kind.key();
    if *reason == Reason::Away {
        let message = format!(
            "{whose} `{key}` is shared by several servers, and what they share is out of reach. Try again later."
        );
        return ApiError { retry_after: Some(Duration::from_secs(1)), ..ApiError::new(ErrorKind::Overloaded, message) };
    }
    let advice = match resets_at {
        _ if bound > *limit => "Ask for less: a shorter prompt or a smaller limit on the output.",
        Some(_) => "Ask for less, or wait as long as the header Retry-After says.",
        None => "Ask for less, or ask the operator for more.",
    };
    ApiError {
        // What is larger than the whole amount does not pass later either.
        retry_after: resets_at.filter(|_| bound <= *limit).map(|at| at.since(now)),
        ..ApiError::new(
            ErrorKind::BudgetExceeded,
            format!(
                "{whose} `{key}` of {limit} USD has {left} USD left, and this request may cost up to {bound} USD. {advice}"
            ),
        )
    }
}

/// A request in flight, in the windows that it counts in.
pub struct Counted {
    quotas: Arc<Quotas>,
    user: UserId,
    all: Begun,
    of_model: Option<(ModelName, Begun)>,
}

impl Counted {
    /// Ends it, with the tokens that it used.
    pub fn end(&self, tokens: u64, now: Instant) {
        let mut shard = self.quotas.shard(&self.user).lock();
        let Some(metered) = shard.get_mut(&self.user) else { return };
        metered.all.end(&self.all, tokens, now);
        if let Some((name, begun)) = &self.of_model {
            metered.of(name).end(begun, tokens, now);
        }
        if let Some(lending) = &self.quotas.lending {
            let model = self.of_model.as_ref().map(|(name, _)| name);
            lending.touch(metered.touched(&self.user, model, now));
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
