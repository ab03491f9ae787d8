//! Calendar days and months in Unix time, which [`Epoch`] finds from the process's own clock.
//!
//! A period is found anew only when another one holds, so a request pays for some comparisons of integers.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan as _, Zoned};

use crate::config::snapshot::BudgetZone;
use crate::time::{Epoch, Instant};

const NANOS: i64 = 1_000_000_000;

/// How long an amount of a budget lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeriodKind {
    /// A calendar day.
    Day,
    /// A calendar month.
    Month,
    /// For ever.
    Total,
}

impl PeriodKind {
    /// All of them, the shortest first.
    pub const ALL: [Self; 3] = [Self::Day, Self::Month, Self::Total];

    /// Its name in answers and figures.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// The key of its limit in the configuration.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Day => "usd_per_day",
            Self::Month => "usd_per_month",
            Self::Total => "usd_total",
        }
    }
}

/// One day or month, or all time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its first second, Unix time; names the period. The smallest number for all time.
    pub starts: i64,
    /// The first second after it, Unix time; `None` = never.
    pub ends: Option<i64>,
}

impl Period {
    /// All time.
    pub const EVER: Self = Self { starts: i64::MIN, ends: None };

    /// Whether a second of Unix time is in it.
    pub fn contains(&self, second: i64) -> bool {
        self.starts <= second && self.ends.is_none_or(|ends| second < ends)
    }
}

/// Where days and months begin.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    epoch: Epoch,
}

impl Calendar {
    /// A calendar of `zone`.
    pub fn new(zone: &BudgetZone, epoch: Epoch) -> Self {
        Self { zone: zone.time_zone(), epoch }
    }

    /// The second of Unix time that `now` is in.
    pub fn second(&self, now: Instant) -> i64 {
        self.epoch.unix(now).div_euclid(NANOS)
    }

    /// When a second of Unix time begins, unless the wall clock is set until then.
    pub fn moment(&self, second: i64) -> Instant {
        self.epoch.moment(second.saturating_mul(NANOS))
    }

    /// The period that a second of Unix time is in. Beyond the year 9999 it never ends.
    pub fn period(&self, kind: PeriodKind, second: i64) -> Period {
        self.find(kind, second).unwrap_or(Period::EVER)
    }

    fn find(&self, kind: PeriodKind, second: i64) -> Option<Period> {
        let today = Timestamp::from_second(second).ok()?.to_zoned(self.zone.clone());
        let (first, next) = match kind {
            PeriodKind::Total => return None,
            PeriodKind::Day => (today.clone(), today.checked_add(1.day()).ok()?),
            PeriodKind::Month => {
                let first = today.first_of_month().ok()?;
                let next = first.checked_add(1.month()).ok()?;
                (first, next)
            }
        };
        Some(Period { starts: midnight(&first)?.as_second(), ends: Some(midnight(&next)?.as_second()) })
    }
}

/// The first moment of a day; where the clocks skip midnight, the one they skip to.
fn midnight(day: &Zoned) -> Option<Timestamp> {
    day.start_of_day().ok().map(|day| day.timestamp())
}

impl BudgetZone {
    /// Its rules. A name that the time zone database does not have counts as UTC; the configuration refuses such names.
    pub fn time_zone(&self) -> TimeZone {
        match self {
            Self::Utc => TimeZone::UTC,
            Self::Offset(minutes) => {
                Offset::from_seconds(i32::from(*minutes) * 60).map_or(TimeZone::UTC, TimeZone::fixed)
            }
            Self::Named(name) => TimeZone::get(name).unwrap_or(TimeZone::UTC),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    /// The first second and the hours from then to the ends of the day and of the month, at `hours` after `start`.
    fn found(zone: &BudgetZone, start: &str, hours: i64) -> [(i64, i64); 2] {
        let start = start.parse::<Timestamp>().unwrap().as_second();
        let calendar = Calendar::new(zone, Epoch::new(UNIX_EPOCH));
        [PeriodKind::Day, PeriodKind::Month].map(|kind| {
            let second = start + hours * 3_600;
            let period = calendar.period(kind, second);
            assert!(period.contains(second));
            (period.starts, (period.ends.unwrap() - start) / 3_600)
        })
    }

    #[test]
    fn days_and_months_end_at_midnight_of_the_zone() {
        let zones = [
            (BudgetZone::Utc, 2, 26),
            (BudgetZone::Offset(480), 18, 18),
            (BudgetZone::Named("America/New_York".into()), 6, 30),
        ];
        for (zone, day, month) in zones {
            let ends = found(&zone, "2026-03-30T22:00:00Z", 0).map(|(_, ends)| ends);
            assert_eq!(ends, [day, month], "{zone:?}");
        }
    }

    #[test]
    fn the_day_when_clocks_change_is_shorter() {
        let berlin = BudgetZone::Named("Europe/Berlin".into());
        let [day, next] = [0, 23].map(|hours| found(&berlin, "2026-03-28T23:00:00Z", hours)[0]);
        assert_eq!((day.1, next.0 - day.0, next.1), (23, 23 * 3_600, 47));
    }

    #[test]
    fn total_never_ends_and_a_period_ends_exactly_at_its_end() {
        let calendar = Calendar::new(&BudgetZone::Utc, Epoch::new(UNIX_EPOCH));
        assert_eq!(calendar.period(PeriodKind::Total, 5), Period::EVER);
        let day = calendar.period(PeriodKind::Day, 5);
        assert_eq!((day.contains(86_399), day.contains(86_400), day.contains(-1)), (true, false, false));
        let end = calendar.moment(86_400);
        assert_eq!((calendar.second(Instant::from_nanos(end.as_nanos() - 1)), calendar.second(end)), (86_399, 86_400));
    }
}
