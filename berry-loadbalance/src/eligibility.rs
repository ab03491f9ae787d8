//! Who may be considered for an attempt now, and the reason each other one may not: the same stage for every strategy.
//!
//! Checked in this order, and the first reason is the one that is told: switched off → another provider was forced → another
//! dialect → tags → no price (where that is refused) → already tried → circuit → pauses and capacity → context window. What is left may still be held back softly:
//! a recovering endpoint is a candidate with probability 30, 50, then 100 %; an ejected one, and one whose circuit only probes
//! have opened, waits as long as anybody else is there; a circuit whose trial is due leaves the first ten seconds to the probe,
//! where one is sent.
//!
//! When nobody is left, the soft reasons give way in the order of [`Rescue`].

use std::time::Duration;

use berry_core::operation::Dialect;
use berry_core::policy::tags_allow;
use berry_core::time::Instant;

use crate::breaker::{Cause, Circuit, Phase};
use crate::chance::Chance;
use crate::cooldown::Reason;
use crate::endpoint::Endpoint;

/// How long a due trial is left to the probe, which risks nobody's request.
const PROBE_HEAD_START: Duration = Duration::from_secs(10);

/// Why an endpoint is left out. Ordered from the lasting to the passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// It, its provider or its model is switched off.
    Disabled,
    /// It is not at the provider that the client forced.
    OtherProvider,
    /// It speaks another dialect than the request.
    Dialect,
    /// The user shares no tag with it.
    Tags,
    /// Nobody states what it charges, and such backends are refused.
    Unpriced,
    /// It was already tried for this request.
    Tried,
    /// The request does not fit into its context window.
    ContextWindow,
    /// Its key was refused.
    KeyRefused,
    /// It is parked: no quota, or the model is unknown there.
    Parked,
    /// Its circuit is open, or its one trial is under way.
    CircuitOpen,
    /// It failed and asked to be left alone for a while.
    RetryLater,
    /// Its rate limit is used up.
    Cooling,
    /// It has as many requests as it may.
    Busy,
    /// It succeeds too seldom.
    Ejected,
    /// Its circuit is open, but only probes have failed.
    FailedProbes,
    /// Its trial is due and left to the probe for now.
    AwaitingProbe,
    /// It is recovering and was not drawn this time.
    Recovering,
}

impl Exclusion {
    /// The reason in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::OtherProvider => "another provider was forced",
            Self::Dialect => "speaks another protocol",
            Self::Tags => "no common tag",
            Self::Unpriced => "no price is known",
            Self::Tried => "already tried",
            Self::ContextWindow => "context window too small",
            Self::KeyRefused => "key refused",
            Self::Parked => "parked: no quota, or model unknown there",
            Self::CircuitOpen => "circuit open",
            Self::RetryLater => "failed and asked to retry later",
            Self::Cooling => "cooling down: rate limited",
            Self::Busy => "at its limit of requests",
            Self::Ejected => "ejected: succeeds too seldom",
            Self::FailedProbes => "failed its probes",
            Self::AwaitingProbe => "awaiting its probe",
            Self::Recovering => "recovering, not drawn this time",
        }
    }

    /// Whether it will not go away while this request waits.
    pub const fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::Disabled
                | Self::OtherProvider
                | Self::Dialect
                | Self::Tags
                | Self::Unpriced
                | Self::Tried
                | Self::ContextWindow
        )
    }
}

/// What is given up when nobody is left, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rescue {
    /// Recovering endpoints that were not drawn take the request all the same.
    Recovering,
    /// What only probes or its success rate speak against is chosen among as if healthy: panic.
    Panic,
    /// A trial that is due is made with this request, which is not to be retried.
    Trial,
    /// A parked endpoint lets one request through every 30 s when there is nothing else at all.
    LetThrough,
}

