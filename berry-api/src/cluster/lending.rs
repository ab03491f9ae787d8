//! Keeps the leases of shared limits and budgets: says to the store what was used, and fetches more before it runs out.
//!
//! Requests only put shares on a list here; one task goes through it. A request whose lease is empty waits for the task's next
//! answer, [`SHORT`] at most where it may pass without it.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Cluster as Settings, ClusterFallback};
use berry_core::id::{ModelName, UserId};
use berry_core::money::NanoUsd;
use berry_core::quota::share::{Ask, Free, LEASE, Lent, Share, SharedWindow};
use berry_core::quota::{Holder, Part, PeriodKind, Sharing};
use berry_relay::clock::Clock;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::Script;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::sleep;

use super::link::{Failed, Link};
use crate::app::App;
use crate::budgets::Budgets;
use crate::quotas::Quotas;

/// How long a request waits for the store's word where it may pass without it.
pub(crate) const SHORT: Duration = Duration::from_millis(2);
/// How long it waits where it would be refused without it.
pub(crate) const LONG: Duration = Duration::from_millis(50);
/// Between two looks at what has something to say.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// The same where nothing has.
const LOOK_SELDOM: Duration = Duration::from_millis(500);
/// What is kept in the store beyond the end of the longest window.
const KEEP: Duration = Duration::from_secs(3_600);
/// Part of a limit that all leases together may take up.
const LENT_SHARE: u64 = 10;
/// The scripts count in floats and answer in integers: a limit beyond this is none to them.
const LIMIT_MAX: u64 = 1 << 62;
/// Bells that waiting requests share, so that one answer does not wake them all.
const BELLS: usize = 64;

/// How long what an instance was granted of a budget counts as spent without a word of it; then it is gone, and the others get
/// back what it had reserved. What it told counts for ever. One that lives speaks every half [`LEASE`] while it holds anything.
const LET_GO: Duration = Duration::from_secs(10);
/// The same where this instance has not been connected for so long itself: the others may have been cut off as it was, and speak
/// again soon.
const LET_GO_LATE: Duration = Duration::from_secs(900);

/// Names a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShareKey {
    /// Of a limit.
    Limit(LimitKey),
    /// Of a budget.
    Budget(BudgetKey),
}

/// Names the share of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BudgetKey {
    /// Whose.
    pub holder: Holder,
    /// Of which amount.
    pub kind: PeriodKind,
    /// First second of the period.
    pub starts: i64,
}

/// Names the share of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitKey {
    /// Whose.
    pub user: UserId,
    /// Of the limits for this model; of those over all models without it.
    pub model: Option<ModelName>,
    /// Which of the limits.
    pub part: Part,
}

/// What of shared limits and budgets is known on the request path.
pub struct Lending {
    link: Arc<Link>,
    on_failure: ClusterFallback,
    budgets_on_failure: ClusterFallback,
    touched: Mutex<Vec<ShareKey>>,
    news: Notify,
    bells: [Notify; BELLS],
    lend: Script,
    spend: Script,
}

impl fmt::Debug for Lending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lending").finish_non_exhaustive()
    }
}

impl Lending {
    pub(super) fn new(link: Arc<Link>, settings: &Settings) -> Self {
        Self {
            link,
            on_failure: settings.on_failure,
            budgets_on_failure: settings.budgets_on_failure,
            touched: Mutex::default(),
            news: Notify::new(),
            bells: std::array::from_fn(|_| Notify::new()),
            lend: Script::new(include_str!("lend.lua")),
            spend: Script::new(include_str!("spend.lua")),
        }
    }

    /// How limits are shared now. `may_ask` says whether the request has time for the store.
    pub fn sharing(&self, may_ask: bool) -> Sharing {
        Sharing {
            instances: self.link.instances(),
            may_ask: may_ask && self.link.is_prompt(),
            on_failure: self.on_failure,
        }
    }

    /// The same for budgets.
    pub fn budget_sharing(&self, may_ask: bool) -> Sharing {
        Sharing { on_failure: self.budgets_on_failure, ..self.sharing(may_ask) }
    }

    /// Puts shares on the list of those that have something to say.
    pub fn touch(&self, keys: Vec<ShareKey>) {
        if !keys.is_empty() {
            self.touched.lock().extend(keys);
            self.news.notify_one();
        }
    }

