//! What clients are told of models agrees with what becomes of their requests.

use serde_json::{Value, json};

use crate::support::{ADMIN, NARROW, TestGateway};

const CONFIG: &str = r#"
[users.ada]
token = "token-of-ada-the-admin"
tags = ["admin"]
[users.ned]
token = "token-of-ned-the-narrow"
allowed_models = ["open"]
[providers.claude]
vendor = "anthropic"
api_key = "k"
[providers.gemini]
vendor = "gemini"
api_key = "k"
[providers.deepseek]
vendor = "deepseek"
api_key = "k"
[models.mixed]
name = "mixed"
backends = [{ provider = "claude", model = "claude-sonnet-4-5" }, { provider = "gemini", model = "gemini-2.5-flash", tags = ["vip"] }]
[models.open]
name = "open"
loss_policy = "reject"
backends = [{ provider = "deepseek", model = "deepseek-chat", context_window = 64000 }]
"#;

async fn told(gateway: &TestGateway, path: &str, token: &str) -> Value {
    let header = format!("Bearer {token}");
    let answer = gateway.send(http::Method::GET, path, &[("authorization", &header)], "").await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer.json()
}

#[tokio::test(start_paused = true)]
async fn each_backend_says_what_it_takes_of_each_dialect() {
    let gateway = TestGateway::new(CONFIG);
    let all = told(&gateway, "/v1/capabilities", ADMIN).await;
    assert_eq!((&all["data"][0]["id"], &all["data"][1]["id"]), (&json!("mixed"), &json!("open")));
    let [claude, gemini] = [&all["data"][0]["backends"][0], &all["data"][0]["backends"][1]];
    let chat = &claude["clients"]["chat_completions"];
    assert_eq!(chat["translated"], true);
    assert_eq!(chat["lost"]["seed"], json!(["seed;unsupported"]));
    assert_eq!(chat["refused"], json!(["audio"]));
    for feature in ["text", "image", "document", "tools", "json_schema"] {
        assert!(chat["carried"].as_array().unwrap().contains(&json!(feature)), "{feature}: {chat}");
    }
    assert_eq!(claude["clients"]["messages"]["translated"], false);
    assert_eq!(claude["caps"]["max_output_tokens"], 64000);
    assert!(gemini["clients"]["chat_completions"]["carried"].as_array().unwrap().contains(&json!("seed")));
    assert_eq!(gemini["clients"]["generate_content"]["translated"], false);
    let open = &all["data"][1];
    assert_eq!(
        (&open["loss_policy"], &open["backends"][0]["caps"]["context_window"]),
        (&json!("reject"), &json!(64000))
    );
    let responses = &open["backends"][0]["clients"]["responses"];
    assert_eq!((&responses["translated"], &responses["refused"]), (&json!(true), &json!(["previous_response_id"])));
}

#[tokio::test(start_paused = true)]
async fn a_user_hears_of_models_and_backends_that_are_open_to_them_only() {
    let gateway = TestGateway::new(CONFIG);
    let all = told(&gateway, "/v1/capabilities", NARROW).await;
    assert_eq!((all["data"].as_array().unwrap().len(), &all["data"][0]["id"]), (1, &json!("open")));
    let header = format!("Bearer {NARROW}");
    let denied =
        gateway.send(http::Method::GET, "/v1/capabilities?model=mixed", &[("authorization", &header)], "").await;
    assert_eq!(denied.status, 403);
    let missing = gateway.send(http::Method::GET, "/v1/capabilities?model=x", &[("authorization", &header)], "").await;
    assert_eq!(missing.status, 404);
}
