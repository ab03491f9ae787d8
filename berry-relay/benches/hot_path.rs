//! What Berry itself does to the bytes of a request: the JSON scan, the splices, the framing of a stream and its tap, translations.
//!
//! `cargo bench -p berry-relay` gives times. Instructions do not depend on the machine's noise: run the built bench under
//! callgrind with `--sample-count 1 --sample-size N` for two values of N and divide the difference.
#![expect(clippy::unwrap_used, reason = "a benchmark fails where it must")]

use berry_core::config::provider_data::ProviderData;
use berry_core::operation::Dialect;
use berry_core::operation::StreamFormat;
use berry_relay::body::Chunks;
use berry_relay::dialect::anthropic_messages::AnthropicMessages;
use berry_relay::dialect::gemini_generate::GeminiGenerate;
use berry_relay::dialect::loss::Losses;
use berry_relay::dialect::openai_chat::OpenAiChat;
use berry_relay::dialect::openai_responses::OpenAiResponses;
use berry_relay::dialect::reader::StreamReader;
use berry_relay::dialect::{Codec, Reply, Target};
use berry_relay::envelope::Envelope;
use berry_relay::json::{Members, Scanner, Wanted};
use berry_relay::meter::{self, StreamTap};
use berry_relay::sse::{self, Splitter};
use bytes::{Bytes, BytesMut};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// Size of the pieces in which a body arrives.
const PIECE_BYTES: usize = 64 * 1024;

/// A chat request with a prompt of about `bytes`: prose with line breaks and quotes, as prompts have them.
fn chat_request(bytes: usize) -> Chunks {
    let line = "The ferry leaves the harbour at nine, and \\\"nobody\\\" waits for those who come later.\\n";
    let prompt = line.repeat(bytes / line.len() + 1);
    let text = format!(
        "{{\"model\":\"gpt-4o\",\"messages\":[{{\"role\":\"system\",\"content\":\"Be brief.\"}},\
         {{\"role\":\"user\",\"content\":\"{prompt}\"}}],\"temperature\":0.7,\"max_tokens\":256,\"stream\":true}}"
    );
    pieces(text)
}

fn pieces(text: String) -> Chunks {
    let text = Bytes::from(text);
    let mut chunks = Chunks::default();
    for start in (0..text.len()).step_by(PIECE_BYTES) {
        chunks.push(text.slice(start..(start + PIECE_BYTES).min(text.len())));
    }
    chunks
}

fn scan(body: &Chunks) -> Members {
    static WANTED: Wanted = Wanted::new(&["model", "usage", "usageMetadata", "meta", "service_tier", "error", "id"]);
    let mut scanner = Scanner::new(&WANTED);
    for chunk in body.iter() {
        scanner.push(chunk).unwrap();
    }
    scanner.finish().unwrap()
}

#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn scan_prompt(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = chat_request(bytes);
    bencher.counter(BytesCount::new(body.len())).bench_local(|| scan(black_box(&body)));
}

/// An embedding: numbers and little else.
#[divan::bench(args = [1536])]
fn scan_numbers(bencher: Bencher<'_, '_>, count: usize) {
    let numbers: Vec<String> = (0..count).map(|i| format!("-0.0{}", 12_345_678 + 7919 * i)).collect();
    let body = pieces(format!("{{\"data\":[{{\"embedding\":[{}]}}]}}", numbers.join(",")));
    bencher.counter(BytesCount::new(body.len())).bench_local(|| scan(black_box(&body)));
}

#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn read_and_edit_request(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = chat_request(bytes);
    bencher.bench_local(|| {
        let body = black_box(&body);
        let envelope = Envelope::read(body).unwrap();
        body.splice(&mut envelope.edits("gpt-4o-2024-11-20", true))
    });
}

#[divan::bench]
fn plain_answer(bencher: Bencher<'_, '_>) {
    let body = pieces(
        r#"{"id":"chatcmpl-AbCdEf","object":"chat.completion","created":1732176000,"model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"The ferry leaves at nine, and there is no other one today.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":14,"total_tokens":33,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_b705f0c291"}"#
            .to_owned(),
    );
    bencher.bench_local(|| {
        let body = black_box(&body);
        meter::usage_of_answer(body, &scan(body))
    });
}

/// One event of a stream in the middle of its answer.
fn event(format: StreamFormat) -> Bytes {
    Bytes::from_static(match format {
        StreamFormat::Chat => b"data: {\"id\":\"chatcmpl-AbCdEf\",\"object\":\"chat.completion.chunk\",\"created\":1732176000,\"model\":\"gpt-4o-2024-11-20\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_b705f0c291\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" harbour\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n",
        StreamFormat::Responses => b"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":7,\"item_id\":\"msg_68ab\",\"output_index\":0,\"content_index\":0,\"delta\":\" harbour\",\"logprobs\":[],\"obfuscation\":\"q8Jx2\"}\n\n",
        StreamFormat::Messages => b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" harbour\"}}\n\n",
        StreamFormat::Gemini => b"data: {\"candidates\": [{\"content\": {\"parts\": [{\"text\": \" harbour\"}],\"role\": \"model\"},\"index\": 0}],\"usageMetadata\": {\"promptTokenCount\": 19,\"candidatesTokenCount\": 4,\"totalTokenCount\": 23},\"modelVersion\": \"gemini-2.5-flash\"}\r\n\r\n",
        other => panic!("no example of {other:?}"),
    })
}

