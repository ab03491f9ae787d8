//! What is known of vendors decides how their backends are asked and what their errors mean.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use serde_json::{Value, json};

use crate::support::{ADMIN, TestGateway};

const CONFIG: &str = r#"
[users.ada]
token = "token-of-ada-the-admin"
tags = ["admin"]
[providers.chat]
vendor = "deepseek"
base_url = "https://up.test/v1"
api_key = "key-of-chat"
[providers.claude]
vendor = "deepseek"
backend_type = "claude"
base_url = "https://claude.test"
api_key = "key-of-claude"
[providers.zai]
vendor = "zai"
base_url = "https://zai.test/v4"
api_key = "key-of-zai"
[providers.cohere]
vendor = "cohere"
base_url = "https://cohere.test/compatibility/v1"
api_key = "key-of-cohere"
[providers.voyage]
vendor = "voyage"
base_url = "https://voyage.test/v1"
api_key = "key-of-voyage"
[models.ranker]
name = "ranker"
strategy = "failover"
backends = [{ provider = "cohere", model = "rerank-v3.5" }, { provider = "voyage", model = "rerank-2.5", priority = 2 }]
[models.chat]
name = "chat"
backends = [{ provider = "chat", model = "deepseek-chat" }]
[models.claude]
name = "claude"
backends = [{ provider = "claude", model = "deepseek-chat" }]
[models.strict]
name = "strict"
loss_policy = "reject"
backends = [{ provider = "claude", model = "deepseek-chat" }]
[models.zai]
name = "zai"
strategy = "failover"
backends = [{ provider = "zai", model = "glm" }, { provider = "chat", model = "deepseek-chat", priority = 2 }]
"#;

fn gateway(up: &Mock) -> TestGateway {
    let dials = ["chat", "claude", "zai", "cohere", "voyage"].map(|name| {
        let dial = up.clone();
        (name.into(), Arc::new(move || dial.connect()) as Dial)
    });
    TestGateway::with(CONFIG, AccessLog::default(), HashMap::from(dials))
}

fn up(replies: Vec<Reply>) -> Mock {
    Mock::new(Script { replies, ..Script::default() })
}

