//! Limits on requests, tokens and money.

use crate::id::ModelName;
use crate::money::NanoUsd;

/// Limits over sliding windows; what is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Requests in any minute.
    pub requests_per_minute: Option<u64>,
    /// Requests in any hour.
    pub requests_per_hour: Option<u64>,
    /// Requests in any day.
    pub requests_per_day: Option<u64>,
    /// Input and output tokens in any minute.
    pub tokens_per_minute: Option<u64>,
    /// Input and output tokens in any day.
    pub tokens_per_day: Option<u64>,
    /// Requests at the same time.
    pub max_concurrent: Option<u32>,
}

/// Limits on money; what is absent is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// For a calendar day.
    pub per_day: Option<NanoUsd>,
    /// For a calendar month.
    pub per_month: Option<NanoUsd>,
    /// For ever.
    pub total: Option<NanoUsd>,
}

/// All limits of one user. Most users have none, or the same as many others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UserLimits {
    /// Over all models.
    pub rate: RateLimit,
    /// For single models.
    pub by_model: Vec<(ModelName, RateLimit)>,
    /// On money.
    pub budget: Budget,
}

/// What one backend takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendLimits {
    /// Tokens that fit in, input and output together.
    pub context_window: Option<u64>,
    /// Requests at the same time.
    pub max_concurrent: Option<u32>,
    /// Requests in any minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens in any minute.
    pub tokens_per_minute: Option<u64>,
}

/// Where days and months begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BudgetZone {
    /// UTC.
    #[default]
    Utc,
    /// A fixed offset east of UTC, minutes.
    Offset(i16),
    /// A name of the time zone database.
    Named(Box<str>),
}
