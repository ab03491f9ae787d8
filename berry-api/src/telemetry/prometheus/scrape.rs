//! Gathers every figure into one page.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use berry_core::money::NanoUsd;
use berry_core::operation::Operation;
use berry_loadbalance::breaker::Phase;
use berry_loadbalance::endpoint::{Endpoint, EndpointStats};
use berry_loadbalance::figures::{Distribution, REQUEST_BOUNDS_MS, TOKEN_BOUNDS_MS, TOKEN_KINDS};
use berry_loadbalance::outcome::FailureClass;
use berry_loadbalance::pool::Pool;
use berry_loadbalance::queue::Queue;

use super::page::{Format, Kind, Page};
use super::{METHODS, Metrics, Route};
use crate::app::{App, Runtime};
use crate::cluster::{Cluster, Condition};
use crate::prober::ProbeCounts;

/// Everything, now.
pub fn scrape(app: &App, format: Format) -> String {
    let runtime = app.runtime();
    let mut page = Page::new(format);
    app.metrics.write_requests(&mut page);
    write_process(app, &mut page);
    write_budgets(app, &mut page);
    write_choices(&runtime, &mut page);
    write_backends(app, &runtime, &mut page);
    write_probes(app, &mut page);
    if let Some(cluster) = &app.cluster {
        write_cluster(cluster, &mut page);
    }
    write_ledger(app, &mut page);
    page.finish()
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Metrics {
    fn write_requests(&self, page: &mut Page) {
        let pages = self.pages.lock().clone();
        let calls = Operation::ALL.iter().zip(&self.calls).map(|(operation, route)| (template(*operation), route));
        let routes: Vec<(&str, &Route)> = calls.chain(pages.iter().map(|(path, route)| (*path, &**route))).collect();
        let series = || {
            routes.iter().flat_map(|(path, route)| {
                let methods = METHODS.iter().zip(&route.methods);
                methods.filter_map(move |(method, series)| Some((*path, *method, series.get()?)))
            })
        };
        page.family(
            Kind::Counter,
            "http_requests_total",
            "Requests whose answer is over; 499 when the client left first.",
        );
        for (path, method, series) in series() {
            for (status, count) in series.statuses() {
                page.sample(&[("method", method), ("path", path), ("status", &status.to_string())], count);
            }
        }
        page.family(
            Kind::Histogram,
            "http_request_duration_seconds",
            "From the head of a request to the end of its answer.",
        );
        for (path, method, series) in series() {
            page.histogram(&[("method", method), ("path", path)], &series.duration());
        }
        page.family(Kind::Counter, "berry_retries_total", "Attempts after the first of a request.");
        page.sample(&[], read(&self.retries));
        page.family(Kind::Counter, "berry_cancellations_total", "API calls whose client left first.");
        page.sample(&[], read(&self.cancellations));
    }
}

/// The path of an operation, without its query.
fn template(operation: Operation) -> &'static str {
    let path = operation.path();
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn write_process(app: &App, page: &mut Page) {
    page.family(Kind::Gauge, "http_requests_in_flight", "Requests whose answer is not over.");
    page.sample(&[], read(&app.in_flight));
    page.family(Kind::Gauge, "berry_build_info", "Always 1; the label says which version runs.");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family(Kind::Gauge, "berry_start_time_seconds", "When the process started, Unix time.");
    page.sample(&[], app.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    page.family(Kind::Gauge, "berry_buffered_bytes", "Bytes of bodies and answers that are held.");
    page.sample(&[], app.buffers.held());
    page.family(
        Kind::Counter,
        "berry_log_lines_dropped_total",
        "Log lines that did not fit into the queue of the writer.",
    );
    page.sample(&[], app.log_lines_dropped());
    page.family(
        Kind::Counter,
        "berry_trace_spans_dropped_total",
        "Spans that the queue had no room for or the collector did not take.",
    );
    page.sample(&[], app.traces.dropped());
    page.family(Kind::Gauge, "berry_config_generation", "Number of the configuration in force.");
    page.sample(&[], app.generations.number());
    page.family(Kind::Gauge, "berry_config_last_reload_success", "0 while the last reload was refused, else 1.");
    page.sample(&[], u8::from(app.generations.failure().is_none()));
    page.family(Kind::Counter, "berry_config_reload_failures_total", "Reloads that were refused.");
    page.sample(&[], app.generations.failures());
}

fn write_cluster(cluster: &Cluster, page: &mut Page) {
    let calls = cluster.calls();
    page.family(Kind::Gauge, "berry_cluster_up", "1 while the shared store answers in time, else 0.");
    page.sample(&[], u8::from(cluster.condition() == Condition::Reached));
    page.family(Kind::Gauge, "berry_cluster_instances", "Instances that share limits, as far as is known.");
    page.sample(&[], cluster.instances());
    page.family(Kind::Counter, "berry_cluster_calls_total", "Calls of the shared store.");
    page.sample(&[], calls.made);
    page.family(
        Kind::Counter,
        "berry_cluster_call_failures_total",
        "Calls of the shared store, and tries to connect, that failed.",
    );
    page.sample(&[], calls.failed);
}

/// Budgets by kind of holder, never by name: users may be many.
fn write_budgets(app: &App, page: &mut Page) {
    let figures = app.budgets.figures();
    page.family(Kind::Counter, "berry_budget_refusals_total", "Requests that a budget had no room for.");
    for (holder, count) in figures.refused() {
        page.sample(&[("holder", holder)], count);
    }
    page.family(
        Kind::Counter,
        "berry_budget_thresholds_reached_total",
        "Shares of a budget that were reached, once for each holder and period.",
    );
    for (percent, count) in figures.reached() {
        page.sample(&[("percent", &percent.to_string())], count);
    }
    let (requests, usd) = figures.exceeded();
    page.family(
        Kind::Counter,
        "berry_budget_excess_requests_total",
        "Requests that cost more than was reserved for them.",
    );
    page.sample(&[], requests);
    page.family(Kind::Counter, "berry_budget_excess_usd_total", "What they cost above what was reserved, USD.");
    page.sample(&[], usd.as_nanos() as f64 / 1e9);
    page.family(
        Kind::Counter,
        "berry_budget_webhooks_total",
        "Messages to the receiver of budget_webhook: taken, given up, or without room in the queue.",
    );
    for (result, count) in app.budgets.news().counts() {
        page.sample(&[("result", result)], count);
    }
}

fn write_choices(runtime: &Runtime, page: &mut Page) {
    let pools: Vec<&Pool> = runtime.selector.pools().map(AsRef::as_ref).collect();
    page.family(Kind::Counter, "load_balance_selections_total", "Choices of a backend, one for each attempt.");
    for pool in &pools {
        let mut by_provider: BTreeMap<&str, u64> = BTreeMap::new();
        for endpoint in pool.endpoints() {
            *by_provider.entry(endpoint.backend().provider.id.as_str()).or_default() += endpoint.stats().selections;
        }
        let (model, strategy) = (pool.model().name.as_str(), pool.model().strategy.as_str());
        for (provider, selections) in by_provider {
            page.sample(&[("model", model), ("strategy", strategy), ("provider", provider)], selections);
        }
    }
    page.family(Kind::Counter, "berry_panic_selections_total", "Choices made although too few backends were healthy.");
    for pool in &pools {
        page.sample(&[("model", pool.model().name.as_str())], pool.panics());
    }
    write_queues(&pools, page);
}

/// Of models whose requests may wait for a place.
fn write_queues(pools: &[&Pool], page: &mut Page) {
    let queues: Vec<(&str, &Queue)> = pools
        .iter()
        .filter(|pool| !pool.model().queue_timeout.is_zero())
        .map(|pool| (pool.model().name.as_str(), &**pool.queue()))
        .collect();
    if queues.is_empty() {
        return;
    }
    page.family(Kind::Gauge, "berry_queue_requests", "Requests that wait for a place at a backend.");
    for (model, queue) in &queues {
        page.sample(&[("model", model)], queue.waiting());
    }
    page.family(Kind::Histogram, "berry_queue_wait_seconds", "How long requests waited whose client stayed.");
    for (model, queue) in &queues {
        page.histogram(&[("model", model)], &queue.waits());
    }
    page.family(Kind::Counter, "berry_queue_ends_total", "Requests that no longer wait, by how that ended.");
    for (model, queue) in &queues {
        for (ended, count) in queue.ends() {
            page.sample(&[("model", model), ("result", ended.as_str())], count);
        }
    }
}

/// One upstream model of a provider, over all pools that it is in: sums of what grows, the worst of what is a state.
struct Row {
    enabled: bool,
    healthy: bool,
    circuit: u8,
    confidence: f64,
    in_flight: u64,
    stats: EndpointStats,
    latency: Distribution,
    ttft: Distribution,
    token_time: Distribution,
    tokens: [u64; TOKEN_KINDS.len()],
    cost_usd: f64,
    /// Ours and the vendor's, of answers whose cost the vendor told.
    compared_usd: (f64, f64),
    /// Answers without a price for everything, and with tokens that were counted by us.
    doubts: (u64, u64),
}

impl Default for Row {
    fn default() -> Self {
        let none = |bounds_ms: &'static [u64]| Distribution {
            bounds_ms,
            buckets: vec![0; bounds_ms.len() + 1],
            sum: std::time::Duration::ZERO,
        };
        Self {
            enabled: false,
            healthy: true,
            circuit: 0,
            confidence: 1.0,
            in_flight: 0,
            stats: EndpointStats::default(),
            latency: none(REQUEST_BOUNDS_MS),
            ttft: none(REQUEST_BOUNDS_MS),
            token_time: none(TOKEN_BOUNDS_MS),
            tokens: [0; TOKEN_KINDS.len()],
            cost_usd: 0.0,
            compared_usd: (0.0, 0.0),
            doubts: (0, 0),
        }
    }
}

impl Row {
    fn add(&mut self, endpoint: &Endpoint, used: bool, now: berry_core::time::Instant) {
        let (stats, figures) = (endpoint.stats(), endpoint.figures());
        if used && endpoint.backend().enabled {
            self.enabled = true;
            self.healthy &= endpoint.is_healthy(now);
            self.circuit = self.circuit.max(circuit(endpoint.circuit().phase));
            self.confidence = self.confidence.min(endpoint.confidence(now));
        }
        self.in_flight += u64::from(stats.in_flight);
        self.stats.successes += stats.successes;
        self.stats.caller_faults += stats.caller_faults;
        self.stats.cancellations += stats.cancellations;
        for (sum, count) in self.stats.failures.iter_mut().zip(stats.failures) {
            *sum += count;
        }
        self.latency.add(&figures.latency.read());
        self.ttft.add(&figures.ttft.read());
        self.token_time.add(&figures.token_time.read());
        for (sum, count) in self.tokens.iter_mut().zip(figures.tokens()) {
            *sum += count;
        }
        self.cost_usd += usd(figures.cost());
        let (ours, reported) = figures.compared_cost();
        self.compared_usd.0 += usd(ours);
        self.compared_usd.1 += usd(reported);
        let (unpriced, estimated) = figures.doubts();
        self.doubts.0 += unpriced;
        self.doubts.1 += estimated;
    }
}

fn usd(amount: NanoUsd) -> f64 {
    amount.as_nanos() as f64 / 1e9
}

/// 0 closed, 1 half-open (also while traffic grows back), 2 open.
fn circuit(phase: Phase) -> u8 {
    match phase {
        Phase::Closed { .. } => 0,
        Phase::HalfOpen { .. } | Phase::Recovering { .. } => 1,
        Phase::Open { .. } => 2,
    }
}

fn label<'a>(key: &(&'a str, &'a str)) -> [(&'static str, &'a str); 2] {
    [("provider", key.0), ("model", key.1)]
}

