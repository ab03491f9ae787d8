//! `sticky` through the whole service: a conversation stays where it began.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Script};
use berry_relay::client::Dial;

use crate::support::{ADMIN, TestGateway};

fn gateway() -> TestGateway {
    let mut config = format!("[users.ada]\nname = \"Ada\"\ntoken = \"{ADMIN}\"\n[models.m]\nstrategy = \"sticky\"\n");
    let mut dials = HashMap::new();
    for name in ["a", "b", "c"] {
        config += &format!("[[models.m.backends]]\nprovider = \"{name}\"\nmodel = \"u\"\n");
        let mock = Mock::new(Script::default());
        dials.insert(name.into(), Arc::new(move || mock.connect()) as Dial);
    }
    for name in ["a", "b", "c"] {
        config += &format!("[providers.{name}]\nbase_url = \"http://{name}.test/v1\"\n");
    }
    TestGateway::with(&config, AccessLog::default(), dials)
}

/// Who answers the turn of a conversation that began with `start`.
async fn provider(gateway: &TestGateway, start: &str, turn: usize, headers: &[(&str, &str)]) -> String {
    let more = r#",{"role":"assistant","content":"x"},{"role":"user","content":"y"}"#.repeat(turn);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{start}"}}{more}]}}"#);
    let token = format!("Bearer {ADMIN}");
    let headers: Vec<(&str, &str)> = [("authorization", token.as_str())].into_iter().chain(headers.to_vec()).collect();
    let answer = gateway.send(http::Method::POST, "/v1/chat/completions", &headers, &body).await;
    assert_eq!(answer.status, 200);
    answer.headers["x-berry-provider"].to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn every_turn_of_a_conversation_goes_where_its_first_one_went_and_conversations_are_shared_out() {
    let gateway = gateway();
    let mut used = HashSet::new();
    for conversation in 0..12 {
        let start = format!("conversation {conversation}");
        let first = provider(&gateway, &start, 0, &[]).await;
        for turn in 1..4 {
            assert_eq!(provider(&gateway, &start, turn, &[]).await, first, "{start}, turn {turn}");
        }
        used.insert(first);
    }
    assert_eq!(used.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_header_names_the_conversation_whatever_the_messages_are() {
    let gateway = gateway();
    let said = [("x-berry-conversation", "42")];
    let first = provider(&gateway, "a", 0, &said).await;
    for start in ["b", "c", "d", "e", "f", "g"] {
        assert_eq!(provider(&gateway, start, 0, &said).await, first);
    }
}
