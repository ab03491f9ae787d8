//! Where things are recorded, shared, logged and kept.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::limits::Budget;
use crate::secret::Secret;

/// `[ledger]`.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Where rows go.
    pub store: LedgerStore,
    /// Days that rows are kept; `None` = for ever.
    pub retention_days: Option<u32>,
    /// Whether the journal is forced to disk before an answer ends.
    pub fsync: bool,
    /// Largest size of the journal, bytes.
    pub journal_max_bytes: u64,
    /// Whether end users are recorded as hashes.
    pub hash_end_users: bool,
    /// When the store is down.
    pub on_failure: LedgerFallback,
}

impl Ledger {
    /// Whether requests are recorded at all.
    pub fn is_on(&self) -> bool {
        !matches!(self.store, LedgerStore::Off)
    }
}

/// Where rows go.
#[derive(Clone, Debug)]
pub enum LedgerStore {
    /// An SQLite file; in the data directory when no path is given.
    Sqlite(Option<PathBuf>),
    /// A PostgreSQL database; the address may hold a password.
    Postgres(Secret),
    /// Nowhere.
    Off,
}

/// The kinds of store, as they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Sqlite,
    Postgres,
    Off,
}

/// What a ledger that is down means for requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerFallback {
    /// They are served.
    Open,
    /// They are refused.
    Closed,
}

/// `[cluster]`.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Redis or Valkey; the address may hold a password.
    pub redis_url: Secret,
    /// What limits mean when it is away.
    pub on_failure: ClusterFallback,
    /// What budgets mean when it is away.
    pub budgets_on_failure: ClusterFallback,
    /// What names in it begin with.
    pub key_prefix: Box<str>,
    /// Instances that share, until it has told.
    pub instances: u32,
}

/// `[budget_webhook]`.
#[derive(Clone, Debug)]
pub struct BudgetWebhook {
    /// Where messages go: an `http://` or `https://` URL.
    pub url: Secret,
    /// What they are signed with.
    pub secret: Secret,
}

/// What limits mean while the shared store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterFallback {
    /// This instance's last lease, then its share of the limit.
    Local,
    /// Nothing is limited.
    Open,
    /// What is limited is refused.
    Closed,
}

/// `[telemetry]`.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// What standard output carries.
    pub log_format: LogFormat,
    /// A file that gets the log too.
    pub log_file: Option<LogFile>,
    /// OTLP collector.
    pub otlp_endpoint: Option<Uri>,
    /// Share of requests that are traced, when the client has not decided.
    pub trace_sample_ratio: f64,
}

/// A log file and its rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Where.
    pub path: PathBuf,
    /// What it carries.
    pub format: LogFormat,
    /// Size at which it is put aside, bytes; `None` = never.
    pub max_bytes: Option<u64>,
    /// How many that were put aside are kept.
    pub keep: u32,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[cache]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Whether answers are kept at all.
    pub enabled: bool,
    /// How long.
    pub ttl: Duration,
    /// All answers together, bytes.
    pub max_bytes: u64,
    /// Largest answer that is kept, bytes.
    pub max_entry_bytes: u64,
}

/// `[tags.NAME]`: what all users with a tag share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// On money.
    pub budget: Budget,
}
