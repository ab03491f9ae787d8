//! Sends requests upstream and brings answers back. The only crate that reads vendors' JSON.
//!
//! [`forward::Relay`] is the way in; [`answer::Answer`] the way out. Between them stand one attempt (`attempt`), the edits
//! of bodies ([`body`], [`envelope`]), the framing of streams ([`sse`]) and what is learnt on the way ([`meter`], [`exchange`]).

pub mod alarm;
pub mod answer;
mod attempt;
pub mod body;
pub mod bound;
pub mod buffer;
pub mod client;
pub mod clock;
pub mod conversation;
pub mod decode;
pub mod dialect;
pub mod disposition;
pub mod envelope;
pub mod error;
pub mod exchange;
pub mod forward;
mod headers;
pub mod json;
pub mod meter;
pub mod multipart;
pub mod objects;
pub mod params;
mod pool;
mod prepare;
pub mod probe;
mod repair;
mod retry_after;
pub mod sse;
mod stream;
mod target;
pub mod trace;
pub mod upstream_body;
pub mod values;
