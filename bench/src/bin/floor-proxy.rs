//! The floor: a reverse proxy on the same libraries as Berry that does nothing else.
//!
//! It takes an HTTP/1.1 request, sends it to one upstream through a pooled client and sends the answer back: no
//! routing, no authentication, no checks, no log. What Berry costs above it is the price of Berry's features.
//!
//! A small body travels in the same write as its head, which is what any careful proxy does; a large or unbounded one
//! is passed on frame by frame.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use bytes::Bytes;
use clap::Parser;
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpListener;

/// Largest body that is collected so that it leaves in one write with its head.
const COLLECT_BYTES_MAX: u64 = 16 * 1024;

type PassedBody = Either<Full<Bytes>, Incoming>;
type Upstream = Client<HttpConnector, PassedBody>;

#[derive(Parser)]
struct Args {
    /// Address to listen on.
    #[arg(long)]
    bind: SocketAddr,
    /// Authority of the upstream, `host:port`.
    #[arg(long)]
    upstream: Authority,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Upstream = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
    let listener = TcpListener::bind(args.bind).await?;
    let service = service_fn(move |request| {
        let (client, authority) = (client.clone(), args.upstream.clone());
        async move { Ok::<_, Infallible>(forward(client, authority, request).await.unwrap_or_else(bad_gateway)) }
    });
    berry_bench::serve(listener, service).await;
    Ok(())
}

async fn forward(
    client: Upstream,
    authority: Authority,
    request: Request<Incoming>,
) -> Result<Response<PassedBody>, Box<dyn Error + Send + Sync>> {
    let (mut head, body) = request.into_parts();
    let mut uri = head.uri.into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(authority);
    head.uri = Uri::from_parts(uri)?;
    head.headers.remove(header::HOST);
    let request = Request::from_parts(head, whole_if_small(body).await?);
    let (head, body) = client.request(request).await?.into_parts();
    Ok(Response::from_parts(head, whole_if_small(body).await?))
}

async fn whole_if_small(body: Incoming) -> Result<PassedBody, hyper::Error> {
    match body.size_hint().upper() {
        Some(bytes) if bytes <= COLLECT_BYTES_MAX => Ok(Either::Left(Full::new(body.collect().await?.to_bytes()))),
        _ => Ok(Either::Right(body)),
    }
}

fn bad_gateway(error: Box<dyn Error + Send + Sync>) -> Response<PassedBody> {
    let mut response = Response::new(Either::Left(Full::from(error.to_string())));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
