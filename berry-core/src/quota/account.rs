//! Budgets that contain each other: what a request reserves in the purses of its user and of the user's tags, in all or in none.
//!
//! The locks are held for a few comparisons of integers and never while anything is waited for. They are always taken in one
//! order, so requests cannot wait for each other in a circle.

use std::fmt;
use std::ops::DerefMut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::budget::{Balance, Exhausted, Purse, Reached, Ticket};
use super::calendar::{Calendar, PeriodKind};
use super::meter::Reason;
use super::shared::Sharing;
use crate::config::snapshot::Budget;
use crate::id::UserId;
use crate::money::NanoUsd;
use crate::time::Instant;

/// A lock, so that model tests can put another one in its place.
pub trait Guarded<T> {
    /// Access while it is held.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    /// A lock around `value`.
    fn new(value: T) -> Self;

    /// Waits for it.
    fn lock(&self) -> Self::Guard<'_>;
}

impl<T> Guarded<T> for Mutex<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // No caller leaves a purse half changed, whatever panics.
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose budget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A user, or a key that was issued at run time.
    User(UserId),
    /// All users with a tag together.
    Tag(Box<str>),
}

impl Holder {
    /// What it is: `user` or `tag`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Tag(_) => "tag",
        }
    }

    /// Table key of the user, or the tag.
    pub fn name(&self) -> &str {
        match self {
            Self::User(user) => user.as_str(),
            Self::Tag(tag) => tag,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// The purse of a holder, shared by all of its requests.
#[derive(Debug)]
pub struct Account<M = Mutex<Purse>> {
    holder: Holder,
    /// The place in the order of all accounts, in which their locks are taken.
    serial: u64,
    purse: M,
}

/// A threshold that a holder reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Who.
    pub holder: Holder,
    /// What.
    pub reached: Reached,
}

impl<M: Guarded<Purse>> Account<M> {
    /// A holder that spent nothing.
    pub fn new(holder: Holder) -> Self {
        Self::with(holder, Purse::default())
    }

    /// One that other instances know too.
    pub fn shared(holder: Holder) -> Self {
        Self::with(holder, Purse::shared())
    }

    fn with(holder: Holder, purse: Purse) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only that no two are the same matters.
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Self { holder, serial, purse: M::new(purse) }
    }

    /// Whose it is.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// How every amount stands.
    pub fn balances(&self, budget: &Budget, calendar: &Calendar, now: Instant) -> [Balance; 3] {
        self.purse.lock().balances(budget, calendar, now)
    }

    /// See [`Purse::restore`].
    pub fn restore(
        &self,
        kind: PeriodKind,
        starts: i64,
        spent: NanoUsd,
        budget: &Budget,
        calendar: &Calendar,
        now: Instant,
    ) {
        self.purse.lock().restore(kind, starts, spent, budget, calendar, now);
    }

    /// Works on the purse, off the path of requests.
    pub fn with_purse<T>(&self, work: impl FnOnce(&mut Purse) -> T) -> T {
        work(&mut self.purse.lock())
    }
}

/// Why nothing was reserved: whose budget holds longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose.
    pub holder: Holder,
    /// Why.
    pub exhausted: Exhausted,
}

/// What one request reserved, in each purse that contains it. Dropped without [`Reservation::settle`], it is given back whole.
#[derive(Debug)]
pub struct Reservation<M: Guarded<Purse> = Mutex<Purse>> {
    parts: Vec<Part<M>>,
    bound: NanoUsd,
}

#[derive(Debug)]
struct Part<M> {
    account: Arc<Account<M>>,
    budget: Budget,
    ticket: Ticket,
}

