//! The connection to the store: made in the background, made again when it breaks, and never waited for.
//!
//! ```text
//!   away ──connected, first beat answered──▶ reached ──a beat fails, or a call is not answered within ANSWER──▶ away
//! ```
//!
//! What the store answers with an error concerns the call alone; whether it is of use at all (a replica takes no writes, its memory is
//! full) is what beats find out, since they write too.
//!
//! `prompt` says whether a request may wait for an answer at all. It holds while beats are answered within [`PROMPT`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, Script, ScriptInvocation};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::keys::Version;

/// Longest wait for a connection, and for any answer.
const ANSWER: Duration = Duration::from_secs(1);
/// A store that answers a beat within this time is worth a request's waiting.
pub(super) const PROMPT: Duration = Duration::from_millis(50);
/// Between two beats.
const BEAT: Duration = Duration::from_millis(500);
/// An instance that was not heard of for so long does not count.
const LIFE: Duration = Duration::from_secs(5);
/// Between two tries to connect: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Answered beats that make a connection a steady one.
const STEADY: u32 = 10;
/// News of circuits that wait; more are dropped.
const HEARD_MAX: usize = 256;
/// Longest reason that is told.
const REASON_CHARS_MAX: usize = 200;

/// How the store is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It answers.
    Reached,
    /// It answers, but not within `PROMPT`: no request waits for it.
    Slow,
    /// It does not answer, and why.
    Away(String),
}

/// Whether the store answers, as the last call has it.
#[derive(Debug)]
enum State {
    /// And why not.
    Away(String),
    /// And since when without a break.
    Reached(Instant),
}

/// What went wrong with a call. The link knows already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed;

/// What is counted of calls, since the start.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// Begun.
    pub made: u64,
    /// Without an answer, or with an error.
    pub failed: u64,
}

pub(super) struct Link {
    /// Or why the address cannot be understood.
    client: Result<Client, String>,
    prefix: String,
    /// Names this process among the instances.
    pub(super) instance: String,
    beat: Script,
    connection: ArcSwapOption<MultiplexedConnection>,
    broken: Notify,
    prompt: AtomicBool,
    instances: AtomicU32,
    state: Mutex<State>,
    /// Whether the log has said so.
    told: AtomicBool,
    /// Whether the log has said that a call was refused.
    told_refusal: AtomicBool,
    /// Whether the log has said that the store forgets.
    told_eviction: AtomicBool,
    /// Of the keys, as the last beat had it.
    keys_version: Mutex<Version>,
    /// Rung by what others tell, and by every beat.
    pub(super) news: Notify,
    /// What others told of circuits, to be taken in.
    heard: Mutex<Vec<Vec<u8>>>,
    /// Rung when there is some.
    pub(super) circuit_news: Notify,
    made: AtomicU64,
    failed: AtomicU64,
}

impl Link {
    pub(super) fn new(client: Result<Client, String>, prefix: &str, instances: u32) -> Self {
        Self {
            client,
            prefix: prefix.to_owned(),
            instance: format!("{:016x}", rand::random::<u64>()),
            beat: Script::new(include_str!("beat.lua")),
            connection: ArcSwapOption::empty(),
            broken: Notify::new(),
            prompt: AtomicBool::new(false),
            instances: AtomicU32::new(instances.max(1)),
            state: Mutex::new(State::Away("not reached yet".to_owned())),
            told: AtomicBool::new(false),
            told_refusal: AtomicBool::new(false),
            told_eviction: AtomicBool::new(false),
            keys_version: Mutex::default(),
            news: Notify::new(),
            heard: Mutex::default(),
            circuit_news: Notify::new(),
            made: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// A name in the store.
    pub(super) fn key(&self, rest: &str) -> String {
        format!("{}:{rest}", self.prefix)
    }

    /// Whether it makes sense to wait for an answer.
    pub(super) fn is_prompt(&self) -> bool {
        self.prompt.load(Ordering::Relaxed)
    }

    /// A request waited in vain: no other one does before a beat is answered in time.
    pub(super) fn was_slow(&self) {
        self.prompt.store(false, Ordering::Relaxed);
    }

    /// Whether calls can be made.
    pub(super) fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Instances that live, as far as is known.
    pub(super) fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed)
    }

    /// The state of the keys in the store, as far as is known.
    pub(super) fn keys_version(&self) -> Version {
        self.keys_version.lock().clone()
    }

    /// It was read just now.
    pub(super) fn set_keys_version(&self, version: Version) {
        *self.keys_version.lock() = version;
    }

