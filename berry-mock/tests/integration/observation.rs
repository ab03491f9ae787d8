//! What the mock tells about the requests it got.

use berry_mock::{Mock, Phase, Script, Stats};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::support::{Client, TRANSPORTS, chat, chat_stream, mock, post};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn requests_are_remembered_byte_for_byte() {
    let (mock, mut client) = mock(Script::default()).await;
    let mut request = post("/v1/chat/completions?a=b", &chat("Hello"));
    request.headers_mut().insert("authorization", "Bearer secret".parse().unwrap());
    client.send(request).await.unwrap();
    let seen = mock.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].method, seen[0].path_and_query.as_str()), (&Method::POST, "/v1/chat/completions?a=b"));
    assert_eq!(seen[0].headers["authorization"], "Bearer secret");
    assert_eq!(seen[0].body, chat("Hello").to_string());
    let shown = format!("{seen:?}");
    assert!(!shown.contains("secret") && !shown.contains("Hello"), "{shown}");
}

#[tokio::test]
async fn only_so_many_requests_are_remembered() {
    let (mock, mut client) = mock(Script { keep_requests: Some(2), ..Script::default() }).await;
    for _ in 0..5 {
        client.get("/v1/models").await;
    }
    assert_eq!(mock.requests().iter().map(|request| request.number).collect::<Vec<_>>(), [3, 4]);
    mock.update(Script { keep_requests: Some(0), ..Script::default() });
    client.get("/v1/models").await;
    assert_eq!(mock.requests().len(), 2, "nothing new is remembered");
}

#[tokio::test]
async fn figures_return_to_nothing_when_all_is_done() {
    for transport in TRANSPORTS {
        let mock = Mock::new(Script::default());
        let mut client = Client::new(&mock, transport).await;
        for _ in 0..3 {
            client.post(CHAT, &chat_stream("Hello")).await;
            client.post(CHAT, &chat("Hello")).await;
        }
        client.leave().await;
        let stats = mock.wait_until(|stats| stats.open_connections == 0).await;
        let expected = Stats { connections: 1, requests: 6, completed: 6, ..Stats::default() };
        assert_eq!(stats, expected, "{transport:?}");
    }
}

#[tokio::test]
async fn clients_that_leave_are_seen_in_every_phase() {
    for transport in TRANSPORTS {
        for (fault, phase) in
            [("hang", Phase::BeforeHead), ("stall:head", Phase::BeforeContent), ("stall:1", Phase::Content)]
        {
            let mock = Mock::new(Script { faults: vec![fault.parse().unwrap()], ..Script::default() });
            let mut client = Client::new(&mock, transport).await;
            {
                let answer = client.head(post(CHAT, &chat_stream("Hello")));
                if phase == Phase::BeforeHead {
                    tokio::select! {
                        answer = answer => panic!("{answer:?}"),
                        _ = mock.wait_until(|stats| stats.in_flight == 1) => {}
                    }
                } else {
                    let mut body = answer.await.unwrap().into_body();
                    if phase == Phase::Content {
                        // The role, then the first token, perhaps in one piece.
                        let mut read = 0;
                        while read < 300 {
                            read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
                        }
                    }
                }
            }
            let left = Instant::now();
            client.leave().await;
            let stats = mock.wait_until(|stats| stats.cancelled == 1).await;
            assert_eq!((stats.in_flight, stats.completed, stats.cut), (0, 0, 0), "{transport:?} {fault}");
            let cancellation = mock.cancellations()[0];
            assert_eq!((cancellation.request, cancellation.phase), (0, phase), "{transport:?}");
            assert!(cancellation.at >= left, "{transport:?} {fault}: seen before the client left");
        }
    }
}

#[tokio::test]
async fn shutdown_closes_what_is_open() {
    for transport in TRANSPORTS {
        let mock = Mock::new(Script { faults: vec!["stall:1".parse().unwrap()], ..Script::default() });
        let mut client = Client::new(&mock, transport).await;
        let mut body = client.head(post(CHAT, &chat_stream("Hello"))).await.unwrap().into_body();
        mock.shutdown();
        mock.stopped().await;
        while let Some(Ok(_)) = body.frame().await {}
        assert_eq!(mock.stats().open_connections, 0, "{transport:?}");
        assert!(client.send(post(CHAT, &chat("Hello"))).await.is_err(), "{transport:?}");
    }
}

#[tokio::test]
async fn connections_outlive_the_handles() {
    let (mock, mut client) = mock(Script::default()).await;
    drop(mock);
    assert_eq!(client.post(CHAT, &chat("Hello")).await.status, 200);
}

#[tokio::test]
async fn after_shutdown_a_connection_is_closed_at_once() {
    let mock = Mock::new(Script::default());
    mock.shutdown();
    let mut client = Client::new(&mock, crate::support::Transport::Memory).await;
    assert!(client.send(post(CHAT, &chat("Hello"))).await.is_err());
}
