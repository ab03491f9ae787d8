//! Responses that an upstream keeps: who may ask for them, and where the question goes.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use http::Method;

use crate::support::{ADMIN, Answer, NARROW, TestGateway};

const CONFIG: &str = r#"
[users.ada]
token = "token-of-ada-the-admin"
tags = ["admin"]
[users.ned]
token = "token-of-ned-the-narrow"
[providers.one]
base_url = "https://one.test/v1"
api_key = "key-of-one"
[providers.two]
base_url = "https://two.test/v1"
api_key = "key-of-two"
[models.m]
name = "m"
strategy = "round_robin"
[[models.m.backends]]
provider = "one"
model = "up"
[[models.m.backends]]
provider = "two"
model = "up"
"#;

struct Scene {
    gateway: TestGateway,
    mocks: Vec<Mock>,
}

/// Two upstreams, each with an answer of its own to everything about responses.
fn scene() -> Scene {
    let stream = |id: &str| {
        format!(
            "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"id\":\"{id}\"}}}}\n\n\
             event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"{id}\"}}}}\n\n"
        )
    };
    let mock = |id: &str| {
        let kept = Reply {
            method: Some("GET".to_owned()),
            ..Reply::json("/v1/responses/", format!("{{\"kept\": \"{id}\"}}"))
        };
        let gone = Reply { method: Some("DELETE".to_owned()), ..Reply::json("/v1/responses/", "{\"deleted\": true}") };
        let cancelled = Reply::json(format!("/v1/responses/resp%5F{id}/cancel"), "{\"status\": \"cancelled\"}");
        let plain =
            Reply { times: Some(1), ..Reply::json("/v1/responses", format!("{{\"id\":\"resp_{id}\",\"output\":[]}}")) };
        let events = Reply::events("/v1/responses", [stream(&format!("resp_s{id}"))]);
        Mock::new(Script { replies: vec![kept, gone, cancelled, plain, events], ..Script::default() })
    };
    let mocks = vec![mock("one"), mock("two")];
    let dials = ["one", "two"].into_iter().zip(&mocks).map(|(name, mock)| {
        let dial = mock.clone();
        (name.into(), Arc::new(move || dial.connect()) as Dial)
    });
    let dials: HashMap<_, _> = dials.collect();
    Scene { gateway: TestGateway::with(CONFIG, AccessLog::default(), dials), mocks }
}

impl Scene {
    async fn ask(&self, method: Method, path: &str, token: &str) -> Answer {
        self.gateway.send(method, path, &[("authorization", &format!("Bearer {token}"))], "").await
    }

    /// Makes a response at each upstream.
    async fn make_two(&self) {
        for _ in 0..2 {
            let answer = self.gateway.post("/v1/responses", ADMIN, r#"{"model":"m","input":"x"}"#).await;
            assert_eq!(answer.status, 200, "{:?}", answer.body);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_response_is_asked_of_its_issuer_for_its_user_only() {
    let scene = scene();
    scene.make_two().await;
    for id in ["one", "two"] {
        let got = scene.ask(Method::GET, &format!("/v1/responses/resp_{id}?include[]=x"), ADMIN).await;
        assert_eq!(got.json()["kept"], id);
        let items = scene.ask(Method::GET, &format!("/v1/responses/resp_{id}/input_items?limit=2"), ADMIN).await;
        assert_eq!(items.json()["kept"], id);
        let cancelled = scene.ask(Method::POST, &format!("/v1/responses/resp_{id}/cancel"), ADMIN).await;
        assert_eq!(cancelled.json()["status"], "cancelled");
        let foreign = scene.ask(Method::GET, &format!("/v1/responses/resp_{id}"), NARROW).await;
        assert_eq!((foreign.status.as_u16(), foreign.error_code().as_str()), (404, "not_found"));
        assert_eq!(scene.ask(Method::DELETE, &format!("/v1/responses/resp_{id}"), ADMIN).await.json()["deleted"], true);
    }
    let seen = scene.mocks[0].requests();
    let paths: Vec<&str> = seen[1..].iter().map(|seen| seen.path_and_query.as_str()).collect();
    let base = "/v1/responses/resp%5Fone";
    assert_eq!(
        paths,
        [&format!("{base}?include[]=x"), &format!("{base}/input_items?limit=2"), &format!("{base}/cancel"), base]
    );
    assert!(seen.iter().all(|seen| seen.headers["authorization"] == "Bearer key-of-one"));
}

#[tokio::test(start_paused = true)]
async fn a_conversation_goes_on_where_its_earlier_response_is() {
    let scene = scene();
    scene.make_two().await;
    for _ in 0..3 {
        let body = r#"{"model":"m","stream":true,"input":"y","previous_response_id":"resp_two"}"#;
        assert_eq!(scene.gateway.post("/v1/responses", ADMIN, body).await.status, 200);
    }
    assert_eq!((scene.mocks[0].requests().len(), scene.mocks[1].requests().len()), (1, 4));
    assert_eq!(scene.ask(Method::GET, "/v1/responses/resp_stwo", ADMIN).await.json()["kept"], "two");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_or_foreign_earlier_response_is_refused_and_never_answered_without() {
    let scene = scene();
    scene.make_two().await;
    for (id, token) in [("resp_none", ADMIN), ("resp_one", NARROW)] {
        let body = format!(r#"{{"model":"m","input":"y","previous_response_id":"{id}"}}"#);
        let answer = scene.gateway.post("/v1/responses", token, &body).await;
        assert_eq!(answer.status, 404, "{id}");
        assert_eq!(answer.json()["error"]["param"], "previous_response_id");
    }
    let elsewhere = r#"{"model":"m","input":"y","backend":"two","previous_response_id":"resp_one"}"#;
    assert_eq!(scene.gateway.post("/v1/responses", ADMIN, elsewhere).await.status, 404);
    assert_eq!(scene.mocks.iter().map(|mock| mock.requests().len()).sum::<usize>(), 2);
}
