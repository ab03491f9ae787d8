//! What becomes of an attempt at a scripted upstream.
//!
//! Chances belong to the request, the backend and the number of the try there, and to nothing else: under every strategy the
//! same request meets the same luck at the same backend, so differences between strategies are not noise.

use std::collections::HashMap;
use std::time::Duration;

use berry_core::config::provider_data::ErrorTable;
use berry_core::config::scenario::{Behaviour, Failure, Lognormal, Scenario};
use berry_core::config::snapshot::{Backend, Timeouts};
use berry_core::id::ProviderId;
use berry_core::time::Instant;
use berry_loadbalance::outcome::FailureClass;
use berry_loadbalance::probe::{Answer, Probe};
use berry_relay::disposition;
use http::StatusCode;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// How long an error takes.
const ERROR_TIME: Duration = Duration::from_millis(40);
/// How long a probe that goes well takes.
const PROBE_TIME: Duration = Duration::from_millis(100);
/// z of the 99th percentile of the normal distribution.
const Z_99: f64 = 2.326_347_874;

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// A whole answer.
    Answer {
        /// To the first token.
        ttft: Duration,
        /// From there to the end.
        rest: Duration,
    },
    /// It breaks off after its first token.
    Broken {
        /// To the first token.
        ttft: Duration,
        /// From there to the break.
        rest: Duration,
    },
    /// An error status.
    Refused { status: StatusCode, body: &'static str, retry_after: Option<Duration> },
    /// Nothing comes.
    Lost {
        /// When that is noticed.
        after: Duration,
        /// `None` = the time of the whole request was over, which is not the backend's fault.
        class: Option<FailureClass>,
    },
}

impl Fate {
    /// When there is first news.
    pub(super) fn news_after(&self) -> Duration {
        match self {
            Self::Answer { ttft, .. } | Self::Broken { ttft, .. } => *ttft,
            Self::Refused { .. } => ERROR_TIME,
            Self::Lost { after, .. } => *after,
        }
    }
}

/// The scripted upstreams of one run.
#[derive(Debug)]
pub(super) struct Upstreams<'s> {
    scenario: &'s Scenario,
    load: HashMap<ProviderId, Load>,
}

#[derive(Debug, Default)]
struct Load {
    in_flight: u32,
    /// The minute that is counted.
    minute: u64,
    /// Requests in it.
    requests: u64,
}

/// A request at a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) now: Instant,
    /// What its chances are drawn from.
    pub(super) chances: u64,
    pub(super) output_tokens: u64,
    /// Time that the whole request has left.
    pub(super) left: Duration,
}

/// A source of chances for `what`, of a run.
pub(super) fn chances(seed: u64, what: &[u64]) -> SmallRng {
    // The odd factor spreads neighbours; the generator's own seeding scatters them.
    SmallRng::seed_from_u64(
        what.iter().fold(seed, |sum, part| (sum ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)),
    )
}

/// A draw from a lognormal distribution.
pub(super) fn lognormal(from: Lognormal, rng: &mut SmallRng) -> f64 {
    let sigma = (from.p99 / from.median).ln() / Z_99;
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    // Box and Muller; 1 − u is above 0.
    let z = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    from.median * (sigma * z).exp()
}

impl<'s> Upstreams<'s> {
    pub(super) fn new(scenario: &'s Scenario) -> Self {
        Self { scenario, load: HashMap::new() }
    }

    fn behaviour(&self, backend: &Backend, now: Instant) -> Behaviour {
        let seconds = now.since(Instant::START).as_secs_f64();
        *self.scenario.upstreams[&backend.provider.id].at(seconds)
    }

