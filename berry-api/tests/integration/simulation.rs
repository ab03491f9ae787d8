//! Whole gateways in a small world of their own: three upstreams that crash, hang, lie and heal, clients that come and leave,
//! reloads in between, all under a paused clock and drawn from one seed. Each seed is another world; in every one of them
//! the same must hold (see [`World::judge`]). A seed that fails names itself and is run alone with
//! `BERRY_SIMULATION_SEED=N cargo test -p berry-api --test integration simulation`; `BERRY_SIMULATION_SEEDS` sets how many run.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berry_api::app::{App, AppOptions};
use berry_api::extend::Extensions;
use berry_api::gateway::Gateway;
use berry_api::prober;
use berry_api::telemetry::access::AccessLog;
use berry_core::config::snapshot::Strategy;
use berry_core::id::ProviderId;
use berry_core::time::Instant as Moment;
use berry_loadbalance::selector::RouteSelector as _;
use berry_mock::{Mock, Script};
use berry_relay::client::Dial;
use berry_relay::exchange::{End, ExchangeSink, Facts};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::fleet::{Got, always};
use crate::support::{ADMIN, Answer, snapshot};

/// Worlds in one run of the tests.
const SEEDS: u64 = 1000;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Length of every answer. A complete stream has as many content events.
const TOKENS: usize = 8;
/// How long things go wrong.
const CHAOS: Duration = Duration::from_secs(40);
/// Longer than any cooldown, open circuit or recovery of the configuration.
const REST: Duration = Duration::from_secs(300);
/// Nothing may take longer than this: every deadline of the configuration is far shorter.
const FOR_EVER: Duration = Duration::from_secs(600);
const MAX_RETRIES: u32 = 3;
const FAULTS: [&str; 22] = [
    "none",
    "none",
    "none",
    "status:500",
    "status:503:1",
    "status:429:1",
    "status:429:30",
    "status:401",
    "quota",
    "hang",
    "reset:before-head",
    "close:before-head",
    "half-head:reset",
    "close:0",
    "close:3",
    "reset:5",
    "stall:2",
    "stall:head",
    "slow-first-token:20000",
    "malformed-chunk:2",
    "error-event:4",
    "missing-terminator",
];

#[test]
fn whatever_happens_every_request_ends_once_and_cleanly() {
    if let Some(seed) = number_from("BERRY_SIMULATION_SEED") {
        live(seed);
        return;
    }
    let (next, seeds) = (AtomicU64::new(0), number_from("BERRY_SIMULATION_SEEDS").unwrap_or(SEEDS));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds) {
                    let lived = catch_unwind(AssertUnwindSafe(|| live(seed)));
                    assert!(lived.is_ok(), "seed {seed} fails; run it alone with BERRY_SIMULATION_SEED={seed}");
                }
            });
        }
    });
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("a number"))
}

/// As many worlds live twice.
const REPLAYED: u64 = 20;

#[test]
fn a_seed_replays_to_the_last_event() {
    for seed in 0..REPLAYED {
        let (first, second) = (live(seed), live(seed));
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// Runs one world from its beginning to its end, and gives its log: everything that upstreams saw, that clients got, and that was
/// settled, with its time.
fn live(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed);
        let app = Arc::clone(&world.app);
        tokio::select! {
            biased;
            () = prober::run(app) => panic!("the prober ended"),
            log = world.run() => log,
        }
    })
}

/// An upstream process: dead, or alive with the faults of the moment.
struct Upstream {
    mock: Mutex<Mock>,
    /// Those that have crashed, for what they have seen.
    dead: Mutex<Vec<Mock>>,
}

impl Upstream {
    fn all(&self) -> Vec<Mock> {
        self.dead.lock().iter().cloned().chain([self.mock.lock().clone()]).collect()
    }
}

/// Keeps the record of every request that has ended.
#[derive(Default)]
struct Records(Mutex<Vec<Facts>>);

impl ExchangeSink for Records {
    fn settle(&self, facts: &mut Facts, _: Moment) {
        self.0.lock().push(facts.clone());
    }
}

