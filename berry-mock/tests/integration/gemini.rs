//! The Gemini dialect, as clients see it.

use berry_mock::Script;
use serde_json::{Value, json};

use crate::support::{Got, mock, post, with};

const GENERATE: &str = "/v1beta/models/gemini:generateContent";
const STREAM: &str = "/v1beta/models/gemini:streamGenerateContent?alt=sse";

fn request(user: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": user}]}]})
}

async fn answer(path: &str, body: &Value) -> Got {
    let (_mock, mut client) = mock(Script::default()).await;
    client.post(path, body).await
}

fn text(chunk: &Value) -> &str {
    chunk["candidates"][0]["content"]["parts"][0]["text"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn content_has_the_shape_of_gemini() {
    let body = answer(GENERATE, &request("Hello Berry")).await.json();
    assert!(text(&body).contains("Hello Berry"), "{body}");
    assert_eq!((&body["candidates"][0]["finishReason"], &body["modelVersion"]), (&json!("STOP"), &json!("gemini")));
    let usage = &body["usageMetadata"];
    assert_eq!(
        usage["totalTokenCount"],
        usage["promptTokenCount"].as_u64().unwrap() + usage["candidatesTokenCount"].as_u64().unwrap()
    );
}

#[tokio::test]
async fn both_framings_of_a_stream_say_what_the_plain_answer_says() {
    let plain = answer(GENERATE, &request("Hello")).await.json();
    let events = answer(STREAM, &request("Hello")).await.events();
    let array = answer("/v1beta/models/gemini:streamGenerateContent", &request("Hello")).await.json();
    for chunks in [&events, array.as_array().unwrap()] {
        assert_eq!(chunks.iter().map(text).collect::<String>(), text(&plain));
        let last = chunks.last().unwrap();
        assert_eq!(
            (&last["candidates"][0]["finishReason"], &last["usageMetadata"]),
            (&json!("STOP"), &plain["usageMetadata"])
        );
        let counts: Vec<u64> =
            chunks.iter().map(|c| c["usageMetadata"]["candidatesTokenCount"].as_u64().unwrap()).collect();
        assert!(counts.is_sorted(), "{counts:?}");
    }
}

#[tokio::test]
async fn functions_are_called_whole_and_their_results_read() {
    let tools = json!({"tools": [{"functionDeclarations": [{"name": "get_weather",
        "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}, "days": {"type": "INTEGER", "nullable": true}}}}]}]});
    let ask = with(request("weather in Paris"), tools);
    let body = answer(GENERATE, &ask).await.json();
    let part = &body["candidates"][0]["content"]["parts"][0];
    assert_eq!(
        (&part["functionCall"]["name"], &part["functionCall"]["args"]["city"]),
        (&json!("get_weather"), &json!("Paris"))
    );
    assert!(part["functionCall"]["args"]["days"].is_i64());
    let events = answer(STREAM, &ask).await.events();
    assert_eq!(&events[0]["candidates"][0]["content"]["parts"][0], part);
    let none = json!({"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}});
    assert!(!text(&answer(GENERATE, &with(ask.clone(), none)).await.json()).is_empty());
    let response = json!({"functionResponse": {"name": "get_weather", "response": {"result": "sunny"}}});
    let history =
        json!([ask["contents"][0], {"role": "model", "parts": [part]}, {"role": "user", "parts": [response]}]);
    let body = answer(GENERATE, &with(ask, json!({"contents": history}))).await.json();
    assert!(text(&body).contains("get_weather says: sunny"), "{body}");
}

#[tokio::test]
async fn the_generation_config_is_obeyed() {
    let config = |config: Value| with(request("Hello"), json!({"generationConfig": config}));
    let body = answer(GENERATE, &config(json!({"maxOutputTokens": 3, "candidateCount": 2}))).await.json();
    assert_eq!(
        (&body["candidates"][1]["finishReason"], &body["usageMetadata"]["candidatesTokenCount"]),
        (&json!("MAX_TOKENS"), &json!(6))
    );
    let schema = json!({"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}, "required": ["n"]});
    let body = answer(GENERATE, &config(json!({"responseMimeType": "application/json", "responseSchema": schema})))
        .await
        .json();
    assert!(serde_json::from_str::<Value>(text(&body)).unwrap()["n"].is_i64());
}

#[tokio::test]
async fn errors_are_in_googles_words() {
    let script = Script { models: vec!["gemini".into()], api_key: Some("k".into()), ..Script::default() };
    let (_mock, mut client) = mock(script).await;
    let got = client.post(GENERATE, &request("x")).await;
    assert_eq!((got.status.as_u16(), &got.json()["error"]["details"][0]["reason"]), (400, &json!("API_KEY_INVALID")));
    for (path, body, fault, status, name) in [
        ("/v1beta/models/other:generateContent?key=k", request("x"), "none", 404, "NOT_FOUND"),
        ("/v1beta/models/gemini:generateContent?key=k", json!({}), "none", 400, "INVALID_ARGUMENT"),
        ("/v1beta/models/gemini:generateContent?key=k", request("x"), "status:429", 429, "RESOURCE_EXHAUSTED"),
        ("/v1beta/models/gemini:generateContent?key=k", request("x"), "status:503", 503, "UNAVAILABLE"),
    ] {
        let mut request = post(path, &body);
        request.headers_mut().insert("x-mock-fault", fault.parse().unwrap());
        let got = client.send(request).await.unwrap();
        assert_eq!((got.status.as_u16(), &got.json()["error"]["status"]), (status, &json!(name)), "{path} {fault}");
    }
}

#[tokio::test]
async fn embeddings_counts_and_models_are_answered() {
    let content = |text: &str| json!({"content": {"parts": [{"text": text}]}, "outputDimensionality": 4});
    let one = answer("/v1beta/models/m:embedContent", &content("berry")).await.json();
    let two = answer("/v1beta/models/m:batchEmbedContents", &json!({"requests": [content("plum"), content("berry")]}))
        .await
        .json();
    assert_eq!((one["embedding"]["values"].as_array().unwrap().len(), &two["embeddings"][1]), (4, &one["embedding"]));
    let plain = answer(GENERATE, &request("Hello")).await.json();
    let count = answer("/v1beta/models/gemini:countTokens", &request("Hello")).await.json();
    assert_eq!(count["totalTokens"], plain["usageMetadata"]["promptTokenCount"]);
    let (_mock, mut client) = mock(Script::default()).await;
    let list = client.get("/v1beta/models").await.json();
    assert!(list["models"][0]["name"].as_str().unwrap().starts_with("models/"));
    assert_eq!(client.get("/v1beta/models/gemini").await.json()["name"], "models/gemini");
}
