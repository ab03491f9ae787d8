//! Calendar days and months, as moments of the process's own clock.
//!
//! A period is found anew only when the one before it is over, so a request pays for two comparisons of integers. The wall clock
//! is read once, at the start: a jump of it moves no period.

use std::time::SystemTime;

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan as _, Zoned};

use crate::config::snapshot::BudgetZone;
use crate::time::Instant;

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
    /// The first moment after it; `None` = never.
    pub ends: Option<Instant>,
}

impl Period {
    /// All time.
    pub const EVER: Self = Self { starts: i64::MIN, ends: None };

    /// Whether it is over.
    pub fn is_over(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

/// Where days and months begin.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    /// The wall clock when the process's own was zero.
    start: Timestamp,
}

impl Calendar {
    /// A calendar of `zone` for a process whose clock was zero at `start`.
    pub fn new(zone: &BudgetZone, start: SystemTime) -> Self {
        Self { zone: zone.time_zone(), start: Timestamp::try_from(start).unwrap_or(Timestamp::UNIX_EPOCH) }
    }

    /// The period that `now` is in. Beyond the year 9999 it never ends.
    pub fn period(&self, kind: PeriodKind, now: Instant) -> Period {
        self.find(kind, now).unwrap_or(Period::EVER)
    }

    fn find(&self, kind: PeriodKind, now: Instant) -> Option<Period> {
        let today = self.start.checked_add(now.since(Instant::START)).ok()?.to_zoned(self.zone.clone());
        let (first, next) = match kind {
            PeriodKind::Total => return None,
            PeriodKind::Day => (today.clone(), today.checked_add(1.day()).ok()?),
            PeriodKind::Month => {
                let first = today.first_of_month().ok()?;
                let next = first.checked_add(1.month()).ok()?;
                (first, next)
            }
        };
        Some(Period { starts: midnight(&first)?.as_second(), ends: Some(self.moment(midnight(&next)?)) })
    }

    /// A moment of the wall clock, by the process's own; its zero for what was before that.
    fn moment(&self, at: Timestamp) -> Instant {
        let after = at.as_nanosecond().saturating_sub(self.start.as_nanosecond()).max(0);
        Instant::from_nanos(u64::try_from(after).unwrap_or(u64::MAX))
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
    use std::time::Duration;

    use super::*;

    fn calendar(zone: &BudgetZone, start: &str) -> Calendar {
        Calendar::new(zone, start.parse::<Timestamp>().unwrap().into())
    }

    fn after(hours: u64) -> Instant {
        Instant::START + Duration::from_secs(hours * 3600)
    }

    #[test]
    fn days_and_months_end_at_midnight_of_the_zone() {
        let zones = [
            (BudgetZone::Utc, 2, 26),
            (BudgetZone::Offset(480), 18, 18),
            (BudgetZone::Named("America/New_York".into()), 6, 30),
        ];
        for (zone, day, month) in zones {
            let calendar = calendar(&zone, "2026-03-30T22:00:00Z");
            assert_eq!(calendar.period(PeriodKind::Day, Instant::START).ends, Some(after(day)), "{zone:?}");
            assert_eq!(calendar.period(PeriodKind::Month, Instant::START).ends, Some(after(month)), "{zone:?}");
        }
    }

    #[test]
    fn the_day_when_clocks_change_is_shorter() {
        let calendar = calendar(&BudgetZone::Named("Europe/Berlin".into()), "2026-03-28T23:00:00Z");
        let day = calendar.period(PeriodKind::Day, Instant::START);
        assert_eq!(day.ends, Some(after(23)));
        let next = calendar.period(PeriodKind::Day, after(23));
        assert_eq!((next.starts - day.starts, next.ends), (23 * 3600, Some(after(47))));
    }

    #[test]
    fn total_never_ends_and_a_period_ends_exactly_at_its_end() {
        assert_eq!(
            calendar(&BudgetZone::Utc, "2026-01-01T00:00:00Z").period(PeriodKind::Total, after(1)),
            Period::EVER
        );
        let day = Period { starts: 0, ends: Some(after(1)) };
        assert!(!day.is_over(Instant::from_nanos(after(1).as_nanos() - 1)) && day.is_over(after(1)));
    }
}
