//! What is logged for a request, through the real writer thread.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use berry_api::bodies::LOGGED_BYTES_MAX;
use berry_api::telemetry::access::AccessLog;
use berry_api::telemetry::writer::{ITEMS_MAX, Item, LogWriter, Sink};
use berry_api::telemetry::{EventLayer, format};
use berry_core::config::snapshot::LogFormat;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::fleet::{chat, plan};
use crate::support::{ADMIN, CONFIG, NARROW, TestGateway};

#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(crate) fn writer(&self, format: LogFormat) -> LogWriter {
        let out = Box::new(self.clone());
        LogWriter::start(vec![Sink { format, out }]).expect("a thread")
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("text")
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
    }
}

#[tokio::test]
async fn a_request_leaves_one_access_line_with_numbers_as_numbers() {
    let lines = Lines::default();
    let writer = lines.writer(LogFormat::Json);
    let gateway = TestGateway::with_access(CONFIG, AccessLog::new(writer.clone()));
    let answer = gateway.post("/v1/chat/completions", NARROW, r#"{"model":"org/wide","stream":true}"#).await;
    gateway.get("/health", "").await;
    writer.flush();

    let [line] = &lines.json()[..] else { panic!("{}", lines.text()) };
    assert_eq!((line["level"].as_str(), line["target"].as_str()), (Some("INFO"), Some("berry_api::access")));
    assert_eq!(line["message"], "Backend selected");
    let fields = &line["fields"];
    assert_eq!(fields["request_id"], answer.header("x-request-id"));
    assert_eq!((fields["user"].as_str(), fields["error"].as_str()), (Some("ned"), Some("model_access_denied")));
    assert_eq!((fields["status"].as_u64(), fields["attempts"].as_u64()), (Some(403), Some(0)));
    assert_eq!((fields["outcome"].as_str(), fields["stream"].as_bool()), (Some("failed"), Some(true)));
    assert!(fields["latency_ms"].is_number());
}

#[tokio::test(start_paused = true)]
async fn the_line_names_each_attempt_and_the_clients_own_id() {
    for streamed in [false, true] {
        for (fault, class) in [("status:500", "server"), ("status:429", "rate_limit"), ("reset:before-head", "network")]
        {
            let fleet = plan(&[fault, "none"]).build().await;
            fleet.ask_with(streamed, &[("x-request-id", "job 7"), ("x-berry-labels", "team=a, run=7")]).await;
            let [line] = &fleet.access()[..] else { panic!("one line") };
            assert_eq!(line["client_request_id"], "job7");
            assert_eq!(line["labels"], "team=a,run=7");
            assert_eq!(line["tries"], format!("a:up-a={class},b:up-b=success"), "{fault} {streamed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_attempt_is_not_listed_and_an_id_that_was_not_sent_is_absent() {
    let fleet = plan(&["none"]).build().await;
    fleet.ask(false).await;
    let [line] = &fleet.access()[..] else { panic!("one line") };
    assert_eq!((line.get("tries"), line.get("client_request_id")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_client_left_is_cancelled() {
    let fleet = plan(&["status:500", "none"]).build().await;
    drop(fleet.begin(chat(true)).await);
    let [line] = &fleet.access()[..] else { panic!("one line") };
    assert_eq!(line["tries"], "a:up-a=server,b:up-b=cancelled");
}

#[tokio::test]
async fn a_failed_authentication_is_audited_without_the_token() {
    let lines = Lines::default();
    let writer = lines.writer(LogFormat::Json);
    let subscriber = tracing_subscriber::registry().with(EventLayer::new(writer.clone()));
    let _guard = tracing::subscriber::set_default(subscriber);
    // While there is one subscriber only, tracing lets whichever thread meets an event first decide for all whether it is
    // wanted. Other tests have none; a second subscriber makes it ask all of them.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let gateway = TestGateway::new(CONFIG);
    let headers = [("authorization", "Bearer canary-of-a-token"), ("user-agent", "canary-client/1")];
    gateway.send(http::Method::GET, "/v1/models", &headers, "").await;
    gateway.get("/v1/models", ADMIN).await;
    writer.flush();

    let audit: Vec<Value> =
        lines.json().into_iter().filter(|line| line["message"] == "Authentication failed").collect();
    let [line] = &audit[..] else { panic!("{}", lines.text()) };
    let fields = &line["fields"];
    assert_eq!(line["level"], "WARN");
    assert_eq!(
        (fields["client"].as_str(), fields["user_agent"].as_str()),
        (Some("192.0.2.1"), Some("canary-client/1"))
    );
    assert_eq!((fields["reason"].as_str(), fields["path"].as_str()), (Some("unknown token"), Some("/v1/models")));
    assert_eq!(fields["token"].as_str().map(str::len), Some(8), "a fingerprint");
    assert!(!lines.text().contains("canary-of-a-token"));
}

/// Blocks its writer until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.1.wait_while(&mut self.0.0.lock(), |open| !*open);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn event(message: &str) -> Item {
    Item::Event {
        header: format::Header { time: std::time::SystemTime::UNIX_EPOCH, level: tracing::Level::INFO, target: "test" },
        message: message.to_owned(),
        fields: format::Fields::default(),
    }
}

#[test]
fn a_blocked_sink_blocks_nobody_and_what_is_dropped_is_counted() {
    let (gate, lines) = (Gate::default(), Lines::default());
    let sinks = vec![
        Sink { format: LogFormat::Text, out: Box::new(gate.clone()) },
        Sink { format: LogFormat::Json, out: Box::new(lines.clone()) },
    ];
    let writer = LogWriter::start(sinks).expect("a thread");
    // Two batches may be in memory: the one being written and the one being gathered. The rest is dropped.
    for _ in 0..3 * ITEMS_MAX {
        writer.push(event("x"));
    }
    *gate.0.0.lock() = true;
    gate.0.1.notify_all();
    writer.flush();
    writer.push(event("last"));
    writer.flush();

    let lines = lines.json();
    let dropped: u64 = lines.iter().filter_map(|line| line["fields"]["dropped"].as_u64()).sum();
    let written = lines.iter().filter(|line| line["message"] == "x").count() as u64;
    assert_eq!(written + dropped, 3 * ITEMS_MAX as u64);
    assert!(written <= 2 * ITEMS_MAX as u64, "{written}");
    assert_eq!(lines.last().expect("lines")["message"], "last");
}

/// The fields of events with this message, of one request under a configuration.
async fn events(config: &str, filter: &str, message: &str, ask: &str) -> Vec<Value> {
    let lines = Lines::default();
    let writer = lines.writer(LogFormat::Json);
    let mock = Mock::new(Script { replies: vec![Reply::json("/", ANSWER)], ..Script::default() });
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || mock.connect()) as Dial)]);
    let gateway = TestGateway::with(config, AccessLog::default(), dials);
    let subscriber = tracing_subscriber::registry()
        .with(tracing_subscriber::EnvFilter::new(filter))
        .with(EventLayer::new(writer.clone()));
    let answer = async { gateway.post("/v1/chat/completions", ADMIN, ask).await };
    assert_eq!(answer.with_subscriber(subscriber).await.status, 200);
    writer.flush();
    let of_message = lines.json().into_iter().filter(|line| line["message"] == message);
    of_message.map(|line| line["fields"].clone()).collect()
}

const ANSWER: &str = r#"{"said":"sk-live-0123456789abcdef and provider-key-canary"}"#;
const BODIES: &str = "[settings]\nlog_request_body = true\nlog_response_body = true\n";

#[tokio::test]
async fn bodies_are_logged_on_demand_without_secrets() {
    let ask = format!(r#"{{"model":"org/wide","messages":[],"user":"mine is {ADMIN}, Bearer abc, harmless"}}"#);
    let config = format!("{BODIES}{CONFIG}");
    let asked = events(&config, "debug", "request body", &ask).await;
    let hidden = r#"{"model":"org/wide","messages":[],"user":"mine is [redacted], Bearer [redacted], harmless"}"#;
    assert_eq!((asked[0]["body"].as_str(), asked[0]["bytes"].as_u64()), (Some(hidden), Some(ask.len() as u64)));
    let answered = events(&config, "debug", "response body", &ask).await;
    assert_eq!(answered[0]["body"], r#"{"said":"[redacted] and [redacted]"}"#);
    assert!(answered[0]["request_id"].as_str().is_some_and(|id| id.starts_with("req_")));
}

#[tokio::test]
async fn bodies_are_not_logged_unasked_and_never_above_debug() {
    let ask = r#"{"model":"org/wide","messages":[]}"#;
    for (config, filter) in [(CONFIG.to_owned(), "trace"), (format!("{BODIES}{CONFIG}"), "info")] {
        for message in ["request body", "response body"] {
            assert_eq!(events(&config, filter, message, ask).await.len(), 0, "{filter} {message}");
        }
    }
}

#[tokio::test]
async fn a_long_body_is_cut_before_the_word_that_the_bound_goes_through() {
    let start = r#"{"model":"org/wide","user":""#;
    // The token begins three bytes before the bound.
    let fill: String = "x".repeat(LOGGED_BYTES_MAX - 4 - start.len()) + " ";
    let ask = format!(r#"{start}{fill}{ADMIN}"}}"#);
    let asked = events(&format!("{BODIES}{CONFIG}"), "debug", "request body", &ask).await;
    let body = asked[0]["body"].as_str().unwrap();
    assert!(body.len() < LOGGED_BYTES_MAX && body.ends_with("x "), "…{}", &body[body.len() - 20..]);
}

#[tokio::test]
async fn the_record_of_a_pattern_names_what_the_upstream_was_asked_for() {
    let lines = Lines::default();
    let writer = lines.writer(LogFormat::Json);
    let config = CONFIG.to_owned()
        + "[models.any]\nname = \"any-*\"\n[[models.any.backends]]\nprovider = \"nowhere\"\nmodel = \"$name\"\n";
    let gateway = TestGateway::with_access(&config, AccessLog::new(writer.clone()));
    gateway.post("/v1/chat/completions", ADMIN, r#"{"model":"any-thing"}"#).await;
    writer.flush();
    let [line] = &lines.json()[..] else { panic!("{}", lines.text()) };
    let fields = &line["fields"];
    assert_eq!((&fields["model"], &fields["upstream_model"]), (&"any-*".into(), &"any-thing".into()), "{line}");
}
