//! Request bodies that are too large, too slow, too many or broken.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, Interval, interval};

use crate::support::{ADMIN, CONFIG, TestGateway};

/// A body that comes in pieces, one at each tick, and never ends by itself.
struct Trickle {
    piece: &'static [u8],
    ticks: Interval,
    declared: Option<u64>,
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = Bytes::from_static(self.piece);
        self.ticks.poll_tick(cx).map(|_| Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        self.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Status, code, and how long the answer took.
async fn send(gateway: &TestGateway, body: Trickle) -> (u16, String, Duration) {
    let began = Instant::now();
    let request = Request::post("/v1/chat/completions").header("x-api-key", ADMIN).body(body);
    let connection = gateway.gateway.connection("192.0.2.1:1".parse().unwrap()).into();
    let response = gateway.gateway.handle(&connection, request.unwrap()).await;
    let status = response.status().as_u16();
    let took = began.elapsed();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (status, body["error"]["code"].as_str().unwrap().to_owned(), took)
}

fn trickle(piece: &'static [u8], every: Duration) -> Trickle {
    Trickle { piece, ticks: interval(every), declared: None }
}

#[tokio::test(start_paused = true)]
async fn a_declared_length_over_the_limit_is_413_before_anything_is_read() {
    let gateway = TestGateway::new(&format!("[server]\nmax_body_bytes = 2000\n{CONFIG}"));
    let body = Trickle { declared: Some(100_000), ..trickle(b"x", Duration::from_secs(1)) };
    assert_eq!(send(&gateway, body).await, (413, "payload_too_large".to_owned(), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_body_of_undeclared_length_is_413_at_the_limit() {
    let gateway = TestGateway::new(&format!("[server]\nmax_body_bytes = 100000\n{CONFIG}"));
    let (status, code, _) = send(&gateway, trickle(&[b'x'; 50_000], Duration::from_millis(1))).await;
    assert_eq!((status, code.as_str()), (413, "payload_too_large"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_408_when_its_time_is_over() {
    let gateway = TestGateway::new(&format!("[server]\nbody_timeout_seconds = 7\n{CONFIG}"));
    let (status, code, took) = send(&gateway, trickle(b"{", Duration::from_secs(3600))).await;
    assert_eq!((status, code.as_str()), (408, "request_body_timeout"));
    assert_eq!(took.as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_body_earns_a_second_for_each_kib_and_no_more() {
    let gateway = TestGateway::new(&format!("[server]\nbody_timeout_seconds = 7\nmax_body_bytes = 20000\n{CONFIG}"));
    let fast_enough = send(&gateway, trickle(&[b'x'; 1024], Duration::from_millis(990))).await;
    assert_eq!(fast_enough.1, "payload_too_large", "it gets to the size limit");
    let too_slow = send(&gateway, trickle(&[b'x'; 1024], Duration::from_secs(2))).await;
    assert_eq!(too_slow.1, "request_body_timeout");
}

#[tokio::test(start_paused = true)]
async fn all_bodies_together_are_bounded_and_what_is_refused_is_given_back() {
    let limits = "[server]\nmax_buffered_bytes = 3000\nmax_body_bytes = 2000\nmax_response_bytes = 2000\n";
    let gateway = TestGateway::new(&format!("{limits}{CONFIG}"));
    let mut elsewhere = gateway.gateway.app().buffers.permit();
    elsewhere.grow(2500).unwrap();
    let (status, code, _) = send(&gateway, trickle(&[b'x'; 600], Duration::from_millis(1))).await;
    assert_eq!((status, code.as_str()), (503, "overloaded"));
    assert_eq!(gateway.gateway.app().buffers.held(), 2500);
}
