//! The trace of a request goes on upstream: as it came without a collector, below our own span with one.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use berry_relay::trace::Parent;
use http::{HeaderMap, Method};

use crate::support::{ADMIN, CONFIG, TestGateway};

const CLIENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const ASK: &str = r#"{"model":"org/wide","messages":[]}"#;
const COLLECTOR: &str = "[telemetry]\notlp_endpoint = \"http://127.0.0.1:9\"\ntrace_sample_ratio = 0.0\n";

/// What upstreams are told of the trace of one request.
async fn upstream_headers(config: &str, script: Script, headers: &[(&str, &str)]) -> Vec<HeaderMap> {
    let mock = Mock::new(script);
    let connect = mock.clone();
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || connect.connect()) as Dial)]);
    let gateway = TestGateway::with(config, AccessLog::default(), dials);
    let bearer = format!("Bearer {ADMIN}");
    let all: Vec<(&str, &str)> = headers.iter().copied().chain([("authorization", &*bearer)]).collect();
    gateway.send(Method::POST, "/v1/chat/completions", &all, ASK).await;
    mock.requests().into_iter().map(|seen| seen.headers).collect()
}

#[tokio::test(start_paused = true)]
async fn without_a_collector_the_clients_header_passes_as_it_came() {
    let sent = [("traceparent", CLIENT), ("tracestate", "vendor=1")];
    let seen = upstream_headers(CONFIG, Script::default(), &sent).await;
    assert_eq!(seen[0]["traceparent"], CLIENT);
    assert_eq!(seen[0]["tracestate"], "vendor=1");
    assert!(!upstream_headers(CONFIG, Script::default(), &[]).await[0].contains_key("traceparent"));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_tells_its_upstream_its_own_span_of_the_clients_trace() {
    let down = Reply { status: 500, ..Reply::json("/", "{}") };
    let failing = Script { replies: vec![down], ..Script::default() };
    let seen = upstream_headers(
        &format!("{COLLECTOR}{CONFIG}"),
        failing,
        &[("traceparent", CLIENT), ("tracestate", "vendor=1")],
    )
    .await;
    assert!(seen.len() > 1, "a second attempt");
    let client =
        Parent::of(&[("traceparent".try_into().unwrap(), CLIENT.try_into().unwrap())].into_iter().collect()).unwrap();
    let spans: Vec<Parent> = seen.iter().map(|headers| Parent::of(headers).unwrap()).collect();
    assert!(spans.iter().all(|span| span.trace_id == client.trace_id && span.sampled), "{spans:?}");
    assert!(spans[0].span_id != spans[1].span_id);
    assert!(spans.iter().all(|span| span.span_id != client.span_id));
    assert_eq!(seen[1]["tracestate"], "vendor=1");
}

#[tokio::test(start_paused = true)]
async fn what_the_client_does_not_record_passes_as_it_came() {
    let unrecorded = CLIENT.replace("-01", "-00");
    let seen =
        upstream_headers(&format!("{COLLECTOR}{CONFIG}"), Script::default(), &[("traceparent", &unrecorded)]).await;
    assert_eq!(seen[0]["traceparent"], unrecorded);
}
