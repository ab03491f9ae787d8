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
//! Where several instances share a budget, each may spend what it was granted of it ([`Purse::grant`]), and the same rules hold
//! for the grant.

use super::calendar::{Calendar, Period, PeriodKind};
use crate::config::snapshot::Budget;
use crate::money::NanoUsd;
use crate::time::Instant;

/// Shares of a budget, in percent, at which its operator wants to hear of it.
pub const THRESHOLDS: [u8; 3] = [50, 80, 100];

/// The money of one user or one tag.
#[derive(Clone, Debug, Default)]
pub struct Purse {
    /// In the order of [`PeriodKind::ALL`]; none before the first request.
    slots: [Option<Slot>; 3],
}

/// The money of one period.
#[derive(Clone, Copy, Debug)]
struct Slot {
    period: Period,
    /// By this instance.
    spent: i64,
    /// By other instances, as far as is known here.
    elsewhere: i64,
    reserved: i64,
    /// What this instance may spend of a shared budget; `None` = all of it.
    granted: Option<i64>,
    /// How many of [`THRESHOLDS`] were told.
    told: u8,
}

/// What a request reserved, so that exactly that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// First seconds of the periods, in the order of [`PeriodKind::ALL`].
    starts: [i64; 3],
    bound: i64,
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
    /// The limit has room, this instance's grant has not: how much more would have to be granted.
    pub to_grant: Option<NanoUsd>,
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
    /// Whether `bound` more may be reserved. Reserves nothing.
    ///
    /// # Errors
    /// The amount that holds longest.
    pub fn check(
        &mut self,
        budget: &Budget,
        bound: NanoUsd,
        calendar: &Calendar,
        now: Instant,
    ) -> Result<(), Exhausted> {
        let mut refused: Option<Exhausted> = None;
        for kind in PeriodKind::ALL {
            let slot = self.current(kind, calendar, now);
            let Some(limit) = budget.limit(kind) else { continue };
            if let Some(exhausted) = slot.refusal(kind, limit, bound.as_nanos()) {
                // Later kinds hold longer; what only waits for a grant does not hide what is used up.
                refused = match refused {
                    Some(other) if other.to_grant.is_none() && exhausted.to_grant.is_some() => Some(other),
                    _ => Some(exhausted),
                };
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Reserves what [`Purse::check`] let pass just now.
    pub fn reserve(&mut self, bound: NanoUsd, calendar: &Calendar, now: Instant) -> Ticket {
        let bound = bound.as_nanos();
        let starts = PeriodKind::ALL.map(|kind| {
            let slot = self.current(kind, calendar, now);
            slot.reserved = slot.reserved.saturating_add(bound);
            slot.period.starts
        });
        Ticket { starts, bound }
    }

    /// Takes back what `ticket` reserved and counts what the request cost, in the periods in which it was admitted. Says which
    /// thresholds that reached.
    pub fn settle(&mut self, ticket: &Ticket, cost: NanoUsd, budget: &Budget) -> Vec<Reached> {
        let mut reached = Vec::new();
        for (kind, starts) in PeriodKind::ALL.into_iter().zip(ticket.starts) {
            let Some(slot) = self.slots[kind as usize].as_mut().filter(|slot| slot.period.starts == starts) else {
                continue;
            };
            slot.reserved = slot.reserved.saturating_sub(ticket.bound);
            slot.spent = slot.spent.saturating_add(cost.as_nanos());
            if let Some(limit) = budget.limit(kind) {
                slot.tell(kind, limit, |told| reached.push(told));
            }
        }
        reached
    }

    /// Counts what was spent before this process began, in the period that starts at `starts` (Unix seconds) and nowhere if that
    /// is not the current one. Thresholds below it count as told.
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
        slot.spent = slot.spent.saturating_add(spent.as_nanos());
        if let Some(limit) = budget.limit(kind) {
            slot.tell(kind, limit, |_| ());
        }
    }

    /// Gives this instance `slice` more of a budget that is shared, of which others spent `elsewhere`; from now on it may spend
    /// in this period what it was granted. A grant for another period than the current one is void.
    pub fn grant(
        &mut self,
        kind: PeriodKind,
        starts: i64,
        slice: NanoUsd,
        elsewhere: NanoUsd,
        calendar: &Calendar,
        now: Instant,
    ) {
        let slot = self.current(kind, calendar, now);
        if slot.period.starts == starts {
            slot.granted = Some(slot.granted.unwrap_or(0).saturating_add(slice.as_nanos()));
            slot.elsewhere = elsewhere.as_nanos();
        }
    }

    /// Takes back what is left of a grant: neither spent nor reserved. Nothing where all of the budget is this instance's.
    pub fn give_back(&mut self, kind: PeriodKind) -> NanoUsd {
        let Some(slot) = &mut self.slots[kind as usize] else { return NanoUsd::ZERO };
        let Some(granted) = &mut slot.granted else { return NanoUsd::ZERO };
        let used = slot.spent.saturating_add(slot.reserved);
        let left = granted.saturating_sub(used).max(0);
        *granted -= left;
        NanoUsd::from_nanos(left)
    }

    /// How every amount stands.
    pub fn balances(&mut self, budget: &Budget, calendar: &Calendar, now: Instant) -> [Balance; 3] {
        PeriodKind::ALL.map(|kind| {
            let slot = self.current(kind, calendar, now);
            Balance {
                kind,
                period: slot.period,
                limit: budget.limit(kind),
                spent: NanoUsd::from_nanos(slot.spent.saturating_add(slot.elsewhere)),
                reserved: NanoUsd::from_nanos(slot.reserved),
            }
        })
    }

    /// The period that holds now; the one before it is forgotten when it is over.
    fn current(&mut self, kind: PeriodKind, calendar: &Calendar, now: Instant) -> &mut Slot {
        let slot = &mut self.slots[kind as usize];
        if slot.is_none_or(|slot| slot.period.is_over(now)) {
            // An instance that shares a budget has nothing of the next period until it is granted something.
            let granted = slot.and_then(|slot| slot.granted).map(|_| 0);
            *slot = Some(Slot::new(calendar.period(kind, now), granted));
        }
        slot.as_mut().expect("put there if it was not")
    }
}

impl Slot {
    fn new(period: Period, granted: Option<i64>) -> Self {
        Self { period, spent: 0, elsewhere: 0, reserved: 0, granted, told: 0 }
    }

    fn refusal(&self, kind: PeriodKind, limit: NanoUsd, bound: i64) -> Option<Exhausted> {
        let used = self.spent.saturating_add(self.reserved);
        let needed = used.saturating_add(bound);
        let left = limit.as_nanos().saturating_sub(used).saturating_sub(self.elsewhere);
        let to_grant = self.granted.map(|granted| needed.saturating_sub(granted));
        let fits = match to_grant {
            None => needed <= limit.as_nanos(),
            Some(to_grant) => to_grant <= 0,
        };
        // What costs nothing passes whatever is left.
        if fits || bound == 0 {
            return None;
        }
        Some(Exhausted {
            kind,
            limit,
            left: NanoUsd::from_nanos(left.max(0)),
            resets_at: self.period.ends,
            to_grant: to_grant.filter(|_| bound <= left).map(NanoUsd::from_nanos),
        })
    }

    /// Tells each threshold once in a period.
    fn tell(&mut self, kind: PeriodKind, limit: NanoUsd, mut tell: impl FnMut(Reached)) {
        let spent = self.spent.saturating_add(self.elsewhere);
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;
    use crate::config::snapshot::BudgetZone;

    const DAY: Duration = Duration::from_secs(86_400);

    fn calendar() -> Calendar {
        Calendar::new(&BudgetZone::Utc, UNIX_EPOCH)
    }

    fn nanos(nanos: i64) -> NanoUsd {
        NanoUsd::from_nanos(nanos)
    }

    fn budget(day: i64, month: i64, total: i64) -> Budget {
        Budget { per_day: Some(nanos(day)), per_month: Some(nanos(month)), total: Some(nanos(total)) }
    }

    fn take(purse: &mut Purse, budget: &Budget, bound: i64, now: Instant) -> Result<Ticket, Exhausted> {
        let calendar = calendar();
        purse.check(budget, nanos(bound), &calendar, now)?;
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

    #[test]
    fn a_grant_bounds_what_an_instance_spends_of_a_shared_budget() {
        let (mut purse, budget, calendar) = (Purse::default(), budget(100, 1_000, 1_000), calendar());
        let grant = |purse: &mut Purse, slice: i64, elsewhere: i64| {
            purse.grant(PeriodKind::Day, 0, nanos(slice), nanos(elsewhere), &calendar, Instant::START);
        };
        grant(&mut purse, 10, 30);
        let ticket = take(&mut purse, &budget, 10, Instant::START).unwrap();
        let refused = take(&mut purse, &budget, 25, Instant::START).unwrap_err();
        assert_eq!((refused.to_grant, refused.left), (Some(nanos(25)), nanos(60)));
        assert_eq!(take(&mut purse, &budget, 61, Instant::START).unwrap_err().to_grant, None);
        grant(&mut purse, 25, 30);
        purse.settle(&ticket, nanos(4), &budget);
        assert_eq!(purse.give_back(PeriodKind::Day), nanos(31));
        assert!(take(&mut purse, &budget, 1, Instant::START).is_err());
        // Nothing of the next day is granted yet.
        assert_eq!(take(&mut purse, &budget, 1, Instant::START + DAY).unwrap_err().to_grant, Some(nanos(1)));
        assert_eq!(purse.give_back(PeriodKind::Month), NanoUsd::ZERO);
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
