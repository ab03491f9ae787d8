//! What each target does with an input, and what must hold for every input. Used by the fuzzer and, over the committed corpora, by
//! `berry-relay/tests/fuzzed.rs`.

use berry_core::config::provider_data::ProviderData;
use std::io::Write as _;

use berry_core::operation::{Dialect, Operation};
use berry_relay::body::Chunks;
use berry_relay::decode::{Decoder, RATIO_FREE_BYTES, RATIO_MAX};
use berry_relay::dialect::anthropic_messages::AnthropicMessages;
use berry_relay::dialect::gemini_generate::GeminiGenerate;
use berry_relay::dialect::ir::{Block, Delta, Event, Request, Response};
use berry_relay::dialect::loss::Losses;
use berry_relay::dialect::openai_chat::OpenAiChat;
use berry_relay::dialect::openai_responses::OpenAiResponses;
use berry_relay::dialect::reader::StreamReader;
use berry_relay::dialect::{Capabilities, Codec, Reply, Target, steps, translate};
use berry_relay::envelope::Envelope;
use berry_relay::json::{Cursor, JsonError, Members, Scanner, Wanted, unmarked};
use berry_relay::meter::told::{self, Told};
use berry_relay::sse::{self, Splitter};
use berry_relay::values::Values;
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderValue};

/// A target.
type Run = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Run)] = &[
    ("request_chat", |data| request(&OpenAiChat, data)),
    ("request_messages", |data| request(&AnthropicMessages, data)),
    ("request_responses", |data| request(&OpenAiResponses, data)),
    ("request_gemini", |data| request(&GeminiGenerate, data)),
    ("answer_chat", |data| answer(&OpenAiChat, data)),
    ("answer_messages", |data| answer(&AnthropicMessages, data)),
    ("answer_responses", |data| answer(&OpenAiResponses, data)),
    ("answer_gemini", |data| answer(&GeminiGenerate, data)),
    ("stream_chat", |data| stream(&OpenAiChat, data)),
    ("stream_messages", |data| stream(&AnthropicMessages, data)),
    ("stream_responses", |data| stream(&OpenAiResponses, data)),
    ("stream_gemini", |data| stream(&GeminiGenerate, data)),
    ("odd", odd),
    ("coding", coding),
    ("sse", framing),
    ("peek", peek),
];

/// The target of this name.
pub fn of_name(name: &str) -> Option<Run> {
    TARGETS.iter().find(|(own, _)| *own == name).map(|(_, run)| *run)
}

/// Every dialect, with models that differ in what they take.
fn dialects() -> [(&'static str, &'static dyn Codec, &'static [&'static str]); 4] {
    [
        ("chat", &OpenAiChat, &["gpt-4o", "o3", "llama-3"]),
        ("messages", &AnthropicMessages, &["claude-3-5-haiku", "claude-sonnet-4-5", "claude-opus-4-6", "claude-5"]),
        ("responses", &OpenAiResponses, &["gpt-4o", "gpt-5"]),
        ("gemini", &GeminiGenerate, &["gemini-1.5-pro", "gemini-2.5-flash", "gemini-3-pro"]),
    ]
}

fn capabilities(dialect: &str, model: &str) -> Capabilities {
    ProviderData::bundled().capabilities(
        match dialect {
            "messages" => Dialect::Anthropic,
            "gemini" => Dialect::Gemini,
            _ => Dialect::OpenAi,
        },
        model,
    )
}

fn reply() -> Reply {
    Reply {
        request_id: "req_1".to_owned(),
        model: None,
        asked_model: "asked".to_owned(),
        created: 1,
        stream_usage: true,
        estimated_input: 7,
    }
}

#[track_caller]
fn assert_json(written: &[u8]) {
    let read = serde_json::from_slice::<serde::de::IgnoredAny>(written);
    // Half a surrogate pair is the client's own and passes as it is written.
    if let Err(error) = read {
        let ours = Cursor::new(written).value().is_some();
        assert!(ours, "{error}: {}", String::from_utf8_lossy(written));
    }
}

/// A client's request: what can be read can be written for every dialect, twice the same, and what is written can be read.
fn request(codec: &dyn Codec, data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let mut losses = Losses::default();
    let Ok(request) = codec.decode_request(&body, &mut losses) else { return };
    assert!(losses.header().is_ascii());
    for (name, to, models) in dialects() {
        for model in models {
            let written = write(to, &request, name, model);
            assert_eq!(written, write(to, &request, name, model), "{name} {model}: twice");
            let Some(written) = written else { continue };
            assert_json(&written);
            let read = to.decode_request(&Bytes::from(written.clone()), &mut Losses::default());
            assert!(read.is_ok(), "{name} {model}: {read:?}: {}", String::from_utf8_lossy(&written));
        }
    }
}

