//! What a user may still do: sliding windows and places for requests at the same time.
//!
//! State machines without a clock or a lock: whoever holds them passes `now` and serialises the calls.

mod meter;
mod window;

pub use meter::{Denied, LimitKind, Meter, Standing, Used};
pub use window::{AmountWindow, RequestWindow};
