use berry_core::config::provider_data::ProviderData;
use berry_core::operation::Dialect;
use berry_core::usage::Usage;
use bytes::{Bytes, BytesMut};

use super::super::ir::{Event, Part, Stop};
use super::super::loss::Losses;
use super::super::openai_chat::OpenAiChat;
use super::super::reader::StreamReader;
use super::super::{Capabilities, Codec, Reply, Target, ThinkingAsk};
use super::GeminiGenerate;
use crate::sse;

fn capabilities(model: &str, thinking: ThinkingAsk) -> Capabilities {
    Capabilities { thinking, prefill: false, ..ProviderData::bundled().capabilities(Dialect::Gemini, model) }
}

/// A request read and written again, with what was lost on the way in and out.
fn again(body: &str, model: &str, thinking: ThinkingAsk, own_state: bool) -> (serde_json::Value, String) {
    let mut losses = Losses::default();
    let request = GeminiGenerate.decode_request(&Bytes::copy_from_slice(body.as_bytes()), &mut losses).unwrap();
    let capabilities = capabilities(model, thinking);
    let target = Target { model, capabilities: &capabilities, own_state, ask_usage: false };
    let written = GeminiGenerate.encode_request(&request, &target, &mut losses).unwrap().into_bytes();
    (serde_json::from_slice(&written).unwrap(), losses.header())
}

const HISTORY: &str = r#"{
 "systemInstruction":{"parts":[{"text":"be brief"}]},
 "contents":[
  {"role":"user","parts":[{"text":"weather? \u00e9"},{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]},
  {"role":"model","parts":[{"functionCall":{"name":"w","args":{"b":1.50,"a":2}},"thoughtSignature":"sig"},{"functionCall":{"name":"w","args":{}}}]},
  {"role":"user","parts":[{"functionResponse":{"name":"w","response":{"result":"rain"}}},{"functionResponse":{"name":"w","response":{"t":21}}}]}
 ],
 "tools":[{"functionDeclarations":[{"name":"w","description":"d","parameters":{"type":"OBJECT","properties":{"b":{"type":"NUMBER","nullable":true}}}}]}],
 "toolConfig":{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["w"]}},
 "generationConfig":{"temperature":0.70,"topK":4,"maxOutputTokens":9,"stopSequences":["x"],"thinkingConfig":{"thinkingBudget":512,"includeThoughts":true}}}"#;

#[test]
fn a_request_survives_there_and_back() {
    let (written, losses) = again(HISTORY, "gemini-2.5-flash", ThinkingAsk::Budget, true);
    let mut expected: serde_json::Value = serde_json::from_str(HISTORY).unwrap();
    let declaration = &mut expected["tools"][0]["functionDeclarations"][0];
    declaration.as_object_mut().unwrap().remove("parameters");
    declaration["parametersJsonSchema"] =
        serde_json::json!({"type":"object","properties":{"b":{"type":["number","null"]}}});
    assert_eq!((written, losses.as_str()), (expected, ""));
}

#[test]
fn translating_the_next_turn_begins_with_the_same_bytes() {
    let encode = |body: &str| {
        let mut losses = Losses::default();
        let request = GeminiGenerate.decode_request(&Bytes::copy_from_slice(body.as_bytes()), &mut losses).unwrap();
        let capabilities = capabilities("g", ThinkingAsk::Budget);
        let target = Target { model: "g", capabilities: &capabilities, own_state: true, ask_usage: false };
        GeminiGenerate.encode_request(&request, &target, &mut losses).unwrap().into_bytes()
    };
    let (first, again) = (encode(HISTORY), encode(HISTORY));
    assert_eq!(first, again);
    let next = HISTORY.replace(
        "{\"t\":21}}}]}\n",
        "{\"t\":21}}}]},{\"role\":\"model\",\"parts\":[{\"text\":\"wet\"}]},{\"role\":\"user\",\"parts\":[{\"text\":\"ok\"}]}\n",
    );
    let prefix = &first[..first.len() - 2];
    assert!(encode(&next).starts_with(prefix), "{}", String::from_utf8_lossy(&first));
}

