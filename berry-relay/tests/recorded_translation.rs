//! Real answers through their decoders and into other dialects, where a folder of recordings is at hand.
//!
//! `BERRY_RECORDINGS` names the folder; without it `../shared/recordings` beside the checkout is tried.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics where it must and says what it skips")]

use std::path::PathBuf;

use berry_core::usage::Usage;
use berry_relay::dialect::anthropic_messages::AnthropicMessages;
use berry_relay::dialect::gemini_generate::GeminiGenerate;
use berry_relay::dialect::ir::{Event, Part, Stop};
use berry_relay::dialect::loss::Losses;
use berry_relay::dialect::openai_chat::OpenAiChat;
use berry_relay::dialect::openai_responses::OpenAiResponses;
use berry_relay::dialect::reader::StreamReader;
use berry_relay::dialect::{Codec, Reply};
use berry_relay::sse::{self, Splitter};
use bytes::{Bytes, BytesMut};

#[derive(serde::Deserialize)]
struct Recording {
    id: String,
    endpoint: String,
    stream: bool,
    status: u16,
    req: serde_json::Value,
    body: String,
}

impl Recording {
    /// Whether it is of a batch or a skill, which is no call of a model.
    fn is_batch(&self) -> bool {
        self.endpoint == "messages" && !self.body.contains("\"usage\"")
    }

    fn codec(&self) -> Option<&'static dyn Codec> {
        match self.endpoint.as_str() {
            "generateContent" | "streamGenerateContent" => Some(&GeminiGenerate),
            "responses" => Some(&OpenAiResponses),
            "chat" => Some(&OpenAiChat),
            "messages" => Some(&AnthropicMessages),
            _ => None,
        }
    }
}

/// Recorded answers, each with its codec.
fn recordings() -> Vec<(Recording, &'static dyn Codec)> {
    let folder = std::env::var_os("BERRY_RECORDINGS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/recordings"), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("recordings.jsonl")) else {
        println!("skipped: no recordings at {}", folder.display());
        return Vec::new();
    };
    let all = text.lines().map(|line| serde_json::from_str::<Recording>(line).unwrap());
    let is_error = |recording: &Recording| recording.body.trim_start_matches(['{', ' ']).starts_with("\"error\"");
    all.filter(|recording| recording.status == 200 && !recording.is_batch() && !is_error(recording))
        .filter_map(|recording| recording.codec().map(|codec| (recording, codec)))
        .collect()
}

fn clients() -> [(&'static str, &'static dyn Codec); 4] {
    [
        ("gemini", &GeminiGenerate),
        ("responses", &OpenAiResponses),
        ("chat", &OpenAiChat),
        ("messages", &AnthropicMessages),
    ]
}

fn reply() -> Reply {
    Reply {
        request_id: "req_test".to_owned(),
        model: None,
        asked_model: "asked".to_owned(),
        created: 1,
        stream_usage: true,
        estimated_input: 1,
    }
}

/// An end as far as every dialect can say it.
fn common(stop: Stop) -> Stop {
    match stop {
        Stop::Refusal => Stop::Filter,
        Stop::Sequence(_) | Stop::Pause => Stop::End,
        Stop::ContextFull => Stop::Length,
        other => other,
    }
}

/// What an answer comes to: its text, its calls, its end and its figures.
#[derive(Debug, Default, PartialEq)]
struct Meaning {
    text: String,
    calls: Vec<(String, serde_json::Value)>,
    stop: Option<Stop>,
    input_and_output: (Option<u64>, Option<u64>),
}

fn of_parts(parts: &[Part], stop: Option<Stop>, usage: Usage) -> Meaning {
    let mut meaning = Meaning {
        stop: stop.map(common),
        input_and_output: (usage.input_tokens, usage.output_tokens),
        ..Meaning::default()
    };
    for part in parts {
        match part {
            Part::Text(text) => meaning.text += &text.text.read(),
            Part::Refusal(text) => {
                meaning.text += &text.read();
                // Some dialects have a word for it, some only the part, some neither.
                meaning.stop = None;
            }
            Part::ToolCall(call) => {
                let arguments = match &call.arguments {
                    berry_relay::dialect::ir::Arguments::Text(text) => text.read().into_owned(),
                    berry_relay::dialect::ir::Arguments::Json(json) => String::from_utf8_lossy(json.raw()).into_owned(),
                };
                meaning.calls.push((call.name.clone(), serde_json::from_str(&arguments).unwrap()));
            }
            _ => {}
        }
    }
    meaning
}

fn of_plain(codec: &dyn Codec, body: &[u8], id: &str) -> Meaning {
    let response = codec.decode_response(&Bytes::copy_from_slice(body));
    let response = response.unwrap_or_else(|error| panic!("{id}: {error}"));
    let candidate = response.candidates[0].clone();
    of_parts(&candidate.parts, candidate.stop, response.usage)
}

