use berry_core::config::provider_data::ProviderData;
use berry_core::operation::Dialect;
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::OpenAiChat;
use crate::dialect::gemini_generate::GeminiGenerate;
use crate::dialect::loss::Losses;
use crate::dialect::{Codec, Reply, Target};

const REPLY: Reply = Reply {
    request_id: String::new(),
    model: None,
    asked_model: String::new(),
    created: 0,
    stream_usage: false,
    estimated_input: 0,
};

/// Gemini's call with its signature, as Google's endpoint of this dialect has it.
fn signed_call() -> Value {
    json!({
        "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "c2ln"}}
    })
}

/// The request that follows this call, as `upstream` gets it.
fn next_turn(call: &Value, upstream: &dyn Codec, dialect: Dialect, own_state: bool) -> Value {
    let body = json!({"messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "tool_calls": [call, {"id": "call_2", "function": {"name": "g", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "y"},
        {"role": "tool", "tool_call_id": "call_2", "content": "z"}
    ]});
    let mut losses = Losses::default();
    let request = OpenAiChat.decode_request(&Bytes::from(body.to_string()), &mut losses).unwrap();
    let model = "gemini-3-flash-preview";
    let capabilities = ProviderData::bundled().capabilities(dialect, model);
    let target = Target { model, capabilities: &capabilities, own_state, ask_usage: false };
    let written = upstream.encode_request(&request, &target, &mut losses).unwrap().into_bytes();
    assert_eq!(losses.header(), "");
    serde_json::from_slice(&written).unwrap()
}

#[test]
fn the_signature_of_a_call_of_gemini_goes_to_the_client_and_comes_back() {
    let answer = r#"{"candidates":[{"content":{"parts":[{"functionCall":{"id":"call_1","name":"f","args":{}},"thoughtSignature":"c2ln"}]},"finishReason":"STOP"}]}"#;
    let read = GeminiGenerate.decode_response(&Bytes::from_static(answer.as_bytes())).unwrap();
    let told: Value = serde_json::from_slice(&OpenAiChat.encode_response(&read, &REPLY)).unwrap();
    let call = &told["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call, &signed_call());

    let (mut decoder, mut encoder) = (GeminiGenerate.stream_decoder(), OpenAiChat.stream_encoder(&REPLY));
    let (mut events, mut streamed) = (Vec::new(), BytesMut::new());
    decoder.push(None, &Bytes::from_static(answer.as_bytes()), &mut events).unwrap();
    events.into_iter().for_each(|event| encoder.push(event, &mut streamed));
    let streamed = String::from_utf8(streamed.to_vec()).unwrap();
    assert!(streamed.contains(r#""extra_content":{"google":{"thought_signature":"c2ln"}}"#), "{streamed}");

    let parts = next_turn(call, &GeminiGenerate, Dialect::Gemini, true)["contents"][1]["parts"].take();
    assert_eq!((&parts[0]["thoughtSignature"], parts[1].get("thoughtSignature")), (&json!("c2ln"), None));
}

#[test]
fn googles_endpoint_of_this_dialect_gets_its_signatures_back_and_its_word_where_there_is_none() {
    let answer = json!({"choices": [{"message": {"tool_calls": [signed_call()]}, "finish_reason": "tool_calls"}]});
    let read = OpenAiChat.decode_response(&Bytes::from(answer.to_string())).unwrap();
    let told: Value = serde_json::from_slice(&GeminiGenerate.encode_response(&read, &REPLY)).unwrap();
    assert_eq!(told["candidates"][0]["content"]["parts"][0]["thoughtSignature"], "c2ln");

    let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": [signed_call()]}}]});
    let mut events = Vec::new();
    OpenAiChat.stream_decoder().push(None, &Bytes::from(chunk.to_string()), &mut events).unwrap();
    assert!(format!("{events:?}").contains(r#"signature: Some("c2ln")"#), "{events:?}");

    let sent = |call: &Value, own_state| {
        next_turn(call, &OpenAiChat, Dialect::OpenAi, own_state)["messages"][1]["tool_calls"].take()
    };
    let word = json!({"google": {"thought_signature": "skip_thought_signature_validator"}});
    let unsigned = json!({"id": "call_1", "function": {"name": "f", "arguments": "{}"}});
    for (call, own_state, first) in [
        (signed_call(), true, signed_call()["extra_content"].clone()),
        (signed_call(), false, word.clone()),
        (unsigned, true, word),
    ] {
        let sent = sent(&call, own_state);
        assert_eq!((&sent[0]["extra_content"], sent[1].get("extra_content")), (&first, None));
    }
}
