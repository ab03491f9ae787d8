//! What providers are found to serve, over scripted upstreams in memory and a paused clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_api::discovery::{REFRESH_EVERY, RETRY_AFTER};
use berry_api::telemetry::access::AccessLog;
use berry_api::{discovery, prober};
use berry_mock::{FaultScope, Mock, Script};
use http::StatusCode;
use tokio_util::task::TaskTracker;

use crate::support::{ADMIN, TestGateway, snapshot};

/// A pattern over a provider whose models are discovered and published.
const CONFIG: &str = r#"
[users.ada]
token = "token-of-ada-the-admin"
tags = ["admin"]
[users.ned]
token = "token-of-ned-the-narrow"
allowed_models = ["claude-2"]
[providers.up]
base_url = "http://up.invalid/v1"
api_key = "k"
models = "auto"
expose_models = ["gpt-*"]
[models.claude]
name = "claude-*"
strategy = "round_robin"
[[models.claude.backends]]
provider = "up"
model = "$name"
"#;

struct Rig {
    gateway: TestGateway,
    mock: Mock,
    tasks: TaskTracker,
}

impl Rig {
    fn new(script: Script) -> Self {
        let mock = Mock::new(script);
        let dialled = mock.clone();
        let dials = HashMap::from([("up".into(), Arc::new(move || dialled.connect()) as _)]);
        let gateway = TestGateway::with(CONFIG, AccessLog::default(), dials);
        let tasks = TaskTracker::new();
        tasks.spawn(discovery::run(Arc::clone(gateway.gateway.app())));
        Self { gateway, mock, tasks }
    }

    async fn listed(&self, token: &str) -> Vec<String> {
        let list = self.gateway.get("/v1/models", token).await.json();
        let data = list["data"].as_array().unwrap();
        data.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    }

    async fn chat(&self, token: &str, model: &str) -> (StatusCode, String) {
        let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#);
        let answer = self.gateway.post("/v1/chat/completions", token, &body).await;
        let said = answer.json();
        let text = if answer.status.is_success() { &said["model"] } else { &said["error"]["code"] };
        (answer.status, text.as_str().unwrap_or_default().to_owned())
    }

    fn lists_asked(&self) -> usize {
        self.mock.requests().iter().filter(|request| request.method == "GET").count()
    }
}

fn serving(models: &[&str]) -> Script {
    Script { models: models.iter().map(|name| (*name).to_owned()).collect(), ..Script::default() }
}

