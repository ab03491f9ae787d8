//! Every fixture in every dialect, as snapshots; streams cut everywhere. The fixtures are written by hand after the vendors' API
//! references (2026).
#![expect(clippy::unwrap_used, reason = "a test panics where it must")]

use berry_core::config::provider_data::ProviderData;
use berry_core::operation::Dialect;
use berry_relay::dialect::anthropic_messages::AnthropicMessages;
use berry_relay::dialect::gemini_generate::GeminiGenerate;
use berry_relay::dialect::loss::Losses;
use berry_relay::dialect::openai_chat::OpenAiChat;
use berry_relay::dialect::openai_responses::OpenAiResponses;
use berry_relay::dialect::reader::StreamReader;
use berry_relay::dialect::{Capabilities, Codec, Reply, Target};
use berry_relay::sse::{self, Splitter};
use bytes::{Bytes, BytesMut};

type Named = (&'static str, &'static dyn Codec);

const CHAT: Named = ("chat", &OpenAiChat);
const MESSAGES: Named = ("messages", &AnthropicMessages);
const RESPONSES: Named = ("responses", &OpenAiResponses);
const GEMINI: Named = ("gemini", &GeminiGenerate);
const ALL: [Named; 4] = [CHAT, MESSAGES, RESPONSES, GEMINI];

const REQUESTS: [(&str, Named, &str); 5] = [
    ("tools_of_responses", RESPONSES, include_str!("golden/tools_of_responses.responses.json")),
    ("agent_of_gemini", GEMINI, include_str!("golden/agent_of_gemini.gemini.json")),
    ("tools", CHAT, include_str!("golden/tools.chat.json")),
    ("odd_history", CHAT, include_str!("golden/odd_history.chat.json")),
    ("agent", MESSAGES, include_str!("golden/agent.messages.json")),
];
const STREAMS: [(&str, Named, &str); 4] = [
    ("calls_of_gemini", GEMINI, include_str!("golden/calls_of_gemini.gemini.sse")),
    ("thinking_of_responses", RESPONSES, include_str!("golden/thinking_of_responses.responses.sse")),
    ("calls", CHAT, include_str!("golden/calls.chat.sse")),
    ("thinking", MESSAGES, include_str!("golden/thinking.messages.sse")),
];

fn known(dialect: Dialect, model: &str) -> Capabilities {
    ProviderData::bundled().capabilities(dialect, model)
}

/// A request in another dialect, with what was lost.
fn translated(from: Named, to: Named, body: &str) -> (String, String) {
    let mut losses = Losses::default();
    let request = from.1.decode_request(&Bytes::copy_from_slice(body.as_bytes()), &mut losses).unwrap();
    let (model, capabilities) = match to.0 {
        "messages" => ("claude-sonnet-4-5", known(Dialect::Anthropic, "claude-sonnet-4-5")),
        _ => ("gpt-4o", known(Dialect::OpenAi, "gpt-4o")),
    };
    let target = Target { model, capabilities: &capabilities, own_state: false, ask_usage: true };
    let written = match to.1.encode_request(&request, &target, &mut losses) {
        Ok(body) => String::from_utf8(body.into_bytes().to_vec()).unwrap(),
        Err(error) => format!("refused: {error}"),
    };
    (written, losses.header())
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

/// A stream in another dialect, fed in the given pieces.
fn restreamed<'a>(from: Named, to: Named, pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let blocks = blocks(pieces.into_iter().map(Bytes::copy_from_slice));
    translated_blocks(from, to, &blocks)
}

/// The whole events of a stream that comes in the given pieces: what a translation is given, block by block.
fn blocks(pieces: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
    let mut splitter = Splitter::new(4 << 20);
    let mut blocks: Vec<Bytes> = pieces.into_iter().map(|piece| splitter.push(piece).events).collect();
    blocks.push(splitter.finish());
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// A stream in another dialect, from the blocks of its events.
fn translated_blocks(from: Named, to: Named, blocks: &[Bytes]) -> String {
    let (mut reader, mut encoder) = (StreamReader::new(from.1), to.1.stream_encoder(&reply()));
    let (mut events, mut out) = (Vec::new(), BytesMut::new());
    for block in blocks {
        sse::events(block).for_each(|event| reader.push(&event, block, &mut events).unwrap());
    }
    reader.finish(&mut events);
    events.into_iter().for_each(|event| encoder.push(event, &mut out));
    encoder.finish(&mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn every_request_reads_the_same_in_every_dialect_each_time() {
    for (case, from, body) in REQUESTS {
        for to in ALL.into_iter().filter(|to| to.0 != from.0) {
            let (written, losses) = translated(from, to, body);
            assert_eq!(translated(from, to, body).0, written, "{case} to {}: twice", to.0);
            if !written.starts_with("refused") {
                serde_json::from_str::<serde::de::IgnoredAny>(&written).unwrap();
            }
            insta::assert_snapshot!(format!("{case}.{}", to.0), format!("{written}\n\nloss: {losses}"));
        }
    }
}

#[test]
fn every_stream_reads_the_same_in_every_dialect_wherever_it_is_cut() {
    for (case, from, text) in STREAMS {
        for to in ALL.into_iter().filter(|to| to.0 != from.0) {
            let whole = restreamed(from, to, [text.as_bytes()]);
            for cut in places(text.len()) {
                let (before, after) = text.as_bytes().split_at(cut);
                assert_eq!(restreamed(from, to, [before, after]), whole, "{case} to {} cut at {cut}", to.0);
            }
            assert_eq!(restreamed(from, to, text.as_bytes().chunks(1)), whole, "{case} to {}: by bytes", to.0);
            insta::assert_snapshot!(format!("{case}.{}", to.0), whole);
        }
    }
}

/// Where a stream is cut: everywhere; a long one at the first and last 64 places and at 256 others, the same each time.
fn places(length: usize) -> Vec<usize> {
    const EVERYWHERE_MAX: usize = 16 * 1024;
    if length <= EVERYWHERE_MAX {
        return (0..length).collect();
    }
    let others = (1..=256_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % length as u64) as usize);
    (0..64).chain(length - 64..length).chain(others).collect()
}

/// An event whose text makes it a mebibyte long and more, as each dialect's upstream writes it, with what ends the answer.
fn with_a_long_event(dialect: &str) -> String {
    let text = "The ferry leaves at nine. ".repeat(41_000);
    match dialect {
        "chat" => format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}]}}\n\ndata: [DONE]\n\n"
        ),
        "gemini" => format!(
            "data: {{\"candidates\":[{{\"content\":{{\"role\":\"model\",\"parts\":[{{\"text\":\"{text}\"}}]}},\"finishReason\":\"STOP\"}}]}}\n\n"
        ),
        "messages" => format!(
            "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"m\",\"model\":\"m\",\"usage\":{{\"input_tokens\":1}}}}}}\n\n\
             event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}}\n\n\
             event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n\
             event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":0}}\n\n\
             event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\"}},\"usage\":{{\"output_tokens\":1}}}}\n\n\
             event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
        ),
        _ => format!(
            "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"id\":\"r\",\"model\":\"m\"}}}}\n\n\
             event: response.output_item.added\ndata: {{\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":{{\"type\":\"message\",\"id\":\"i\",\"role\":\"assistant\",\"content\":[]}}}}\n\n\
             event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"item_id\":\"i\",\"output_index\":0,\"content_index\":0,\"delta\":\"{text}\"}}\n\n\
             event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"r\",\"model\":\"m\",\"status\":\"completed\",\"output\":[]}}}}\n\n"
        ),
    }
}

