//! Liveness, readiness, and the state in figures.

use http::Method;
use serde_json::Value;

use crate::support::{Answer, CONFIG, TestGateway};

async fn get(gateway: &TestGateway, path: &str) -> Answer {
    gateway.send(Method::GET, path, &[], "").await
}

/// Whether every one of the names, separated by spaces, is a member.
fn has(value: &Value, names: &str) {
    for name in names.split(' ') {
        assert!(value.get(name).is_some(), "no {name} in {value}");
    }
}

#[tokio::test]
async fn health_keeps_the_names_that_existing_users_rely_on() {
    let body = get(&TestGateway::new(CONFIG), "/health").await.json();
    has(&body, "status service_running timestamp summary providers models load_balancer");
    for ratio in ["provider_health", "model_health"] {
        has(&body["summary"][ratio], "total healthy ratio");
    }
    let provider = &body["providers"]["nowhere"];
    has(provider, "name healthy enabled last_check total_requests successful_requests failed_requests");
    has(provider, "average_latency_ms total_models healthy_models models");
    has(&provider["models"]["narrow-upstream"], "healthy requests errors latency_ms failure_count");
    let model = &body["models"]["narrow_key"];
    has(model, "name strategy enabled total_backends healthy_backends health_ratio backends");
    has(&model["backends"][0], "provider model weight priority healthy enabled latency_ms failure_count");
    has(&body["load_balancer"], "total_selections strategy_distribution");
    assert_eq!(body["status"], "healthy");
}

#[tokio::test]
async fn the_short_form_keeps_its_names_too() {
    let body = get(&TestGateway::new(CONFIG), "/v1/health").await.json();
    has(&body, "status service_running models_available summary timestamp uptime_seconds");
    has(&body["summary"], "providers models backends");
    assert_eq!(body["models_available"], 3, "the one that is switched off is not counted");
}

#[tokio::test]
async fn metrics_keep_their_names() {
    let body = get(&TestGateway::new(CONFIG), "/metrics").await.json();
    has(&body, "status timestamp uptime_seconds http_requests_in_flight providers models load_balancer");
    has(&body["models"]["org/wide"], "total_requests successful_requests failed_requests");
    assert_eq!(body["http_requests_in_flight"], 1, "this one");
}

#[tokio::test]
async fn nothing_public_shows_an_upstream_address_or_a_key() {
    let gateway = TestGateway::new(CONFIG);
    for path in ["/", "/health", "/v1/health", "/metrics"] {
        let body = get(&gateway, path).await.body;
        let text = String::from_utf8_lossy(&body);
        for secret in ["127.0.0.1", "provider-key-canary", "token-of"] {
            assert!(!text.contains(secret), "{path} shows {secret}");
        }
    }
}

#[tokio::test]
async fn a_gateway_without_models_is_alive_but_strictly_unhealthy() {
    let gateway = TestGateway::new("[users.ada]\nname = \"Ada\"\ntoken = \"a-token-of-decent-length\"\n");
    for path in ["/health", "/v1/health"] {
        let answer = get(&gateway, path).await;
        assert_eq!((answer.status.as_u16(), answer.json()["status"].as_str()), (200, Some("unhealthy")));
        assert_eq!(get(&gateway, &format!("{path}?strict=1")).await.status.as_u16(), 503);
        assert_eq!(get(&gateway, &format!("{path}?strict=0")).await.status.as_u16(), 200);
    }
    assert_eq!(get(&gateway, "/livez").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_leaving_gateway_is_alive_but_not_ready() {
    let gateway = TestGateway::new(CONFIG);
    assert_eq!(get(&gateway, "/readyz").await.status.as_u16(), 200);
    gateway.gateway.app().shutdown.leave();
    assert_eq!(get(&gateway, "/readyz").await.status.as_u16(), 503);
    assert_eq!(get(&gateway, "/livez").await.status.as_u16(), 200);
}

#[tokio::test]
async fn the_front_page_is_html_for_browsers_and_a_line_for_programs() {
    let gateway = TestGateway::new(CONFIG);
    let page = gateway.send(Method::GET, "/", &[("accept", "text/html,application/xhtml+xml")], "").await;
    assert!(page.header("content-type").starts_with("text/html"));
    let line = get(&gateway, "/").await;
    assert!(line.header("content-type").starts_with("text/plain"));
    assert_eq!(line.body.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(gateway.send(Method::HEAD, "/", &[], "").await.status.as_u16(), 200);
}
