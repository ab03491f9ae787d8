//! Every fault, over every transport.

use std::io::Read as _;
use std::str::FromStr as _;

use berry_mock::{End, FAULTS, Fault, FaultScope, Mock, Phase, Place, Script};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Client, Got, TRANSPORTS, chat, chat_stream, mock, post};

const CHAT: &str = "/v1/chat/completions";

/// One example of each fault, or more where they differ.
const EXAMPLES: &[&str] = &[
    "none",
    "status:503",
    "status:429:7",
    "quota",
    "context-length",
    "content-filter",
    "redirect:http://127.0.0.1:9/canary",
    "html:502",
    "hang",
    "reset:before-head",
    "reset:head",
    "reset:2",
    "close:before-head",
    "close:head",
    "close:0",
    "close:3",
    "half-head:reset",
    "half-head:close",
    "stall:head",
    "stall:0",
    "stall:2",
    "gate:before-head",
    "gate:head",
    "gate:1",
    "slow-first-token:1",
    "comments:1",
    "malformed-chunk:1",
    "error-event:0",
    "error-event:2",
    "truncated-json",
    "garbage",
    "missing-terminator",
    "missing-done",
    "empty-stream",
    "no-usage",
    "oversized-line:200000",
    "oversized-body:200000",
    "one-byte",
    "crlf",
    "gzip",
    "gzip-bomb:1000000",
];

#[test]
fn every_fault_has_an_example_and_survives_writing_and_reading() {
    for text in EXAMPLES {
        let fault = Fault::from_str(text).unwrap();
        assert_eq!(fault.to_string().parse(), Ok(fault.clone()), "{text}");
        let name = text.split(':').next().unwrap();
        assert!(FAULTS.iter().any(|(form, _)| form.starts_with(name)), "{name} is in no list");
    }
    for (form, _) in FAULTS {
        let name = form.split([':', '[', ' ']).next().unwrap();
        assert!(EXAMPLES.iter().any(|example| example.starts_with(name)), "{name} has no example");
    }
}

#[test]
fn what_is_no_fault_says_why() {
    for (text, why) in [
        ("statu:500", "no such name"),
        ("status", "needs a status"),
        ("status:99", "from 200 to 599"),
        ("status:503:soon", "number"),
        ("reset", "needs a place"),
        ("reset:body", "before-head, head or a number"),
        ("half-head:slowly", "reset or close"),
        ("crlf:1", "no argument"),
        ("gzip-bomb", "number"),
    ] {
        let error = Fault::from_str(text).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(text), "{text}: {error}");
    }
}

fn spoiled(body: &serde_json::Value, fault: &str) -> Request<Full<Bytes>> {
    let mut request = post(CHAT, body);
    request.headers_mut().insert("x-mock-fault", fault.parse().unwrap());
    request
}

/// The stream that the faults spoil, and its parts.
struct Reference {
    whole: String,
    /// Ends of the events in `whole`.
    ends: Vec<usize>,
}

impl Reference {
    async fn new() -> Self {
        let (_mock, mut client) = mock(Script::default()).await;
        let whole = client.post(CHAT, &chat_stream("Hello")).await.text();
        let ends: Vec<usize> = whole.match_indices("\n\n").map(|(at, _)| at + 2).collect();
        assert!(ends.len() > 8, "long enough to be spoiled");
        Self { whole, ends }
    }

    /// The role and `n` content events.
    fn after_content(&self, n: usize) -> &str {
        &self.whole[..self.ends[n]]
    }

    /// Everything but the last `n` events: the finish, the usage and `[DONE]`.
    fn without_last(&self, n: usize) -> &str {
        &self.whole[..self.ends[self.ends.len() - 1 - n]]
    }
}

