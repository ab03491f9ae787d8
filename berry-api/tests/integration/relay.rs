//! A request's whole way, to a scripted upstream in memory and back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, ReplyChunk, Script};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::connections::connect;
use crate::support::{ADMIN, CONFIG, TestGateway};

const EVENTS: [&str; 3] = [
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"},\"finish_reason\":null}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];

/// [`CONFIG`] with its provider answered by the mock.
fn gateway(script: Script) -> (TestGateway, Mock) {
    gateway_with("", script)
}

fn gateway_with(server: &str, script: Script) -> (TestGateway, Mock) {
    let mock = Mock::new(script);
    let dial = {
        let mock = mock.clone();
        Arc::new(move || mock.connect())
    };
    let dials = HashMap::from([("nowhere".into(), dial as _)]);
    let gateway = TestGateway::with(&format!("{server}{CONFIG}"), AccessLog::default(), dials);
    (gateway, mock)
}

/// A stream that waits at the gate after its first event.
fn gated_stream() -> Script {
    let mut reply = Reply::events("/", EVENTS);
    reply.chunks[1].gate = true;
    Script { replies: vec![reply], ..Script::default() }
}

async fn begin(gateway: &TestGateway, body: &'static str) -> Response<berry_api::reply::Reply> {
    let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let connection = Arc::new(gateway.gateway.connection(peer));
    let request = Request::post("/v1/chat/completions").header("x-api-key", ADMIN);
    let request = request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
    gateway.gateway.handle(&connection, request).await
}

#[tokio::test(start_paused = true)]
async fn an_answer_comes_back_byte_for_byte_and_says_which_way_it_went() {
    const ANSWER: &str = "{ \"id\":\"x\",\r\n \"n\": 1.0e+02, \"model\": \"wide-upstream\" }";
    let (gateway, mock) = gateway(Script { replies: vec![Reply::json("/", ANSWER)], ..Script::default() });
    let body = r#"{"n":1.50,  "model":"org\/wide","messages":[]}"#;
    let answer = gateway.post("/v1/chat/completions", ADMIN, body).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, ANSWER.as_bytes()));
    assert_eq!(answer.header("x-berry-provider"), "nowhere");
    assert_eq!(answer.header("x-berry-model"), "org/wide");
    assert_eq!(answer.header("x-berry-attempts"), "1");
    let [seen] = &mock.requests()[..] else { panic!("one request") };
    assert_eq!(&seen.body[..], br#"{"n":1.50,  "model":"wide-upstream","messages":[]}"#);
    assert!(!format!("{:?}", seen.headers).contains(ADMIN), "the client's token stays here");
}