    pub(super) fn condition(&self) -> Condition {
        match &*self.state.lock() {
            State::Away(reason) => Condition::Away(reason.clone()),
            State::Reached(_) if self.is_prompt() => Condition::Reached,
            State::Reached(_) => Condition::Slow,
        }
    }

    /// How long the store has answered without a break.
    pub(super) fn reached_for(&self) -> Duration {
        match *self.state.lock() {
            State::Away(_) => Duration::ZERO,
            State::Reached(since) => since.elapsed(),
        }
    }

    pub(super) fn calls(&self) -> Calls {
        Calls { made: self.made.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// Calls a script. What the store refuses breaks nothing: it may be one value that something else has overwritten.
    pub(super) async fn call<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, Failed> {
        match self.make(|mut connection| async move { Ok(call.invoke_async(&mut connection).await) }).await? {
            Ok(answer) => Ok(answer),
            Err(error) if is_of_the_call(&error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                if !self.told_refusal.swap(true, Ordering::Relaxed) {
                    tracing::warn!(error = shortened(&error.to_string()), "the shared store refuses a call");
                }
                Err(Failed)
            }
            Err(error) => Err(self.fail(&error.to_string())),
        }
    }

    async fn make<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        call: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, Failed> {
        let Some(connection) = self.connection.load_full() else { return Err(Failed) };
        let connection = MultiplexedConnection::clone(&connection);
        self.made.fetch_add(1, Ordering::Relaxed);
        match timeout(ANSWER, call(connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.fail(&error.to_string())),
            Err(_) => Err(self.fail(&format!("no answer within {ANSWER:?}"))),
        }
    }

    fn fail(&self, error: &str) -> Failed {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.prompt.store(false, Ordering::Relaxed);
        if self.connection.swap(None).is_some() {
            self.tell_away(error);
        }
        self.broken.notify_one();
        Failed
    }

    /// Notes why the store is away; the log says it once.
    fn tell_away(&self, error: &str) {
        let reason = shortened(error);
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = reason, "the shared store is away; limits hold as cluster.on_failure says");
        }
        *self.state.lock() = State::Away(reason);
    }

    fn note_reached(&self, instances: u32) {
        let mut state = self.state.lock();
        if matches!(*state, State::Away(_)) {
            *state = State::Reached(Instant::now());
            self.told.store(false, Ordering::Relaxed);
            tracing::info!(instances, "the shared store is reached");
        }
    }

    /// Keeps the connection for ever.
    pub(super) async fn keep(&self) {
        let client = match &self.client {
            Ok(client) => client,
            Err(error) => {
                self.tell_away(error);
                return std::future::pending().await;
            }
        };
        let mut pause = PAUSE.0;
        loop {
            match self.connect(client).await {
                Ok(()) => {
                    // One that breaks again at once is not tried faster for having been there.
                    let answered = tokio::select! {
                        answered = self.beats() => answered,
                        () = self.listen(client) => {
                            self.fail("the subscription ended");
                            0
                        }
                    };
                    if answered > STEADY {
                        pause = PAUSE.0;
                    }
                }
                Err(error) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    self.tell_away(&error.to_string());
                }
            }
            // Not in step with the other instances.
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Beats while there is a connection; how many were answered.
    async fn beats(&self) -> u32 {
        let mut answered = 0;
        while self.is_up() && self.beat_once().await.is_ok() {
            if answered == 0 {
                self.look_for_eviction().await;
            }
            answered += 1;
            let _ = timeout(BEAT, self.broken.notified()).await;
        }
        answered
    }

    /// A store that makes room by itself forgets what was spent. Where it cannot be asked, nothing is said.
    async fn look_for_eviction(&self) {
        let Some(connection) = self.connection.load_full() else { return };
        let mut connection = MultiplexedConnection::clone(&connection);
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        let Ok(Ok(text)) = timeout(ANSWER, info.query_async::<String>(&mut connection)).await else { return };
        if let Some(policy) = evicts(&text)
            && !self.told_eviction.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                policy,
                "the shared store forgets when its memory is full, and with it what was used; set maxmemory-policy noeviction"
            );
        }
    }

    /// Hears what other instances tell, on a connection of its own, until that ends.
    async fn listen(&self, client: &Client) {
        let Ok(Ok(mut subscription)) = timeout(2 * ANSWER, client.get_async_pubsub()).await else { return };
        let Ok(Ok(())) = timeout(ANSWER, subscription.subscribe(self.key("news"))).await else { return };
        let mut messages = subscription.into_on_message();
        while let Some(message) = messages.next().await {
            self.hear(message.get_payload_bytes());
        }
    }

    fn hear(&self, message: &[u8]) {
        if message == b"keys" {
            // Whoever looks is behind now; which version it is comes with the answer.
            self.keys_version.lock().number += 1;
            self.news.notify_one();
        } else {
            let mut heard = self.heard.lock();
            if heard.len() < HEARD_MAX {
                heard.push(message.to_owned());
                self.circuit_news.notify_one();
            }
        }
    }

    /// What others told of circuits since the last call.
    pub(super) fn take_circuit_news(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.heard.lock())
    }

    /// Tells all instances, this one included.
    pub(super) async fn publish(&self, message: &str) -> Result<(), Failed> {
        let mut call = redis::cmd("PUBLISH");
        call.arg(self.key("news")).arg(message);
        self.make(|mut connection| async move { call.query_async::<()>(&mut connection).await }).await
    }

    async fn connect(&self, client: &Client) -> Result<(), RedisError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let late = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let connection = timeout(2 * ANSWER, connecting).await.map_err(|_| late())??;
        self.connection.store(Some(Arc::new(connection)));
        Ok(())
    }

    async fn beat_once(&self) -> Result<(), Failed> {
        let mut call = self.beat.prepare_invoke();
        call.key(self.key("instances")).key(self.key("keys:version")).arg(&self.instance).arg(LIFE.as_millis() as u64);
        let call = &call;
        let answer = self.make(|mut connection| async move { call.invoke_async(&mut connection).await });
        tokio::pin!(answer);
        let (prompt, answer) = match timeout(PROMPT, &mut answer).await {
            Ok(answer) => (true, answer),
            Err(_) => {
                self.prompt.store(false, Ordering::Relaxed);
                (false, answer.await)
            }
        };
        let (instances, epoch, number): (u32, Option<String>, Option<u64>) = answer?;
        self.instances.store(instances.max(1), Ordering::Relaxed);
        self.note_reached(instances);
        *self.keys_version.lock() = Version { epoch: epoch.unwrap_or_default(), number: number.unwrap_or_default() };
        self.prompt.store(prompt, Ordering::Relaxed);
        self.news.notify_one();
        Ok(())
    }
}

