//! The configuration as the running server uses it: immutable, cross-checked, cheap to share.
//!
//! A request takes one snapshot at its start and keeps it to its last byte; a reload swaps the whole thing.

mod health;
mod limits;
mod prices;
mod request;
mod served;
mod stores;
mod users;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use ipnet::IpNet;
use rustc_hash::FxHashMap;

pub use health::{Adjustments, Circuit, HealthCheck, Probing, SmartAi};
pub use limits::{BackendLimits, Budget, BudgetZone, RateLimit, UserLimits};
pub use prices::PriceTable;
pub use request::{Commit, Edits, Expose, LossPolicy};
pub use served::{DISCOVERED_MAX, Discovered};
pub(crate) use stores::StoreKind;
pub use stores::{
    BudgetWebhook, Cache, Cluster, ClusterFallback, Ledger, LedgerFallback, LedgerStore, LogFile, LogFormat, Tag,
    Telemetry,
};
pub(crate) use users::{NewUser, UsersBuilder};
pub use users::{User, Users};

use super::provider_data::{Capabilities, ErrorTable, ProviderData, Vendor};
use crate::id::{BackendId, ModelId, ModelName, ProviderId, UpstreamModel};
use crate::operation::Dialect;
use crate::policy::ModelPattern;
use crate::secret::Secret;
use crate::tariff::Tariff;

/// Everything that one configuration says.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// `[server]`.
    pub server: Server,
    /// `[settings]` that are not folded into providers and models.
    pub settings: Settings,
    /// Users by key and by token. Shared, since there may be very many.
    pub users: Arc<Users>,
    /// Providers by table key, disabled ones included.
    pub providers: HashMap<ProviderId, Arc<Provider>>,
    /// Models by every name that reaches them.
    pub models: Models,
    /// `[ledger]`.
    pub ledger: Ledger,
    /// `[cluster]`; alone without it.
    pub cluster: Option<Cluster>,
    /// `[budget_webhook]`; nobody is told without it.
    pub budget_webhook: Option<BudgetWebhook>,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// `[cache]`.
    pub cache: Cache,
    /// Prices for backends that state none.
    pub prices: Arc<PriceTable>,
    /// `[tags]`.
    pub tags: HashMap<Box<str>, Tag>,
}

/// `[server]` with its defaults filled in.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where to listen, when neither `--bind` nor `BIND_ADDRESS` says so.
    pub bind_address: SocketAddr,
    /// Connections held at once; more wait in the listen queue.
    pub max_connections: usize,
    /// Largest request body, bytes.
    pub max_body_bytes: usize,
    /// All request bodies and answers held at once, bytes.
    pub max_buffered_bytes: usize,
    /// Largest plain answer of an upstream, bytes.
    pub max_response_bytes: usize,
    /// TLS for clients; plain text without it.
    pub tls: Option<ServerTls>,
    /// How long a drain waits for requests in flight.
    pub shutdown_grace: Duration,
    /// How long `/readyz` fails before the listener closes.
    pub drain_delay: Duration,
    /// Origins that browsers may call `/v1*` from; `*` for any.
    pub cors_allowed_origins: Vec<String>,
    /// Whether `/metrics`, `/prometheus` and `/smart-ai/*` need an admin token.
    pub protect_monitoring: bool,
    /// Silence after which a stream carries a keep-alive comment.
    pub keep_alive: Duration,
    /// Silence after which a plain answer is kept alive with white space; off without it.
    pub plain_keep_alive: Option<Duration>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections start with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Time for a request head to arrive, from its first byte.
    pub header_timeout: Duration,
    /// Time for a request body to arrive, beyond what its size earns at one KiB a second.
    pub body_timeout: Duration,
    /// How long an idle client connection is kept.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_stall: Duration,
    /// Whether replies carry `x-berry-provider`, `x-berry-model` and `x-berry-attempts`.
    pub berry_headers: bool,
    /// Failed authentications a minute from one address beyond which it is answered 429.
    pub auth_failures_per_minute: u32,
    /// Where the ledger and other state live; resolved by the server when absent.
    pub data_dir: Option<PathBuf>,
}

/// Certificate and key of the server, and who may connect.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// PEM chain.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// PEM roots; with it a client must show a certificate that they signed.
    pub client_ca: Option<PathBuf>,
}

