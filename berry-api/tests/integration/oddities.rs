//! What upstreams and clients really send, beside what the vendors' pages say: it must survive. Byte order marks, names that are
//! wrong, whole answers in the place of streams and streams in the place of answers.

use berry_mock::{Reply, Script};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::fleet::{Fleet, always, chat, scripted};
use crate::support::{ADMIN, Answer};

const GOOD: &str = "none";
const MARK: &str = "\u{feff}";
const STREAM: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":null}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}\n\n\
    data: [DONE]\n\n";
const ANSWER: &str = r#"{"id":"c","object":"chat.completion","model":"up-a","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;

/// An upstream that answers everything with these bytes under this content type.
fn says(kind: Option<&str>, pieces: &[&str]) -> Script {
    let mut reply = Reply::events("/", pieces.iter().map(|piece| Bytes::copy_from_slice(piece.as_bytes())));
    reply.headers = kind.iter().map(|kind| ("content-type".into(), (*kind).into())).collect();
    Script { replies: vec![reply], ..Script::default() }
}

async fn alone(script: Script) -> Fleet {
    scripted([script]).settings("max_retries = 0").build().await
}

/// What a client of Messages gets, of which the upstreams are of another dialect.
async fn message(fleet: &Fleet, streamed: bool) -> Answer {
    let body =
        json!({"model": "m", "max_tokens": 9, "stream": streamed, "messages": [{"role": "user", "content": "hi"}]});
    fleet.gateway.send(Method::POST, "/v1/messages", &[("x-api-key", ADMIN)], &body.to_string()).await
}

/// The content of a plain answer that a client of Messages gets.
async fn message_of(fleet: &Fleet) -> Value {
    message(fleet, false).await.json()["content"].clone()
}

