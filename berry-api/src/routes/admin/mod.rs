//! What administrators may ask: what the selector knows and what it would do, in its own numbers.
//!
//! Everything here is read at the moment of the question from [`berry_loadbalance::report`], which takes its numbers from the
//! functions that make the choices.

mod backend_health;
mod budgets;
mod changes;
mod config;
mod explain;
mod keys;
mod ledger;
mod model_weights;
mod rate_limit_usage;
mod system_stats;

use berry_core::config::snapshot::{BillingMode, User};
use berry_loadbalance::pool::Pool;
use http::request::Parts;

pub(super) use backend_health::backend_health;
pub(super) use budgets::budgets;
pub(super) use changes::{list as changes, make as make_change, take_back as take_back_change};
pub(super) use config::{history, reload_config, roll_back, running, validate};
pub(super) use explain::{dry_run, recorded};
pub(super) use keys::{
    audit_list as audit, create as create_key, list as keys, revoke as revoke_key, rotate as rotate_key,
};
pub(super) use ledger::{backup as backup_ledger, erase as erase_end_user};
pub(super) use model_weights::model_weights;
pub(super) use rate_limit_usage::rate_limit_usage;
pub(super) use system_stats::system_stats;

use super::caller;
use crate::app::{App, Runtime};
use crate::audit::Actor;
use crate::auth::address::client_address;

/// Who asks for a change, and from where.
fn actor(app: &App, admin: &User, parts: &Parts) -> Actor {
    let (runtime, caller) = (app.runtime(), caller(parts));
    let trusted = &runtime.snapshot.server.trusted_proxies;
    Actor { user: admin.id.clone(), address: client_address(caller.connection.peer.ip(), &parts.headers, trusted) }
}

/// The pool of the model that has this table key or name, switched off or not.
pub(super) fn pool_named<'a>(runtime: &'a Runtime, name: &str) -> Option<&'a Pool> {
    let by_key = runtime.selector.pools().find(|pool| pool.model().id.as_str() == name);
    let by_name = || runtime.snapshot.models.find(name).and_then(|model| runtime.selector.pool(&model.id));
    by_key.or_else(by_name).map(AsRef::as_ref)
}

/// As in the configuration.
pub(super) fn billing_mode(mode: BillingMode) -> &'static str {
    match mode {
        BillingMode::PerToken => "per_token",
        BillingMode::PerRequest => "per_request",
    }
}
