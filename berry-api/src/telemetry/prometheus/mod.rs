//! `GET /prometheus`: the figures as Prometheus and OpenMetrics read them.
//!
//! Requests add to counters that they hold a reference to; nothing is looked up by name and no label is written until somebody
//! scrapes. Figures of backends are those that balancing keeps anyway ([`berry_loadbalance::figures`] and the endpoint's
//! counters). No label comes from a client: paths are templates of routes, methods and statuses come from closed lists, and
//! what is not known is counted under one value. So the number of series depends on the configuration only.

mod page;
mod scrape;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use berry_core::lanes::Lanes;
use berry_core::operation::Operation;
use berry_loadbalance::figures::{Distribution, Histogram, REQUEST_BOUNDS_MS};
use berry_relay::exchange::{End, Facts};
use http::Method;
use parking_lot::Mutex;

pub use page::Format;
pub use scrape::scrape;

/// What a path that no route knows is counted under.
pub const UNKNOWN_PATH: &str = "unknown";

/// Methods that are told apart; the last stands for all others.
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "other"];

/// Statuses 100 to 599.
const STATUSES: usize = 500;

/// The figures that belong to no backend.
#[derive(Default)]
pub struct Metrics {
    /// By operation.
    calls: Vec<Route>,
    /// By template of the router.
    pages: Mutex<BTreeMap<&'static str, Arc<Route>>>,
    retries: AtomicU64,
    cancellations: AtomicU64,
}

/// One path, by method. A series comes into being with its first request.
#[derive(Default)]
struct Route {
    methods: [OnceLock<Box<Series>>; METHODS.len()],
}

/// Each thread counts for itself.
struct Series(Lanes<Counts>);

struct Counts {
    statuses: Box<[AtomicU64]>,
    duration: Histogram,
}

/// Which of the known methods a request has.
#[derive(Clone, Copy, Debug)]
pub struct MethodLabel(usize);

impl MethodLabel {
    /// Of a request.
    pub fn of(method: &Method) -> Self {
        let last = METHODS.len() - 1;
        Self(METHODS[..last].iter().position(|name| *name == method.as_str()).unwrap_or(last))
    }
}

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub enum Path {
    /// An API call.
    Call(Operation),
    /// Another route's template; `None` = no route.
    Page(Option<&'static str>),
}

impl Metrics {
    /// Nothing was counted yet.
    pub fn new() -> Self {
        Self { calls: Operation::ALL.iter().map(|_| Route::default()).collect(), ..Self::default() }
    }

    /// Counts a request whose answer is over.
    pub fn request(&self, path: Path, method: MethodLabel, status: u16, duration: Duration) {
        match path {
            Path::Call(operation) => self.calls[place(operation)].count(method, status, duration),
            Path::Page(template) => {
                let route = Arc::clone(self.pages.lock().entry(template.unwrap_or(UNKNOWN_PATH)).or_default());
                route.count(method, status, duration);
            }
        }
    }

    /// Counts what a finished API call says, for itself and for its backend.
    pub fn settle(&self, facts: &Facts, latency: Duration) {
        if facts.attempts > 1 {
            self.retries.fetch_add(u64::from(facts.attempts - 1), Ordering::Relaxed);
        }
        if facts.end == End::Cancelled {
            self.cancellations.fetch_add(1, Ordering::Relaxed);
        }
        let Some(figures) = &facts.figures else { return };
        figures.count_tokens(&facts.usage);
        // What failed attempts cost was counted when the next one began.
        if let (Some(cost), Some(_)) = (&facts.cost, &facts.tariff) {
            figures.add_cost(cost.own());
            figures.count_doubts(!cost.priced, cost.estimated);
            if let (Some(reported), Some(_)) = (cost.reported, cost.drift()) {
                figures.compare_cost(cost.own(), reported);
            }
        }
        let Some(ttft) = facts.ttft.filter(|_| facts.stream) else { return };
        figures.ttft.record(ttft);
        if let Some(after_first) =
            facts.usage.output_tokens.and_then(|tokens| u32::try_from(tokens).ok()?.checked_sub(1))
            && after_first > 0
            && facts.end == End::Complete
        {
            figures.token_time.record(latency.saturating_sub(ttft) / after_first);
        }
    }
}

/// Both framings of a Gemini stream have one path.
fn place(operation: Operation) -> usize {
    match operation {
        Operation::StreamGenerateContentArray => Operation::StreamGenerateContent as usize,
        _ => operation as usize,
    }
}

impl Route {
    fn count(&self, method: MethodLabel, status: u16, duration: Duration) {
        let counts = self.methods[method.0].get_or_init(Box::default).0.own();
        let status = usize::from(status).saturating_sub(100).min(STATUSES - 1);
        counts.statuses[status].fetch_add(1, Ordering::Relaxed);
        counts.duration.record(duration);
    }
}

impl Default for Series {
    fn default() -> Self {
        Self(Lanes::new(|_| Counts::default()))
    }
}

impl Series {
    /// Requests by status, of those that there were.
    fn statuses(&self) -> impl Iterator<Item = (usize, u64)> {
        let count = |place: usize| self.0.iter().map(|counts| counts.statuses[place].load(Ordering::Relaxed)).sum();
        (0..STATUSES).map(move |place| (place + 100, count(place))).filter(|(_, count)| *count > 0)
    }

    fn duration(&self) -> Distribution {
        let mut all = Histogram::new(REQUEST_BOUNDS_MS).read();
        for counts in self.0.iter() {
            all.add(&counts.duration.read());
        }
        all
    }
}

impl Default for Counts {
    fn default() -> Self {
        let statuses = (0..STATUSES).map(|_| AtomicU64::new(0)).collect();
        Self { statuses, duration: Histogram::new(REQUEST_BOUNDS_MS) }
    }
}
