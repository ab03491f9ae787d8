//! Probes as the gateway sends them: by the clock, past silent upstreams, and never where they cost money.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use berry_api::prober;
use berry_api::telemetry::access::AccessLog;
use berry_loadbalance::endpoint::Endpoint;
use berry_mock::{Fault, FaultScope, Mock, Place, Script};
use berry_relay::probe::{self, Probe, ProbeError};
use http::Method;
use tokio_util::task::TaskTracker;

use crate::support::{ADMIN, TestGateway};

const ASK: &str = r#"{"model":"all","messages":[{"role":"user","content":"hi"}]}"#;

/// A gateway whose providers are mocks, each with `models` models of one backend named `PROVIDER-N`; and, when there are
/// several providers, the model `all` over their first ones.
struct Rig {
    gateway: TestGateway,
    mocks: HashMap<&'static str, Mock>,
    tasks: TaskTracker,
}

impl Rig {
    fn new(providers: &[(&'static str, Script)], models: usize, provider_keys: &str, backend_keys: &str) -> Self {
        let mut config = format!(
            "[settings]\nhealth_check_interval_seconds = 30\nrecovery_check_interval_seconds = 10\n\
             health_check_timeout_seconds = 5\ncircuit_breaker_timeout_seconds = 20\n\
             [users.ada]\nname = \"Ada\"\ntoken = \"{ADMIN}\"\ntags = [\"admin\"]\n"
        );
        let mut dials = HashMap::new();
        let mut mocks = HashMap::new();
        for (name, script) in providers {
            let base = format!("base_url = \"http://{name}.invalid/v1\"\napi_key = \"k\"\nmodels = []\n");
            let _ = write!(config, "[providers.{name}]\nname = \"{name}\"\n{base}{provider_keys}\n");
            for n in 0..models {
                let _ = write!(config, "[models.{name}-{n}]\nstrategy = \"weighted_random\"\n");
                let backend = format!("provider = \"{name}\"\nmodel = \"up-{n}\"\n{backend_keys}\n");
                let _ = write!(config, "[[models.{name}-{n}.backends]]\n{backend}");
            }
            let mock = Mock::new(script.clone());
            let dialled = mock.clone();
            dials.insert((*name).into(), Arc::new(move || dialled.connect()) as _);
            mocks.insert(*name, mock);
        }
        config.push_str("[models.all]\nstrategy = \"weighted_random\"\n");
        for (name, _) in providers {
            let _ =
                write!(config, "[[models.all.backends]]\nprovider = \"{name}\"\nmodel = \"up-0\"\n{backend_keys}\n");
        }
        let gateway = TestGateway::with(&config, AccessLog::default(), dials);
        let tasks = TaskTracker::new();
        tasks.spawn(prober::run(Arc::clone(gateway.gateway.app())));
        Self { gateway, mocks, tasks }
    }

    fn one(script: Script, provider_keys: &str) -> Self {
        Self::new(&[("only", script)], 1, provider_keys, "")
    }

    /// The endpoint of model `all` at a provider.
    fn endpoint(&self, provider: &str) -> Arc<Endpoint> {
        let runtime = self.gateway.gateway.app().runtime();
        let pool = runtime.selector.pool(&"all".into()).expect("a pool");
        let found = pool.endpoints().iter().find(|endpoint| endpoint.backend().provider.id.as_str() == provider);
        Arc::clone(found.expect("an endpoint"))
    }

    async fn health(&self, provider: &str) -> serde_json::Value {
        let health = self.gateway.send(Method::GET, "/health", &[], "").await.json();
        health["providers"][provider].clone()
    }

    /// Methods and paths that a provider was asked.
    fn asked(&self, provider: &str) -> Vec<String> {
        let seen = self.mocks[provider].requests();
        seen.iter().map(|request| format!("{} {}", request.method, request.path_and_query)).collect()
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn faulty(fault: Fault, fault_scope: FaultScope) -> Script {
    Script { faults: vec![fault], fault_scope, ..Script::default() }
}

/// An upstream that is well and names its models.
fn well() -> Script {
    Script { models: (0..9).map(|n| format!("up-{n}")).collect(), ..Script::default() }
}

fn dead() -> Script {
    faulty(Fault::Status { code: 503, retry_after: None }, FaultScope::All)
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_is_marked_by_its_probes_and_comes_back_in_stages() {
    let rig = Rig::new(&[("good", well()), ("bad", dead())], 0, "", "");
    seconds(1).await;
    let bad = rig.health("bad").await;
    assert_eq!(bad["healthy"], false, "{bad}");
    assert!(bad["last_check"].is_string() && bad["total_requests"] == 0, "a probe is no request: {bad}");
    assert_eq!(rig.health("good").await["healthy"], true);
    seconds(30).await;
    assert_eq!(rig.endpoint("bad").circuit().name(), "open");
    let before = rig.asked("bad").iter().filter(|asked| asked.starts_with("POST")).count();
    for _ in 0..50 {
        let answer = rig.gateway.post("/v1/chat/completions", ADMIN, ASK).await;
        assert_eq!(answer.header("x-berry-provider"), "good");
    }
    assert_eq!(rig.asked("bad").iter().filter(|asked| asked.starts_with("POST")).count(), before);

    rig.mocks["bad"].update(well());
    let mut shares = vec![0.0];
    for _ in 0..120 {
        seconds(1).await;
        let share = rig.endpoint("bad").circuit().share();
        if shares.last() != Some(&share) {
            shares.push(share);
        }
    }
    assert_eq!(shares, [0.0, 0.3, 0.5, 1.0]);
    assert_eq!(rig.health("bad").await["healthy"], true);
    for _ in 0..20 {
        assert_eq!(rig.gateway.post("/v1/chat/completions", ADMIN, ASK).await.status.as_u16(), 200);
    }
    assert_eq!(rig.endpoint("bad").circuit().name(), "closed", "the last stage is left to requests");
}

#[tokio::test(start_paused = true)]
async fn what_is_charged_by_the_request_is_never_probed() {
    let rig = Rig::new(&[("only", well())], 2, "", "billing_mode = \"per_request\"");
    seconds(3_600).await;
    assert_eq!(rig.mocks["only"].stats().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_delays_no_other() {
    let silent = faulty(Fault::HANG, FaultScope::All);
    let rig = Rig::new(&[("silent", silent), ("good", well())], 9, "", "");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        (rig.asked("good").len(), rig.asked("silent").len()),
        (1, 1),
        "one list for nine models and the shared one"
    );
    assert_eq!(rig.health("silent").await["last_check"], serde_json::Value::Null);
    assert_eq!(rig.health("good").await["healthy_models"], 9);
    seconds(70).await;
    assert_eq!(rig.asked("good").len(), 3, "the period holds");
    assert_eq!(rig.health("silent").await["healthy_models"], 0);
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_from_a_broken_connection() {
    let broken = faulty(Fault::Close(Place::BeforeHead), FaultScope::All);
    let rig = Rig::new(&[("silent", faulty(Fault::HANG, FaultScope::All)), ("broken", broken)], 1, "", "");
    let runtime = rig.gateway.gateway.app().runtime();
    let ask = async |name| {
        let provider = Arc::clone(&rig.endpoint(name).backend().provider);
        probe::ask(runtime.relay.upstreams(), &provider, Probe::Models, Duration::from_secs(5)).await
    };
    assert!(matches!(ask("silent").await, Err(ProbeError::Timeout(_))));
    assert!(matches!(ask("broken").await, Err(ProbeError::Connection(_))));
}

#[tokio::test(start_paused = true)]
async fn a_line_of_chats_is_bounded() {
    let silent = faulty(Fault::HANG, FaultScope::All);
    let rig = Rig::new(&[("silent", silent), ("good", well())], 9, "health_check = \"chat\"", "");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((rig.asked("good").len(), rig.asked("silent").len()), (10, 4));
}

#[tokio::test(start_paused = true)]
async fn backends_of_a_provider_share_its_models_list_for_ever() {
    let rig = Rig::new(&[("one", well()), ("two", dead())], 9, "", "");
    seconds(3_600).await;
    let (one, two) = (rig.asked("one").len(), rig.asked("two").len());
    assert!((109..=134).contains(&one), "one list every 30 s less jitter, for ten backends: {one}");
    assert!((109..=400).contains(&two), "recovery every 10 s, trials on their own: {two}");
    assert!(rig.asked("one").iter().all(|asked| asked == "GET /v1/models"));
    let probes = rig.endpoint("one").stats().probes;
    assert!(probes >= 109, "each backend counts as probed: {probes}");
}

#[tokio::test(start_paused = true)]
async fn probes_are_counted_and_priced_apart_from_requests() {
    let prices = "input_price = 1000.0\noutput_price = 1000.0";
    let no_list = faulty(Fault::Status { code: 404, retry_after: None }, FaultScope::Get);
    let rig = Rig::new(&[("only", no_list)], 1, "", prices);
    seconds(1).await;
    let counts = rig.gateway.gateway.app().probes.read()["only"];
    assert_eq!((counts.lists, counts.chats, counts.connections, counts.failures), (1, 2, 0, 0));
    assert!(counts.tokens > 0);
    assert_eq!(counts.cost.as_nanos(), i64::try_from(counts.tokens).unwrap() * 1_000_000, "{counts:?}");
    let page = rig.gateway.send(Method::GET, "/prometheus", &[], "").await;
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    for line in [
        "berry_probes_total{provider=\"only\",kind=\"models\"} 1",
        "berry_probes_total{provider=\"only\",kind=\"chat\"} 2",
        "berry_cost_usd_total{provider=\"only\",model=\"up-0\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}: {page}");
    }
    assert_eq!(rig.health("only").await["total_requests"], 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_check_keeps_no_request_waiting() {
    let rig = Rig::one(faulty(Fault::HANG, FaultScope::Get), "");
    let start = tokio::time::Instant::now();
    let answer = rig.gateway.post("/v1/chat/completions", ADMIN, ASK).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn each_mode_asks_what_it_says() {
    const LIST: &str = "GET /v1/models";
    const CHAT: &str = "POST /v1/chat/completions";
    let other = Script { models: vec!["another".into()], ..Script::default() };
    let named = Script { models: vec!["up-0".into()], ..Script::default() };
    let no_list = faulty(Fault::Status { code: 404, retry_after: None }, FaultScope::Get);
    let may_not_list = faulty(Fault::Status { code: 403, retry_after: None }, FaultScope::Get);
    for (mode, script, healthy, expected) in [
        ("models_then_chat", &named, true, &[LIST][..]),
        ("models_then_chat", &other, false, &[LIST, CHAT]),
        ("models_then_chat", &no_list, true, &[LIST, CHAT]),
        ("models_then_chat", &may_not_list, true, &[LIST, CHAT]),
        ("models_then_chat", &dead(), false, &[LIST]),
        ("models", &other, true, &[LIST]),
        ("models", &no_list, false, &[LIST]),
        ("chat", &named, true, &[CHAT]),
        ("connect", &dead(), true, &[]),
        ("off", &dead(), true, &[]),
    ] {
        let rig = Rig::new(&[("only", script.clone())], 0, &format!("health_check = \"{mode}\""), "");
        seconds(1).await;
        assert_eq!(rig.asked("only"), expected, "{mode}");
        assert_eq!(rig.health("only").await["healthy"], healthy, "{mode} {script:?}");
        assert_eq!(rig.mocks["only"].stats().connections > 0, mode != "off", "{mode}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_opens_the_circuit_at_the_first_probe_and_other_refusals_do_not() {
    for (code, circuit, reason) in [
        (401, "open", Some("circuit open: the key was refused")),
        (500, "closed", Some("unhealthy: the last probe failed")),
        (429, "closed", Some("cooling down: rate limited")),
    ] {
        let rig = Rig::new(
            &[("only", faulty(Fault::Status { code, retry_after: None }, FaultScope::Get))],
            0,
            "health_check = \"models\"",
            "",
        );
        seconds(1).await;
        assert_eq!(rig.endpoint("only").circuit().name(), circuit, "{code}");
        let app = rig.gateway.gateway.app();
        let report = app.runtime().selector.pool(&"all".into()).unwrap().report(app.clock.now());
        assert_eq!(report[0].reason, reason, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn probing_ends_when_the_drain_begins() {
    let rig = Rig::one(well(), "");
    seconds(1).await;
    rig.tasks.close();
    rig.gateway.gateway.app().shutdown.leave();
    seconds(60).await;
    assert_eq!(rig.tasks.len(), 1, "as long as requests are served");
    rig.gateway.gateway.app().shutdown.drain();
    rig.tasks.wait().await;
}
