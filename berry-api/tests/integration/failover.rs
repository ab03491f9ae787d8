//! Failover up to the commit point, and the bounds on it: attempts, time, and what must never be sent twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, ReplyChunk, Script};
use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::task::TaskTracker;

use crate::fleet::{Fleet, always, at_first, chat, plan, scripted};
use crate::support::{ADMIN, CONFIG, TestGateway};

const GOOD: &str = "none";

#[tokio::test(start_paused = true)]
async fn any_fault_before_the_first_content_is_transparent() {
    let both = [
        "status:408",
        "status:500",
        "status:502",
        "status:504",
        "status:529",
        "quota",
        "html:503",
        "html",
        "redirect",
        "reset:before-head",
        "close:before-head",
        "half-head:reset",
        "half-head:close",
        "reset:head",
        "close:head",
        "close:0",
        "stall:head",
        "hang",
        "garbage",
        "error-event",
        "empty-stream",
        "malformed-chunk",
        "gzip-bomb:100000000",
    ];
    let plain = ["truncated-json", "oversized-body:40000000", "close:1", "stall:1"];
    let streamed = ["oversized-body:40000000", "stall:0", "comments:1000"];
    let cases = both.iter().flat_map(|fault| [(*fault, false), (*fault, true)]);
    let cases = cases.chain(plain.map(|fault| (fault, false)));
    let cases = cases.chain(streamed.map(|fault| (fault, true)));
    for (fault, streamed) in cases {
        let settings = "request_timeout_seconds = 5\nfirst_token_timeout_seconds = 5";
        let fleet = plan(&[fault, GOOD]).settings(settings).build().await;
        let got = fleet.ask(streamed).await;
        got.assert_clean(streamed, "b", 2, fault);
        assert_eq!(fleet.seen(), [1, 1], "{fault}");
        assert!(got.seconds < 6.0, "{fault}: {}", got.seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_the_callers_fault_is_passed_once() {
    for streamed in [false, true] {
        for status in [400, 413, 422] {
            let fleet = plan(&[&format!("status:{status}"), GOOD]).build().await;
            let got = fleet.ask(streamed).await;
            assert_eq!((got.status(), fleet.seen()), (status, vec![1, 0]));
            assert!(got.answer.json()["error"]["message"].is_string());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_fails_over_and_is_never_shown() {
    for streamed in [false, true] {
        let fleet = plan(&["status:401", GOOD]).build().await;
        fleet.ask(streamed).await.assert_clean(streamed, "b", 2, "401");
        // The key is bad: it is not shown again.
        fleet.ask(streamed).await.assert_clean(streamed, "b", 1, "401");
        assert_eq!(fleet.seen(), [1, 2]);

        let fleet = plan(&["status:401", "status:401"]).build().await;
        let got = fleet.ask(streamed).await;
        assert_eq!((got.status(), got.answer.error_code().as_str()), (502, "upstream_auth_error"));
        assert_eq!(fleet.seen(), [1, 1]);
        assert!(!got.text().contains("canary") && !got.text().contains("Incorrect"), "{}", got.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_unknown_upstream_fails_over_and_an_object_of_the_client_does_not() {
    for streamed in [false, true] {
        let fleet = plan(&["status:404", GOOD]).build().await;
        fleet.ask(streamed).await.assert_clean(streamed, "b", 2, "404");

        let error =
            r#"{"error":{"message":"gone","type":"invalid_request_error","code":"previous_response_not_found"}}"#;
        let object = Script { replies: vec![Reply { status: 404, ..Reply::json("/", error) }], ..Script::default() };
        let fleet = scripted([object, always(GOOD)]).build().await;
        assert_eq!((fleet.ask(streamed).await.status(), fleet.seen()), (404, vec![1, 0]));
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_exactly() {
    let down = "status:500";
    for (upstreams, settings, provider, seen) in [
        (3, "max_retries = 0", "", vec![1, 0, 0]),
        (3, "max_retries = 1", "", vec![1, 1, 0]),
        (3, "max_retries = 2\nmax_internal_retries = 2", "", vec![1, 1, 1]),
        (3, "max_retries = 10\nmax_internal_retries = 0", "", vec![1, 1, 1]),
        (3, "max_retries = 10\nmax_internal_retries = 1", "", vec![2, 1, 1]),
        (2, "max_retries = 10\nmax_internal_retries = 3", "", vec![3, 2]),
        (1, "max_retries = 10\nmax_internal_retries = 2", "", vec![3]),
        (1, "max_retries = 1\nmax_internal_retries = 5", "", vec![2]),
        (1, "max_retries = 10\nmax_internal_retries = 5", "max_retries = 1", vec![2]),
        (1, "max_retries = 10\nmax_internal_retries = 5", "max_retries = 0", vec![1]),
        (2, "max_retries = 10\nmax_internal_retries = 5", "max_retries = 1", vec![2, 2]),
    ] {
        for streamed in [false, true] {
            // The threshold is out of the way: what is counted here is attempts.
            let settings = format!("{settings}\ncircuit_breaker_failure_threshold = 100");
            let fleet = plan(&vec![down; upstreams]).settings(&settings).provider(provider).build().await;
            let got = fleet.ask(streamed).await;
            assert_eq!((got.status(), fleet.seen()), (500, seen.clone()), "{settings} {provider}");
            assert_eq!(got.answer.header("x-berry-attempts"), seen.iter().sum::<usize>().to_string());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_providers_own_limit_holds_for_rate_limits_too() {
    let fleet = plan(&["status:429:1"]).settings("max_internal_retries = 5").provider("max_retries = 1").build().await;
    assert_eq!((fleet.ask(false).await.status(), fleet.seen()), (429, vec![2]));
}

/// Half a hundred failures, then one success: enough of those to keep the circuit closed, so that only the budget is left.
fn failing() -> Script {
    let mut faults = vec!["status:500"; 50];
    faults.push(GOOD);
    Script { faults_once: false, ..at_first(&faults) }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_amplified() {
    for upstreams in [1, 3] {
        let settings = "circuit_breaker_failure_threshold = 200";
        let fleet = scripted(vec![failing(); upstreams]).settings(settings).build().await;
        let began = tokio::time::Instant::now();
        // 100 requests a second for 6 s, whatever becomes of the earlier ones.
        let requests = (0..600).map(|number| {
            let fleet = &fleet;
            async move {
                tokio::time::sleep_until(began + Duration::from_millis(10 * number)).await;
                let got = fleet.ask(false).await;
                assert!(matches!(got.status(), 200 | 500));
                got.answer.header("x-berry-attempts").parse::<u64>().expect("a number")
            }
        });
        let attempts = futures_util::future::join_all(requests).await;
        let sent = fleet.mocks.iter().map(|mock| mock.stats().requests).sum::<u64>();
        assert_eq!(sent, attempts.iter().sum::<u64>(), "what was sent is what was told");
        // After the first two seconds; counted by request, so that none is cut in two by the edge.
        let (overall, steady) = (sent as f64 / 600.0, attempts[200..].iter().sum::<u64>() as f64 / 400.0);
        assert!(steady >= 1.1, "every request was tried, and some again: {steady}");
        assert!(overall <= 1.5 && steady <= 1.2, "{upstreams} upstreams: {overall} and {steady} attempts per request");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_nobody_was_left_for_costs_nothing() {
    let settings = "max_internal_retries = 0\ncircuit_breaker_failure_threshold = 200";
    for upstreams in [1, 2] {
        let fleet = scripted(vec![always("status:500"); upstreams]).settings(settings).build().await;
        let app = fleet.gateway.gateway.app();
        let left = || app.runtime().selector.pool(&"m".into()).expect("a pool").retries().left(app.clock.now());
        for requests in 1..=10 {
            assert_eq!(fleet.ask(requests % 2 == 0).await.status(), 500);
            let made = requests * (upstreams as u64 - 1);
            assert!(left() >= 10 - made && left() <= 10 + 2 - made, "{upstreams} upstreams: {}", left());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_forced_backend_never_moves() {
    for streamed in [false, true] {
        let fleet = plan(&["status:500", GOOD]).settings("max_internal_retries = 1").build().await;
        let got = fleet.ask_with(streamed, &[("x-berry-backend", "a")]).await;
        assert_eq!((got.status(), fleet.seen()), (500, vec![2, 0]));
        let body = chat(streamed).replacen('{', r#"{"backend":"a","#, 1);
        let answer = fleet.gateway.post("/v1/chat/completions", ADMIN, &body).await;
        assert_eq!((answer.status.as_u16(), fleet.seen()), (500, vec![4, 0]));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_after_the_client_has_left() {
    for streamed in [false, true] {
        let fleet = plan(&["hang", GOOD]).settings("request_timeout_seconds = 5").build().await;
        {
            let request = fleet.begin(chat(streamed));
            tokio::select! {
                _ = request => panic!("nobody answers"),
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        fleet.mocks[0].wait_until(|stats| stats.cancelled == 1).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(fleet.seen(), [1, 0]);
        assert_eq!(fleet.access()[0]["outcome"], "cancelled");
    }
    // As well where the head has gone out already.
    let settings = "first_token_timeout_seconds = 30";
    let fleet = plan(&["hang", GOOD]).settings(settings).server("keep_alive_seconds = 5").build().await;
    let mut body = fleet.begin(chat(true)).await.into_body();
    assert!(body.frame().await.is_some(), "a comment");
    drop(body);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(fleet.seen(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_clients_own_timeout_bounds_all_attempts() {
    for streamed in [false, true] {
        let fleet = plan(&["hang", "hang", "hang"]).settings("request_timeout_seconds = 2").build().await;
        let got = fleet.ask_with(streamed, &[("x-request-timeout", "5")]).await;
        assert_eq!((got.status(), got.answer.error_code().as_str()), (504, "upstream_timeout"));
        assert!((5.0..5.5).contains(&got.seconds), "{}", got.seconds);
        assert_eq!(fleet.seen(), [1, 1, 1]);

        let fleet = plan(&["hang", GOOD]).build().await;
        let got = fleet.ask_with(streamed, &[("x-request-timeout", "2.5")]).await;
        assert_eq!((got.status(), fleet.seen()), (504, vec![1, 0]));
        assert!(got.text().contains("2.5 s"), "the limit that was exceeded: {}", got.text());
        // No pause is begun that would end too late.
        let fleet = scripted([at_first(&["status:429:2"])]).build().await;
        let got = fleet.ask_with(streamed, &[("x-request-timeout", "1")]).await;
        assert_eq!((got.status(), got.seconds < 0.1), (429, true));
    }
}

#[tokio::test(start_paused = true)]
async fn failover_still_works_behind_a_keep_alive_comment() {
    for fault in ["hang", "stall:head", "comments:1000", "slow-first-token:60000"] {
        let settings = "first_token_timeout_seconds = 20\nrequest_timeout_seconds = 20";
        let fleet = plan(&[fault, GOOD]).settings(settings).server("keep_alive_seconds = 15").build().await;
        let got = fleet.ask(true).await;
        assert!(got.text().starts_with(": keep-alive\n\n"), "{}", got.text());
        assert_eq!((got.status(), got.answer.header("content-type")), (200, "text/event-stream"));
        got.assert_whole(true, "b", fault);
        assert_eq!(fleet.seen(), [1, 1]);
        let line = &fleet.access()[0];
        assert_eq!((line["provider"].as_str(), line["attempts"].as_u64()), (Some("b"), Some(2)));
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_behind_a_keep_alive_comment_the_error_is_told_in_band() {
    for (last, code) in [("hang", "upstream_timeout"), ("status:400", ""), ("status:500", "upstream_timeout")] {
        let settings = "request_timeout_seconds = 20\nmax_internal_retries = 0";
        let fleet = plan(&["hang", last]).settings(settings).server("keep_alive_seconds = 15").build().await;
        let got = fleet.ask(true).await;
        let told = got.cut_with();
        assert!(code.is_empty() || told == code, "{last}: {}", got.text());
        assert_eq!((got.told().content.as_str(), fleet.seen()), ("", vec![1, 1]));
        assert_eq!(fleet.access()[0]["outcome"], "failed");
    }
}

#[tokio::test(start_paused = true)]
async fn failover_works_behind_the_white_space_of_a_plain_answer() {
    for (second, clean) in [(GOOD, true), ("status:500", false), ("hang", false)] {
        let settings = "request_timeout_seconds = 20\nmax_internal_retries = 0";
        let fleet = plan(&["hang", second]).settings(settings).server("plain_keep_alive_seconds = 15").build().await;
        let got = fleet.ask(false).await;
        assert!(got.status() == 200 && got.text().starts_with(' '), "{}", got.text());
        match clean {
            true => got.assert_whole(false, "b", second),
            false => assert_eq!(got.answer.json()["error"]["code"], "upstream_timeout", "{}", got.text()),
        }
        assert_eq!((fleet.seen(), fleet.access()[0]["outcome"] == "complete"), (vec![1, 1], clean));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_event_after_content_is_passed_and_ends_the_stream() {
    let fleet = plan(&["error-event:3", GOOD]).build().await;
    let got = fleet.ask(true).await;
    let told = got.told();
    assert_eq!((told.errors.len(), told.finishes, told.done), (1, 0, false), "{}", got.text());
    assert!(!told.content.is_empty());
    assert_eq!((fleet.seen(), fleet.access()[0]["outcome"].as_str()), (vec![1, 0], Some("failed")));
}

#[tokio::test(start_paused = true)]
async fn comments_alone_cannot_hold_a_stream_for_ever() {
    let content = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n";
    let mut reply = Reply::events("/", [content]);
    let comment = ReplyChunk { delay_ms: 5_000, ..ReplyChunk::new(": still here\n\n") };
    reply.chunks.extend(std::iter::repeat_n(comment, 2_000));
    let script = Script { replies: vec![reply], ..Script::default() };
    let fleet = scripted([script]).settings("stream_idle_timeout_seconds = 10").build().await;
    let got = fleet.ask(true).await;
    assert_eq!(got.cut_with(), "upstream_timeout");
    assert!((50.0..600.0).contains(&got.seconds), "life for a while, not for ever: {}", got.seconds);
}

#[tokio::test(start_paused = true)]
async fn an_error_after_a_part_of_a_long_event_is_an_event_of_its_own() {
    let mut reply = Reply::json("/", "");
    reply.headers = vec![("content-type".into(), "text/event-stream".into())];
    reply.chunks = vec![ReplyChunk::new(format!("data: {}", "a".repeat(3 << 20)))];
    let fleet = scripted([Script { replies: vec![reply], ..Script::default() }]).build().await;
    let got = fleet.ask(true).await;
    let text = got.text();
    let (_, last) = text.trim_end().rsplit_once("\n\n").expect("an event of its own");
    assert!(last.starts_with("data: {\"error\":{") && last.contains("stream_incomplete"), "{last}");
}

#[tokio::test]
async fn when_no_upstream_can_be_reached_the_client_is_told_when_to_come_back() {
    let fleet = plan(&[GOOD, GOOD]).over_sockets().build().await;
    for mock in &fleet.mocks {
        mock.shutdown();
    }
    for round in 0..20 {
        let got = fleet.ask(round % 2 == 0).await;
        assert_eq!((got.status(), got.answer.error_code().as_str()), (503, "no_backend_available"), "{}", got.text());
        let wait: u64 = got.answer.header("retry-after").parse().expect("a Retry-After");
        assert!((1..=90).contains(&wait), "{wait}");
    }
    let last = fleet.ask(false).await;
    assert_eq!(last.answer.header("x-berry-attempts"), "0", "circuits are open: nobody is asked any more");
}

/// Sends a form of which the second half is still to come when the first one is read.
async fn send_in_two(fleet: &Fleet, form: &str) -> (u16, String) {
    let connection = Arc::new(fleet.gateway.gateway.connection("192.0.2.1:1".parse().unwrap()));
    let (first, second) = form.split_at(form.len() / 2);
    let frames = [first, second].map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece.to_owned()))));
    let request = Request::post("/v1/audio/transcriptions").header("x-api-key", ADMIN).header("content-type", FORM);
    let request = request.body(StreamBody::new(futures_util::stream::iter(frames))).unwrap();
    let response = fleet.gateway.gateway.handle(&connection, request).await;
    (response.status().as_u16(), response.headers()["x-berry-attempts"].to_str().unwrap().to_owned())
}

const FORM: &str = "multipart/form-data; boundary=XX";

#[tokio::test(start_paused = true)]
async fn a_form_that_is_still_arriving_is_not_sent_twice() {
    let model = "--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n";
    let sound = "RIFF".repeat(100);
    let form = format!(
        "{model}--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n{sound}\r\n--XX--\r\n"
    );
    let fleet = plan(&["status:503", GOOD]).build().await;
    assert_eq!(send_in_two(&fleet, &form).await, (503, "1".to_owned()));
    assert_eq!(fleet.seen(), [1, 0], "its beginning is gone");
    // At hand as a whole it is.
    let fleet = plan(&["status:503", GOOD]).build().await;
    let headers = [("x-api-key", ADMIN), ("content-type", FORM)];
    let answer = fleet.gateway.send(Method::POST, "/v1/audio/transcriptions", &headers, &form).await;
    assert_eq!((answer.status.as_u16(), fleet.seen()), (200, vec![1, 1]));
}

/// An upstream made of raw connections: what each one writes for each request, `None` closes it.
#[derive(Clone)]
struct Raw {
    connections: Arc<Mutex<Vec<Vec<Option<&'static str>>>>>,
    /// Requests read on each connection.
    read: Arc<Mutex<Vec<usize>>>,
}

const ANSWER: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"model\":\"up-a\"}";

impl Raw {
    fn connect(&self) -> DuplexStream {
        let (client, served) = tokio::io::duplex(64 * 1024);
        let mut left = self.connections.lock();
        let answers = if left.is_empty() { Vec::new() } else { left.remove(0) };
        self.read.lock().push(0);
        let number = self.read.lock().len() - 1;
        let read = Arc::clone(&self.read);
        TaskTracker::new().spawn(async move { serve(served, answers, &read, number).await });
        client
    }
}

async fn serve(
    mut io: DuplexStream,
    answers: Vec<Option<&'static str>>,
    read: &Mutex<Vec<usize>>,
    number: usize,
) -> Option<()> {
    for answer in answers {
        let mut request = String::new();
        while !request.ends_with("]}") {
            request.push(char::from(io.read_u8().await.ok()?));
        }
        read.lock()[number] += 1;
        io.write_all(answer?.as_bytes()).await.ok()?;
    }
    None
}

/// Two requests to raw connections of provider `nowhere`; status and attempts of the second.
async fn second_of_two(connections: Vec<Vec<Option<&'static str>>>) -> (u16, String, Vec<usize>) {
    let raw = Raw { connections: Arc::new(Mutex::new(connections)), read: Arc::default() };
    let dial = raw.clone();
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || dial.connect()) as _)]);
    let config = format!("[settings]\nmax_internal_retries = 0\n{CONFIG}");
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    let body = r#"{"model":"narrow","messages":[]}"#;
    let first = gateway.post("/v1/chat/completions", ADMIN, body).await;
    assert_eq!(first.status.as_u16(), 200, "{:?}", first.body);
    let second = gateway.post("/v1/chat/completions", ADMIN, body).await;
    let read = raw.read.lock().clone();
    (second.status.as_u16(), second.header("x-berry-attempts").to_owned(), read)
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_closed_under_a_request_is_replaced_once_for_free() {
    let good = || vec![Some(ANSWER)];
    let closes = || vec![Some(ANSWER), None];
    assert_eq!(second_of_two(vec![closes(), good()]).await, (200, "1".into(), vec![2, 1]));
    // Once: a new connection that does the same is an upstream that fails.
    assert_eq!(second_of_two(vec![closes(), vec![None], good()]).await, (502, "1".into(), vec![2, 1]));
}

#[tokio::test(start_paused = true)]
async fn odd_heads_of_answers_are_read() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-type: application/json;\r\n charset=utf-8\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nx-odd : a\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\ncontent-length: 2\n\n{}",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let (status, _, read) = second_of_two(vec![vec![Some(ANSWER), Some(head)]]).await;
        assert_eq!((status, read), (200, vec![2]), "{head:?}");
    }
}

#[tokio::test]
async fn a_pooled_connection_survives_an_upstream_that_closes_after_each_answer() {
    let mut reply = Reply::json("/", "{}");
    reply.headers.push(("connection".into(), "close".into()));
    let mock = Mock::new(Script { replies: vec![reply], ..Script::default() });
    let dial = mock.clone();
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || dial.connect()) as _)]);
    let gateway = TestGateway::with(CONFIG, AccessLog::default(), dials);
    for _ in 0..20 {
        let answer = gateway.post("/v1/chat/completions", ADMIN, r#"{"model":"narrow","messages":[]}"#).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-berry-attempts")), (200, "1"));
    }
    assert_eq!(mock.stats().requests, 20);
}

#[tokio::test]
async fn a_reset_of_a_pooled_connection_is_no_failure_of_the_backend() {
    let script = at_first(&[GOOD, "reset:before-head"]);
    let fleet = scripted([script]).settings("max_internal_retries = 0").over_sockets().build().await;
    for _ in 0..2 {
        fleet.ask(false).await.assert_clean(false, "a", 1, "free");
    }
    assert_eq!(fleet.mocks[0].stats().connections, 2);
    assert_eq!(fleet.seen(), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_model_may_hold_the_commit_point_back() {
    let with = |fault: &str, commit: &str| plan(&[fault, GOOD]).model(commit).build();
    // Three content events and the failure come before the fourth.
    let fleet = with("close:3", "commit = { tokens = 3 }").await;
    fleet.ask(true).await.assert_clean(true, "b", 2, "held back");
    let fleet = with("close:4", "commit = { tokens = 3 }").await;
    assert_eq!(fleet.ask(true).await.cut_with(), "stream_incomplete");
    // A short answer is not held beyond its end.
    let fleet = with(GOOD, "commit = { tokens = 1000 }").await;
    fleet.ask(true).await.assert_clean(true, "a", 1, "whole");
    // No longer than the time says: the silence begins after the second event.
    let fleet = with("stall:2", "commit = { tokens = 1000, ms = 500 }").await;
    let mut body = fleet.begin(chat(true)).await.into_body();
    let began = tokio::time::Instant::now();
    assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
    assert!(began.elapsed() < Duration::from_secs(1));
    let fleet = with("close:2", "commit = { ms = 500 }").await;
    fleet.ask(true).await.assert_clean(true, "b", 2, "within the time");
}

#[tokio::test(start_paused = true)]
async fn a_finished_stream_that_stays_open_is_ended_soon() {
    let finish = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"},\"finish_reason\":\"stop\"}]}\n\n";
    let content = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n";
    let mut reply = Reply::events("/", [content, finish, "data: [DONE]\n\n"]);
    reply.chunks[1].delay_ms = 1_000;
    reply.chunks[2].gate = true;
    let fleet = scripted([Script { replies: vec![reply], ..Script::default() }]).build().await;
    let got = fleet.ask(true).await;
    assert_eq!((got.told().finishes, got.told().errors.len()), (1, 0), "{}", got.text());
    assert!((3.0..3.5).contains(&got.seconds), "{}", got.seconds);
    assert_eq!(fleet.access()[0]["outcome"], "complete");
}

#[tokio::test(start_paused = true)]
async fn a_cut_stream_is_told_in_the_dialect_of_the_request_and_rescued_before_its_content() {
    let asks = [
        ("/v1/responses", "openai", r#"{"model":"m","stream":true,"input":"hi"}"#, "response.failed"),
        (
            "/v1/messages",
            "claude",
            r#"{"model":"m","stream":true,"max_tokens":50,"messages":[{"role":"user","content":"hi"}]}"#,
            "error",
        ),
    ];
    for (path, kind, body, event) in asks {
        for (fault, rescued) in [("close:0", true), ("error-event", true), ("close:2", false)] {
            let fleet = plan(&[fault, GOOD]).provider(&format!("backend_type = \"{kind}\"")).build().await;
            let headers = [("x-api-key", ADMIN), ("anthropic-version", "2023-06-01")];
            let answer = fleet.gateway.send(Method::POST, path, &headers, body).await;
            let text = String::from_utf8(answer.body.to_vec()).unwrap();
            assert_eq!(answer.status.as_u16(), 200, "{text}");
            let told = text.contains(&format!("event: {event}\n"));
            assert_eq!(
                (told, answer.header("x-berry-attempts")),
                (!rescued, if rescued { "2" } else { "1" }),
                "{text}"
            );
            assert_eq!(fleet.seen(), [1, usize::from(rescued)]);
            assert!(rescued == (text.contains("message_stop") || text.contains("response.completed")), "{text}");
        }
    }
}

/// A stream with status 200 and these events.
fn events(events: &str) -> Script {
    let mut reply = Reply::json("/", events.to_owned());
    reply.headers = vec![("content-type".into(), "text/event-stream".into())];
    Script { replies: vec![reply], ..Script::default() }
}

#[tokio::test(start_paused = true)]
async fn an_error_told_with_status_200_counts_as_the_error_that_it_is() {
    let too_long = r#"{"error":{"message":"maximum context length is 8","code":400}}"#;
    let filtered = r#"{"error":{"message":"no","type":"invalid_request_error","code":"content_filter"}}"#;
    let limited = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    let bad_key = r#"{"error":{"message":"bad key","type":"invalid_request_error","code":"invalid_api_key"}}"#;
    for (error, status, seen) in
        [(too_long, 400, [1, 0]), (filtered, 400, [1, 0]), (limited, 200, [1, 1]), (bad_key, 200, [1, 1])]
    {
        let plain = Script { replies: vec![Reply::json("/", error)], ..Script::default() };
        for (script, streamed) in [(events(&format!("data: {error}\n\n")), true), (plain.clone(), true), (plain, false)]
        {
            let fleet = scripted([script, always(GOOD)]).build().await;
            let got = fleet.ask(streamed).await;
            assert_eq!((got.status(), fleet.seen()), (status, seen.to_vec()), "{error}");
            if status == 400 {
                assert_eq!(got.text(), error);
                assert_eq!(got.answer.header("content-type"), "application/json");
                let failures = fleet.gateway.gateway.app().status().providers["a"].failed_requests;
                assert_eq!(failures, 0, "a fault of the caller counts against nobody");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_error_told_in_a_stream_reaches_the_client_with_its_status() {
    let error = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    let fleet = scripted([events(&format!("data: {error}\n\n"))]).build().await;
    let got = fleet.ask(true).await;
    assert_eq!((got.status(), got.text().as_str(), fleet.seen()), (429, error, vec![1]));
    // It cools the backend, as any 429 does.
    assert_eq!((fleet.ask(true).await.status(), fleet.seen()), (429, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn a_plain_answer_inside_which_the_upstream_failed_is_rescued_and_else_told_as_its_error() {
    let busy = r#"{"code":503,"message":"busy"}"#;
    for (reason, error, status) in
        [("error", busy, 503), ("insufficient_system_resource", "null", 500), ("network_error", "null", 500)]
    {
        let choice = format!(r#"{{"message":{{"content":"ha"}},"finish_reason":"{reason}","error":{error}}}"#);
        let reply = Reply::json("/", format!(r#"{{"choices":[{choice}],"usage":{{"prompt_tokens":3}}}}"#));
        let script = Script { replies: vec![reply], ..Script::default() };
        let fleet = scripted([script.clone(), always(GOOD)]).build().await;
        assert_eq!((fleet.ask(false).await.status(), fleet.seen()), (200, vec![1, 1]), "{reason}");
        let got = scripted([script]).build().await.ask(false).await;
        assert_eq!(got.status(), status, "{reason}: {}", got.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_gemini_that_nobody_can_read_is_tried_again_and_speaks_against_no_backend() {
    let answer = r#"{"candidates":[{"content":{},"finishReason":"MALFORMED_FUNCTION_CALL","index":0}],"usageMetadata":{"promptTokenCount":3}}"#;
    for streamed in [false, true] {
        let script = match streamed {
            false => Script { replies: vec![Reply::json("/", answer)], ..Script::default() },
            true => events(&format!("data: {answer}\n\n")),
        };
        let gemini = "backend_type = \"gemini\"";
        let fleet = scripted([script.clone(), always(GOOD)]).provider(gemini).build().await;
        // More than would open a circuit.
        for asked in 1..=8 {
            assert_eq!((fleet.ask(streamed).await.status(), fleet.seen()), (200, vec![asked, asked]));
        }
        assert_eq!(fleet.gateway.gateway.app().status().providers["a"].failed_requests, 0);
        let got = scripted([script]).provider(gemini).build().await.ask(streamed).await;
        assert_eq!(got.status(), 502, "{}", got.text());
        assert!(got.text().contains("a tool call that cannot be read"), "{}", got.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_type_is_not_told_is_one_when_it_reads_like_one() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}"#;
    let body = format!("data: {chunk}\n\ndata: [DONE]\n\n");
    for kind in [None, Some("text/plain; charset=utf-8")] {
        let mut script = events(&body);
        script.replies[0].headers = kind.iter().map(|kind| ("content-type".into(), (*kind).into())).collect();
        let fleet = scripted([script]).build().await;
        let got = fleet.ask(true).await;
        assert_eq!((got.status(), got.answer.header("content-type")), (200, "text/event-stream"), "{}", got.text());
        assert_eq!(got.text(), body);
        let mut script = events("no stream at all");
        script.replies[0].headers.clear();
        let fleet = scripted([script, always(GOOD)]).build().await;
        fleet.ask(true).await.assert_clean(true, "b", 2, "text that is no stream");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_page_of_an_upstream_is_told_with_the_type_of_its_status() {
    for (status, kind) in [(400, "invalid_request_error"), (429, "rate_limit_error"), (503, "server_error")] {
        let page = Script { replies: vec![Reply { status, ..Reply::json("/", "<html>") }], ..Script::default() };
        let fleet = scripted([page]).settings("max_retries = 0").build().await;
        let got = fleet.ask(false).await;
        assert_eq!((got.status(), got.answer.error_code().as_str()), (status, "upstream_error"));
        assert_eq!(got.answer.json()["error"]["type"], kind);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_an_upstream_does_not_have_takes_the_model_from_nobody() {
    const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5}"#;
    const OTHER: &str = r#"{"model":"m","messages":[],"input":"x","query":"q","documents":["d"]}"#;
    for (refused, kind, path, before, after) in [
        (
            404,
            "openai",
            "/v1/chat/completions",
            &["/v1/rerank"][..],
            &["/v1/rerank", "/v1/embeddings", "/v1/embeddings"][..],
        ),
        // Claude Code counts before it asks, and many servers of that dialect cannot count.
        (404, "claude", "/v1/messages", &["/v1/messages/count_tokens"; 2], &["/v1/messages/count_tokens"; 2]),
        (501, "openai", "/v1/chat/completions", &[], &["/v1/embeddings", "/v1/embeddings"]),
    ] {
        let missing = |path: &&str| {
            let error = r#"{"error":{"message":"Invalid URL"}}"#;
            Reply { status: refused, ..Reply::json(*path, error) }
        };
        let replies = before.iter().chain(after).map(missing).chain([Reply::json("/", "{}")]).collect();
        let script = Script { replies, ..Script::default() };
        let plan = scripted([script]).settings("circuit_breaker_failure_threshold = 1\nmax_retries = 0");
        let fleet = plan.provider(&format!("backend_type = \"{kind}\"")).build().await;
        for (calls, kind) in [(before, "before"), (&[path], "first"), (after, "after"), (&[path], "again")] {
            for call in calls {
                let is_there = *call == path;
                let body = if is_there { ASK } else { OTHER };
                let status = fleet.gateway.post(call, ADMIN, body).await.status.as_u16();
                assert_eq!(status, if is_there { 200 } else { refused }, "{kind}: {call}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_quotes_the_request_does_not_stop_asking_for_usage() {
    let quoted =
        r#"{"error":{"message":"Field required, input: {'stream_options': {'include_usage': True}}","code":400}}"#;
    let refusals = |times| Reply { status: 400, times: Some(times), ..Reply::json("/", quoted) };
    let good =
        events("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n");
    // Whether the request passes without what we added decides whose fault the refusal was.
    for (times, status, asked) in [(2, 400, [true, false, true]), (1, 200, [true, false, false])] {
        let mut script = good.clone();
        script.replies.insert(0, refusals(times));
        let fleet = scripted([script]).build().await;
        assert_eq!(fleet.ask(true).await.status(), status);
        assert_eq!(fleet.ask(true).await.status(), 200);
        let seen = fleet.mocks[0].requests();
        let got: Vec<bool> =
            seen.iter().map(|one| String::from_utf8_lossy(&one.body).contains("stream_options")).collect();
        assert_eq!(got, asked, "{times}");
    }
}
