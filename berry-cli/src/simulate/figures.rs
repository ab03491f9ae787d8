//! What a run comes to, and how far it stays behind the best fixed choice.
//!
//! The utility of a run, in USD: for each answered request `answer_value_usd`, less `second_cost_usd` for each second that any
//! request waited for its first token or its error, less what the answers cost. The best fixed choice is the one backend that,
//! with every request of the same run sent to it once and nothing retried, comes to the highest utility: known only in
//! hindsight. Regret is how much less a strategy comes to, as a share of what all answers would be worth; it is negative where
//! choosing beats every single backend.

use std::time::Duration;

use berry_core::config::scenario::Scenario;
use berry_core::money::NanoUsd;
use serde_json::{Value, json};

use super::engine::{Chooser, Log, run};

/// Attempts at one backend.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) backend: String,
    pub(super) attempts: usize,
    pub(super) failed: usize,
}

/// What a run comes to.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) requests: usize,
    pub(super) answered: usize,
    pub(super) attempts: usize,
    pub(super) probes: u64,
    pub(super) goodput_per_second: f64,
    /// Of answered requests; `None` without any.
    pub(super) ttft_p50: Option<Duration>,
    pub(super) ttft_p99: Option<Duration>,
    pub(super) cost: NanoUsd,
    pub(super) utility_usd: f64,
    pub(super) shares: Vec<Share>,
}

/// The best fixed choice of a scenario.
#[derive(Clone, Debug)]
pub(super) struct Best {
    pub(super) backend: String,
    pub(super) utility_usd: f64,
}

/// The names of the backends, by position.
pub(super) fn names(scenario: &Scenario) -> Vec<String> {
    scenario.model.backends.iter().map(|backend| backend.id.provider.to_string()).collect()
}

/// The smallest value that `share` of a sorted list is not above.
pub(super) fn percentile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

impl Figures {
    pub(super) fn of(scenario: &Scenario, log: &Log) -> Self {
        let mut waits: Vec<Duration> = log.requests.iter().filter(|r| r.answered).map(|r| r.wait).collect();
        waits.sort_unstable();
        let answered = waits.len();
        let cost: NanoUsd = log.requests.iter().map(|request| request.cost).sum();
        let waited: f64 = log.requests.iter().map(|request| request.wait.as_secs_f64()).sum();
        let seconds = scenario.duration.as_secs_f64() * f64::from(scenario.runs);
        let share = |(position, backend): (usize, String)| {
            let here = log.attempts.iter().filter(|attempt| attempt.position == position);
            let failed = here.clone().filter(|attempt| !attempt.good).count();
            Share { backend, attempts: here.count(), failed }
        };
        Self {
            requests: log.requests.len(),
            answered,
            attempts: log.attempts.len(),
            probes: log.probes,
            goodput_per_second: answered as f64 / seconds,
            ttft_p50: percentile(&waits, 0.5),
            ttft_p99: percentile(&waits, 0.99),
            cost,
            utility_usd: answered as f64 * scenario.answer_value_usd
                - waited * scenario.second_cost_usd
                - cost.as_nanos() as f64 / 1e9,
            shares: names(scenario).into_iter().enumerate().map(share).collect(),
        }
    }

    /// Share of the requests that were answered, percent.
    pub(super) fn answered_percent(&self) -> f64 {
        100.0 * self.answered as f64 / self.requests.max(1) as f64
    }

    pub(super) fn attempts_per_request(&self) -> f64 {
        self.attempts as f64 / self.requests.max(1) as f64
    }

    /// Percent of what all answers would be worth.
    pub(super) fn regret(&self, scenario: &Scenario, best: &Best) -> f64 {
        let worth = self.requests.max(1) as f64 * scenario.answer_value_usd;
        100.0 * (best.utility_usd - self.utility_usd) / worth
    }

    /// Share of the attempts, percent.
    pub(super) fn share_percent(&self, share: &Share) -> f64 {
        100.0 * share.attempts as f64 / self.attempts.max(1) as f64
    }

    pub(super) fn json(&self, scenario: &Scenario, strategy: &str, best: &Best) -> Value {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let share = |share: &Share| {
            json!({
                "backend": share.backend,
                "attempts": share.attempts,
                "failed": share.failed,
                "share": self.share_percent(share) / 100.0,
            })
        };
        json!({
            "strategy": strategy,
            "requests": self.requests,
            "answered": self.answered,
            "goodput_per_second": self.goodput_per_second,
            "ttft_p50_seconds": seconds(self.ttft_p50),
            "ttft_p99_seconds": seconds(self.ttft_p99),
            "cost_usd": self.cost.as_nanos() as f64 / 1e9,
            "attempts_per_request": self.attempts_per_request(),
            "probes": self.probes,
            "utility_usd": self.utility_usd,
            "regret_percent": self.regret(scenario, best),
            "backends": self.shares.iter().map(share).collect::<Vec<_>>(),
        })
    }
}

impl Best {
    /// Tries every backend in turn.
    pub(super) fn of(scenario: &Scenario, seed: u64) -> Self {
        let backends = names(scenario).into_iter().enumerate();
        let tried = backends.map(|(position, backend)| {
            let figures = Figures::of(scenario, &run(scenario, Chooser::Fixed(position), seed));
            Self { backend, utility_usd: figures.utility_usd }
        });
        let best = tried.max_by(|a, b| a.utility_usd.total_cmp(&b.utility_usd));
        best.unwrap_or(Self { backend: "none".to_owned(), utility_usd: 0.0 })
    }
}