    /// Completes when the store said something about a user, perhaps another one.
    pub(crate) fn answer(&self, user: &UserId) -> Notified<'_> {
        self.bells[bell(user)].notified()
    }

    /// Whether a request that was refused for want of an answer should wait longer.
    pub(crate) fn is_prompt(&self) -> bool {
        self.link.is_prompt()
    }

    /// No answer came within [`LONG`].
    pub(crate) fn waited_in_vain(&self) {
        self.link.was_slow();
    }

    /// Talks with the store about shares, for ever.
    pub(super) async fn run(&self, app: &App) {
        let (clock, shares) = (app.clock, Shares { quotas: &app.quotas, budgets: &app.budgets });
        let mut listed: HashSet<ShareKey> = HashSet::new();
        let mut under_way = FuturesUnordered::new();
        let mut epoch = String::new();
        loop {
            let look = sleep(if listed.is_empty() { LOOK_SELDOM } else { LOOK_EVERY });
            let mut due: Vec<ShareKey> = tokio::select! {
                Some((key, ask, answer)) = under_way.next() => {
                    self.take_in(&shares, &key, &ask, answer, clock);
                    continue;
                }
                () = self.news.notified() => std::mem::take(&mut *self.touched.lock()),
                () = look => listed.iter().cloned().collect(),
            };
            if self.has_forgotten(&mut epoch) {
                due.extend(shares.budgets.tell_again(clock.now()));
            }
            for key in due {
                if !self.link.is_up() {
                    listed.insert(key);
                    continue;
                }
                let now = clock.now();
                match shares
                    .with(&key, |share| (share.ask(now).map(|ask| (ask, share.windows().to_vec())), share.unlist()))
                {
                    Some((Some((ask, windows)), _)) => {
                        listed.insert(key.clone());
                        let before = shares.before(&key);
                        under_way.push(self.exchange(key, ask, windows, before));
                    }
                    Some((None, false)) => {
                        listed.insert(key);
                    }
                    Some((None, true)) | None => {
                        listed.remove(&key);
                    }
                }
            }
        }
    }

    /// Whether the store lost its data since the last look. It has another epoch then, once an instance told it the keys.
    fn has_forgotten(&self, epoch: &mut String) -> bool {
        let now = self.link.keys_version().epoch;
        if now.is_empty() || now == *epoch {
            return false;
        }
        !std::mem::replace(epoch, now).is_empty()
    }

    fn take_in(&self, shares: &Shares<'_>, key: &ShareKey, ask: &Ask, answer: Result<Lent, Failed>, clock: Clock) {
        let (now, instances) = (clock.now(), u64::from(self.link.instances()));
        shares.with(key, |share| match &answer {
            Ok(lent) => {
                let smallest = share.windows().iter().map(|window| window.limit).min().unwrap_or(0);
                share.answered(ask, lent, smallest / (LENT_SHARE * instances), now);
            }
            Err(Failed) => share.lost(ask, now),
        });
        if let (ShareKey::Budget(key), Ok(lent)) = (key, &answer) {
            shares.budgets.spent_elsewhere(key, nano_usd(lent.sum));
        }
        match key {
            ShareKey::Limit(LimitKey { user, .. }) | ShareKey::Budget(BudgetKey { holder: Holder::User(user), .. }) => {
                self.bells[bell(user)].notify_waiters();
            }
            // Any user may have the tag.
            ShareKey::Budget(_) => self.bells.iter().for_each(Notify::notify_waiters),
        }
    }

    async fn exchange(
        &self,
        key: ShareKey,
        ask: Ask,
        windows: Vec<SharedWindow>,
        before: NanoUsd,
    ) -> (ShareKey, Ask, Result<Lent, Failed>) {
        let lent = match &key {
            ShareKey::Limit(key) => self.lend(key, &ask, &windows).await,
            ShareKey::Budget(key) => self.grant(key, &ask, &windows, before).await,
        };
        (key, ask, lent)
    }

    /// Asks for a part of a budget.
    async fn grant(
        &self,
        key: &BudgetKey,
        ask: &Ask,
        windows: &[SharedWindow],
        before: NanoUsd,
    ) -> Result<Lent, Failed> {
        let limit = windows.iter().map(|window| window.limit).min().unwrap_or(0).min(LIMIT_MAX);
        let mut call = self.spend.prepare_invoke();
        call.key(self.link.key(&key.name()))
            .arg(&self.link.instance)
            .arg(millis(let_go(self.link.reached_for())))
            .arg(keep(key.kind).map_or(0, millis))
            .arg(limit)
            .arg(before.as_nanos().max(0))
            .arg(ask.used)
            .arg(ask.used.saturating_add(ask.held))
            .arg(ask.used.saturating_add(ask.want));
        let (granted, sum, left) = self.link.call::<(u64, u64, u64)>(&call).await?;
        Ok(Lent { lease: granted.saturating_sub(ask.used), window: 0, left, sum, frees: Vec::new() })
    }

    /// Asks for a part of a limit.
    async fn lend(&self, key: &LimitKey, ask: &Ask, windows: &[SharedWindow]) -> Result<Lent, Failed> {
        let longest = windows.iter().map(|window| window.span).max().unwrap_or_default();
        let mut call = self.lend.prepare_invoke();
        call.key(self.link.key(&key.name()))
            .arg(&self.link.instance)
            .arg(millis(LEASE))
            .arg(ask.told)
            .arg(ask.used)
            .arg(ask.held)
            .arg(ask.want)
            .arg(ask.need)
            .arg(u8::from(key.part != Part::Places))
            .arg(millis(longest + KEEP));
        for window in windows {
            call.arg(window.name).arg(millis(window.span)).arg(millis(window.width));
            call.arg(window.limit.min(LIMIT_MAX));
        }
        let (lease, window, left, sum, frees) =
            self.link.call::<(u64, usize, u64, u64, Vec<(usize, u64, u64)>)>(&call).await?;
        let frees = frees.into_iter();
        let frees = frees.map(|(window, after_ms, room)| Free { window, after: Duration::from_millis(after_ms), room });
        Ok(Lent { lease, window, left, sum, frees: frees.collect() })
    }
}

