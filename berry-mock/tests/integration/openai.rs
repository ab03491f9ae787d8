//! The OpenAI dialect, as clients see it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berry_mock::{Mock, Script};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::{Client, Got, TRANSPORTS, chat, chat_stream, mock, post, with};

const CHAT: &str = "/v1/chat/completions";

async fn answer(path: &str, body: &Value) -> Got {
    let (_mock, mut client) = mock(Script::default()).await;
    client.post(path, body).await
}

fn weather_and_time() -> Value {
    let function = |name: &str, parameter: &str| {
        json!({"type": "function", "function": {"name": name, "parameters": {
            "type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter], "additionalProperties": false,
        }}})
    };
    json!([function("get_weather", "location"), function("get_time", "timezone")])
}

#[tokio::test]
async fn a_chat_is_answered_the_same_over_every_transport() {
    let expected = answer(CHAT, &chat("Hello")).await.text();
    for transport in TRANSPORTS {
        let mock = Mock::new(Script::default());
        let got = Client::new(&mock, transport).await.post(CHAT, &chat("Hello")).await;
        assert_eq!(got.text(), expected, "{transport:?}");
    }
}

#[tokio::test]
async fn a_plain_chat_has_the_shape_of_openai() {
    let got = answer(CHAT, &chat("Hello Berry")).await;
    let body = got.json();
    assert_eq!((body["object"].as_str(), body["model"].as_str()), (Some("chat.completion"), Some("demo-small")));
    let choice = &body["choices"][0];
    assert!(choice["message"]["content"].as_str().unwrap().contains("Hello Berry"), "{body}");
    assert_eq!((&choice["finish_reason"], &choice["logprobs"]), (&json!("stop"), &Value::Null));
    let usage = &body["usage"];
    assert_eq!(
        usage["total_tokens"],
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );
    assert!(got.header("x-request-id").starts_with("req_") && got.header("content-type") == "application/json");
}

#[tokio::test]
async fn a_stream_says_what_the_plain_answer_says() {
    let plain = answer(CHAT, &chat("Hello")).await.json();
    let got = answer(CHAT, &chat_stream("Hello")).await;
    let events = got.events();
    let (done, usage, finish) = (&events[events.len() - 1], &events[events.len() - 2], &events[events.len() - 3]);
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!((done, &usage["choices"]), (&json!("[DONE]"), &json!([])));
    assert_eq!(usage["usage"], plain["usage"]);
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    let text: String =
        events[..events.len() - 1].iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, plain["choices"][0]["message"]["content"]);
    assert!(
        events[..events.len() - 1].iter().all(|e| e["id"] == plain["id"] && e["object"] == "chat.completion.chunk")
    );
}

#[tokio::test]
async fn usage_is_streamed_only_where_it_is_asked_for() {
    let got = answer(CHAT, &with(chat("Hello"), json!({"stream": true}))).await;
    assert!(!got.text().contains("usage"), "{got:?}");
}

