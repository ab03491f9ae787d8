//! The circuit of one endpoint.
//!
//! ```text
//!            threshold failures in a row,
//!            a refused key, failed probes
//!   CLOSED ───────────────────────────────▶ OPEN ◀───────────────┐
//!     ▲                                      │ open time is over  │ a failure: open again, longer
//!     │ two successes at each                ▼ one trial          │
//!     └──────── RECOVERING ◀───────────── HALF-OPEN ──────────────┤
//!               30 → 50 → 100 %   success    │                    │
//!                    └───────────────────────┼────────────────────┘
//!                                            └ trial given up, or silent past its deadline: another one is due
//! ```
//!
//! Open time: `base · 2^(k−1)` for the k-th opening in a row, at most 8 · base and at most 300 s (but never below base), ±10 %
//! so that instances do not try again in step. `k` starts afresh once the circuit has been closed for as long as it was last
//! open.
//!
//! The whole state is one 64-bit word, so the trial of the half-open state is given out by one compare-and-swap and exactly one
//! caller gets it. Attempts remember the *generation* (the number of openings) that they began in; what an attempt from before
//! the last opening tells is old news and is ignored.
//!
//! Times in the word are whole milliseconds since the start; 38 bits of them last for eight years.
//! Sources: Nygard, *Release It!*; linkerd's breaker for the growing open time; the stages are the house's own.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use berry_core::config::snapshot::Circuit as Settings;
use berry_core::time::Instant;

use crate::outlier::jittered;
use crate::word::{Word, update};

/// Share of its traffic that a recovering endpoint gets, by stage.
const STAGES: [f64; 3] = [0.3, 0.5, 1.0];
/// Successes that a stage takes.
const SUCCESSES_PER_STAGE: u16 = 2;
/// How many times the base an open time grows to.
const GROWTH_MAX: u32 = 8;
/// The longest open time, unless the configured one is longer.
const OPEN_MAX: Duration = Duration::from_secs(300);

/// Why a circuit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Requests failed.
    Traffic,
    /// Only probes failed.
    Probes,
    /// The key was refused.
    Key,
}

/// Where a circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Traffic flows.
    Closed {
        /// Failures in a row.
        failures: u16,
        /// Since when.
        since: Instant,
    },
    /// No traffic.
    Open {
        /// When a trial is due.
        until: Instant,
        /// Failures of requests that were let through in spite of it.
        failures: u16,
    },
    /// One trial is under way.
    HalfOpen {
        /// When it is given up and another is due.
        deadline: Instant,
    },
    /// Traffic grows back.
    Recovering {
        /// Successes so far.
        successes: u16,
    },
}

/// A circuit at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circuit {
    /// Where it stands.
    pub phase: Phase,
    /// Why it opened last.
    pub cause: Cause,
    /// Openings in a row.
    openings: u8,
    /// Openings ever, wrapping.
    generation: u8,
}

/// What an attempt remembers of the circuit that it passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    generation: u8,
    /// The deadline of the trial, when it is the trial.
    trial: Option<Instant>,
}

impl Pass {
    /// Whether it is the one trial of a half-open circuit.
    pub fn is_trial(self) -> bool {
        self.trial.is_some()
    }
}

/// What a failure does to a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Counts towards the threshold.
    Strike,
    /// Opens it at once.
    Open(Cause),
}

impl Circuit {
    /// A circuit that never opened.
    pub const NEW: Self = Self {
        phase: Phase::Closed { failures: 0, since: Instant::START },
        cause: Cause::Traffic,
        openings: 0,
        generation: 0,
    };