impl<M: Guarded<Purse>> Reservation<M> {
    /// Reserves `bound` in every account, or in none.
    ///
    /// # Errors
    /// The account whose refusal holds longest; of two that hold as long, the one that comes first.
    pub fn take(
        accounts: Vec<(Arc<Account<M>>, Budget)>,
        bound: NanoUsd,
        sharing: Option<&Sharing>,
        calendar: &Calendar,
        now: Instant,
    ) -> Result<Self, Refusal> {
        let mut ordered: Vec<&(Arc<Account<M>>, Budget)> = accounts.iter().collect();
        ordered.sort_by_key(|(account, _)| account.serial);
        ordered.dedup_by_key(|(account, _)| account.serial);
        let mut purses: Vec<_> = ordered.iter().map(|(account, _)| account.purse.lock()).collect();
        let mut refused: Option<Refusal> = None;
        for ((account, budget), purse) in ordered.iter().zip(&mut purses) {
            if let Err(exhausted) = purse.check(budget, bound, sharing, calendar, now)
                && refused.as_ref().is_none_or(|other| rank(&other.exhausted) < rank(&exhausted))
            {
                refused = Some(Refusal { holder: account.holder.clone(), exhausted });
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        let parts = ordered.iter().zip(&mut purses).map(|((account, budget), purse)| {
            let ticket = purse.reserve(bound, calendar, now);
            Part { account: Arc::clone(account), budget: *budget, ticket }
        });
        let parts = parts.collect();
        drop(purses);
        Ok(Self { parts, bound })
    }

    /// Why nothing could be reserved now; of several accounts, the one that holds longest. Reserves nothing, and asks nobody.
    pub fn refusal(
        accounts: &[(Arc<Account<M>>, Budget)],
        bound: NanoUsd,
        calendar: &Calendar,
        now: Instant,
    ) -> Option<Refusal> {
        let refused = accounts.iter().filter_map(|(account, budget)| {
            let exhausted = account.purse.lock().check(budget, bound, None, calendar, now).err()?;
            Some(Refusal { holder: account.holder.clone(), exhausted })
        });
        refused.max_by_key(|refusal| rank(&refusal.exhausted))
    }

    /// What is reserved.
    pub fn bound(&self) -> NanoUsd {
        self.bound
    }

    /// Ends the request with what it cost. Says which thresholds that reached.
    pub fn settle(mut self, cost: NanoUsd) -> Vec<Alert> {
        self.end(cost)
    }

    fn end(&mut self, cost: NanoUsd) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for Part { account, budget, ticket } in self.parts.drain(..) {
            let reached = account.purse.lock().settle(&ticket, cost, &budget);
            alerts.extend(reached.into_iter().map(|reached| Alert { holder: account.holder.clone(), reached }));
        }
        alerts
    }
}

impl<M: Guarded<Purse>> Drop for Reservation<M> {
    fn drop(&mut self) {
        self.end(NanoUsd::ZERO);
    }
}

/// What is not known comes before what is used up; then by how long it holds.
fn rank(exhausted: &Exhausted) -> (bool, bool, Option<Instant>) {
    (exhausted.reason == Reason::Spent, exhausted.resets_at.is_none(), exhausted.resets_at)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::config::snapshot::BudgetZone;
    use crate::time::Epoch;

    fn nanos(nanos: i64) -> NanoUsd {
        NanoUsd::from_nanos(nanos)
    }

    fn total(limit: i64) -> Budget {
        Budget { total: Some(nanos(limit)), ..Budget::default() }
    }

    fn calendar() -> Calendar {
        Calendar::new(&BudgetZone::Utc, Epoch::new(UNIX_EPOCH))
    }

    fn account<M: Guarded<Purse>>(name: &str) -> Arc<Account<M>> {
        Arc::new(Account::new(Holder::Tag(name.into())))
    }

    /// What is spent and reserved of the total.
    fn state<M: Guarded<Purse>>(account: &Account<M>) -> (i64, i64) {
        let balance = account.balances(&Budget::default(), &calendar(), Instant::START)[2];
        (balance.spent.as_nanos(), balance.reserved.as_nanos())
    }

    #[test]
    fn a_refusal_of_one_reserves_in_none() {
        let (user, tag) = (account::<Mutex<Purse>>("user"), account("tag"));
        let accounts =
            |user_limit, tag_limit| vec![(Arc::clone(&user), total(user_limit)), (Arc::clone(&tag), total(tag_limit))];
        let take = |user_limit, tag_limit| {
            Reservation::take(accounts(user_limit, tag_limit), nanos(5), None, &calendar(), Instant::START)
        };
        assert_eq!(take(10, 4).unwrap_err().holder.name(), "tag");
        assert_eq!(take(4, 10).unwrap_err().holder.name(), "user");
        assert_eq!((state(&user), state(&tag)), ((0, 0), (0, 0)));
        let reservation = take(10, 10).unwrap();
        assert_eq!((state(&user), state(&tag)), ((0, 5), (0, 5)));
        assert_eq!(reservation.settle(nanos(5)).len(), 2, "half of both");
        assert_eq!((state(&user), state(&tag)), ((5, 0), (5, 0)));
        drop(take(10, 10).unwrap());
        assert_eq!((state(&user), state(&tag)), ((5, 0), (5, 0)));
    }

    #[test]
    fn of_several_accounts_the_one_that_holds_longest_is_told() {
        let (one, other) = (account::<Mutex<Purse>>("one"), account("other"));
        let day = Budget { per_day: Some(nanos(4)), ..Budget::default() };
        let month = Budget { per_month: Some(nanos(4)), ..Budget::default() };
        let told = |of_one, of_other| {
            let accounts = vec![(Arc::clone(&one), of_one), (Arc::clone(&other), of_other)];
            let refused = Reservation::refusal(&accounts, nanos(5), &calendar(), Instant::START).unwrap();
            let taken = Reservation::take(accounts, nanos(5), None, &calendar(), Instant::START);
            assert_eq!(taken.unwrap_err(), refused);
            refused.holder.to_string()
        };
        for (short, long) in [(day, month), (month, total(4)), (day, total(4)), (total(5), day)] {
            assert_eq!((told(short, long), told(long, short)), ("tag other".to_owned(), "tag one".to_owned()));
        }
        let nothing = Reservation::refusal(&[(one, total(5))], nanos(5), &calendar(), Instant::START);
        assert_eq!((nothing, state(&other)), (None, (0, 0)));
    }

    #[test]
    fn what_is_used_up_is_told_before_what_is_not_known() {
        let resets_at = Some(Instant::START);
        let exhausted = |reason, resets_at| Exhausted {
            kind: PeriodKind::Day,
            limit: nanos(1),
            left: NanoUsd::ZERO,
            resets_at,
            reason,
        };
        assert!(rank(&exhausted(Reason::Spent, resets_at)) > rank(&exhausted(Reason::Unasked, None)));
        assert!(rank(&exhausted(Reason::Spent, resets_at)) > rank(&exhausted(Reason::Away, None)));
    }

    #[test]
    fn an_account_that_is_named_twice_is_charged_once() {
        let tag = account::<Mutex<Purse>>("tag");
        let twice = vec![(Arc::clone(&tag), total(9)), (Arc::clone(&tag), total(9))];
        let reservation = Reservation::take(twice, nanos(5), None, &calendar(), Instant::START).unwrap();
        assert_eq!(state(&tag), (0, 5));
        reservation.settle(nanos(5));
        assert_eq!(state(&tag), (5, 0));
    }

    impl<T: 'static> Guarded<T> for loom::sync::Mutex<T> {
        type Guard<'a> = loom::sync::MutexGuard<'a, T>;

        fn new(value: T) -> Self {
            Self::new(value)
        }

        fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.lock().unwrap()
        }
    }

    /// Every interleaving of two users of one tag, one of whose requests is aborted.
    #[test]
    fn whoever_comes_first_no_budget_is_passed_and_nothing_stays_reserved() {
        loom::model(|| {
            let tag = account::<loom::sync::Mutex<Purse>>("tag");
            let users = [account("a"), account("b")];
            let request = |user: &Arc<Account<_>>, first_tag: bool, cost: Option<i64>| {
                let mut accounts = vec![(Arc::clone(user), total(10)), (Arc::clone(&tag), total(10))];
                if first_tag {
                    accounts.reverse();
                }
                move || match Reservation::take(accounts, nanos(6), None, &calendar(), Instant::START) {
                    Err(_) => 0,
                    Ok(reservation) => match cost {
                        None => 0,
                        Some(cost) => {
                            reservation.settle(nanos(cost));
                            cost
                        }
                    },
                }
            };
            let other = loom::thread::spawn(request(&users[0], true, Some(6)));
            let aborted = loom::thread::spawn(request(&users[1], false, None));
            let spent = request(&users[1], false, Some(6))() + other.join().unwrap();
            aborted.join().unwrap();
            assert!(spent <= 10, "the tag's 10 have room for one of two");
            assert_eq!(state(&tag), (spent, 0));
            let of_users = users.each_ref().map(|user| state(user));
            assert_eq!(of_users.iter().map(|(spent, _)| spent).sum::<i64>(), spent);
            assert!(of_users.iter().all(|(_, reserved)| *reserved == 0));
        });
    }
}
