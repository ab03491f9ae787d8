//! What is done to requests on their way to a backend.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::Provider;
use crate::config::provider_data::Capabilities;
use crate::policy::ModelPattern;

/// Edits of request parameters. A backend's come after its model's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Set when the client did not; value as JSON text.
    pub defaults: Vec<(Box<str>, Box<str>)>,
    /// Set whatever the client said; value as JSON text.
    pub overrides: Vec<(Box<str>, Box<str>)>,
    /// Taken out.
    pub drop: Vec<Box<str>>,
    /// Headers over those of the provider.
    pub extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// Output tokens that are assumed, and asked for, when the client states no limit.
    pub max_output_tokens: Option<u64>,
}

impl Edits {
    /// What a model of a provider can do: by the provider data, except where the operator says otherwise.
    pub(crate) fn capabilities(&self, provider: &Provider, upstream: &str) -> Capabilities {
        let known = provider.data.capabilities(provider.upstream.dialect(), upstream);
        Capabilities { max_output_tokens: self.max_output_tokens.or(known.max_output_tokens), ..known }
    }
}

/// How long a stream is held back after its first content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Content tokens that are held back.
    pub tokens: u32,
    /// For at most this long.
    pub time: Duration,
}

/// What happens when a translation cannot carry a part of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossPolicy {
    /// It is declared.
    #[default]
    Warn,
    /// The request is refused.
    Reject,
}

/// Which of a provider's models are published as `provider/model`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expose {
    /// None.
    #[default]
    Nothing,
    /// All.
    All,
    /// Those that match one of these.
    Matching(Vec<ModelPattern>),
}

impl Expose {
    /// Whether a model of the provider is published.
    pub(crate) fn includes(&self, upstream: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Matching(patterns) => patterns.iter().any(|pattern| pattern.matches(upstream)),
        }
    }
}
