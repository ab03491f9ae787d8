//! The service through its real router, and a few behaviours over real sockets. One binary, so that it links once.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "integration/sticky.rs"]
mod sticky;
#[path = "integration/support.rs"]
mod support;

#[path = "integration/access_log.rs"]
mod access_log;
#[path = "integration/admin.rs"]
mod admin;
#[path = "integration/auth.rs"]
mod auth;
#[path = "integration/bodies.rs"]
mod bodies;
#[path = "integration/budgets.rs"]
mod budgets;
#[path = "integration/capabilities.rs"]
mod capabilities;
#[path = "integration/changes.rs"]
mod changes;
#[path = "integration/connections.rs"]
mod connections;
#[path = "integration/cors.rs"]
mod cors;
#[path = "integration/discovery.rs"]
mod discovery;
#[path = "integration/embeddings.rs"]
mod embeddings;
#[path = "integration/errors.rs"]
mod errors;
#[path = "integration/exact.rs"]
mod exact;
#[path = "integration/extend.rs"]
mod extend;
#[path = "integration/failover.rs"]
mod failover;
#[path = "integration/faults.rs"]
mod faults;
#[path = "integration/fleet.rs"]
mod fleet;
#[path = "integration/gemini.rs"]
mod gemini;
#[path = "integration/health.rs"]
mod health;
#[path = "integration/keys.rs"]
mod keys;
#[path = "integration/layers.rs"]
mod layers;
#[path = "integration/ledger.rs"]
mod ledger;
#[path = "integration/limits.rs"]
mod limits;
#[path = "integration/log_docs.rs"]
mod log_docs;
#[cfg(feature = "observability")]
#[path = "integration/metrics.rs"]
mod metrics;
#[path = "integration/models.rs"]
mod models;
#[path = "integration/oddities.rs"]
mod oddities;
#[path = "integration/params.rs"]
mod params;
#[path = "integration/prices.rs"]
mod prices;
#[path = "integration/prober.rs"]
mod prober;
#[path = "integration/provider_data.rs"]
mod provider_data;
#[path = "integration/queue.rs"]
mod queue;
#[path = "integration/relay.rs"]
mod relay;
#[path = "integration/reload.rs"]
mod reload;
#[path = "integration/repair.rs"]
mod repair;
#[path = "integration/responses.rs"]
mod responses;
#[path = "integration/shapes.rs"]
mod shapes;
#[path = "integration/simulation.rs"]
mod simulation;
#[path = "integration/sockets.rs"]
mod sockets;
#[cfg(feature = "observability")]
#[path = "integration/traces.rs"]
mod traces;
#[path = "integration/translate.rs"]
mod translate;
