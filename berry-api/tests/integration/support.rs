//! A gateway in this process, made from the text of a configuration file.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use berry_api::app::{App, AppOptions};
use berry_api::extend::Extensions;
use berry_api::gateway::Gateway;
use berry_api::run::server_options;
use berry_api::server::Server;
use berry_api::server::connection::Connection;
use berry_api::telemetry::access::AccessLog;
use berry_core::config::snapshot::Snapshot;
use berry_core::config::{Config, Environment};
use berry_core::id::ProviderId;
use berry_relay::client::Dial;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

/// Users of [`CONFIG`].
pub(crate) const ADMIN: &str = "token-of-ada-the-admin";
pub(crate) const NARROW: &str = "token-of-ned-the-narrow";
pub(crate) const DISABLED: &str = "token-of-dee-the-disabled";

/// Two models that nobody answers for, and users who may use both, one or none.
pub(crate) const CONFIG: &str = r#"
[users.ada]
name = "Ada"
token = "token-of-ada-the-admin"
allowed_models = []
tags = ["admin"]
[users.ned]
name = "Ned"
token = "token-of-ned-the-narrow"
allowed_models = ["narrow"]
tags = ["basic"]
[users.dee]
name = "Dee"
token = "token-of-dee-the-disabled"
enabled = false

[providers.nowhere]
name = "Nowhere"
base_url = "http://127.0.0.1:9/v1"
api_key = "provider-key-canary"
models = []

[models.wide]
name = "org/wide"
strategy = "round_robin"
[[models.wide.backends]]
provider = "nowhere"
model = "wide-upstream"

[models.narrow_key]
name = "narrow"
strategy = "weighted_random"
[[models.narrow_key.backends]]
provider = "nowhere"
model = "narrow-upstream"

[models.premium]
name = "premium"
strategy = "round_robin"
[[models.premium.backends]]
provider = "nowhere"
model = "premium-upstream"
tags = ["premium"]

[models.off]
name = "off"
enabled = false
[[models.off.backends]]
provider = "nowhere"
model = "off-upstream"
"#;

/// Nothing outside the test.
struct NoEnvironment;

impl Environment for NoEnvironment {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn read_file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The snapshot of a configuration text.
pub(crate) fn snapshot(config: &str) -> Arc<Snapshot> {
    match Config::from_text("test.toml", config, &NoEnvironment) {
        Ok(loaded) => loaded.snapshot,
        Err(error) => panic!("{}", error.render(false)),
    }
}

/// A gateway and one connection to it.
pub(crate) struct TestGateway {
    pub(crate) gateway: Gateway,
    connection: Arc<Connection>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// The code of an error in OpenAI's shape, after checking what holds for all of them.
    pub(crate) fn error_code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json");
        assert!(self.header("x-request-id").starts_with("req_"), "{:?}", self.headers);
        let error = &self.json()["error"];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        assert!(error["type"].is_string() && error.get("param").is_some(), "{error}");
        error["code"].as_str().expect("a code").to_owned()
    }
}

impl TestGateway {
    pub(crate) fn new(config: &str) -> Self {
        Self::with_access(config, AccessLog::default())
    }

    pub(crate) fn with_access(config: &str, access: AccessLog) -> Self {
        Self::with(config, access, HashMap::new())
    }

    /// With in-memory upstreams.
    pub(crate) fn with(config: &str, access: AccessLog, dials: HashMap<ProviderId, Dial>) -> Self {
        Self::extended(config, access, dials, Extensions::default())
    }

    /// With what an embedding program adds.
    pub(crate) fn extended(
        config: &str,
        access: AccessLog,
        dials: HashMap<ProviderId, Dial>,
        extensions: Extensions,
    ) -> Self {
        let options = AppOptions { access, seed: 7, dials, extensions };
        let app = App::new(snapshot(config), options).expect("the test's upstreams can be made");
        let gateway = Gateway::new(Arc::new(app));
        let peer: SocketAddr = "192.0.2.1:4711".parse().expect("an address");
        let connection = Arc::new(gateway.connection(peer));
        Self { gateway, connection }
    }

    /// A server for this gateway, with the configuration's options.
    pub(crate) fn server(&self) -> Arc<Server> {
        let runtime = self.gateway.app().runtime();
        let options = server_options(&runtime.snapshot.server);
        Arc::new(Server::new(self.gateway.clone(), options))
    }

    pub(crate) async fn call(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.gateway.handle(&self.connection, request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the answer is whole").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(Method::GET, path, &[("authorization", &format!("Bearer {token}"))], "").await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &str) -> Answer {
        self.send(Method::POST, path, &[("authorization", &format!("Bearer {token}"))], body).await
    }

    /// The body of an answer, of which nothing is read yet.
    pub(crate) async fn open(
        &self,
        path: &str,
        token: &str,
        body: &str,
    ) -> impl Body<Data = Bytes, Error: Debug> + Unpin {
        let request = Request::post(path).header("authorization", format!("Bearer {token}"));
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).expect("a well-formed request");
        self.gateway.handle(&self.connection, request).await.into_body()
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())));
        self.call(request.expect("a well-formed request")).await
    }
}
