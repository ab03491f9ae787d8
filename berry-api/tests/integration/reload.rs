//! A new configuration takes the place of the old one under running requests, or does not at all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use berry_api::reload::reload;
use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::support::{ADMIN, CONFIG, TestGateway, snapshot};

const ASK: &str = r#"{"model":"org/wide","messages":[]}"#;

fn gateway(script: Script) -> (TestGateway, HashMap<berry_core::id::ProviderId, Dial>) {
    let mock = Mock::new(script);
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || mock.connect()) as Dial)]);
    (TestGateway::with(CONFIG, AccessLog::default(), dials.clone()), dials)
}

#[tokio::test(start_paused = true)]
async fn what_is_new_is_served_what_is_gone_is_not_and_figures_stay() {
    let (gateway, dials) = gateway(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 200);
    let text = CONFIG
        .replace("[models.off]\nname = \"off\"\nenabled = false", "[models.on]\nname = \"on\"")
        .replace("models.off.", "models.on.")
        .replace("name = \"premium\"", "name = \"renamed\"");
    gateway.gateway.app().replace(snapshot(&text), &dials).unwrap();
    for (model, status) in [("on", 200), ("renamed", 200), ("off", 404)] {
        let answer = gateway.post("/v1/chat/completions", ADMIN, &ASK.replace("org/wide", model)).await;
        assert_eq!(answer.status, status, "{model}");
    }
    let metrics = gateway.get("/metrics", ADMIN).await.json();
    assert_eq!(metrics["models"]["org/wide"]["total_requests"], 1, "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_flight_ends_under_the_configuration_that_it_began_with() {
    let events = ["data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n", "data: [DONE]\n\n"];
    let mut reply = Reply::events("/", events);
    reply.chunks[1].gate = true;
    let mock = Mock::new(Script { replies: vec![reply], ..Script::default() });
    let dial = mock.clone();
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || dial.connect()) as Dial)]);
    let gateway = TestGateway::with(CONFIG, AccessLog::default(), dials.clone());
    let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let connection = Arc::new(gateway.gateway.connection(peer));
    let body = Full::new(Bytes::from_static(br#"{"model":"org/wide","stream":true,"messages":[]}"#));
    let request = Request::post("/v1/chat/completions").header("x-api-key", ADMIN).body(body).unwrap();
    let response = gateway.gateway.handle(&connection, request).await;
    let without = CONFIG.split("[models.wide]").next().unwrap();
    gateway.gateway.app().replace(snapshot(without), &dials).unwrap();
    mock.open_gate();
    let streamed = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(streamed, events.concat());
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_changes_nothing_and_the_error_names_the_place() {
    let (gateway, _) = gateway(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("berry.toml");
    for (text, expected) in [
        ("[users.a]\ntokn = \"x\"\n", "berry.toml:2:1"),
        ("# nothing\n", "no key at all"),
        ("[users.a\n", "berry.toml:1"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = reload(gateway.gateway.app(), &path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn an_admin_reloads_and_is_told_every_problem() {
    let (gateway, _) = gateway(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    assert_eq!(gateway.post("/admin/reload-config", ADMIN, "").await.status, 409);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("berry.toml");
    gateway.gateway.app().config_file.set(path.clone()).unwrap();
    std::fs::write(&path, CONFIG.replace("org/wide", "org/wider")).unwrap();
    let done = gateway.post("/admin/reload-config", ADMIN, "").await;
    assert_eq!((done.status.as_u16(), &done.json()["models"]), (200, &4.into()));
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 404);
    std::fs::write(&path, CONFIG.replace("strategy = \"round_robin\"", "strategie = 1")).unwrap();
    let refused = gateway.post("/admin/reload-config", ADMIN, "").await;
    assert_eq!(refused.status, 400);
    let problems = refused.json()["problems"].to_string();
    assert!(problems.contains("berry.toml:25:1: models.wide.strategie"), "{problems}");
    assert_eq!(gateway.post("/admin/reload-config", crate::support::NARROW, "").await.status, 403);
}
