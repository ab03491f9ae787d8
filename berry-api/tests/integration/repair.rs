//! Refused parameters through the whole service: asked again without them, once, and not sent again.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;

use crate::support::{ADMIN, CONFIG, TestGateway};

const REFUSAL: &str = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#;
const BODY: &str = r#"{"model":"wide", "max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;

/// A gateway whose upstream refuses `max_tokens` so many times.
fn scene(repair: &str, refusals: u32) -> (TestGateway, Mock) {
    let config = CONFIG.replace("[models.wide]\n", &format!("[models.wide]\n{repair}\n"));
    let refusal = Reply { status: 400, times: Some(refusals), ..Reply::json("/", REFUSAL) };
    let mock = Mock::new(Script { replies: vec![refusal], ..Script::default() });
    let dial = mock.clone();
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || dial.connect()) as Dial)]);
    (TestGateway::with(&config, AccessLog::default(), dials), mock)
}

#[tokio::test(start_paused = true)]
async fn a_refused_parameter_is_said_in_its_newer_way_and_remembered() {
    let (gateway, mock) = scene("repair = true", 1);
    for _ in 0..2 {
        let answer = gateway.post("/v1/chat/completions", ADMIN, BODY).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-berry-attempts")), (200, "1"), "{:?}", answer.body);
    }
    let sent: Vec<String> = mock.requests().iter().map(|seen| String::from_utf8(seen.body.to_vec()).unwrap()).collect();
    let first = BODY.replace("\"wide\"", "\"wide-upstream\"");
    let mended = first.replace("max_tokens", "max_completion_tokens");
    assert_eq!(sent, [first, mended.clone(), mended]);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_goes_on_refusing_is_believed_after_one_repeat() {
    let (gateway, mock) = scene("repair = true", 9);
    let answer = gateway.post("/v1/chat/completions", ADMIN, BODY).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..], mock.requests().len()), (400, REFUSAL.as_bytes(), 2));
    gateway.post("/v1/chat/completions", ADMIN, BODY).await;
    assert_eq!(mock.requests().len(), 3, "what is known to be of no use is not done again");
}

#[tokio::test(start_paused = true)]
async fn without_the_setting_the_refusal_is_the_clients() {
    let (gateway, mock) = scene("", 1);
    let answer = gateway.post("/v1/chat/completions", ADMIN, BODY).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..], mock.requests().len()), (400, REFUSAL.as_bytes(), 1));
}
