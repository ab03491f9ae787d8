//! Waiting for a place: who gets one, when, and who does not wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Script};
use berry_relay::client::Dial;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::support::{ADMIN, Answer, TestGateway};

const CHAT: &str = "/v1/chat/completions";
const BEN: &str = "token-of-ben-the-busy";
const EVE: &str = "token-of-eve-of-another-tag";
const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
/// How long the upstream takes for an answer.
const ANSWER: Duration = Duration::from_millis(100);

/// One backend with one place, and one that only Eve may use.
fn config(queue: &str) -> String {
    format!(
        r#"
[users.ada]
token = "{ADMIN}"
tags = ["admin", "red"]
[users.ben]
token = "{BEN}"
tags = ["red"]
[users.eve]
token = "{EVE}"
tags = ["blue"]
[providers.one]
base_url = "https://one.test/v1"
api_key = "key-of-one"
[providers.two]
base_url = "https://two.test/v1"
api_key = "key-of-two"
[models.m]
name = "m"
strategy = "failover"
{queue}
[[models.m.backends]]
provider = "one"
model = "up"
max_concurrent = 1
tags = ["red"]
billing_mode = "per_request"
[[models.m.backends]]
provider = "two"
model = "up"
max_concurrent = 1
priority = 2
tags = ["blue"]
billing_mode = "per_request"
"#
    )
}

fn gateway(queue: &str) -> TestGateway {
    let script = Script {
        first_token_latency_ms: 100,
        token_latency_ms: 0,
        latency_jitter: 0.0,
        answer_tokens: Some(1),
        ..Script::default()
    };
    let dial = |script: Script| {
        let mock = Mock::new(script);
        Arc::new(move || mock.connect()) as Dial
    };
    let dials = HashMap::from([("one".into(), dial(script.clone())), ("two".into(), dial(script))]);
    TestGateway::with(&config(queue), AccessLog::default(), dials)
}

/// The answer, and how long it took.
async fn ask(gateway: &TestGateway, token: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = gateway.post(CHAT, token, ASK).await;
    (answer, began.elapsed())
}

fn waiting(gateway: &TestGateway) -> usize {
    let runtime = gateway.gateway.app().runtime();
    runtime.selector.pool(&"m".into()).expect("the pool").queue().waiting()
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_timeout_a_full_backend_refuses_at_once() {
    let gateway = gateway("");
    let answers = join_all((0..3).map(|_| ask(&gateway, BEN))).await;
    let statuses: Vec<u16> = answers.iter().map(|(answer, _)| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 503, 503]);
    assert!(answers[1].1.is_zero());
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_a_place_and_are_served_in_the_order_in_which_they_came() {
    let gateway = gateway("queue_timeout_ms = 10000");
    let answers = join_all((0..5).map(|_| ask(&gateway, BEN))).await;
    let took: Vec<u32> = answers.iter().map(|(_, took)| took.as_millis() as u32 / ANSWER.as_millis() as u32).collect();
    assert!(answers.iter().all(|(answer, _)| answer.status == 200));
    assert_eq!(took, [1, 2, 3, 4, 5], "one after the other");
    assert_eq!(waiting(&gateway), 0);
}

#[tokio::test(start_paused = true)]
async fn a_user_with_many_requests_in_line_does_not_hold_up_one_with_few() {
    let gateway = gateway("queue_timeout_ms = 10000");
    let many = join_all((0..20).map(|_| ask(&gateway, BEN)));
    let few = async {
        tokio::task::yield_now().await;
        ask(&gateway, ADMIN).await
    };
    let (_, (answer, took)) = tokio::join!(many, few);
    assert_eq!(answer.status, 200);
    assert!(took < ANSWER * 4, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_as_long_as_it_may_and_is_refused_then() {
    let gateway = gateway("queue_timeout_ms = 250");
    let answers = join_all((0..4).map(|_| ask(&gateway, BEN))).await;
    let statuses: Vec<u16> = answers.iter().map(|(answer, _)| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 200, 503]);
    let (refused, took) = &answers[3];
    assert_eq!((refused.error_code().as_str(), refused.header("retry-after")), ("no_backend_available", "1"));
    assert_eq!(*took, Duration::from_millis(250));
    let timeout = [("authorization", &*format!("Bearer {BEN}")), ("x-request-timeout", "0.12")];
    let began = Instant::now();
    let (_, own) = tokio::join!(ask(&gateway, BEN), gateway.send(http::Method::POST, CHAT, &timeout, ASK));
    assert_eq!(
        (own.status.as_u16(), began.elapsed() < Duration::from_millis(250)),
        (504, true),
        "its own time is shorter"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_leaves_the_line_at_once_and_others_move_up() {
    let gateway = gateway("queue_timeout_ms = 10000");
    let first = ask(&gateway, BEN);
    let gone = async {
        let mut gone = Box::pin(ask(&gateway, BEN));
        assert!((&mut gone).now_or_never().is_none());
        assert_eq!(waiting(&gateway), 1);
        drop(gone);
        assert_eq!(waiting(&gateway), 0);
        ask(&gateway, BEN).await
    };
    let (_, (answer, took)) = tokio::join!(first, gone);
    assert_eq!((answer.status.as_u16(), took), (200, ANSWER * 2));
}

#[tokio::test(start_paused = true)]
async fn the_line_has_a_limit_of_its_own() {
    let gateway = gateway("queue_timeout_ms = 10000\nqueue_max = 2");
    let answers = join_all((0..5).map(|_| ask(&gateway, BEN))).await;
    let statuses: Vec<u16> = answers.iter().map(|(answer, _)| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 200, 503, 503]);
    assert!(answers[3].1.is_zero());
    let page = gateway.get("/prometheus", ADMIN).await;
    let page = String::from_utf8(page.body.to_vec()).expect("text");
    for line in [
        r#"berry_queue_requests{model="m"} 0"#,
        r#"berry_queue_wait_seconds_count{model="m"} 2"#,
        r#"berry_queue_ends_total{model="m",result="served"} 2"#,
        r#"berry_queue_ends_total{model="m",result="full"} 2"#,
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_use_another_backend_does_not_wait_behind_who_may_not() {
    let gateway = gateway("queue_timeout_ms = 10000");
    let red = join_all((0..3).map(|_| ask(&gateway, BEN)));
    let blue = async {
        tokio::task::yield_now().await;
        join_all((0..2).map(|_| ask(&gateway, EVE))).await
    };
    let (red, blue) = tokio::join!(red, blue);
    let took = |answers: &[(Answer, Duration)]| -> Vec<Duration> { answers.iter().map(|(_, took)| *took).collect() };
    assert_eq!(took(&blue), [ANSWER, ANSWER * 2]);
    assert_eq!(took(&red), [ANSWER, ANSWER * 2, ANSWER * 3]);
}
