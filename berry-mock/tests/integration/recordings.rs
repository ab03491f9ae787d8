//! Requests that real clients sent, where recordings of them are at hand.
//!
//! They are read from the folder in `BERRY_RECORDINGS`, else from `../../shared/recordings`; without it the test says that it was
//! skipped. Nothing of them is copied here.

use std::path::PathBuf;

use berry_mock::Script;
use serde_json::Value;

use crate::support::{mock, post};

fn folder() -> PathBuf {
    let default = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/recordings").to_owned();
    std::env::var("BERRY_RECORDINGS").unwrap_or_else(|_| default()).into()
}

#[tokio::test]
async fn recorded_requests_are_understood() {
    let Ok(lines) = std::fs::read_to_string(folder().join("recordings.jsonl")) else {
        eprintln!("skipped: there are no recordings in {}", folder().display());
        return;
    };
    let (_mock, mut client) = mock(Script::default()).await;
    let mut asked = 0;
    for line in lines.lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let path = recorded["path"].as_str().unwrap_or_default();
        if path.is_empty() || recorded["status"] != 200 || recorded["req"]["model"].is_null() && !path.contains(':') {
            continue;
        }
        let azure = if path.contains("/deployments/") { "?api-version=1" } else { "" };
        let mut request = post(&format!("{path}{azure}"), &recorded["req"]);
        if recorded["provider"] == "anthropic" {
            request.headers_mut().insert("anthropic-version", "2023-06-01".parse().unwrap());
        }
        let got = client.send(request).await.unwrap();
        assert_eq!(got.status, 200, "{}: {got:?}", recorded["id"]);
        let streamed = got.header("content-type").starts_with("text/event-stream");
        let expected = recorded["stream"] == true && recorded["provider"] != "gemini";
        assert_eq!(streamed, expected, "{}: {got:?}", recorded["id"]);
        asked += 1;
    }
    assert!(asked > 40, "only {asked} recordings could be asked");
}
