use std::io;
use std::path::Path;
use std::sync::Arc;

use berry_core::config::{Config, Environment};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::body::Chunks;
use crate::envelope::Envelope;

struct NoEnvironment;

impl Environment for NoEnvironment {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn read_file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A model `m` whose backends are given.
fn model(model_keys: &str, backends: &str) -> Arc<Model> {
    let config = format!(
        "[providers.p]\nbase_url = \"https://p.test/v1\"\napi_key = \"k\"\n[providers.q]\nbase_url = \"https://q.test/v1\"\n\
         api_key = \"k\"\n[providers.c]\nbackend_type = \"claude\"\nbase_url = \"https://c.test/v1\"\napi_key = \"k\"\n\
         [models.m]\nname = \"m\"\n{model_keys}\n{backends}"
    );
    let loaded = Config::from_text("test.toml", &config, &NoEnvironment);
    let snapshot = loaded.unwrap_or_else(|error| panic!("{}", error.render(false))).snapshot;
    Arc::clone(snapshot.models.find("m").unwrap())
}

fn backend(provider: &str, keys: &str) -> String {
    format!("[[models.m.backends]]\nprovider = \"{provider}\"\nmodel = \"u\"\n{keys}\n")
}

const PRICES: &str = "input_price = 1.0\noutput_price = 10.0";

fn body(text: &str) -> RequestBody {
    let body = Chunks::from(Bytes::copy_from_slice(text.as_bytes()));
    let envelope = Box::new(Envelope::read(&body).unwrap());
    RequestBody::Json { body, envelope }
}

fn chat(members: &str) -> Measure {
    Measure::coarse(Operation::ChatCompletions, &body(&format!(r#"{{"model":"m",{members}}}"#)))
}

fn tokens(measure: &Measure, model: &Model) -> u64 {
    measure.bound(model, "m", None).tokens
}

#[test]
fn every_byte_of_a_text_counts_as_a_token_and_the_output_as_the_request_says() {
    let model = model("", &backend("p", PRICES));
    let text = r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":100,"n":3}"#;
    let bound = Measure::coarse(Operation::ChatCompletions, &body(text)).bound(&model, "m", None);
    assert_eq!(bound.tokens, text.len() as u64 + 300);
    let cost = text.len() as i64 * 1_000 + 300 * 10_000;
    assert!((cost..cost + 100).contains(&bound.cost.as_nanos()), "{:?}", bound.cost);
}

#[test]
fn the_limit_on_the_output_is_the_clients_then_the_operators_then_the_vendors() {
    let output = |model_keys: &str, backend_keys: &str, provider: &str, members: &str| {
        let model = model(model_keys, &backend(provider, &format!("{PRICES}\n{backend_keys}")));
        chat(members).output(&model, &model.backends[0], "m")
    };
    let own = "default_max_output_tokens = 7";
    for (expected, model_keys, backend_keys, members) in [
        (5, own, "", r#""max_tokens":5"#),
        (5, own, "", r#""m\u0061x_tokens":5"#),
        (9, own, "", r#""max_tokens":5,"max_completion_tokens":9"#),
        (7, own, "", r#""x":0"#),
        (7, own, "", r#""max_tokens":null"#),
        (3, own, "default_max_output_tokens = 3", r#""x":0"#),
        (2, own, "override = { max_tokens = 2 }", r#""max_tokens":5"#),
        (4, own, "defaults = { max_tokens = 4 }", r#""x":0"#),
        (7, own, "drop = [\"max_tokens\"]", r#""max_tokens":5"#),
        (OUTPUT_TOKENS_ASSUMED, "", "", r#""x":0"#),
    ] {
        assert_eq!(output(model_keys, backend_keys, "p", members), expected, "{model_keys} {backend_keys} {members}");
    }
    assert_eq!(output("", "", "c", r#""x":0"#), 64_000);
    let gemini = r#"{"model":"m","generationConfig":{"maxOutputTokens":8,"candidateCount":2}}"#;
    let gemini = Measure::coarse(Operation::GenerateContent, &body(gemini));
    assert_eq!((gemini.max_output, gemini.answers), (Some(8), 2));
}

#[test]
fn pictures_and_documents_count_a_fixed_amount_and_their_data_nothing() {
    let data = "A".repeat(100_000);
    for (images, documents, unseen, part) in [
        (1, 0, false, format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#)),
        (1, 0, false, format!(r#"{{"type":"input_image","image_url":"data:image/png;base64,{data}"}}"#)),
        (1, 0, false, r#"{"type":"input_image","file_id":"file-1"}"#.to_owned()),
        (1, 0, false, format!(r#"{{"source":{{"data":"{data}","media_type":"image/png"}},"type":"image"}}"#)),
        (1, 0, false, r#"{"type":"image","source":{"type":"url","url":"https://h/x.png"}}"#.to_owned()),
        (1, 0, false, format!(r#"{{"inlineData":{{"mimeType":"image/png","data":"{data}"}}}}"#)),
        (0, 1, false, format!(r#"{{"type":"document","source":{{"media_type":"application/pdf","data":"{data}"}}}}"#)),
        (0, 1, false, format!(r#"{{"type":"file","file":{{"file_data":"data:application/pdf;base64,{data}"}}}}"#)),
        (0, 1, false, format!(r#"{{"type":"input_file","file_data":"{data}"}}"#)),
        (0, 0, true, r#"{"type":"file","file":{"file_id":"file-1"}}"#.to_owned()),
        (0, 0, true, r#"{"type":"input_file","file_url":"https://h/x.pdf"}"#.to_owned()),
        (0, 0, true, r#"{"type":"document","source":{"type":"url","url":"https://h/x.pdf"}}"#.to_owned()),
        (0, 0, true, r#"{"fileData":{"mimeType":"video/mp4","fileUri":"gs://x"}}"#.to_owned()),
        (0, 0, false, r#"{"type":"url_citation","url":"https://h"}"#.to_owned()),
        (0, 0, false, r#"{"properties":{"image_url":{"type":"string"},"file_id":{"type":"string"}}}"#.to_owned()),
        (
            0,
            0,
            false,
            r#"{"type":"document","source":{"type":"text","media_type":"text/plain","data":"x"}}"#.to_owned(),
        ),
    ] {
        let measure = chat(&format!(r#""messages":[{{"content":[{part}]}}]"#));
        let media = images * IMAGE_TOKENS_MAX + documents * DOCUMENT_TOKENS_MAX;
        assert_eq!((measure.media, measure.unseen), (media, unseen), "{}", &part[..part.len().min(120)]);
        assert!(measure.text < 1_000, "{}", &part[..part.len().min(120)]);
    }
    let audio = chat(&format!(r#""messages":[{{"type":"input_audio","input_audio":{{"data":"{data}"}}}}]"#));
    assert!(audio.text > 100_000);
}

#[test]
fn what_the_body_does_not_show_counts_as_a_full_window() {
    let windowed = model("", &backend("p", &format!("{PRICES}\ncontext_window = 1000")));
    let open = model("", &backend("p", PRICES));
    let text = r#"{"model":"m","input":"x","max_output_tokens":1,"previous_response_id":"resp_1"}"#;
    let measure = Measure::coarse(Operation::Responses, &body(text));
    assert_eq!((tokens(&measure, &windowed), tokens(&measure, &open)), (1001, WINDOW_TOKENS + 1));
    let long = chat(&format!(r#""max_tokens":1,"messages":"{}""#, "x".repeat(5_000)));
    assert_eq!(tokens(&long, &windowed), 1001, "nothing larger than the window is answered");
    let text = body(r#"{"model":"m","prompt":"previous","max_tokens":1}"#);
    assert!(!Measure::coarse(Operation::Completions, &text).unseen);
}

#[test]
fn tools_of_the_vendor_are_counted_and_those_of_the_client_are_text() {
    for (count, tools) in [
        (0, r#"{"type":"function","function":{"name":"f"}}"#),
        (0, r#"{"type":"custom","name":"f"}"#),
        (0, r#"{"name":"f","input_schema":{}}"#),
        (0, r#"{"type":"bash_20250124","name":"bash"}"#),
        (0, r#"{"functionDeclarations":[{"name":"f"}]}"#),
        (1, r#"{"type":"web_search_preview"}"#),
        (1, r#"{"type":"web_search_20250305","name":"web_search"}"#),
        (2, r#"{"googleSearch":{}},{"codeExecution":{}}"#),
    ] {
        assert_eq!(chat(&format!(r#""tools":[{tools}]"#)).server_tools, count, "{tools}");
    }
    assert_eq!(chat(r#""web_search_options":{}"#).server_tools, 1);
}

#[test]
fn the_dearest_backend_that_may_answer_counts() {
    let dear = backend("q", "input_price = 2.0\noutput_price = 20.0\ncontext_window = 100000");
    let off = backend("c", "input_price = 900.0\noutput_price = 900.0\nenabled = false");
    let model = model("", &format!("{}{dear}{off}", backend("p", PRICES)));
    let measure = chat(r#""max_tokens":1000"#);
    let of = |provider| measure.bound(&model, "m", provider).cost;
    assert_eq!(of(None), of(Some("q")));
    assert!(of(Some("p")) < of(Some("q")) && of(Some("c")) == NanoUsd::ZERO);
}

#[test]
fn what_has_no_price_is_bounded_by_the_smallest_amount() {
    let model = model("", &backend("p", ""));
    assert_eq!(chat(r#""max_tokens":1000"#).bound(&model, "m", None).cost, NanoUsd::from_nanos(1));
}

#[test]
fn calls_without_output_have_none() {
    let model = model("", &backend("p", PRICES));
    let text = r#"{"model":"m","input":"hello"}"#;
    assert_eq!(tokens(&Measure::coarse(Operation::Embeddings, &body(text)), &model), text.len() as u64);
    assert_eq!(Measure::coarse(Operation::CountTokens, &body(text)).bound(&model, "m", None), Bound::default());
    let images = Measure::coarse(Operation::ImageGenerations, &body(r#"{"model":"m","prompt":"x","n":2}"#));
    assert_eq!(images.output(&model, &model.backends[0], "m") * images.answers, 2 * IMAGE_TOKENS_MAX);
}

#[test]
fn a_closer_look_makes_half_of_prose_and_no_less_of_what_no_tokenizer_joins() {
    let prose = "The quick brown fox jumps over the lazy dog.";
    assert_eq!((likely_tokens(prose.as_bytes()), prose.len()), (22, 44));
    for (text, tokens) in [("漢字", 6), ("    x", 3), ("2024", 4), ("aB", 2), ("{\"a\":[]}", 8), ("a b", 2)] {
        assert_eq!(likely_tokens(text.as_bytes()), tokens, "{text}");
    }
}

proptest! {
    #[test]
    fn a_closer_look_never_makes_more_of_a_text(text in "[ -~é漢\\n]{0,200}") {
        prop_assert!(likely_tokens(text.as_bytes()) <= text.len() as u64);
    }
}