fn faulty(fault: &str) -> Script {
    Script { faults: vec![fault.parse().unwrap()], fault_scope: FaultScope::All, ..Script::default() }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn discovered_models_are_listed_and_served() {
    let rig = Rig::new(serving(&["claude-2", "claude-3", "gpt-4o", "o3"]));
    pass(Duration::from_secs(1)).await;
    assert_eq!(rig.listed(ADMIN).await, ["claude-2", "claude-3", "up/gpt-4o"]);
    for (model, upstream) in [("claude-3", "claude-3"), ("up/gpt-4o", "gpt-4o")] {
        assert_eq!(rig.chat(ADMIN, model).await, (StatusCode::OK, upstream.to_owned()));
    }
    assert_eq!(rig.chat(ADMIN, "claude-9").await, (StatusCode::NOT_FOUND, "model_not_found".to_owned()));
    assert_eq!(rig.chat(ADMIN, "up/o3").await.0, StatusCode::NOT_FOUND, "it is not exposed");
    drop(rig.tasks);
}

#[tokio::test(start_paused = true)]
async fn permissions_apply_to_the_requested_name() {
    let rig = Rig::new(serving(&["claude-2", "claude-3", "gpt-4o"]));
    pass(Duration::from_secs(1)).await;
    let ned = crate::support::NARROW;
    assert_eq!(rig.listed(ned).await, ["claude-2"]);
    assert_eq!(rig.chat(ned, "claude-2").await.0, StatusCode::OK);
    assert_eq!(rig.chat(ned, "claude-3").await.1, "model_access_denied");
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_a_provider_that_does_not_tell_its_models() {
    let rig = Rig::new(faulty("status:503"));
    pass(Duration::from_secs(1)).await;
    assert_eq!(rig.listed(ADMIN).await, ["claude-*"], "the pattern answers for any name until the list is known");
    rig.mock.update(serving(&["claude-2"]));
    assert_eq!(rig.chat(ADMIN, "claude-2").await.0, StatusCode::OK);
    pass(RETRY_AFTER * 2).await;
    assert_eq!(rig.listed(ADMIN).await, ["claude-2"], "it is asked again soon");
}

#[tokio::test(start_paused = true)]
async fn a_list_is_kept_over_a_failing_refresh_and_replaced_by_the_next_good_one() {
    let rig = Rig::new(serving(&["claude-2"]));
    pass(Duration::from_secs(1)).await;
    for fault in ["status:503", "empty-stream", "html", "truncated-json", "hang"] {
        rig.mock.update(faulty(fault));
        let asked = rig.lists_asked();
        pass(REFRESH_EVERY * 12 / 10).await;
        assert!(rig.lists_asked() > asked);
        assert_eq!(rig.listed(ADMIN).await, ["claude-2"]);
    }
    rig.mock.update(serving(&["claude-3"]));
    pass(REFRESH_EVERY * 12 / 10).await;
    assert_eq!(rig.listed(ADMIN).await, ["claude-3"]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_asks_again_and_figures_of_what_is_still_served_stay() {
    let rig = Rig::new(serving(&["claude-2", "claude-3"]));
    pass(Duration::from_secs(1)).await;
    assert_eq!(rig.chat(ADMIN, "claude-2").await.0, StatusCode::OK);
    let app = rig.gateway.gateway.app();
    let selections = |model: &str| app.runtime().selector.pool(&model.into()).map(|pool| pool.selections());
    assert_eq!(selections("claude-2"), Some(1));
    rig.mock.update(serving(&["claude-2", "claude-4"]));
    let asked = rig.lists_asked();
    app.replace(snapshot(CONFIG), &HashMap::new()).unwrap();
    assert_eq!(rig.listed(ADMIN).await, ["claude-2", "claude-3"], "the list that is known holds meanwhile");
    pass(Duration::from_secs(3)).await;
    assert_eq!(rig.lists_asked(), asked + 1);
    assert_eq!(rig.listed(ADMIN).await, ["claude-2", "claude-4"]);
    assert_eq!((selections("claude-2"), selections("claude-3")), (Some(1), None));
}

#[tokio::test(start_paused = true)]
async fn what_is_discovered_is_never_probed_with_tokens() {
    let rig = Rig::new(serving(&["claude-2", "claude-3", "gpt-4o"]));
    rig.tasks.spawn(prober::run(Arc::clone(rig.gateway.gateway.app())));
    pass(Duration::from_secs(300)).await;
    assert!(rig.lists_asked() > 2, "they are probed by the list");
    assert!(rig.mock.requests().iter().all(|request| request.method == "GET"));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_the_upstream_does_not_know_harms_no_other_name_of_the_pattern() {
    let config = CONFIG.replace("models = \"auto\"\nexpose_models = [\"gpt-*\"]\n", "");
    let mock = Mock::new(serving(&["claude-2"]));
    let dialled = mock.clone();
    let dials = HashMap::from([("up".into(), Arc::new(move || dialled.connect()) as _)]);
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    let ask = |model: &str| {
        let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#);
        let gateway = &gateway;
        async move { gateway.post("/v1/chat/completions", ADMIN, &body).await.status }
    };
    for _ in 0..10 {
        assert_eq!(ask("claude-typo").await, StatusCode::NOT_FOUND);
    }
    assert_eq!(ask("claude-2").await, StatusCode::OK);
}
