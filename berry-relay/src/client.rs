//! How upstreams are reached: one pool of connections for each provider, kept over reloads while what it connects to stays the
//! same.
//!
//! HTTP/2 where TLS offers it, HTTP/1.1 otherwise; happy eyeballs, TCP keep-alive, `TCP_NODELAY`; proxies by configuration or
//! by the usual variables; trust in the system's roots (the bundled Mozilla roots where the system has none) and the
//! provider's own. The built-in demo upstream is reached over an in-memory connection in the same way.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::BuildHasher as _;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use berry_core::config::snapshot::{self, Demo, Provider, Transport};
use berry_core::id::{ProviderId, UpstreamModel};
use berry_core::operation::Operation;
use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderName, HeaderValue, Uri};
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::pool::Pool;
use crate::repair::Repairs;
use crate::target;

/// First TCP keep-alive probe on a silent connection; long plain answers depend on it.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Opens an in-memory connection to an upstream in this process.
pub type Dial = Arc<dyn Fn() -> DuplexStream + Send + Sync>;

/// Why a provider cannot be reached as configured.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file of the provider's TLS settings does not hold what it should.
    #[error("{provider}: {path}: {why}")]
    Pem {
        /// Whose setting.
        provider: ProviderId,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Certificate and key do not make an identity.
    #[error("{provider}: the client certificate cannot be used: {source}")]
    Identity {
        /// Whose setting.
        provider: ProviderId,
        /// The reason.
        #[source]
        source: rustls::Error,
    },
    /// A proxy address of a kind that is not supported.
    #[error("{provider}: proxy scheme {scheme} is not supported, use http:// or socks5://")]
    ProxyScheme {
        /// Whose setting.
        provider: ProviderId,
        /// The scheme.
        scheme: String,
    },
}

/// For what is neither a client nor an upstream, such as a collector of traces: trust in the system's roots, no proxy.
pub type Outside = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client for addresses of the operator's own.
pub fn outside() -> Outside {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::clone(system_roots()));
    let connector = https(config.with_no_client_auth(), tcp_connector());
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector)
}

/// The upstreams of one configuration, ready to be called.
#[derive(Default)]
pub struct Upstreams {
    by_provider: FxHashMap<ProviderId, Arc<Upstream>>,
}

/// One provider, ready to be called.
pub(crate) struct Upstream {
    /// Its connections.
    pub(crate) pool: Arc<Pool>,
    /// Headers that go with every call, the key last.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Whose they are.
    provider: Arc<Provider>,
    made_for: MadeFor,
    /// Addresses by operation, for the styles where the model is not part of them.
    urls: Vec<Option<Uri>>,
    /// Backends that refused `stream_options`, which we had added.
    refuses_stream_options: Mutex<HashSet<UpstreamModel>>,
    any_refuses_stream_options: AtomicBool,
    /// What was learnt from refusals.
    pub(crate) repairs: Repairs,
}

/// What connections depend on; while it stays the same, a reload keeps them.
#[derive(PartialEq)]
struct MadeFor {
    transport: Transport,
    /// Hashes of what the files that it names hold, since they may be renewed in place.
    files: Vec<Option<u64>>,
    origin: Uri,
    connect_timeout: Duration,
    demo: Option<Demo>,
}

impl MadeFor {
    fn of(provider: &Provider) -> Self {
        let demo = match &provider.upstream {
            snapshot::Upstream::Demo(demo) => Some(demo.clone()),
            _ => None,
        };
        Self {
            transport: provider.transport.clone(),
            files: files(&provider.transport),
            origin: target::origin(provider),
            connect_timeout: provider.timeouts.connect,
            demo,
        }
    }
}

impl Upstream {
    /// The address of `operation` for `model`.
    ///
    /// # Errors
    /// When a model name cannot be part of an address.
    pub(crate) fn url(&self, provider: &Provider, operation: Operation, model: &str) -> Result<Uri, http::Error> {
        match &self.urls[operation as usize] {
            Some(url) => Ok(url.clone()),
            None => target::url(provider, operation, model),
        }
    }

    /// Whether `model` is known to refuse `stream_options`.
    pub(crate) fn refuses_stream_options(&self, model: &UpstreamModel) -> bool {
        self.any_refuses_stream_options.load(Ordering::Relaxed) && self.refuses_stream_options.lock().contains(model)
    }

    /// Remembers that `model` refused `stream_options`.
    pub(crate) fn note_refused_stream_options(&self, model: &UpstreamModel) {
        self.refuses_stream_options.lock().insert(model.clone());
        self.any_refuses_stream_options.store(true, Ordering::Relaxed);
    }

    /// Takes back that `model` refused `stream_options`: it was something else.
    pub(crate) fn forget_refused_stream_options(&self, model: &UpstreamModel) {
        self.refuses_stream_options.lock().remove(model);
    }
}