fn write(to: &dyn Codec, request: &Request, name: &str, model: &str) -> Option<Vec<u8>> {
    let capabilities = capabilities(name, model);
    let target = Target { model, capabilities: &capabilities, own_state: true, ask_usage: true };
    let mut losses = Losses::default();
    let written = to.encode_request(request, &target, &mut losses).ok()?;
    assert!(losses.header().is_ascii());
    Some(written.into_bytes().to_vec())
}

/// An upstream's answer: what can be read can be written for every client.
fn answer(codec: &dyn Codec, data: &[u8]) {
    let Ok(response) = codec.decode_response(&Bytes::copy_from_slice(data)) else { return };
    for (_, to, _) in dialects() {
        let written = to.encode_response(&response, &reply());
        assert_json(&written);
        assert!(to.decode_response(&written).is_ok(), "{}", String::from_utf8_lossy(&written));
    }
}

/// An upstream's stream: it means the same wherever it is cut, and every client's stream is well formed. The first byte says how
/// large the pieces are.
fn stream(codec: &dyn Codec, data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let whole = events(codec, [data]);
    let cut = events(codec, data.chunks(usize::from(*piece).max(1)));
    assert_eq!(format!("{whole:?}"), format!("{cut:?}"), "cut");
    assert_eq!(format!("{whole:?}"), format!("{:?}", decoded(codec, data)), "every event decoded");
    for (name, to, _) in dialects() {
        let mut encoder = to.stream_encoder(&reply());
        let mut out = BytesMut::new();
        whole.iter().for_each(|event| encoder.push(event.clone(), &mut out));
        encoder.finish(&mut out);
        for event in sse::events(&out) {
            assert!(!event.raw.is_empty());
            if let Some(data) = event.data.filter(|data| &data[..] != b"[DONE]") {
                assert_json(&data);
            }
        }
        let out = out.freeze();
        let mut again = StreamReader::new(to);
        let mut read = Vec::new();
        for event in sse::events(&out) {
            let result = again.push(&event, &out, &mut read);
            assert!(result.is_ok(), "{name}: {result:?}: {}", String::from_utf8_lossy(event.raw));
        }
        again.finish(&mut read);
    }
}

/// The meaning of a stream up to its first event that cannot be read.
fn events<'a>(codec: &dyn Codec, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let (mut reader, mut splitter, mut read) = (StreamReader::new(codec), Splitter::new(1 << 20), Vec::new());
    let mut feed = |bytes: &Bytes, read: &mut Vec<Event>| {
        sse::events(bytes).try_for_each(|event| reader.push(&event, bytes, read)).is_ok()
    };
    for piece in pieces {
        if !feed(&splitter.push(Bytes::copy_from_slice(piece)).events, &mut read) {
            return read;
        }
    }
    if feed(&splitter.finish(), &mut read) {
        reader.finish(&mut read);
    }
    read
}

/// The meaning of a stream of which every event is decoded, however like the one before it is.
fn decoded(codec: &dyn Codec, data: &[u8]) -> Vec<Event> {
    let (mut decoder, mut read) = (codec.stream_decoder(), Vec::new());
    for event in sse::events(data) {
        let data = Bytes::copy_from_slice(event.data.as_deref().unwrap_or_default().trim_ascii());
        if !data.is_empty() && decoder.push(event.name, &data, &mut read).is_err() {
            return read;
        }
    }
    decoder.finish(&mut read);
    read
}

/// What comes in the place of an answer or a stream: errors are told as JSON, an answer said as a stream is that answer again, and
/// values one after the other are the same however they are cut. The first byte says which dialect, the second how large the pieces
/// are.
fn odd(data: &[u8]) {
    let [which, piece, data @ ..] = data else { return };
    errors(data);
    let cut = values(data, usize::from(*piece).max(1));
    assert_eq!(values(data, data.len().max(1)), cut, "values");
    let body = Bytes::copy_from_slice(data);
    let (_, codec, _) = dialects()[usize::from(*which) % 4];
    if let Ok(response) = codec.decode_response(&body) {
        said_as_stream(response);
    }
    if let Ok(response) = steps::answer_of(events(codec, [data])) {
        said_as_stream(response);
    }
    for operation in [Operation::ChatCompletions, Operation::Messages, Operation::GenerateContent] {
        if let Ok(answer) = translate::as_answer(operation, &body, &reply()) {
            assert_json(&answer.body);
        }
        if let Ok(stream) = translate::as_stream(operation, &body, &reply()) {
            let answer = translate::as_answer(operation, &stream.body, &reply());
            assert!(answer.is_ok(), "{operation:?}: {}", String::from_utf8_lossy(&stream.body));
        }
    }
}

