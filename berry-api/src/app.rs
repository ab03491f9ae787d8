//! The one place where things are wired together.
//!
//! A request passes, in this order: the connection's guard (time and size of the head), the gateway (request id, cross-origin
//! grants, which route), then for the data path, without layers: authentication, body limits, body, envelope, permission,
//! relay. Everything else goes through the router of [`crate::routes`], where each route says who may use it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use berry_core::config::snapshot::{Backend, Discovered, Snapshot};
use berry_core::id::ProviderId;
use berry_core::quota::Calendar;
use berry_core::time::{Epoch, Instant};
use berry_loadbalance::course::Allowance;
use berry_loadbalance::selector::{PoolSelector, RouteSelector};
use berry_relay::buffer::BufferBudget;
use berry_relay::client::{ClientError, Dial, Upstreams};
use berry_relay::clock::Clock;
use berry_relay::exchange::{ExchangeSink, Facts};
use berry_relay::forward::{Limits, Relay, Seeds, Shared};
use berry_relay::objects::Issued;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::audit::Audit;
use crate::auth::failures::FailedAttempts;
use crate::budgets::Budgets;
use crate::changes::Changes;
use crate::cluster::Cluster;
use crate::cors::Cors;
use crate::data_dir;
use crate::decisions::Decisions;
use crate::demo;
use crate::error::Voice;
use crate::extend::{Authenticator, Extensions, Observer};
use crate::keys::Keys;
use crate::ledger::Recorder;
use crate::prober::ProbeFigures;
use crate::quotas::Quotas;
use crate::reload::Generations;
use crate::request_id::RequestIds;
use crate::server::tls::{self, TlsError};
use crate::shutdown::Shutdown;
use crate::status::{Status, WallClock};
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// What follows from one configuration. A request keeps the one that it started with.
pub struct Runtime {
    /// The configuration as it is written.
    pub configured: Arc<Snapshot>,
    /// The configuration with the models that follow from what providers serve.
    pub snapshot: Arc<Snapshot>,
    /// The pools.
    pub selector: Arc<PoolSelector>,
    /// Sends requests on.
    pub relay: Arc<Relay>,
    /// Who may call from a browser.
    pub cors: Cors,
    /// Where days and months of budgets begin.
    pub calendar: Calendar,
}

/// Everything that requests share.
pub struct App {
    runtime: ArcSwap<Runtime>,
    shared: Shared,
    /// What new connections of clients are protected with; none where they speak plain text.
    pub tls: ArcSwapOption<rustls::ServerConfig>,
    /// The time.
    pub clock: Clock,
    /// What the clock's zero is in Unix time. [`crate::status::follow`] keeps it right.
    pub epoch: Epoch,
    /// The wall clock when the process began.
    pub started: SystemTime,
    /// Random sources.
    pub seeds: Arc<Seeds>,
    /// Names for requests.
    pub ids: RequestIds,
    /// Failed authentications.
    pub failures: FailedAttempts,
    /// The stages of the end.
    pub shutdown: Shutdown,
    /// The file that the configuration came from, once the server runs; what a reload reads.
    pub config_file: OnceLock<PathBuf>,
    /// How the data directory was found at the start.
    pub data_dir: OnceLock<data_dir::Report>,
    /// The configurations that were in force.
    pub generations: Generations,
    /// What administrators changed at run time.
    pub changes: Changes,
    /// What providers said that they serve.
    pub discovered: Mutex<Discovered>,
    /// Knows further users.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Keys that administrators issued.
    pub keys: Keys,
    /// What administrators did.
    pub audit: Audit,
    /// Where requests are recorded.
    pub ledger: Arc<Recorder>,
    /// Requests whose answer is not over.
    pub in_flight: AtomicU64,
    /// Bytes held.
    pub buffers: BufferBudget,
    /// Responses that upstreams keep, and whose they are.
    pub issued: Arc<Issued>,
    /// The choices of explained requests.
    pub decisions: Arc<Decisions>,
    /// What probes asked and cost.
    pub probes: Arc<ProbeFigures>,
    /// Figures of requests.
    pub metrics: Arc<Metrics>,
    /// Traces of requests; those of the configuration at the start.
    pub traces: Arc<Traces>,
    access: AccessLog,
    /// What is shared with other instances, where anything is; as the configuration said at the start.
    pub cluster: Option<Cluster>,
    /// What limited users did.
    pub quotas: Arc<Quotas>,
    /// What users and tags with budgets spent.
    pub budgets: Arc<Budgets>,
    /// Takes the records of finished requests.
    pub sink: Arc<dyn ExchangeSink>,
}

