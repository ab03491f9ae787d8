//! The ledger through its public face.

#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of functions that clippy knows as tests")]

mod suite;
mod support;

mod crashes;
mod journal;
mod operations;