/// Errors in answers and events are told as JSON, with the status of an error.
fn errors(data: &[u8]) {
    let is_json = Scanner::check(&Chunks::from(Bytes::copy_from_slice(data)));
    let in_choices = told::of_choices(data);
    let is_call = data.windows(14).any(|word| word == b"\"finishReason\"");
    assert!(in_choices.is_none() || !is_json || is_call || told::may_have_failed(data), "the quick look misses it");
    for Told { status, body } in [told::of_no_answer(data), in_choices, told::of_event(data)].into_iter().flatten() {
        assert!(status.is_client_error() || status.is_server_error(), "{status}");
        assert_json(&body);
    }
}

/// Values as events; all of it, where they are a document.
fn values(data: &[u8], size: usize) -> (Vec<u8>, Option<Bytes>) {
    let (mut values, mut told) = (Values::default(), Vec::new());
    data.chunks(size).for_each(|piece| told.extend_from_slice(&values.push(piece)));
    assert!(sse::events(&told).all(|event| event.data.is_some_and(|data| data.starts_with(b"{"))));
    (told, (!values.follow()).then(|| values.into_document()))
}

/// An answer that is said as a stream says the same when it is put together again, in its own words and in those of each dialect.
fn said_as_stream(response: Response) {
    let events = response.into_events();
    let Ok(again) = steps::answer_of(events.clone()) else {
        assert!(!events.iter().any(|event| matches!(event, Event::Stop { .. })), "{events:?}");
        return;
    };
    assert_eq!(gist(&events), gist(&again.clone().into_events()));
    for (name, to, _) in dialects() {
        let (mut encoder, mut out) = (to.stream_encoder(&reply()), BytesMut::new());
        events.iter().for_each(|event| encoder.push(event.clone(), &mut out));
        encoder.finish(&mut out);
        let read = self::events(to, [&out[..]]);
        let put_together = steps::answer_of(read.clone());
        assert!(put_together.is_ok(), "{name}: {put_together:?}: {}", String::from_utf8_lossy(&out));
        assert_eq!(words(&events), words(&read), "{name}: {}", String::from_utf8_lossy(&out));
    }
}

/// All that a stream says, less what an answer that is put together leaves out.
fn gist(events: &[Event]) -> Vec<String> {
    let is_left_out = |event: &&Event| matches!(event, Event::Delta { delta: Delta::Logprobs(_), .. });
    events.iter().filter(|event| !is_left_out(event)).map(|event| format!("{event:?}")).collect()
}

/// The text of a stream's first answer, which a refusal is in some dialects, and the names of what it calls.
fn words(events: &[Event]) -> (String, Vec<String>) {
    let (mut texts, mut words, mut calls) = (Vec::new(), String::new(), Vec::new());
    for event in events {
        match event {
            Event::Open { candidate: 0, index, block: Block::Text | Block::Refusal } => texts.push(*index),
            Event::Open { candidate: 0, block: Block::ToolCall { name, .. }, .. } => calls.push(name.clone()),
            Event::Delta { candidate: 0, index, delta: Delta::Text(text) } if texts.contains(index) => {
                words.push_str(&text.read());
            }
            _ => {}
        }
    }
    (words, calls)
}