/// A family with one figure for each upstream model.
type Family = (&'static str, &'static str, fn(&Row) -> f64);

/// States of backends that are in use.
const STATES: [Family; 3] = [
    ("backend_health_status", "1 while it is healthy in every model that uses it, else 0.", |row| row.healthy.into()),
    ("circuit_breaker_state", "0 closed, 1 half-open, 2 open; the worst of its models.", |row| row.circuit.into()),
    ("smart_ai_confidence_score", "Confidence of smart_ai, 0 to 1; the worst of its models.", |row| row.confidence),
];

/// What only grows.
const COUNTERS: [Family; 7] = [
    ("backend_request_count_total", "Attempts that ended with something to learn of the backend.", |row| {
        row.stats.requests() as f64
    }),
    ("berry_backend_cancellations_total", "Attempts that were given up.", |row| row.stats.cancellations as f64),
    ("berry_cost_usd_total", "Cost of finished requests, as far as prices are known.", |row| row.cost_usd),
    ("berry_cost_reported_usd_total", "What vendors themselves say that answers cost, of those that say it.", |row| {
        row.compared_usd.1
    }),
    ("berry_cost_compared_usd_total", "Our cost of the same answers; the drift is the difference.", |row| {
        row.compared_usd.0
    }),
    (
        "berry_unpriced_requests_total",
        "Requests that used something of which no price is known; their cost is too small.",
        |row| row.doubts.0 as f64,
    ),
    (
        "berry_estimated_requests_total",
        "Requests of which some tokens were counted by the gateway, because the upstream did not tell.",
        |row| row.doubts.1 as f64,
    ),
];

