//! `/prometheus`: names, labels, formats, and a bound on the number of series.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use http::{Method, StatusCode};

use crate::fleet::scripted;
use crate::support::{ADMIN, Answer, CONFIG, TestGateway, snapshot};

const ASK: &str = r#"{"model":"org/wide","messages":[]}"#;

fn gateway(reply: Reply) -> (TestGateway, HashMap<berry_core::id::ProviderId, Dial>) {
    let mock = Mock::new(Script { replies: vec![reply], ..Script::default() });
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || mock.connect()) as Dial)]);
    (TestGateway::with(CONFIG, AccessLog::default(), dials.clone()), dials)
}

fn answered() -> (TestGateway, HashMap<berry_core::id::ProviderId, Dial>) {
    gateway(Reply::json("/", r#"{"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}"#))
}

pub(crate) async fn scrape(gateway: &TestGateway) -> String {
    let page = gateway.get("/prometheus", "").await;
    assert_eq!(page.status, StatusCode::OK);
    String::from_utf8(page.body.to_vec()).unwrap()
}

/// The value of a series that is written exactly so.
pub(crate) fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is missing in\n{page}")).parse().unwrap()
}

async fn ask(gateway: &TestGateway) -> Answer {
    gateway.post("/v1/chat/completions", ADMIN, ASK).await
}

#[tokio::test(start_paused = true)]
async fn a_request_is_counted_by_method_path_and_status() {
    let (gateway, _) = answered();
    assert_eq!(ask(&gateway).await.status, 200);
    gateway.post("/v1/chat/completions", "wrong", ASK).await;
    gateway.get("/livez", "").await;
    gateway.get("/v1/models/some-model", ADMIN).await;
    let page = scrape(&gateway).await;
    let requests = |labels: &str| value(&page, &format!("http_requests_total{{{labels}}}"));
    assert_eq!(requests(r#"method="POST",path="/v1/chat/completions",status="200""#), 1.0);
    assert_eq!(requests(r#"method="POST",path="/v1/chat/completions",status="401""#), 1.0);
    assert_eq!(requests(r#"method="GET",path="/livez",status="200""#), 1.0);
    assert_eq!(requests(r#"method="GET",path="/v1/models/{*id}",status="404""#), 1.0);
    let count = r#"http_request_duration_seconds_count{method="POST",path="/v1/chat/completions"}"#;
    assert_eq!(value(&page, count), 2.0);
    assert_eq!(value(&page, "http_requests_in_flight"), 1.0, "the scrape itself");
}

#[tokio::test(start_paused = true)]
async fn a_backend_shows_health_latency_tokens_and_choices() {
    let (gateway, _) = answered();
    ask(&gateway).await;
    let page = scrape(&gateway).await;
    let backend = r#"provider="nowhere",model="wide-upstream""#;
    for (name, expected) in [
        ("backend_health_status", 1.0),
        ("circuit_breaker_state", 0.0),
        ("backend_request_count_total", 1.0),
        ("backend_latency_seconds_count", 1.0),
    ] {
        assert_eq!(value(&page, &format!("{name}{{{backend}}}")), expected, "{name}");
    }
    assert!(value(&page, &format!("smart_ai_confidence_score{{{backend}}}")) > 0.0);
    assert_eq!(value(&page, &format!(r#"berry_tokens_total{{{backend},kind="input"}}"#)), 7.0);
    assert_eq!(value(&page, &format!(r#"berry_tokens_total{{{backend},kind="output"}}"#)), 5.0);
    let choices = r#"load_balance_selections_total{model="org/wide",strategy="round_robin",provider="nowhere"}"#;
    assert_eq!(value(&page, choices), 1.0);
    assert!(!page.contains(r#"backend_health_status{provider="nowhere",model="off-upstream"}"#));
}

#[tokio::test(start_paused = true)]
async fn a_failing_backend_shows_class_health_and_circuit() {
    let (gateway, _) = gateway(Reply { status: 500, ..Reply::json("/", r#"{"error":{"message":"broken"}}"#) });
    for _ in 0..6 {
        assert!(ask(&gateway).await.status.is_server_error());
    }
    let page = scrape(&gateway).await;
    let backend = r#"provider="nowhere",model="wide-upstream""#;
    assert!(value(&page, &format!(r#"backend_error_count_total{{{backend},class="server"}}"#)) >= 5.0);
    assert_eq!(value(&page, &format!("backend_health_status{{{backend}}}")), 0.0);
    assert_eq!(value(&page, &format!("circuit_breaker_state{{{backend}}}")), 2.0);
    assert!(value(&page, "berry_retries_total") >= 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_failed_is_billed_to_its_backend_with_what_it_reported() {
    let events = |text: &'static str| Reply {
        headers: vec![("content-type".into(), "text/event-stream".into())],
        ..Reply::json("/v1/chat/completions", text)
    };
    let begun = events("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":0}}\n\n");
    let whole = events(concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"y\"},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":10,\"cost\":0.003}}\n\n",
        "data: [DONE]\n\n"
    ));
    let script = |reply| Script { replies: vec![reply], ..Script::default() };
    let prices = "input_price = 10.0\noutput_price = 100.0\nrequest_price = 0.5";
    let plan = scripted([script(begun), script(whole)]).backend(0, prices).backend(1, prices);
    let fleet = plan.settings("max_internal_retries = 0").build().await;
    assert_eq!(fleet.ask(true).await.status(), 200);
    let page = scrape(&fleet.gateway).await;
    let cost = |name: &str, provider: &str| {
        value(&page, &format!("{name}{{provider=\"{provider}\",model=\"up-{provider}\"}}"))
    };
    assert_eq!(cost("berry_cost_usd_total", "a"), 0.51);
    assert_eq!(cost("berry_cost_usd_total", "b"), 0.502);
    assert_eq!(cost("berry_cost_reported_usd_total", "b"), 0.003);
    assert_eq!(cost("berry_cost_compared_usd_total", "b"), 0.502);
    assert_eq!(cost("berry_cost_compared_usd_total", "a"), 0.0);
    let tokens = r#"berry_tokens_total{provider="a",model="up-a",kind="input"}"#;
    assert_eq!(value(&page, tokens), 1000.0);
}

#[tokio::test(start_paused = true)]
async fn figures_survive_a_reload_for_what_still_exists() {
    let (gateway, dials) = answered();
    ask(&gateway).await;
    let text = CONFIG.replace("name = \"premium\"", "name = \"renamed\"");
    gateway.gateway.app().replace(snapshot(&text), &dials).unwrap();
    ask(&gateway).await;
    let page = scrape(&gateway).await;
    let latency = r#"backend_latency_seconds_count{provider="nowhere",model="wide-upstream"}"#;
    assert_eq!(value(&page, latency), 2.0);
}

#[tokio::test(start_paused = true)]
async fn openmetrics_is_for_those_who_ask_for_it() {
    let gateway = TestGateway::new(CONFIG);
    let plain = gateway.get("/prometheus", "").await;
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let accept = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")];
    let open = gateway.send(Method::GET, "/prometheus", &accept, "").await;
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.body.ends_with(b"# EOF\n") && !plain.body.ends_with(b"# EOF\n"));
}

#[tokio::test(start_paused = true)]
async fn hostile_names_make_no_series() {
    let (gateway, _) = answered();
    for number in 0..33_334 {
        let model = format!(r#"{{"model":"hostile-{number}","messages":[]}}"#);
        gateway.post("/v1/chat/completions", ADMIN, &model).await;
        gateway.get(&format!("/hostile-{number}"), &format!("hostile-{number}")).await;
        let method = Method::from_bytes(format!("HOSTILE{number}").as_bytes()).unwrap();
        gateway.send(method, &format!("/v1/models/hostile-{number}"), &[], "").await;
    }
    let page = scrape(&gateway).await;
    let series: BTreeSet<&str> =
        page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    assert!(series.len() < 500, "{}", series.len());
    assert!(!page.to_lowercase().contains("hostile"));
    assert_eq!(value(&page, r#"http_requests_total{method="GET",path="unknown",status="404"}"#), 33_334.0);
}