#[test]
fn an_event_of_a_mebibyte_means_the_same_wherever_it_is_cut() {
    for from in ALL {
        let text = Bytes::from(with_a_long_event(from.0));
        let others: Vec<Named> = ALL.into_iter().filter(|to| to.0 != from.0).collect();
        let whole = blocks([text.clone()]);
        let meant: Vec<String> = others.iter().map(|to| translated_blocks(from, *to, &whole)).collect();
        assert!(meant.iter().all(|meant| meant.len() > 1 << 20), "{}", from.0);
        // A translation is given the blocks and nothing else, so that the same ones need not be translated again.
        let mut known = vec![whole];
        for cut in places(text.len()) {
            let cut_blocks = blocks([text.slice(..cut), text.slice(cut..)]);
            if !known.contains(&cut_blocks) {
                for (to, meant) in others.iter().zip(&meant) {
                    // Not compared by a macro, which would print them.
                    assert!(translated_blocks(from, *to, &cut_blocks) == *meant, "{} cut at {cut}", from.0);
                }
                known.push(cut_blocks);
            }
        }
    }
}

#[test]
fn line_ends_comments_and_a_missing_last_newline_change_nothing() {
    for (case, from, text) in STREAMS {
        for to in ALL.into_iter().filter(|to| to.0 != from.0) {
            let whole = restreamed(from, to, [text.as_bytes()]);
            let commented = text.replace("\n\n", "\n\n: comment\n\n");
            let (lines, returns) = (text.replace("\ndata: ", "\n: remark\ndata:"), text.replace('\n', "\r"));
            for other in [
                lines,
                returns,
                text.replace('\n', "\r\n"),
                commented,
                text.trim_end().to_owned(),
                format!("\u{feff}{text}"),
            ] {
                assert_eq!(restreamed(from, to, [other.as_bytes()]), whole, "{case} to {}", to.0);
            }
        }
    }
}

/// A conversation of so many turns, as each dialect's client writes it.
fn conversation(turns: usize) -> String {
    let mut messages = vec![r#"{"role":"user","content":"hi"}"#.to_owned()];
    for turn in 0..turns {
        messages.push(format!(
            r#"{{"role":"assistant","content":"t{turn}","tool_calls":[{{"id":"call_{turn}","type":"function","function":{{"name":"f","arguments":"{{\"n\":{turn}}}"}}}}]}}"#
        ));
        messages.push(format!(r#"{{"role":"tool","tool_call_id":"call_{turn}","content":"r{turn}"}}"#));
    }
    format!(r#"{{"model":"m","max_tokens":9,"messages":[{}]}}"#, messages.join(","))
}

#[test]
fn a_longer_conversation_begins_with_the_bytes_of_the_shorter_one() {
    for turns in 0..4 {
        let (short, long) = (
            translated(CHAT, MESSAGES, &conversation(turns)).0,
            translated(CHAT, MESSAGES, &conversation(turns + 1)).0,
        );
        let short = short.strip_suffix("]}").unwrap();
        assert!(long.starts_with(short), "{short}\n{long}");
    }
}

#[test]
fn an_error_ends_a_stream_in_the_clients_way_and_nothing_comes_after_it() {
    let failing =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Busy\"}}\n\n";
    assert_eq!(
        restreamed(MESSAGES, CHAT, [failing.as_bytes()]),
        "data: {\"error\":{\"message\":\"Busy\",\"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}\n\n"
    );
    let failing = "data: {\"error\":{\"message\":\"Slow down\",\"code\":429}}\n\ndata: [DONE]\n\n";
    assert_eq!(
        restreamed(CHAT, MESSAGES, [failing.as_bytes()]),
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Slow down\"},\"request_id\":\"req_1\"}\n\n"
    );
}