/// Where shares are.
struct Shares<'a> {
    quotas: &'a Quotas,
    budgets: &'a Budgets,
}

impl Shares<'_> {
    /// Works on a share, where there is one.
    fn with<T>(&self, key: &ShareKey, work: impl FnOnce(&mut Share) -> T) -> Option<T> {
        match key {
            ShareKey::Limit(key) => self.quotas.with_share(key, work),
            ShareKey::Budget(key) => self.budgets.with_share(key, work),
        }
    }

    fn before(&self, key: &ShareKey) -> NanoUsd {
        match key {
            ShareKey::Limit(_) => NanoUsd::ZERO,
            ShareKey::Budget(key) => self.budgets.before(key),
        }
    }
}

impl BudgetKey {
    /// In the store.
    fn name(&self) -> String {
        let Self { holder, kind, starts } = self;
        format!("budget:{}:{}:{}:{}:{starts}", holder.kind(), holder.name().len(), holder.name(), kind.as_str())
    }
}

/// How long the store keeps what was spent in a period; `None` = for ever.
const fn keep(kind: PeriodKind) -> Option<Duration> {
    const DAY: u64 = 24 * 60 * 60;
    match kind {
        PeriodKind::Day => Some(Duration::from_secs(3 * DAY)),
        PeriodKind::Month => Some(Duration::from_secs(40 * DAY)),
        PeriodKind::Total => None,
    }
}

/// How long silence counts as being cut off, for an instance that has been connected for `reached_for`.
fn let_go(reached_for: Duration) -> Duration {
    if reached_for < LET_GO { LET_GO_LATE } else { LET_GO }
}

fn nano_usd(amount: u64) -> NanoUsd {
    NanoUsd::from_nanos(i64::try_from(amount).unwrap_or(i64::MAX))
}

impl LimitKey {
    /// In the store. The length keeps names apart whatever characters they have.
    fn name(&self) -> String {
        let part = match self.part {
            Part::Requests => "requests",
            Part::Tokens => "tokens",
            Part::Places => "places",
        };
        let (user, model) = (self.user.as_str(), self.model.as_ref().map_or("", ModelName::as_str));
        format!("{part}:{}:{user}:{model}", user.len())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn bell(user: &UserId) -> usize {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish() as usize % BELLS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lives_speaks_several_times_before_it_is_taken_for_gone_and_has_used_up_its_lease_by_then() {
        assert!(LET_GO >= LEASE * 2);
        assert_eq!(let_go(LET_GO), LET_GO);
    }

    #[test]
    fn names_in_the_store_are_kept_apart_whatever_characters_users_tags_and_models_have() {
        let limit = |user: &str, model: Option<&str>, part| {
            LimitKey { user: UserId::new(user), model: model.map(ModelName::new), part }.name()
        };
        let budget = |holder: Holder, kind, starts| BudgetKey { holder, kind, starts }.name();
        let user = |name: &str| Holder::User(UserId::new(name));
        let names = [
            limit("a", None, Part::Requests),
            limit("a", None, Part::Tokens),
            limit("a", None, Part::Places),
            limit("a", Some("b"), Part::Requests),
            limit("a:b", None, Part::Requests),
            limit("a:", Some("b"), Part::Requests),
            limit("a", Some(":b"), Part::Requests),
            budget(user("a"), PeriodKind::Day, 1),
            budget(user("a"), PeriodKind::Day, 2),
            budget(user("a"), PeriodKind::Month, 1),
            budget(user("a:day"), PeriodKind::Day, 1),
            budget(Holder::Tag("a".into()), PeriodKind::Day, 1),
        ];
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "{names:?}");
    }

    #[test]
    fn the_store_keeps_what_was_spent_for_longer_than_its_period_lasts() {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        assert!(keep(PeriodKind::Day).is_some_and(|kept| kept > 2 * DAY));
        assert!(keep(PeriodKind::Month).is_some_and(|kept| kept > 32 * DAY));
        assert_eq!(keep(PeriodKind::Total), None);
    }

    #[test]
    fn who_was_cut_off_itself_takes_nobody_for_gone_yet() {
        assert_eq!(let_go(Duration::ZERO), LET_GO_LATE);
        assert_eq!(let_go(LET_GO - Duration::from_millis(1)), LET_GO_LATE);
    }
}
