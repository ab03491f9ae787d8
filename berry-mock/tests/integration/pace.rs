//! The pace, under a clock that stands still until somebody waits.

use std::time::Duration;

use berry_mock::Script;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::support::{chat, chat_stream, mock, post};

const CHAT: &str = "/v1/chat/completions";

fn script() -> Script {
    Script { first_token_latency_ms: 300, token_latency_ms: 20, answer_tokens: Some(10), ..Script::default() }
}

/// When each chunk of a stream came.
async fn arrivals(script: Script) -> (Duration, Vec<Duration>) {
    let (_mock, mut client) = mock(script).await;
    let start = Instant::now();
    let response = client.head(post(CHAT, &chat_stream("Hello"))).await.unwrap();
    let head = start.elapsed();
    let mut body = response.into_body();
    let mut times = Vec::new();
    while let Some(frame) = body.frame().await {
        frame.unwrap();
        times.push(start.elapsed());
    }
    (head, times)
}

/// tokio's timers count whole milliseconds and round up.
fn about(time: Duration, milliseconds: u64) -> bool {
    (milliseconds..=milliseconds + 12).contains(&u64::try_from(time.as_millis()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_stream_keeps_the_pace_of_its_tokens() {
    let (head, times) = arrivals(script()).await;
    assert!(about(head, 0) && about(times[0], 0), "head and role come at once: {head:?} {times:?}");
    for (i, time) in times[1..=10].iter().enumerate() {
        assert!(about(*time, 300 + 20 * i as u64), "token {i} at {time:?}");
    }
    assert!(about(*times.last().unwrap(), 300 + 20 * 9), "the end comes with the last token");
}

#[tokio::test(start_paused = true)]
async fn a_plain_answer_takes_as_long_as_a_stream() {
    let (_mock, mut client) = mock(script()).await;
    let start = Instant::now();
    client.head(post(CHAT, &chat("Hello"))).await.unwrap();
    assert!(about(start.elapsed(), 300 + 20 * 9), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_pace_is_no_wait() {
    let (_, times) = arrivals(Script::default()).await;
    assert_eq!(times.last().unwrap().as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn jitter_is_repeated_by_the_seed() {
    let jittery = |seed| Script { latency_jitter: 0.5, seed, ..script() };
    let (_, times) = arrivals(jittery(1)).await;
    assert_eq!(arrivals(jittery(1)).await.1, times);
    assert_ne!(arrivals(jittery(2)).await.1, times);
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_token_delays_the_content_and_not_the_head() {
    let (_mock, mut client) = mock(Script::default()).await;
    let mut request = post(CHAT, &chat_stream("Hello"));
    request.headers_mut().insert("x-mock-fault", "slow-first-token:5000".parse().unwrap());
    let start = Instant::now();
    let mut body = client.head(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(about(start.elapsed(), 0));
    body.frame().await.unwrap().unwrap();
    assert!(about(start.elapsed(), 5000));
}
