//! Clients of one dialect, upstreams of another: what each side sees.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, ReplyChunk, Script};
use berry_relay::client::Dial;
use http::Method;
use serde_json::{Value, json};

use crate::support::{ADMIN, Answer, TestGateway};

const CONFIG: &str = r#"
[server]
keep_alive_seconds = 1
[users.ada]
token = "token-of-ada-the-admin"
tags = ["admin"]
[providers.anthropic]
backend_type = "claude"
base_url = "https://api.anthropic.com"
api_key = "anthropic-key-canary"
[providers.openai]
base_url = "https://api.openai.com/v1"
api_key = "openai-key-canary"
[models.claude]
name = "claude"
[[models.claude.backends]]
provider = "anthropic"
model = "claude-sonnet-4-5"
[models.gpt]
name = "gpt"
[[models.gpt.backends]]
provider = "openai"
model = "gpt-4o"
[models.strict]
name = "strict"
loss_policy = "reject"
[[models.strict.backends]]
provider = "anthropic"
model = "claude-sonnet-4-5"
[models.both]
name = "both"
strategy = "failover"
[[models.both.backends]]
provider = "anthropic"
model = "claude-sonnet-4-5"
priority = 1
[[models.both.backends]]
provider = "openai"
model = "gpt-4o"
priority = 2
"#;

/// A gateway in front of one scripted upstream of each dialect.
struct Rig {
    gateway: TestGateway,
    anthropic: Mock,
    openai: Mock,
}

fn rig(anthropic: Script, openai: Script) -> Rig {
    let (anthropic, openai) = (Mock::new(anthropic), Mock::new(openai));
    let dial = |mock: &Mock| {
        let mock = mock.clone();
        Arc::new(move || mock.connect()) as Dial
    };
    let dials = HashMap::from([("anthropic".into(), dial(&anthropic)), ("openai".into(), dial(&openai))]);
    Rig { gateway: TestGateway::with(CONFIG, AccessLog::default(), dials), anthropic, openai }
}

fn plain(body: &Value) -> Script {
    Script { replies: vec![Reply::json("/", body.to_string())], ..Script::default() }
}

fn streamed(text: &str) -> Script {
    Script { replies: vec![Reply::events("/", [text.to_owned()])], ..Script::default() }
}

impl Rig {
    async fn chat(&self, body: &Value) -> Answer {
        self.gateway.post("/v1/chat/completions", ADMIN, &body.to_string()).await
    }

    async fn messages(&self, body: &Value) -> Answer {
        let headers = [("x-api-key", ADMIN), ("anthropic-version", "2023-06-01"), ("anthropic-beta", "x-2025")];
        self.gateway.send(Method::POST, "/v1/messages?beta=true", &headers, &body.to_string()).await
    }
}

/// The bodies that a mock saw.
fn seen(mock: &Mock) -> Vec<Value> {
    mock.requests().iter().map(|request| serde_json::from_slice(&request.body).expect("JSON")).collect()
}

/// The JSON of each event of a stream, `[DONE]` left out.
fn events(answer: &Answer) -> Vec<Value> {
    let text = String::from_utf8_lossy(&answer.body);
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"))).collect()
}

fn claude_says(content: Value, stop: &str) -> Value {
    json!({"id": "msg_up", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929",
        "content": content, "stop_reason": stop, "stop_sequence": null,
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 5, "output_tokens": 7}})
}