/// Why a configuration cannot be put in force though it is well formed.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A provider cannot be reached as configured.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Clients cannot be offered TLS as configured.
    #[error("[server] tls_cert, tls_key and client_ca: {0}")]
    Tls(#[from] TlsError),
}

/// What an [`App`] is made with.
pub struct AppOptions {
    /// The access line.
    pub access: AccessLog,
    /// Start of every random sequence; a fixed one replays a run.
    pub seed: u64,
    /// In-memory upstreams, by provider.
    pub dials: HashMap<ProviderId, Dial>,
    /// What an embedding program adds.
    pub extensions: Extensions,
}

impl App {
    /// Wires everything for a first configuration.
    ///
    /// # Errors
    /// When TLS files or a provider's proxy cannot be used.
    pub fn new(snapshot: Arc<Snapshot>, options: AppOptions) -> Result<Self, SetUpError> {
        let tls = client_tls(&snapshot)?;
        let clock = Clock::start();
        let shutdown = Shutdown::default();
        let buffers = BufferBudget::new(snapshot.server.max_buffered_bytes);
        let issued = Arc::<Issued>::default();
        let mut starts = SmallRng::seed_from_u64(options.seed);
        let seeds = Arc::new(Seeds::new(starts.next_u64()));
        let shared = Shared {
            clock,
            seeds: Arc::clone(&seeds),
            buffers: buffers.clone(),
            issued: Arc::clone(&issued),
            cut: shutdown.cut_token().clone(),
            say: Arc::new(Voice),
        };
        let ids = RequestIds::new(starts.next_u64());
        let started = SystemTime::now();
        let epoch = Epoch::new(started);
        let traces = Arc::new(Traces::new(&snapshot.telemetry, Arc::clone(&seeds), epoch.clone()));
        options.access.export_to(&traces);
        let cluster = snapshot.cluster.as_ref().map(Cluster::new);
        let lending = cluster.as_ref().map(|cluster| Arc::clone(&cluster.lending));
        let over = Over { changes: &Changes::default(), discovered: &Discovered::default(), epoch: &epoch };
        let runtime = Runtime::new(snapshot, &options.dials, None, shared.clone(), &over)?;
        let metrics = Arc::new(Metrics::new());
        let decisions = Arc::<Decisions>::default();
        let ledger = Arc::<Recorder>::default();
        let sink = Settled {
            ledger: Arc::clone(&ledger),
            epoch: epoch.clone(),
            access: options.access.clone(),
            metrics: Arc::clone(&metrics),
            traces: Arc::clone(&traces),
            decisions: Arc::clone(&decisions),
            observers: options.extensions.observers,
        };
        Ok(Self {
            runtime: ArcSwap::from_pointee(runtime),
            shared,
            tls: ArcSwapOption::new(tls),
            clock,
            epoch,
            started,
            seeds,
            ids,
            failures: FailedAttempts::default(),
            shutdown,
            config_file: OnceLock::new(),
            data_dir: OnceLock::new(),
            generations: Generations::default(),
            changes: Changes::default(),
            discovered: Mutex::default(),
            authenticator: options.extensions.authenticator,
            keys: Keys::default(),
            audit: Audit::default(),
            ledger,
            in_flight: AtomicU64::new(0),
            buffers,
            issued,
            decisions,
            probes: Arc::default(),
            sink: Arc::new(sink),
            access: options.access,
            metrics,
            quotas: Arc::new(Quotas::new(lending.clone())),
            cluster,
            budgets: Arc::new(Budgets::new(lending)),
            traces,
        })
    }

    /// Puts another configuration in force, in one swap. Requests in flight finish under the one that they started with; live
    /// state and connections of what is in both are kept.
    ///
    /// TLS files are read anew, so that a renewed certificate holds for new connections. What belongs to the listener (address,
    /// number of connections, deadlines of heads) is that of the start.
    ///
    /// # Errors
    /// When TLS files or a provider's proxy cannot be used; nothing has changed then.
    pub fn replace(&self, snapshot: Arc<Snapshot>, dials: &HashMap<ProviderId, Dial>) -> Result<(), SetUpError> {
        let tls = client_tls(&snapshot)?;
        self.put(snapshot, dials)?;
        self.tls.store(tls);
        Ok(())
    }

    fn put(&self, snapshot: Arc<Snapshot>, dials: &HashMap<ProviderId, Dial>) -> Result<(), ClientError> {
        let old = self.runtime();
        let over = Over { changes: &self.changes, discovered: &self.discovered.lock().clone(), epoch: &self.epoch };
        let runtime = Runtime::new(snapshot, dials, Some(&old), self.shared.clone(), &over)?;
        self.buffers.set_limit(runtime.snapshot.server.max_buffered_bytes);
        self.runtime.store(Arc::new(runtime));
        Ok(())
    }

