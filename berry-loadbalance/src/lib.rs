//! Decides where a request goes. No network, no clock, no global random source: `now` and `rng` are arguments.
//!
//! A [`pool::Pool`] holds the live [`endpoint::Endpoint`]s of one model. For each attempt [`eligibility`] says which of them may
//! be considered and why the others may not, a [`picker`] chooses, and the choice is handed out as a [`lease::Lease`] that
//! reports how it went exactly once. [`selector::RouteSelector`] is the face of all this to the rest of the program.

pub mod eligibility;
pub mod endpoint;
pub mod lease;
pub mod outcome;
pub mod picker;
pub mod pool;
pub mod selector;
