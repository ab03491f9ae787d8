//! From a listening socket to requests: accept, protect, parse, hand over, drain.
//!
//! Limits, all by name in `[server]`: connections, time for a head, idle time, head of 64 KiB and 100 fields. What does not
//! fit waits (connections) or is refused (heads).

pub mod connection;
pub mod guarded_io;
pub mod limits;
pub mod proxy_protocol;
pub mod tls;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::gateway::Gateway;
use crate::reply::BoxError;
use crate::shutdown::Shutdown;
use guarded_io::{Deadlines, GuardedIo};

/// Connections that the system holds for us before they are accepted.
const BACKLOG: i32 = 4096;

/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// HTTP/2 requests on one connection at a time.
const STREAMS_MAX: u32 = 256;

/// Wait after a failed accept, so that a lack of descriptors does not become a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Between two words of the log that connections cannot be accepted: for hours, each that ends makes room for one that does not.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Silence after which TCP itself asks whether the peer is there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// How connections are held.
pub struct ServerOptions {
    /// Held at once; more wait in the system's queue.
    pub max_connections: usize,
    /// Time limits of a connection.
    pub deadlines: Deadlines,
    /// Balancers whose connections begin with a PROXY protocol header; empty when it is off. Everybody else's connections
    /// begin without one, so that nobody else can name another address.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// Opens the listening socket.
///
/// # Errors
/// Those of the system, such as an address in use.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows the option would let another process take the address over.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the drain begins, serves each on a task of `tasks`, and gives the listener up.
pub async fn accept_all(listener: TcpListener, server: Arc<Server>, tasks: TaskTracker) {
    let slots = Arc::new(Semaphore::new(server.options.max_connections.min(Semaphore::MAX_PERMITS)));
    let accepting = async {
        let mut told = None;
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            let (stream, peer) = accept(&listener, &mut told).await;
            tasks.spawn(Arc::clone(&server).connection(stream, peer, slot));
        }
    };
    tokio::select! {
        () = server.shutdown.drained() => {}
        () = accepting => {}
    }
}

/// The next connection. Errors of a single connection and lack of descriptors pass.
async fn accept(listener: &TcpListener, told: &mut Option<Instant>) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                    tracing::error!(%error, "cannot accept connections; the descriptor limit may be reached");
                    *told = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// The peer gave up between its SYN and our accept.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The guard keeps the deadline for heads; see there.
    builder.header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("64 KiB"))
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .keep_alive_interval(TCP_KEEPALIVE)
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// What every connection of a listener shares.
pub struct Server {
    gateway: Gateway,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    options: ServerOptions,
    shutdown: Shutdown,
}

impl Server {
    /// A server in front of `gateway`, which drains when the gateway's app does.
    pub fn new(gateway: Gateway, options: ServerOptions) -> Self {
        let shutdown = gateway.app().shutdown.clone();
        Self { gateway, http1: http1_builder(), http2: http2_builder(), options, shutdown }
    }

    /// One connection's life. `_slot` is given back at its end.
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, _slot: OwnedSemaphorePermit) {
        if let Err(error) = self.prepare_and_serve(stream, peer).await {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }

    async fn prepare_and_serve(&self, mut stream: TcpStream, peer: SocketAddr) -> Result<(), BoxError> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;

        let header = self.options.deadlines.header;
        let mut client = peer;
        let address = peer.ip().to_canonical();
        if self.options.proxy_protocol_from.iter().any(|net| net.contains(&address)) {
            let told = Box::pin(tokio::time::timeout(header, proxy_protocol::read_header(&mut stream))).await??;
            client = told.unwrap_or(peer);
        }
        match self.gateway.app().tls.load_full() {
            None => self.serve(stream, client).await,
            // Boxed, so that a connection without TLS does not carry the state of one with it.
            Some(config) => {
                let accepting = TlsAcceptor::from(config).accept(stream);
                let stream = Box::pin(tokio::time::timeout(header, accepting)).await??;
                Box::pin(self.serve(stream, client)).await
            }
        }
    }

    /// Serves HTTP on a stream that is ready for it, until either side closes it.
    ///
    /// # Errors
    /// What ended the connection before its time.
    pub async fn serve<T>(&self, stream: T, peer: SocketAddr) -> Result<(), BoxError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = Arc::new(self.gateway.connection(peer));
        let mut io = GuardedIo::new(stream, Arc::clone(&connection), self.options.deadlines);
        let http2 = tokio::select! {
            http2 = io.speaks_http2() => http2?,
            () = self.shutdown.drained() => return Ok(()),
        };
        let gateway = self.gateway.clone();
        let service = service_fn(move |request| {
            let (gateway, connection) = (gateway.clone(), Arc::clone(&connection));
            async move { Ok::<_, std::convert::Infallible>(gateway.handle(&connection, request).await) }
        });
        match http2 {
            false => self.drive(pin!(self.http1.serve_connection(TokioIo::new(io), service))).await,
            // Boxed: its state is large, and most connections are of the other kind.
            true => self.drive(Box::pin(self.http2.serve_connection(TokioIo::new(io), service)).as_mut()).await,
        }
    }

    /// Runs a connection to its end, which is soon once the drain has begun.
    async fn drive<C>(&self, mut http: Pin<&mut C>) -> Result<(), BoxError>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let mut drain = self.shutdown.watch();
        poll_fn(|cx| {
            if drain.begins(cx) {
                http.as_mut().graceful_shutdown();
            }
            http.as_mut().poll(cx)
        })
        .await?;
        Ok(())
    }
}