/// Content codings: what is encoded comes out again, and what is not is the same however it is cut, and within its bounds. The
/// first byte says which coding, the second how large the pieces are.
fn coding(data: &[u8]) {
    let [which, piece, data @ ..] = data else { return };
    let piece = usize::from(*piece).max(1);
    let name = ["gzip", "deflate", "br", "zstd"][usize::from(*which) % 4];
    let encoded = match which / 4 % 3 {
        0 => Vec::new(),
        _ if name == "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(data).and_then(|()| encoder.finish()).expect("into memory")
        }
        1 if name == "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(data).and_then(|()| encoder.finish()).expect("into memory")
        }
        2 if name == "deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(data).and_then(|()| encoder.finish()).expect("into memory")
        }
        _ if name == "zstd" => zstd::encode_all(data, 1).expect("into memory"),
        _ => Vec::new(),
    };
    if !encoded.is_empty() {
        let (out, error) = decoded_by(name, &encoded, piece);
        // One in a million begins like a text, and fuzzers find those.
        assert!((&out[..], &error) == (data, &None) || (name == "deflate" && out == encoded), "{name}: {error:?}");
    }
    let (whole, cut) = (decoded_by(name, data, data.len().max(1)), decoded_by(name, data, piece));
    // Where it goes wrong, or bursts, depends on how much is looked at a time; never what came out until then.
    let same = whole.0.len().min(cut.0.len());
    assert_eq!(whole.0[..same], cut.0[..same], "{name}: cut");
    if whole.1.is_none() && cut.1.is_none() {
        assert_eq!(whole.0.len(), cut.0.len(), "{name}: cut");
    }
}

/// What comes out of a body in pieces of this size, and why it ends early.
fn decoded_by(name: &'static str, data: &[u8], size: usize) -> (Vec<u8>, Option<String>) {
    let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(name))]);
    let mut decoder = Decoder::for_headers(&headers).expect("it is known").expect("it is one");
    let (mut out, mut taken) = (Vec::new(), 0);
    for piece in data.chunks(size) {
        taken += piece.len();
        match decoder.push(Bytes::copy_from_slice(piece)) {
            Ok(decoded) => out.extend_from_slice(&decoded),
            Err(error) => return (out, Some(error.to_string())),
        }
        assert!(out.len() <= (taken * RATIO_MAX).max(RATIO_FREE_BYTES), "{name}: {} of {taken}", out.len());
    }
    out.extend_from_slice(&decoder.finish());
    (out, None)
}

/// Framing: nothing is lost or changed, and events are the same wherever the bytes are cut. The first two bytes say how large the
/// pieces are and how long an event may be.
fn framing(data: &[u8]) {
    let [piece, limit, data @ ..] = data else { return };
    let mut splitter = Splitter::new(usize::from(*limit));
    let mut out = Vec::new();
    for piece in data.chunks(usize::from(*piece).max(1)) {
        let cut = splitter.push(Bytes::copy_from_slice(piece));
        out.extend_from_slice(&cut.unseen);
        out.extend_from_slice(&cut.events);
    }
    out.extend_from_slice(&splitter.finish());
    assert_eq!(out, data, "bytes");

    let framed = |size: usize| {
        let (mut splitter, mut framed) = (Splitter::new(usize::MAX), Vec::new());
        let mut note = |bytes: &Bytes| {
            // A line feed whose carriage return has left already stands alone, and says nothing.
            for event in sse::events(bytes).filter(|event| event.data.is_some()) {
                let owned = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                framed.push((event.name.map(owned), event.data.as_deref().map(owned)));
            }
        };
        data.chunks(size).for_each(|piece| note(&splitter.push(Bytes::copy_from_slice(piece)).events));
        note(&splitter.finish());
        framed
    };
    assert_eq!(framed(data.len().max(1)), framed(usize::from(*piece).max(1)), "events");
}

/// The look at a body that passes through: what is accepted does not depend on the cut and agrees with the other readers, and what
/// is spliced stays JSON. The first byte says how large the pieces are.
fn peek(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let scan = |size: usize| -> Result<Members, JsonError> {
        let mut scanner = Scanner::new(const { &Wanted::new(&["model", "stream", "usage"]) });
        data.chunks(size).try_for_each(|chunk| scanner.push(chunk))?;
        scanner.finish()
    };
    let whole = scan(data.len().max(1));
    assert_eq!(format!("{whole:?}"), format!("{:?}", scan(usize::from(*piece).max(1))), "cut");
    let mut cursor = Cursor::new(unmarked(data));
    let read = cursor.skip().and_then(|()| cursor.end()).is_some();
    assert_eq!(whole.is_ok(), read, "the two readers disagree");

    let mut body = Chunks::default();
    data.chunks(usize::from(*piece).max(1)).for_each(|chunk| body.push(Bytes::copy_from_slice(chunk)));
    if let Ok(envelope) = Envelope::read(&body) {
        let edited = body.splice(&mut envelope.edits("another \"name\"", true));
        assert!(Scanner::check(&edited), "{}", String::from_utf8_lossy(&edited.into_bytes()));
    }
}
