//! Byte exactness through the whole service: what a client sends reaches the upstream as it was, what the upstream sends reaches
//! the client as it was, for any spelling and any cut.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, ReplyChunk, Script};
use berry_relay::client::Dial;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::runtime::Builder;

use crate::support::{ADMIN, Answer, CONFIG, TestGateway};

/// A JSON value in any spelling: white space, exponents, escapes, repeated keys, long integers.
fn json_text() -> impl Strategy<Value = String> {
    let space = "[ \n\t\r]{0,2}";
    let number = "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?";
    let text = r#""([a-z é漢😀]|\\["\\/bfnrt]|\\u00[0-9a-f]{2}){0,6}""#;
    let leaf = prop_oneof![Just("true".to_owned()), Just("null".to_owned()), number, text];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        let padded = (space, inner, space).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        let member = (text, space, padded.clone()).prop_map(|(key, gap, value)| format!("{key}{gap}:{value}"));
        prop_oneof![
            proptest::collection::vec(padded, 0..4).prop_map(|values| format!("[{}]", values.join(","))),
            proptest::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// `bytes` in pieces, cut at the given places.
fn cut(bytes: &str, cuts: &[Index]) -> Vec<ReplyChunk> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| ReplyChunk::new(bytes.as_bytes()[pair[0]..pair[1]].to_vec())).collect()
}

/// Sends `body` to a service whose upstream answers with `reply`; gives what the upstream saw and what the client got.
fn exchange(body: &str, reply: Reply) -> (Vec<u8>, Answer) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mock = Mock::new(Script { replies: vec![reply], ..Script::default() });
        let dial = mock.clone();
        let dials = HashMap::from([("nowhere".into(), Arc::new(move || dial.connect()) as Dial)]);
        let gateway = TestGateway::with(CONFIG, AccessLog::default(), dials);
        let answer = gateway.post("/v1/chat/completions", ADMIN, body).await;
        (mock.requests()[0].body.to_vec(), answer)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn requests_and_plain_answers_pass_byte_for_byte(
        before in json_text(),
        after in json_text(),
        id in json_text(),
        cuts in proptest::collection::vec(any::<Index>(), 0..5),
    ) {
        let body = format!("{{\"a\":{before}, \"model\":\"wide\" ,\"b\" :{after}}}");
        // An error object in an answer is an error, whatever its status says.
        let answer = format!("{{\"object\":\"chat.completion\",\"x\":{id},\"model\" : \"up\"}}");
        let mut reply = Reply::json("/", "");
        reply.chunks = cut(&answer, &cuts);
        let (seen, got) = exchange(&body, reply);
        prop_assert_eq!(String::from_utf8(seen).unwrap(), body.replace("\"model\":\"wide\" ", "\"model\":\"wide-upstream\" "));
        prop_assert_eq!(got.status, 200);
        prop_assert_eq!(String::from_utf8(got.body.to_vec()).unwrap(), answer);
    }

    #[test]
    fn streams_pass_byte_for_byte_whatever_the_chunks(
        texts in proptest::collection::vec(json_text(), 1..6),
        ending in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        comments in any::<bool>(),
        cuts in proptest::collection::vec(any::<Index>(), 0..12),
    ) {
        // A line end inside a value would end the line.
        let event = |json: &str| format!("data: {}{ending}{ending}", json.replace(['\n', '\r'], " "));
        let mut stream = String::new();
        for text in &texts {
            if comments {
                stream += &format!(": still here{ending}{ending}");
            }
            stream += &event(&format!("{{\"x\":{text},\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"a\"}}, \"finish_reason\":null}}]}}"));
        }
        stream += &event("{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}");
        stream += &event("[DONE]");
        let mut reply = Reply::events("/", [""]);
        reply.chunks = cut(&stream, &cuts);
        let (seen, got) = exchange(r#"{"model":"wide","stream":true}"#, reply);
        let asked = r#"{"model":"wide-upstream","stream":true,"stream_options":{"include_usage":true}}"#;
        prop_assert_eq!(String::from_utf8(seen).unwrap(), asked);
        prop_assert_eq!(String::from_utf8(got.body.to_vec()).unwrap(), stream);
    }
}
