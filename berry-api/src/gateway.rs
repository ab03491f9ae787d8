//! The front of the service: every request of every connection enters here.
//!
//! API calls are recognised by their exact path and take the data path of [`crate::routes::relay`], which has no layers;
//! everything else goes through the router. Both get their request id and their cross-origin grant here.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use berry_core::error::ErrorKind;
use berry_core::id::RequestId;
use berry_core::operation::{Dialect, Operation};
use berry_relay::exchange::Exchange;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body;
use tower::ServiceExt as _;

use crate::app::App;
use crate::error::ApiError;
use crate::gate::{dialect_of, is_gemini};
use crate::reply::{BoxError, Content, Reply};
use crate::routes::{self, Caller, Template};
use crate::server::connection::Connection;
use crate::telemetry::metrics::{MethodLabel, Path};

/// Our name for a request, on every reply.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Serves requests. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    app: Arc<App>,
    router: Router,
}

impl Gateway {
    /// The service over `app`.
    pub fn new(app: Arc<App>) -> Self {
        let router = routes::router(Arc::clone(&app));
        Self { app, router }
    }

    /// What all requests share.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// A connection whose requests this gateway will serve.
    pub fn connection(&self, peer: SocketAddr) -> Connection {
        Connection::new(peer, Arc::clone(&self.app))
    }

    /// Serves one request. A panic in it is answered 500 and ends nothing else.
    pub async fn handle<B>(&self, connection: &Arc<Connection>, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let id = self.app.ids.next();
        let runtime = self.app.runtime();
        let (mut parts, body) = request.into_parts();
        let operation = operation_at(&parts.uri);
        let path = operation.map_or(Path::Page(None), Path::Call);
        let mut active = connection.begin(path, MethodLabel::of(&parts.method));
        let grant = runtime.cors.grant(&parts);
        let preflight = runtime.cors.preflight(&parts);
        let dialect = operation.map_or_else(|| dialect_of(&parts), Operation::dialect);

        let mut response = match preflight {
            Some(headers) => no_content(headers),
            None => {
                // What a panic may have left half done is dropped with the request; what requests share holds no such state.
                let answer = match operation {
                    Some(operation) => {
                        let (clock, sink) = (self.app.clock, Arc::clone(&self.app.sink));
                        let exchange = Exchange::begin(id, operation, active.started, clock, sink);
                        let call = routes::relay::serve(&self.app, runtime, connection, exchange, &mut parts, body);
                        AssertUnwindSafe(call).catch_unwind().await
                    }
                    None => AssertUnwindSafe(self.page(connection, id, parts, body)).catch_unwind().await,
                };
                answer.unwrap_or_else(|_| panicked(dialect, &id))
            }
        };
        response.headers_mut().insert(REQUEST_ID, header_value(&id));
        if let Some(grant) = grant {
            grant.write(response.headers_mut());
        }
        active.answered(response.status(), response.extensions().get::<Template>().map(|template| template.0));
        response.map(|content| Reply::new(content, active))
    }

    /// Whatever is no call of the API.
    async fn page<B>(&self, connection: &Arc<Connection>, id: RequestId, parts: Parts, body: B) -> Response<Content>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let mut request = Request::from_parts(parts, axum::body::Body::new(body));
        request.extensions_mut().insert(Caller { id, connection: Arc::clone(connection) });
        // A router never fails; what its handlers cannot do, they say in a reply.
        let response = self.router.clone().oneshot(request).await;
        response.unwrap_or_else(|never| match never {}).map(Content::Routed)
    }
}

fn no_content(headers: HeaderMap) -> Response<Content> {
    let mut response = Response::new(Content::Whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = headers;
    response
}

#[cold]
fn panicked(dialect: Dialect, id: &RequestId) -> Response<Content> {
    let error = ApiError::new(
        ErrorKind::Internal,
        "The gateway made a mistake. Its log has the details under this request id.",
    );
    error.respond(dialect, id).map(Content::Whole)
}

/// The API call at a path.
fn operation_at(uri: &Uri) -> Option<Operation> {
    if is_gemini(uri) {
        return routes::gemini::call(uri).map(|(operation, _)| operation);
    }
    let path = uri.path();
    Operation::ALL.iter().copied().find(|operation| operation.path() == path)
}

fn header_value(id: &RequestId) -> HeaderValue {
    HeaderValue::from_str(id.as_str()).expect("made of ASCII letters and digits")
}
