//! What was spent of a budget, and what is reserved of it: reserve before a request, settle after it.
//!
//! ```text
//! reserve(bound):      spent + reserved + bound <= limit, for the day, the month and the total   else refused
//! settle(bound, cost): reserved -= bound, spent += cost
//! ```
//!
//! So spent + reserved never passes the limit by itself, and spent passes it only by what single requests cost above their
//! bound. A request belongs to the periods in which it was admitted, whenever it ends.
//!
//! A period that gave way to another is kept until the next one does, so that a wall clock that was set and is set back finds it
//! as it was: no period is given out twice.
//!
//! Where several instances share a budget, each draws on a [`Share`] of it, ahead: what is lent is lent to one of them only, so the
//! same rules hold for all together.

use std::iter;
use std::time::Duration;

use super::calendar::{Calendar, Period, PeriodKind};
use super::meter::Reason;
use super::share::{Share, SharedWindow, Word};
use super::shared::Sharing;
use crate::config::snapshot::{Budget, ClusterFallback};
use crate::money::NanoUsd;
use crate::time::Instant;

/// Shares of a budget, in percent, at which its operator wants to hear of it.
pub const THRESHOLDS: [u8; 3] = [50, 80, 100];

/// The money of one user or one tag.
#[derive(Clone, Debug, Default)]
pub struct Purse {
    /// In the order of [`PeriodKind::ALL`].
    slots: [Slots; 3],
    /// Whether other instances spend of it too.
    is_shared: bool,
}

/// Periods of one kind.
#[derive(Clone, Debug, Default)]
struct Slots {
    /// The one that held at the last look; none before the first request.
    current: Option<Slot>,
    /// The one that held before it.
    last: Option<Box<Slot>>,
}

/// How far the wall clock may be set back before the beginning of a period that goes on all the same. One that it is set back by
/// less has most likely been given out before the process began.
const SET_BACK_SECONDS_MAX: i64 = 86_400;

/// The money of one period.
#[derive(Clone, Debug)]
struct Slot {
    period: Period,
    /// By this process.
    spent: i64,
    /// Before this process began, as the ledger says.
    before: i64,
    /// By everybody else, before and now, as the store that instances share says.
    elsewhere: i64,
    reserved: i64,
    /// What this instance may spend of a budget that is shared.
    share: Option<Box<Share>>,
    /// How many of [`THRESHOLDS`] were told.
    told: u8,
}

/// What a request reserved, so that exactly that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// First seconds of the periods, in the order of [`PeriodKind::ALL`].
    starts: [i64; 3],
    bound: i64,
    /// Whether it is held in the share of the period.
    shared: [bool; 3],
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The amount that is used up; of several, the one that holds longest.
    pub kind: PeriodKind,
    /// How much it is.
    pub limit: NanoUsd,
    /// What is left of it.
    pub left: NanoUsd,
    /// When the next period begins; `None` = never.
    pub resets_at: Option<Instant>,
    /// How that is known.
    pub reason: Reason,
}

/// A share of a limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Of which amount.
    pub kind: PeriodKind,
    /// First second of the period, Unix time.
    pub starts: i64,
    /// One of [`THRESHOLDS`].
    pub percent: u8,
    /// What was spent when it was reached.
    pub spent: NanoUsd,
    /// The amount.
    pub limit: NanoUsd,
}

/// How an amount stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Which.
    pub kind: PeriodKind,
    /// The period.
    pub period: Period,
    /// What may be spent; `None` = as much as one likes.
    pub limit: Option<NanoUsd>,
    /// What was spent, by all instances as far as is known here.
    pub spent: NanoUsd,
    /// What is reserved for requests in flight here.
    pub reserved: NanoUsd,
}

impl Budget {
    /// The limit of a period.
    pub fn limit(&self, kind: PeriodKind) -> Option<NanoUsd> {
        match kind {
            PeriodKind::Day => self.per_day,
            PeriodKind::Month => self.per_month,
            PeriodKind::Total => self.total,
        }
    }

    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

impl Purse {
    /// One that other instances spend of too.
    pub fn shared() -> Self {
        Self { is_shared: true, ..Self::default() }
    }