/// What of `[settings]` concerns no single provider or model.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Log request bodies at debug level.
    pub log_request_body: bool,
    /// Log answer bodies at debug level.
    pub log_response_body: bool,
    /// Hide keys whole in `/admin/config`; otherwise their ends are shown there.
    pub mask_api_keys: bool,
    /// Attempts for a request beyond the first.
    pub max_retries: u32,
    /// Of these, how many may go to the same backend.
    pub max_internal_retries: u32,
    /// Longest time for a whole plain request, or for a stream up to its commit point.
    pub total_timeout: Duration,
    /// When backends are probed.
    pub probing: Probing,
    /// When circuits open.
    pub circuit: Circuit,
    /// Figures of the `smart_ai` strategy.
    pub smart_ai: SmartAi,
    /// Whether backends without a price take no requests.
    pub refuse_unpriced: bool,
    /// Where days and months of budgets begin.
    pub budget_zone: BudgetZone,
}

/// One account at one upstream.
#[derive(Debug)]
pub struct Provider {
    /// Table key.
    pub id: ProviderId,
    /// The table key for a header; none where no header can carry it.
    pub id_header: Option<HeaderValue>,
    /// Name for people.
    pub name: String,
    /// Takes no traffic and no probes when off.
    pub enabled: bool,
    /// What it speaks and where.
    pub upstream: Upstream,
    /// Our key there; empty for keyless servers.
    pub api_key: Secret,
    /// Model names that it serves; empty = any.
    pub models: Vec<UpstreamModel>,
    /// Sent on every call.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Client headers that are passed on beside the fixed list.
    pub forward_headers: Vec<HeaderName>,
    /// Attempts here beyond the first within one request; `None` = no limit of its own.
    pub max_retries: Option<u32>,
    /// How long each silence is waited out.
    pub timeouts: Timeouts,
    /// Whether streams are asked for their usage.
    pub stream_usage: StreamUsage,
    /// TLS and proxy of the connection.
    pub transport: Transport,
    /// How it is probed.
    pub health_check: HealthCheck,
    /// Whether its models are asked for; `models` is empty then.
    pub discover: bool,
    /// Which of its models are published as `provider/model`.
    pub expose: Expose,
    /// Whether a refused parameter is learnt from and the request sent again.
    pub repair: bool,
    /// Whether it has OpenAI's Responses API.
    pub responses: bool,
    /// Who it is of, where that is known.
    pub vendor: Option<Arc<Vendor>>,
    /// What its errors mean.
    pub errors: ErrorTable,
    /// What is known of models.
    pub data: Arc<ProviderData>,
}

/// What an upstream speaks and where it is.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// OpenAI-compatible; `base` ends before `/chat/completions`, without a trailing slash.
    OpenAi {
        /// `https://api.openai.com/v1`.
        base: Uri,
    },
    /// Azure OpenAI.
    Azure(Azure),
    /// Anthropic; `base` ends in `/v1`.
    Anthropic {
        /// `https://api.anthropic.com/v1`.
        base: Uri,
        /// Bearer instead of `x-api-key`, for Azure's `/anthropic` path with `auth = "bearer"`.
        auth: KeyHeader,
    },
    /// Gemini; `base` ends in `/v1beta`.
    Gemini {
        /// `https://generativelanguage.googleapis.com/v1beta`.
        base: Uri,
    },
    /// The upstream that is built in.
    Demo(Demo),
}

impl Upstream {
    /// The host that it is reached at; none for the one that is built in.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::OpenAi { base } | Self::Anthropic { base, .. } | Self::Gemini { base } => base.host(),
            Self::Azure(azure) => azure.base.host(),
            Self::Demo(_) => None,
        }
    }

    /// The dialect that it speaks.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::OpenAi { .. } | Self::Azure(_) | Self::Demo(_) => Dialect::OpenAi,
            Self::Anthropic { .. } => Dialect::Anthropic,
            Self::Gemini { .. } => Dialect::Gemini,
        }
    }
}

/// An Azure OpenAI resource.
#[derive(Clone, Debug)]
pub struct Azure {
    /// Scheme, host and path prefix: what stands before `/openai/deployments`, or the whole base of the other styles.
    pub base: Uri,
    /// Which of Azure's URL styles.
    pub style: AzureStyle,
    /// `api-version` of the query; the v1 style needs none.
    pub api_version: Option<String>,
    /// Which header carries the key.
    pub auth: KeyHeader,
}