impl Rescue {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Recovering, Self::Panic, Self::Trial, Self::LetThrough];

    /// Whether it brings back an endpoint that was left out for this reason.
    pub const fn brings_back(self, reason: Exclusion) -> bool {
        match self {
            Self::Recovering => matches!(reason, Exclusion::Recovering),
            Self::Panic => matches!(reason, Exclusion::FailedProbes | Exclusion::Ejected),
            Self::Trial => matches!(reason, Exclusion::AwaitingProbe),
            Self::LetThrough => matches!(reason, Exclusion::Parked | Exclusion::KeyRefused),
        }
    }
}

/// What a request asks of an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The moment of the choice.
    pub now: Instant,
    /// Tags of the user.
    pub tags: &'a [String],
    /// The dialect of the request.
    pub dialect: Dialect,
    /// Other dialects that it can be translated to.
    pub translatable: &'a [Dialect],
    /// The only provider that will do.
    pub provider: Option<&'a str>,
    /// The model's name as the client wrote it, for prices that go by it.
    pub requested: &'a str,
    /// Positions that were tried before.
    pub tried: &'a [usize],
    /// What is known about the request itself.
    pub hints: Hints,
}

/// What is known about a request. All of it may be absent; what needs it then falls back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The conversation, for `sticky`; see [`crate::affinity::conversation_key`].
    pub conversation: Option<u64>,
    /// Input tokens at least: an estimate must be on the low side, since a backend with a smaller window is left out.
    pub input_tokens: Option<u64>,
    /// Output tokens that the client asks for at most.
    pub output_tokens: Option<u64>,
    /// An attempt was made before, or the request waited, so this choice earns the retry budget nothing.
    pub retried: bool,
    /// Only a context window larger than this will do: after a context-length error, the window of the backend that gave it.
    pub window_above: Option<u64>,
}

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Standing {
    /// It takes the one trial of its circuit.
    pub(crate) trial: bool,
    /// Share of its traffic that its circuit allows.
    pub(crate) share: f64,
}

/// An endpoint that may not, with the moment when that may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Place in the pool.
    pub position: usize,
    /// Why.
    pub reason: Exclusion,
    /// When it is over, where that is known.
    pub until: Option<Instant>,
}

/// A reason and when it ends.
type Held = (Exclusion, Option<Instant>);

/// Whether the endpoint at `position` may take the request. `draw_recovery` is false for a strategy that weighs recovering
/// endpoints itself.
///
/// # Errors
/// The first reason against it, and when it ends.
pub(crate) fn check(
    endpoint: &Endpoint,
    position: usize,
    demand: &Demand<'_>,
    draw_recovery: bool,
    chance: &mut Chance<'_>,
) -> Result<Standing, Held> {
    lasting(endpoint, position, demand).map_err(|reason| (reason, None))?;
    let circuit = endpoint.circuit();
    let held = match circuit.phase {
        Phase::Closed { .. } => None,
        Phase::Recovering { .. } => {
            let drawn = !draw_recovery || circuit.share() >= 1.0 || chance.unit() < circuit.share();
            (!drawn).then_some((Exclusion::Recovering, None))
        }
        Phase::Open { until, .. } => opened(endpoint, circuit, until, demand.now)?,
        Phase::HalfOpen { deadline } => opened(endpoint, circuit, deadline, demand.now)?,
    };
    room(endpoint, demand)?;
    match held.or_else(|| Some((Exclusion::Ejected, Some(endpoint.ejected_until(demand.now)?)))) {
        Some(held) => Err(held),
        None => Ok(Standing { trial: circuit.trial_due().is_some(), share: circuit.share() }),
    }
}

/// What no waiting changes.
fn lasting(endpoint: &Endpoint, position: usize, demand: &Demand<'_>) -> Result<(), Exclusion> {
    let facts = endpoint.facts();
    if !facts.enabled {
        return Err(Exclusion::Disabled);
    }
    if demand.provider.is_some_and(|provider| provider != endpoint.backend().provider.id.as_str()) {
        return Err(Exclusion::OtherProvider);
    }
    if facts.dialect != demand.dialect && !demand.translatable.contains(&facts.dialect) {
        return Err(Exclusion::Dialect);
    }
    if !facts.untagged && !tags_allow(demand.tags, &endpoint.backend().tags) {
        return Err(Exclusion::Tags);
    }
    if endpoint.rules().refuse_unpriced && !endpoint.backend().tariff_of(demand.requested).is_known() {
        return Err(Exclusion::Unpriced);
    }
    if demand.tried.contains(&position) {
        return Err(Exclusion::Tried);
    }
    Ok(())
}

