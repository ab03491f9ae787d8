//! The limits of a meter that several instances share: requests over windows, and places for requests at the same time.

use std::time::Duration;

use super::meter::{Denied, LimitKind, Reason, Standing, request_limits};
use super::share::{Share, SharedWindow, Word};
use crate::config::snapshot::{ClusterFallback, RateLimit};
use crate::time::Instant;

/// Up to this limit the store keeps requests apart to the millisecond, else in sixteen buckets, as one instance does.
const EXACT_MAX: u64 = 64;

/// How limits are shared at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sharing {
    /// Instances that share, this one included; at least 1.
    pub instances: u32,
    /// Whether there is time to ask the store before deciding.
    pub may_ask: bool,
    /// What holds where the store's word is not to be had.
    pub on_failure: ClusterFallback,
}

/// The parts of a meter that have a [`Share`] each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Requests over windows.
    Requests,
    /// Requests at the same time.
    Places,
}

/// The shares of one meter.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    requests: Share,
    places: Share,
}

/// What a part of the limits says to a request.
enum Verdict {
    /// It is lent: nothing is left to check.
    Lent,
    /// It is to be checked against this instance's own counts, divided by the number of instances.
    Divided,
    Refused(Denied),
}

impl Shared {
    /// Asks the leases. What comes back is what is left for this instance to check by its own counts.
    ///
    /// # Errors
    /// As [`super::Meter::check`].
    pub(super) fn check(&mut self, limits: &RateLimit, sharing: &Sharing, now: Instant) -> Result<RateLimit, Denied> {
        let mut own = *limits;
        let instances = sharing.instances.max(1);
        let Self { requests, places } = self;
        let windows = request_limits(limits).into_iter().filter_map(|(limit, kind, span)| {
            let width = if limit? <= EXACT_MAX { Duration::from_millis(1) } else { span / 16 };
            Some(SharedWindow { name: kind.key(), span, width, limit: limit? })
        });
        requests.set_windows(windows);
        let place = limits.max_concurrent.map(|limit| SharedWindow {
            name: LimitKind::MaxConcurrent.key(),
            span: Duration::ZERO,
            width: Duration::ZERO,
            limit: u64::from(limit),
        });
        places.set_windows(place.into_iter());
        let of_requests = verdict(requests, sharing, now, |name| {
            request_limits(limits).into_iter().map(|(_, kind, _)| kind).find(|kind| kind.key() == name)
        });
        let of_places = verdict(places, sharing, now, |_| Some(LimitKind::MaxConcurrent));
        match (of_requests, of_places) {
            (Verdict::Refused(denied), Verdict::Refused(other)) => {
                // Asking comes first: what is not known may be the end of it.
                return Err(if other.reason == Reason::Unasked { other } else { denied });
            }
            (Verdict::Refused(denied), _) | (_, Verdict::Refused(denied)) => return Err(denied),
            (of_requests, of_places) => {
                let divide = |limit: u64| (limit / u64::from(instances)).max(1);
                let divided = matches!(of_requests, Verdict::Divided);
                for limit in [&mut own.requests_per_minute, &mut own.requests_per_hour, &mut own.requests_per_day] {
                    *limit = limit.filter(|_| divided).map(divide);
                }
                let divided = matches!(of_places, Verdict::Divided);
                own.max_concurrent = own.max_concurrent.filter(|_| divided).map(|max| (max / instances).max(1));
            }
        }
        Ok(own)
    }

    pub(super) fn begin(&mut self, limits: &RateLimit, now: Instant) {
        if !self.requests.windows().is_empty() {
            self.requests.take(1, now);
        }
        if limits.max_concurrent.is_some() {
            self.places.hold(1, now);
        }
    }

    pub(super) fn end(&mut self) {
        self.places.release(1, 0);
    }

    /// How much is left for requests of all instances; `None` before the store has told.
    pub(super) fn standing(&self, now: Instant) -> Option<Standing> {
        let (window, left) = self.requests.left(now)?;
        let limit = self.requests.windows().get(window)?.limit;
        let resets_at = match self.requests.word(1, now) {
            Word::No { until, .. } => until,
            Word::Yes | Word::Unknown => now,
        };
        Some(Standing { limit, remaining: left.min(limit), resets_at })
    }

    /// The share of a part.
    pub fn part(&mut self, part: Part) -> &mut Share {
        match part {
            Part::Requests => &mut self.requests,
            Part::Places => &mut self.places,
        }
    }
}