    /// Lays the changes at run time, and what providers serve, over the configuration in force anew.
    ///
    /// # Errors
    /// None that the configuration did not have when it was put in force.
    pub fn renew(&self) -> Result<(), ClientError> {
        // What is being reloaded now would be lost otherwise.
        let _one_at_a_time = self.generations.begin_change();
        let snapshot = Arc::clone(&self.runtime().configured);
        self.put(snapshot, &HashMap::new())
    }

    /// What holds now. Taken once for a request and kept to its end.
    pub fn runtime(&self) -> Arc<Runtime> {
        self.runtime.load_full()
    }

    /// The state now.
    pub fn status(&self) -> Status {
        let runtime = self.runtime();
        Status::gather(&runtime.snapshot, &runtime.selector, self.wall(), self.clock.now())
    }

    /// Turns moments into wall-clock text.
    pub fn wall(&self) -> WallClock {
        WallClock::of(&self.epoch)
    }

    /// Log lines that could not be taken, since the start.
    pub fn log_lines_dropped(&self) -> u64 {
        self.access.lines_dropped()
    }

    /// Waits until what finished requests left behind is written and with the exporter of spans, for at most two seconds.
    pub fn flush_log(&self) {
        self.access.flush();
    }

    /// How long the process has been running.
    pub fn uptime(&self) -> Duration {
        self.clock.now().since(Instant::START)
    }
}

/// What is laid over a configuration, and what its clock is in Unix time.
struct Over<'a> {
    changes: &'a Changes,
    discovered: &'a Discovered,
    epoch: &'a Epoch,
}

impl Runtime {
    fn new(
        configured: Arc<Snapshot>,
        dials: &HashMap<ProviderId, Dial>,
        old: Option<&Self>,
        shared: Shared,
        over: &Over<'_>,
    ) -> Result<Self, ClientError> {
        let snapshot = configured.serving(over.discovered);
        let changed = over.changes.over(&snapshot);
        let adjust = |backend: &Arc<Backend>| Arc::clone(changed.get(&backend.id).unwrap_or(backend));
        let selector = Arc::new(PoolSelector::adjusted(&snapshot, old.map(|old| &*old.selector), &adjust));
        let upstreams = Upstreams::new(snapshot.providers.values(), dials, old.map(|old| old.relay.upstreams()))?;
        let limits = limits(&snapshot);
        let relay = Relay::new(Arc::clone(&selector) as Arc<dyn RouteSelector>, Arc::new(upstreams), limits, shared);
        let calendar = Calendar::new(&snapshot.settings.budget_zone, over.epoch.clone());
        let cors = Cors::new(&snapshot.server.cors_allowed_origins);
        Ok(Self { configured, cors, calendar, snapshot, selector, relay: Arc::new(relay) })
    }
}

/// Whether what a configuration names outside of itself can be used, as at a start: TLS files, proxies.
///
/// # Errors
/// What cannot.
pub fn try_out(snapshot: &Snapshot) -> Result<(), SetUpError> {
    client_tls(snapshot)?;
    Upstreams::new(snapshot.providers.values(), &demo::dials(snapshot.providers.values()), None)?;
    Ok(())
}

fn client_tls(snapshot: &Snapshot) -> Result<Option<Arc<rustls::ServerConfig>>, TlsError> {
    snapshot.server.tls.as_ref().map(tls::server_config).transpose()
}

fn limits(snapshot: &Snapshot) -> Limits {
    Limits {
        max_response_bytes: snapshot.server.max_response_bytes,
        keep_alive: snapshot.server.keep_alive,
        plain_keep_alive: snapshot.server.plain_keep_alive,
        total_timeout: snapshot.settings.total_timeout,
        attempts: Allowance {
            max_retries: snapshot.settings.max_retries,
            max_internal_retries: snapshot.settings.max_internal_retries,
        },
    }
}

/// Where the facts of finished requests go.
struct Settled {
    ledger: Arc<Recorder>,
    epoch: Epoch,
    access: AccessLog,
    metrics: Arc<Metrics>,
    traces: Arc<Traces>,
    decisions: Arc<Decisions>,
    observers: Vec<Arc<dyn Observer>>,
}

impl ExchangeSink for Settled {
    fn settle(&self, facts: &mut Facts, now: Instant) {
        let latency = now.since(facts.started);
        self.ledger.record(facts, latency, &self.epoch);
        self.metrics.settle(facts, latency);
        for observer in &self.observers {
            observer.finished(facts, latency);
        }
        if facts.explained {
            self.decisions.settle(facts, latency);
        }
        self.access.take(facts, latency, &self.traces);
    }
}