    /// `closed`, `open`, `half_open` or `recovering`.
    pub const fn name(&self) -> &'static str {
        match self.phase {
            Phase::Closed { .. } => "closed",
            Phase::Open { .. } => "open",
            Phase::HalfOpen { .. } => "half_open",
            Phase::Recovering { .. } => "recovering",
        }
    }

    /// Share of its traffic that the endpoint gets: 0, 0.3, 0.5 or 1.
    pub fn share(&self) -> f64 {
        match self.phase {
            Phase::Closed { .. } => 1.0,
            Phase::Open { .. } | Phase::HalfOpen { .. } => 0.0,
            Phase::Recovering { successes } => STAGES[usize::from(successes / SUCCESSES_PER_STAGE).min(2)],
        }
    }

    /// When the next trial is or was due; `None` where traffic flows.
    pub fn trial_due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open { until, .. } => Some(until),
            Phase::HalfOpen { deadline } => Some(deadline),
            Phase::Closed { .. } | Phase::Recovering { .. } => None,
        }
    }

    fn opened(self, cause: Cause, settings: &Settings, now: Instant, jitter: f64) -> Self {
        let earlier = match self.phase {
            Phase::Closed { since, .. } if now.since(since) >= open_time(settings.timeout, self.openings) => 0,
            _ => self.openings,
        };
        let openings = (earlier + 1).min(15);
        let until = now + jittered(open_time(settings.timeout, openings), jitter);
        Self { phase: Phase::Open { until, failures: 0 }, cause, openings, generation: self.generation.wrapping_add(1) }
    }

    /// After a success of an attempt that began under `pass`.
    fn succeeded(self, pass: Pass, now: Instant) -> Option<Self> {
        if pass.generation != self.generation {
            return None;
        }
        let phase = match self.phase {
            Phase::Closed { since, .. } => Phase::Closed { failures: 0, since },
            Phase::HalfOpen { .. } => Phase::Recovering { successes: 0 },
            Phase::Recovering { successes } if successes + 1 < SUCCESSES_PER_STAGE * 3 => {
                Phase::Recovering { successes: successes + 1 }
            }
            Phase::Recovering { .. } => Phase::Closed { failures: 0, since: now },
            Phase::Open { .. } => return None,
        };
        Some(Self { phase, ..self })
    }

    /// After a failure of an attempt that began under `pass`.
    fn failed(self, pass: Pass, verdict: Verdict, settings: &Settings, now: Instant, jitter: f64) -> Option<Self> {
        if pass.generation != self.generation {
            return None;
        }
        let cause = match verdict {
            Verdict::Strike => Cause::Traffic,
            Verdict::Open(cause) => cause,
        };
        let opened = |cause| Some(self.opened(cause, settings, now, jitter));
        let struck = |failures: u16| u32::from(failures) + 1 >= settings.failure_threshold.min(Self::COUNT_MAX);
        match self.phase {
            Phase::Closed { failures, since } => match verdict {
                Verdict::Strike if !struck(failures) => {
                    Some(Self { phase: Phase::Closed { failures: failures + 1, since }, ..self })
                }
                _ => opened(cause),
            },
            // A probe that fails does not turn what requests have found into its own finding.
            Phase::HalfOpen { .. } if cause == Cause::Probes => opened(self.cause),
            Phase::HalfOpen { .. } | Phase::Recovering { .. } => opened(cause),
            // Open because of probes, chosen all the same when nothing else was left, and failing: now it is known.
            Phase::Open { until, failures } if self.cause == Cause::Probes && cause != Cause::Probes => match verdict {
                Verdict::Strike if !struck(failures) => {
                    Some(Self { phase: Phase::Open { until, failures: failures + 1 }, ..self })
                }
                _ => opened(cause),
            },
            Phase::Open { .. } => None,
        }
    }

    /// The most failures that are counted: what fits into the word.
    const COUNT_MAX: u32 = 1_023;

    fn pack(self) -> u64 {
        let (phase, count, at) = match self.phase {
            Phase::Closed { failures, since } => (0, failures, since),
            Phase::Open { until, failures } => (1, failures, until),
            Phase::HalfOpen { deadline } => (2, 0, deadline),
            Phase::Recovering { successes } => (3, successes, Instant::START),
        };
        let millis = at.as_nanos().div_ceil(1_000_000).min((1 << 38) - 1);
        let count = u64::from(count).min(u64::from(Self::COUNT_MAX));
        let fields = [
            (2, phase),
            (2, self.cause as u64),
            (4, u64::from(self.openings)),
            (8, u64::from(self.generation)),
            (10, count),
            (38, millis),
        ];
        fields.iter().fold(0, |word, (bits, value)| (word << bits) | value)
    }

    fn unpack(word: u64) -> Self {
        let field = |from_low: u32, bits: u32| (word >> from_low) & ((1 << bits) - 1);
        let at = Instant::from_nanos(field(0, 38) * 1_000_000);
        let count = field(38, 10) as u16;
        Self {
            phase: match field(62, 2) {
                0 => Phase::Closed { failures: count, since: at },
                1 => Phase::Open { until: at, failures: count },
                2 => Phase::HalfOpen { deadline: at },
                _ => Phase::Recovering { successes: count },
            },
            cause: match field(60, 2) {
                0 => Cause::Traffic,
                1 => Cause::Probes,
                _ => Cause::Key,
            },
            openings: field(56, 4) as u8,
            generation: field(48, 8) as u8,
        }
    }
}