#[test]
fn a_step_of_another_model_carries_googles_word_for_it_on_its_first_call_only() {
    let (written, _) = again(HISTORY, "gemini-3-flash", ThinkingAsk::Level, false);
    let calls = &written["contents"][1]["parts"];
    assert_eq!(calls[0]["thoughtSignature"], "skip_thought_signature_validator");
    assert!(calls[1].get("thoughtSignature").is_none());
}

#[test]
fn a_missing_result_is_said_and_an_orphan_is_dropped() {
    let body = r#"{"contents":[{"role":"model","parts":[{"functionCall":{"id":"1","name":"a","args":{}}}]},
        {"role":"user","parts":[{"functionResponse":{"id":"2","name":"b","response":{}}},{"text":"go on"}]}]}"#;
    let (written, losses) = again(body, "g", ThinkingAsk::None, true);
    assert_eq!(written["contents"][0]["parts"][0]["text"], ".", "the first turn is the user's");
    let parts = &written["contents"][2]["parts"];
    assert_eq!(parts[0]["functionResponse"]["response"]["error"], "the client sent no result");
    assert_eq!((&parts[1]["text"], parts.as_array().unwrap().len()), (&"go on".into(), 2));
    assert_eq!(losses, "messages.tool_result;invalid, messages.tool_result;added, messages;added");
}

#[test]
fn old_models_get_schemas_in_googles_own_form() {
    let body = r##"{"contents":[{"parts":[{"text":"x"}]}],"generationConfig":{"responseMimeType":"application/json","responseJsonSchema":
        {"$schema":"s","type":"object","additionalProperties":false,"properties":{"n":{"anyOf":[{"type":"string","format":"uri"},{"type":"null"}]},
        "r":{"$ref":"#/$defs/r"},"k":{"const":3},"$ref":{"type":["integer","null"],"exclusiveMinimum":0}},"$defs":{"r":{"type":"array","items":{"$ref":"#/$defs/r"}}}}}}"##;
    let (written, losses) = again(body, "gemini-2.0-flash", ThinkingAsk::None, true);
    let schema = &written["generationConfig"]["responseSchema"];
    let properties = &schema["properties"];
    assert_eq!(properties["n"], serde_json::json!({"type":"STRING","nullable":true}));
    assert_eq!(properties["k"], serde_json::json!({"enum":["3"]}));
    assert_eq!(properties["$ref"], serde_json::json!({"type":"INTEGER","nullable":true,"minimum":0}));
    assert_eq!(properties["r"]["type"], "ARRAY");
    assert!(schema.get("additionalProperties").is_none() && schema.get("$defs").is_none());
    assert_eq!(losses, "response_format.schema.$ref;unsupported, response_format.schema.format;unsupported");
    let (written, losses) = again(body, "gemini-2.5-flash", ThinkingAsk::None, true);
    assert!(written["generationConfig"]["responseJsonSchema"]["$defs"].is_object());
    assert_eq!(losses, "");
}

const STREAM: &str = concat!(
    "\u{feff}data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hm\",\"thought\":true}],\"role\":\"model\"},\"index\":0}],\"modelVersion\":\"g\",\"responseId\":\"r\"}\r\n\r\n",
    ": comment\r\n\r\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"},{\"text\":\"b \\ud83d\\ude00\"},{\"functionCall\":{\"name\":\"f\",\"args\":{\"q\":\"\\u2028\"}},\"thoughtSignature\":\"s\"}]}}],\"usageMetadata\":{\"promptTokenCount\":3,\"candidatesTokenCount\":1}}\r\n\r\n",
    "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"\"}]},\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":3,\"candidatesTokenCount\":5,\"thoughtsTokenCount\":2}}",
);

/// The events of a stream that comes in these pieces.
fn events(pieces: &[&[u8]]) -> Vec<Event> {
    let mut splitter = sse::Splitter::new(1 << 20);
    let mut reader = StreamReader::new(&GeminiGenerate);
    let mut out = Vec::new();
    let take = |reader: &mut StreamReader, bytes: &Bytes, out: &mut Vec<Event>| {
        sse::events(bytes).for_each(|event| reader.push(&event, bytes, out).unwrap());
    };
    for piece in pieces {
        let cut = splitter.push(Bytes::copy_from_slice(piece));
        take(&mut reader, &cut.events, &mut out);
    }
    let tail = splitter.finish();
    take(&mut reader, &tail, &mut out);
    reader.finish(&mut out);
    out
}

