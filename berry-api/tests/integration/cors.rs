//! Web pages that call the API.

use http::Method;

use crate::support::{ADMIN, Answer, CONFIG, TestGateway};

/// What the OpenAI SDK asks for in a browser.
const WANTED: &str = "authorization,content-type,x-stainless-arch,x-stainless-retry-count,x-stainless-runtime";

async fn preflight(gateway: &TestGateway, path: &str, origin: &str) -> Answer {
    let headers =
        [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", WANTED)];
    gateway.send(Method::OPTIONS, path, &headers, "").await
}

#[tokio::test]
async fn a_preflight_passes_without_a_token_and_grants_what_it_asks_for() {
    let gateway = TestGateway::new(CONFIG);
    for path in ["/v1/chat/completions", "/v1/models", "/v1/audio/transcriptions"] {
        let answer = preflight(&gateway, path, "https://app.example").await;
        assert_eq!(answer.status.as_u16(), 204, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert_eq!(answer.header("access-control-allow-methods"), "POST");
        assert_eq!(answer.header("access-control-allow-headers"), WANTED);
    }
}

#[tokio::test]
async fn a_page_may_read_answers_and_errors_with_their_request_id() {
    let gateway = TestGateway::new(CONFIG);
    for token in [ADMIN, "wrong"] {
        let bearer = format!("Bearer {token}");
        for (method, path) in [(Method::GET, "/v1/models"), (Method::POST, "/v1/embeddings")] {
            let headers = [("origin", "https://app.example"), ("authorization", bearer.as_str())];
            let answer = gateway.send(method, path, &headers, "{}").await;
            assert_eq!(answer.header("access-control-allow-origin"), "*", "{path} {token}");
            assert!(answer.header("access-control-expose-headers").contains("x-request-id"));
        }
    }
}

#[tokio::test]
async fn only_listed_origins_are_granted_where_there_is_a_list() {
    let list = "[server]\ncors_allowed_origins = [\"https://app.example\"]\n";
    let gateway = TestGateway::new(&format!("{list}{CONFIG}"));
    let listed = preflight(&gateway, "/v1/models", "https://app.example").await;
    assert_eq!(listed.header("access-control-allow-origin"), "https://app.example");
    let other = preflight(&gateway, "/v1/models", "https://evil.example").await;
    assert_eq!(other.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn no_page_may_call_anything_but_the_api() {
    let gateway = TestGateway::new(CONFIG);
    for path in ["/admin/config", "/metrics", "/v1beta/models", "/v1x"] {
        let answer = preflight(&gateway, path, "https://app.example").await;
        assert_eq!(answer.header("access-control-allow-origin"), "", "{path}");
    }
}
