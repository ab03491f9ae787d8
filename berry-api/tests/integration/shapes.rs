//! Shapes that existing users rely on: every name and kind of value of the figures, as snapshots. Names may come; none may go.

use berry_mock::Script;
use http::Method;
use serde_json::{Value, json};

use crate::fleet::{Fleet, always, scripted};
use crate::support::{ADMIN, Answer};

/// One good backend and one that failed, after a plain and a streamed request.
async fn used(strategy: &str) -> Fleet {
    let tagged = "tags = [\"premium\"]\nweight = 2.0";
    let slow = Script { first_token_latency_ms: 20, ..always("none") };
    let plan = scripted([always("status:503:7"), slow]).backend(1, tagged);
    let fleet = plan.strategy(strategy).build().await;
    for streamed in [false, true] {
        assert_eq!(fleet.ask(streamed).await.status(), 200);
    }
    fleet
}

/// The kinds of values in the place of values; of a list its first element. Where keys are names of the configuration they stay.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("boolean"),
        Value::Number(_) => json!("number"),
        Value::String(text) if is_time(text) => json!("time"),
        Value::String(_) => json!("string"),
        Value::Array(list) => Value::Array(list.first().map(shape).into_iter().collect()),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
    }
}

/// RFC 3339, as far as its beginning says.
fn is_time(text: &str) -> bool {
    let form = b"dddd-dd-ddTdd:dd:dd";
    let fits = |(byte, form): (u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == *form };
    text.len() > form.len() && text.bytes().zip(form).all(fits)
}

async fn get(fleet: &Fleet, path: &str) -> Value {
    let headers = [("authorization", &*format!("Bearer {ADMIN}"))];
    let Answer { status, body, .. } = fleet.gateway.send(Method::GET, path, &headers, "").await;
    assert_eq!(status.as_u16(), 200, "{path}");
    shape(&serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test(start_paused = true)]
async fn figures_keep_their_shapes() {
    let fleet = used("failover").await;
    for (name, path) in [
        ("health", "/health"),
        ("v1-health", "/v1/health"),
        ("metrics", "/metrics"),
        ("model-weights", "/admin/model-weights"),
        ("backend-health", "/admin/backend-health"),
        ("system-stats", "/admin/system-stats"),
    ] {
        insta::assert_json_snapshot!(name, get(&fleet, path).await);
    }
}

#[tokio::test(start_paused = true)]
async fn figures_of_smart_ai_keep_their_shapes() {
    let fleet = used("smart_ai").await;
    for (name, path) in [
        ("smart-ai-weights", "/smart-ai/weights"),
        ("smart-ai-weights-detailed", "/smart-ai/weights?detailed=true"),
        ("smart-ai-model-weights", "/smart-ai/models/m/weights"),
    ] {
        insta::assert_json_snapshot!(name, get(&fleet, path).await);
    }
}