#[test]
fn a_stream_means_the_same_wherever_it_is_cut() {
    let whole = events(&[STREAM.as_bytes()]);
    assert!(matches!(whole.last(), Some(Event::Stop { stop: Stop::ToolCalls, .. })), "{whole:?}");
    let shown = format!("{whole:?}");
    for cut in 0..STREAM.len() {
        let (a, b) = STREAM.as_bytes().split_at(cut);
        assert_eq!(format!("{:?}", events(&[a, b])), shown, "cut at {cut}");
    }
}

fn usage_of(events: &[Event]) -> Usage {
    let mut usage = Usage::default();
    for event in events {
        if let Event::Usage(figures) = event {
            usage.merge_max(figures);
        }
    }
    usage
}

fn reply() -> Reply {
    Reply {
        request_id: "req_1".to_owned(),
        model: None,
        asked_model: "asked".to_owned(),
        created: 0,
        stream_usage: true,
        estimated_input: 0,
    }
}

#[test]
fn a_stream_written_again_means_what_it_meant() {
    let read = events(&[STREAM.as_bytes()]);
    let mut encoder = GeminiGenerate.stream_encoder(&reply());
    let mut written = BytesMut::new();
    read.iter().for_each(|event| encoder.push(event.clone(), &mut written));
    encoder.finish(&mut written);
    let again = events(&[&written]);
    // Figures are told once, at the end.
    let meaning = |events: &[Event]| {
        let told = events.iter().filter(|event| !matches!(event, Event::Usage(_)));
        (told.map(|event| format!("{event:?}")).collect::<Vec<_>>(), usage_of(events))
    };
    assert_eq!(meaning(&again), meaning(&read));
}

#[test]
fn a_plain_answer_survives_there_and_back() {
    let body = r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true,"thoughtSignature":"t"},{"text":"a"},{"functionCall":{"name":"f","args":{"x":1}},"thoughtSignature":"s"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":3,"cachedContentTokenCount":2,"candidatesTokenCount":5,"thoughtsTokenCount":2,"totalTokenCount":10},"modelVersion":"g","responseId":"r"}"#;
    let response = GeminiGenerate.decode_response(&Bytes::from_static(body.as_bytes())).unwrap();
    assert_eq!(response.candidates[0].stop, Some(Stop::ToolCalls));
    assert_eq!((response.usage.output_tokens, response.usage.reasoning_tokens), (Some(7), Some(2)));
    assert_eq!(GeminiGenerate.encode_response(&response, &reply()), body);
}

