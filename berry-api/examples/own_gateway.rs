//! A gateway inside a program of your own: users from elsewhere, and a count of what they spend.
//!
//! `cargo run -p berry-api --example own_gateway`
//!
//! The server itself is wired in the same way in `berry-api/src/main.rs`.
#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berry_api::app::{App, AppOptions};
use berry_api::demo;
use berry_api::extend::{Authenticator, Extensions, Observer};
use berry_api::gateway::Gateway;
use berry_api::telemetry::access::AccessLog;
use berry_core::auth::key::TokenDigest;
use berry_core::config::snapshot::User;
use berry_core::config::{Config, ProcessEnvironment};
use berry_core::policy::ModelPolicy;
use berry_relay::exchange::Facts;
use bytes::Bytes;
use http::Request;
use http::request::Parts;
use http_body_util::{BodyExt as _, Full};

const CONFIG: &str = r#"
[providers.demo]
backend_type = "demo"
[models.demo]
name = "demo-model"
[[models.demo.backends]]
provider = "demo"
model = "demo-model"
"#;

/// Who is known: in a real program filled from a directory or an identity provider, and refreshed in the background.
struct Directory(HashMap<TokenDigest, Arc<User>>);

impl Directory {
    fn with(names: &[&str]) -> Self {
        let user = |name: &&str| {
            let user = User {
                id: (*name).into(),
                name: (*name).into(),
                enabled: true,
                admin: false,
                tags: Arc::default(),
                models: ModelPolicy::default(),
                limits: None,
            };
            (TokenDigest::of(&format!("token-of-{name}")), Arc::new(user))
        };
        Self(names.iter().map(user).collect())
    }
}

impl Authenticator for Directory {
    fn user(&self, digest: &TokenDigest, _: &Parts) -> Option<Arc<User>> {
        self.0.get(digest).cloned()
    }
}

/// Tokens that each user used.
#[derive(Default)]
struct Spent(Mutex<HashMap<String, u64>>);

impl Observer for Spent {
    fn finished(&self, facts: &Facts, _: Duration) {
        if let Some(user) = &facts.user {
            let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *spent.entry(user.id.to_string()).or_default() += facts.usage.total();
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let loaded = Config::from_text("example", CONFIG, &ProcessEnvironment)?;
    let spent = Arc::new(Spent::default());
    let app = App::new(
        Arc::clone(&loaded.snapshot),
        AppOptions {
            access: AccessLog::default(),
            seed: 1,
            dials: demo::dials(loaded.snapshot.providers.values()),
            extensions: Extensions {
                authenticator: Some(Arc::new(Directory::with(&["ann", "bob"]))),
                observers: vec![Arc::clone(&spent) as Arc<dyn Observer>],
            },
        },
    )?;
    let gateway = Gateway::new(Arc::new(app));
    // Here without a socket; `berry_api::server` serves the same gateway on one.
    let connection = Arc::new(gateway.connection("127.0.0.1:1".parse()?));
    for token in ["token-of-ann", "token-of-bob", "token-of-bob", "token-of-eve"] {
        let request = Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from_static(
                br#"{"model": "demo-model", "messages": [{"role": "user", "content": "Hello"}]}"#,
            )))?;
        let answer = gateway.handle(&connection, request).await;
        let status = answer.status();
        answer.into_body().collect().await?;
        println!("{token}: {status}");
    }
    let spent = spent.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut spent: Vec<_> = spent.iter().collect();
    spent.sort();
    println!("tokens used: {spent:?}");
    Ok(())
}