#[tokio::test]
async fn several_choices_differ_and_come_interleaved() {
    let body = answer(CHAT, &with(chat("Hello"), json!({"n": 3}))).await.json();
    let texts: Vec<&str> =
        body["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
    assert!(texts.len() == 3 && texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    let events = answer(CHAT, &with(chat_stream("Hello"), json!({"n": 3}))).await.events();
    let deltas = |index: usize| -> String {
        let of = events.iter().filter(|e| e["choices"][0]["index"] == index);
        of.filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect()
    };
    assert_eq!([deltas(0), deltas(1), deltas(2)], [texts[0], texts[1], texts[2]]);
    assert_eq!(events.iter().filter(|e| e["choices"][0]["finish_reason"].is_string()).count(), 3);
}

#[tokio::test]
async fn limits_end_a_chat() {
    for limit in ["max_tokens", "max_completion_tokens"] {
        let body = answer(CHAT, &with(chat("Hello"), json!({limit: 4}))).await.json();
        assert_eq!(
            (&body["choices"][0]["finish_reason"], &body["usage"]["completion_tokens"]),
            (&json!("length"), &json!(4))
        );
    }
    let body = answer(CHAT, &with(chat("Hello"), json!({"stop": ["You wrote"]}))).await.json();
    assert!(!body["choices"][0]["message"]["content"].as_str().unwrap().contains("You wrote"));
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_script_sets_the_length_and_the_seed_of_texts() {
    let (_mock, mut client) = mock(Script { answer_tokens: Some(500), ..Script::default() }).await;
    let body = client.post(CHAT, &chat("Hello")).await.json();
    assert_eq!(body["usage"]["completion_tokens"], 500);
    let (_mock, mut client) = mock(Script { seed: 9, ..Script::default() }).await;
    let other = client.post(CHAT, &chat("Hello")).await.json();
    assert_ne!(other["choices"][0]["message"], answer(CHAT, &chat("Hello")).await.json()["choices"][0]["message"]);
}

#[tokio::test]
async fn tools_are_called_in_parallel_with_arguments_that_fit() {
    let request = with(chat("What are the weather and the time in New York?"), json!({"tools": weather_and_time()}));
    let body = answer(CHAT, &request).await.json();
    let message = &body["choices"][0]["message"];
    assert_eq!((&body["choices"][0]["finish_reason"], &message["content"]), (&json!("tool_calls"), &Value::Null));
    let calls = message["tool_calls"].as_array().unwrap();
    assert_eq!(
        calls.iter().map(|c| c["function"]["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["get_weather", "get_time"]
    );
    assert_eq!(calls[0]["function"]["arguments"], "{\"location\":\"New York\"}");
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_") && calls[0]["id"] != calls[1]["id"]);
    let one = with(request, json!({"parallel_tool_calls": false}));
    let body = answer(CHAT, &one).await.json();
    assert_eq!(body["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn streamed_arguments_come_in_pieces_and_join_to_the_plain_ones() {
    let tools = json!({"tools": weather_and_time()});
    let plain = answer(CHAT, &with(chat("weather and time"), tools.clone())).await.json();
    let events = answer(CHAT, &with(chat_stream("weather and time"), tools)).await.events();
    for (i, call) in plain["choices"][0]["message"]["tool_calls"].as_array().unwrap().iter().enumerate() {
        let deltas = events.iter().map(|e| &e["choices"][0]["delta"]["tool_calls"][0]).filter(|d| d["index"] == i);
        let deltas: Vec<&Value> = deltas.collect();
        assert_eq!((&deltas[0]["id"], &deltas[0]["function"]["name"]), (&call["id"], &call["function"]["name"]));
        assert_eq!(deltas[0]["function"]["arguments"], "");
        assert!(deltas.len() > 3 && deltas[1..].iter().all(|d| d["id"].is_null() && d["function"]["name"].is_null()));
        let arguments: String = deltas.iter().map(|d| d["function"]["arguments"].as_str().unwrap()).collect();
        assert_eq!(arguments, call["function"]["arguments"]);
    }
}

#[tokio::test]
async fn a_named_tool_is_called_whatever_the_user_says() {
    let choice = json!({"type": "function", "function": {"name": "get_time"}});
    let body =
        answer(CHAT, &with(chat("Tell me a story"), json!({"tools": weather_and_time(), "tool_choice": choice})))
            .await
            .json();
    assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "get_time");
    let body =
        answer(CHAT, &with(chat("weather"), json!({"tools": weather_and_time(), "tool_choice": "none"}))).await.json();
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn results_of_tools_are_answered_in_text() {
    let request = json!({"model": "m", "tools": weather_and_time(), "messages": [
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "fog and 9 degrees"},
    ]});
    let body = answer(CHAT, &request).await.json();
    let text = body["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("get_weather says: fog and 9 degrees"), "{text}");
}

#[tokio::test]
async fn structured_answers_are_json() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 5}},
        "required": ["city", "people"], "additionalProperties": false});
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}}});
    let body = answer(CHAT, &with(chat("Describe a city"), format)).await.json();
    let value: Value = serde_json::from_str(body["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(
        value["city"].is_string() && value["people"].as_u64().unwrap() >= 5 && value.as_object().unwrap().len() == 2
    );
    let body = answer(CHAT, &with(chat("Hello"), json!({"response_format": {"type": "json_object"}}))).await.json();
    assert!(
        serde_json::from_str::<Value>(body["choices"][0]["message"]["content"].as_str().unwrap()).unwrap().is_object()
    );
}

