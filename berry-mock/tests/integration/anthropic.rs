//! The Anthropic dialect, as clients see it.

use berry_mock::Script;
use serde_json::{Value, json};

use crate::support::{Client, Got, mock, post, with};

const MESSAGES: &str = "/v1/messages";

fn request(user: &str) -> Value {
    json!({"model": "claude", "max_tokens": 500, "messages": [{"role": "user", "content": user}]})
}

async fn send(client: &mut Client, path: &str, body: &Value, fault: &str) -> Got {
    let mut request = post(path, body);
    request.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
    request.headers_mut().insert("x-mock-fault", fault.parse().unwrap());
    client.send(request).await.unwrap()
}

async fn answer(body: &Value) -> Got {
    let (_mock, mut client) = mock(Script::default()).await;
    send(&mut client, MESSAGES, body, "none").await
}

fn tools() -> Value {
    json!({"tools": [{"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}},
        {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}]})
}

#[tokio::test]
async fn a_message_has_the_shape_of_anthropic() {
    let got = answer(&request("Hello Berry")).await;
    let body = got.json();
    assert_eq!(
        (&body["type"], &body["role"], &body["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("end_turn"))
    );
    assert!(body["content"][0]["text"].as_str().unwrap().contains("Hello Berry"), "{body}");
    assert!(body["usage"]["input_tokens"].as_u64() > Some(0) && body["usage"]["output_tokens"].as_u64() > Some(0));
    assert!(got.header("request-id").starts_with("req_"));
}

#[tokio::test]
async fn a_stream_opens_and_closes_its_blocks() {
    let plain = answer(&request("Hello")).await.json();
    let got = answer(&with(request("Hello"), json!({"stream": true}))).await;
    let events = got.events();
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, plain["content"][0]["text"]);
    let delta = &events[events.len() - 2];
    assert_eq!(
        (&delta["delta"]["stop_reason"], &delta["usage"]["output_tokens"]),
        (&plain["stop_reason"], &plain["usage"]["output_tokens"])
    );
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], plain["usage"]["input_tokens"]);
    assert!(got.text().starts_with("event: message_start\ndata: "));
}

#[tokio::test]
async fn tools_are_called_and_their_results_read() {
    let ask = with(request("weather in Paris and time"), tools());
    let plain = answer(&ask).await.json();
    assert_eq!((&plain["stop_reason"], &plain["content"][0]["input"]), (&json!("tool_use"), &json!({"city": "Paris"})));
    assert!(plain["content"][1]["id"].as_str().unwrap().starts_with("toolu_"));
    let events = answer(&with(ask.clone(), json!({"stream": true}))).await.events();
    for index in 0..2 {
        let deltas = events.iter().filter(|event| event["index"] == index);
        let arguments: String = deltas.filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
        assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), plain["content"][index]["input"]);
    }
    let one = json!({"tool_choice": {"type": "auto", "disable_parallel_tool_use": true}});
    assert_eq!(answer(&with(ask.clone(), one)).await.json()["content"].as_array().unwrap().len(), 1);
    let result = json!([{"type": "tool_result", "tool_use_id": plain["content"][0]["id"], "content": "sunny"}]);
    let history = json!([ask["messages"][0], {"role": "assistant", "content": plain["content"]}, {"role": "user", "content": result}]);
    let body = answer(&with(ask, json!({"messages": history}))).await.json();
    assert!(body["content"][0]["text"].as_str().unwrap().contains("get_weather says: sunny"), "{body}");
}

#[tokio::test]
async fn thinking_comes_first_and_is_signed() {
    let ask = with(request("Hello"), json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}));
    let plain = answer(&ask).await.json();
    assert_eq!((&plain["content"][0]["type"], &plain["content"][1]["type"]), (&json!("thinking"), &json!("text")));
    let events = answer(&with(ask, json!({"stream": true}))).await.events();
    let part = |kind: &str| -> String { events.iter().filter_map(|event| event["delta"][kind].as_str()).collect() };
    assert_eq!(
        (part("thinking"), part("signature")),
        (
            plain["content"][0]["thinking"].as_str().unwrap().to_owned(),
            plain["content"][0]["signature"].as_str().unwrap().to_owned(),
        )
    );
}

#[tokio::test]
async fn limits_and_formats_are_kept() {
    let body = answer(&with(request("Hello"), json!({"max_tokens": 3}))).await.json();
    assert_eq!((&body["stop_reason"], &body["usage"]["output_tokens"]), (&json!("max_tokens"), &json!(3)));
    let body = answer(&with(request("Hello"), json!({"stop_sequences": ["wrote"]}))).await.json();
    assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!("stop_sequence"), &json!("wrote")));
    let format = json!({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}}});
    let body = answer(&with(request("Hello"), format)).await.json();
    let value: Value = serde_json::from_str(body["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(value["n"].is_i64());
}

#[tokio::test]
async fn errors_are_in_anthropics_words() {
    let script = Script { models: vec!["claude".into()], api_key: Some("k".into()), ..Script::default() };
    let (mock, mut client) = mock(script.clone()).await;
    let kind = |got: &Got| (got.status.as_u16(), got.json()["error"]["type"].as_str().unwrap().to_owned());
    assert_eq!(kind(&send(&mut client, MESSAGES, &request("x"), "none").await), (401, "authentication_error".into()));
    mock.update(Script { api_key: None, ..script });
    for (body, fault, expected) in [
        (with(request("x"), json!({"model": "other"})), "none", (404, "not_found_error")),
        (with(request("x"), json!({"max_tokens": null})), "none", (400, "invalid_request_error")),
        (with(request("x"), json!({"messages": []})), "none", (400, "invalid_request_error")),
        (request("x"), "status:529", (529, "overloaded_error")),
        (request("x"), "status:429:3", (429, "rate_limit_error")),
        (request("x"), "status:500", (500, "api_error")),
        (request("x"), "context-length", (400, "invalid_request_error")),
    ] {
        let got = send(&mut client, MESSAGES, &body, fault).await;
        assert_eq!(kind(&got), (expected.0, expected.1.to_owned()), "{fault} {body}");
        assert_eq!(got.json()["type"], "error");
    }
    let got = send(&mut client, MESSAGES, &with(request("x"), json!({"stream": true})), "error-event:1").await;
    assert!(got.text().contains("event: error\ndata: {\"error\":"), "{got:?}");
    assert_eq!(client.post(MESSAGES, &request("x")).await.status, 400, "the version is required");
}

#[tokio::test]
async fn tokens_are_counted_and_models_listed() {
    let (_mock, mut client) = mock(Script::default()).await;
    let plain = send(&mut client, MESSAGES, &request("Hello"), "none").await.json();
    let mut counted = request("Hello");
    counted.as_object_mut().unwrap().remove("max_tokens");
    let count = send(&mut client, "/v1/messages/count_tokens", &counted, "none").await.json();
    assert_eq!(count["input_tokens"], plain["usage"]["input_tokens"]);
    let mut list = http::Request::get("/v1/models").body(Default::default()).unwrap();
    list.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
    assert_eq!(client.send(list).await.unwrap().json()["data"][0]["type"], "model");
}