impl Upstreams {
    /// Upstreams for every enabled provider. A pool of `old` is kept where nothing that concerns its connections has changed.
    ///
    /// `dials` gives the in-memory upstreams by provider. What belongs to the same provider of the same configuration is kept whole.
    ///
    /// # Errors
    /// [`ClientError`] for TLS files or proxies that cannot be used.
    pub fn new<'a>(
        providers: impl Iterator<Item = &'a Arc<Provider>>,
        dials: &HashMap<ProviderId, Dial>,
        old: Option<&Self>,
    ) -> Result<Self, ClientError> {
        let mut by_provider = FxHashMap::default();
        for provider in providers.filter(|provider| provider.enabled) {
            let kept = old.and_then(|old| old.by_provider.get(&provider.id));
            if let Some(same) = kept.filter(|kept| Arc::ptr_eq(&kept.provider, provider)) {
                by_provider.insert(provider.id.clone(), Arc::clone(same));
                continue;
            }
            let made_for = MadeFor::of(provider);
            let kept = kept.filter(|kept| kept.made_for == made_for);
            let pool = match kept {
                Some(kept) => Arc::clone(&kept.pool),
                None => {
                    let route = match dials.get(&provider.id) {
                        Some(dial) => Route::Memory(Arc::clone(dial)),
                        None => Route::for_provider(provider, &made_for.origin)?,
                    };
                    let connector = Connector { route, timeout: provider.timeouts.connect };
                    Arc::new(Pool::new(connector, made_for.origin.clone()))
                }
            };
            by_provider.insert(provider.id.clone(), Arc::new(prepare(provider, pool, made_for)));
        }
        Ok(Self { by_provider })
    }

    /// Closes connections that have been idle for too long. To be called every few seconds.
    pub fn close_idle(&self) {
        self.by_provider.values().for_each(|upstream| upstream.pool.close_idle());
    }

    /// The upstream of an enabled provider.
    pub(crate) fn get(&self, provider: &ProviderId) -> Option<&Upstream> {
        self.by_provider.get(provider).map(|upstream| &**upstream)
    }
}

fn prepare(provider: &Arc<Provider>, pool: Arc<Pool>, made_for: MadeFor) -> Upstream {
    let mut headers = provider.headers.clone();
    headers.extend(target::key_header(provider));
    // A forward proxy sees the request itself; a tunnel or a SOCKS proxy has its credentials in the connector.
    if made_for.origin.scheme_str() == Some("http")
        && let Some(auth) = intercept(provider, &made_for.origin).as_ref().and_then(Intercept::basic_auth)
    {
        headers.push((PROXY_AUTHORIZATION, auth.clone()));
    }
    let urls = Operation::ALL
        .iter()
        .map(|operation| match target::names_model(provider, *operation) {
            true => None,
            false => target::url(provider, *operation, "").ok(),
        })
        .collect();
    Upstream {
        pool,
        headers,
        provider: Arc::clone(provider),
        made_for,
        urls,
        refuses_stream_options: Mutex::default(),
        any_refuses_stream_options: AtomicBool::new(false),
        repairs: Repairs::default(),
    }
}

/// Opens connections to one provider.
#[derive(Clone)]
pub(crate) struct Connector {
    route: Route,
    timeout: Duration,
}

#[derive(Clone)]
enum Route {
    Plain(HttpConnector),
    Tls(HttpsConnector<HttpConnector>),
    /// Plain text through a proxy that understands absolute request targets.
    ForwardProxy(HttpConnector, Uri),
    TunnelTls(HttpsConnector<Tunnel<HttpConnector>>),
    Socks(SocksV5<HttpConnector>),
    SocksTls(HttpsConnector<SocksV5<HttpConnector>>),
    Memory(Dial),
}

impl Route {
    fn for_provider(provider: &Provider, origin: &Uri) -> Result<Self, ClientError> {
        let tls = origin.scheme_str() == Some("https");
        let tcp = tcp_connector();
        let Some(proxy) = intercept(provider, origin) else {
            return Ok(if tls { Self::Tls(https(tls_config(provider)?, tcp)) } else { Self::Plain(tcp) });
        };
        let address = proxy.uri().clone();
        match address.scheme_str() {
            Some("http") if tls => {
                let tunnel = Tunnel::new(address, tcp);
                let tunnel = match proxy.basic_auth() {
                    Some(auth) => tunnel.with_auth(auth.clone()),
                    None => tunnel,
                };
                Ok(Self::TunnelTls(https(tls_config(provider)?, tunnel)))
            }
            Some("http") => Ok(Self::ForwardProxy(tcp, address)),
            Some("socks5" | "socks5h") => {
                let socks = SocksV5::new(address, tcp);
                let socks = match proxy.raw_auth() {
                    Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
                    None => socks,
                };
                Ok(if tls { Self::SocksTls(https(tls_config(provider)?, socks)) } else { Self::Socks(socks) })
            }
            other => Err(ClientError::ProxyScheme {
                provider: provider.id.clone(),
                scheme: other.unwrap_or_default().to_owned(),
            }),
        }
    }
}

