//! What happens on a connection below the requests. In memory and under a paused clock: deadlines are exact.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use berry_api::telemetry::access::AccessLog;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::support::{ADMIN, CONFIG, TestGateway};

const TIMEOUTS: &str = "[server]\nheader_timeout_seconds = 10\nidle_timeout_seconds = 60\nmax_body_bytes = 100000\n";

/// The client's end of a new connection.
pub(crate) fn connect(gateway: &TestGateway) -> DuplexStream {
    let (client, served) = tokio::io::duplex(1024 * 1024);
    let server = gateway.server();
    let peer: SocketAddr = "192.0.2.1:4711".parse().unwrap();
    // How the connection ends is seen from the client's side.
    TaskTracker::new().spawn(async move { server.serve(served, peer).await.ok() });
    client
}

fn gateway() -> TestGateway {
    TestGateway::new(&format!("{TIMEOUTS}{CONFIG}"))
}

/// Everything that comes until the server closes.
async fn read_to_end(client: &mut DuplexStream) -> String {
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    String::from_utf8(received).unwrap()
}

/// One answer with a content-length.
async fn read_answer(client: &mut DuplexStream) -> String {
    let mut received = String::new();
    loop {
        received.push(char::from(client.read_u8().await.unwrap()));
        let Some((head, body)) = received.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.expect("a length").parse::<usize>().unwrap() {
            return received;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_has_its_deadline_from_its_first_byte_however_it_trickles() {
    let mut client = connect(&gateway());
    tokio::time::advance(Duration::from_secs(30)).await;
    let began = Instant::now();
    client.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let mut received = Vec::new();
    while timeout(Duration::from_secs(1), client.read_to_end(&mut received)).await.is_err() {
        client.write_all(b"x-slow: 1\r\n").await.unwrap();
    }
    assert_eq!(began.elapsed().as_secs(), 10);
    let received = String::from_utf8(received).unwrap();
    assert!(received.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{received}");
    assert!(received.contains("x-request-id: req_") && received.contains(r#""code":"request_header_timeout""#));
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_comes_is_closed_after_the_idle_time() {
    let mut client = connect(&gateway());
    let began = Instant::now();
    assert_eq!(read_to_end(&mut client).await, "");
    assert_eq!(began.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn idle_time_counts_from_the_end_of_the_last_answer() {
    let mut client = connect(&gateway());
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(50)).await;
        client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(read_answer(&mut client).await.ends_with("ok\n"));
    }
    let began = Instant::now();
    assert_eq!(read_to_end(&mut client).await, "");
    assert_eq!(began.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_second_head_has_a_deadline_too() {
    let mut client = connect(&gateway());
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_answer(&mut client).await;
    tokio::time::advance(Duration::from_secs(45)).await;
    let began = Instant::now();
    client.write_all(b"GET /li").await.unwrap();
    assert!(read_to_end(&mut client).await.starts_with("HTTP/1.1 408 "));
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http_gets_a_json_error_and_the_connection_ends() {
    for (bytes, status) in [
        ("HELO mail\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\nx-long: {}\r\n\r\n", "x".repeat(70_000)), "431"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(101)), "431"),
    ] {
        let mut client = connect(&gateway());
        client.write_all(bytes.as_bytes()).await.unwrap();
        let received = read_to_end(&mut client).await;
        let shown = &bytes[..bytes.len().min(60)];
        assert!(received.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {received}");
        let (head, body) = received.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("x-request-id: req_") && head.contains("connection: close"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["error"]["code"].is_string(), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_ours_is_never_taken_for_the_librarys() {
    let mut client = connect(&gateway());
    // The second head is malformed and comes with the first.
    client.write_all(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\nHELO mail\r\n\r\n").await.unwrap();
    let first = read_answer(&mut client).await;
    assert!(first.starts_with("HTTP/1.1 404 ") && first.contains(r#""code":"not_found""#), "{first}");
    assert!(read_to_end(&mut client).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_leaves_the_connection_usable_when_its_body_is_small() {
    let mut client = connect(&gateway());
    let body = "x".repeat(60_000);
    let refused = format!("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    client.write_all(refused.as_bytes()).await.unwrap();
    let answer = read_answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("connection: close"), "{answer}");
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_answer(&mut client).await.ends_with("ok\n"));
}

#[tokio::test(start_paused = true)]
async fn a_large_unwanted_body_is_refused_at_once_and_then_read_away_for_a_while() {
    let mut client = connect(&gateway());
    let head =
        format!("POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nx-api-key: {ADMIN}\r\ncontent-length: 90000000\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let began = Instant::now();
    let answer = read_answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(began.elapsed(), Duration::ZERO);
    // The client goes on sending, which must not break the connection under it before it has read the answer.
    for _ in 0..20 {
        client.write_all(&[b'x'; 100_000]).await.unwrap();
    }
    assert_eq!(read_to_end(&mut client).await, "");
    while client.write_all(&[b'x'; 100_000]).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(began.elapsed().as_secs(), 5, "in the end the connection is gone");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_to_be_asked_for_its_body_is_refused_without_being_asked() {
    let mut client = connect(&gateway());
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(read_answer(&mut client).await.starts_with("HTTP/1.1 401 "));
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_idle_connections_and_new_ones_without_a_word() {
    let gateway = gateway();
    let (mut used, mut unused) = (connect(&gateway), connect(&gateway));
    used.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_answer(&mut used).await;
    gateway.gateway.app().shutdown.drain();
    let began = Instant::now();
    assert_eq!(read_to_end(&mut used).await, "");
    assert_eq!(read_to_end(&mut unused).await, "");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_counted_until_their_answer_is_over() {
    let gateway = gateway();
    let mut client = connect(&gateway);
    client.write_all(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let head = format!("x-api-key: {ADMIN}\r\ncontent-length: 10\r\n\r\n{{");
    client.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let in_flight = || gateway.gateway.app().in_flight.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(in_flight(), 1);
    drop(client);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(in_flight(), 0, "the client left in the middle of its body");
}

#[tokio::test(start_paused = true)]
async fn http2_without_tls_is_spoken_to_clients_that_know() {
    let client = TokioIo::new(connect(&gateway()));
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), client).await.unwrap();
    TaskTracker::new().spawn(driver);
    let ask = |path: &str| Request::get(format!("http://x{path}")).body(Empty::<Bytes>::new()).unwrap();
    let (live, refused) =
        tokio::join!(sender.send_request(ask("/livez")), sender.clone().send_request(ask("/v1/models")));
    assert_eq!(live.unwrap().status(), 200);
    let refused = refused.unwrap();
    assert_eq!(refused.status(), 401);
    assert!(refused.headers().contains_key("x-request-id"));
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&body).unwrap().contains("invalid_token"));
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_closed_too() {
    let client = TokioIo::new(connect(&gateway()));
    let (sender, driver) = http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), client).await.unwrap();
    let began = Instant::now();
    driver.await.ok();
    assert!(sender.is_closed());
    assert_eq!(began.elapsed().as_secs(), 60);
}

/// An upstream that streams without end: what it could send so far, and whether its peer has left.
#[derive(Default)]
struct Endless {
    sent: AtomicUsize,
    left_alone: AtomicBool,
}

impl Endless {
    async fn serve(&self, mut io: DuplexStream) {
        let mut request = [0; 64 * 1024];
        assert!(io.read(&mut request).await.unwrap() > 0);
        let event = format!(r#"data: {{"choices":[{{"index":0,"delta":{{"content":"{}"}}}}]}}"#, "a".repeat(16 * 1024));
        let chunk = format!("{:x}\r\n{event}\n\n\r\n", event.len() + 2);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        io.write_all(head.as_bytes()).await.unwrap();
        while io.write_all(chunk.as_bytes()).await.is_ok() {
            self.sent.fetch_add(chunk.len(), Ordering::Relaxed);
        }
        self.left_alone.store(true, Ordering::Relaxed);
    }
}

/// A client of an endless stream that has not read anything yet.
async fn ask_for_an_endless_stream() -> (TestGateway, Arc<Endless>, DuplexStream) {
    let upstream = Arc::<Endless>::default();
    let served = Arc::clone(&upstream);
    let dial = move || {
        let (client, io) = tokio::io::duplex(64 * 1024);
        let served = Arc::clone(&served);
        TaskTracker::new().spawn(async move { served.serve(io).await });
        client
    };
    let dials = HashMap::from([("nowhere".into(), Arc::new(dial) as _)]);
    let config = format!("[server]\nwrite_stall_seconds = 20\n{CONFIG}");
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    let mut client = connect(&gateway);
    let body = r#"{"model":"narrow","stream":true,"messages":[]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {ADMIN}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    (gateway, upstream, client)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_let_go_and_so_is_its_upstream() {
    let (gateway, upstream, _client) = ask_for_an_endless_stream().await;
    let in_flight = || gateway.gateway.app().in_flight.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert_eq!((upstream.left_alone.load(Ordering::Relaxed), in_flight()), (false, 1));
    // One MiB of it is in the pipe to the client.
    let held = upstream.sent.load(Ordering::Relaxed).saturating_sub(1024 * 1024);
    assert!(held <= 2 * 1024 * 1024, "{held} bytes are held for it");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((upstream.left_alone.load(Ordering::Relaxed), in_flight()), (true, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_a_little_now_and_then_is_served() {
    let (_gateway, upstream, mut client) = ask_for_an_endless_stream().await;
    let mut some = vec![0; 512 * 1024];
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(15)).await;
        client.read_exact(&mut some).await.unwrap();
    }
    assert!(!upstream.left_alone.load(Ordering::Relaxed));
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(upstream.left_alone.load(Ordering::Relaxed), "and noticed when it leaves");
}
