//! What each target does with an input, and what must hold for every input. Used by the fuzzer and, over the committed corpora, by
//! `berry-relay/tests/fuzzed.rs`.

use berry_core::config::provider_data::ProviderData;
use berry_core::operation::Dialect;
use berry_relay::body::Chunks;
use berry_relay::dialect::anthropic_messages::AnthropicMessages;
use berry_relay::dialect::gemini_generate::GeminiGenerate;
use berry_relay::dialect::ir::{Event, Request};
use berry_relay::dialect::loss::Losses;
use berry_relay::dialect::openai_chat::OpenAiChat;
use berry_relay::dialect::openai_responses::OpenAiResponses;
use berry_relay::dialect::reader::StreamReader;
use berry_relay::dialect::{Capabilities, Codec, Reply, Target};
use berry_relay::envelope::Envelope;
use berry_relay::json::{Cursor, JsonError, Members, Scanner, Wanted, unmarked};
use berry_relay::sse::{self, Splitter};
use bytes::{Bytes, BytesMut};

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
