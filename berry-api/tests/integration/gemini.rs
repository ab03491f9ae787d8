//! Gemini's API at the front, to a Gemini backend: paths, bytes, framings, errors.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, ReplyChunk, Script};
use berry_relay::client::Dial;
use http::Method;
use serde_json::json;

use crate::support::{ADMIN, Answer, NARROW, TestGateway};

const CONFIG: &str = r#"
[server]
keep_alive_seconds = 1
[users.ada]
token = "token-of-ada-the-admin"
tags = ["admin"]
[users.ned]
token = "token-of-ned-the-narrow"
allowed_models = ["flash"]
[providers.google]
base_url = "https://generativelanguage.googleapis.com"
api_key = "google-key-canary"
[models.flash]
name = "flash"
[[models.flash.backends]]
provider = "google"
model = "gemini-2.5-flash"
context_window = 1000000
[models.odd]
name = "org/odd:8b@1"
[[models.odd.backends]]
provider = "google"
model = "up/odd:1"
"#;

/// A gateway in front of one scripted Gemini.
fn gateway(script: Script) -> (TestGateway, Mock) {
    let mock = Mock::new(script);
    let dial = mock.clone();
    let dials = HashMap::from([("google".into(), Arc::new(move || dial.connect()) as Dial)]);
    (TestGateway::with(CONFIG, AccessLog::default(), dials), mock)
}

async fn post(gateway: &TestGateway, path: &str, body: &str) -> Answer {
    gateway.send(Method::POST, path, &[("x-goog-api-key", ADMIN), ("content-type", "application/json")], body).await
}

const ASK: &str = r#"{ "contents":[{"parts":[{"text":"hi"}],"role":"user"}], "generationConfig":{"temperature":0.70}}"#;

#[tokio::test(start_paused = true)]
async fn a_plain_call_passes_byte_for_byte_with_the_model_in_the_address_only() {
    let reply = r#"{"candidates": [ {"content":{"parts":[{"text":"ok"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1}}"#;
    let (gateway, mock) = gateway(Script { replies: vec![Reply::json("/", reply)], ..Script::default() });
    let answer = post(&gateway, "/v1beta/models/flash:generateContent", ASK).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, reply.as_bytes()));
    let seen = &mock.requests()[0];
    assert_eq!(seen.path_and_query, "/v1beta/models/gemini-2.5-flash:generateContent");
    assert_eq!(String::from_utf8_lossy(&seen.body), ASK);
    assert_eq!(seen.headers["x-goog-api-key"], "google-key-canary");
}

#[tokio::test(start_paused = true)]
async fn names_with_slashes_and_colons_are_found_and_encoded_again() {
    let (gateway, mock) = gateway(Script::default());
    for path in ["org/odd:8b@1:generateContent", "org%2Fodd%3A8b%401:generateContent", "odd%3AgenerateContent"] {
        let answer = post(&gateway, &format!("/v1beta/models/{path}"), ASK).await;
        assert_eq!(answer.status, 200, "{path} {:?}", answer.body);
    }
    for seen in mock.requests() {
        assert_eq!(seen.path_and_query, "/v1beta/models/up%2Fodd%3A1:generateContent");
    }
}

const EVENTS: [&str; 3] = [
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}]}\r\n\r\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"b]\\n\"}]}}]}\r\n\r\n",
    "data: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":1}}\r\n\r\n",
];

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_passes_byte_for_byte() {
    let (gateway, mock) = gateway(Script { replies: vec![Reply::events("/", EVENTS)], ..Script::default() });
    let answer = post(&gateway, "/v1beta/models/flash:streamGenerateContent?alt=sse", ASK).await;
    assert_eq!(String::from_utf8_lossy(&answer.body), EVENTS.concat());
    assert_eq!(mock.requests()[0].path_and_query, "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse");
}

#[tokio::test(start_paused = true)]
async fn without_alt_sse_the_stream_is_one_json_array() {
    let (gateway, _mock) = gateway(Script { replies: vec![Reply::events("/", EVENTS)], ..Script::default() });
    let answer = post(&gateway, "/v1beta/models/flash:streamGenerateContent", ASK).await;
    assert_eq!(answer.header("content-type"), "application/json");
    let chunks = answer.json();
    assert_eq!(chunks.as_array().unwrap().len(), 3);
    assert_eq!(chunks[1]["candidates"][0]["content"]["parts"][0]["text"], "b]\n");
}

