//! Several instances as one: what they share through Redis or Valkey.
//!
//! No request makes a call to the store. Each instance works on what it was lent and on what it was told, in the background;
//! what is not known in time is decided here, as `cluster.on_failure` says. So a store that is away or slow delays nobody, and
//! the server starts without it.

mod circuits;
mod keys;
mod lending;
mod link;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Cluster as Settings, User};
use berry_core::time::Instant;
use redis::Client;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use lending::{BudgetKey, Lending, LimitKey, ShareKey};
pub use link::{Calls, Condition};

use crate::app::App;
use crate::changes::Target;
use crate::quotas::Refused;
use circuits::Circuits;
use keys::SharedKeys;
use lending::{LONG, SHORT};
use link::Link;

/// What this instance shares with others.
pub struct Cluster {
    link: Arc<Link>,
    keys: SharedKeys,
    circuits: Circuits,
    /// Shared limits and budgets.
    pub lending: Arc<Lending>,
}

/// As `/health` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `off`, `connected`, `slow` or `away`.
    pub status: &'static str,
    /// Why, where it is not as it should be.
    pub reason: Option<String>,
    /// Instances that live, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
}

impl Cluster {
    /// Reaches nothing yet.
    pub fn new(settings: &Settings) -> Self {
        let client = Client::open(settings.redis_url.expose()).map_err(|error| format!("cluster.redis_url: {error}"));
        let link = Arc::new(Link::new(client, &settings.key_prefix, settings.instances));
        let lending = Arc::new(Lending::new(Arc::clone(&link), settings));
        let circuits = Circuits::new(Arc::clone(&link));
        Self { keys: SharedKeys::new(Arc::clone(&link)), circuits, link, lending }
    }

    /// An administrator opened circuits for a time, or closed them: the other instances do the same.
    pub fn turned_circuits(&self, target: &Target, open_for: Option<Duration>) {
        self.circuits.turned(target, open_for);
    }

    /// How the store is doing.
    pub fn condition(&self) -> Condition {
        self.link.condition()
    }

    /// What was asked of the store.
    pub fn calls(&self) -> Calls {
        self.link.calls()
    }

    /// Instances that live, as far as is known.
    pub fn instances(&self) -> u32 {
        self.link.instances()
    }
}

/// For `/health`.
pub fn report(cluster: Option<&Cluster>) -> Report {
    let Some(cluster) = cluster else { return Report { status: "off", reason: None, instances: None } };
    let (status, reason) = match cluster.condition() {
        Condition::Reached => ("connected", None),
        Condition::Slow => ("slow", Some("the store takes longer than requests wait".to_owned())),
        Condition::Away(reason) => ("away", Some(reason)),
    };
    Report { status, reason, instances: Some(cluster.instances()) }
}

/// How long a request has waited for the store's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    /// Not yet.
    Fresh,
    /// As long as is worth it for a limit that can be decided here too. Money is not spent on a guess yet.
    Short,
    /// As long as is worth it at all.
    Over,
}

/// Decides about a request of `user` once the store has said what it needs to know, or after a short while without it: `decide`
/// is told how long that was. Costs a request at most `lending::SHORT`, or `lending::LONG` where it would be refused otherwise
/// or a budget is concerned.
///
/// # Errors
/// What `decide` says last.
#[cold]
pub async fn ask<T>(
    app: &App,
    user: &User,
    mut decide: impl FnMut(Patience, Instant) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let Some(Cluster { lending, .. }) = &app.cluster else {
        return decide(Patience::Over, app.clock.now());
    };
    let began = app.clock.now();
    let (mut end, mut patience) = (began + SHORT, Patience::Short);
    loop {
        let answer = pin!(lending.answer(&user.id));
        match tokio::time::timeout_at(app.clock.at(end), answer).await {
            Ok(()) => match decide(Patience::Fresh, app.clock.now()) {
                Err(refused) if refused.is_unasked() => {}
                decided => return decided,
            },
            Err(_) => match decide(patience, app.clock.now()) {
                // It has nothing to lose by waiting: it is refused as things stand.
                Err(_) if patience == Patience::Short && lending.is_prompt() => {
                    (end, patience) = (began + LONG, Patience::Over);
                }
                Err(refused) if refused.is_unasked() => return decide(Patience::Over, app.clock.now()),
                decided => {
                    if patience == Patience::Over {
                        lending.waited_in_vain();
                    }
                    return decided;
                }
            },
        }
    }
}

/// Shares until `last` is cancelled.
pub async fn run(app: Arc<App>, last: CancellationToken) {
    let Some(cluster) = &app.cluster else { return };
    tokio::select! {
        biased;
        () = last.cancelled() => {}
        () = cluster.link.keep() => {}
        () = cluster.keys.run(&app) => {}
        () = cluster.circuits.run(&app) => {}
        () = cluster.lending.run(&app) => {}
    }
}