#[tokio::test]
async fn wrong_requests_are_refused_in_openais_words() {
    let script = Script { models: vec!["known".into()], ..Script::default() };
    let (_mock, mut client) = mock(script).await;
    let known = |more: Value| with(json!({"model": "known", "messages": [{"role": "user", "content": "x"}]}), more);
    for (path, body, status, code, param) in [
        (CHAT, chat("Hello"), 404, "model_not_found", "model"),
        (CHAT, json!({"messages": []}), 400, "missing_required_parameter", "model"),
        (CHAT, json!({"model": "known"}), 400, "missing_required_parameter", "messages"),
        (CHAT, known(json!({"messages": []})), 400, "invalid_type", "messages"),
        (CHAT, known(json!({"model": 7})), 400, "invalid_type", "model"),
        (CHAT, known(json!({"stream": "yes"})), 400, "invalid_type", "stream"),
        (CHAT, known(json!({"n": 0})), 400, "invalid_type", "n"),
        (CHAT, known(json!({"stop": [1]})), 400, "invalid_type", "stop"),
        (CHAT, known(json!({"tool_choice": "any"})), 400, "invalid_type", "tool_choice"),
        (CHAT, known(json!({"response_format": {"type": "xml"}})), 400, "invalid_type", "response_format"),
        (CHAT, json!([1]), 400, "", ""),
        ("/v1/embeddings", json!({"model": "known"}), 400, "missing_required_parameter", "input"),
        ("/v1/embeddings", json!({"model": "known", "input": [{}]}), 400, "invalid_type", "input"),
        ("/v1/completions", json!({"model": "known"}), 400, "missing_required_parameter", "prompt"),
        ("/v1/responses", json!({"model": "known"}), 400, "missing_required_parameter", "input"),
        ("/v1/rerank", json!({"model": "known", "query": "q"}), 400, "missing_required_parameter", "documents"),
        ("/v1/nothing", known(json!({})), 404, "unknown_url", ""),
        ("/v1/models", known(json!({})), 405, "method_not_allowed", ""),
    ] {
        let got = client.post(path, &body).await;
        let error = got.json()["error"].clone();
        assert_eq!(got.status.as_u16(), status, "{path} {body}: {error}");
        assert_eq!(
            (error["code"].as_str().unwrap_or(""), error["param"].as_str().unwrap_or("")),
            (code, param),
            "{path} {body}"
        );
        assert!(error["type"].is_string() && error["message"].is_string());
    }
    assert_eq!(client.get(CHAT).await.status, 405);
    let broken = Request::post(CHAT).body(Full::from("{\"model\":")).unwrap();
    assert_eq!(client.send(broken).await.unwrap().status, 400);
}

#[tokio::test]
async fn a_key_is_asked_for_in_the_header_of_any_vendor() {
    let (_mock, mut client) = mock(Script { api_key: Some("sk-1".into()), ..Script::default() }).await;
    for (header, value, status) in [
        ("authorization", "Bearer sk-1", 200),
        ("authorization", "Bearer sk-2", 401),
        ("authorization", "sk-1", 401),
        ("api-key", "sk-1", 200),
        ("x-api-key", "sk-1", 200),
        ("x-other", "sk-1", 401),
    ] {
        let mut request = post(CHAT, &chat("Hello"));
        request.headers_mut().insert(header, value.parse().unwrap());
        let got = client.send(request).await.unwrap();
        assert_eq!(got.status.as_u16(), status, "{header}: {value}");
        if status == 401 {
            assert_eq!(got.error_code(), "invalid_api_key");
        }
    }
    let azure = client.post("/openai/deployments/d/chat/completions?api-version=1", &chat("Hello")).await;
    assert_eq!((azure.status, azure.error_code()), (StatusCode::UNAUTHORIZED, "401".to_owned()));
    assert_eq!(client.get("/health").await.status, 200);
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let (_mock, mut client) = mock(Script { models: vec!["a".into(), "org/b".into()], ..Script::default() }).await;
    for path in ["/v1/models", "/models", "/openai/models", "/openai/v1/models", "/api/v1/models"] {
        let list = client.get(path).await.json();
        assert_eq!((&list["data"][0]["id"], &list["data"][1]["id"]), (&json!("a"), &json!("org/b")), "{path}");
    }
    assert_eq!(client.get("/v1/models/org%2Fb").await.json()["id"], "org/b");
    assert_eq!(client.get("/v1/models/org/b").await.json()["object"], "model");
    assert_eq!(client.get("/v1/models/c").await.error_code(), "model_not_found");
}

#[tokio::test]
async fn the_same_endpoints_are_found_under_every_prefix() {
    let expected = answer(CHAT, &chat("Hello")).await.text();
    for path in [
        "/chat/completions",
        "/openai/v1/chat/completions",
        "/api/v1/chat/completions",
        "/models/chat/completions?api-version=1",
    ] {
        assert_eq!(answer(path, &chat("Hello")).await.text(), expected, "{path}");
    }
}