/// The proxy for an origin: the provider's own, else what the environment's variables say.
pub(crate) fn intercept(provider: &Provider, origin: &Uri) -> Option<Intercept> {
    static ENVIRONMENT: OnceLock<Matcher> = OnceLock::new();
    match &provider.transport.proxy {
        Some(own) => Matcher::builder().all(own.to_string()).build().intercept(origin),
        None => ENVIRONMENT.get_or_init(Matcher::from_env).intercept(origin),
    }
}

fn tcp_connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(TCP_KEEP_ALIVE));
    tcp
}

fn https<T>(config: ClientConfig, connector: T) -> HttpsConnector<T> {
    HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_all_versions().wrap_connector(connector)
}

/// Roots, and the identity that we show, for one provider.
fn tls_config(provider: &Provider) -> Result<ClientConfig, ClientError> {
    let pem = |path: &PathBuf, why: String| ClientError::Pem { provider: provider.id.clone(), path: path.clone(), why };
    let mut roots = RootCertStore::clone(system_roots());
    if let Some(path) = &provider.transport.ca_file {
        for certificate in read_certificates(path).map_err(|why| pem(path, why))? {
            roots.add(certificate).map_err(|error| pem(path, error.to_string()))?;
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((chain_path, key_path)) = &provider.transport.client_identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = read_certificates(chain_path).map_err(|why| pem(chain_path, why))?;
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| pem(key_path, error.to_string()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|source| ClientError::Identity { provider: provider.id.clone(), source })
}

fn files(transport: &Transport) -> Vec<Option<u64>> {
    let identity = transport.client_identity.iter().flat_map(|(chain, key)| [chain, key]);
    let hash = |path: &PathBuf| std::fs::read(path).ok().map(|bytes| FxBuildHasher.hash_one(bytes));
    transport.ca_file.iter().chain(identity).map(hash).collect()
}

fn read_certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(certificates) }
}

/// Loaded at the first provider that needs TLS.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        roots
    })
}

impl Connector {
    /// Whether requests name the whole address, because a forward proxy reads them.
    pub(crate) fn speaks_absolute_form(&self) -> bool {
        matches!(self.route, Route::ForwardProxy(..))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = UpstreamIo;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<UpstreamIo, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Each inner connector is always ready; waiting happens in the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let Self { route, timeout } = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(timeout, route.connect(target)).await {
                Ok(connected) => connected,
                Err(_) => Err(Box::new(ConnectTimeout(timeout)) as BoxError),
            }
        })
    }
}

/// TCP or TLS did not come up in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {0:?}")]
pub(crate) struct ConnectTimeout(Duration);

impl Route {
    async fn connect(self, target: Uri) -> Result<UpstreamIo, BoxError> {
        Ok(match self {
            Self::Plain(mut tcp) => UpstreamIo::Plain { io: tcp.call(target).await?, proxied: false },
            Self::ForwardProxy(mut tcp, proxy) => UpstreamIo::Plain { io: tcp.call(proxy).await?, proxied: true },
            Self::Socks(mut socks) => UpstreamIo::Plain { io: socks.call(target).await?, proxied: false },
            Self::Tls(mut tls) => UpstreamIo::Tls(Box::new(tls.call(target).await?)),
            Self::TunnelTls(mut tls) => UpstreamIo::Tls(Box::new(tls.call(target).await?)),
            Self::SocksTls(mut tls) => UpstreamIo::Tls(Box::new(tls.call(target).await?)),
            Self::Memory(dial) => UpstreamIo::Memory(TokioIo::new(dial())),
        })
    }
}

/// One connection to an upstream.
pub(crate) enum UpstreamIo {
    Plain { io: TokioIo<TcpStream>, proxied: bool },
    Tls(Box<MaybeHttpsStream<TokioIo<TcpStream>>>),
    Memory(TokioIo<DuplexStream>),
}

impl Connection for UpstreamIo {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain { io, proxied } => io.connected().proxy(*proxied),
            Self::Tls(io) => io.connected(),
            Self::Memory(_) => Connected::new(),
        }
    }
}

/// Runs `$body` on whichever connection it is.
macro_rules! each {
    ($self:ident, $io:ident => $body:expr) => {
        match Pin::get_mut($self) {
            Self::Plain { io: $io, .. } => $body,
            Self::Tls($io) => $body,
            Self::Memory($io) => $body,
        }
    };
}

impl Read for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl Write for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain { io, .. } => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
            Self::Memory(io) => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }
}
