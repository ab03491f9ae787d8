//! Decides where a request goes. No network, no clock, no global random source: `now` and `rng` are arguments.
//!
//! A [`pool::Pool`] holds the live [`endpoint::Endpoint`]s of one model. For each attempt [`eligibility`] says which of them may
//! be considered and why the others may not, a [`picker`] chooses, and the choice is handed out as a [`lease::Lease`] that
//! reports how it went exactly once. [`selector::RouteSelector`] is the face of all this to the rest of the program.
//!
//! Three different things keep traffic away from an endpoint: an open circuit ([`breaker`]: it fails), an ejection ([`outlier`]:
//! it fails too often), a pause ([`cooldown`]: it asked for one). [`probe`] says when to look after it.
//! [`course`] says what may follow when an attempt failed, [`queue`] who is next at a pool that is full.

pub mod affinity;
pub mod breaker;
pub mod chance;
mod confidence;
pub mod cooldown;
mod cost;
pub mod course;
pub mod eligibility;
pub mod endpoint;
pub mod explain;
pub mod figures;
pub mod lease;
#[cfg(test)]
mod model_tests;
pub mod outcome;
pub mod outlier;
pub mod picker;
pub mod pool;
pub mod probe;
pub mod queue;
mod rate;
mod reconcile;
pub mod report;
pub mod retry_budget;
pub mod rules;
pub mod selector;
pub mod signal;
mod slots;
#[cfg(test)]
mod testing;
mod word;
