//! The limits of a meter that several instances share: requests and tokens over windows, and places for requests at the same time.

use std::time::Duration;

use super::meter::{Denied, LimitKind, Reason, Standing, fitting, request_limits, token_limits};
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
    /// Tokens over windows.
    Tokens,
    /// Requests at the same time.
    Places,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Requests, Self::Tokens, Self::Places];
}

/// The shares of one meter.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    requests: Share,
    tokens: Share,
    places: Share,
}

/// What a request holds of what instances share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    tokens: u64,
    /// Whether it has one of the places: a reload may have limited those since, or may while it runs.
    place: bool,
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
    pub(super) fn check(
        &mut self,
        limits: &RateLimit,
        tokens: u64,
        sharing: &Sharing,
        now: Instant,
    ) -> Result<RateLimit, Denied> {
        self.set_windows(limits);
        let fitting = self.fitting(tokens);
        let verdicts = [
            verdict(&mut self.requests, 1, sharing, now),
            verdict(&mut self.tokens, fitting, sharing, now),
            verdict(&mut self.places, 1, sharing, now),
        ];
        let refusals = verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Refused(denied) => Some(*denied),
            Verdict::Lent | Verdict::Divided => None,
        });
        // Asking comes first: what is not known may hold longer.
        if let Some(denied) = refusals.max_by_key(|denied| (denied.reason == Reason::Unasked, denied.passes_at)) {
            return Err(denied);
        }
        let instances = sharing.instances.max(1);
        let divided = verdicts.map(|verdict| matches!(verdict, Verdict::Divided));
        let divide = |limit: u64| (limit / u64::from(instances)).max(1);
        let [requests, of_tokens, places] = divided;
        Ok(RateLimit {
            requests_per_minute: limits.requests_per_minute.filter(|_| requests).map(divide),
            requests_per_hour: limits.requests_per_hour.filter(|_| requests).map(divide),
            requests_per_day: limits.requests_per_day.filter(|_| requests).map(divide),
            tokens_per_minute: limits.tokens_per_minute.filter(|_| of_tokens).map(divide),
            tokens_per_day: limits.tokens_per_day.filter(|_| of_tokens).map(divide),
            max_concurrent: limits.max_concurrent.filter(|_| places).map(|max| (max / instances).max(1)),
        })
    }

    fn set_windows(&mut self, limits: &RateLimit) {
        let requests = request_limits(limits).into_iter().filter_map(|(limit, kind, span)| {
            let width = if limit? <= EXACT_MAX { Duration::from_millis(1) } else { span / 16 };
            Some(SharedWindow { name: kind.key(), span, width, limit: limit? })
        });
        self.requests.set_windows(requests);
        let tokens = token_limits(limits).into_iter().filter_map(|(limit, kind, span)| {
            Some(SharedWindow { name: kind.key(), span, width: span / 16, limit: limit? })
        });
        self.tokens.set_windows(tokens);
        let places = limits.max_concurrent.into_iter().map(|limit| SharedWindow {
            name: LimitKind::MaxConcurrent.key(),
            span: Duration::ZERO,
            width: Duration::ZERO,
            limit: u64::from(limit),
        });
        self.places.set_windows(places);
    }

    /// What a request that may use `tokens` has to fit in with.
    fn fitting(&self, tokens: u64) -> u64 {
        let limits = self.tokens.windows().iter().map(|window| window.limit);
        limits.map(|limit| fitting(tokens, limit)).min().unwrap_or(0)
    }

    /// Counts a request that passed.
    pub(super) fn begin(&mut self, tokens: u64, now: Instant) -> Taken {
        if !self.requests.windows().is_empty() {
            self.requests.take(1, now);
        }
        let place = !self.places.windows().is_empty();
        if place {
            self.places.hold(1, now);
        }
        if self.tokens.windows().is_empty() {
            return Taken { tokens: 0, place };
        }
        // One that is larger than a whole limit holds what is left of it.
        let held = if self.fitting(tokens) < tokens { self.tokens.available(now) } else { tokens };
        self.tokens.hold(held, now);
        Taken { tokens: held, place }
    }

    pub(super) fn end(&mut self, taken: Taken, tokens: u64) {
        self.places.release(u64::from(taken.place), 0);
        if !self.tokens.windows().is_empty() {
            self.tokens.release(taken.tokens, tokens);
        }
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
            Part::Tokens => &mut self.tokens,
            Part::Places => &mut self.places,
        }
    }
}

