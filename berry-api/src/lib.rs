//! The service that clients talk to: the only crate that speaks HTTP to them.
//!
//! [`app`] wires it; [`gateway`] is where a request enters; [`server`] is what is under it; [`routes`] is what is above.

pub mod admission;
pub mod app;
pub mod audit;
pub mod auth;
pub mod bodies;
pub mod budgets;
pub mod changes;
pub mod cluster;
pub mod cors;
pub mod data_dir;
pub mod decisions;
pub mod demo;
pub mod discovery;
pub mod environment;
pub mod error;
pub mod extend;
pub mod gate;
pub mod gateway;
pub mod intake;
pub mod keys;
pub mod ledger;
pub mod prober;
pub mod quotas;
pub mod reload;
pub mod reply;
pub mod request_id;
pub mod routes;
pub mod run;
pub mod server;
pub mod shutdown;
pub mod spent;
pub mod status;
pub mod telemetry;
pub mod webhook;
