//! Keys issued at run time, and the audit of what administrators do.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use http::Method;
use serde_json::{Value, json};

use crate::support::{ADMIN, NARROW, TestGateway, snapshot};

const CONFIG: &str = r#"
[server]
trusted_proxies = ["192.0.2.1"]
[users.ada]
name = "Ada"
token = "token-of-ada-the-admin"
tags = ["admin"]
[users.ned]
name = "Ned"
token = "token-of-ned-the-narrow"
[providers.one]
name = "One"
base_url = "http://one.test/v1"
api_key = ""
[models.open]
name = "open"
[[models.open.backends]]
provider = "one"
model = "a"
[models.closed]
name = "closed"
[[models.closed.backends]]
provider = "one"
model = "b"
"#;

/// A gateway whose data directory has something in it already, or has not.
fn gateway(directory: &tempfile::TempDir) -> TestGateway {
    let mock = Mock::new(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    let dial = Arc::new(move || mock.connect()) as Dial;
    let gateway = TestGateway::with(CONFIG, AccessLog::default(), HashMap::from([("one".into(), dial)]));
    gateway.gateway.app().keys.open(directory.path()).expect("usable");
    gateway.gateway.app().audit.open(directory.path()).expect("usable");
    gateway
}

/// Id and token of a new key.
async fn create(gateway: &TestGateway, grant: Value) -> (String, String) {
    let made = gateway.post("/admin/keys", ADMIN, &grant.to_string()).await;
    assert_eq!((made.status.as_u16(), made.header("cache-control")), (201, "no-store"), "{made:?}");
    let made = made.json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&made["key"]["id"]), text(&made["token"]))
}

async fn ask(gateway: &TestGateway, token: &str, model: &str) -> u16 {
    let body = json!({"model": model, "messages": []}).to_string();
    gateway.post("/v1/chat/completions", token, &body).await.status.as_u16()
}

#[tokio::test]
async fn a_key_may_what_it_was_granted_over_reload_and_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = gateway(&directory);
    let grant = json!({"name": "batch", "allowed_models": ["open"], "rate_limit": {"requests_per_minute": 2}});
    let (id, token) = create(&first, grant).await;
    assert_eq!(ask(&first, &token, "open").await, 200);
    assert_eq!(ask(&first, &token, "closed").await, 403);
    first.gateway.app().replace(snapshot(CONFIG), &HashMap::new()).expect("the same again");
    assert_eq!(first.get("/v1/models", &token).await.json()["data"].as_array().map(Vec::len), Some(1));
    let second = gateway(&directory);
    assert_eq!(ask(&second, &token, "open").await, 200);
    assert_eq!(ask(&second, &token, "open").await, 200);
    assert_eq!(ask(&second, &token, "open").await, 429, "its own limit");
    assert_eq!(second.get("/admin/config", &token).await.status.as_u16(), 403);
    let listed = second.get("/admin/keys", ADMIN).await;
    assert_eq!(listed.json()["keys"][0]["id"], *id);
    assert_eq!(listed.json()["keys"][0]["created_by"], "ada");
    assert!(!String::from_utf8_lossy(&listed.body).contains(&token));
}

#[tokio::test]
async fn a_key_ends_at_once_on_the_connection_that_used_it() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = gateway(&directory);
    let (id, old) = create(&gateway, json!({"name": "batch"})).await;
    assert_eq!(ask(&gateway, &old, "open").await, 200);
    let rotated = gateway.post(&format!("/admin/keys/{id}/rotate"), ADMIN, "").await.json();
    let new = rotated["token"].as_str().unwrap().to_owned();
    assert_eq!((ask(&gateway, &old, "open").await, ask(&gateway, &new, "open").await), (401, 200));
    let authorization = format!("Bearer {ADMIN}");
    let path = format!("/admin/keys/{id}");
    let headers = [("authorization", authorization.as_str())];
    assert_eq!(gateway.send(Method::DELETE, &path, &headers, "").await.json()["revoked"], *id);
    assert_eq!(ask(&gateway, &new, "open").await, 401);
    assert_eq!(gateway.send(Method::DELETE, &path, &headers, "").await.status.as_u16(), 404);
}

#[tokio::test]
async fn a_key_with_networks_believes_only_what_trusted_proxies_say() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = gateway(&directory);
    let (_, token) = create(&gateway, json!({"name": "office", "allowed_networks": ["198.51.100.0/24"]})).await;
    let authorization = format!("Bearer {token}");
    for (forwarded, status) in [
        ("198.51.100.7", 200),
        ("203.0.113.9", 401),
        // What a client writes stands to the left of what the proxy adds.
        ("198.51.100.7, 203.0.113.9", 401),
    ] {
        let headers = [("authorization", authorization.as_str()), ("x-forwarded-for", forwarded)];
        let answer = gateway.send(Method::GET, "/v1/models", &headers, "").await;
        assert_eq!(answer.status.as_u16(), status, "{forwarded}");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_only_administrators_may_ask() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = gateway(&directory);
    for bad in [
        json!({}),
        json!({"name": "x", "tags": ["admin"]}),
        json!({"name": "x", "allowed_networks": ["10.0.0.0/33"]}),
        json!({"name": "x", "expires_in_seconds": 0}),
        json!({"name": "x", "unknown": 1}),
        json!({"name": "x", "rate_limit": {"requests_per_minute": 0}}),
        json!({"name": "x", "model_rate_limits": {"narrow": {"max_concurrent": 0}}}),
        json!([]),
    ] {
        let refused = gateway.post("/admin/keys", ADMIN, &bad.to_string()).await;
        assert_eq!((refused.status.as_u16(), refused.error_code()), (400, "invalid_request".to_owned()), "{bad}");
    }
    assert_eq!(gateway.post("/admin/keys", NARROW, "{\"name\":\"x\"}").await.status.as_u16(), 403);
    assert_eq!(gateway.get("/admin/keys", ADMIN).await.json()["keys"], json!([]));
    let nowhere = TestGateway::new(CONFIG);
    assert_eq!(nowhere.post("/admin/keys", ADMIN, "{\"name\":\"x\"}").await.status.as_u16(), 503);
}

#[tokio::test]
async fn what_administrators_do_is_in_the_audit_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let first = gateway(&directory);
    let (id, token) = create(&first, json!({"name": "batch"})).await;
    first
        .post("/admin/changes", ADMIN, &json!({"action": "drain", "provider": "one", "reason": "why"}).to_string())
        .await;
    first.post("/admin/config/rollback", ADMIN, "{\"generation\":99}").await;
    let second = gateway(&directory);
    let audit = second.get("/admin/audit?limit=3", ADMIN).await;
    let entries = audit.json()["entries"].clone();
    let told = |n: usize| (entries[n]["action"].clone(), entries[n]["target"].clone(), entries[n]["done"].clone());
    assert_eq!(told(0), (json!("config.rollback"), json!(""), json!(false)));
    assert_eq!(told(1), (json!("change.make"), json!("one"), json!(true)));
    assert_eq!(told(2), (json!("key.create"), json!(id), json!(true)));
    assert_eq!((entries[2]["by"].clone(), entries[2]["from"].clone()), (json!("ada"), json!("192.0.2.1")));
    assert_eq!(entries[1]["detail"]["reason"], "why");
    assert!(!String::from_utf8_lossy(&audit.body).contains(&token));
}