/// A family of times.
type Times = (&'static str, &'static str, fn(&Row) -> &Distribution);

const TIMES: [Times; 3] = [
    ("backend_latency_seconds", "Successful attempts, to their end.", |row| &row.latency),
    ("berry_ttft_seconds", "Streamed requests, from their head to the first content.", |row| &row.ttft),
    ("berry_inter_token_seconds", "Streamed answers: time for each token after the first, on average.", |row| {
        &row.token_time
    }),
];

fn write_backends(app: &App, runtime: &Runtime, page: &mut Page) {
    let rows = rows(app, runtime);
    for (name, help, value) in STATES {
        page.family(Kind::Gauge, name, help);
        for (key, row) in rows.iter().filter(|(_, row)| row.enabled) {
            page.sample(&label(key), value(row));
        }
    }
    page.family(Kind::Gauge, "berry_backend_requests_in_flight", "Attempts under way.");
    for (key, row) in &rows {
        page.sample(&label(key), row.in_flight);
    }
    for (name, help, value) in COUNTERS {
        page.family(Kind::Counter, name, help);
        for (key, row) in &rows {
            page.sample(&label(key), value(row));
        }
    }
    page.family(Kind::Counter, "backend_error_count_total", "Attempts that failed, by class.");
    for (key, row) in &rows {
        let [provider, model] = label(key);
        for class in FailureClass::ALL {
            page.sample(&[provider, model, ("class", class.as_str())], row.stats.failures[class.index()]);
        }
    }
    page.family(
        Kind::Counter,
        "berry_tokens_total",
        "Tokens that upstreams reported; cached and cache_write are parts of input, reasoning of output.",
    );
    for (key, row) in &rows {
        let [provider, model] = label(key);
        for (kind, count) in TOKEN_KINDS.iter().zip(row.tokens) {
            page.sample(&[provider, model, ("kind", kind)], count);
        }
    }
    for (name, help, of) in TIMES {
        page.family(Kind::Histogram, name, help);
        for (key, row) in &rows {
            page.histogram(&label(key), of(row));
        }
    }
}