/// An open circuit whose next trial is due at `due`. A soft reason comes back as a value, a hard one as an error.
fn opened(endpoint: &Endpoint, circuit: Circuit, due: Instant, now: Instant) -> Result<Option<Held>, Held> {
    let is_due = due <= now;
    match circuit.cause {
        _ if is_due && endpoint.is_probed() && now < due + PROBE_HEAD_START => {
            Ok(Some((Exclusion::AwaitingProbe, Some(due + PROBE_HEAD_START))))
        }
        _ if is_due => Ok(None),
        Cause::Probes => Ok(Some((Exclusion::FailedProbes, Some(due)))),
        Cause::Traffic => Err((Exclusion::CircuitOpen, Some(due))),
        Cause::Key => Err((Exclusion::KeyRefused, Some(due.min(endpoint.next_let_through())))),
    }
}

/// Pauses, capacity, context window.
fn room(endpoint: &Endpoint, demand: &Demand<'_>) -> Result<(), Held> {
    let facts = endpoint.facts();
    if let Some(cooling) = endpoint.cooling(demand.now) {
        return Err(match cooling.reason {
            Reason::Quota | Reason::Model => (Exclusion::Parked, Some(cooling.until.min(endpoint.next_let_through()))),
            Reason::RetryAfter => (Exclusion::RetryLater, Some(cooling.until)),
            Reason::RateLimit | Reason::Exhausted => (Exclusion::Cooling, Some(cooling.until)),
        });
    }
    if facts.max_concurrent.is_some_and(|max| endpoint.in_flight() >= max) {
        return Err((Exclusion::Busy, None));
    }
    if facts.rated
        && let Some(free_at) = endpoint.rate_limited_until(demand.now)
    {
        return Err((Exclusion::Busy, Some(free_at)));
    }
    if !fits(facts.context_window, &demand.hints) {
        return Err((Exclusion::ContextWindow, None));
    }
    Ok(())
}

fn fits(window: Option<u64>, hints: &Hints) -> bool {
    let Some(window) = window else { return true };
    let asked = hints.input_tokens.unwrap_or(0);
    asked <= window && hints.window_above.is_none_or(|above| window > above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_must_fit_into_the_window_where_both_are_known() {
        let hints = |input_tokens, window_above| Hints { input_tokens, window_above, ..Hints::default() };
        assert!(fits(None, &hints(Some(1_000_000), None)));
        assert!(fits(Some(8_000), &hints(None, None)));
        assert!(fits(Some(8_000), &hints(Some(8_000), None)));
        assert!(!fits(Some(8_000), &hints(Some(8_001), None)));
        assert!(!fits(Some(8_000), &hints(None, Some(8_000))));
        assert!(fits(Some(16_000), &hints(None, Some(8_000))));
    }

    #[test]
    fn every_soft_reason_gives_way_at_exactly_one_stage() {
        use Exclusion as E;
        let all = [
            E::Disabled,
            E::OtherProvider,
            E::Dialect,
            E::Tags,
            E::Unpriced,
            E::Tried,
            E::ContextWindow,
            E::KeyRefused,
            E::Parked,
            E::CircuitOpen,
            E::RetryLater,
            E::Cooling,
            E::Busy,
            E::Ejected,
            E::FailedProbes,
            E::AwaitingProbe,
            E::Recovering,
        ];
        for reason in all {
            let stages = Rescue::ALL.iter().filter(|stage| stage.brings_back(reason)).count();
            let hard = reason.is_lasting() || matches!(reason, E::CircuitOpen | E::RetryLater | E::Cooling | E::Busy);
            assert_eq!(stages, usize::from(!hard), "{reason:?}");
        }
    }
}