    /// Sends a request, which is under way there until [`Upstreams::leave`].
    pub(super) fn ask(&mut self, backend: &Backend, ask: Ask) -> Fate {
        let behaviour = self.behaviour(backend, ask.now);
        let load = self.load.entry(backend.provider.id.clone()).or_default();
        load.in_flight += 1;
        let second = ask.now.as_nanos() / 1_000_000_000;
        if load.minute != second / 60 {
            (load.minute, load.requests) = (second / 60, 0);
        }
        load.requests += 1;
        let mut rng = SmallRng::seed_from_u64(ask.chances);
        let failing = rng.random::<f64>() < behaviour.failure_rate;
        let ttft = lognormal(behaviour.ttft, &mut rng);
        let crowd = behaviour.capacity.map_or(1.0, |capacity| f64::from(load.in_flight) / f64::from(capacity));
        let ttft = Duration::from_secs_f64(ttft * crowd.max(1.0));
        let rest = Duration::from_secs_f64(ask.output_tokens as f64 / behaviour.tokens_per_second);
        let fate = if behaviour.requests_per_minute.is_some_and(|limit| load.requests > limit) {
            let rest_of_minute = Duration::from_secs(60 - second % 60);
            Fate::Refused { status: StatusCode::TOO_MANY_REQUESTS, body: "", retry_after: Some(rest_of_minute) }
        } else if failing {
            failed(&behaviour, ttft, rest)
        } else {
            Fate::Answer { ttft, rest }
        };
        in_time(fate, &backend.provider.timeouts, ask.left)
    }

    /// A request is over there.
    pub(super) fn leave(&mut self, backend: &Backend) {
        if let Some(load) = self.load.get_mut(&backend.provider.id) {
            load.in_flight -= 1;
        }
    }

    /// What a probe finds, and how long that takes.
    pub(super) fn probe(&self, probe: &Probe, now: Instant, rng: &mut SmallRng) -> (Answer, Duration) {
        let behaviour = self.behaviour(probe.backend(), now);
        if !behaviour.probes_fail || rng.random::<f64>() >= behaviour.failure_rate {
            return (Answer::Good, PROBE_TIME);
        }
        match failed(&behaviour, probe.timeout(), Duration::ZERO) {
            Fate::Refused { status, body, retry_after } => {
                let class = disposition::of(status, body.as_bytes(), retry_after, &ErrorTable::default()).class;
                let failed = |class| Answer::Failed { class, retry_after };
                (class.map_or(Answer::Good, failed), ERROR_TIME)
            }
            Fate::Lost { after, class } => {
                let class = class.unwrap_or(FailureClass::Timeout);
                (Answer::Failed { class, retry_after: None }, after.min(probe.timeout()))
            }
            Fate::Answer { .. } | Fate::Broken { .. } => (Answer::Good, PROBE_TIME),
        }
    }
}

/// The fate of an attempt that fails.
fn failed(behaviour: &Behaviour, ttft: Duration, rest: Duration) -> Fate {
    let refused = |status, body| Fate::Refused { status, body, retry_after: behaviour.retry_after };
    match behaviour.failure {
        Failure::ServerError => refused(StatusCode::INTERNAL_SERVER_ERROR, ""),
        // 529 is not in the registry; the disposition table reads it as it does 503.
        Failure::Overloaded => refused(StatusCode::SERVICE_UNAVAILABLE, r#"{"error":{"type":"overloaded_error"}}"#),
        Failure::RateLimit => refused(StatusCode::TOO_MANY_REQUESTS, ""),
        Failure::Quota => refused(StatusCode::TOO_MANY_REQUESTS, r#"{"error":{"code":"insufficient_quota"}}"#),
        Failure::Key => refused(StatusCode::UNAUTHORIZED, ""),
        Failure::Model => refused(StatusCode::NOT_FOUND, r#"{"error":{"code":"model_not_found"}}"#),
        Failure::Network => Fate::Lost { after: ERROR_TIME, class: Some(FailureClass::Network) },
        Failure::Timeout => Fate::Lost { after: Duration::MAX, class: Some(FailureClass::Timeout) },
        Failure::Broken => Fate::Broken { ttft, rest: rest / 2 },
    }
}

/// As far as a fate shows itself before somebody's patience ends.
fn in_time(fate: Fate, timeouts: &Timeouts, left: Duration) -> Fate {
    let patience = timeouts.first_token.map_or(timeouts.stream_headers, |first| first.min(timeouts.stream_headers));
    let after = fate.news_after();
    if after > left && left < patience {
        return Fate::Lost { after: left, class: None };
    }
    if after > patience {
        return Fate::Lost { after: patience, class: Some(FailureClass::Timeout) };
    }
    fate
}