#[test]
fn probabilities_of_tokens_reach_the_other_dialect_and_come_back() {
    let tokens = r#""logprobsResult":{"topCandidates":[{"candidates":[{"token":"a","logProbability":-0.1},{"token":"\n","logProbability":-2.50}]},{"candidates":[]}],"chosenCandidates":[{"token":"a","logProbability":-0.1},{"token":"b","logProbability":0}]}"#;
    let told = r#"{"content":[{"token":"a","logprob":-0.1,"bytes":null,"top_logprobs":[{"token":"a","logprob":-0.1,"bytes":null},{"token":"\n","logprob":-2.50,"bytes":null}]},{"token":"b","logprob":0,"bytes":null,"top_logprobs":[]}],"refusal":null}"#;
    let body = format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"text":"ab"}}],"role":"model"}},"finishReason":"STOP","index":0,{tokens}}}],"modelVersion":"g","responseId":"r"}}"#
    );
    let response = GeminiGenerate.decode_response(&Bytes::from(body.clone())).unwrap();
    assert_eq!(response.candidates[0].logprobs.as_ref().unwrap().raw(), told);
    assert_eq!(GeminiGenerate.encode_response(&response, &reply()), body);
    let stream = format!("data: {body}\n\n");
    let (mut chat, mut gemini) = (BytesMut::new(), BytesMut::new());
    let (mut to_chat, mut to_gemini) = (OpenAiChat.stream_encoder(&reply()), GeminiGenerate.stream_encoder(&reply()));
    for event in events(&[stream.as_bytes()]) {
        to_chat.push(event.clone(), &mut chat);
        to_gemini.push(event, &mut gemini);
    }
    let chat = String::from_utf8(chat.to_vec()).unwrap();
    assert!(chat.contains(&format!(r#"{{"index":0,"delta":{{}},"logprobs":{told},"finish_reason":null}}"#)), "{chat}");
    let gemini = String::from_utf8(gemini.to_vec()).unwrap();
    assert!(gemini.contains(&format!(r#"{{"index":0,{tokens}}}"#)), "{gemini}");
}

#[test]
fn a_blocked_prompt_is_an_empty_filtered_answer() {
    let body = Bytes::from_static(br#"{"promptFeedback":{"blockReason":"SAFETY"}}"#);
    let response = GeminiGenerate.decode_response(&body).unwrap();
    assert_eq!((response.candidates[0].stop.clone(), response.candidates[0].parts.len()), (Some(Stop::Filter), 0));
    let stream = events(&[b"data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\n\n"]);
    assert!(matches!(stream.last(), Some(Event::Stop { stop: Stop::Filter, .. })));
}

#[test]
fn only_stop_and_a_call_say_that_an_answer_is_whole() {
    let filtered = [
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "IMAGE_OTHER",
        "NO_IMAGE",
        "OTHER",
        "A_WORD_OF_TOMORROW",
    ];
    let known = [("STOP", Stop::End), ("FUNCTION_CALL", Stop::End), ("MAX_TOKENS", Stop::Length)];
    for (word, stop) in filtered.map(|word| (word, Stop::Filter)).into_iter().chain(known) {
        for content in ["", r#""content":{"parts":[{"text":"ha"}]},"#] {
            let body = format!(r#"{{"candidates":[{{{content}"finishReason":"{word}"}}]}}"#);
            let response = GeminiGenerate.decode_response(&Bytes::from(body.clone())).unwrap();
            assert_eq!(response.candidates[0].stop.as_ref(), Some(&stop), "{body}");
            let stream = events(&[format!("data: {body}\n\n").as_bytes()]);
            assert!(matches!(stream.last(), Some(Event::Stop { stop: last, .. }) if *last == stop), "{stream:?}");
        }
    }
    for word in [
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
    ] {
        let body = format!(r#"{{"candidates":[{{"finishReason":"{word}"}}]}}"#);
        assert!(GeminiGenerate.decode_response(&Bytes::from(body)).is_err(), "{word}");
    }
    for word in ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "MODEL_ARMOR", "JAILBREAK"] {
        let body = format!(r#"{{"promptFeedback":{{"blockReason":"{word}"}}}}"#);
        let response = GeminiGenerate.decode_response(&Bytes::from(body)).unwrap();
        assert_eq!(response.candidates[0].stop, Some(Stop::Filter), "{word}");
    }
}

#[test]
fn sources_are_counted_in_characters() {
    let body = r#"{"candidates":[{"content":{"parts":[{"text":"é漢 is so"}]},"finishReason":"STOP","groundingMetadata":{
        "groundingChunks":[{"web":{"uri":"http://u","title":"t"}}],
        "groundingSupports":[{"segment":{"startIndex":2,"endIndex":5},"groundingChunkIndices":[0,9]}]}}]}"#;
    let response = GeminiGenerate.decode_response(&Bytes::copy_from_slice(body.as_bytes())).unwrap();
    let Part::Text(text) = &response.candidates[0].parts[0] else { panic!("a text") };
    assert_eq!(text.citations.len(), 1);
    assert_eq!(text.citations[0].span, Some((1, 2)));
}

#[test]
fn what_the_upstream_says_inside_a_stream_ends_it() {
    let stream = events(&[b"data: {\"error\":{\"code\":503,\"message\":\"busy\",\"status\":\"UNAVAILABLE\"}}\n\n"]);
    let [Event::Error(error)] = &stream[..] else { panic!("{stream:?}") };
    assert_eq!((error.kind, error.message.as_str()), (super::ErrorClass::Overloaded, "busy"));
}