#[tokio::test]
async fn every_fault_happens_over_every_transport() {
    let reference = Reference::new().await;
    for transport in TRANSPORTS {
        for text in EXAMPLES {
            let fault: Fault = text.parse().unwrap();
            let mock = Mock::new(Script::default());
            let mut client = Client::new(&mock, transport).await;
            match &fault {
                Fault::Stall(place) => stalls(mock, client, text, *place, &reference).await,
                Fault::Gate(place) => waits_at_gate(mock, client, text, *place, &reference).await,
                Fault::Comments(_) => comments_for_ever(mock, client, text).await,
                _ => {
                    let got = client.send(spoiled(&chat_stream("Hello"), text)).await;
                    check(&fault, got, &reference, &format!("{text} over {transport:?}"));
                }
            }
        }
    }
}

/// Exhaustive: a fault without a rule here does not build.
#[track_caller]
fn check(fault: &Fault, got: Result<Got, hyper::Error>, reference: &Reference, which: &str) {
    match fault {
        Fault::Reset(Place::BeforeHead) | Fault::Close(Place::BeforeHead) | Fault::HalfHead(_) => {
            assert!(got.is_err(), "{which}: {got:?}");
            return;
        }
        _ => {}
    }
    let got = got.unwrap_or_else(|error| panic!("{which}: {error:?}"));
    let body = got.body();
    let is = |expected: &str| body == expected.as_bytes();
    let cut = matches!(fault, Fault::Reset(_) | Fault::Close(_));
    assert_eq!(got.broken.is_some(), cut, "{which}: {got:?}");
    let error = |status: u16, code: &str| got.status == status && got.error_code() == code;
    let ok = match fault {
        Fault::None | Fault::SlowFirstToken(_) => is(&reference.whole),
        Fault::Status { code: 429, .. } => error(429, "rate_limit_exceeded") && got.header("retry-after") == "7",
        Fault::Status { code, .. } => error(*code, "overloaded") && got.header("retry-after").is_empty(),
        Fault::Quota => error(429, "insufficient_quota"),
        Fault::ContextLength => error(400, "context_length_exceeded"),
        Fault::ContentFilter => error(400, "content_filter"),
        Fault::Redirect(to) => got.status == StatusCode::FOUND && got.header("location") == to,
        Fault::Html(code) => got.status == *code && got.header("content-type").starts_with("text/html"),
        Fault::Reset(Place::Head) | Fault::Close(Place::Head) => got.status == 200 && is(""),
        Fault::Reset(Place::Content(n)) | Fault::Close(Place::Content(n)) => is(reference.after_content(*n as usize)),
        Fault::MalformedChunk(n) => {
            let (before, after) = reference.whole.split_at(reference.after_content(*n as usize).len());
            let text = got.text();
            let broken = text.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).unwrap();
            let data = broken.strip_prefix("data: ").unwrap();
            serde_json::from_str::<serde_json::Value>(data).is_err()
        }
        Fault::ErrorEvent(n) => {
            let before = if *n == 0 { "" } else { reference.after_content(*n as usize) };
            let text = got.text();
            text.strip_prefix(before).unwrap().starts_with("data: {\"error\":")
                && got.events().len() == *n as usize + 1 + usize::from(*n > 0)
        }
        Fault::TruncatedJson => reference.whole.as_bytes().starts_with(&body) && !body.ends_with(b"\n\n"),
        Fault::Garbage => got.status == 200 && String::from_utf8(body.clone()).is_err(),
        Fault::MissingTerminator => is(reference.without_last(3)),
        Fault::MissingDone => is(reference.without_last(1)),
        Fault::EmptyStream => is("data: [DONE]\n\n"),
        Fault::NoUsage => !got.text().contains("usage") && got.text().ends_with("[DONE]\n\n"),
        Fault::OversizedLine(bytes) => {
            got.text().lines().any(|line| line.len() >= *bytes) && got.events().len() == reference.ends.len() + 1
        }
        Fault::OversizedBody(bytes) => body.len() >= *bytes && got.events().len() == reference.ends.len(),
        Fault::OneByte => is(&reference.whole) && got.frames.iter().all(|frame| frame.len() <= 1),
        Fault::Crlf => is(&reference.whole.replace('\n', "\r\n")),
        Fault::Gzip => got.header("content-encoding") == "gzip" && unpacked(&body) == reference.whole.as_bytes(),
        Fault::GzipBomb(bytes) => body.len() * 100 < *bytes && unpacked(&body).len() == *bytes,
        Fault::Reset(Place::BeforeHead) | Fault::Close(Place::BeforeHead) | Fault::HalfHead(_) => {
            unreachable!("checked above")
        }
        Fault::Stall(_) | Fault::Gate(_) | Fault::Comments(_) => unreachable!("these never end by themselves"),
    };
    assert!(ok, "{which}: {got:?}");
}