fn verdict(share: &mut Share, sharing: &Sharing, now: Instant, kind: impl Fn(&str) -> Option<LimitKind>) -> Verdict {
    let Some(first) = share.windows().first().and_then(|window| kind(window.name)) else {
        return Verdict::Lent;
    };
    let denied = |limit, passes_at, reason| Verdict::Refused(Denied { limit, passes_at, reason });
    match share.word(1, now) {
        Word::Yes => Verdict::Lent,
        Word::No { window, until } => {
            let limit = share.windows().get(window).and_then(|window| kind(window.name)).unwrap_or(first);
            let passes_at = Some(until).filter(|_| limit != LimitKind::MaxConcurrent);
            denied(limit, passes_at, Reason::Spent)
        }
        Word::Unknown if sharing.may_ask => {
            share.want(1);
            denied(first, None, Reason::Unasked)
        }
        Word::Unknown => match sharing.on_failure {
            ClusterFallback::Local => Verdict::Divided,
            ClusterFallback::Open => Verdict::Lent,
            ClusterFallback::Closed => denied(first, None, Reason::Away),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::share::Lent;
    use super::super::{Meter, Reason};
    use super::*;

    const LIMITS: RateLimit = RateLimit {
        requests_per_minute: Some(30),
        requests_per_hour: Some(1_000),
        requests_per_day: None,
        tokens_per_minute: None,
        tokens_per_day: None,
        max_concurrent: None,
    };

    fn sharing(may_ask: bool, on_failure: ClusterFallback) -> Sharing {
        Sharing { instances: 3, may_ask, on_failure }
    }

    /// How many pass one after the other, and why the next does not.
    fn passing(meter: &mut Meter, sharing: &Sharing, now: Instant) -> (u32, Option<Denied>) {
        let mut passed = 0;
        while passed < 100 {
            if let Err(denied) = meter.check(&LIMITS, 0, Some(sharing), now) {
                return (passed, Some(denied));
            }
            meter.begin(&LIMITS, 0, now);
            passed += 1;
        }
        (passed, None)
    }

    fn answer(meter: &mut Meter, lent: Lent, now: Instant) {
        let share = meter.shared().unwrap().part(Part::Requests);
        let ask = share.ask(now).unwrap();
        share.answered(&ask, &lent, 3, now);
    }

    #[test]
    fn without_a_lease_the_store_is_asked_and_without_its_word_the_choice_of_the_operator_holds() {
        let unasked = Denied { limit: LimitKind::RequestsPerMinute, passes_at: None, reason: Reason::Unasked };
        let asking = sharing(true, ClusterFallback::Local);
        assert_eq!(passing(&mut Meter::default(), &asking, Instant::START), (0, Some(unasked)));
        let spent = |passes_at| Denied { passes_at: Some(passes_at), reason: Reason::Spent, ..unasked };
        let minute = Instant::START + Duration::from_secs(60);
        let away = Denied { reason: Reason::Away, ..unasked };
        for (on_failure, expect) in [
            (ClusterFallback::Local, (10, Some(spent(minute)))),
            (ClusterFallback::Open, (100, None)),
            (ClusterFallback::Closed, (0, Some(away))),
        ] {
            let sharing = sharing(false, on_failure);
            assert_eq!(passing(&mut Meter::default(), &sharing, Instant::START), expect);
        }
    }

    #[test]
    fn the_lease_answers_first_and_then_what_the_store_said() {
        let (mut meter, asking) = (Meter::default(), sharing(true, ClusterFallback::Local));
        passing(&mut meter, &asking, Instant::START);
        answer(&mut meter, Lent { lease: 3, window: 0, left: 27, free_after: None }, Instant::START);
        assert_eq!(meter.standing(&LIMITS, Instant::START).unwrap().remaining, 30);
        assert_eq!(passing(&mut meter, &asking, Instant::START).0, 3);
        let free_after = Some(Duration::from_secs(50));
        answer(&mut meter, Lent { lease: 0, window: 1, left: 0, free_after }, Instant::START);
        let passes_at = Some(Instant::START + Duration::from_secs(50));
        let denied = Denied { limit: LimitKind::RequestsPerHour, passes_at, reason: Reason::Spent };
        assert_eq!(passing(&mut meter, &asking, Instant::START), (0, Some(denied)));
    }

    #[test]
    fn what_was_used_under_a_lease_counts_against_the_local_share() {
        let (mut meter, asking) = (Meter::default(), sharing(true, ClusterFallback::Local));
        passing(&mut meter, &asking, Instant::START);
        answer(&mut meter, Lent { lease: 4, window: 0, left: 26, free_after: None }, Instant::START);
        let alone = sharing(false, ClusterFallback::Local);
        assert_eq!(passing(&mut meter, &alone, Instant::START).0, 10);
    }

    #[test]
    fn places_are_held_until_requests_end() {
        let limits = RateLimit { max_concurrent: Some(9), ..RateLimit::default() };
        let (mut meter, asking) = (Meter::default(), sharing(true, ClusterFallback::Local));
        let now = Instant::START;
        meter.check(&limits, 0, Some(&asking), now).unwrap_err();
        let share = meter.shared().unwrap().part(Part::Places);
        let ask = share.ask(now).unwrap();
        share.answered(&ask, &Lent { lease: 1, window: 0, left: 8, free_after: None }, 3, now);
        meter.check(&limits, 0, Some(&asking), now).unwrap();
        let begun = meter.begin(&limits, 0, now);
        assert_eq!(meter.check(&limits, 0, Some(&asking), now).map_err(|denied| denied.reason), Err(Reason::Unasked));
        meter.end(&begun, 0, now);
        meter.check(&limits, 0, Some(&asking), now).unwrap();
    }
}