/// One request, from its client's side.
struct Visit {
    number: usize,
    streamed: bool,
    /// The answer, or nothing when the client has left, and when that was.
    outcome: Result<Got, Instant>,
}

struct World {
    rng: SmallRng,
    app: Arc<App>,
    gateway: Gateway,
    upstreams: [Arc<Upstream>; 3],
    dials: HashMap<ProviderId, Dial>,
    records: Arc<Records>,
    strategy: &'static str,
}

fn good() -> Script {
    Script { answer_tokens: Some(TOKENS), ..always("none") }
}

fn config(strategy: &str, rng: &mut SmallRng) -> String {
    let mut text = format!(
        "[settings]\nmax_retries = {MAX_RETRIES}\nmax_internal_retries = {}\nrequest_timeout_seconds = 4\n\
         completion_timeout_seconds = 6\nfirst_token_timeout_seconds = 5\nstream_idle_timeout_seconds = 7\n\
         total_timeout_seconds = 60\n[users.ada]\nname = \"Ada\"\ntoken = \"{ADMIN}\"\ntags = [\"admin\"]\n",
        rng.random_range(0..=2)
    );
    for name in NAMES {
        text +=
            &format!("[providers.{name}]\nname = \"{name}\"\nbase_url = \"http://{name}.test/v1\"\napi_key = \"k\"\n");
    }
    text += &format!("[models.m]\nname = \"m\"\nstrategy = \"{strategy}\"\n");
    for (place, name) in NAMES.iter().enumerate() {
        let (priority, weight) = (place + 1, rng.random_range(1..=9));
        text += &format!(
            "[[models.m.backends]]\nprovider = \"{name}\"\nmodel = \"up-{name}\"\npriority = {priority}\nweight = {weight}.0\n"
        );
    }
    text
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (strategy, _) = Strategy::ALL[rng.random_range(0..Strategy::ALL.len())];
        let upstreams =
            NAMES.map(|_| Arc::new(Upstream { mock: Mutex::new(Mock::new(good())), dead: Mutex::default() }));
        let dials: HashMap<ProviderId, Dial> = NAMES
            .into_iter()
            .zip(upstreams.clone())
            .map(|(name, upstream)| (name.into(), Arc::new(move || upstream.mock.lock().connect()) as Dial))
            .collect();
        let options =
            AppOptions { access: AccessLog::default(), seed, dials: dials.clone(), extensions: Extensions::default() };
        let mut app = App::new(snapshot(&config(strategy, &mut rng)), options).unwrap();
        let records = Arc::new(Records::default());
        app.sink = Arc::clone(&records) as _;
        let app = Arc::new(app);
        let gateway = Gateway::new(Arc::clone(&app));
        Self { rng, app, gateway, upstreams, dials, records, strategy }
    }

    async fn run(mut self) -> Vec<String> {
        let began = Instant::now();
        let mut clients = JoinSet::new();
        let visits = self.rng.random_range(6..=14);
        for number in 0..visits {
            let streamed = self.rng.random();
            let comes = began + CHAOS.mul_f64(self.rng.random());
            let leaves =
                self.rng.random_bool(0.3).then(|| comes + Duration::from_millis(self.rng.random_range(0..9000)));
            clients.spawn(visit(self.gateway.clone(), number, streamed, comes, leaves));
        }
        self.wreak_havoc(began).await;
        let visits = timeout(FOR_EVER, clients.join_all()).await.expect("every request ends");
        self.heal();
        sleep(REST).await;
        let log = self.log(&visits, began);
        self.judge(visits).await;
        log
    }

    fn log(&self, visits: &[Visit], began: Instant) -> Vec<String> {
        let mut log = Vec::new();
        for visit in visits {
            let outcome = match &visit.outcome {
                Ok(Got { answer, seconds }) => format!("{} after {seconds}: {:?}", answer.status, answer.body),
                Err(left) => format!("left after {:?}", *left - began),
            };
            log.push(format!("visit {}: {outcome}", visit.number));
        }
        for facts in self.records.0.lock().iter() {
            let tries = facts.tries.iter().map(|attempt| {
                let backend = &attempt.backend.id;
                (backend.to_string(), attempt.reason, attempt.outcome, attempt.started, attempt.ttft, attempt.duration)
            });
            log.push(format!("{} {:?} {:?}", facts.request_id.as_str(), facts.end, tries.collect::<Vec<_>>()));
        }
        for mock in self.upstreams.iter().flat_map(|upstream| upstream.all()) {
            for seen in mock.requests() {
                log.push(format!("{} {} at {:?}", seen.number, seen.path_and_query, seen.at - began));
            }
        }
        log
    }

    /// Crashes, restarts, faults and reloads at random moments.
    async fn wreak_havoc(&mut self, began: Instant) {
        let mut moments: Vec<Duration> =
            (0..self.rng.random_range(3..=12)).map(|_| CHAOS.mul_f64(self.rng.random())).collect();
        moments.sort_unstable();
        for moment in moments {
            sleep_until(began + moment).await;
            let upstream = Arc::clone(&self.upstreams[self.rng.random_range(0..3)]);
            match self.rng.random_range(0..10) {
                0..=1 => upstream.mock.lock().shutdown(),
                2 => self.restart(&upstream),
                3 => {
                    let text = config(self.strategy, &mut self.rng);
                    self.app.replace(snapshot(&text), &self.dials).unwrap();
                }
                _ => {
                    let faults =
                        (0..4).map(|_| FAULTS[self.rng.random_range(0..FAULTS.len())].parse().unwrap()).collect();
                    let slow = self.rng.random_range(0..3) * 200;
                    let script = Script { faults, token_latency_ms: slow, seed: self.rng.random(), ..good() };
                    upstream.mock.lock().update(script);
                }
            }
        }
    }

    fn restart(&self, upstream: &Upstream) {
        let mut mock = upstream.mock.lock();
        mock.shutdown();
        let old = std::mem::replace(&mut *mock, Mock::new(good()));
        upstream.dead.lock().push(old);
    }

    fn heal(&self) {
        for upstream in &self.upstreams {
            self.restart(upstream);
        }
    }

    /// What must hold in every world.
    async fn judge(&self, visits: Vec<Visit>) {
        self.one_record_each(&visits);
        for visit in &visits {
            self.attempts_are_bounded(visit);
            if let Ok(got) = &visit.outcome {
                clean_or_told(got, visit.streamed);
            }
        }
        self.nothing_is_left();
        self.healed_is_healed(visits.len()).await;
    }

    fn one_record_each(&self, visits: &[Visit]) {
        let records = self.records.0.lock();
        // A client that left before its request began has none.
        assert!(records.len() <= visits.len(), "{} records of {} requests", records.len(), visits.len());
        let mut names: Vec<&str> = records.iter().map(|facts| facts.request_id.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), records.len(), "no request is settled twice");
        assert!(records.iter().all(|facts| facts.attempts <= 1 + MAX_RETRIES), "attempts are bounded");
        for visit in visits {
            let Ok(Got { answer, .. }) = &visit.outcome else { continue };
            let id = answer.header("x-request-id");
            let mut settled = records.iter().filter(|facts| facts.request_id.as_str() == id);
            let (Some(facts), None) = (settled.next(), settled.next()) else { panic!("{id} is not settled once") };
            let told = String::from_utf8_lossy(&answer.body).contains("\"error\"");
            assert_eq!(facts.status, answer.status.as_u16(), "{id}");
            assert_ne!(facts.end, End::Cancelled, "{id}: its client stayed");
            assert!(told || facts.end == End::Complete, "{id}: {:?} without a word", facts.end);
        }
    }

    /// Sent upstream: at most once for each attempt, and once more where a kept connection had closed; never for nobody.
    fn attempts_are_bounded(&self, visit: &Visit) {
        let mark = format!("visit-{}.", visit.number);
        let mocks = self.upstreams.iter().flat_map(|upstream| upstream.all());
        let seen: Vec<Instant> = mocks
            .flat_map(|mock| mock.requests())
            .filter(|request| String::from_utf8_lossy(&request.body).contains(&mark))
            .map(|request| request.at)
            .collect();
        assert!(seen.len() <= 2 * (1 + MAX_RETRIES) as usize, "{mark} was sent {} times", seen.len());
        if let Err(left) = visit.outcome {
            assert!(seen.iter().all(|at| *at <= left), "{mark} was sent on after its client had left");
        }
    }

    fn nothing_is_left(&self) {
        assert_eq!(self.app.in_flight.load(Ordering::Relaxed), 0, "requests in flight");
        assert_eq!(self.app.buffers.held(), 0, "held bytes");
        for pool in self.app.runtime().selector.route_stats() {
            for (backend, endpoint) in pool.endpoints {
                assert_eq!(endpoint.in_flight, 0, "leases of {backend:?}");
            }
        }
        for upstream in &self.upstreams {
            for mock in upstream.all() {
                assert_eq!(mock.stats().in_flight, 0, "answers that nobody waits for");
            }
        }
    }

    /// Everything is well again, and it shows: first try, whole answer.
    async fn healed_is_healed(&self, from: usize) {
        for (i, streamed) in [false, true, false, true].into_iter().enumerate() {
            let visit = visit(self.gateway.clone(), from + i, streamed, Instant::now(), None);
            let visit = timeout(FOR_EVER, visit).await.expect("it ends");
            let Ok(got) = visit.outcome else { panic!("nobody left") };
            let answer = &got.answer;
            assert_eq!(answer.status, StatusCode::OK, "after the heal: {:?}", answer.body);
            assert_eq!(answer.header("x-berry-attempts"), "1", "after the heal");
            let told = String::from_utf8_lossy(&answer.body).contains("\"error\"");
            assert!(!told, "after the heal: {:?}", answer.body);
            clean_or_told(&got, streamed);
        }
    }
}

