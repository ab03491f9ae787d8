//! Who may be considered for an attempt now, and the reason each other one may not: the same stage for every strategy.

use berry_core::operation::Dialect;
use berry_core::policy::tags_allow;
use berry_core::time::Instant;

use crate::endpoint::Endpoint;

/// Why an endpoint is left out. Ordered from the lasting to the passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// It, its provider or its model is switched off.
    Disabled,
    /// It is not at the provider that the client forced.
    OtherProvider,
    /// It speaks another dialect than the request.
    Dialect,
    /// The user shares no tag with it.
    Tags,
    /// It was already tried for this request.
    Tried,
}

impl Exclusion {
    /// The reason in a few words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::OtherProvider => "another provider was forced",
            Self::Dialect => "speaks another protocol",
            Self::Tags => "no common tag",
            Self::Tried => "already tried",
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
    /// The only provider that will do.
    pub provider: Option<&'a str>,
    /// Positions that were tried before.
    pub tried: &'a [usize],
}

/// Whether the endpoint at `position` may take the request.
///
/// # Errors
/// The first reason against it.
pub fn check(endpoint: &Endpoint, position: usize, demand: &Demand<'_>) -> Result<(), Exclusion> {
    let backend = endpoint.backend();
    if !backend.enabled {
        return Err(Exclusion::Disabled);
    }
    if demand
        .provider
        .is_some_and(|provider| provider != backend.provider.id.as_str())
    {
        return Err(Exclusion::OtherProvider);
    }
    if backend.provider.upstream.dialect() != demand.dialect {
        return Err(Exclusion::Dialect);
    }
    if !tags_allow(demand.tags, &backend.tags) {
        return Err(Exclusion::Tags);
    }
    if demand.tried.contains(&position) {
        return Err(Exclusion::Tried);
    }
    Ok(())
}
