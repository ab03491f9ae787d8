//! Rules and data of Berry API: names, money, usage, errors, limits, client keys and the configuration.
//!
//! Nothing here touches the network, a clock or an async runtime. What depends on time takes [`time::Instant`] as an
//! argument; what depends on chance takes a random source. The other crates build on this one and never the other way round.

pub mod auth;
pub mod config;
pub mod end_user;
pub mod error;
pub mod id;
pub mod lanes;
pub mod money;
pub mod operation;
pub mod policy;
pub mod price_book;
pub mod quota;
pub mod secret;
pub mod tariff;
pub mod time;
pub mod usage;
