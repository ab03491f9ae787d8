//! Budgets of users and tags: what a request reserves before it is sent, and what it cost in the end.
//!
//! An account comes into being with the first request that a budget concerns and lives by its holder's name, so that a reload
//! changes amounts and forgets nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berry_core::config::snapshot::{Budget, Snapshot, User};
use berry_core::money::NanoUsd;
use berry_core::quota::share::Share;
use berry_core::quota::{
    Account, Alert, Balance, Calendar, Holder, PeriodKind, Purse, Refusal, Reservation, Sharing, THRESHOLDS,
};
use berry_core::time::Instant;
use parking_lot::Mutex;

use crate::cluster::{BudgetKey, Lending, ShareKey};
use crate::webhook::News;

/// Parts of the table, so that requests seldom wait for each other; each is held for one look.
const SHARDS: usize = 64;

type Shard = Mutex<HashMap<Holder, Arc<Account>>>;

/// The accounts of everybody with a budget.
#[derive(Debug)]
pub struct Budgets {
    /// Where several instances share the budgets.
    lending: Option<Arc<Lending>>,
    hasher: RandomState,
    shards: Box<[Shard]>,
    figures: Figures,
    news: News,
}

/// What budgets did, since the start.
#[derive(Debug, Default)]
pub struct Figures {
    /// Requests that were refused, for users and for tags.
    refused: [AtomicU64; 2],
    /// Thresholds that were reached, in the order of [`THRESHOLDS`].
    reached: [AtomicU64; THRESHOLDS.len()],
    /// Requests that cost more than was reserved for them.
    exceeded: AtomicU64,
    /// How much more, billionths of a dollar.
    excess: AtomicU64,
}

/// What a request takes from: each holder that has a budget.
pub type Accounts = Vec<(Arc<Account>, Budget)>;

impl Budgets {
    /// Nothing is spent yet. With `lending` the budgets are shared with other instances.
    pub fn new(lending: Option<Arc<Lending>>) -> Self {
        Self {
            lending,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            figures: Figures::default(),
            news: News::default(),
        }
    }

    /// The accounts that requests of `user` are charged to: its own and those of its tags. Empty, and nothing was looked up, where
    /// no budget concerns it.
    pub fn of(&self, user: &User, snapshot: &Snapshot) -> Accounts {
        let own = user.limits.as_ref().map(|limits| limits.budget).filter(|budget| !budget.is_unlimited());
        let own = own.map(|budget| (self.account(Holder::User(user.id.clone())), budget));
        let tags = if snapshot.tags.is_empty() { &[][..] } else { &user.tags };
        let of_tags = tags.iter().filter_map(|name| {
            let budget = snapshot.tags.get(name.as_str()).map(|tag| tag.budget)?;
            (!budget.is_unlimited()).then(|| (self.account(Holder::Tag(name.as_str().into())), budget))
        });
        own.into_iter().chain(of_tags).collect()
    }

    /// The account of a holder.
    pub fn account(&self, holder: Holder) -> Arc<Account> {
        let mut shard = self.shard(&holder).lock();
        if let Some(account) = shard.get(&holder) {
            return Arc::clone(account);
        }
        let account = Arc::new(match self.lending {
            None => Account::new(holder.clone()),
            Some(_) => Account::shared(holder.clone()),
        });
        shard.insert(holder, Arc::clone(&account));
        account
    }

    /// How budgets are shared now; `None` where they are this instance's alone. `may_ask` says whether the request has time for
    /// the store.
    pub fn sharing(&self, may_ask: bool) -> Option<Sharing> {
        self.lending.as_ref().map(|lending| lending.budget_sharing(may_ask))
    }

    /// Reserves `bound` in all accounts or in none; `None` where there are none.
    ///
    /// # Errors
    /// The account that holds longest.
    pub fn reserve(
        self: &Arc<Self>,
        accounts: Accounts,
        bound: NanoUsd,
        sharing: Option<&Sharing>,
        calendar: &Calendar,
        now: Instant,
    ) -> Result<Option<Reserved>, Refusal> {
        if accounts.is_empty() {
            return Ok(None);
        }
        let Some(lending) = &self.lending else {
            let reservation = Reservation::take(accounts, bound, None, calendar, now)?;
            return Ok(Some(Reserved { budgets: Arc::clone(self), reservation }));
        };
        let concerned: Vec<Arc<Account>> = accounts.iter().map(|(account, _)| Arc::clone(account)).collect();
        let taken = Reservation::take(accounts, bound, sharing, calendar, now);
        lending.touch(concerned.iter().flat_map(|account| touched(account, now)).collect());
        Ok(Some(Reserved { budgets: Arc::clone(self), reservation: taken? }))
    }

    /// Why [`Budgets::reserve`] would refuse now; reserves nothing.
    pub fn refusal(&self, accounts: &Accounts, bound: NanoUsd, calendar: &Calendar, now: Instant) -> Option<Refusal> {
        Reservation::refusal(accounts, bound, calendar, now)
    }

    /// Works on what is shared of a holder's period, where there is any.
    pub(crate) fn with_share<T>(&self, key: &BudgetKey, work: impl FnOnce(&mut Share) -> T) -> Option<T> {
        self.known(&key.holder)?.with_purse(|purse| purse.share(key.kind, key.starts).map(work))
    }

