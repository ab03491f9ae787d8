//! Real upstream traffic through the scanner, the splitter and the tap, where a folder of recordings is at hand.
//!
//! `BERRY_RECORDINGS` names the folder; without it `../shared/recordings` beside the checkout is tried.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics where it must and says what it skips")]

use std::path::PathBuf;

use berry_core::operation::StreamFormat;
use berry_relay::body::Chunks;
use berry_relay::envelope::Envelope;
use berry_relay::json::{Kind, Scanner, Wanted};
use berry_relay::meter::{self, EventClass, StreamTap};
use berry_relay::sse::{self, Splitter};
use bytes::Bytes;

#[derive(serde::Deserialize)]
struct Recording {
    id: String,
    endpoint: String,
    stream: bool,
    status: u16,
    req: serde_json::Value,
    body: String,
}

fn recordings() -> Option<Vec<Recording>> {
    let folder = std::env::var_os("BERRY_RECORDINGS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/recordings"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("recordings.jsonl")) else {
        println!("skipped: no recordings at {}", folder.display());
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn format(endpoint: &str) -> StreamFormat {
    match endpoint {
        "chat" => StreamFormat::Chat,
        "completions" => StreamFormat::Completions,
        "responses" => StreamFormat::Responses,
        "messages" => StreamFormat::Messages,
        "streamGenerateContent" => StreamFormat::Gemini,
        other => panic!("no stream format for {other}"),
    }
}

#[test]
fn every_recorded_stream_passes_unchanged_ends_and_tells_its_usage() {
    for recording in recordings().into_iter().flatten().filter(|recording| recording.stream && recording.status == 200)
    {
        for size in [1, 7, 1000, usize::MAX] {
            let mut splitter = Splitter::new(1 << 20);
            let mut tap = StreamTap::new(format(&recording.endpoint));
            let (mut out, mut told_error) = (Vec::new(), false);
            for chunk in recording.body.as_bytes().chunks(size.min(recording.body.len())) {
                let cut = splitter.push(Bytes::copy_from_slice(chunk));
                for event in sse::events(&cut.events) {
                    let class = tap.see(&event);
                    assert_ne!(class, EventClass::Unparsable, "{}", recording.id);
                    told_error |= class == EventClass::Error;
                }
                out.extend_from_slice(&cut.events);
            }
            let tail = splitter.finish();
            sse::events(&tail).for_each(|event| {
                tap.see(&event);
            });
            out.extend_from_slice(&tail);
            assert!(out == recording.body.as_bytes(), "{}: bytes changed", recording.id);
            assert_eq!(told_error, recording.body.contains("data: {\"error\":"), "{}", recording.id);
            if told_error {
                continue;
            }
            assert!(tap.terminal_seen(), "{}: no terminal event seen", recording.id);
            assert!(tap.content_seen() || tap.finish_seen(), "{}: no content seen", recording.id);
            let asked = recording.req.pointer("/stream_options/include_usage").and_then(serde_json::Value::as_bool);
            let always = !matches!(recording.endpoint.as_str(), "chat" | "completions");
            if always || asked == Some(true) {
                assert!(tap.usage().output_tokens.is_some(), "{}: no usage found", recording.id);
            }
        }
    }
}

/// The `type` that an answer gives itself; the recordings hold a few that generate nothing.
fn body_type(body: &Chunks) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(&body.slice(0..body.len())).ok()?;
    value["type"].as_str().map(ToOwned::to_owned)
}

#[test]
fn every_recorded_answer_is_valid_and_its_usage_is_found() {
    for recording in recordings().into_iter().flatten().filter(|recording| !recording.stream) {
        let mut scanner = Scanner::new(const { &Wanted::new(&["usage", "usageMetadata", "error"]) });
        let members = scanner.push(recording.body.as_bytes()).and_then(|()| scanner.finish());
        let members = members.unwrap_or_else(|error| panic!("{}: {error}", recording.id));
        let body = Chunks::from(Bytes::from(recording.body));
        let usage = meter::usage_of_answer(&body, &members);
        let failed = members.get("error").is_some_and(|error| error.kind == Kind::Object);
        let is_generation =
            recording.endpoint != "count_tokens" && body_type(&body).as_deref() != Some("skill_version");
        if recording.status == 200 && is_generation && !failed {
            assert!(usage.input_tokens.is_some(), "{}: no usage found", recording.id);
        }
    }
}

#[test]
fn every_recorded_request_has_a_readable_envelope() {
    for recording in recordings().into_iter().flatten() {
        if recording.req.get("model").is_none() {
            continue;
        }
        let body = Chunks::from(Bytes::from(serde_json::to_vec(&recording.req).unwrap()));
        let envelope = Envelope::read(&body).unwrap_or_else(|error| panic!("{}: {error}", recording.id));
        assert_eq!(Some(envelope.model.as_str()), recording.req["model"].as_str());
    }
}