fn sent(mock: &Mock, at: usize) -> Value {
    serde_json::from_slice(&mock.requests()[at].body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_responses_request_reaches_a_vendor_without_responses_as_chat_and_comes_back() {
    let answer = json!({"id": "c1", "object": "chat.completion", "created": 1, "model": "deepseek-chat",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Sunny."}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}});
    let up = up(vec![Reply::json("/v1/chat/completions", answer.to_string())]);
    let gateway = gateway(&up);
    let ask = json!({"model": "chat", "instructions": "Be brief.", "input": "Weather?", "max_output_tokens": 99, "store": true});
    let answer = gateway.post("/v1/responses", ADMIN, &ask.to_string()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let told = answer.json();
    assert_eq!((&told["object"], &told["output"][0]["content"][0]["text"]), (&json!("response"), &json!("Sunny.")));
    assert_eq!(told["usage"]["input_tokens"], 5);
    assert!(answer.header("x-berry-loss").contains("store"), "{}", answer.header("x-berry-loss"));
    let sent = sent(&up, 0);
    assert_eq!((&sent["model"], &sent["max_tokens"]), (&json!("deepseek-chat"), &json!(99)));
    assert_eq!(sent["messages"][0], json!({"role": "system", "content": "Be brief."}));
    // What nobody keeps cannot be gone on with.
    let next = json!({"model": "chat", "input": "And?", "previous_response_id": told["id"]});
    let answer = gateway.post("/v1/responses", ADMIN, &next.to_string()).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
    assert_eq!(up.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_streamed_responses_request_comes_back_as_numbered_events() {
    let chunk = |delta: Value, finish: Value| {
        format!(
            "data: {}\n\n",
            json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "deepseek-chat",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        )
    };
    let stream = [
        chunk(json!({"role": "assistant", "content": "Sun"}), Value::Null),
        chunk(json!({"content": "ny."}), json!("stop")),
        "data: [DONE]\n\n".to_owned(),
    ];
    let up = up(vec![Reply::events("/v1/chat/completions", stream)]);
    let ask = json!({"model": "chat", "input": "Weather?", "stream": true});
    let answer = gateway(&up).post("/v1/responses", ADMIN, &ask.to_string()).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("event: response.output_text.delta") && text.contains("\"delta\":\"ny.\""), "{text}");
    assert!(text.trim_end().rsplit("\n\n").next().unwrap().starts_with("event: response.completed"), "{text}");
    assert_eq!(sent(&up, 0)["stream_options"]["include_usage"], true);
}

#[tokio::test(start_paused = true)]
async fn betas_that_a_vendor_does_not_take_are_left_out_and_declared_or_refused() {
    let message = json!({"id": "m", "type": "message", "role": "assistant", "model": "deepseek-chat", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Hi"}], "usage": {"input_tokens": 1, "output_tokens": 1}});
    let up = up(vec![Reply::json("/v1/messages", message.to_string())]);
    let gateway = gateway(&up);
    let ask = |model: &str| {
        json!({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}).to_string()
    };
    let headers = [("x-api-key", ADMIN), ("anthropic-beta", "a-2025-01-01, b-2025-01-01")];
    let answer = gateway.send(http::Method::POST, "/v1/messages?beta=true", &headers, &ask("claude")).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let loss = answer.header("x-berry-loss");
    assert_eq!(loss, "anthropic-beta.a-2025-01-01;unsupported, anthropic-beta.b-2025-01-01;unsupported");
    assert!(!up.requests()[0].headers.contains_key("anthropic-beta"));
    let answer = gateway.send(http::Method::POST, "/v1/messages", &headers, &ask("strict")).await;
    assert_eq!(answer.status, 400, "{:?}", answer.body);
    assert_eq!(up.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_vendors_own_error_codes_decide_what_follows() {
    let mut broke = Reply::json("/v4/chat/completions", r#"{"error":{"code":"1113","message":"balance"}}"#);
    broke.status = 429;
    let good = Reply::json(
        "/v1/chat/completions",
        r#"{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"y"}}]}"#,
    );
    let up = up(vec![broke, good]);
    let gateway = gateway(&up);
    let ask = json!({"model": "zai", "messages": [{"role": "user", "content": "x"}]}).to_string();
    for _ in 0..2 {
        assert_eq!(gateway.post("/v1/chat/completions", ADMIN, &ask).await.status, 200);
    }
    // Nothing left to pay with is known at once: the second request does not ask there again, for hours.
    tokio::time::advance(std::time::Duration::from_secs(600)).await;
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, &ask).await.status, 200);
    let asked = up.requests().iter().filter(|seen| seen.path_and_query.starts_with("/v4")).count();
    assert_eq!(asked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_ranking_is_asked_of_each_vendor_in_its_own_form_and_answered_in_the_clients() {
    let mut busy = Reply::json("/v2/rerank", r#"{"message":"busy"}"#);
    busy.status = 503;
    let ranked = r#"{"object":"list","data":[{"relevance_score":0.9,"index":1}],"model":"rerank-2.5","usage":{"total_tokens":7}}"#;
    let up = up(vec![busy, Reply::json("/v1/rerank", ranked)]);
    let ask = json!({"model": "ranker", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": true,
        "rank_fields": ["text"]});
    let answer = gateway(&up).post("/v1/rerank", ADMIN, &ask.to_string()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let told = answer.json();
    assert_eq!(told["results"], json!([{"index": 1, "relevance_score": 0.9, "document": {"text": "b"}}]));
    assert_eq!((&told["usage"]["total_tokens"], answer.header("x-berry-loss")), (&json!(7), "rank_fields;unsupported"));
    let seen = up.requests();
    assert_eq!(seen[0].path_and_query, "/v2/rerank");
    assert_eq!(sent(&up, 0), json!({"model": "rerank-v3.5", "query": "q", "documents": ["a", "b"], "top_n": 1}));
    let last = sent(&up, seen.len() - 1);
    assert_eq!(last, json!({"model": "rerank-2.5", "query": "q", "documents": ["a", "b"], "top_k": 1}));
}