const FORMATS: &[StreamFormat] =
    &[StreamFormat::Chat, StreamFormat::Responses, StreamFormat::Messages, StreamFormat::Gemini];

#[divan::bench(args = FORMATS)]
fn frame_event(bencher: Bencher<'_, '_>, format: &StreamFormat) {
    let event = event(*format);
    let mut splitter = Splitter::new(1 << 20);
    bencher.bench_local(|| {
        let cut = splitter.push(black_box(&event).clone());
        sse::events(&cut.events).filter(|event| event.data.is_some()).count()
    });
}

#[divan::bench(args = FORMATS)]
fn frame_and_tap_event(bencher: Bencher<'_, '_>, format: &StreamFormat) {
    let event = event(*format);
    let mut splitter = Splitter::new(1 << 20);
    let mut tap = StreamTap::new(*format);
    bencher.bench_local(|| {
        let cut = splitter.push(black_box(&event).clone());
        sse::events(&cut.events).for_each(|event| {
            black_box(tap.see(&event));
        });
    });
}

fn codec(format: StreamFormat) -> &'static dyn Codec {
    match format {
        StreamFormat::Chat => &OpenAiChat,
        StreamFormat::Responses => &OpenAiResponses,
        StreamFormat::Messages => &AnthropicMessages,
        StreamFormat::Gemini => &GeminiGenerate,
        other => panic!("no codec of {other:?}"),
    }
}

fn reply() -> Reply {
    Reply {
        request_id: "req_01JD6V0Q8M3W".to_owned(),
        model: None,
        asked_model: "harbour".to_owned(),
        created: 1_732_176_000,
        stream_usage: true,
        estimated_input: 19,
    }
}

const PAIRS: &[(StreamFormat, StreamFormat)] = &[
    (StreamFormat::Chat, StreamFormat::Messages),
    (StreamFormat::Chat, StreamFormat::Gemini),
    (StreamFormat::Messages, StreamFormat::Chat),
    (StreamFormat::Messages, StreamFormat::Responses),
    (StreamFormat::Gemini, StreamFormat::Chat),
    (StreamFormat::Gemini, StreamFormat::Messages),
];

/// One event of an upstream's stream, framed, looked at and said in the client's dialect.
#[divan::bench(args = PAIRS)]
fn translate_event(bencher: Bencher<'_, '_>, (upstream, client): &(StreamFormat, StreamFormat)) {
    let (mut splitter, mut tap) = (Splitter::new(1 << 20), StreamTap::new(*upstream));
    let (mut reader, mut encoder) = (StreamReader::new(codec(*upstream)), codec(*client).stream_encoder(&reply()));
    let (mut events, mut out) = (Vec::new(), BytesMut::new());
    let start: &[u8] =
        b"data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
    if *upstream == StreamFormat::Messages {
        let start = Bytes::from_static(start);
        sse::events(&start).for_each(|event| reader.push(&event, &start, &mut events).unwrap());
    }
    let event = event(*upstream);
    bencher.bench_local(|| {
        let cut = splitter.push(black_box(&event).clone());
        for event in sse::events(&cut.events) {
            black_box(tap.see(&event));
            reader.push(&event, &cut.events, &mut events).unwrap();
        }
        events.drain(..).for_each(|event| encoder.push(event, &mut out));
        black_box(&out);
        out.clear();
    });
}

/// A plain answer of a chat backend for a Messages client.
#[divan::bench]
fn translate_answer(bencher: Bencher<'_, '_>) {
    let body = Bytes::from_static(br#"{"id":"chatcmpl-AbCdEf","object":"chat.completion","created":1732176000,"model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"The ferry leaves at nine, and there is no other one today.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":14,"total_tokens":33}}"#);
    let reply = reply();
    bencher.bench_local(|| {
        let response = OpenAiChat.decode_response(black_box(&body)).unwrap();
        AnthropicMessages.encode_response(&response, &reply)
    });
}

/// A Messages client's request for a chat backend, with a prompt of about so many bytes.
#[divan::bench(args = [1_000, 100_000])]
fn translate_request(bencher: Bencher<'_, '_>, bytes: usize) {
    let prompt = "The ferry leaves the harbour at nine, and \\\"nobody\\\" waits for those who come later.\\n"
        .repeat(bytes / 80);
    let body = Bytes::from(format!(
        "{{\"model\":\"harbour\",\"max_tokens\":100,\"stream\":false,\"system\":\"Be brief.\",\
         \"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}],\
         \"tools\":[{{\"name\":\"weather\",\"description\":\"Tells it\",\"input_schema\":{{\"type\":\"object\",\
         \"properties\":{{\"city\":{{\"type\":\"string\"}}}},\"required\":[\"city\"]}}}}]}}"
    ));
    let capabilities = ProviderData::bundled().capabilities(Dialect::OpenAi, "gpt-4o");
    let target = Target { model: "gpt-4o", capabilities: &capabilities, own_state: true, ask_usage: true };
    bencher.bench_local(|| {
        let mut losses = Losses::default();
        let request = AnthropicMessages.decode_request(black_box(&body), &mut losses).unwrap();
        OpenAiChat.encode_request(&request, &target, &mut losses).unwrap()
    });
}