#[tokio::test(start_paused = true)]
async fn a_chat_request_reaches_claude_as_messages_and_its_answer_comes_back_as_a_completion() {
    let content = json!([{"type": "text", "text": "Sunny."}, {"type": "tool_use", "id": "toolu_1", "name": "wear", "input": {"hat": true}}]);
    let rig = rig(plain(&claude_says(content, "tool_use")), Script::default());
    let answer = rig
        .chat(&json!({"model": "claude", "temperature": 1.5, "max_tokens": 100, "seed": 1, "user": "u1",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "call_toolu_8", "type": "function", "function": {"name": "w", "arguments": "{\"c\":1.0}"}},
                    {"id": "call_9", "type": "function", "function": {"name": "w", "arguments": ""}}]},
                {"role": "tool", "tool_call_id": "call_9", "content": "rain"},
                {"role": "tool", "tool_call_id": "call_toolu_8", "content": "sun"},
                {"role": "user", "content": "And now?"}],
            "tools": [{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}],
            "parallel_tool_calls": false}))
        .await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let sent = &seen(&rig.anthropic)[0];
    assert_eq!(sent["model"], "claude-sonnet-4-5");
    assert_eq!((&sent["max_tokens"], &sent["temperature"]), (&json!(100), &json!(1)));
    assert_eq!(sent["system"], json!([{"type": "text", "text": "Be brief."}]));
    assert_eq!(sent["tool_choice"], json!({"type": "auto", "disable_parallel_tool_use": true}));
    assert_eq!(sent["metadata"]["user_id"], "u1");
    let messages = &sent["messages"];
    assert_eq!(
        messages[1]["content"][0],
        json!({"type": "tool_use", "id": "toolu_8", "name": "w", "input": {"c": 1.0}})
    );
    assert_eq!(messages[1]["content"][1]["input"], json!({}));
    let results: Vec<_> = messages[2]["content"].as_array().unwrap().iter().map(|part| part["type"].clone()).collect();
    assert_eq!(results, ["tool_result", "tool_result", "text"]);
    assert_eq!(messages[2]["content"][0]["tool_use_id"], "toolu_8");
    let head = &rig.anthropic.requests()[0];
    assert_eq!(head.path_and_query, "/v1/messages");
    assert_eq!(head.headers["anthropic-version"], "2023-06-01");
    assert_eq!(head.headers["x-api-key"], "anthropic-key-canary");

    assert_eq!(answer.header("x-berry-loss"), "temperature;clamped, seed;unsupported");
    let told = answer.json();
    assert_eq!(told["object"], "chat.completion");
    let message = &told["choices"][0]["message"];
    assert_eq!((&message["content"], &told["choices"][0]["finish_reason"]), (&json!("Sunny."), &json!("tool_calls")));
    assert_eq!(message["tool_calls"][0]["id"], "call_toolu_1");
    assert_eq!(message["tool_calls"][0]["function"], json!({"name": "wear", "arguments": "{\"hat\":true}"}));
    assert_eq!(told["usage"]["prompt_tokens"], 105);
    assert_eq!(told["usage"]["prompt_tokens_details"]["cached_tokens"], 90);
}

