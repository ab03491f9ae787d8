//! What a user may still do: sliding windows, places for requests at the same time, and budgets.
//!
//! State machines without a clock: whoever holds them passes `now`. Windows have no lock either, so their calls must be
//! serialised; budgets, which requests of several users share, have one each.

mod account;
mod budget;
mod calendar;
mod meter;
pub mod share;
mod shared;
mod window;

pub use account::{Account, Alert, Guarded, Holder, Refusal, Reservation};
pub use budget::{Balance, Exhausted, Purse, Reached, THRESHOLDS, Ticket};
pub use calendar::{Calendar, Period, PeriodKind};
pub use meter::{Begun, Denied, LimitKind, Meter, Reason, Standing, Used};
pub use shared::{Part, Shared, Sharing};
pub use window::{AmountWindow, RequestWindow};