#[tokio::test(start_paused = true)]
async fn json_is_called_json_upstream_whatever_the_client_called_it() {
    let (gateway, mock) = gateway(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    // What curl says of `-d` where nothing else is said.
    for kind in [&[][..], &[("content-type", "application/x-www-form-urlencoded"), ("content-type", "text/plain")]] {
        let headers: Vec<_> = kind.iter().copied().chain([("x-api-key", ADMIN)]).collect();
        let body = r#"{"model":"org/wide"}"#;
        assert_eq!(gateway.send(http::Method::POST, "/v1/chat/completions", &headers, body).await.status, 200);
    }
    for seen in mock.requests() {
        let kinds: Vec<_> = seen.headers.get_all("content-type").iter().collect();
        assert_eq!(kinds, ["application/json"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_headers_that_tell_the_way_can_be_switched_off() {
    let answers = Script { replies: vec![Reply::json("/", "{}")], ..Script::default() };
    let (gateway, _mock) = gateway_with("[server]\nberry_headers = false\n", answers);
    let answer = gateway.post("/v1/chat/completions", ADMIN, r#"{"model":"narrow"}"#).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("x-berry")), "{:?}", answer.headers);
    assert!(answer.headers.contains_key("x-request-id"));
}

#[tokio::test(start_paused = true)]
async fn a_form_is_served_and_one_without_a_model_is_not() {
    let (gateway, _mock) = gateway(Script::default());
    let form = |fields: &str| {
        let file = "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF";
        format!("--XX\r\n{fields}{file}\r\n--XX--\r\n")
    };
    let model = "Content-Disposition: form-data; name=\"model\"\r\n\r\nnarrow\r\n--XX\r\n";
    let bearer = format!("Bearer {ADMIN}");
    for (body, status, code) in [
        (form(model), 200, None),
        (form(""), 400, Some("missing_model")),
        ("{}".to_owned(), 400, Some("invalid_request")),
    ] {
        let headers = [("authorization", bearer.as_str()), ("content-type", "multipart/form-data; boundary=XX")];
        let answer = gateway.send(http::Method::POST, "/v1/audio/transcriptions", &headers, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{:?}", answer.body);
        assert_eq!(code, (status != 200).then(|| answer.error_code()).as_deref());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_passes_through_with_its_length_counts_as_a_success() {
    let audio = Reply { headers: vec![("content-type".into(), "audio/mpeg".into())], ..Reply::json("/", "four") };
    let (gateway, _mock) = gateway(Script { replies: vec![audio], ..Script::default() });
    let mut client = connect(&gateway);
    let body = r#"{"model":"narrow","input":"x"}"#;
    let head = format!("POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\nx-api-key: {ADMIN}\r\nconnection: close\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nfour") && answer.contains("content-length: 4"), "{answer}");
    let provider = &gateway.gateway.app().status().providers["nowhere"];
    assert_eq!((provider.total_requests, provider.successful_requests), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_cannot_be_reached_is_told_with_a_status_and_no_address() {
    let gateway = TestGateway::new(CONFIG);
    for (path, status) in [("/v1/chat/completions", [502, 503]), ("/v1/embeddings", [502, 503])] {
        let answer = gateway.post(path, ADMIN, r#"{"model":"narrow"}"#).await;
        assert!(status.contains(&answer.status.as_u16()), "{}", answer.status);
        assert_eq!(answer.header("x-berry-provider"), "nowhere");
        answer.error_code();
        assert!(!String::from_utf8_lossy(&answer.body).contains("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_upstream_before_the_head_and_inside_the_answer() {
    let gate = ReplyChunk { gate: true, ..ReplyChunk::new("{}") };
    let mut silent = Reply::json("/", "{}");
    silent.chunks = vec![gate];
    let (plain, mock) = gateway(Script { replies: vec![silent], ..Script::default() });
    {
        let request = begin(&plain, r#"{"model":"narrow","messages":[]}"#);
        tokio::select! {
            _ = request => panic!("the gate is closed"),
            _ = mock.wait_until(|stats| stats.requests == 1) => {}
        }
    }
    mock.wait_until(|stats| stats.cancelled == 1).await;

    let (streamed, mock) = gateway(gated_stream());
    let response = begin(&streamed, r#"{"model":"narrow","messages":[],"stream":true}"#).await;
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), EVENTS[0]);
    drop(body);
    mock.wait_until(|stats| stats.cancelled == 1).await;
    let in_flight = streamed.gateway.app().in_flight.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_at_the_end_of_a_shutdown_says_so() {
    let (gateway, _mock) = gateway(gated_stream());
    let response = begin(&gateway, r#"{"model":"narrow","messages":[],"stream":true}"#).await;
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), EVENTS[0]);
    gateway.gateway.app().shutdown.cut();
    let rest = tokio::time::timeout(Duration::from_secs(1), body.collect()).await;
    let rest = rest.expect("it ends at once").unwrap().to_bytes();
    let rest = std::str::from_utf8(&rest).unwrap();
    let event = rest.strip_prefix("data: ").unwrap();
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["error"]["code"], "no_backend_available");
    assert!(!rest.contains("[DONE]"));
}

#[tokio::test(start_paused = true)]
async fn several_accounts_of_one_vendor_are_providers_with_keys_of_their_own() {
    let mock = Mock::new(Script::default());
    let mut config =
        format!("[users.ada]\nname = \"Ada\"\ntoken = \"{ADMIN}\"\n[models.m]\nstrategy = \"round_robin\"\n");
    let mut dials = HashMap::new();
    for account in ["one", "two"] {
        config += &format!(
            "[[models.m.backends]]\nprovider = \"{account}\"\nmodel = \"up\"\n[providers.{account}]\nname = \"Vendor\"\n\
             base_url = \"http://vendor.test/v1\"\napi_key = \"key-{account}\"\nheaders = {{ x-account = \"{account}\" }}\n"
        );
        let dial = mock.clone();
        dials.insert(account.into(), Arc::new(move || dial.connect()) as _);
    }
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    for turn in 0..4 {
        let answer = gateway.post("/v1/chat/completions", ADMIN, &crate::fleet::chat(false)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-berry-provider")), (200, ["one", "two"][turn % 2]));
    }
    let seen: Vec<_> = mock
        .requests()
        .iter()
        .map(|seen| ["authorization", "x-account"].map(|name| seen.headers[name].clone()))
        .collect();
    assert_eq!(seen[..2], [["Bearer key-one", "one"], ["Bearer key-two", "two"]]);
    assert_eq!(mock.stats().connections, 2, "each has its own connections");
    // Each has its own state: one account at its limit leaves the other alone.
    let health = gateway.get("/health", ADMIN).await.json();
    assert_eq!(
        (&health["providers"]["one"]["total_requests"], &health["providers"]["two"]["total_requests"]),
        (&2.into(), &2.into())
    );
}
