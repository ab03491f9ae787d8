//! Vectors through the whole service: which backends may stand in for each other.

use std::collections::HashMap;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;

use crate::support::{ADMIN, Answer, TestGateway};

/// A pool of three backends, of which the first fails: the same model elsewhere, and another model.
async fn ask(model: &str) -> (Answer, [usize; 2]) {
    let config = format!(
        r#"
[users.ada]
token = "token-of-ada-the-admin"
[providers.down]
base_url = "https://down.test/v1"
[providers.same]
base_url = "https://same.test/v1"
[providers.other]
base_url = "https://other.test/v1"
{model}
"#
    );
    let down = Reply { status: 500, ..Reply::json("/", "{}") };
    let down = Mock::new(Script { replies: vec![down], ..Script::default() });
    let (same, other) = (Mock::new(Script::default()), Mock::new(Script::default()));
    let dials = [("down", &down), ("same", &same), ("other", &other)].map(|(name, mock)| {
        let dial = mock.clone();
        (name.into(), Arc::new(move || dial.connect()) as Dial)
    });
    let gateway = TestGateway::with(&config, AccessLog::default(), HashMap::from(dials));
    let answer = gateway.post("/v1/embeddings", ADMIN, r#"{"model":"v","input":"x"}"#).await;
    (answer, [same.requests().len(), other.requests().len()])
}

const HEAD: &str = "[models.v]\nname = \"v\"\nstrategy = \"failover\"\n";

fn backend(provider: &str, model: &str, priority: u32) -> String {
    format!("[[models.v.backends]]\nprovider = \"{provider}\"\nmodel = \"{model}\"\npriority = {priority}\n")
}

#[tokio::test(start_paused = true)]
async fn a_failed_request_for_vectors_goes_on_at_the_same_model_only() {
    let pool = [backend("down", "a", 1), backend("other", "b", 2), backend("same", "a", 3)].concat();
    let (answer, asked) = ask(&format!("{HEAD}{pool}")).await;
    assert_eq!((answer.status.as_u16(), asked), (200, [1, 0]));
    let alone = [backend("down", "a", 1), backend("other", "b", 2)].concat();
    let (answer, asked) = ask(&format!("{HEAD}{alone}")).await;
    assert_eq!((answer.status.as_u16(), asked), (500, [0, 0]));
}

#[tokio::test(start_paused = true)]
async fn models_that_are_said_to_be_interchangeable_stand_in_for_each_other() {
    let pool = [backend("down", "a", 1), backend("other", "b", 2)].concat();
    let (answer, asked) = ask(&format!("{HEAD}interchangeable = true\n{pool}")).await;
    assert_eq!((answer.status.as_u16(), asked), (200, [0, 1]));
}

/// The answer to a request for vectors by an upstream of this kind that answers everything with `reply`.
async fn through(kind: &str, reply: &'static str, body: &str) -> (Answer, Mock) {
    let config = format!(
        "[users.ada]\ntoken = \"token-of-ada-the-admin\"\n[providers.p]\nbase_url = \"https://p.test\"\nbackend_type = \"{kind}\"\n\
         {HEAD}[[models.v.backends]]\nprovider = \"p\"\nmodel = \"up\"\n"
    );
    let mock = Mock::new(Script { replies: vec![Reply::json("/", reply)], ..Script::default() });
    let dial = mock.clone();
    let dials = HashMap::from([("p".into(), Arc::new(move || dial.connect()) as Dial)]);
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    let answer = gateway.post("/v1/embeddings", ADMIN, body).await;
    (answer, mock)
}

/// What openai-python and openai-node send unless they are told otherwise.
const DEFAULT: &str = r#"{"input":["a","b"],"model":"v","encoding_format":"base64"}"#;

#[tokio::test(start_paused = true)]
async fn openai_clients_get_vectors_of_a_gemini_backend_in_the_form_that_they_ask_for() {
    let given = r#"{"embeddings":[{"values":[0.5,-2]},{"values":[1,0]}]}"#;
    let (answer, mock) = through("gemini", given, DEFAULT).await;
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), &body["data"][0]["embedding"]), (200, &"AAAAPwAAAMA=".into()), "{body}");
    assert_eq!((&body["data"][1]["index"], &body["model"]), (&1.into(), &"v".into()));
    let seen = &mock.requests()[0];
    assert_eq!(seen.path_and_query, "/v1beta/models/up:batchEmbedContents");
    assert!(seen.body.starts_with(br#"{"requests":[{"model":"models/up","content":{"parts":[{"text":"a"}]}}"#));
    let floats = DEFAULT.replace("base64", "float");
    let (answer, _mock) = through("gemini", given, &floats).await;
    assert_eq!(answer.json()["data"][0]["embedding"], serde_json::json!([0.5, -2]));
    let (answer, mock) = through("gemini", given, r#"{"input":[[1,2]],"model":"v"}"#).await;
    assert_eq!((answer.status.as_u16(), mock.requests().len()), (400, 0));
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("send the text itself"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn vectors_of_a_server_that_ignores_the_form_are_written_in_it() {
    let floats = r#"{"object":"list","data":[{"index":0,"embedding":[0.5, -2]}],"model":"up"}"#;
    let (answer, _mock) = through("openai", floats, DEFAULT).await;
    assert_eq!(answer.json()["data"][0]["embedding"], "AAAAPwAAAMA=");
    let (answer, _mock) = through("openai", floats, r#"{"input":"a","model":"v"}"#).await;
    assert_eq!(String::from_utf8_lossy(&answer.body), floats, "the right form passes byte for byte");
}