/// Every upstream model of every provider, by provider and name.
fn rows<'r>(app: &App, runtime: &'r Runtime) -> BTreeMap<(&'r str, &'r str), Row> {
    let now = app.clock.now();
    let mut rows: BTreeMap<(&str, &str), Row> = BTreeMap::new();
    for pool in runtime.selector.pools() {
        for endpoint in pool.endpoints() {
            let id = &endpoint.backend().id;
            let row = rows.entry((id.provider.as_str(), id.upstream.as_str())).or_default();
            row.add(endpoint, pool.model().enabled && endpoint.backend().provider.enabled, now);
        }
    }
    rows
}

/// What probes asked of each provider: they are no requests, and what they cost is nobody's usage.
fn write_probes(app: &App, page: &mut Page) {
    type Figure = fn(&ProbeCounts) -> f64;
    let counts = app.probes.read();
    page.family(
        Kind::Counter,
        "berry_probes_total",
        "Questions of probes: models lists, one-token chats, connections.",
    );
    for (provider, counts) in &counts {
        for (kind, count) in [("models", counts.lists), ("chat", counts.chats), ("connect", counts.connections)] {
            page.sample(&[("provider", provider.as_str()), ("kind", kind)], count);
        }
    }
    let families: [(&str, &str, Figure); 3] = [
        ("berry_probe_failures_total", "Backends that a probe found to be unwell.", |counts| counts.failures as f64),
        ("berry_probe_tokens_total", "Tokens of the chats of probes.", |counts| counts.tokens as f64),
        ("berry_probe_cost_usd_total", "Cost of the chats of probes, as far as prices are known.", |counts| {
            usd(counts.cost)
        }),
    ];
    for (name, help, value) in families {
        page.family(Kind::Counter, name, help);
        for (provider, counts) in &counts {
            page.sample(&[("provider", provider.as_str())], value(counts));
        }
    }
}

/// How the ledger is; nothing where there is none.
fn write_ledger(app: &App, page: &mut Page) {
    let Some(status) = app.ledger.status() else { return };
    page.family(Kind::Gauge, "berry_ledger_lag_rows", "Rows that the database does not have yet.");
    page.sample(&[], status.lag_rows);
    page.family(Kind::Gauge, "berry_ledger_journal_bytes", "Size of the journal.");
    page.sample(&[], status.journal_bytes);
    page.family(Kind::Counter, "berry_ledger_rows_total", "Rows that the database took.");
    page.sample(&[], status.stored);
    page.family(Kind::Counter, "berry_ledger_rows_dropped_total", "Rows that were lost because nothing took them.");
    page.sample(&[], status.dropped);
}