#[tokio::test(start_paused = true)]
async fn an_array_in_the_place_of_a_stream_is_that_stream() {
    let elements = EVENTS.map(|event| event.trim_end().strip_prefix("data: ").unwrap());
    let array = format!("[{}\n]\n", elements.join("\n,\r\n"));
    for pieces in [&[&array[..]][..], &[&array[..9], &array[9..90], &array[90..]]] {
        let mut reply = Reply::events("/", pieces.iter().map(|piece| piece.to_string()));
        reply.headers = vec![("content-type".into(), "application/json; charset=UTF-8".into())];
        let (gateway, _mock) = gateway(Script { replies: vec![reply], ..Script::default() });
        let answer = post(&gateway, "/v1beta/models/flash:streamGenerateContent?alt=sse", ASK).await;
        assert_eq!(String::from_utf8_lossy(&answer.body), EVENTS.concat().replace('\r', ""));
        let again = post(&gateway, "/v1beta/models/flash:streamGenerateContent", ASK).await.json();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(&array).unwrap());
        let ask = r#"{"model":"flash","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        let chat = String::from_utf8(post(&gateway, "/v1/chat/completions", ask).await.body.to_vec()).unwrap();
        assert!(chat.contains(r#""content":"a""#) && chat.ends_with("data: [DONE]\n\n"), "{chat}");
    }
}

/// A reply whose pieces come after this many milliseconds each.
fn paced(pieces: &[(&'static str, u64)]) -> Reply {
    let chunks = pieces.iter().map(|(body, delay_ms)| ReplyChunk { delay_ms: *delay_ms, ..ReplyChunk::new(*body) });
    Reply { chunks: chunks.collect(), ..Reply::events("/", [""]) }
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_empty_lines_which_no_client_of_gemini_trips_over() {
    for path in ["flash:streamGenerateContent?alt=sse", "flash:streamGenerateContent"] {
        let reply = paced(&[(EVENTS[0], 2_500), (EVENTS[1], 2_500), (EVENTS[2], 0)]);
        let (gateway, _mock) = gateway(Script { replies: vec![reply], ..Script::default() });
        let answer = post(&gateway, &format!("/v1beta/models/{path}"), ASK).await;
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(body.starts_with("\n\n"), "{path}: before the first token: {body:?}");
        let lines = body.lines().filter(|line| !line.is_empty());
        if path.contains("sse") {
            assert!(lines.into_iter().all(|line| line.starts_with("data: {")), "{body:?}");
        } else {
            assert_eq!(answer.json().as_array().unwrap().len(), 3, "{body:?}");
        }
        assert!(body.contains("\"a\"}]}}]}") && body.matches("\n\n").count() >= 2, "{body:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_says_so_in_its_own_framing() {
    for path in ["flash:streamGenerateContent?alt=sse", "flash:streamGenerateContent"] {
        let (gateway, _mock) =
            gateway(Script { replies: vec![Reply::events("/", EVENTS[..2].iter().copied())], ..Script::default() });
        let answer = post(&gateway, &format!("/v1beta/models/{path}"), ASK).await;
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        let last: serde_json::Value = match path.contains("sse") {
            true => serde_json::from_str(body.trim_end().rsplit("data: ").next().unwrap()).unwrap(),
            false => answer.json()[2].clone(),
        };
        assert_eq!(last["error"]["details"][0]["reason"], "stream_incomplete", "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocked_prompt_is_a_whole_answer() {
    let blocked = "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n";
    let (gateway, mock) = gateway(Script { replies: vec![Reply::events("/", [blocked])], ..Script::default() });
    let answer = post(&gateway, "/v1beta/models/flash:streamGenerateContent?alt=sse", ASK).await;
    assert_eq!((&answer.body[..], mock.requests().len()), (blocked.as_bytes(), 1));
}

#[tokio::test(start_paused = true)]
async fn bodies_that_repeat_the_model_get_the_upstreams_name_there() {
    let (gateway, mock) = gateway(Script::default());
    for (action, body) in [
        ("embedContent", r#"{"model":"models/flash", "content":{"parts":[{"text":"x"}]}}"#),
        ("batchEmbedContents", r#"{"requests":[{"model":"models/flash","content":{"parts":[{"text":"x"}]}}]}"#),
        (
            "countTokens",
            r#"{"generateContentRequest":{"model":"models/flash","contents":[{"parts":[{"text":"hi"}]}]}}"#,
        ),
    ] {
        let answer = post(&gateway, &format!("/v1beta/models/flash:{action}"), body).await;
        assert_eq!(answer.status, 200, "{action} {:?}", answer.body);
        let seen = mock.requests().pop().unwrap();
        assert!(seen.path_and_query.ends_with(&format!("gemini-2.5-flash:{action}")), "{}", seen.path_and_query);
        assert_eq!(String::from_utf8_lossy(&seen.body), body.replace("models/flash", "models/gemini-2.5-flash"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_list_has_what_the_user_may_use_and_a_key_may_stand_in_the_query() {
    let (gateway, _mock) = gateway(Script::default());
    let ask = async |path: &str| gateway.send(Method::GET, path, &[], "").await;
    let list = ask(&format!("/v1beta/models?key={NARROW}")).await.json();
    let expected = json!({
        "name": "models/flash", "version": "001", "displayName": "flash", "inputTokenLimit": 1_000_000,
        "supportedGenerationMethods": ["generateContent", "countTokens", "embedContent"],
    });
    assert_eq!(list, json!({"models": [expected]}));
    assert_eq!(ask(&format!("/v1beta/models/flash?key={NARROW}")).await.json(), expected);
    let denied = ask(&format!("/v1beta/models/odd?key={NARROW}")).await;
    assert_eq!((denied.status.as_u16(), &denied.json()["error"]["status"]), (403, &json!("PERMISSION_DENIED")));
}

#[tokio::test(start_paused = true)]
async fn errors_have_geminis_envelope_on_every_path() {
    let (gateway, mock) = gateway(Script::default());
    let headers = |key| [("x-goog-api-key", key), ("content-type", "application/json")];
    for (method, path, key, body, status, word) in [
        (Method::POST, "models/flash:generateContent", "wrong", ASK, 401, "UNAUTHENTICATED"),
        (Method::POST, "models/none:generateContent", ADMIN, ASK, 404, "NOT_FOUND"),
        (Method::POST, "models/flash:generateContent", ADMIN, "{", 400, "INVALID_ARGUMENT"),
        (Method::POST, "models/odd:generateContent", NARROW, ASK, 403, "PERMISSION_DENIED"),
        (Method::GET, "models/flash:generateContent", ADMIN, "", 405, "NOT_FOUND"),
        (Method::POST, "cachedContents", ADMIN, "{}", 404, "NOT_FOUND"),
    ] {
        let answer = gateway.send(method, &format!("/v1beta/{path}"), &headers(key), body).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["code"], &error["status"]),
            (status, &json!(status), &json!(word)),
            "{path}"
        );
    }
    assert!(mock.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_below_v1_is_geminis_too_and_a_model_with_a_colon_is_read_there_as_before() {
    let (gateway, mock) = gateway(Script::default());
    let answer = post(&gateway, "/v1/models/flash:generateContent", ASK).await;
    assert_eq!(answer.status, 200);
    assert_eq!(mock.requests()[0].path_and_query, "/v1beta/models/gemini-2.5-flash:generateContent");
    let refused = post(&gateway, "/v1/models/none:generateContent", ASK).await;
    assert_eq!(refused.json()["error"]["status"], "NOT_FOUND");
    let read = gateway.send(Method::GET, "/v1/models/org/odd:8b@1", &[("x-api-key", ADMIN)], "").await;
    assert_eq!(read.json()["object"], "model");
}

#[tokio::test(start_paused = true)]
async fn a_gemini_client_gets_its_framing_from_a_backend_of_another_dialect_too() {
    let config = CONFIG.replace(
        "base_url = \"https://generativelanguage.googleapis.com\"",
        "base_url = \"https://chat.test/v1\"\nbackend_type = \"openai\"",
    );
    let mock = Mock::new(Script::default());
    let dial = mock.clone();
    let dials = HashMap::from([("google".into(), Arc::new(move || dial.connect()) as Dial)]);
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    let events = post(&gateway, "/v1beta/models/flash:streamGenerateContent?alt=sse", ASK).await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    let array = post(&gateway, "/v1beta/models/flash:streamGenerateContent", ASK).await;
    assert_eq!(array.header("content-type"), "application/json");
    let chunks = array.json();
    let last = chunks.as_array().unwrap().last().unwrap();
    assert_eq!(last["candidates"][0]["finishReason"], "STOP", "{chunks}");
    assert!(last["usageMetadata"]["totalTokenCount"].as_u64().unwrap() > 0, "{last}");
    let plain = post(&gateway, "/v1beta/models/flash:generateContent", ASK).await.json();
    assert!(!plain["candidates"][0]["content"]["parts"][0]["text"].as_str().unwrap().is_empty());
    assert!(mock.requests().iter().all(|seen| seen.path_and_query == "/v1/chat/completions"));
}