    /// Whether `bound` more may be reserved. Reserves nothing. `sharing` says how a shared one is shared now.
    ///
    /// # Errors
    /// The amount that holds longest.
    pub fn check(
        &mut self,
        budget: &Budget,
        bound: NanoUsd,
        sharing: Option<&Sharing>,
        calendar: &Calendar,
        now: Instant,
    ) -> Result<(), Exhausted> {
        let mut refused: Option<Exhausted> = None;
        for kind in PeriodKind::ALL {
            let slot = self.current(kind, calendar, now);
            let Some(limit) = budget.limit(kind) else { continue };
            if let Some(exhausted) = slot.refusal(kind, limit, bound, sharing, calendar, now) {
                // Later kinds hold longer; what is only not known does not hide what is used up.
                refused = match refused {
                    Some(other) if other.reason == Reason::Spent && exhausted.reason != Reason::Spent => Some(other),
                    _ => Some(exhausted),
                };
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Reserves what [`Purse::check`] let pass just now.
    pub fn reserve(&mut self, bound: NanoUsd, calendar: &Calendar, now: Instant) -> Ticket {
        let mut ticket = Ticket { starts: [0; 3], bound: bound.as_nanos(), shared: [false; 3] };
        for kind in PeriodKind::ALL {
            let slot = self.current(kind, calendar, now);
            slot.reserved = slot.reserved.saturating_add(ticket.bound);
            ticket.starts[kind as usize] = slot.period.starts;
            if let Some(share) = slot.share.as_mut().filter(|share| !share.windows().is_empty()) {
                share.hold(units(ticket.bound), now);
                ticket.shared[kind as usize] = true;
            }
        }
        ticket
    }

    /// Takes back what `ticket` reserved and counts what the request cost, in the periods in which it was admitted. Says which
    /// thresholds that reached.
    pub fn settle(&mut self, ticket: &Ticket, cost: NanoUsd, budget: &Budget) -> Vec<Reached> {
        let mut reached = Vec::new();
        for (kind, starts) in PeriodKind::ALL.into_iter().zip(ticket.starts) {
            let Some(slot) = self.slot(kind, starts) else { continue };
            slot.reserved = slot.reserved.saturating_sub(ticket.bound);
            slot.spent = slot.spent.saturating_add(cost.as_nanos());
            if let Some(share) = slot.share.as_mut().filter(|share| !share.windows().is_empty()) {
                // It may be from before the amount was limited: then it holds nothing, and what it cost counts all the same.
                let held = if ticket.shared[kind as usize] { ticket.bound } else { 0 };
                share.release(units(held), units(cost.as_nanos()));
            }
            if let Some(limit) = budget.limit(kind) {
                slot.tell(kind, limit, |told| reached.push(told));
            }
        }
        reached
    }

    /// Counts what was spent before this process began, in the period that starts at `starts` (Unix seconds) and nowhere if that
    /// is not the current one. Thresholds below it count as told, and other instances hear of it.
    pub fn restore(
        &mut self,
        kind: PeriodKind,
        starts: i64,
        spent: NanoUsd,
        budget: &Budget,
        calendar: &Calendar,
        now: Instant,
    ) {
        let slot = self.current(kind, calendar, now);
        if slot.period.starts != starts {
            return;
        }
        slot.before = slot.before.saturating_add(spent.as_nanos());
        if let Some(limit) = budget.limit(kind) {
            slot.tell(kind, limit, |_| ());
            if let Some(share) = &mut slot.share {
                share.set_windows(iter::once(window(kind, limit)));
                share.tell();
            }
        }
    }

    /// What is shared of the period that starts at `starts`, while that is kept.
    pub fn share(&mut self, kind: PeriodKind, starts: i64) -> Option<&mut Share> {
        self.slot(kind, starts)?.share.as_deref_mut()
    }

    /// What the ledger says that was spent in a period before this process began.
    pub fn before(&mut self, kind: PeriodKind, starts: i64) -> NanoUsd {
        NanoUsd::from_nanos(self.slot(kind, starts).map_or(0, |slot| slot.before))
    }

    /// Takes in what everybody else spent in a period.
    pub fn spent_elsewhere(&mut self, kind: PeriodKind, starts: i64, spent: NanoUsd) {
        if let Some(slot) = self.slot(kind, starts) {
            slot.elsewhere = spent.as_nanos();
        }
    }

    /// The periods whose share has something to say to the store and is not on the list of those, or cannot wait.
    pub fn touched(&mut self, now: Instant) -> impl Iterator<Item = (PeriodKind, i64)> {
        self.shares().filter_map(move |(kind, starts, share)| {
            let touched = share.next_ask().is_some() && (share.list() || share.is_urgent(now));
            touched.then_some((kind, starts))
        })
    }

    /// The store may have forgotten everything: all periods that it knew of are told again.
    pub fn tell_again(&mut self) {
        for (_, _, share) in self.shares().filter(|(_, _, share)| !share.windows().is_empty()) {
            share.tell();
        }
    }

    fn shares(&mut self) -> impl Iterator<Item = (PeriodKind, i64, &mut Share)> {
        PeriodKind::ALL.into_iter().zip(&mut self.slots).flat_map(|(kind, slots)| {
            slots.kept().filter_map(move |slot| Some((kind, slot.period.starts, slot.share.as_deref_mut()?)))
        })
    }

    fn slot(&mut self, kind: PeriodKind, starts: i64) -> Option<&mut Slot> {
        self.slots[kind as usize].kept().find(|slot| slot.period.starts == starts)
    }

    /// How every amount stands.
    pub fn balances(&mut self, budget: &Budget, calendar: &Calendar, now: Instant) -> [Balance; 3] {
        PeriodKind::ALL.map(|kind| {
            let slot = self.current(kind, calendar, now);
            Balance {
                kind,
                period: slot.period,
                limit: budget.limit(kind),
                spent: NanoUsd::from_nanos(slot.spent()),
                reserved: NanoUsd::from_nanos(slot.reserved),
            }
        })
    }

    /// The period that holds now.
    fn current(&mut self, kind: PeriodKind, calendar: &Calendar, now: Instant) -> &mut Slot {
        let second = calendar.second(now);
        let is_shared = self.is_shared;
        self.slots[kind as usize].at(second, || Slot::new(calendar.period(kind, second), is_shared))
    }
}

impl Slots {
    fn kept(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.current.iter_mut().chain(self.last.as_deref_mut())
    }

    /// The period that holds at a second of Unix time; a `new` one where it is none that is kept.
    fn at(&mut self, second: i64, new: impl FnOnce() -> Slot) -> &mut Slot {
        if !self.current.as_ref().is_some_and(|slot| slot.period.contains(second)) {
            self.turn(second, new);
        }
        self.current.as_mut().expect("one is put there where there was none")
    }

    #[cold]
    fn turn(&mut self, second: i64, new: impl FnOnce() -> Slot) {
        let next = match self.last.take_if(|last| last.period.contains(second)) {
            Some(last) => *last,
            None if self.current.as_ref().is_some_and(|slot| slot.begins_soon(second)) => return,
            None => new(),
        };
        self.last = self.current.replace(next).map(Box::new);
    }
}

impl Slot {
    fn new(period: Period, is_shared: bool) -> Self {
        let share = is_shared.then(Box::default);
        Self { period, spent: 0, before: 0, elsewhere: 0, reserved: 0, share, told: 0 }
    }

    fn begins_soon(&self, second: i64) -> bool {
        let until = self.period.starts.saturating_sub(second);
        (1..=SET_BACK_SECONDS_MAX).contains(&until)
    }

    /// What everybody spent, as far as is known. What was spent before this process is part of what the store knows, once it
    /// was told.
    fn spent(&self) -> i64 {
        self.spent.saturating_add(self.before.max(self.elsewhere))
    }

    fn refusal(
        &mut self,
        kind: PeriodKind,
        limit: NanoUsd,
        bound: NanoUsd,
        sharing: Option<&Sharing>,
        calendar: &Calendar,
        now: Instant,
    ) -> Option<Exhausted> {
        // What costs nothing passes whatever is left.
        if bound == NanoUsd::ZERO {
            return None;
        }
        let unused = limit.as_nanos().saturating_sub(self.spent().saturating_add(self.reserved));
        let (reason, left) = match (&mut self.share, sharing) {
            (Some(share), Some(sharing)) => {
                share.set_windows(iter::once(window(kind, limit)));
                let rest = limit.as_nanos().saturating_sub(self.before);
                let reason = word_of(share, units(bound.as_nanos()), units(rest), sharing, now)?;
                let left = share.left(now).map_or(unused, |(_, left)| i64::try_from(left).unwrap_or(i64::MAX));
                (reason, left)
            }
            _ if bound.as_nanos() <= unused => return None,
            _ => (Reason::Spent, unused),
        };
        let left = NanoUsd::from_nanos(left.max(0));
        let resets_at = self.period.ends.map(|ends| calendar.moment(ends));
        Some(Exhausted { kind, limit, left, resets_at, reason })
    }

    /// Tells each threshold once in a period.
    fn tell(&mut self, kind: PeriodKind, limit: NanoUsd, mut tell: impl FnMut(Reached)) {
        let spent = self.spent();
        for percent in THRESHOLDS.iter().skip(self.told.into()) {
            if i128::from(spent) * 100 < i128::from(limit.as_nanos()) * i128::from(*percent) || spent == 0 {
                return;
            }
            self.told += 1;
            let (starts, spent) = (self.period.starts, NanoUsd::from_nanos(spent));
            tell(Reached { kind, starts, percent: *percent, spent, limit });
        }
    }
}

/// Why a share has no `amount`; `None` = it may be spent. `rest` is what there was before the store said anything.
fn word_of(share: &mut Share, amount: u64, rest: u64, sharing: &Sharing, now: Instant) -> Option<Reason> {
    match share.word(amount, now) {
        Word::Yes => None,
        Word::No { .. } => Some(Reason::Spent),
        Word::Unknown if sharing.may_ask => {
            share.want(amount);
            Some(Reason::Unasked)
        }
        Word::Unknown => match sharing.on_failure {
            ClusterFallback::Open => None,
            ClusterFallback::Closed => Some(Reason::Away),
            // Each instance a part of what nobody was lent when the store last spoke, beside its own lease.
            ClusterFallback::Local => {
                let part = share.unlent().unwrap_or(rest) / u64::from(sharing.instances.max(1));
                (share.beyond(amount) > part).then_some(Reason::Spent)
            }
        },
    }
}

/// The amount of a period, as shares have it.
fn window(kind: PeriodKind, limit: NanoUsd) -> SharedWindow {
    SharedWindow { name: kind.key(), span: Duration::ZERO, width: Duration::ZERO, limit: units(limit.as_nanos()) }
}

/// Shares count in what cannot be negative.
fn units(nanos: i64) -> u64 {
    u64::try_from(nanos).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::super::share::{Ask, Lent};
    use super::*;
    use crate::config::snapshot::BudgetZone;
    use crate::time::Epoch;

    const DAY: Duration = Duration::from_secs(86_400);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn calendar() -> Calendar {
        Calendar::new(&BudgetZone::Utc, Epoch::new(UNIX_EPOCH))
    }

    fn nanos(nanos: i64) -> NanoUsd {
        NanoUsd::from_nanos(nanos)
    }

    fn budget(day: i64, month: i64, total: i64) -> Budget {
        Budget { per_day: Some(nanos(day)), per_month: Some(nanos(month)), total: Some(nanos(total)) }
    }

    fn take(purse: &mut Purse, budget: &Budget, bound: i64, now: Instant) -> Result<Ticket, Exhausted> {
        let calendar = calendar();
        purse.check(budget, nanos(bound), None, &calendar, now)?;
        Ok(purse.reserve(nanos(bound), &calendar, now))
    }

    #[test]
    fn denied_until_the_announced_instant_and_allowed_exactly_at_it() {
        let (mut purse, budget, noon) = (Purse::default(), budget(10, 100, 1_000), Instant::START + DAY / 2);
        let ticket = take(&mut purse, &budget, 10, noon).unwrap();
        purse.settle(&ticket, nanos(10), &budget);
        let refused = take(&mut purse, &budget, 1, noon).unwrap_err();
        let resets_at = refused.resets_at.unwrap();
        assert_eq!((refused.kind, refused.left, resets_at), (PeriodKind::Day, NanoUsd::ZERO, Instant::START + DAY));
        assert!(take(&mut purse, &budget, 1, Instant::from_nanos(resets_at.as_nanos() - 1)).is_err());
        assert!(take(&mut purse, &budget, 1, resets_at).is_ok());
    }

    #[test]
    fn of_several_amounts_the_one_that_holds_longest_is_told_and_a_total_never_passes() {
        let mut purse = Purse::default();
        let ticket = take(&mut purse, &budget(10, 10, 100), 10, Instant::START).unwrap();
        purse.settle(&ticket, nanos(10), &budget(10, 10, 100));
        let refused = take(&mut purse, &budget(10, 10, 100), 1, Instant::START).unwrap_err();
        assert_eq!((refused.kind, refused.resets_at), (PeriodKind::Month, Some(Instant::START + DAY * 31)));
        let refused = take(&mut purse, &budget(10, 10, 10), 1, Instant::START + DAY * 400).unwrap_err();
        assert_eq!((refused.kind, refused.resets_at), (PeriodKind::Total, None));
    }

    #[test]
    fn a_request_is_charged_to_the_day_on_which_it_was_admitted() {
        let (mut purse, budget) = (Purse::default(), budget(10, 100, 1_000));
        let before = take(&mut purse, &budget, 10, Instant::START).unwrap();
        let after = take(&mut purse, &budget, 10, Instant::START + DAY).unwrap();
        purse.settle(&before, nanos(7), &budget);
        let [day, month, total] = purse.balances(&budget, &calendar(), Instant::START + DAY);
        assert_eq!((day.spent, day.reserved), (nanos(0), nanos(10)));
        assert_eq!((month.spent, month.reserved, total.spent), (nanos(7), nanos(10), nanos(7)));
        purse.settle(&after, nanos(3), &budget);
        assert_eq!(purse.balances(&budget, &calendar(), Instant::START + DAY)[0].spent, nanos(3));
    }

    /// A calendar whose wall clock shows the Unix epoch at the start, and what sets it: to an hour, at a moment.
    fn settable() -> (Calendar, impl Fn(u32, Instant)) {
        let epoch = Epoch::new(UNIX_EPOCH);
        let calendar = Calendar::new(&BudgetZone::Utc, epoch.clone());
        let set = move |hour: u32, now| {
            epoch.follow(UNIX_EPOCH + hour * HOUR, now);
        };
        (calendar, set)
    }

    /// Spends a request that costs its bound; whether it passed.
    fn pay(purse: &mut Purse, budget: &Budget, cost: i64, calendar: &Calendar, now: Instant) -> bool {
        let passes = purse.check(budget, nanos(cost), None, calendar, now).is_ok();
        if passes {
            let ticket = purse.reserve(nanos(cost), calendar, now);
            purse.settle(&ticket, nanos(cost), budget);
        }
        passes
    }

    #[test]
    fn a_wall_clock_that_is_set_moves_the_day_and_set_back_it_finds_each_day_as_it_was() {
        let (mut purse, budget, (calendar, set)) = (Purse::default(), budget(10, 100, 1_000), settable());
        let start = Instant::START;
        assert!(pay(&mut purse, &budget, 10, &calendar, start) && !pay(&mut purse, &budget, 1, &calendar, start));
        let held = Instant::START + HOUR;
        // The machine slept for a week, or its clock was set.
        set(7 * 24, held);
        assert!(pay(&mut purse, &budget, 4, &calendar, held), "another day");
        let running = purse.reserve(nanos(6), &calendar, held);
        let refused = purse.check(&budget, nanos(1), None, &calendar, held).unwrap_err();
        assert_eq!(refused.resets_at, Some(held + DAY), "as the wall clock is set now");
        set(23, held);
        assert!(!pay(&mut purse, &budget, 1, &calendar, held), "the first day is used up as before");
        purse.settle(&running, nanos(5), &budget);
        set(7 * 24 + 1, held);
        let [day, month, total] = purse.balances(&budget, &calendar, held).map(|balance| balance.spent.as_nanos());
        assert_eq!((day, month, total), (9, 19, 19), "nothing is lost, wherever its request ended");
        assert!(pay(&mut purse, &budget, 1, &calendar, held) && !pay(&mut purse, &budget, 1, &calendar, held));
    }

    #[test]
    fn a_day_goes_on_when_the_clock_is_set_back_before_it_unless_that_is_by_more_than_a_day() {
        let (mut purse, budget, (calendar, set)) = (Purse::default(), budget(10, 100, 1_000), settable());
        let now = Instant::START;
        set(10 * 24, now);
        assert!(pay(&mut purse, &budget, 10, &calendar, now));
        // What was spent on the ninth day before the process began is not known here.
        set(9 * 24, now);
        let refused = purse.check(&budget, nanos(1), None, &calendar, now).unwrap_err();
        assert_eq!(refused.resets_at, Some(now + 2 * DAY));
        set(9 * 24 - 1, now);
        assert!(pay(&mut purse, &budget, 10, &calendar, now), "the clock was wrong when the process began");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn however_the_wall_clock_is_set_no_day_is_given_out_twice_and_nothing_is_lost(
            steps in prop::collection::vec((1i64..30, 0u32..48, any::<bool>(), 0u32..10), 1..60), limit in 0i64..100,
        ) {
            let (mut purse, (calendar, set)) = (Purse::default(), settable());
            let budget = Budget { per_day: Some(nanos(limit)), ..Budget::default() };
            let (mut now, mut by_day, mut running) = (Instant::START, [0i64; 2], Vec::new());
            for (cost, hour, ends_late, minutes) in steps {
                now = now + minutes * Duration::from_secs(60);
                // The first day and the fourth: too far apart for one to go on in place of the other.
                set(if hour < 24 { hour } else { hour + 48 }, now);
                if purse.check(&budget, nanos(cost), None, &calendar, now).is_ok() {
                    let ticket = purse.reserve(nanos(cost), &calendar, now);
                    let first_second = purse.balances(&budget, &calendar, now)[0].period.starts;
                    by_day[usize::from(first_second > 0)] += cost;
                    running.push((ticket, cost));
                }
                if !ends_late {
                    for (ticket, cost) in running.drain(..) {
                        purse.settle(&ticket, nanos(cost), &budget);
                    }
                }
                let today = purse.balances(&budget, &calendar, now)[0];
                prop_assert!(today.spent.as_nanos() + today.reserved.as_nanos() <= limit);
                prop_assert!(by_day.iter().all(|paid| *paid <= limit), "{by_day:?}");
            }
            for (ticket, cost) in running {
                purse.settle(&ticket, nanos(cost), &budget);
            }
            let [today, _, total] = purse.balances(&budget, &calendar, now);
            prop_assert_eq!((today.reserved.as_nanos(), total.reserved.as_nanos()), (0, 0));
            prop_assert_eq!(total.spent.as_nanos(), by_day[0] + by_day[1]);
        }
    }

    #[test]
    fn what_costs_nothing_passes_an_exhausted_budget() {
        let (mut purse, budget) = (Purse::default(), budget(0, 0, 0));
        assert!(take(&mut purse, &budget, 0, Instant::START).is_ok());
        assert!(take(&mut purse, &budget, 1, Instant::START).is_err());
    }

    #[test]
    fn each_threshold_is_told_once_in_a_period_and_not_after_a_restart() {
        let budget = Budget { per_day: Some(nanos(100)), ..Budget::default() };
        let mut purse = Purse::default();
        let mut spend = |cost: i64, now: Instant| -> Vec<u8> {
            let ticket = take(&mut purse, &budget, 1, now).unwrap();
            purse.settle(&ticket, nanos(cost), &budget).iter().map(|reached| reached.percent).collect()
        };
        assert_eq!(spend(49, Instant::START), [0_u8; 0]);
        assert_eq!(spend(1, Instant::START), [50]);
        assert_eq!(spend(49, Instant::START), [80]);
        assert_eq!(spend(1, Instant::START), [100]);
        assert_eq!(spend(100, Instant::START + DAY), [50, 80, 100]);
        let mut again = Purse::default();
        again.restore(PeriodKind::Day, 0, nanos(60), &budget, &calendar(), Instant::START);
        again.restore(PeriodKind::Day, -86_400, nanos(30), &budget, &calendar(), Instant::START);
        let ticket = take(&mut again, &budget, 20, Instant::START).unwrap();
        let told = again.settle(&ticket, nanos(20), &budget);
        assert_eq!(told.iter().map(|reached| reached.percent).collect::<Vec<_>>(), [80]);
    }

    /// What the shared store does, as far as budgets are concerned: see `berry-api/src/cluster/spend.lua`.
    #[derive(Default)]
    struct Store {
        before: u64,
        /// Of each instance, what it spent and what it was granted.
        instances: [(u64, u64); 3],
    }

    impl Store {
        fn exchange(&mut self, me: usize, ask: &Ask, limit: u64, known: u64) -> (Lent, u64) {
            let others = || (0..3).filter(|other| *other != me).map(|other| self.instances[other]);
            let others_spent: u64 = others().map(|(spent, _)| spent).sum();
            let others_granted: u64 = others().map(|(spent, granted)| spent.max(granted)).sum();
            self.before = self.before.max(known.saturating_sub(others_spent));
            let room = limit.saturating_sub(self.before + others_granted);
            let granted = (ask.used + ask.held).max(room.min(ask.used + ask.want));
            self.instances[me] = (ask.used, granted);
            let left = room.saturating_sub(granted);
            let lent = Lent { lease: granted - ask.used, left, ..Lent::default() };
            (lent, self.before + others_spent)
        }
    }

    fn sharing(may_ask: bool, on_failure: ClusterFallback) -> Sharing {
        Sharing { instances: 3, may_ask, on_failure }
    }

    const ASKING: ClusterFallback = ClusterFallback::Local;

    /// Lets every period of a purse talk with the store; `lost` = the store hears it, and its answer does not arrive.
    fn talk(purse: &mut Purse, store: &mut Store, me: usize, lost: bool, now: Instant) {
        let kind = PeriodKind::Total;
        let (starts, known) = (Period::EVER.starts, purse.before(kind, Period::EVER.starts).as_nanos() as u64);
        let Some(share) = purse.share(kind, starts) else { return };
        let Some(ask) = share.ask(now) else { return };
        let limit = share.windows()[0].limit;
        let (lent, elsewhere) = store.exchange(me, &ask, limit, known);
        if lost {
            share.lost(&ask, now);
            return;
        }
        share.answered(&ask, &lent, limit / 30, now);
        purse.spent_elsewhere(kind, starts, nanos(elsewhere as i64));
    }

    fn total(limit: i64) -> Budget {
        Budget { total: Some(nanos(limit)), ..Budget::default() }
    }

    #[test]
    fn a_shared_purse_asks_first_and_spends_what_it_is_lent() {
        let (mut purse, mut store, budget, calendar) = (Purse::shared(), Store::default(), total(100), calendar());
        let asking = sharing(true, ASKING);
        store.instances[1] = (30, 40);
        let refused = purse.check(&budget, nanos(10), Some(&asking), &calendar, Instant::START).unwrap_err();
        assert_eq!(refused.reason, Reason::Unasked);
        talk(&mut purse, &mut store, 0, false, Instant::START);
        purse.check(&budget, nanos(10), Some(&asking), &calendar, Instant::START).unwrap();
        let ticket = purse.reserve(nanos(10), &calendar, Instant::START);
        purse.settle(&ticket, nanos(4), &budget);
        assert_eq!(purse.balances(&budget, &calendar, Instant::START)[2].spent, nanos(34));
        // What is more than all that is left is refused once the store has said so, and says what is left.
        let _ = purse.check(&budget, nanos(57), Some(&asking), &calendar, Instant::START).unwrap_err();
        talk(&mut purse, &mut store, 0, false, Instant::START);
        let refused = purse.check(&budget, nanos(57), Some(&asking), &calendar, Instant::START).unwrap_err();
        assert_eq!((refused.reason, refused.left), (Reason::Spent, nanos(56)));
        purse.check(&budget, nanos(56), Some(&asking), &calendar, Instant::START).unwrap();
    }

    #[test]
    fn without_the_store_its_last_word_and_the_choice_of_the_operator_hold() {
        let (budget, calendar, now) = (total(90), calendar(), Instant::START);
        let passing = |purse: &mut Purse, on_failure| {
            let (alone, mut passed) = (sharing(false, on_failure), 0);
            while passed < 100 {
                if let Err(refused) = purse.check(&budget, nanos(5), Some(&alone), &calendar, now) {
                    return (passed, Some(refused.reason));
                }
                purse.reserve(nanos(5), &calendar, now);
                passed += 1;
            }
            (passed, None)
        };
        for (on_failure, expect) in [
            (ClusterFallback::Local, (6, Some(Reason::Spent))),
            (ClusterFallback::Open, (100, None)),
            (ClusterFallback::Closed, (0, Some(Reason::Away))),
        ] {
            assert_eq!(passing(&mut Purse::shared(), on_failure), expect, "a third of 90");
        }
        let single = Sharing { instances: 1, ..sharing(false, ASKING) };
        let mut purse = Purse::shared();
        assert_eq!(purse.check(&budget, nanos(90), Some(&single), &calendar, now), Ok(()), "nobody else has a part");
        let (mut purse, mut store) = (Purse::shared(), Store::default());
        store.instances[1] = (50, 50);
        let _ = purse.check(&budget, nanos(10), Some(&sharing(true, ASKING)), &calendar, now).unwrap_err();
        talk(&mut purse, &mut store, 0, false, now);
        // The lease of 10, and a third of the 30 that were left beside it.
        assert_eq!(passing(&mut purse, ClusterFallback::Local), (4, Some(Reason::Spent)));
        let mut restarted = Purse::shared();
        restarted.restore(PeriodKind::Total, Period::EVER.starts, nanos(60), &budget, &calendar, now);
        assert_eq!(passing(&mut restarted, ClusterFallback::Local), (2, Some(Reason::Spent)), "a third of 30");
    }

    #[test]
    fn a_store_that_forgot_everything_is_told_what_was_spent_before_and_since_the_start() {
        let (mut purse, budget, calendar, now) = (Purse::shared(), total(100), calendar(), Instant::START);
        purse.restore(PeriodKind::Total, Period::EVER.starts, nanos(20), &budget, &calendar, now);
        let _ = purse.check(&budget, nanos(10), Some(&sharing(true, ASKING)), &calendar, now).unwrap_err();
        talk(&mut purse, &mut Store::default(), 0, false, now);
        purse.check(&budget, nanos(10), Some(&sharing(true, ASKING)), &calendar, now).unwrap();
        let ticket = purse.reserve(nanos(10), &calendar, now);
        purse.settle(&ticket, nanos(10), &budget);
        let (mut forgetful, later) = (Store::default(), now + DAY);
        talk(&mut purse, &mut Store::default(), 0, false, later);
        purse.tell_again();
        talk(&mut purse, &mut forgetful, 0, false, later + DAY);
        assert_eq!((forgetful.before, forgetful.instances[0].0), (20, 10));
    }

    #[test]
    fn a_request_from_before_an_amount_was_limited_frees_nobody_elses_and_its_cost_is_told() {
        let (mut purse, calendar, now) = (Purse::shared(), calendar(), Instant::START);
        let alone = sharing(false, ClusterFallback::Open);
        let take = |purse: &mut Purse, budget: &Budget, bound| {
            purse.check(budget, nanos(bound), Some(&alone), &calendar, now).unwrap();
            purse.reserve(nanos(bound), &calendar, now)
        };
        let of_day = Budget { per_day: Some(nanos(1_000)), ..Budget::default() };
        let before = take(&mut purse, &of_day, 10);
        take(&mut purse, &total(100), 20);
        purse.settle(&before, nanos(7), &total(100));
        let ask = purse.share(PeriodKind::Total, Period::EVER.starts).unwrap().ask(now).unwrap();
        assert_eq!((ask.held, ask.used), (20, 7));
    }

    #[test]
    fn what_is_not_known_of_one_amount_does_not_hide_that_another_is_used_up() {
        let (calendar, asking, now) = (calendar(), sharing(true, ASKING), Instant::START);
        let budget = Budget { per_day: Some(nanos(10)), total: Some(nanos(10)), ..Budget::default() };
        for (kind, starts) in [(PeriodKind::Day, 0), (PeriodKind::Total, Period::EVER.starts)] {
            let mut purse = Purse::shared();
            let refused = purse.check(&budget, nanos(5), Some(&asking), &calendar, now).unwrap_err();
            assert_eq!(refused.reason, Reason::Unasked);
            let share = purse.share(kind, starts).unwrap();
            let ask = share.ask(now).unwrap();
            share.answered(&ask, &Lent::default(), 1, now);
            let refused = purse.check(&budget, nanos(5), Some(&asking), &calendar, now).unwrap_err();
            assert_eq!((refused.reason, refused.kind), (Reason::Spent, kind));
        }
    }

    #[test]
    fn what_was_spent_before_the_start_is_told_to_the_store_once_and_is_not_counted_twice() {
        let (mut purse, mut store, budget, now) = (Purse::shared(), Store::default(), total(100), Instant::START);
        let ever = (PeriodKind::Total, Period::EVER.starts);
        assert_eq!(purse.touched(now).count(), 0);
        purse.restore(ever.0, ever.1, nanos(30), &budget, &calendar(), now);
        assert_eq!(purse.touched(now).collect::<Vec<_>>(), [ever]);
        let spent = |purse: &mut Purse| purse.balances(&budget, &calendar(), now)[2].spent;
        assert_eq!(spent(&mut purse), nanos(30));
        store.instances[1] = (5, 5);
        talk(&mut purse, &mut store, 0, false, now);
        assert_eq!((store.before, spent(&mut purse)), (25, nanos(30)), "five of the thirty are another instance's");
        assert_eq!(purse.before(ever.0, 5), NanoUsd::ZERO, "of a period that is not kept nothing is known");
        assert_eq!(purse.touched(now).count(), 0, "nothing more to say");
        store.instances[1] = (25, 25);
        purse.tell_again();
        assert_eq!(purse.touched(now).collect::<Vec<_>>(), [ever]);
        talk(&mut purse, &mut store, 0, false, now);
        assert_eq!(spent(&mut purse), nanos(50));
    }

    #[test]
    fn amounts_that_are_not_limited_are_not_told() {
        let (mut purse, calendar, now) = (Purse::shared(), calendar(), Instant::START);
        let ticket = purse.reserve(nanos(5), &calendar, now);
        purse.tell_again();
        assert!(purse.settle(&ticket, nanos(5), &Budget::default()).is_empty());
        assert_eq!(purse.touched(now + DAY).count(), 0);
    }

    #[test]
    fn a_budget_of_nothing_of_which_nothing_is_spent_tells_no_threshold() {
        let (mut purse, budget) = (Purse::default(), budget(0, 0, 0));
        let ticket = take(&mut purse, &budget, 0, Instant::START).unwrap();
        assert_eq!(purse.settle(&ticket, NanoUsd::ZERO, &budget), []);
        let ticket = take(&mut purse, &budget, 0, Instant::START).unwrap();
        assert_eq!(purse.settle(&ticket, nanos(1), &budget).len(), 9, "three of each amount");
    }

    #[test]
    fn what_costs_nothing_passes_where_more_than_the_budget_was_spent_and_asks_nobody() {
        let (mut purse, budget, mut shared) = (Purse::default(), total(0), Purse::shared());
        let ticket = take(&mut purse, &budget, 0, Instant::START).unwrap();
        purse.settle(&ticket, nanos(1), &budget);
        assert!(take(&mut purse, &budget, 0, Instant::START).is_ok());
        let free = shared.check(&budget, NanoUsd::ZERO, Some(&sharing(true, ASKING)), &calendar(), Instant::START);
        assert_eq!((free, shared.touched(Instant::START).count()), (Ok(()), 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn instances_that_share_a_budget_never_spend_more_together_but_for_what_was_billed_above_bounds(
            steps in prop::collection::vec((0usize..3, 0i64..40, prop_oneof![4 => 0i64..40, 1 => 40i64..200], 0usize..12, 0u32..400, any::<bool>()), 1..80),
            limit in 0i64..600,
        ) {
            let (budget, calendar, mut now) = (total(limit), calendar(), Instant::START);
            let mut purses = [Purse::shared(), Purse::shared(), Purse::shared()];
            let (mut store, asking) = (Store::default(), sharing(true, ASKING));
            let (mut running, mut spent, mut excess) = (Vec::new(), 0, 0);
            for (index, (me, bound, cost, lasts, wait, lost)) in steps.into_iter().enumerate() {
                now = now + wait * Duration::from_millis(10);
                let purse = &mut purses[me];
                let take = |purse: &mut Purse| {
                    purse.check(&budget, nanos(bound), Some(&asking), &calendar, now).ok()?;
                    Some(purse.reserve(nanos(bound), &calendar, now))
                };
                let first = take(purse);
                talk(purse, &mut store, me, lost, now);
                if let Some(ticket) = first.or_else(|| take(purse)) {
                    running.push((index + lasts, me, ticket, cost));
                    excess += (cost - bound).max(0);
                }
                let (ended, still): (Vec<_>, Vec<_>) = running.into_iter().partition(|(until, ..)| *until <= index);
                running = still;
                for (_, me, ticket, cost) in ended {
                    purses[me].settle(&ticket, nanos(cost), &budget);
                    spent += cost;
                }
                let reserved: i64 = running.iter().map(|(_, _, ticket, _)| ticket.bound).sum();
                prop_assert!(spent + reserved <= limit + excess, "{spent} + {reserved} of {limit} + {excess}");
            }
        }
    }

    /// One caller: its bound, what it costs, and after which other callers it ends.
    fn caller() -> impl Strategy<Value = (i64, i64, usize, u64)> {
        (0i64..40, prop_oneof![4 => 0i64..40, 1 => 40i64..400], 0usize..20, 0u64..50_000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn spend_is_within_the_budget_but_for_what_was_billed_above_bounds(
            callers in prop::collection::vec(caller(), 1..60), day in 0i64..300, month in 0i64..600, total in 0i64..900,
        ) {
            let (budget, mut purse, mut now) = (budget(day, month, total), Purse::default(), Instant::START);
            let mut running: Vec<(usize, Ticket, i64)> = Vec::new();
            let mut excess = [0i64; 3];
            let mut charged: Vec<(Instant, i64)> = Vec::new();
            for (index, (bound, cost, lasts, wait)) in callers.into_iter().enumerate() {
                now = now + Duration::from_secs(wait);
                if let Ok(ticket) = take(&mut purse, &budget, bound, now) {
                    running.push((index + lasts, ticket, cost));
                    charged.push((now, cost));
                    excess.iter_mut().for_each(|sum| *sum += (cost - bound).max(0));
                }
                let (ended, still): (Vec<_>, Vec<_>) = running.into_iter().partition(|(until, ..)| *until <= index);
                running = still;
                for (_, ticket, cost) in ended {
                    purse.settle(&ticket, nanos(cost), &budget);
                }
                for (balance, excess) in purse.balances(&budget, &calendar(), now).into_iter().zip(excess) {
                    let limit = balance.limit.unwrap().as_nanos();
                    prop_assert!(balance.spent.as_nanos() <= limit + excess);
                    prop_assert!(balance.reserved.as_nanos() >= 0);
                    prop_assert!(balance.reserved.as_nanos() + balance.spent.as_nanos() <= limit + excess);
                }
            }
            for (_, ticket, cost) in running {
                purse.settle(&ticket, nanos(cost), &budget);
            }
            let all: i64 = charged.iter().map(|(_, cost)| cost).sum();
            let balances = purse.balances(&budget, &calendar(), now);
            prop_assert_eq!(balances.map(|balance| balance.reserved.as_nanos()), [0; 3]);
            prop_assert_eq!(balances[2].spent.as_nanos(), all);
            let today = now.as_nanos() / DAY.as_nanos() as u64;
            let of_today = charged.iter().filter(|(at, _)| at.as_nanos() / DAY.as_nanos() as u64 == today);
            prop_assert_eq!(balances[0].spent.as_nanos(), of_today.map(|(_, cost)| cost).sum::<i64>());
        }
    }
}
