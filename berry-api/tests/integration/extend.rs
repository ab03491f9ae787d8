//! What an embedding program adds to a gateway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_api::extend::{Authenticator, Extensions, Observer};
use berry_api::telemetry::access::AccessLog;
use berry_core::auth::key::TokenDigest;
use berry_core::config::snapshot::User;
use berry_core::policy::{ModelPattern, ModelPolicy};
use berry_mock::{Mock, Script};
use berry_relay::exchange::Facts;
use http::StatusCode;
use http::request::Parts;
use parking_lot::Mutex;

use crate::support::{ADMIN, TestGateway};

const CONFIG: &str = r#"
[users.ada]
token = "token-of-ada-the-admin"
tags = ["admin"]
[providers.up]
base_url = "http://up.invalid/v1"
[models.open]
[[models.open.backends]]
provider = "up"
model = "open"
[models.closed]
[[models.closed.backends]]
provider = "up"
model = "closed"
"#;

/// Believes every token that names somebody.
struct Names;

impl Authenticator for Names {
    fn user(&self, _: &TokenDigest, head: &Parts) -> Option<Arc<User>> {
        let name = head.headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer name:")?;
        Some(Arc::new(User {
            id: name.into(),
            name: name.into(),
            enabled: name != "mallory",
            admin: false,
            tags: Arc::default(),
            models: ModelPolicy::new(vec![ModelPattern::new("open")]),
            limits: None,
        }))
    }
}

/// Who asked for what, and how it ended.
#[derive(Default)]
struct Seen(Mutex<Vec<(String, u16)>>);

impl Observer for Seen {
    fn finished(&self, facts: &Facts, _: Duration) {
        let user = facts.user.as_ref().map(|user| user.id.to_string()).unwrap_or_default();
        self.0.lock().push((user, facts.status));
    }
}

fn gateway() -> (TestGateway, Arc<Seen>) {
    let mock = Mock::new(Script::default());
    let dials = HashMap::from([("up".into(), Arc::new(move || mock.connect()) as _)]);
    let seen = Arc::new(Seen::default());
    let extensions = Extensions { authenticator: Some(Arc::new(Names)), observers: vec![Arc::clone(&seen) as _] };
    (TestGateway::extended(CONFIG, AccessLog::default(), dials, extensions), seen)
}

async fn ask(gateway: &TestGateway, token: &str, model: &str) -> StatusCode {
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#);
    gateway.post("/v1/chat/completions", token, &body).await.status
}

#[tokio::test(start_paused = true)]
async fn an_authenticator_of_ones_own_knows_further_users_with_their_permissions() {
    let (gateway, _) = gateway();
    assert_eq!(ask(&gateway, "name:bob", "open").await, StatusCode::OK);
    assert_eq!(ask(&gateway, "name:bob", "closed").await, StatusCode::FORBIDDEN);
    assert_eq!(ask(&gateway, "name:mallory", "open").await, StatusCode::UNAUTHORIZED, "switched off");
    assert_eq!(ask(&gateway, "nobody", "open").await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&gateway, ADMIN, "closed").await, StatusCode::OK, "the configuration's users stay");
}

#[tokio::test(start_paused = true)]
async fn an_observer_hears_of_each_request_once() {
    let (gateway, seen) = gateway();
    ask(&gateway, "name:bob", "open").await;
    ask(&gateway, ADMIN, "closed").await;
    assert_eq!(*seen.0.lock(), [("bob".to_owned(), 200), ("ada".to_owned(), 200)]);
}