#[tokio::test]
async fn azure_serves_deployments() {
    let (_mock, mut client) = mock(Script { models: vec!["dep".into()], ..Script::default() }).await;
    let path = |deployment: &str| format!("/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21");
    let body = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let got = client.post(&path("dep"), &body).await.json();
    assert_eq!(got["model"], "dep");
    assert_eq!(got["choices"][0]["content_filter_results"]["hate"]["severity"], "safe");
    let events = client.post(&path("dep"), &with(body.clone(), json!({"stream": true}))).await.events();
    assert_eq!(events[0]["choices"], json!([]));
    assert!(events[0]["prompt_filter_results"].is_array());
    assert_eq!(client.post(&path("other"), &body).await.error_code(), "DeploymentNotFound");
    assert_eq!(client.post("/openai/deployments/dep/chat/completions", &body).await.status, 404);
}

#[tokio::test]
async fn completions_are_answered_plain_and_streamed() {
    let request = json!({"model": "m", "prompt": ["Hello", "World"], "max_tokens": 5});
    let plain = answer("/v1/completions", &request).await.json();
    assert_eq!((plain["object"].as_str(), plain["choices"].as_array().unwrap().len()), (Some("text_completion"), 2));
    assert_eq!(
        (&plain["choices"][0]["finish_reason"], &plain["usage"]["completion_tokens"]),
        (&json!("length"), &json!(10))
    );
    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = answer("/v1/completions", &with(request, stream)).await.events();
    let text = |i: usize| -> String {
        let of = events.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == i);
        of.map(|c| c["text"].as_str().unwrap()).collect()
    };
    assert_eq!(
        [text(0), text(1)],
        [plain["choices"][0]["text"].as_str().unwrap(), plain["choices"][1]["text"].as_str().unwrap()]
    );
    assert_eq!(events[events.len() - 2]["usage"], plain["usage"]);
    assert_eq!(events[events.len() - 1], "[DONE]");
}