/// Tokens in and out, as the access line has them.
fn used(fleet: &Fleet) -> (Value, Value) {
    let line = fleet.access().pop().expect("a line");
    (line["input_tokens"].clone(), line["output_tokens"].clone())
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_before_an_answer_is_passed_on_and_changes_nothing() {
    let marked = format!("{MARK}{ANSWER}");
    for cut in [0, 1, 2, 3, 4] {
        let (first, rest) = marked.as_bytes().split_at(cut);
        let mut script = says(Some("application/json"), &["", ""]);
        script.replies[0].chunks[0].body = Bytes::copy_from_slice(first);
        script.replies[0].chunks[1].body = Bytes::copy_from_slice(rest);
        let fleet = alone(script).await;
        let got = fleet.ask(false).await;
        assert_eq!((got.status(), got.text()), (200, marked.clone()), "cut at {cut}");
        assert_eq!(used(&fleet), (json!(3), json!(5)));
        let translated = message(&fleet, false).await;
        assert_eq!(translated.json()["content"][0]["text"], "hi", "{:?}", translated.body);
    }
    let stream = format!("{MARK}{STREAM}");
    let fleet = alone(says(Some("text/event-stream"), &[&stream])).await;
    let got = fleet.ask(true).await;
    assert_eq!((got.status(), got.text()), (200, stream), "a stream");
    assert_eq!(used(&fleet), (json!(3), json!(5)));
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_before_an_error_hides_nothing_of_it() {
    let error = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    for status in [400, 200] {
        let mut script = says(Some("application/json"), &[&format!("{MARK}{error}")]);
        script.replies[0].status = status;
        let fleet = scripted([script, always(GOOD)]).build().await;
        let got = fleet.ask(false).await;
        assert_eq!((got.status(), fleet.seen()), (400, vec![1, 0]), "{status}: {}", got.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_before_a_request_is_left_out() {
    let fleet = alone(always(GOOD)).await;
    let token = format!("Bearer {ADMIN}");
    let body = format!("{MARK}{}", chat(false));
    let answer = fleet.gateway.send(Method::POST, "/v1/chat/completions", &[("authorization", &token)], &body).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let sent = fleet.mocks[0].requests();
    assert_eq!(sent[0].body, chat(false).replace("\"m\"", "\"up-a\""));
    let answer = fleet.gateway.send(Method::POST, "/v1/chat/completions", &[("authorization", &token)], MARK).await;
    assert_eq!(answer.status, 400, "nothing but a mark is nothing");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_coding_is_none_is_read() {
    let fleet = alone(always(GOOD)).await;
    for (coding, status) in [("", 200), ("identity", 200), ("UTF-8", 200), ("gzip", 415)] {
        let got = fleet.ask_with(false, &[("content-encoding", coding)]).await;
        assert_eq!(got.status(), status, "{coding:?}: {}", got.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_one_by_its_first_bytes_whatever_it_is_called() {
    for kind in [Some("application/json; charset=utf-8"), Some("application/octet-stream"), Some("text/html"), None] {
        for pieces in
            [&[STREAM][..], &["\n", "d", "a", &STREAM[2..]], &["event: x\n", STREAM], &[": hello\n\n", STREAM]]
        {
            let fleet = alone(says(kind, pieces)).await;
            let got = fleet.ask(true).await;
            assert_eq!((got.status(), got.text()), (200, pieces.concat()), "{kind:?}");
            assert_eq!(got.answer.header("content-type"), "text/event-stream");
            assert_eq!(used(&fleet), (json!(3), json!(5)));
            let text = message(&fleet, true).await;
            assert!(String::from_utf8_lossy(&text.body).contains("event: message_stop"), "{:?}", text.body);
        }
        let fleet = scripted([says(kind, &["<html>", "data: no stream\n\n"]), always(GOOD)]).build().await;
        fleet.ask(true).await.assert_clean(true, "b", 2, "a page");
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_in_the_place_of_a_stream_is_said_as_one() {
    for kind in [Some("text/event-stream"), Some("application/json"), None] {
        for pieces in [&[ANSWER][..], &["\u{feff}", " \n", &ANSWER[..1], &ANSWER[1..]]] {
            let fleet = alone(says(kind, pieces)).await;
            let got = fleet.ask(true).await;
            assert_eq!(got.status(), 200, "{kind:?}: {}", got.text());
            assert_eq!(got.answer.header("content-type"), "text/event-stream");
            let told = got.told();
            assert_eq!((told.content.as_str(), told.finishes, told.done), ("hi", 1, true), "{}", got.text());
            assert!(!got.text().contains("usage"), "it was not asked for: {}", got.text());
            assert_eq!(used(&fleet), (json!(3), json!(5)));
            let text = message(&fleet, true).await;
            let text = String::from_utf8_lossy(&text.body);
            assert!(text.contains(r#""text_delta","text":"hi""#) && text.contains("event: message_stop"), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_with_a_call_becomes_a_stream_with_that_call() {
    let call = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},"finish_reason":"tool_calls"}]}"#;
    let fleet = alone(says(Some("application/json"), &[call])).await;
    let text = fleet.ask(true).await.text();
    for part in [
        r#""reasoning_content":"hm""#,
        r#""name":"f""#,
        r#""arguments":"{\"a\":1}""#,
        r#""finish_reason":"tool_calls""#,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_place_of_a_stream_is_that_error_whatever_it_is_called() {
    let error = r#"{"error":{"message":"Slow down.","type":"rate_limit_error","code":429}}"#;
    for kind in [Some("text/event-stream"), Some("application/json"), Some("text/plain"), None] {
        let fleet = scripted([says(kind, &[error]), always(GOOD)]).build().await;
        fleet.ask(true).await.assert_clean(true, "b", 2, "rescued");
        let fleet = alone(says(kind, &[error])).await;
        let got = fleet.ask(true).await;
        assert_eq!((got.status(), got.text()), (429, error.to_owned()), "{kind:?}");
        assert_eq!(got.answer.header("content-type"), "application/json");
        assert_eq!(message(&fleet, true).await.json()["type"], "error");
    }
    for nothing in ["{", "{}", "[]", r#"{"choices":[]}"#, r#"[{"choices":[]}]"#] {
        let fleet = scripted([says(Some("text/event-stream"), &[nothing]), always(GOOD)]).build().await;
        fleet.ask(true).await.assert_clean(true, "b", 2, nothing);
    }
}

/// A chunk with this choice.
fn chunk(choice: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,{choice}}}]}}\n\n")
}

#[tokio::test(start_paused = true)]
async fn an_error_of_any_shape_is_an_error_with_status_200_too() {
    for (error, status) in [
        (r#"{"object":"error","message":"No such model.","type":"NotFoundError","param":null,"code":404}"#, 404),
        (r#"{"error":"model is loading"}"#, 502),
        (r#"{"detail":"Internal Server Error"}"#, 502),
        (r#"{"code":"Throttling","message":"Slow down.","request_id":"r"}"#, 429),
        (
            r#"{"id":"1","choices":null,"usage":{"total_tokens":0},"base_resp":{"status_code":1002,"status_msg":"rate limit"}}"#,
            429,
        ),
        (r#"{"success":false,"message":"no channel"}"#, 502),
    ] {
        for streamed in [false, true] {
            let body = if streamed { format!("data: {error}\n\ndata: [DONE]\n\n") } else { error.to_owned() };
            let script = says(Some("application/json"), &[&body]);
            let fleet = scripted([script.clone(), always(GOOD)]).build().await;
            fleet.ask(streamed).await.assert_clean(streamed, "b", 2, error);
            let got = alone(script).await.ask(streamed).await;
            assert_eq!(got.status(), status, "{error}: {}", got.text());
            assert!(got.answer.json()["error"]["message"].is_string(), "{}", got.text());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_any_shape_behind_content_is_told_in_the_usual_one() {
    for error in [
        r#"{"object":"error","message":"Engine died.","code":500}"#,
        r#"{"code":"InternalError","message":"Engine died."}"#,
    ] {
        let half = chunk(r#""delta":{"content":"half"}"#);
        let mut script = says(Some("text/event-stream"), &[&half, &format!("data: {error}\n\ndata: [DONE]\n\n")]);
        // Later than its content has gone to the client.
        script.replies[0].chunks[1].delay_ms = 1000;
        let fleet = alone(script).await;
        let got = fleet.ask(true).await;
        let text = got.text();
        assert!(got.status() == 200 && text.starts_with(&half), "{text}");
        let told = text.lines().find(|line| line.contains("Engine died.")).expect("the error");
        let told: Value = serde_json::from_str(told.trim_start_matches("data: ")).unwrap();
        assert_eq!(told["error"]["message"], "Engine died.", "{text}");
        assert_eq!(fleet.gateway.gateway.app().status().providers["a"].failed_requests, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_no_known_shape_that_names_no_error_passes_as_it_is() {
    for answer in [r#"{"choices":[],"model":"m"}"#, "{}", r#"{"message":"hello"}"#, "[]", r#"{"error":null,"x":1}"#] {
        let got = alone(says(Some("application/json"), &[answer])).await.ask(false).await;
        assert_eq!((got.status(), got.text()), (200, answer.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_none_does_not_cut_a_stream() {
    for unfinished in [r#""null""#, r#""""#, "null", r#""stop""#] {
        let first = chunk(&format!(r#""delta":{{"content":"a"}},"finish_reason":{unfinished}"#));
        let second = chunk(r#""delta":{"content":"b"},"finish_reason":null"#);
        let last = chunk(r#""delta":{},"finish_reason":"stop""#);
        let mut script = says(Some("text/event-stream"), &[&first, &second, &last, "data: [DONE]\n\n"]);
        // Longer than a stream is waited for that has ended. The first end is believed.
        script.replies[0].chunks[2].delay_ms = 5000;
        script.replies[0].chunks[1].delay_ms = if unfinished == r#""stop""# { 1000 } else { 5000 };
        let fleet = alone(script).await;
        let got = fleet.ask(true).await;
        assert_eq!(got.text(), [first, second, last, "data: [DONE]\n\n".to_owned()].concat(), "{unfinished}");
    }
}

#[tokio::test(start_paused = true)]
async fn several_answers_one_after_the_other_are_waited_for() {
    let choice = |index: u32, rest: &str| format!("data: {{\"choices\":[{{\"index\":{index},{rest}}}]}}\n\n");
    let pieces = [
        choice(0, r#""delta":{"content":"a"}"#) + &choice(0, r#""delta":{},"finish_reason":"stop""#),
        choice(1, r#""delta":{"content":"b"}"#),
        choice(1, r#""delta":{"content":"c"}"#) + &choice(1, r#""delta":{},"finish_reason":"stop""#),
    ];
    let mut script = says(Some("text/event-stream"), &pieces.each_ref().map(String::as_str));
    script.replies[0].chunks[2].delay_ms = 5000;
    let got = alone(script).await.ask(true).await;
    assert_eq!(got.text(), pieces.concat());
}

#[tokio::test(start_paused = true)]
async fn a_coding_that_nobody_asked_for_is_undone_and_one_that_is_only_named_is_not() {
    let coded = |coding: &str, body: Vec<u8>, kind: &str| {
        let mut script = says(Some(kind), &[""]);
        script.replies[0].headers.push(("content-encoding".into(), coding.into()));
        script.replies[0].chunks[0].body = Bytes::from(body);
        script
    };
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
    for (coding, answer, stream) in [
        ("zstd", zstd(ANSWER), zstd(STREAM)),
        ("gzip", ANSWER.into(), STREAM.into()),
        ("br", ANSWER.into(), STREAM.into()),
        ("UTF-8", ANSWER.into(), STREAM.into()),
    ] {
        let got = alone(coded(coding, answer, "application/json")).await.ask(false).await;
        assert_eq!((got.status(), got.text().as_str()), (200, ANSWER), "{coding}");
        assert_eq!(got.answer.header("content-encoding"), "");
        let got = alone(coded(coding, stream, "text/event-stream")).await.ask(true).await;
        assert_eq!((got.status(), got.text().as_str()), (200, STREAM), "{coding}");
    }
    let unknown = coded("compress", ANSWER.into(), "application/json");
    let fleet = scripted([unknown.clone(), always(GOOD)]).build().await;
    fleet.ask(false).await.assert_clean(false, "b", 2, "another backend");
    let got = alone(unknown).await.ask(false).await;
    assert_eq!((got.status(), got.answer.error_code().as_str()), (502, "upstream_error"), "{}", got.text());
    assert!(got.text().contains("compress"), "{}", got.text());
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_the_place_of_an_answer_is_said_as_one() {
    let call = r#""delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":"}}]}"#;
    let rest = r#""delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}"#;
    let stream = [
        chunk(r#""delta":{"role":"assistant","reasoning_content":"h"}"#),
        chunk(r#""delta":{"reasoning_content":"m"}"#),
        chunk(r#""delta":{"content":"o"}"#),
        chunk(r#""delta":{"content":"k"}"#),
        chunk(call),
        chunk(rest),
        STREAM[STREAM.find("data: {\"choices\":[{\"index\":0,\"delta\":{}").unwrap()..].to_owned(),
    ]
    .concat();
    for kind in [Some("text/event-stream"), Some("application/json")] {
        let fleet = alone(says(kind, &[&stream])).await;
        let got = fleet.ask(false).await;
        assert_eq!((got.status(), got.answer.header("content-type")), (200, "application/json"), "{}", got.text());
        let choice = &got.answer.json()["choices"][0];
        let message = &choice["message"];
        assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("ok"), &json!("hm")));
        assert_eq!(message["tool_calls"][0]["function"], json!({"name": "f", "arguments": "{\"a\":1}"}));
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert_eq!(used(&fleet), (json!(3), json!(5)));
        let told = message_of(&fleet).await;
        let kinds: Vec<&str> = told.as_array().unwrap().iter().map(|part| part["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["thinking", "text", "tool_use"], "{told}");
    }
    let error = "data: {\"error\":{\"message\":\"Slow down.\",\"code\":429}}\n\n";
    assert_eq!(alone(says(None, &[error])).await.ask(false).await.status(), 429);
    for bad in [chunk(r#""delta":{"content":"half"}"#), format!("{STREAM}data: {{\n\n"), "data: x\n\n".to_owned()] {
        let fleet = scripted([says(None, &[&bad]), always(GOOD)]).build().await;
        fleet.ask(false).await.assert_clean(false, "b", 2, &bad);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_after_an_event_without_its_empty_line_is_an_event_of_its_own() {
    let whole = chunk(r#""delta":{"content":"a"}"#);
    for tail in [whole.trim_end(), "{\"error\":{\"message\":\"no event\"}}"] {
        let got = alone(says(Some("text/event-stream"), &[&whole, tail])).await.ask(true).await;
        let text = got.text();
        let (before, told) = text.rsplit_once("\n\ndata: ").expect("an event of its own");
        assert_eq!(before, format!("{whole}{tail}"));
        assert!(told.contains("stream_incomplete"), "{text}");
    }
}

/// The stream as a line of JSON for each event.
fn lines() -> String {
    let events = STREAM.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    events.map(|data| data.to_owned() + "\n").collect()
}

#[tokio::test(start_paused = true)]
async fn lines_of_json_in_the_place_of_a_stream_are_that_stream() {
    let events = STREAM.strip_suffix("data: [DONE]\n\n").unwrap();
    let lines = lines();
    let unended = lines.strip_suffix("[DONE]\n").unwrap();
    let array = format!("[{}]", unended.trim_end().replace('\n', ",\r\n"));
    for kind in [Some("application/x-ndjson"), Some("application/json"), Some("text/event-stream"), None] {
        for body in [&lines, unended, &array, &format!("{MARK} \n{lines}")] {
            let (first, rest) = body.split_at(40);
            for pieces in [&[body][..], &[first, rest], &[MARK, "\n", body]] {
                let fleet = alone(says(kind, pieces)).await;
                let got = fleet.ask(true).await;
                assert_eq!((got.status(), got.text().trim_start()), (200, events), "{kind:?} {pieces:?}");
                assert_eq!(got.answer.header("content-type"), "text/event-stream");
                assert_eq!(used(&fleet), (json!(3), json!(5)));
                let text = message(&fleet, true).await;
                let text = String::from_utf8_lossy(&text.body);
                assert!(text.contains(r#""text_delta","text":"hi""#) && text.contains("event: message_stop"), "{text}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lines_of_json_go_to_the_client_as_they_come_and_fail_as_events_do() {
    let lines = lines();
    let first = lines.lines().next().unwrap();
    let begun = format!("{first}\n{first}\n");
    for (end, code) in [("", "stream_incomplete"), ("{\"choices\":", "stream_incomplete"), ("{]}", "upstream_error")] {
        let mut script = says(None, &[&begun, end]);
        script.replies[0].chunks[1].delay_ms = 9000;
        let fleet = scripted([script, always(GOOD)]).build().await;
        let text = fleet.ask(true).await.text();
        assert!(text.starts_with(&format!("data: {first}\n\ndata: {first}\n\n")) && text.contains(code), "{text}");
        assert_eq!(fleet.seen(), [1, 0], "it is the client's already");
        let ttft = &fleet.access()[0]["ttft_ms"];
        assert!(ttft.as_f64().unwrap() < 1000.0, "{ttft}");
    }
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#;
    let error = r#"{"error":{"message":"busy","code":503}}"#;
    for bad in [&format!("{role}\n{error}\n"), &format!("[{error}]"), &format!("{role}\n{role}\n"), "[]"] {
        let fleet = scripted([says(None, &[bad]), always(GOOD)]).build().await;
        fleet.ask(true).await.assert_clean(true, "b", 2, bad);
    }
    // What can be nothing any more is not waited for: a value without an end, and a page.
    for begun in [format!("{role}\n{{\"choices\":\"{}", "x".repeat(5 << 20)), "<html>".to_owned()] {
        let mut script = says(None, &[&begun, "\"}\n"]);
        script.replies[0].chunks[1].delay_ms = 9000;
        let fleet = scripted([script, always(GOOD)]).build().await;
        let got = fleet.ask(true).await;
        got.assert_clean(true, "b", 2, &begun[..6]);
        assert!(got.seconds < 5.0, "{}", got.seconds);
    }
    assert_eq!(alone(says(None, &[&format!("[{error}]")])).await.ask(true).await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn lines_of_json_in_the_place_of_an_answer_are_said_as_one() {
    let fleet = alone(says(Some("application/x-ndjson"), &[&lines()])).await;
    let got = fleet.ask(false).await;
    assert_eq!((got.status(), &got.answer.json()["choices"][0]["message"]["content"]), (200, &json!("hi")));
    assert_eq!(message_of(&fleet).await[0]["text"], "hi");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_behind_an_answer_is_left_out() {
    for end in ["\n\ndata: [DONE]\n\n", "data: [DONE]", "\n[DONE]"] {
        let glued = format!("{ANSWER}{end}");
        let fleet = alone(says(Some("text/event-stream"), &[&glued])).await;
        let got = fleet.ask(false).await;
        assert_eq!((got.status(), got.text().as_str()), (200, ANSWER));
        assert_eq!(used(&fleet), (json!(3), json!(5)));
        assert_eq!(message_of(&fleet).await[0]["text"], "hi");
        let told = fleet.ask(true).await.told();
        assert_eq!((told.content.as_str(), told.finishes, told.done), ("hi", 1, true));
    }
    let failed = format!("{}\n\ndata: [DONE]\n\n", r#"{"error":{"message":"busy","code":503}}"#);
    for bad in [format!("{ANSWER} and more"), failed] {
        let fleet = scripted([says(None, &[&bad]), always(GOOD)]).build().await;
        fleet.ask(false).await.assert_clean(false, "b", 2, &bad);
    }
}
