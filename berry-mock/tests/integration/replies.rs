//! Exact replies: what goes in comes out.

use berry_mock::{Mock, Reply, ReplyChunk, Script};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::support::{Client, TRANSPORTS, chat, mock, post};

fn with(replies: Vec<Reply>) -> Script {
    Script { replies, ..Script::default() }
}

#[tokio::test]
async fn bytes_come_back_as_they_were_given() {
    let strange = Bytes::from_static(b"{\"n\": 1.0e+00, \"n\":1,\n \"\\u00e9\": \xc3\xa9}\0\xff");
    let reply = Reply {
        status: 418,
        headers: vec![("x-a".into(), "1".into()), ("x-a".into(), "2".into()), ("content-type".into(), "a/b".into())],
        ..Reply::json("/v1/anything", strange.clone())
    };
    for transport in TRANSPORTS {
        let mock = Mock::new(with(vec![reply.clone()]));
        let got = Client::new(&mock, transport).await.post("/v1/anything?x=y", &chat("Hello")).await;
        assert_eq!((got.status.as_u16(), got.body()), (418, strange.to_vec()));
        assert_eq!(got.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(got.header("content-length"), strange.len().to_string());
        assert_eq!(got.headers.len(), 4, "nothing is added but the length: {:?}", got.headers);
    }
}

#[tokio::test]
async fn chunks_stay_apart() {
    let chunks = ["data: {\"a\":", "1}\n", "\nda", "ta: [DONE]\n\n"];
    for transport in TRANSPORTS {
        let mock = Mock::new(with(vec![Reply::events("/", chunks)]));
        let got = Client::new(&mock, transport).await.post("/v1/x", &chat("Hello")).await;
        assert_eq!(got.frames, chunks, "{transport:?}");
    }
}

#[tokio::test]
async fn the_first_match_wins_and_times_run_out() {
    let mut posts = Reply::json("/v1/chat", "first");
    posts.method = Some("POST".into());
    posts.times = Some(1);
    let (_mock, mut client) = mock(with(vec![posts, Reply::json("/v1/chat", "second")])).await;
    let mut texts = vec![client.get("/v1/chat/completions").await.text()];
    for _ in 0..2 {
        texts.push(client.post("/v1/chat/completions", &chat("Hello")).await.text());
    }
    assert_eq!(texts, ["second", "first", "second"]);
    assert_eq!(client.get("/v1/models").await.status, 200, "others are answered as always");
}

#[tokio::test(start_paused = true)]
async fn delays_between_chunks_are_kept() {
    let mut reply = Reply::events("/", ["a", "b"]);
    reply.chunks[1].delay_ms = 700;
    let (_mock, mut client) = mock(with(vec![reply])).await;
    let start = Instant::now();
    let mut body = client.head(post("/", &chat("Hello"))).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(start.elapsed().as_millis(), 0);
    body.frame().await.unwrap().unwrap();
    assert!((700..710).contains(&start.elapsed().as_millis()));
}

#[tokio::test]
async fn a_gate_holds_a_chunk_back() {
    let mut reply = Reply::events("/", ["a", "b"]);
    reply.chunks[1] = ReplyChunk { gate: true, ..ReplyChunk::new("b") };
    let (mock, mut client) = mock(with(vec![reply])).await;
    let mut body = client.head(post("/", &chat("Hello"))).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    assert_eq!(mock.stats().in_flight, 1);
    mock.open_gate();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "b");
    mock.wait_until(|stats| stats.completed == 1).await;
}

#[tokio::test]
async fn an_empty_reply_is_a_head_alone() {
    let (_mock, mut client) = mock(with(vec![Reply { status: 204, ..Reply::default() }])).await;
    let got = client.get("/").await;
    assert_eq!((got.status.as_u16(), got.body().len(), got.headers.len()), (204, 0, 0));
}

#[tokio::test]
async fn head_and_body_of_a_small_answer_arrive_together() {
    let mock = Mock::new(with(vec![Reply::json("/", "{}")]));
    let mut wire = mock.connect();
    wire.write_all(b"GET / HTTP/1.1\r\nhost: mock\r\n\r\n").await.unwrap();
    let mut first = [0; 1024];
    let n = wire.read(&mut first).await.unwrap();
    let text = std::str::from_utf8(&first[..n]).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\n{}"), "{text}");
}

#[tokio::test]
#[should_panic(expected = "reply to \"/x\"")]
async fn a_reply_that_is_no_http_is_refused_at_once() {
    Mock::new(with(vec![Reply {
        path: "/x".into(),
        headers: vec![("a b".into(), String::new())],
        ..Reply::default()
    }]));
}