/// A client: comes, asks, reads, and may leave at any point.
async fn visit(gateway: Gateway, number: usize, streamed: bool, comes: Instant, leaves: Option<Instant>) -> Visit {
    sleep_until(comes).await;
    let exchange = async {
        let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let connection = Arc::new(gateway.connection(peer));
        let body = format!(
            r#"{{"model":"m","stream":{streamed},"messages":[{{"role":"user","content":"visit-{number}."}}]}}"#
        );
        let request = Request::post("/v1/chat/completions").header("x-api-key", ADMIN);
        let response = gateway.handle(&connection, request.body(Full::new(Bytes::from(body))).unwrap()).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the answer is framed to its end").to_bytes();
        let seconds = comes.elapsed().as_secs_f64();
        Got { answer: Answer { status: parts.status, headers: parts.headers, body }, seconds }
    };
    let outcome = match leaves {
        None => Ok(timeout(FOR_EVER, exchange).await.expect("every request ends")),
        Some(at) => tokio::time::timeout_at(at, exchange).await.map_err(|_| at),
    };
    Visit { number, streamed, outcome }
}

/// A whole answer of one backend, or an error that says so: never a part that looks whole.
fn clean_or_told(got: &Got, streamed: bool) {
    let answer = &got.answer;
    if answer.status != StatusCode::OK {
        assert!(answer.json()["error"]["message"].is_string(), "{:?}", answer.body);
        return;
    }
    if !streamed {
        let json: Value = answer.json();
        assert_eq!(json["choices"][0]["finish_reason"], "stop", "{json}");
        assert_eq!(json["usage"]["completion_tokens"], TOKENS, "{json}");
        return;
    }
    let told = got.told();
    if told.errors.is_empty() {
        assert!(told.done && told.finishes == 1, "a stream without an end: {}", got.text());
        assert!(told.is_from_one(), "a mixture: {}", got.text());
        let events = got.text().matches("\"content\":").count();
        assert!(events >= TOKENS, "{events} events: {}", got.text());
    } else {
        assert!(told.errors.len() == 1 && !told.done && told.finishes == 0, "an error and an end: {}", got.text());
    }
}
