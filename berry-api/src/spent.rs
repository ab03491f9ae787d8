//! What users and tags spent before this process began: read from the ledger at the start, so that a restart gives nobody a new
//! budget.
//!
//! Only requests from before the start are read, so what is served meanwhile counts once, however long the reading takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berry_core::config::snapshot::{Budget, Snapshot, User};
use berry_core::id::UserId;
use berry_core::money::NanoUsd;
use berry_core::quota::{Holder, Period, PeriodKind};
use berry_core::time::Instant;
use berry_ledger::{Filter, Group, QueryError};
use tokio::task::JoinHandle;

use crate::app::{App, Runtime};
use crate::ledger::Recorder;

/// How long the start waits before requests are taken.
const WAIT: Duration = Duration::from_secs(2);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(5);

/// The moment up to which requests are those of earlier processes.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    now: Instant,
    us: i64,
}

impl Start {
    /// This moment. Taken before the first request is.
    pub fn now(app: &App) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { now: app.clock.now(), us: i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX) }
    }
}

/// Waits for [`restore`], but not for ever: a database that is away must not keep a server from serving.
pub async fn wait(restoring: JoinHandle<()>) {
    if tokio::time::timeout(WAIT, restoring).await.is_err() {
        tracing::warn!("what was spent before the start is still being read; until then budgets hold without it");
    }
}

/// Counts what was spent of budgets before `start`; tries until the ledger answers, or the process ends.
pub async fn restore(app: Arc<App>, start: Start) {
    let restored = async {
        let mut told = false;
        while let Err(error) = restore_once(&app, start).await {
            if !std::mem::replace(&mut told, true) {
                tracing::error!(
                    error,
                    "what was spent before the start is not known; budgets hold without it until it is"
                );
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        () = app.shutdown.drained() => {}
        () = restored => {}
    }
}

async fn restore_once(app: &App, start: Start) -> Result<(), String> {
    let runtime = app.runtime();
    let kinds = limited(app, &runtime.snapshot);
    if kinds.is_empty() {
        return Ok(());
    }
    if app.ledger.ledger().is_none() {
        tracing::warn!("there is no ledger: every start begins with nothing spent of any budget");
        return Ok(());
    }
    let second = runtime.calendar.second(start.now);
    let periods: Vec<_> = kinds.into_iter().map(|kind| (kind, runtime.calendar.period(kind, second))).collect();
    let ledger = Arc::clone(&app.ledger);
    let reading = tokio::task::spawn_blocking(move || read(&ledger, &periods, start.us));
    let sums = match reading.await {
        Ok(sums) => sums.map_err(|error| error.to_string())?,
        Err(panic) => return Err(panic.to_string()),
    };
    let amounts: usize = sums.iter().map(|(kind, period, spent)| count(app, &runtime, *kind, *period, spent)).sum();
    tracing::info!(amounts, "what was spent before the start counts");
    Ok(())
}

/// Which amounts somebody has.
fn limited(app: &App, snapshot: &Snapshot) -> Vec<PeriodKind> {
    let keys = app.keys.list();
    let of_keys = keys.iter().filter_map(|key| key.user().limits.as_deref());
    let of_users = snapshot.users.limits().chain(of_keys).map(|limits| limits.budget);
    let of_tags = snapshot.tags.values().map(|tag| tag.budget);
    let budgets: Vec<Budget> = of_users.chain(of_tags).filter(|budget| !budget.is_unlimited()).collect();
    PeriodKind::ALL.into_iter().filter(|kind| budgets.iter().any(|budget| budget.limit(*kind).is_some())).collect()
}

type Spent = Vec<(String, NanoUsd)>;

/// What each user spent in each period before `until_us`. All of it or nothing.
fn read(
    recorder: &Recorder,
    periods: &[(PeriodKind, Period)],
    until_us: i64,
) -> Result<Vec<(PeriodKind, Period, Spent)>, QueryError> {
    let Some(ledger) = recorder.ledger() else { return Ok(Vec::new()) };
    let of = |period: &Period| -> Result<Spent, QueryError> {
        let from_us = period.starts.checked_mul(1_000_000);
        let filter = Filter { from_us, to_us: Some(until_us), ..Filter::default() };
        let totals = ledger.totals(&filter, Some(&Group::User), None)?;
        let spent = totals.into_iter().filter(|total| total.figures.cost_nanos > 0);
        Ok(spent.filter_map(|total| Some((total.key?, NanoUsd::from_nanos(total.figures.cost_nanos)))).collect())
    };
    periods.iter().map(|(kind, period)| Ok((*kind, *period, of(period)?))).collect()
}

/// Counts one period; of how many holders. What a tag spent is what its users of today did.
fn count(app: &App, runtime: &Runtime, kind: PeriodKind, period: Period, spent: &Spent) -> usize {
    let snapshot = &runtime.snapshot;
    let keys: HashMap<UserId, Arc<User>> =
        app.keys.list().iter().map(|key| (key.user().id.clone(), Arc::clone(key.user()))).collect();
    let mut sums: HashMap<Holder, (NanoUsd, Budget)> = HashMap::new();
    for (id, spent) in spent {
        let user = snapshot.users.of_id(id).or_else(|| keys.get(&UserId::from(id.as_str())).map(Arc::clone));
        let Some(user) = user else { continue };
        let mut accounts = app.budgets.of(&user, snapshot);
        // A tag that a user has twice is charged once.
        accounts.sort_by(|(one, _), (other, _)| one.holder().cmp(other.holder()));
        accounts.dedup_by(|(one, _), (other, _)| one.holder() == other.holder());
        for (account, budget) in accounts {
            let sum = sums.entry(account.holder().clone()).or_insert((NanoUsd::ZERO, budget));
            sum.0 += *spent;
        }
    }
    let now = app.clock.now();
    for (holder, (spent, budget)) in &sums {
        app.budgets.restore(holder.clone(), (kind, period.starts), *spent, budget, &runtime.calendar, now);
    }
    sums.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ledger_that_does_not_answer_delays_the_start_by_two_seconds_at_most() {
        let began = tokio::time::Instant::now();
        let tasks = tokio_util::task::TaskTracker::new();
        wait(tasks.spawn(std::future::pending())).await;
        assert_eq!(began.elapsed(), WAIT);
        wait(tasks.spawn(std::future::ready(()))).await;
        assert_eq!(began.elapsed(), WAIT, "nothing is waited for that is there");
    }
}
