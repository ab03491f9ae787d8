//! Who gets in, in which order things are checked, and what is said and counted when nobody does.

use http::{Method, StatusCode};

use crate::support::{ADMIN, CONFIG, DISABLED, NARROW, TestGateway};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn auth_takes_every_documented_form_of_a_token() {
    let gateway = TestGateway::new(CONFIG);
    for (name, value) in [
        ("authorization", format!("Bearer {ADMIN}")),
        ("authorization", format!("bearer {ADMIN}")),
        ("x-api-key", ADMIN.to_owned()),
        ("api-key", ADMIN.to_owned()),
        ("x-goog-api-key", ADMIN.to_owned()),
    ] {
        let answer = gateway.send(Method::GET, "/v1/models", &[(name, &value)], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{name}: {value}");
    }
}

#[tokio::test]
async fn a_key_in_the_query_counts_on_gemini_paths_only() {
    let gateway = TestGateway::new(CONFIG);
    let there = gateway.send(Method::GET, &format!("/v1beta/models?key={ADMIN}"), &[], "").await;
    assert_eq!(there.status, StatusCode::OK);
    let wrong = gateway.send(Method::GET, "/v1beta/models?key=wrong", &[], "").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let elsewhere = gateway.send(Method::GET, &format!("/v1/models?key={ADMIN}"), &[], "").await;
    assert_eq!(elsewhere.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_missing_and_a_wrong_token_and_a_disabled_user_are_told_in_json() {
    let gateway = TestGateway::new(CONFIG);
    let (wrong, disabled) = ("Bearer wrong".to_owned(), format!("Bearer {DISABLED}"));
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[], "invalid_token"),
        (&[("authorization", &wrong)], "invalid_token"),
        (&[("authorization", &disabled)], "disabled_user"),
    ];
    for (headers, code) in cases {
        let answer = gateway.send(Method::POST, CHAT, headers, r#"{"model":"narrow"}"#).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (StatusCode::UNAUTHORIZED, code));
        assert!(answer.header("content-type").starts_with("application/json"));
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "authentication_error");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn two_authorization_headers_are_refused() {
    let gateway = TestGateway::new(CONFIG);
    let bearer = format!("Bearer {ADMIN}");
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    let answer = gateway.send(Method::GET, "/v1/models", &twice, "").await;
    assert_eq!((answer.status, answer.error_code().as_str()), (StatusCode::UNAUTHORIZED, "invalid_token"));
}

#[tokio::test]
async fn checks_come_in_the_documented_order() {
    let gateway = TestGateway::new(CONFIG);
    let check = async |method: Method, path: &str, token: &str, body: &str, expect: (u16, &str)| {
        let headers = [("authorization", format!("Bearer {token}")), ("content-encoding", "identity".to_owned())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = gateway.send(method.clone(), path, &headers, body).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), expect, "{method} {path} {token} {body}");
    };
    check(Method::GET, "/v1/nothing", "wrong", "", (404, "not_found")).await;
    check(Method::GET, CHAT, "wrong", "", (405, "method_not_allowed")).await;
    check(Method::POST, CHAT, "wrong", "{", (401, "invalid_token")).await;
    check(Method::POST, CHAT, DISABLED, "{", (401, "disabled_user")).await;
    check(Method::POST, CHAT, NARROW, "{", (400, "invalid_json")).await;
    check(Method::POST, CHAT, NARROW, "[]", (400, "invalid_json")).await;
    check(Method::POST, CHAT, NARROW, "{}", (400, "missing_model")).await;
    check(Method::POST, CHAT, NARROW, r#"{"model":7}"#, (400, "invalid_request")).await;
    check(Method::POST, CHAT, NARROW, r#"{"model":"ghost"}"#, (404, "model_not_found")).await;
    check(Method::POST, CHAT, NARROW, r#"{"model":"off"}"#, (404, "model_not_found")).await;
    check(Method::POST, CHAT, NARROW, r#"{"model":"org/wide"}"#, (403, "model_access_denied")).await;
    check(Method::GET, "/v1/files", "wrong", "", (401, "invalid_token")).await;
    check(Method::DELETE, "/v1/files/file-1", NARROW, "", (404, "unsupported_endpoint")).await;
    check(Method::GET, "/v1/realtime", NARROW, "", (404, "unsupported_endpoint")).await;
}

#[tokio::test]
async fn an_encoded_body_is_refused_after_authentication() {
    let gateway = TestGateway::new(CONFIG);
    for (token, expect) in [("wrong", 401), (ADMIN, 415)] {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-encoding", "gzip")];
        let answer = gateway.send(Method::POST, CHAT, &headers, "x").await;
        assert_eq!(answer.status.as_u16(), expect);
    }
}

#[tokio::test(start_paused = true)]
async fn auth_failures_beyond_the_limit_are_429_for_that_address_and_a_valid_token_still_passes() {
    let gateway = TestGateway::new(&format!("[server]\nauth_failures_per_minute = 3\n{CONFIG}"));
    for _ in 0..3 {
        assert_eq!(gateway.get("/v1/models", "wrong").await.status, StatusCode::UNAUTHORIZED);
    }
    let limited = gateway.get("/v1/models", "wrong").await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(limited.error_code(), "rate_limit_exceeded");
    assert_eq!(limited.header("retry-after"), "60");
    assert_eq!(gateway.get("/v1/models", ADMIN).await.status, StatusCode::OK);

    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(gateway.get("/v1/models", "wrong").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn monitoring_is_open_unless_protected_and_then_for_admins_only() {
    let open = TestGateway::new(CONFIG);
    assert_eq!(open.send(Method::GET, "/metrics", &[], "").await.status, StatusCode::OK);

    let closed = TestGateway::new(&format!("[server]\nprotect_monitoring = true\n{CONFIG}"));
    for (token, expect) in [("wrong", 401), (NARROW, 403), (ADMIN, 200)] {
        assert_eq!(closed.get("/metrics", token).await.status.as_u16(), expect, "{token}");
    }
    assert_eq!(closed.get("/metrics", NARROW).await.error_code(), "admin_required");
    assert_eq!(closed.send(Method::GET, "/health", &[], "").await.status, StatusCode::OK);
}
