//! Settings of models and backends that change requests: what the upstream sees through the whole service.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Script, SeenRequest};
use berry_relay::client::Dial;

use crate::support::{ADMIN, CONFIG, TestGateway};

/// What the upstream sees of `body` when the model and its backend have these settings.
async fn seen(model: &str, backend: &str, body: &str) -> SeenRequest {
    let pool = "[[models.wide.backends]]\nprovider = \"nowhere\"\n";
    assert!(CONFIG.contains(pool), "the place for the settings");
    let config = CONFIG.replace(pool, &format!("{model}\n{pool}{backend}\n"));
    let mock = Mock::new(Script::default());
    let dial = mock.clone();
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || dial.connect()) as Dial)]);
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    let answer = gateway.post("/v1/chat/completions", ADMIN, body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    mock.requests().remove(0)
}

const BODY: &str = r#"{"model":"wide", "temperature":0.70,"messages":[{"role":"user","content":"hi"}],"user":"ann"}"#;

#[tokio::test(start_paused = true)]
async fn settings_of_model_and_backend_are_spliced_in_order_and_the_rest_keeps_its_bytes() {
    let model =
        "defaults = { seed = 7, temperature = 0.1 }\noverride = { user = \"berry\" }\ndefault_max_output_tokens = 64";
    let backend = "drop = [\"temperature\"]\noverride = { seed = 8 }\ndefault_max_output_tokens = 32";
    let seen = seen(model, backend, BODY).await;
    assert_eq!(
        String::from_utf8_lossy(&seen.body),
        r#"{"model":"wide-upstream","messages":[{"role":"user","content":"hi"}],"user":"berry","seed":8,"max_tokens":32}"#
    );
}

#[tokio::test(start_paused = true)]
async fn headers_of_a_backend_go_over_those_of_its_model() {
    let seen =
        seen("extra_headers = { x-a = \"model\", x-b = \"model\" }", "extra_headers = { x-b = \"backend\" }", BODY)
            .await;
    assert_eq!((&seen.headers["x-a"], &seen.headers["x-b"]), (&"model".parse().unwrap(), &"backend".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn without_settings_nothing_changes() {
    assert_eq!(String::from_utf8_lossy(&seen("", "", BODY).await.body), BODY.replace("\"wide\"", "\"wide-upstream\""));
}

#[tokio::test(start_paused = true)]
async fn explain_names_the_settings_and_never_their_values() {
    let pool = "[[models.wide.backends]]\nprovider = \"nowhere\"\n";
    let config = CONFIG.replace(pool, &format!("override = {{ user = \"canary\" }}\n{pool}drop = [\"seed\"]\n"));
    let gateway = TestGateway::new(&config);
    let answer = gateway.post("/admin/explain", ADMIN, r#"{"model":"wide"}"#).await;
    let settings = &answer.json()["settings"];
    assert_eq!((&settings[0]["override"][0], &settings[1]["drop"][0]), (&"user".into(), &"seed".into()));
    assert!(!String::from_utf8_lossy(&answer.body).contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn what_settings_change_of_a_request_is_declared_and_recorded_and_a_default_takes_nothing_away() {
    let pool = "[[models.wide.backends]]\nprovider = \"nowhere\"\n";
    let settings = "override = { user = \"berry\" }\ndrop = [\"temperature\"]\ndefaults = { seed = 7 }";
    let config = CONFIG.replace(pool, &format!("{settings}\n{pool}"));
    let mock = Mock::new(Script::default());
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || mock.connect()) as Dial)]);
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    let token = format!("Bearer {ADMIN}");
    let headers = [("authorization", token.as_str()), ("x-berry-explain", "1")];
    let answer = gateway.send(http::Method::POST, "/v1/chat/completions", &headers, BODY).await;
    assert_eq!(answer.header("x-berry-loss"), "temperature;dropped, user;overridden");
    let path = format!("/admin/explain/{}", answer.header("x-request-id"));
    let record = gateway.send(http::Method::GET, &path, &headers, "").await.json();
    assert_eq!(record["outcome"]["loss"][0], serde_json::json!({"field": "temperature", "reason": "dropped"}));
    let edited = record["outcome"]["edited"].as_array().unwrap();
    assert!(edited.contains(&serde_json::json!({"parameter": "seed", "how": "defaulted"})), "{edited:?}");
}