fn verdict(share: &mut Share, amount: u64, sharing: &Sharing, now: Instant) -> Verdict {
    let kind = |place: usize| share.windows().get(place).and_then(|window| LimitKind::of_key(window.name));
    let Some(first) = kind(0) else { return Verdict::Lent };
    let denied = |limit, passes_at, reason| Verdict::Refused(Denied { limit, passes_at, reason });
    let spent = |window, until| {
        let limit = kind(window).unwrap_or(first);
        let passes_at = Some(until).filter(|_| limit != LimitKind::MaxConcurrent);
        denied(limit, passes_at, Reason::Spent)
    };
    match share.word(amount, now) {
        Word::Yes => Verdict::Lent,
        Word::No { window, until } => spent(window, until),
        Word::Unknown if sharing.may_ask => {
            share.want(amount);
            denied(first, None, Reason::Unasked)
        }
        Word::Unknown => match sharing.on_failure {
            ClusterFallback::Local => match share.refused_until(amount, now) {
                Some((window, until)) => spent(window, until),
                None => Verdict::Divided,
            },
            ClusterFallback::Open => Verdict::Lent,
            ClusterFallback::Closed => denied(first, None, Reason::Away),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::share::{Free, Lent};
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
        answer(&mut meter, Lent { lease: 3, left: 27, ..Lent::default() }, Instant::START);
        assert_eq!(meter.standing(&LIMITS, Instant::START).unwrap().remaining, 30);
        assert_eq!(passing(&mut meter, &asking, Instant::START).0, 3);
        let frees = vec![Free { window: 1, after: Duration::from_secs(50), room: 4 }];
        answer(&mut meter, Lent { window: 1, frees, ..Lent::default() }, Instant::START);
        let passes_at = Some(Instant::START + Duration::from_secs(50));
        let denied = Denied { limit: LimitKind::RequestsPerHour, passes_at, reason: Reason::Spent };
        assert_eq!(passing(&mut meter, &asking, Instant::START), (0, Some(denied)));
        // Nobody answers: what the store said last counts until the moment that it named, then this instance's own counts.
        let alone = sharing(false, ClusterFallback::Local);
        let before = Instant::START + Duration::from_secs(49);
        assert_eq!(passing(&mut meter, &alone, before), (0, Some(denied)));
        assert_eq!(
            passing(&mut meter, &alone, Instant::START + Duration::from_secs(50)).0,
            7,
            "ten, of which 3 were used"
        );
    }

    #[test]
    fn the_store_is_told_each_window_with_its_length_its_resolution_and_its_limit() {
        let limits = RateLimit {
            requests_per_minute: Some(64),
            requests_per_hour: Some(65),
            tokens_per_day: Some(16),
            max_concurrent: Some(3),
            ..RateLimit::default()
        };
        let (mut shared, ms) = (Shared::default(), Duration::from_millis(1));
        shared.set_windows(&limits);
        let told = Part::ALL.map(|part| {
            shared.part(part).windows().iter().map(|w| (w.name, w.span, w.width, w.limit)).collect::<Vec<_>>()
        });
        let seconds = Duration::from_secs;
        let requests =
            vec![("requests_per_minute", seconds(60), ms, 64), ("requests_per_hour", seconds(3_600), seconds(225), 65)];
        let tokens = vec![("tokens_per_day", seconds(86_400), seconds(5_400), 16)];
        assert_eq!(told, [requests, tokens, vec![("max_concurrent", Duration::ZERO, Duration::ZERO, 3)]]);
    }

    #[test]
    fn without_the_store_each_limit_is_divided_by_the_instances_and_lets_something_through() {
        let alone = sharing(false, ClusterFallback::Local);
        let limits = |requests, tokens, places| RateLimit {
            requests_per_minute: requests,
            requests_per_hour: requests,
            requests_per_day: requests,
            tokens_per_minute: tokens,
            tokens_per_day: tokens,
            max_concurrent: places,
        };
        let divided = |limits| Shared::default().check(&limits, 0, &alone, Instant::START);
        let full = limits(Some(30), Some(600), Some(9));
        assert_eq!(divided(full), Ok(limits(Some(10), Some(200), Some(3))));
        assert_eq!(divided(limits(Some(2), Some(1), Some(1))), Ok(limits(Some(1), Some(1), Some(1))));
        let one = Sharing { instances: 1, ..alone };
        assert_eq!(Shared::default().check(&full, 0, &one, Instant::START), Ok(full));
        // What is lent needs no division, whatever becomes of the rest.
        for (part, expected) in [
            (Part::Requests, limits(None, Some(200), Some(3))),
            (Part::Tokens, limits(Some(10), None, Some(3))),
            (Part::Places, limits(Some(10), Some(200), None)),
        ] {
            let mut shared = Shared::default();
            shared.part(part).want(1);
            let ask = shared.part(part).ask(Instant::START).unwrap();
            shared.part(part).answered(&ask, &Lent { lease: 1, ..Lent::default() }, 1, Instant::START);
            assert_eq!(shared.check(&full, 1, &alone, Instant::START), Ok(expected), "{part:?}");
        }
    }

    #[test]
    fn a_request_larger_than_one_of_two_limits_on_tokens_needs_no_more_than_that_has() {
        let limits = RateLimit { tokens_per_minute: Some(10), tokens_per_day: Some(100), ..RateLimit::default() };
        let (mut meter, asking) = (Meter::default(), sharing(true, ClusterFallback::Local));
        meter.check(&limits, 50, Some(&asking), Instant::START).unwrap_err();
        let share = meter.shared().unwrap().part(Part::Tokens);
        let ask = share.ask(Instant::START).unwrap();
        assert_eq!(ask.need, 1);
        share.answered(&ask, &Lent { lease: 1, ..Lent::default() }, 1, Instant::START);
        meter.check(&limits, 50, Some(&asking), Instant::START).unwrap();
    }

    #[test]
    fn of_what_is_not_limited_the_store_hears_nothing() {
        let limits = [
            LIMITS,
            RateLimit { tokens_per_minute: Some(9), ..RateLimit::default() },
            RateLimit { max_concurrent: Some(9), ..RateLimit::default() },
        ];
        for (limits, limited) in limits.into_iter().zip(Part::ALL) {
            let mut meter = Meter::default();
            meter.check(&limits, 5, Some(&sharing(false, ClusterFallback::Open)), Instant::START).unwrap();
            let begun = meter.begin(&limits, 5, Instant::START);
            let speaking = |meter: &mut Meter| {
                Part::ALL.map(|part| meter.shared().unwrap().part(part).next_ask().is_some()).to_vec()
            };
            let expected = Part::ALL.map(|part| part == limited).to_vec();
            assert_eq!(speaking(&mut meter), expected);
            meter.end(&begun, 5, Instant::START);
            assert_eq!(speaking(&mut meter), expected);
        }
    }

    #[test]
    fn nobody_knows_when_a_place_is_free_and_a_standing_is_what_the_store_said() {
        let limits = RateLimit { max_concurrent: Some(1), ..LIMITS };
        let (mut meter, asking, now) = (Meter::default(), sharing(true, ClusterFallback::Local), Instant::START);
        meter.check(&limits, 0, Some(&asking), now).unwrap_err();
        let frees = |after, room| vec![Free { window: 0, after: Duration::from_secs(after), room }];
        answer(&mut meter, Lent { lease: 1, left: 40, ..Lent::default() }, now);
        let standing = meter.standing(&limits, now).unwrap();
        assert_eq!((standing.limit, standing.remaining, standing.resets_at), (30, 30, now), "no more than the limit");
        let share = meter.shared().unwrap().part(Part::Places);
        let ask = share.ask(now).unwrap();
        share.answered(&ask, &Lent { frees: frees(5, 1), ..Lent::default() }, 1, now);
        let denied = Denied { limit: LimitKind::MaxConcurrent, passes_at: None, reason: Reason::Spent };
        assert_eq!(meter.check(&limits, 0, Some(&asking), now), Err(denied));
        meter.begin(&limits, 0, now);
        meter.check(&limits, 0, Some(&asking), now).unwrap_err();
        let soon = [frees(7, 1), frees(20, 2)].concat();
        answer(&mut meter, Lent { window: 1, frees: soon, ..Lent::default() }, now);
        let standing = meter.standing(&limits, now).unwrap();
        assert_eq!((standing.limit, standing.remaining), (1_000, 0), "of the window with least left");
        assert_eq!(standing.resets_at, now + Duration::from_secs(7));
    }

    #[test]
    fn what_was_used_under_a_lease_counts_against_the_local_share() {
        let (mut meter, asking) = (Meter::default(), sharing(true, ClusterFallback::Local));
        passing(&mut meter, &asking, Instant::START);
        answer(&mut meter, Lent { lease: 4, left: 26, ..Lent::default() }, Instant::START);
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
        share.answered(&ask, &Lent { lease: 1, left: 8, ..Lent::default() }, 3, now);
        meter.check(&limits, 0, Some(&asking), now).unwrap();
        let begun = meter.begin(&limits, 0, now);
        assert_eq!(meter.check(&limits, 0, Some(&asking), now).map_err(|denied| denied.reason), Err(Reason::Unasked));
        meter.end(&begun, 0, now);
        meter.check(&limits, 0, Some(&asking), now).unwrap();
    }

    #[test]
    fn a_request_from_before_places_were_limited_gives_back_nobody_elses() {
        let before = RateLimit { requests_per_minute: Some(9), ..RateLimit::default() };
        let limits = RateLimit { max_concurrent: Some(1), ..before };
        let (mut meter, asking, now) = (Meter::default(), sharing(true, ClusterFallback::Local), Instant::START);
        let lend = |meter: &mut Meter, part, lease| {
            let share = meter.shared().unwrap().part(part);
            let ask = share.ask(now).unwrap();
            share.answered(&ask, &Lent { lease, ..Lent::default() }, 3, now);
        };
        meter.check(&before, 0, Some(&asking), now).unwrap_err();
        lend(&mut meter, Part::Requests, 9);
        meter.check(&before, 0, Some(&asking), now).unwrap();
        let old = meter.begin(&before, 0, now);
        meter.check(&limits, 0, Some(&asking), now).unwrap_err();
        lend(&mut meter, Part::Places, 1);
        meter.check(&limits, 0, Some(&asking), now).unwrap();
        meter.begin(&limits, 0, now);
        meter.end(&old, 0, now);
        assert_eq!(meter.shared().unwrap().part(Part::Places).available(now), 0);
        assert!(meter.check(&limits, 0, Some(&asking), now).is_err(), "the one place is taken");
    }

    #[test]
    fn a_request_from_before_tokens_were_limited_gives_back_nobody_elses_and_what_it_used_counts() {
        let before = RateLimit { requests_per_minute: Some(9), ..RateLimit::default() };
        let limits = RateLimit { tokens_per_minute: Some(100), ..before };
        let (mut meter, open, now) = (Meter::default(), sharing(false, ClusterFallback::Open), Instant::START);
        let begin = |meter: &mut Meter, limits, tokens| {
            meter.check(limits, tokens, Some(&open), now).unwrap();
            meter.begin(limits, tokens, now)
        };
        let old = begin(&mut meter, &before, 50);
        begin(&mut meter, &limits, 20);
        meter.end(&old, 7, now);
        let ask = meter.shared().unwrap().part(Part::Tokens).ask(now).unwrap();
        assert_eq!((ask.held, ask.used), (20, 7));
    }

    #[test]
    fn tokens_are_held_until_a_request_ends_and_one_larger_than_the_limit_takes_what_is_left() {
        let limits = RateLimit { tokens_per_minute: Some(1_000), ..RateLimit::default() };
        let (mut meter, asking) = (Meter::default(), sharing(true, ClusterFallback::Local));
        let now = Instant::START;
        meter.check(&limits, 600, Some(&asking), now).unwrap_err();
        let share = meter.shared().unwrap().part(Part::Tokens);
        let ask = share.ask(now).unwrap();
        assert_eq!((ask.want, ask.need), (600, 600));
        share.answered(&ask, &Lent { lease: 700, left: 300, ..Lent::default() }, 33, now);
        meter.check(&limits, 600, Some(&asking), now).unwrap();
        let begun = meter.begin(&limits, 600, now);
        assert_eq!(meter.check(&limits, 101, Some(&asking), now).map_err(|denied| denied.reason), Err(Reason::Unasked));
        meter.check(&limits, 5_000, Some(&asking), now).unwrap();
        let large = meter.begin(&limits, 5_000, now);
        assert_eq!(meter.shared().unwrap().part(Part::Tokens).available(now), 0);
        meter.end(&begun, 50, now);
        meter.end(&large, 0, now);
        assert_eq!(meter.shared().unwrap().part(Part::Tokens).available(now), 650);
    }

    #[test]
    fn of_several_parts_the_one_that_holds_longest_is_told_and_what_is_not_known_comes_first() {
        let limits = RateLimit { requests_per_minute: Some(9), tokens_per_minute: Some(900), ..RateLimit::default() };
        let (mut meter, asking, now) = (Meter::default(), sharing(true, ClusterFallback::Local), Instant::START);
        let second = Duration::from_secs(1);
        let refuse = |meter: &mut Meter, part, seconds, room| {
            meter.check(&limits, 10, Some(&asking), now).unwrap_err();
            let share = meter.shared().unwrap().part(part);
            let ask = share.ask(now).unwrap();
            let frees = vec![Free { window: 0, after: seconds * second, room }];
            share.answered(&ask, &Lent { frees, ..Lent::default() }, 1, now);
            meter.check(&limits, 10, Some(&asking), now).unwrap_err()
        };
        assert_eq!(refuse(&mut meter, Part::Tokens, 40, 10).reason, Reason::Unasked, "requests may hold longer");
        let denied = refuse(&mut meter, Part::Requests, 20, 1);
        assert_eq!((denied.limit, denied.passes_at), (LimitKind::TokensPerMinute, Some(now + 40 * second)));
    }

    #[test]
    fn a_lease_that_does_not_reach_is_a_refusal() {
        let limits = RateLimit { tokens_per_minute: Some(1_000), ..RateLimit::default() };
        let (mut meter, asking) = (Meter::default(), sharing(true, ClusterFallback::Local));
        meter.check(&limits, 600, Some(&asking), Instant::START).unwrap_err();
        let share = meter.shared().unwrap().part(Part::Tokens);
        let ask = share.ask(Instant::START).unwrap();
        let frees = vec![Free { window: 0, after: Duration::from_secs(20), room: 600 }];
        share.answered(&ask, &Lent { lease: 400, frees, ..Lent::default() }, 33, Instant::START);
        let denied = meter.check(&limits, 600, Some(&asking), Instant::START).unwrap_err();
        assert_eq!(denied.passes_at, Some(Instant::START + Duration::from_secs(20)));
        meter.check(&limits, 400, Some(&asking), Instant::START).unwrap();
    }
}
