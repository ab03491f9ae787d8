//! Keeps the leases of shared limits: says to the store what was used, and fetches more before it runs out.
//!
//! Requests only put shares on a list here; one task goes through it. A request whose lease is empty waits for the task's next
//! answer, [`SHORT`] at most where it may pass without it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::ClusterFallback;
use berry_core::id::{ModelName, UserId};
use berry_core::quota::share::{Ask, LEASE, Lent, SharedWindow};
use berry_core::quota::{Part, Sharing};
use berry_relay::clock::Clock;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::Script;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::sleep;

use super::link::{Failed, Link};
use crate::quotas::Quotas;

/// How long a request waits for the store's word where it may pass without it.
pub(crate) const SHORT: Duration = Duration::from_millis(2);
/// How long it waits where it would be refused without it.
pub(crate) const LONG: Duration = Duration::from_millis(50);
/// Between two looks at what has something to say.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// What is kept in the store beyond the end of the longest window.
const KEEP: Duration = Duration::from_secs(3_600);
/// Part of a limit that all leases together may take up.
const LENT_SHARE: u64 = 10;
/// Bells that waiting requests share, so that one answer does not wake them all.
const BELLS: usize = 64;

/// Names a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShareKey {
    /// Whose.
    pub user: UserId,
    /// Of the limits for this model; of those over all models without it.
    pub model: Option<ModelName>,
    /// Which of the limits.
    pub part: Part,
}

/// What of shared limits is known on the request path.
pub struct Lending {
    link: Arc<Link>,
    on_failure: ClusterFallback,
    touched: Mutex<Vec<ShareKey>>,
    news: Notify,
    bells: [Notify; BELLS],
    lend: Script,
}

impl Lending {
    pub(super) fn new(link: Arc<Link>, on_failure: ClusterFallback) -> Self {
        Self {
            link,
            on_failure,
            touched: Mutex::default(),
            news: Notify::new(),
            bells: std::array::from_fn(|_| Notify::new()),
            lend: Script::new(include_str!("lend.lua")),
        }
    }

    /// How limits are shared now. `may_ask` says whether the request has time for the store.
    pub fn sharing(&self, may_ask: bool) -> Sharing {
        Sharing {
            instances: self.link.instances(),
            may_ask: may_ask && self.link.is_prompt(),
            on_failure: self.on_failure,
        }
    }

    /// Puts shares on the list of those that have something to say.
    pub fn touch(&self, keys: Vec<ShareKey>) {
        if !keys.is_empty() {
            self.touched.lock().extend(keys);
            self.news.notify_one();
        }
    }

    /// Completes when the store said something about a user, perhaps another one.
    pub(crate) fn answer(&self, user: &UserId) -> Notified<'_> {
        self.bells[bell(user)].notified()
    }

    /// Whether a request that was refused for want of an answer should wait longer.
    pub(crate) fn is_prompt(&self) -> bool {
        self.link.is_prompt()
    }

    /// No answer came within [`LONG`].
    pub(crate) fn waited_in_vain(&self) {
        self.link.was_slow();
    }

    /// Talks with the store about shares, for ever.
    pub(super) async fn run(&self, quotas: &Quotas, clock: Clock) {
        let mut listed: HashSet<ShareKey> = HashSet::new();
        let mut under_way = FuturesUnordered::new();
        loop {
            let look = async {
                match listed.is_empty() {
                    true => std::future::pending().await,
                    false => sleep(LOOK_EVERY).await,
                }
            };
            let due: Vec<ShareKey> = tokio::select! {
                Some((key, ask, answer)) = under_way.next() => {
                    self.take_in(quotas, &key, &ask, answer, clock);
                    continue;
                }
                () = self.news.notified() => std::mem::take(&mut *self.touched.lock()),
                () = look => listed.iter().cloned().collect(),
            };
            for key in due {
                if !self.link.is_up() {
                    listed.insert(key);
                    continue;
                }
                let now = clock.now();
                match quotas.with_share(&key, |share| {
                    (share.ask(now).map(|ask| (ask, share.windows().to_vec())), share.unlist())
                }) {
                    Some((Some((ask, windows)), _)) => {
                        listed.insert(key.clone());
                        under_way.push(self.exchange(key, ask, windows));
                    }
                    Some((None, false)) => {
                        listed.insert(key);
                    }
                    Some((None, true)) | None => {
                        listed.remove(&key);
                    }
                }
            }
        }
    }

    fn take_in(&self, quotas: &Quotas, key: &ShareKey, ask: &Ask, answer: Result<Lent, Failed>, clock: Clock) {
        let (now, instances) = (clock.now(), u64::from(self.link.instances()));
        quotas.with_share(key, |share| match answer {
            Ok(lent) => {
                let smallest = share.windows().iter().map(|window| window.limit).min().unwrap_or(0);
                share.answered(ask, &lent, smallest / (LENT_SHARE * instances), now);
            }
            Err(Failed) => share.lost(ask, now),
        });
        self.bells[bell(&key.user)].notify_waiters();
    }

    async fn exchange(
        &self,
        key: ShareKey,
        ask: Ask,
        windows: Vec<SharedWindow>,
    ) -> (ShareKey, Ask, Result<Lent, Failed>) {
        let longest = windows.iter().map(|window| window.span).max().unwrap_or_default();
        let mut call = self.lend.prepare_invoke();
        call.key(self.link.key(&key.name()))
            .arg(&self.link.instance)
            .arg(millis(LEASE))
            .arg(ask.told)
            .arg(ask.used)
            .arg(ask.held)
            .arg(ask.want)
            .arg(ask.need)
            .arg(u8::from(key.part != Part::Places))
            .arg(millis(longest + KEEP));
        for window in &windows {
            call.arg(window.name).arg(millis(window.span)).arg(millis(window.width)).arg(window.limit);
        }
        let answer = self.link.call::<(u64, usize, u64, i64, u64)>(&call).await;
        let lent = answer.map(|(lease, window, left, free_after, sum)| Lent {
            lease,
            window,
            left,
            sum,
            free_after: u64::try_from(free_after).ok().map(Duration::from_millis),
        });
        (key, ask, lent)
    }
}

impl ShareKey {
    /// In the store. The length keeps names apart whatever characters they have.
    fn name(&self) -> String {
        let part = match self.part {
            Part::Requests => "requests",
            Part::Tokens => "tokens",
            Part::Places => "places",
        };
        let (user, model) = (self.user.as_str(), self.model.as_ref().map_or("", ModelName::as_str));
        format!("{part}:{}:{user}:{model}", user.len())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn bell(user: &UserId) -> usize {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish() as usize % BELLS
}
