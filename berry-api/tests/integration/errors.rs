//! What callers of each dialect are told.

use http::Method;
use serde_json::json;

use crate::support::{ADMIN, CONFIG, TestGateway};

#[tokio::test]
async fn errors_on_messages_have_anthropics_shape() {
    let gateway = TestGateway::new(CONFIG);
    for (path, token, body, status, kind) in [
        ("/v1/messages", "wrong", "{}", 401, "authentication_error"),
        ("/v1/messages", ADMIN, "{}", 400, "invalid_request_error"),
        ("/v1/messages", ADMIN, r#"{"model":"ghost"}"#, 404, "not_found_error"),
        ("/v1/messages/count_tokens", "wrong", "{}", 401, "authentication_error"),
        ("/v1/messages/batches", ADMIN, "{}", 404, "not_found_error"),
    ] {
        let answer = gateway.post(path, token, body).await;
        let error = answer.json();
        assert_eq!(answer.status.as_u16(), status, "{path} {error}");
        assert_eq!((error["type"].as_str(), error["error"]["type"].as_str()), (Some("error"), Some(kind)));
        assert_eq!(error["request_id"], json!(answer.header("x-request-id")));
    }
}

#[tokio::test]
async fn errors_on_gemini_paths_have_googles_shape() {
    let gateway = TestGateway::new(CONFIG);
    let answer = gateway.get("/v1beta/nothing", ADMIN).await;
    let error = answer.json();
    assert_eq!((error["error"]["code"].as_u64(), error["error"]["status"].as_str()), (Some(404), Some("NOT_FOUND")));
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones_without_asking_for_a_token() {
    let gateway = TestGateway::new(CONFIG);
    for (method, path, allow) in [
        (Method::GET, "/v1/chat/completions", "POST"),
        (Method::PUT, "/v1/embeddings", "POST"),
        (Method::POST, "/health", "GET, HEAD"),
        (Method::DELETE, "/v1/models", "GET, HEAD"),
        (Method::POST, "/v1/models/x", "GET, HEAD"),
    ] {
        let answer = gateway.send(method.clone(), path, &[], "").await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, allow), "{method} {path}");
        assert_eq!(answer.error_code(), "method_not_allowed");
    }
}

#[tokio::test]
async fn paths_that_only_look_like_routes_are_404() {
    let gateway = TestGateway::new(CONFIG);
    for path in [
        "/nowhere",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "/v1/chat/completions/more",
        "//v1/chat/completions",
        "/v1/../v1/chat/completions",
        "/V1/chat/completions",
        "/v1/chat%2Fcompletions",
        "/admin",
        "/dashboard/nowhere",
        "/health/",
    ] {
        let answer = gateway.post(path, ADMIN, "{}").await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn a_long_name_is_not_echoed_whole() {
    let gateway = TestGateway::new(CONFIG);
    for (length, status) in [(4_000, 404), (100_000, 400)] {
        let body = format!(r#"{{"model":"{}"}}"#, "x".repeat(length));
        let answer = gateway.post("/v1/chat/completions", ADMIN, &body).await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(answer.body.len() < 1000, "{}", answer.body.len());
    }
}

#[tokio::test]
async fn an_unusable_request_timeout_is_400() {
    let gateway = TestGateway::new(CONFIG);
    let bearer = format!("Bearer {ADMIN}");
    for timeout in ["0", "-1", "soon", "", "inf", "NaN"] {
        let headers = [("authorization", bearer.as_str()), ("x-request-timeout", timeout)];
        let answer = gateway.send(Method::POST, "/v1/chat/completions", &headers, r#"{"model":"narrow"}"#).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (400, "invalid_request"), "{timeout:?}");
        assert_eq!(answer.json()["error"]["param"], "x-request-timeout");
    }
}

#[tokio::test]
async fn every_reply_has_a_request_id_of_its_own() {
    let gateway = TestGateway::new(CONFIG);
    let mut ids = std::collections::HashSet::new();
    for path in ["/", "/health", "/nowhere", "/v1/models", "/v1/chat/completions"] {
        let headers = [("x-request-id", "the-clients-own")];
        let answer = gateway.send(Method::GET, path, &headers, "").await;
        assert!(ids.insert(answer.header("x-request-id").to_owned()), "{path}");
    }
    assert!(!ids.contains("the-clients-own"));
}

#[tokio::test]
async fn what_the_arguments_of_a_route_refuse_has_the_shape_of_all_errors() {
    let gateway = TestGateway::new(CONFIG);
    for path in ["/admin/audit?limit=-1", "/smart-ai/models/%ff/weights"] {
        let answer = gateway.get(path, ADMIN).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (400, "invalid_request"), "{path}");
    }
    let long = "#".repeat(3 << 20);
    let answer = gateway.post("/admin/config/validate", ADMIN, &long).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (413, "payload_too_large"));
}