/// Azure's URL styles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AzureStyle {
    /// `{base}/openai/deployments/{deployment}/chat/completions?api-version=…`.
    Deployments,
    /// `{base}/chat/completions`, the deployment in `model`; `base` ends in `/openai/v1`.
    V1,
    /// `{base}/chat/completions?api-version=…`; `base` ends in `/models`.
    Inference,
}

/// Which header carries a provider's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHeader {
    /// `authorization: Bearer KEY`.
    Bearer,
    /// `api-key: KEY` (Azure).
    ApiKey,
    /// `x-api-key: KEY` (Anthropic).
    XApiKey,
    /// `x-goog-api-key: KEY` (Gemini).
    XGoogApiKey,
}

/// Knobs of the built-in demo upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Demo {
    /// Makes its answers repeatable.
    pub seed: u64,
    /// Silence before the first token.
    pub first_token_latency: Duration,
    /// Between tokens.
    pub token_latency: Duration,
    /// Share of requests that it answers with an error, 0 to 1.
    pub failure_rate: f64,
}

/// Longest silences that are waited out at a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP and TLS.
    pub connect: Duration,
    /// Headers of a stream.
    pub stream_headers: Duration,
    /// Headers of a plain request, which is silent while the model thinks.
    pub completion: Duration,
    /// First content event of a stream; `None` = only the other limits hold.
    pub first_token: Option<Duration>,
    /// Between two chunks.
    pub stream_idle: Duration,
}

/// Whether streams are asked for a usage chunk that the client did not ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUsage {
    /// Unless the upstream is known not to take it.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How the connection to a provider is made.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Transport {
    /// PEM roots that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM chain and key that we show.
    pub client_identity: Option<(PathBuf, PathBuf)>,
    /// Proxy of its own; without it the proxy variables of the environment decide. May hold a password.
    pub proxy: Option<Uri>,
}

/// Shows the proxy's host and port only.
impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |uri: &Uri| format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default());
        f.debug_struct("Transport")
            .field("ca_file", &self.ca_file)
            .field("client_identity", &self.client_identity)
            .field("proxy", &self.proxy.as_ref().map(host))
            .finish()
    }
}

/// The models.
#[derive(Clone, Debug, Default)]
pub struct Models {
    /// By public name, table key and alias; enabled ones only.
    pub by_name: FxHashMap<Box<str>, Arc<Model>>,
    /// Enabled models whose name is a pattern, the one with the most literal characters first.
    pub patterns: Vec<Arc<Model>>,
    /// All of them in table order, disabled ones included.
    pub all: Vec<Arc<Model>>,
}

impl Models {
    /// The model that a client means by `name`: the one that has the name, else the closest pattern that matches it.
    pub fn find(&self, name: &str) -> Option<&Arc<Model>> {
        let matches = |model: &&Arc<Model>| model.pattern.as_ref().is_some_and(|pattern| pattern.matches(name));
        self.by_name.get(name).or_else(|| self.patterns.iter().find(matches))
    }
}

/// One public model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Table key.
    pub id: ModelId,
    /// What clients ask for.
    pub name: ModelName,
    /// The name for a header; none where no header can carry it.
    pub name_header: Option<HeaderValue>,
    /// Further names.
    pub aliases: Vec<ModelName>,
    /// Not found by clients when off.
    pub enabled: bool,
    /// How a backend is chosen.
    pub strategy: Strategy,
    /// For a model that answers to every name of a kind; its name as a pattern.
    pub pattern: Option<ModelPattern>,
    /// Whether answers carry the public name instead of the upstream's.
    pub rewrite_response_model: bool,
    /// What is done to its requests.
    pub edits: Edits,
    /// How long its streams are held back after their first content.
    pub commit: Commit,
    /// What happens when a translation cannot carry everything.
    pub loss_policy: LossPolicy,
    /// Embeddings: whether its backends give vectors of one space.
    pub interchangeable: bool,
    /// Whether a refused parameter is learnt from and the request sent again.
    pub repair: bool,
    /// How long a request may wait when every backend is full.
    pub queue_timeout: Duration,
    /// How many may wait so.
    pub queue_max: usize,
    /// Its pool, in file order, disabled ones included.
    pub backends: Vec<Arc<Backend>>,
}