/// How long the k-th opening in a row lasts.
fn open_time(base: Duration, openings: u8) -> Duration {
    if openings == 0 {
        return Duration::ZERO;
    }
    let factor = 1_u32 << u32::from(openings - 1).min(GROWTH_MAX.ilog2());
    base.saturating_mul(factor).min(OPEN_MAX.max(base))
}

/// The shared circuit of one endpoint.
#[derive(Debug)]
pub(crate) struct Breaker<W = AtomicU64>(W);

impl<W: Word> Breaker<W> {
    pub(crate) fn new() -> Self {
        Self(W::new(Circuit::NEW.pack()))
    }

    /// As it stands.
    pub(crate) fn read(&self) -> Circuit {
        Circuit::unpack(self.0.load())
    }

    /// For an attempt that needs no trial.
    pub(crate) fn pass(&self) -> Pass {
        Pass { generation: self.read().generation, trial: None }
    }

    /// Takes the trial when one is due. It comes back by itself at `deadline`.
    pub(crate) fn take_trial(&self, now: Instant, deadline: Instant) -> Option<Pass> {
        // As the word will hold it, so that the trial can be recognised when it is given back.
        let deadline = Instant::from_nanos(deadline.as_nanos().div_ceil(1_000_000) * 1_000_000);
        update(&self.0, |word| {
            let circuit = Circuit::unpack(word);
            circuit.trial_due().filter(|due| *due <= now)?;
            let taken = Circuit { phase: Phase::HalfOpen { deadline }, ..circuit };
            let pass = Pass { generation: circuit.generation, trial: Some(deadline) };
            Some((taken.pack(), pass))
        })
    }

    /// Gives back a trial that came to no result: another one is due at once.
    pub(crate) fn return_trial(&self, pass: Pass) {
        let Some(deadline) = pass.trial else { return };
        update(&self.0, |word| {
            let circuit = Circuit::unpack(word);
            let mine = circuit.phase == Phase::HalfOpen { deadline } && circuit.generation == pass.generation;
            let due = Circuit { phase: Phase::Open { until: Instant::START, failures: 0 }, ..circuit };
            mine.then(|| (due.pack(), ()))
        });
    }

    /// Takes in a success.
    pub(crate) fn succeed(&self, pass: Pass, now: Instant) {
        self.change(|circuit| circuit.succeeded(pass, now));
    }

    /// Takes in a success of a trial before its end, once it has shown content: nothing is counted for other attempts.
    pub(crate) fn succeed_early(&self, pass: Pass, now: Instant) {
        self.change(|circuit| match circuit.phase {
            Phase::HalfOpen { .. } => circuit.succeeded(pass, now),
            _ => None,
        });
    }

    /// Takes in a failure. Whether the circuit opened.
    pub(crate) fn fail(&self, pass: Pass, verdict: Verdict, settings: &Settings, now: Instant, jitter: f64) -> bool {
        let opened = self.change(|circuit| circuit.failed(pass, verdict, settings, now, jitter));
        matches!(opened, Some((before, after)) if before.generation != after.generation)
    }

    /// A request that was let through an open circuit came back well.
    pub(crate) fn revive(&self, pass: Pass) {
        self.change(|circuit| {
            let open = matches!(circuit.phase, Phase::Open { .. }) && circuit.generation == pass.generation;
            let phase = Phase::Recovering { successes: 0 };
            open.then_some(Circuit { phase, ..circuit })
        });
    }

    /// Opens it until then, because an operator says so. What is under way meanwhile says nothing any more.
    pub(crate) fn force_open(&self, until: Instant) {
        self.change(|circuit| {
            let phase = Phase::Open { until, failures: 0 };
            Some(Circuit { phase, cause: Cause::Traffic, generation: circuit.generation.wrapping_add(1), ..circuit })
        });
    }

    /// Starts afresh, for a backend whose address or key was changed.
    pub(crate) fn reset(&self) {
        self.change(|circuit| Some(Circuit { generation: circuit.generation.wrapping_add(1), ..Circuit::NEW }));
    }

