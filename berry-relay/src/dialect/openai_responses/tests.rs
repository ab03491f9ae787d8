use berry_core::usage::Usage;
use bytes::{Bytes, BytesMut};

use super::super::ir::{Event, Part, Role, Stop};
use super::super::loss::Losses;
use super::super::reader::StreamReader;
use super::super::{Capabilities, Codec, Malformed, Reply, Target, ThinkingAsk};
use super::OpenAiResponses;
use crate::sse;

fn again(body: &str, own_state: bool) -> Result<(serde_json::Value, String), Malformed> {
    let mut losses = Losses::default();
    let request = OpenAiResponses.decode_request(&Bytes::copy_from_slice(body.as_bytes()), &mut losses)?;
    let capabilities = Capabilities { thinking: ThinkingAsk::Effort, prefill: false, ..Capabilities::default() };
    let target = Target { model: "up", capabilities: &capabilities, own_state, ask_usage: false };
    let written = OpenAiResponses.encode_request(&request, &target, &mut losses)?.into_bytes();
    Ok((serde_json::from_slice(&written).unwrap(), losses.header()))
}

const REQUEST: &str = r#"{"model":"up","instructions":"be brief","stream":true,"store":false,
 "include":["reasoning.encrypted_content"],"reasoning":{"effort":"low","summary":"auto"},"temperature":0.70,"max_output_tokens":99,
 "text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"},"strict":true},"verbosity":"low"},
 "tools":[{"type":"function","name":"f","description":"d","parameters":{"type":"object","properties":{}},"strict":false}],
 "tool_choice":{"type":"function","name":"f"},"parallel_tool_calls":false,
 "input":[
  {"type":"message","role":"user","content":[{"type":"input_text","text":"hi \u00e9"},{"type":"input_image","image_url":"data:image/png;base64,AAAA","detail":"low"},{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,BBBB"}]},
  {"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"enc"},
  {"type":"message","role":"assistant","content":[{"type":"output_text","text":"so"}]},
  {"type":"function_call","call_id":"call_1","name":"f","arguments":"{\"a\": 1.50}"},
  {"type":"function_call_output","call_id":"call_1","output":"done"}
 ]}"#;

#[test]
fn a_request_survives_there_and_back() {
    let (written, losses) = again(REQUEST, true).unwrap();
    assert_eq!((written, losses.as_str()), (serde_json::from_str(REQUEST).unwrap(), ""));
}

#[test]
fn encrypted_reasoning_goes_to_its_issuer_only() {
    let (written, losses) = again(REQUEST, false).unwrap();
    assert!(!written.to_string().contains("enc\""), "{written}");
    assert_eq!(losses, "messages.thinking;foreign");
}

#[test]
fn system_and_developer_items_come_before_the_conversation_or_stay_in_it() {
    let body = br#"{"input":[{"role":"system","content":"a"},{"role":"developer","content":[{"type":"input_text","text":"b"}]},
        {"role":"user","content":"c"},{"role":"developer","content":"d"}]}"#;
    let request = OpenAiResponses.decode_request(&Bytes::from_static(body), &mut Losses::default()).unwrap();
    assert_eq!(request.system.iter().map(|block| block.text.read()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(request.turns.iter().map(|turn| turn.role).collect::<Vec<_>>(), [Role::User, Role::System]);
}

#[test]
fn state_that_lives_elsewhere_is_refused_and_never_answered_without() {
    for body in [
        r#"{"input":"x","previous_response_id":"resp_1"}"#,
        r#"{"input":"x","conversation":{"id":"conv_1"}}"#,
        r#"{"input":[{"type":"item_reference","id":"msg_1"}]}"#,
    ] {
        assert!(again(body, true).unwrap_err().to_string().contains("send the"), "{body}");
    }
}

#[test]
fn what_only_openai_serves_is_declared() {
    let body = r#"{"input":"x","store":true,"background":true,"max_tool_calls":3,"tools":[{"type":"web_search"},{"type":"custom","name":"patch"}]}"#;
    let (_, losses) = again(body, true).unwrap();
    assert_eq!(
        losses,
        "tools.web_search;unsupported, tools.custom;unsupported, background;unsupported, max_tool_calls;unsupported"
    );
}

const STREAM: &str = concat!(
    "event: response.created\r\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"model\":\"up\",\"output\":[]}}\r\n\r\n",
    ": ping\r\n\r\n",
    "event: response.output_item.added\r\ndata: {\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":{\"type\":\"reasoning\",\"id\":\"rs\",\"summary\":[]}}\r\n\r\n",
    "data: {\"type\":\"response.reasoning_summary_text.delta\",\"output_index\":0,\"summary_index\":0,\"delta\":\"hm\"}\r\n\r\n",
    "data: {\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"reasoning\",\"encrypted_content\":\"enc\"}}\r\n\r\n",
    "data: {\"type\":\"response.output_item.added\",\"output_index\":1,\"item\":{\"type\":\"message\",\"content\":[]}}\r\n\r\n",
    "data: {\"type\":\"response.output_text.delta\",\"output_index\":1,\"content_index\":0,\"delta\":\"a\\ud83d\\ude00\"}\r\n\r\n",
    "data: {\"type\":\"response.output_item.done\",\"output_index\":1,\"item\":{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"a\\ud83d\\ude00\"}]}}\r\n\r\n",
    "data: {\"type\":\"response.output_item.added\",\"output_index\":2,\"item\":{\"type\":\"function_call\",\"call_id\":\"call_1\",\"name\":\"f\",\"arguments\":\"\"}}\r\n\r\n",
    "data: {\"type\":\"response.function_call_arguments.done\",\"output_index\":2,\"arguments\":\"{\\\"x\\\":1}\"}\r\n\r\n",
    "data: {\"type\":\"response.output_item.done\",\"output_index\":2,\"item\":{\"type\":\"function_call\",\"call_id\":\"call_1\",\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}\r\n\r\n",
    "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\"usage\":{\"input_tokens\":3,\"input_tokens_details\":{\"cached_tokens\":1},\"output_tokens\":5,\"output_tokens_details\":{\"reasoning_tokens\":2}}}}",
);

fn events(pieces: &[&[u8]]) -> Vec<Event> {
    let mut splitter = sse::Splitter::new(1 << 20);
    let mut reader = StreamReader::new(&OpenAiResponses);
    let mut out = Vec::new();
    for piece in pieces {
        let cut = splitter.push(Bytes::copy_from_slice(piece));
        sse::events(&cut.events).for_each(|event| reader.push(&event, &cut.events, &mut out).unwrap());
    }
    let tail = splitter.finish();
    sse::events(&tail).for_each(|event| reader.push(&event, &tail, &mut out).unwrap());
    reader.finish(&mut out);
    out
}

#[test]
fn a_stream_means_the_same_wherever_it_is_cut() {
    let whole = events(&[STREAM.as_bytes()]);
    assert!(matches!(whole.last(), Some(Event::Stop { stop: Stop::ToolCalls, .. })), "{whole:?}");
    let arguments = whole.iter().filter(|event| format!("{event:?}").contains("Arguments")).count();
    assert_eq!(arguments, 1, "arguments that come only with `done` count once: {whole:?}");
    let shown = format!("{whole:?}");
    for cut in 0..STREAM.len() {
        let (a, b) = STREAM.as_bytes().split_at(cut);
        assert_eq!(format!("{:?}", events(&[a, b])), shown, "cut at {cut}");
    }
}

fn reply() -> Reply {
    Reply {
        request_id: "req_1".to_owned(),
        model: None,
        asked_model: "asked".to_owned(),
        created: 7,
        stream_usage: true,
        estimated_input: 0,
    }
}

fn written(events: &[Event]) -> Vec<serde_json::Value> {
    let mut encoder = OpenAiResponses.stream_encoder(&reply());
    let mut out = BytesMut::new();
    events.iter().for_each(|event| encoder.push(event.clone(), &mut out));
    encoder.finish(&mut out);
    let read = sse::events(&out).map(|event| {
        let data: serde_json::Value = serde_json::from_slice(event.data.as_deref().unwrap()).unwrap();
        assert_eq!(event.name, Some(data["type"].as_str().unwrap().as_bytes()));
        data
    });
    read.collect()
}

#[test]
fn a_stream_is_numbered_its_items_keep_their_names_and_the_end_repeats_all_of_it() {
    let frames = written(&events(&[STREAM.as_bytes()]));
    let numbers: Vec<u64> = frames.iter().map(|frame| frame["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..frames.len() as u64).collect::<Vec<_>>());
    let last = &frames.last().unwrap()["response"];
    let done: Vec<_> = frames.iter().filter(|frame| frame["type"] == "response.output_item.done").collect();
    for (place, frame) in done.iter().enumerate() {
        assert_eq!((&frame["output_index"], &frame["item"]), (&place.into(), &last["output"][place]));
        let of_item = frames.iter().filter(|other| other["item_id"] == frame["item"]["id"]);
        assert!(of_item.clone().count() > 0 && of_item.clone().all(|other| other["output_index"] == place), "{frame}");
    }
    assert_eq!((&last["status"], &last["model"]), (&"completed".into(), &"up".into()));
    assert_eq!(last["usage"]["total_tokens"], 8);
    assert_eq!(last["output"][0]["encrypted_content"], "enc");
    assert_eq!(last["output"][2]["arguments"], r#"{"x":1}"#);
}

#[test]
fn a_stream_written_again_means_what_it_meant() {
    let read = events(&[STREAM.as_bytes()]);
    let mut encoder = OpenAiResponses.stream_encoder(&reply());
    let mut out = BytesMut::new();
    read.iter().for_each(|event| encoder.push(event.clone(), &mut out));
    encoder.finish(&mut out);
    let shown = |events: &[Event]| {
        let meaning = events.iter().filter(|event| !matches!(event, Event::Start { .. }));
        meaning.map(|event| format!("{event:?}")).collect::<Vec<_>>()
    };
    assert_eq!(shown(&events(&[&out])), shown(&read));
}

#[test]
fn an_error_inside_a_stream_is_a_failed_response_and_nothing_comes_after_it() {
    let read = events(&[
        b"event: error\ndata: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"slow\"}\n\n",
    ]);
    let frames = written(&[read, vec![Event::Stop { candidate: 0, stop: Stop::End }]].concat());
    assert_eq!(frames.len(), 1);
    assert_eq!(
        (&frames[0]["type"], &frames[0]["response"]["error"]["code"]),
        (&"response.failed".into(), &"rate_limit_exceeded".into())
    );
}

#[test]
fn a_stream_without_its_end_gets_none() {
    let cut = STREAM.find("data: {\"type\":\"response.completed\"").unwrap();
    let read = events(&[&STREAM.as_bytes()[..cut]]);
    assert!(!read.iter().any(|event| matches!(event, Event::Stop { .. })));
    let frames = written(&read);
    assert_eq!(frames.last().unwrap()["type"], "response.output_item.done");
}

#[test]
fn a_plain_answer_survives_there_and_back() {
    let body = r#"{"id":"resp_x","model":"up","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[
        {"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"hm"}],"encrypted_content":"enc"},
        {"type":"message","content":[{"type":"output_text","text":"a","annotations":[{"type":"url_citation","url":"u","title":"t","start_index":0,"end_index":1}]},{"type":"refusal","refusal":"no"}]},
        {"type":"function_call","call_id":"c","name":"f","arguments":""}],
        "usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":1},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":2}}}"#;
    let read = |body: &[u8]| OpenAiResponses.decode_response(&Bytes::copy_from_slice(body)).unwrap();
    let response = read(body.as_bytes());
    assert_eq!(response.candidates[0].stop, Some(Stop::Length), "a cut answer never looks whole");
    let written = OpenAiResponses.encode_response(&response, &reply());
    let again = read(&written);
    let calls = |response: &super::Response| {
        format!("{:?}", response.candidates[0].parts).replace("Text(\"\")", "Text(\"{}\")")
    };
    assert_eq!(calls(&again), calls(&response));
    assert_eq!(again.usage, Usage { estimated: false, ..response.usage });
    assert!(matches!(again.candidates[0].parts[1], Part::Text(_)));
}