    /// What the ledger says that was spent of a period before this process began.
    pub(crate) fn before(&self, key: &BudgetKey) -> NanoUsd {
        let account = self.known(&key.holder);
        account.map_or(NanoUsd::ZERO, |account| account.with_purse(|purse| purse.before(key.kind, key.starts)))
    }

    /// Takes in what everybody else spent in a period.
    pub(crate) fn spent_elsewhere(&self, key: &BudgetKey, spent: NanoUsd) {
        if let Some(account) = self.known(&key.holder) {
            account.with_purse(|purse| purse.spent_elsewhere(key.kind, key.starts, spent));
        }
    }

    /// Tells the store everything again: it has forgotten it.
    pub(crate) fn tell_again(&self, now: Instant) -> Vec<ShareKey> {
        let mut touched_keys = Vec::new();
        for shard in &self.shards {
            let accounts: Vec<Arc<Account>> = shard.lock().values().map(Arc::clone).collect();
            for account in accounts {
                account.with_purse(Purse::tell_again);
                touched_keys.extend(touched(&account, now));
            }
        }
        touched_keys
    }

    /// Notes that a request got no answer because of a budget.
    pub fn note_refusal(&self, holder: &Holder) {
        self.figures.refused[usize::from(matches!(holder, Holder::Tag(_)))].fetch_add(1, Ordering::Relaxed);
    }

    /// How a holder's amounts stand.
    pub fn balances(&self, holder: &Holder, budget: &Budget, calendar: &Calendar, now: Instant) -> [Balance; 3] {
        match self.known(holder) {
            Some(account) => account.balances(budget, calendar, now),
            None => Purse::default().balances(budget, calendar, now),
        }
    }

    /// Counts what a holder spent before this process began, in the period that starts at `starts` (Unix seconds; the smallest
    /// number for all time). What is of another period than the current one is left out. Called before requests are taken, so that
    /// none passes a budget that is used up.
    pub fn restore(
        &self,
        holder: Holder,
        (kind, starts): (PeriodKind, i64),
        spent: NanoUsd,
        budget: &Budget,
        calendar: &Calendar,
        now: Instant,
    ) {
        let account = self.account(holder);
        account.restore(kind, starts, spent, budget, calendar, now);
        if let Some(lending) = &self.lending {
            lending.touch(touched(&account, now));
        }
    }

    /// What happened since the start.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Thresholds that the operator's receiver is to be told of.
    pub fn news(&self) -> &News {
        &self.news
    }

    fn known(&self, holder: &Holder) -> Option<Arc<Account>> {
        self.shard(holder).lock().get(holder).map(Arc::clone)
    }

    fn shard(&self, holder: &Holder) -> &Shard {
        &self.shards[self.hasher.hash_one(holder) as usize % SHARDS]
    }

    fn alert(&self, alert: Alert) {
        let Alert { holder, reached } = &alert;
        if let Some(place) = THRESHOLDS.iter().position(|percent| *percent == reached.percent) {
            self.figures.reached[place].fetch_add(1, Ordering::Relaxed);
        }
        tracing::warn!(
            holder = %holder,
            period = reached.kind.as_str(),
            percent = reached.percent,
            spent_usd = %reached.spent,
            limit_usd = %reached.limit,
            "budget threshold reached"
        );
        self.news.push(alert);
    }
}

/// The periods of an account that have something to say to the store and are not on its list, or cannot wait.
fn touched(account: &Account, now: Instant) -> Vec<ShareKey> {
    let key = |(kind, starts)| ShareKey::Budget(BudgetKey { holder: account.holder().clone(), kind, starts });
    account.with_purse(|purse| purse.touched(now).map(key).collect())
}

impl Figures {
    /// Refused requests, by kind of holder.
    pub fn refused(&self) -> [(&'static str, u64); 2] {
        let [user, tag] = &self.refused;
        [("user", user.load(Ordering::Relaxed)), ("tag", tag.load(Ordering::Relaxed))]
    }

    /// How often each threshold was reached.
    pub fn reached(&self) -> impl Iterator<Item = (u8, u64)> {
        THRESHOLDS.into_iter().zip(self.reached.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Requests that cost more than was reserved for them, and how much more in all.
    pub fn exceeded(&self) -> (u64, NanoUsd) {
        let excess = i64::try_from(self.excess.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        (self.exceeded.load(Ordering::Relaxed), NanoUsd::from_nanos(excess))
    }
}

/// What a request in flight reserved. Dropped without [`Reserved::settle`], it is given back whole.
pub struct Reserved {
    budgets: Arc<Budgets>,
    reservation: Reservation,
}

impl Reserved {
    /// Ends the request with what it cost.
    pub fn settle(self, cost: NanoUsd) {
        let Self { budgets, reservation } = self;
        let excess = cost.as_nanos().saturating_sub(reservation.bound().as_nanos());
        if let Ok(excess @ 1..) = u64::try_from(excess) {
            budgets.figures.exceeded.fetch_add(1, Ordering::Relaxed);
            budgets.figures.excess.fetch_add(excess, Ordering::Relaxed);
        }
        for alert in reservation.settle(cost) {
            budgets.alert(alert);
        }
    }
}