    fn change(&self, step: impl Fn(Circuit) -> Option<Circuit>) -> Option<(Circuit, Circuit)> {
        update(&self.0, |word| {
            let before = Circuit::unpack(word);
            let after = step(before)?;
            Some((after.pack(), (before, after)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTINGS: Settings = Settings { failure_threshold: 5, timeout: Duration::from_secs(60) };
    /// The jitter that changes nothing.
    const MIDDLE: f64 = 0.5;

    fn at(secs: u64) -> Instant {
        Instant::START + Duration::from_secs(secs)
    }

    fn strike(breaker: &Breaker, pass: Pass, secs: u64) -> bool {
        breaker.fail(pass, Verdict::Strike, &SETTINGS, at(secs), MIDDLE)
    }

    fn open(secs: u64) -> Breaker {
        let breaker = Breaker::<AtomicU64>::new();
        for _ in 0..5 {
            strike(&breaker, breaker.pass(), secs);
        }
        assert_eq!(breaker.read().name(), "open");
        breaker
    }

    #[test]
    fn opens_at_the_threshold_and_a_success_in_between_starts_the_count_again() {
        let breaker = Breaker::<AtomicU64>::new();
        for _ in 0..4 {
            assert!(!strike(&breaker, breaker.pass(), 1));
        }
        breaker.succeed(breaker.pass(), at(1));
        for _ in 0..4 {
            assert!(!strike(&breaker, breaker.pass(), 1));
        }
        assert!(strike(&breaker, breaker.pass(), 1));
        assert_eq!(breaker.read().trial_due(), Some(at(61)));
    }

    #[test]
    fn an_operator_opens_it_until_a_moment_and_old_attempts_do_not_close_it() {
        let breaker = Breaker::<AtomicU64>::new();
        let before = breaker.pass();
        breaker.force_open(at(300));
        breaker.succeed(before, at(2));
        assert_eq!((breaker.read().name(), breaker.read().trial_due()), ("open", Some(at(300))));
        breaker.reset();
        assert_eq!(breaker.read().name(), "closed");
    }

    #[test]
    fn a_refused_key_opens_at_once() {
        let breaker = Breaker::<AtomicU64>::new();
        assert!(breaker.fail(breaker.pass(), Verdict::Open(Cause::Key), &SETTINGS, at(1), MIDDLE));
        assert_eq!(breaker.read().cause, Cause::Key);
    }

    #[test]
    fn one_trial_at_a_time_and_a_hung_one_comes_back_at_its_deadline() {
        let breaker = open(0);
        assert_eq!(breaker.take_trial(at(59), at(69)), None);
        let hung = breaker.take_trial(at(60), at(70)).unwrap();
        assert_eq!(breaker.take_trial(at(69), at(79)), None);
        let second = breaker.take_trial(at(70), at(80)).unwrap();
        breaker.return_trial(hung);
        assert_eq!(breaker.take_trial(at(71), at(81)), None, "the second trial is still under way");
        breaker.return_trial(second);
        assert!(breaker.take_trial(at(71), at(81)).is_some());
    }

    #[test]
    fn two_successes_at_each_stage_close_it() {
        let breaker = open(0);
        let trial = breaker.take_trial(at(60), at(70)).unwrap();
        breaker.succeed(trial, at(61));
        let mut shares = Vec::new();
        while breaker.read().name() == "recovering" {
            shares.push(breaker.read().share());
            breaker.succeed(breaker.pass(), at(62));
        }
        assert_eq!(shares, [0.3, 0.3, 0.5, 0.5, 1.0, 1.0]);
        assert_eq!(breaker.read().name(), "closed");
    }

    #[test]
    fn open_time_doubles_up_to_eight_times_and_three_hundred_seconds() {
        let times = |base| (1..=6).map(|k| open_time(Duration::from_secs(base), k).as_secs()).collect::<Vec<_>>();
        assert_eq!(times(10), [10, 20, 40, 80, 80, 80]);
        assert_eq!(times(60), [60, 120, 240, 300, 300, 300]);
        assert_eq!(times(600), [600; 6]);
    }

    #[test]
    fn a_failed_trial_opens_longer_until_a_good_time_is_forgotten() {
        let breaker = open(0);
        let trial = breaker.take_trial(at(60), at(70)).unwrap();
        assert!(strike(&breaker, trial, 61));
        assert_eq!(breaker.read().trial_due(), Some(at(181)));
        let trial = breaker.take_trial(at(181), at(190)).unwrap();
        breaker.succeed(trial, at(181));
        for _ in 0..6 {
            breaker.succeed(breaker.pass(), at(182));
        }
        assert_eq!(breaker.read().name(), "closed");
        for _ in 0..5 {
            strike(&breaker, breaker.pass(), 302);
        }
        assert_eq!(breaker.read().trial_due(), Some(at(362)), "closed for 120 s, so it counts as the first time");
    }

    #[test]
    fn one_failure_while_recovering_opens_again() {
        let breaker = open(0);
        breaker.succeed(breaker.take_trial(at(60), at(70)).unwrap(), at(60));
        assert!(strike(&breaker, breaker.pass(), 61));
    }

    #[test]
    fn news_from_before_the_opening_is_ignored() {
        let breaker = Breaker::<AtomicU64>::new();
        let old = breaker.pass();
        for _ in 0..5 {
            strike(&breaker, breaker.pass(), 0);
        }
        breaker.succeed(breaker.take_trial(at(60), at(70)).unwrap(), at(60));
        assert!(!strike(&breaker, old, 61), "it began before the outage was noticed");
        breaker.succeed(old, at(61));
        assert_eq!(breaker.read().phase, Phase::Recovering { successes: 0 });
    }

    #[test]
    fn open_by_probes_turns_into_open_by_traffic_only_through_requests() {
        let breaker = Breaker::<AtomicU64>::new();
        breaker.fail(breaker.pass(), Verdict::Open(Cause::Probes), &SETTINGS, at(0), MIDDLE);
        breaker.succeed(breaker.pass(), at(1));
        assert_eq!(breaker.read().cause, Cause::Probes);
        let trial = breaker.take_trial(at(60), at(70)).unwrap();
        breaker.fail(trial, Verdict::Open(Cause::Probes), &SETTINGS, at(61), MIDDLE);
        assert_eq!(breaker.read().cause, Cause::Probes);
        for _ in 0..5 {
            strike(&breaker, breaker.pass(), 62);
        }
        assert_eq!(breaker.read().cause, Cause::Traffic);
    }

    fn circuits() -> impl Strategy<Value = Circuit> {
        let time = (0_u64..1 << 38).prop_map(|ms| Instant::from_nanos(ms * 1_000_000));
        let phase = (0..4, 0_u16..1_024, time).prop_map(|(kind, count, at)| match kind {
            0 => Phase::Closed { failures: count, since: at },
            1 => Phase::Open { until: at, failures: count },
            2 => Phase::HalfOpen { deadline: at },
            _ => Phase::Recovering { successes: count },
        });
        let cause = prop_oneof![Just(Cause::Traffic), Just(Cause::Probes), Just(Cause::Key)];
        (phase, cause, 0_u8..16, any::<u8>()).prop_map(|(phase, cause, openings, generation)| Circuit {
            phase,
            cause,
            openings,
            generation,
        })
    }

    proptest! {
        #[test]
        fn a_circuit_survives_its_word(circuit in circuits()) {
            prop_assert_eq!(Circuit::unpack(circuit.pack()), circuit);
        }

        /// Whatever happens: nobody passes before the announced instant, and somebody does exactly at it.
        #[test]
        fn a_trial_is_denied_until_the_announced_instant_and_given_at_it(
            circuit in circuits(), jitter in 0.0..1.0_f64, now_ms in 0_u64..1 << 36,
        ) {
            let now = Instant::from_nanos(now_ms * 1_000_000);
            let pass = Pass { generation: circuit.generation, trial: None };
            let Some(after) = circuit.failed(pass, Verdict::Open(Cause::Key), &SETTINGS, now, jitter) else {
                return Ok(());
            };
            let breaker = Breaker(AtomicU64::new(after.pack()));
            let due = breaker.read().trial_due().unwrap();
            prop_assert!(due >= now + Duration::from_secs(54) && due <= now + Duration::from_secs(331));
            let before = Instant::from_nanos(due.as_nanos() - 1);
            prop_assert_eq!(breaker.take_trial(before, due + Duration::from_secs(1)), None);
            prop_assert!(breaker.take_trial(due, due + Duration::from_secs(1)).is_some());
        }
    }
}