fn events(codec: &dyn Codec, body: &[u8], size: usize) -> Vec<Event> {
    let mut splitter = Splitter::new(1 << 20);
    let mut reader = StreamReader::new(codec);
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        let cut = splitter.push(Bytes::copy_from_slice(chunk));
        sse::events(&cut.events).for_each(|event| reader.push(&event, &cut.events, &mut out).unwrap());
    }
    let tail = splitter.finish();
    sse::events(&tail).for_each(|event| reader.push(&event, &tail, &mut out).unwrap());
    reader.finish(&mut out);
    out
}

fn of_stream(events: &[Event]) -> Meaning {
    use berry_relay::dialect::ir::{Block, Delta};
    let mut meaning = Meaning::default();
    let (mut usage, mut calls) = (Usage::default(), std::collections::BTreeMap::new());
    let mut texts = std::collections::BTreeSet::new();
    for event in events {
        match event {
            Event::Open { index, block: Block::Text, .. } => drop(texts.insert(*index)),
            Event::Open { index, block: Block::ToolCall { name, .. }, .. } => {
                calls.insert(*index, (name.clone(), String::new()));
            }
            Event::Delta { index, delta: Delta::Text(text), .. } if texts.contains(index) => {
                meaning.text += &text.read()
            }
            Event::Delta { index, delta: Delta::Arguments(text), .. } => {
                calls.get_mut(index).unwrap().1 += &text.read()
            }
            Event::Stop { stop, .. } => meaning.stop = Some(common(stop.clone())),
            Event::Usage(figures) => usage.merge_max(figures),
            Event::Error(_) => meaning.stop = Some(Stop::Error),
            _ => {}
        }
    }
    let read = |(name, text): (String, String)| {
        let text = if text.is_empty() { "{}" } else { &text };
        (name, serde_json::from_str(text).unwrap())
    };
    meaning.calls = calls.into_values().map(read).collect();
    meaning.input_and_output = (usage.input_tokens, usage.output_tokens);
    meaning
}

#[test]
fn every_recorded_answer_means_the_same_in_the_other_dialect() {
    for (recording, codec) in recordings().into_iter().filter(|(recording, _)| !recording.stream) {
        let id = &recording.id;
        let meaning = of_plain(codec, recording.body.as_bytes(), id);
        let response = codec.decode_response(&Bytes::from(recording.body.clone())).unwrap();
        for (name, client) in clients() {
            let written = client.encode_response(&response, &reply());
            let mut read = of_plain(client, &written, id);
            if meaning.stop.is_none() {
                read.stop = None;
            }
            assert_eq!(read, meaning, "{id} for {name}");
            assert_eq!(client.encode_response(&response, &reply()), written, "{id} for {name}: twice");
        }
    }
}

#[test]
fn every_recorded_stream_means_the_same_in_the_other_dialect_whatever_its_pieces() {
    for (recording, codec) in recordings().into_iter().filter(|(recording, _)| recording.stream) {
        let (id, body) = (&recording.id, recording.body.as_bytes());
        let whole = events(codec, body, usize::MAX);
        let meaning = of_stream(&whole);
        let tells_usage = recording.endpoint != "chat" || recording.req.get("stream_options").is_some();
        assert!(meaning.stop.is_some() && meaning.input_and_output.1.is_some() == tells_usage, "{id}: {meaning:?}");
        for size in [1, 7, 1000] {
            assert_eq!(of_stream(&events(codec, body, size)), meaning, "{id} in pieces of {size}");
        }
        for (name, client) in clients() {
            let mut encoder = client.stream_encoder(&reply());
            let mut written = BytesMut::new();
            whole.iter().for_each(|event| encoder.push(event.clone(), &mut written));
            encoder.finish(&mut written);
            let mut read = of_stream(&events(client, &written, usize::MAX));
            if !tells_usage {
                // A dialect that must give figures gives zeros or an estimate.
                read.input_and_output = meaning.input_and_output;
            }
            assert_eq!(read, meaning, "{id} for {name}");
        }
    }
}

#[test]
fn every_recorded_request_is_read() {
    for (recording, codec) in recordings() {
        let stored = recording.req.get("previous_response_id").is_some();
        let omitted = recording.req.get("omitted").is_some();
        if recording.req.as_object().is_none_or(serde_json::Map::is_empty) || stored || omitted {
            continue;
        }
        let body = Bytes::from(serde_json::to_vec(&recording.req).unwrap());
        let request = codec.decode_request(&body, &mut Losses::default());
        let request = request.unwrap_or_else(|error| panic!("{}: {error}", recording.id));
        assert!(!request.turns.is_empty(), "{}", recording.id);
    }
}
