//! What the measuring binaries share.
//!
//! Three binaries make the figures of `docs/performance.md`; `bench/run.py` drives them:
//!
//! - `floor-proxy`: the least a hyper reverse proxy can do, the yardstick for Berry;
//! - `bench-upstream`: a fixed answer at a fixed pace, cheap enough not to set the result;
//! - `bench-load`: closed and open loop load, latency percentiles, and the CPU and memory of the process under test.

pub mod load;

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Marks the nanoseconds since the Unix epoch that `bench-upstream` writes into every streamed event and `bench-load`
/// reads back: the digits follow it directly.
pub const STAMP: &str = "\"content\":\"@";

/// Serves HTTP/1.1 connections from `listener` for ever, each on its own task with `TCP_NODELAY` set.
///
/// A failed accept or connection is ignored: the load generator is the one that notices and reports it.
#[expect(clippy::disallowed_methods, reason = "a measuring server is killed, it has nothing to drain")]
pub async fn serve<S, B>(listener: TcpListener, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        // Without a timer: hyper's header deadline would cost a timer and a system call on every request.
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(connection);
    }
}