/// One backend of a model's pool.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Who it is.
    pub id: BackendId,
    /// Where it is.
    pub provider: Arc<Provider>,
    /// Off without it, or with its provider or model off.
    pub enabled: bool,
    /// Relative share; finite and above 0.
    pub weight: f64,
    /// Lower is tried first.
    pub priority: u32,
    /// Labels that fence it to users who share one.
    pub tags: Vec<String>,
    /// What it charges for.
    pub billing: BillingMode,
    /// What it charges; of a backend that is asked for whatever was requested, see [`Backend::tariff_of`].
    pub tariff: Arc<Tariff>,
    /// Where prices are found for a backend that is asked for whatever was requested and states none.
    pub prices_by_name: Option<Arc<PriceTable>>,
    /// What its model can do; of a backend that is asked for whatever was requested, see [`Backend::capabilities_of`].
    pub capabilities: Capabilities,
    /// What it takes.
    pub limits: BackendLimits,
    /// What is done to its requests, after the model's edits.
    pub edits: Edits,
    /// Made from what its provider serves, see [`Snapshot::serving`]. There may be very many of them, so no probe of one costs
    /// tokens.
    pub derived: bool,
}

impl Backend {
    /// What stands for the requested name in [`BackendId::upstream`] of a pattern model's backend.
    pub const REQUESTED: &'static str = "$name";

    /// Whether it is asked for whatever was requested.
    pub fn takes_any_name(&self) -> bool {
        self.id.upstream.as_str() == Self::REQUESTED
    }

    /// Whether it takes traffic whose cost nobody can tell.
    pub fn is_unpriced(&self) -> bool {
        self.enabled && self.prices_by_name.is_none() && !self.tariff.is_known()
    }

    /// What it charges for a request that asked for `requested`.
    pub fn tariff_of(&self, requested: &str) -> &Arc<Tariff> {
        match &self.prices_by_name {
            Some(prices) => prices.find(&self.provider.upstream, self.upstream_model(requested)),
            None => &self.tariff,
        }
    }

    /// What the model can do that is asked for when the client asked for `requested`.
    pub fn capabilities_of(&self, requested: &str) -> Cow<'_, Capabilities> {
        match self.takes_any_name() {
            true => Cow::Owned(self.edits.capabilities(&self.provider, requested)),
            false => Cow::Borrowed(&self.capabilities),
        }
    }

    /// The model to ask the upstream for, when the client asked for `requested`.
    pub fn upstream_model<'a>(&'a self, requested: &'a str) -> &'a str {
        match self.id.upstream.as_str() {
            Self::REQUESTED => requested,
            fixed => fixed,
        }
    }
}

/// What a backend charges for; decides whether it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BillingMode {
    /// Tokens: probed actively.
    #[default]
    PerToken,
    /// Requests: health is learnt from user traffic only.
    PerRequest,
}

/// The policy that picks a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// In proportion to weight.
    WeightedRandom,
    /// Strict rotation.
    RoundRobin,
    /// Lowest peak-EWMA of TTFT.
    LeastLatency,
    /// Lowest priority number.
    Failover,
    /// Uniform.
    Random,
    /// By weight over healthy ones.
    WeightedFailover,
    /// By weight times recovery factor.
    SmartWeightedFailover,
    /// Confidence, cost and exploration.
    SmartAi,
    /// Power of two choices on latency times load.
    LeastBusy,
    /// Lowest expected cost.
    Cheapest,
    /// Consistent hashing on the conversation.
    Sticky,
}

impl Strategy {
    /// All of them with their configured names.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("weighted_random", Self::WeightedRandom),
        ("round_robin", Self::RoundRobin),
        ("least_latency", Self::LeastLatency),
        ("failover", Self::Failover),
        ("random", Self::Random),
        ("weighted_failover", Self::WeightedFailover),
        ("smart_weighted_failover", Self::SmartWeightedFailover),
        ("smart_ai", Self::SmartAi),
        ("least_busy", Self::LeastBusy),
        ("cheapest", Self::Cheapest),
        ("sticky", Self::Sticky),
    ];

    /// The configured name, which metrics and logs use too.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, strategy)| *strategy == self).map_or("", |(name, _)| name)
    }
}
