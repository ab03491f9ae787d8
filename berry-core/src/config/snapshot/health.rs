//! Probing, circuits and the confidence of `smart_ai`.

use std::time::Duration;

/// When and for how long backends are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Between two probes of a healthy backend.
    pub interval: Duration,
    /// Longest time of one probe.
    pub timeout: Duration,
    /// Between two probes of an unhealthy backend.
    pub recovery_interval: Duration,
}

/// When a circuit opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circuit {
    /// Consecutive failures that open it.
    pub failure_threshold: u32,
    /// How long it stays open the first time.
    pub timeout: Duration,
}

/// How a provider is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HealthCheck {
    /// By its models list; by a one-token chat where that cannot be had or does not name the model.
    #[default]
    ModelsThenChat,
    /// By its models list only.
    Models,
    /// By a one-token chat only.
    Chat,
    /// By connecting only.
    Connect,
    /// Not at all.
    Off,
}

/// `[settings.smart_ai]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmartAi {
    /// Where confidence starts and drifts back to.
    pub initial_confidence: f64,
    /// It never falls below this.
    pub min_confidence: f64,
    /// Whether it drifts back while a backend is idle.
    pub time_decay: bool,
    /// Idle time after which a per-token backend is probed without tokens.
    pub lightweight_check_interval: Duration,
    /// Share of requests that explore.
    pub exploration_ratio: f64,
    /// Weight factor of a proven backend without the tag `premium`.
    pub non_premium_stability_bonus: f64,
    /// Steps of confidence.
    pub adjustments: Adjustments,
}

/// Steps of confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adjustments {
    /// Up, for a success.
    pub success_boost: f64,
    /// Down, when the connection fails.
    pub network_error_penalty: f64,
    /// Down, when the key is refused.
    pub auth_error_penalty: f64,
    /// Down, for a 429.
    pub rate_limit_penalty: f64,
    /// Down, for a 5xx.
    pub server_error_penalty: f64,
    /// Down, when the model is unknown there.
    pub model_error_penalty: f64,
    /// Down, when it keeps silent for too long.
    pub timeout_penalty: f64,
}