/// Whether an error says nothing of the connection.
fn is_of_the_call(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType)
}

fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

/// How a store drops what it has when its memory is full, from what `INFO memory` says; `None` where it does not.
fn evicts(info: &str) -> Option<&str> {
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    of("maxmemory_policy").filter(|policy| *policy != "noeviction" && of("maxmemory") != Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link::new(Err("not a store".to_owned()), "berry", 0)
    }

    #[test]
    fn news_of_circuits_wait_up_to_a_bound_and_news_of_keys_only_move_the_version() {
        let link = link();
        (0..HEARD_MAX + 9).for_each(|number| link.hear(number.to_string().as_bytes()));
        link.hear(b"keys");
        assert_eq!(link.keys_version(), Version { epoch: String::new(), number: 1 });
        let heard = link.take_circuit_news();
        assert_eq!((heard.len(), &*heard[0], &*heard[HEARD_MAX - 1]), (HEARD_MAX, &b"0"[..], &b"255"[..]));
        assert!(link.take_circuit_news().is_empty());
    }

    #[test]
    fn a_store_is_away_until_it_is_reached_and_slow_until_it_answers_in_time() {
        let link = link();
        assert_eq!((link.condition(), link.instances()), (Condition::Away("not reached yet".to_owned()), 1));
        assert_eq!(link.reached_for(), Duration::ZERO);
        link.note_reached(2);
        assert_eq!(link.condition(), Condition::Slow);
        link.prompt.store(true, Ordering::Relaxed);
        assert_eq!(link.condition(), Condition::Reached);
        link.was_slow();
        assert_eq!(link.condition(), Condition::Slow);
        link.tell_away(&"x".repeat(REASON_CHARS_MAX + 1));
        assert_eq!(link.condition(), Condition::Away("x".repeat(REASON_CHARS_MAX)));
        assert_eq!(link.reached_for(), Duration::ZERO);
    }

    #[test]
    fn a_store_evicts_where_it_has_a_bound_and_may() {
        let info = |max: &str, policy: &str| format!("# Memory\r\nmaxmemory:{max}\r\nmaxmemory_policy:{policy}\r\n");
        assert_eq!(evicts(&info("1024", "allkeys-lru")), Some("allkeys-lru"));
        assert_eq!(evicts(&info("1024", "noeviction")), None);
        assert_eq!(evicts(&info("0", "allkeys-lru")), None);
        assert_eq!(evicts(""), None);
    }
}