fn floats(base64: &Value) -> Vec<f32> {
    let bytes = STANDARD.decode(base64.as_str().unwrap()).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[tokio::test]
async fn embeddings_are_equal_for_equal_texts_in_every_form() {
    let embed =
        |input: Value, format: &str| json!({"model": "m", "input": input, "encoding_format": format, "dimensions": 8});
    let one = answer("/v1/embeddings", &embed(json!("berry"), "float")).await.json();
    let two = answer("/v1/embeddings", &embed(json!(["plum", "berry"]), "base64")).await.json();
    let vector: Vec<f32> = serde_json::from_value(one["data"][0]["embedding"].clone()).unwrap();
    assert_eq!(vector.len(), 8);
    assert_eq!(floats(&two["data"][1]["embedding"]), vector);
    assert_ne!(floats(&two["data"][0]["embedding"]), vector);
    assert_eq!((&two["data"][1]["index"], &two["usage"]["prompt_tokens"]), (&json!(1), &json!(2)));
    let tokens = answer("/v1/embeddings", &embed(json!([[1, 2, 3], [4]]), "float")).await.json();
    assert_eq!((tokens["data"].as_array().unwrap().len(), &tokens["usage"]["total_tokens"]), (2, &json!(4)));
    let tokens = answer("/v1/embeddings", &embed(json!([1, 2, 3]), "float")).await.json();
    assert_eq!(tokens["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn moderations_flag_what_says_so() {
    let body = answer("/v1/moderations", &json!({"input": ["fine", "flagged"], "model": "m"})).await.json();
    assert_eq!((&body["results"][0]["flagged"], &body["results"][1]["flagged"]), (&json!(false), &json!(true)));
    assert_eq!(answer("/v1/moderations", &json!({"input": "no model"})).await.status, 200);
}

#[tokio::test]
async fn rerank_puts_the_best_first() {
    let request = json!({"model": "m", "query": "red berries", "documents": ["blue sky", "red berries taste", {"text": "red"}], "top_n": 2, "return_documents": true});
    let results = answer("/v1/rerank", &request).await.json()["results"].clone();
    assert_eq!(
        (&results[0]["index"], &results[1]["index"], results.as_array().unwrap().len()),
        (&json!(1), &json!(2), 2)
    );
    assert!(results[0]["relevance_score"].as_f64() > results[1]["relevance_score"].as_f64());
    assert_eq!(results[0]["document"]["text"], "red berries taste");
}

#[tokio::test]
async fn responses_are_answered_with_text() {
    let request = json!({"model": "m", "input": "Hello there", "instructions": "be kind", "metadata": {"a": "b"}});
    let body = answer("/v1/responses", &request).await.json();
    assert_eq!((body["object"].as_str(), body["status"].as_str()), (Some("response"), Some("completed")));
    assert!(body["output"][0]["content"][0]["text"].as_str().unwrap().contains("Hello there"));
    assert_eq!((&body["instructions"], &body["metadata"]), (&json!("be kind"), &json!({"a": "b"})));
    let short = answer("/v1/responses", &with(request, json!({"max_output_tokens": 3}))).await.json();
    assert_eq!(
        (&short["status"], &short["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(short["usage"]["output_tokens"], 3);
}

#[tokio::test]
async fn a_response_streams_the_whole_sequence_of_events() {
    let request = json!({"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]});
    let plain = answer("/v1/responses", &request).await.json();
    let got = answer("/v1/responses", &with(request, json!({"stream": true}))).await;
    let events = got.events();
    let mut kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
        assert!(got.text().contains(&format!("event: {}\ndata: ", event["type"].as_str().unwrap())));
    }
    let text: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
    assert_eq!(text, plain["output"][0]["content"][0]["text"]);
    assert_eq!(events.last().unwrap()["response"], plain);
    assert!(!got.text().contains("[DONE]"));
}

#[tokio::test]
async fn a_response_calls_functions_and_reads_their_results() {
    let tool = json!([{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]);
    let request = json!({"model": "m", "input": "weather in Paris", "tools": tool});
    let plain = answer("/v1/responses", &request).await.json();
    let call = &plain["output"][0];
    assert_eq!(
        (&call["type"], &call["name"], &call["arguments"]),
        (&json!("function_call"), &json!("get_weather"), &json!("{\"city\":\"Paris\"}"))
    );
    let events = answer("/v1/responses", &with(request.clone(), json!({"stream": true}))).await.events();
    let arguments: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
    assert_eq!(arguments, call["arguments"]);
    assert_eq!(events.last().unwrap()["response"]["output"], plain["output"]);
    let history = json!([{"role": "user", "content": "weather in Paris"}, call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]);
    let body = answer("/v1/responses", &with(request, json!({"input": history}))).await.json();
    assert!(body["output"][0]["content"][0]["text"].as_str().unwrap().contains("get_weather says: sunny"), "{body}");
}

#[tokio::test]
async fn images_and_speech_are_real_files() {
    let body = answer("/v1/images/generations", &json!({"model": "m", "prompt": "a berry", "n": 2})).await.json();
    let png = STANDARD.decode(body["data"][1]["b64_json"].as_str().unwrap()).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    let got = answer("/v1/audio/speech", &json!({"model": "m", "input": "Hello", "voice": "alloy"})).await;
    assert!(got.header("content-type") == "audio/wav" && got.body().starts_with(b"RIFF"), "{got:?}");
}

fn form(path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut body = String::new();
    for (name, value) in fields {
        body += &format!("--berry\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    body += "--berry--\r\n";
    Request::post(path).header("content-type", "multipart/form-data; boundary=berry").body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn transcriptions_read_a_form() {
    let (_mock, mut client) = mock(Script::default()).await;
    let path = "/v1/audio/transcriptions";
    let got = client.send(form(path, &[("model", "m"), ("file", "12345")])).await.unwrap();
    assert!(got.json()["text"].as_str().unwrap().contains("5 bytes"), "{got:?}");
    let plain =
        client.send(form(path, &[("model", "m"), ("file", "12345"), ("response_format", "text")])).await.unwrap();
    assert_eq!(plain.text().trim_end(), got.json()["text"]);
    let events =
        client.send(form(path, &[("model", "m"), ("file", "12345"), ("stream", "true")])).await.unwrap().events();
    assert_eq!(
        (&events.last().unwrap()["type"], &events.last().unwrap()["text"]),
        (&json!("transcript.text.done"), &got.json()["text"])
    );
    assert_eq!(client.send(form(path, &[("model", "m")])).await.unwrap().status, 400);
    assert_eq!(client.post(path, &json!({"model": "m"})).await.status, 400);
    let edit = client.send(form("/v1/images/edits", &[("model", "m"), ("image", "x"), ("prompt", "y")])).await.unwrap();
    assert!(edit.json()["data"][0]["b64_json"].is_string());
}
