//! What administrators change while the server runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_api::changes::expire;
use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use http::Method;
use serde_json::{Value, json};

use crate::support::{ADMIN, NARROW, TestGateway, snapshot};

/// A model with two providers, of which the first gets everything.
const CONFIG: &str = r#"
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
[providers.two]
name = "Two"
base_url = "http://two.test/v1"
api_key = ""

[models.pair]
name = "pair"
strategy = "failover"
[[models.pair.backends]]
provider = "one"
model = "a"
priority = 1
[[models.pair.backends]]
provider = "two"
model = "b"
priority = 2
"#;

fn gateway() -> TestGateway {
    let dial = || {
        let mock = Mock::new(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
        Arc::new(move || mock.connect()) as Dial
    };
    TestGateway::with(CONFIG, AccessLog::default(), HashMap::from([("one".into(), dial()), ("two".into(), dial())]))
}

/// Who answers a request.
async fn answers(gateway: &TestGateway) -> String {
    let answer = gateway.post("/v1/chat/completions", NARROW, r#"{"model":"pair","messages":[]}"#).await;
    match answer.status.as_u16() {
        200 => answer.header("x-berry-provider").to_owned(),
        status => status.to_string(),
    }
}

async fn change(gateway: &TestGateway, change: Value) -> Value {
    let made = gateway.post("/admin/changes", ADMIN, &change.to_string()).await;
    assert_eq!(made.status, 200, "{:?}", made.body);
    made.json()
}

#[tokio::test(start_paused = true)]
async fn a_drained_provider_gets_nothing_until_it_is_enabled_again() {
    let gateway = gateway();
    assert_eq!(answers(&gateway).await, "one");
    let made = change(&gateway, json!({"action": "drain", "provider": "one", "reason": "maintenance"})).await;
    assert_eq!((&made["backends"], &made["in_flight"]), (&json!(["pair/one:a"]), &json!(0)));
    assert_eq!(answers(&gateway).await, "two");
    let listed = gateway.get("/admin/changes", ADMIN).await.json();
    let first = &listed["changes"][0];
    assert_eq!(
        (&first["by"], &first["reason"], &first["enabled"]),
        (&json!("ada"), &json!("maintenance"), &json!(false))
    );
    change(&gateway, json!({"action": "enable", "provider": "one"})).await;
    assert_eq!(answers(&gateway).await, "one");
    assert_eq!(gateway.get("/admin/changes", ADMIN).await.json()["changes"], json!([]), "nothing is left of it");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_laid_over_each_new_configuration() {
    let gateway = gateway();
    let id = change(&gateway, json!({"action": "disable", "provider": "one"})).await["id"].clone();
    let without = CONFIG.replace("provider = \"one\"", "provider = \"two\"");
    gateway.gateway.app().replace(snapshot(&without), &HashMap::new()).unwrap();
    assert_eq!(gateway.get("/admin/changes", ADMIN).await.json()["changes"][0]["has_effect"], false);
    gateway.gateway.app().replace(snapshot(CONFIG), &HashMap::new()).unwrap();
    assert_eq!(answers(&gateway).await, "two");
    let token = [("x-api-key", ADMIN)];
    let path = format!("/admin/changes/{id}");
    assert_eq!(gateway.send(Method::DELETE, &path, &token, "").await.status, 200);
    assert_eq!(answers(&gateway).await, "one");
    assert_eq!(gateway.send(Method::DELETE, &path, &token, "").await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_change_ends_when_its_time_is_over() {
    let gateway = gateway();
    let app = Arc::clone(gateway.gateway.app());
    let test = async {
        change(&gateway, json!({"action": "drain", "provider": "one", "expires_in_seconds": 600})).await;
        tokio::time::sleep(Duration::from_secs(599)).await;
        assert_eq!(answers(&gateway).await, "two");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(answers(&gateway).await, "one");
        app.shutdown.drain();
    };
    tokio::join!(expire(Arc::clone(&app)), test);
}

#[tokio::test(start_paused = true)]
async fn a_weight_is_what_the_selector_uses_and_the_narrower_change_counts() {
    let gateway = gateway();
    change(&gateway, json!({"action": "set_weight", "provider": "two", "model": "pair", "weight": 7})).await;
    change(&gateway, json!({"action": "set_weight", "provider": "two", "weight": 3})).await;
    let weights = gateway.get("/admin/model-weights", ADMIN).await.json();
    assert_eq!(weights["models"]["pair"]["backends"][1]["original_weight"], 7.0);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_is_opened_and_closed_by_hand() {
    let gateway = gateway();
    let open = json!({"action": "open_circuit", "provider": "one", "expires_in_seconds": 60});
    change(&gateway, open).await;
    assert_eq!(answers(&gateway).await, "two");
    let health = gateway.get("/admin/backend-health", ADMIN).await.json();
    assert_eq!(health["backend_health"]["pair"]["backends"][0]["circuit"], "open");
    change(&gateway, json!({"action": "close_circuit", "provider": "one"})).await;
    assert_eq!(answers(&gateway).await, "one");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_changed_is_refused_with_what_to_do() {
    let gateway = gateway();
    for (body, status, says) in [
        (json!({"action": "drain", "provider": "nobody"}), 400, "No backend is like that"),
        (json!({"action": "drain", "provider": "one", "model": "none"}), 404, "none"),
        (json!({"action": "set_weight", "provider": "one"}), 400, "`weight`"),
        (json!({"action": "drain", "provider": "one", "expires_in_seconds": -1}), 400, "expires_in_seconds"),
        (json!({"action": "explode", "provider": "one"}), 400, "unknown variant"),
    ] {
        let refused = gateway.post("/admin/changes", ADMIN, &body.to_string()).await;
        assert_eq!(refused.status, status, "{body}");
        assert!(refused.json().to_string().contains(says), "{:?}", refused.body);
    }
    assert_eq!(gateway.post("/admin/changes", NARROW, "{}").await.status, 403);
    assert_eq!(gateway.send(Method::PUT, "/admin/changes", &[("x-api-key", ADMIN)], "").await.status, 405);
    assert_eq!(answers(&gateway).await, "one");
}