fn unpacked(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(body).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Reads exactly so many bytes of a body.
async fn read_exactly(body: &mut Incoming, bytes: usize) -> String {
    let mut read = Vec::new();
    while read.len() < bytes {
        read.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    String::from_utf8(read).unwrap()
}

async fn stalls(mock: Mock, mut client: Client, fault: &str, place: Place, reference: &Reference) {
    let request = client.head(spoiled(&chat_stream("Hello"), fault));
    let phase = match place {
        Place::BeforeHead => {
            tokio::select! {
                answer = request => panic!("{fault} was answered: {answer:?}"),
                _ = mock.wait_until(|stats| stats.in_flight == 1) => {}
            }
            Phase::BeforeHead
        }
        Place::Head => {
            assert_eq!(request.await.unwrap().status(), 200);
            Phase::BeforeContent
        }
        Place::Content(n) => {
            let mut body = request.await.unwrap().into_body();
            let expected = reference.after_content(n as usize);
            assert_eq!(read_exactly(&mut body, expected.len()).await, expected);
            if n == 0 { Phase::BeforeContent } else { Phase::Content }
        }
    };
    client.leave().await;
    let stats = mock.wait_until(|stats| stats.cancelled == 1).await;
    assert_eq!((stats.completed, stats.in_flight), (0, 0), "{fault}");
    assert_eq!(mock.cancellations()[0].phase, phase, "{fault}");
}

async fn waits_at_gate(mock: Mock, mut client: Client, fault: &str, place: Place, reference: &Reference) {
    let request = client.head(spoiled(&chat_stream("Hello"), fault));
    let expected = match place {
        Place::Content(n) => reference.after_content(n as usize),
        _ => "",
    };
    let (mut body, start) = if place == Place::BeforeHead {
        let open = async {
            mock.wait_until(|stats| stats.in_flight == 1).await;
            mock.open_gate();
        };
        let (answer, ()) = tokio::join!(request, open);
        (answer.unwrap().into_body(), String::new())
    } else {
        let mut body = request.await.unwrap().into_body();
        let start = read_exactly(&mut body, expected.len()).await;
        assert_eq!(mock.stats().completed, 0, "{fault}");
        mock.open_gate();
        (body, start)
    };
    let rest = read_exactly(&mut body, reference.whole.len() - start.len()).await;
    assert_eq!(start + &rest, reference.whole, "{fault}");
    mock.wait_until(|stats| stats.completed == 1).await;
}

async fn comments_for_ever(mock: Mock, mut client: Client, fault: &str) {
    let mut body = client.head(spoiled(&chat_stream("Hello"), fault)).await.unwrap().into_body();
    let mut text = String::new();
    while text.matches("\n: ").count() < 3 {
        text += &read_exactly(&mut body, 1).await;
    }
    assert!(!text.contains("finish_reason\":\"stop"), "{text}");
    drop(body);
    client.leave().await;
    mock.wait_until(|stats| stats.cancelled == 1).await;
}

/// What a plain answer looks like under a fault, given the answer without it.
type Rule = fn(&Got, &str) -> bool;

const PLAIN: &[(&str, Rule)] = &[
    ("truncated-json", |got, whole| got.broken.is_none() && got.text() == whole[..whole.len() / 2]),
    ("malformed-chunk", |got, whole| got.broken.is_none() && got.text() == whole[..whole.len() / 2]),
    ("error-event", |got, _| got.status == 200 && got.json()["error"].is_object()),
    ("empty-stream", |got, _| got.status == 200 && got.header("content-length") == "0"),
    ("missing-terminator", |got, whole| got.text() == whole),
    ("oversized-body:300000", |got, _| got.json()["padding"].as_str().unwrap().len() == 300_000),
    ("oversized-line:300000", |got, _| got.json()["padding"].as_str().unwrap().len() == 300_000),
    ("no-usage", |got, _| got.json()["usage"].is_null() && got.json()["choices"].is_array()),
    ("gzip", |got, whole| unpacked(&got.body()) == whole.as_bytes()),
    ("one-byte", |got, whole| got.text() == whole),
    ("garbage", |got, _| got.header("content-type") == "application/json" && String::from_utf8(got.body()).is_err()),
];

#[tokio::test]
async fn plain_answers_are_spoiled_too() {
    let (_mock, mut client) = mock(Script::default()).await;
    let whole = client.post(CHAT, &chat("Hello")).await.text();
    for (fault, rule) in PLAIN {
        let got = client.send(spoiled(&chat("Hello"), fault)).await.unwrap();
        assert!(rule(&got, &whole), "{fault}: {got:?}");
    }
    for (fault, length) in [("reset:1", whole.len() / 2), ("close:0", whole.len() / 2), ("close:head", 0)] {
        let (_mock, mut client) = mock(Script::default()).await;
        let got = client.send(spoiled(&chat("Hello"), fault)).await.unwrap();
        assert!(got.broken.is_some() && got.text() == whole[..length], "{fault}: {got:?}");
        assert_eq!(got.header("content-length"), whole.len().to_string());
    }
}

#[tokio::test]
async fn faults_are_applied_in_the_order_of_the_header() {
    let (_mock, mut client) = mock(Script::default()).await;
    let got = client.send(spoiled(&chat_stream("Hello"), "missing-done, crlf,one-byte")).await.unwrap();
    assert!(got.frames.iter().all(|frame| frame.len() <= 1));
    assert!(got.text().ends_with("\r\n\r\n") && !got.text().contains("[DONE]"));
}

#[tokio::test]
async fn a_fault_that_is_none_is_refused() {
    let (_mock, mut client) = mock(Script::default()).await;
    let got = client.send(spoiled(&chat("Hello"), "crlf,nonsense")).await.unwrap();
    assert_eq!(got.status, 400);
    assert!(got.text().contains("nonsense"), "{got:?}");
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_wire_and_a_close_is_not() {
    for (fault, reset) in [
        ("reset:before-head", true),
        ("close:before-head", false),
        ("half-head:reset", true),
        ("half-head:close", false),
    ] {
        let mock = Mock::new(Script::default());
        let mut tcp = TcpStream::connect(mock.listen().await.unwrap()).await.unwrap();
        let body = chat("Hello").to_string();
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: mock\r\nx-mock-fault: {fault}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let end = tcp.read_to_end(&mut bytes).await;
        assert_eq!(end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset), reset, "{fault}");
        let half = if fault.starts_with("half") { "HTTP/1.1 200" } else { "" };
        assert_eq!(String::from_utf8(bytes).unwrap(), half, "{fault}");
        assert_eq!(mock.wait_until(|stats| stats.open_connections == 0).await.cut, 1, "{fault}");
    }
}

/// Statuses of `n` chats and of one models list after each.
async fn statuses(script: Script, n: usize) -> (Vec<u16>, Vec<u16>) {
    let (_mock, mut client) = mock(script).await;
    let (mut chats, mut lists) = (Vec::new(), Vec::new());
    for _ in 0..n {
        chats.push(client.post(CHAT, &chat("Hello")).await.status.as_u16());
        lists.push(client.get("/v1/models").await.status.as_u16());
    }
    (chats, lists)
}

#[tokio::test]
async fn listed_faults_take_turns() {
    let faults = vec![Fault::Status { code: 500, retry_after: None }, Fault::None];
    let (chats, lists) = statuses(Script { faults: faults.clone(), ..Script::default() }, 4).await;
    assert_eq!((chats, lists), (vec![500, 200, 500, 200], vec![200; 4]));
    let (chats, _) = statuses(Script { faults: faults.clone(), faults_once: true, ..Script::default() }, 4).await;
    assert_eq!(chats, [500, 200, 200, 200]);
    let (chats, lists) = statuses(Script { faults, fault_scope: FaultScope::Get, ..Script::default() }, 2).await;
    assert_eq!((chats, lists), (vec![200; 2], vec![500, 200]));
}

#[tokio::test]
async fn the_failure_rate_holds_and_a_seed_repeats_it() {
    let script = Script { failure_rate: 0.3, seed: 4, ..Script::default() };
    let (first, _) = statuses(script.clone(), 200).await;
    let failed = first.iter().filter(|status| [500, 503].contains(*status)).count();
    assert!((40..=80).contains(&failed), "{failed} of 200");
    assert_eq!(first.iter().filter(|status| **status == 200).count(), 200 - failed);
    assert_eq!(statuses(script.clone(), 200).await.0, first);
    assert_ne!(statuses(Script { seed: 5, ..script }, 200).await.0, first);
}

#[tokio::test]
async fn a_script_can_be_exchanged_between_two_requests() {
    let (mock, mut client) = mock(Script { faults: vec!["status:503".parse().unwrap()], ..Script::default() }).await;
    assert_eq!(client.post(CHAT, &chat("Hello")).await.status, 503);
    mock.update(Script::default());
    assert_eq!(client.post(CHAT, &chat("Hello")).await.status, 200);
    assert_eq!(mock.stats().requests, 2);
}

#[test]
fn a_script_is_read_from_a_file_and_unknown_keys_are_refused() {
    let script: Script = serde_json::from_value(json!({
        "seed": 7, "token_latency_ms": 5, "faults": ["none", "half-head:reset"], "fault_scope": "all", "api_key": "hush",
        "replies": [{"path": "/v1/x", "status": 201, "headers": [["a", "b"]], "chunks": [{"body": "hello", "delay_ms": 2}]}],
    })).unwrap();
    assert_eq!(script.faults, [Fault::None, Fault::HalfHead(End::Reset)]);
    assert!(script.validate().is_ok());
    assert!(!format!("{script:?}").contains("hush"));
    assert!(serde_json::from_value::<Script>(json!({"sed": 7})).is_err());
    assert!(
        serde_json::from_value::<Script>(json!({"faults": ["explode"]})).unwrap_err().to_string().contains("explode")
    );
    let wrong: Script = serde_json::from_value(json!({"replies": [{"path": "/x", "status": 99}]})).unwrap();
    assert!(wrong.validate().unwrap_err().to_string().contains("/x"));
}

#[tokio::test]
async fn connections_stay_usable_after_a_spoiled_answer() {
    for transport in TRANSPORTS {
        let mock = Mock::new(Script::default());
        let mut client = Client::new(&mock, transport).await;
        for fault in ["status:500", "missing-done", "garbage", "truncated-json", "empty-stream"] {
            client.send(spoiled(&chat_stream("Hello"), fault)).await.unwrap();
        }
        assert_eq!(client.post(CHAT, &chat("Hello")).await.status, 200, "{transport:?}");
        assert_eq!(mock.stats().connections, 1, "{transport:?}");
    }
}

#[tokio::test]
async fn a_response_that_fails_midway_says_so_in_its_own_dialect() {
    let (_mock, mut client) = mock(Script::default()).await;
    let mut request = post("/v1/responses", &json!({"model": "m", "input": "Hello", "stream": true}));
    request.headers_mut().insert("x-mock-fault", "error-event:2".parse().unwrap());
    let got = client.send(request).await.unwrap();
    let events = got.events();
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert!(got.text().contains("event: response.failed\n") && got.text().contains("output_text.delta"));
}