#[tokio::test(start_paused = true)]
async fn a_messages_request_reaches_an_openai_backend_as_chat_and_its_answer_comes_back_as_a_message() {
    let completion = json!({"id": "chatcmpl-up", "object": "chat.completion", "model": "gpt-4o-2024", "choices": [{
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi.", "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 12345678901234567890}"}}]}}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 20}}});
    let rig = rig(Script::default(), plain(&completion));
    let answer = rig
        .messages(&json!({"model": "gpt", "max_tokens": 64, "top_k": 3, "stop_sequences": ["END"],
            "system": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                {"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}},
                {"type": "text", "text": "What?"}]}],
            "tool_choice": {"type": "any"}, "tools": [{"name": "f", "input_schema": {"type": "object"}}]}))
        .await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let sent = &seen(&rig.openai)[0];
    assert_eq!(sent["messages"][0], json!({"role": "system", "content": "One.\n\nTwo."}));
    let content = &sent["messages"][1]["content"];
    assert_eq!(content[0]["image_url"]["url"], "data:image/png;base64,iVBORw0KGgo=");
    assert_eq!(content[1]["file"], json!({"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}));
    assert_eq!(
        (&sent["max_tokens"], &sent["stop"], &sent["tool_choice"]),
        (&json!(64), &json!(["END"]), &json!("required"))
    );
    assert!(!rig.openai.requests()[0].headers.contains_key("anthropic-version"));
    assert_eq!(
        answer.header("x-berry-loss"),
        "top_k;unsupported, cache_control;unsupported, anthropic-beta;unsupported"
    );

    let told = answer.json();
    assert_eq!((&told["type"], &told["stop_reason"]), (&json!("message"), &json!("tool_use")));
    assert_eq!(told["content"][0], json!({"type": "text", "text": "Hi."}));
    assert_eq!(told["content"][1]["id"], "toolu_call_a");
    assert!(String::from_utf8_lossy(&answer.body).contains("\"input\":{\"x\": 12345678901234567890}"));
    assert_eq!(told["usage"]["input_tokens"], 10);
    assert_eq!(told["usage"]["cache_read_input_tokens"], 20);
}

const CLAUDE_STREAM: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"claude-x\",\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"Hm\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"U0lH\"}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello \\u00e9\"}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_7\",\"name\":\"f\",\"input\":{}}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":2}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":21}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

#[tokio::test(start_paused = true)]
async fn a_stream_of_claude_reaches_a_chat_client_with_thoughts_calls_usage_and_done() {
    let rig = rig(streamed(CLAUDE_STREAM), Script::default());
    let ask = json!({"model": "claude", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Hi"}]});
    let answer = rig.chat(&ask).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "text/event-stream"));
    assert!(answer.body.ends_with(b"data: [DONE]\n\n"), "{:?}", answer.body);
    let events = events(&answer);
    let deltas: Vec<&Value> = events.iter().map(|event| &event["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0], &json!({"role": "assistant", "content": ""}));
    assert_eq!(deltas[1]["reasoning_content"], "Hm");
    let signed = &deltas[2]["thinking_blocks"][0];
    assert_eq!(signed["thinking"], "Hm");
    // The issuer's name stands before the signature, all of it in base64 ("b1~").
    assert!(signed["signature"].as_str().is_some_and(|text| text.starts_with("YjF+")), "{signed}");
    assert_eq!(deltas[3]["content"], "Hello é");
    assert_eq!(deltas[4]["tool_calls"][0]["id"], "call_toolu_7");
    let arguments: String =
        deltas.iter().filter_map(|delta| delta["tool_calls"][0]["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"a\":1}");
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(events[events.len() - 1]["usage"]["prompt_tokens"], 9);
    assert_eq!(events[events.len() - 1]["usage"]["completion_tokens"], 21);

    // What the client sends back goes to its issuer, with the signature as it was.
    let back = json!({"model": "claude", "reasoning_effort": "low", "max_tokens": 5000, "messages": [{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello é", "thinking_blocks": [signed],
            "tool_calls": [{"id": "call_toolu_7", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_toolu_7", "content": "ok"}]});
    rig.chat(&back).await;
    let sent = &seen(&rig.anthropic)[1];
    assert_eq!(sent["messages"][1]["content"][0], json!({"type": "thinking", "thinking": "Hm", "signature": "U0lH"}));
    assert_eq!(sent["thinking"], json!({"type": "enabled", "budget_tokens": 1024}));
}

/// A stream of chat completions from its chunks.
fn chat_stream(chunks: &[Value]) -> String {
    let chunks: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    chunks + "data: [DONE]\n\n"
}

fn chunk(delta: Value, finish: Option<&str>) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "model": "gpt-4o-x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

#[tokio::test(start_paused = true)]
async fn interleaved_calls_of_a_chat_stream_reach_a_messages_client_one_block_after_the_other() {
    let piece = |index: u32, text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
    let call = |index: u32, id: &str| json!({"tool_calls": [{"index": index, "id": id, "function": {"name": "f", "arguments": ""}}]});
    let stream = chat_stream(&[
        chunk(json!({"role": "assistant", "content": "Hi"}), None),
        chunk(call(0, "a"), None),
        chunk(call(1, "b"), None),
        chunk(piece(1, "{\"y\":"), None),
        chunk(piece(0, "{\"x\":1}"), None),
        chunk(piece(1, "2}"), None),
        chunk(json!({}), Some("stop")),
        json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 3}}),
    ]);
    let rig = rig(Script::default(), streamed(&stream));
    let ask = json!({"model": "gpt", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let answer = rig.messages(&ask).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(seen(&rig.openai)[0]["stream_options"], json!({"include_usage": true}));
    let events = events(&answer);
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(
        kinds,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert!(events[0]["message"]["usage"]["input_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
    let starts: Vec<_> = events.iter().filter(|event| event["type"] == "content_block_start").collect();
    assert_eq!((&starts[1]["index"], &starts[1]["content_block"]["id"]), (&json!(1), &json!("toolu_a")));
    assert_eq!((&starts[2]["index"], &starts[2]["content_block"]["id"]), (&json!(2), &json!("toolu_b")));
    let end = &events[11];
    assert_eq!((&end["delta"]["stop_reason"], &end["usage"]["input_tokens"]), (&json!("tool_use"), &json!(8)));
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_one_dialect_is_rescued_by_a_backend_of_another() {
    for stream in [false, true] {
        let failing = Script { faults: vec!["status:529".parse().expect("a fault")], ..Script::default() };
        let rig = rig(failing, Script::default());
        let ask = json!({"model": "both", "max_tokens": 50, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]});
        let answer = rig.messages(&ask).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        assert_eq!(answer.header("x-berry-provider"), "openai");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(if stream { text.contains("event: message_stop") } else { text.contains("\"type\":\"message\"") });
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_error_reaches_the_client_in_its_own_envelope_and_with_its_own_status() {
    let mut overloaded = Reply::json("/", r#"{"type":"error","error":{"type":"overloaded_error","message":"Busy"}}"#);
    overloaded.status = 529;
    let rig_one = rig(Script { replies: vec![overloaded], ..Script::default() }, Script::default());
    let ask = json!({"model": "claude", "messages": [{"role": "user", "content": "Hi"}]});
    let answer = rig_one.chat(&ask).await;
    assert_eq!((answer.status.as_u16(), answer.error_code()), (503, "overloaded".to_owned()));
    assert_eq!(answer.json()["error"]["message"], "Busy");

    let mut long = Reply::json("/", r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#);
    long.status = 400;
    let rig_two = rig(Script::default(), Script { replies: vec![long], ..Script::default() });
    let ask = json!({"model": "gpt", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]});
    let answer = rig_two.messages(&ask).await;
    assert_eq!(answer.status, 400);
    let told = answer.json();
    assert_eq!((&told["type"], &told["error"]["type"]), (&json!("error"), &json!("invalid_request_error")));
    assert!(told["error"]["message"].as_str().is_some_and(|text| text.starts_with("prompt is too long")));
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_stream_is_told_in_the_clients_way_and_ends_it() {
    let cut = CLAUDE_STREAM.split("event: message_delta").next().expect("a beginning");
    let failure =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Busy\"}}\n\n";
    let mut reply = Reply::events("/", [cut.to_owned()]);
    reply.chunks.push(ReplyChunk { delay_ms: 1, ..ReplyChunk::new(failure) });
    let rig_one = rig(Script { replies: vec![reply], ..Script::default() }, Script::default());
    let ask = json!({"model": "claude", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let answer = rig_one.chat(&ask).await;
    assert!(!String::from_utf8_lossy(&answer.body).contains("[DONE]"));
    let told = events(&answer);
    assert_eq!(told.last().expect("events")["error"]["message"], "Busy");

    // A stream that breaks off is an error too.
    let rig_two = rig(streamed(cut), Script::default());
    let answer = rig_two.chat(&ask).await;
    assert!(!String::from_utf8_lossy(&answer.body).contains("[DONE]"));
    assert_eq!(events(&answer).last().expect("events")["error"]["code"], "stream_incomplete");
}

#[tokio::test(start_paused = true)]
async fn a_long_silence_is_filled_in_the_clients_way() {
    let first = chat_stream(&[chunk(json!({"content": "Hi"}), None)]).replace("data: [DONE]\n\n", "");
    let rest = chat_stream(&[chunk(json!({"content": "!"}), Some("stop"))]);
    let mut reply = Reply::events("/", [first]);
    reply.chunks.push(ReplyChunk { delay_ms: 40_000, ..ReplyChunk::new(rest) });
    let rig = rig(Script::default(), Script { replies: vec![reply], ..Script::default() });
    let ask = json!({"model": "gpt", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let answer = rig.messages(&ask).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let pings = text.matches("event: ping").count();
    assert!((35..=41).contains(&pings), "{pings}");
    assert!(text.ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_rejects_loss_refuses_with_the_names_of_the_fields() {
    let rig = rig(Script::default(), Script::default());
    let ask =
        json!({"model": "strict", "seed": 7, "logit_bias": {"1": 2}, "messages": [{"role": "user", "content": "Hi"}]});
    let answer = rig.chat(&ask).await;
    assert_eq!((answer.status.as_u16(), answer.error_code()), (400, "invalid_request".to_owned()));
    let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("seed") && message.contains("logit_bias"), "{message}");
    assert!(rig.anthropic.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_same_dialect_passes_untouched_and_says_no_loss() {
    let reply = r#"{ "id":"msg_1","type":"message","content":[],"odd": 0.70, "stop_reason":"end_turn"}"#;
    let rig = rig(Script { replies: vec![Reply::json("/", reply)], ..Script::default() }, Script::default());
    let headers = [("x-api-key", ADMIN)];
    let ask = r#"{"model":"claude",  "max_tokens":5,"odd":1.50,"messages":[]}"#;
    let answer = rig.gateway.send(Method::POST, "/v1/messages", &headers, ask).await;
    assert_eq!((&answer.body[..], answer.header("x-berry-loss")), (reply.as_bytes(), ""));
    let sent = &rig.anthropic.requests()[0];
    assert_eq!(String::from_utf8_lossy(&sent.body), ask.replace("\"claude\"", "\"claude-sonnet-4-5\""));
    assert_eq!(sent.headers["anthropic-version"], "2023-06-01");
}

#[tokio::test(start_paused = true)]
async fn tokens_are_counted_here_and_marked_as_an_estimate_where_no_backend_counts() {
    let rig = rig(Script::default(), Script::default());
    let ask =
        |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "four".repeat(25)}]}).to_string();
    let headers = [("x-api-key", ADMIN)];
    let path = "/v1/messages/count_tokens?beta=true";
    let answer = rig.gateway.send(Method::POST, path, &headers, &ask("gpt")).await;
    assert_eq!((answer.json(), answer.header("x-berry-estimated")), (json!({"input_tokens": 25}), "1"));
    assert!(rig.openai.requests().is_empty());
    let answer = rig.gateway.send(Method::POST, path, &headers, &ask("claude")).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-berry-estimated")), (200, ""));
    let answer = rig.gateway.send(Method::POST, path, &headers, r#"{"model":"gpt"}"#).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["type"]), (400, &json!("error")));
}

#[tokio::test(start_paused = true)]
async fn what_claude_code_asks_for_first_is_there() {
    let rig = rig(Script::default(), Script::default());
    let answer = rig.gateway.send(Method::HEAD, "/", &[], "").await;
    assert!(answer.status.is_success(), "{}", answer.status);
    let headers = [("x-api-key", ADMIN), ("anthropic-version", "2023-06-01")];
    let models = rig.gateway.send(Method::GET, "/v1/models", &headers, "").await.json();
    assert_eq!((&models["data"][0]["type"], &models["has_more"]), (&json!("model"), &json!(false)));
}

#[tokio::test(start_paused = true)]
async fn a_responses_client_and_a_gemini_client_reach_claude_too() {
    let content = json!([{"type": "text", "text": "Sunny."}]);
    let rig = rig(plain(&claude_says(content, "end_turn")), Script::default());
    let answer = rig.gateway.post("/v1/responses", ADMIN, r#"{"model":"claude","input":"Weather?"}"#).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.json()["output"][0]["content"][0]["text"], "Sunny.");
    let ask = r#"{"contents":[{"role":"user","parts":[{"text":"Weather?"}]}]}"#;
    let answer = rig.gateway.post("/v1beta/models/claude:generateContent", ADMIN, ask).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.json()["candidates"][0]["content"]["parts"][0]["text"], "Sunny.");
}

#[tokio::test(start_paused = true)]
async fn a_signature_that_its_issuer_refuses_is_left_out_and_the_request_sent_once_more() {
    let rig_one = rig(streamed(CLAUDE_STREAM), Script::default());
    let ask = json!({"model": "claude", "stream": true, "messages": [{"role": "user", "content": "Hi"}]});
    let blocks = events(&rig_one.chat(&ask).await)[2]["choices"][0]["delta"]["thinking_blocks"].clone();

    let error = r#"{"type":"error","error":{"type":"invalid_request_error","message":"Invalid `signature` in `thinking` block"}}"#;
    let mut refusal = Reply::json("/", error);
    (refusal.status, refusal.times) = (400, Some(1));
    let good = Reply::json("/", claude_says(json!([{"type": "text", "text": "Yes."}]), "end_turn").to_string());
    let rig_two = rig(Script { replies: vec![refusal, good], ..Script::default() }, Script::default());
    let back = json!({"model": "claude", "reasoning_effort": "low", "max_tokens": 5000, "messages": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "thinking_blocks": blocks},
        {"role": "user", "content": "Well?"}]});
    let answer = rig_two.chat(&back).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-berry-attempts")), (200, "1"), "{:?}", answer.body);
    let sent = seen(&rig_two.anthropic);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0]["messages"][1]["content"][0]["signature"], "U0lH");
    assert_eq!(sent[1]["messages"][1]["content"], json!([{"type": "text", "text": "Hello"}]));
    assert!(answer.header("x-berry-loss").contains("messages.signature;foreign"));
}
