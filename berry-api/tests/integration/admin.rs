//! What administrators and `/smart-ai` are told: exactly these names, and the selector's own numbers.

use std::collections::BTreeSet;

use berry_loadbalance::eligibility::{Demand, Hints};
use berry_loadbalance::explain::Replay;
use berry_loadbalance::outcome::{FailureClass, Outcome};
use berry_loadbalance::selector::RouteSelector as _;
use berry_mock::Script;
use http::Method;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::fleet::{always, scripted};
use crate::support::{ADMIN, CONFIG, NARROW, TestGateway};

/// Three backends of a `smart_ai` model, one of them premium, one switched off.
const SMART: &str = r#"
[models.smart]
name = "org/smart"
strategy = "smart_ai"
[[models.smart.backends]]
provider = "nowhere"
model = "cheap"
weight = 2.0
[[models.smart.backends]]
provider = "nowhere"
model = "dear"
tags = ["premium"]
billing_mode = "per_request"
[[models.smart.backends]]
provider = "nowhere"
model = "idle"
enabled = false
"#;

fn gateway() -> TestGateway {
    TestGateway::new(&format!("{CONFIG}{SMART}"))
}

/// The names of an object, exactly.
#[track_caller]
fn keys(value: &Value, expected: &str) {
    let found: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, expected.split_whitespace().collect(), "{value}");
}

/// Lets the first backend of `smart` fail until its circuit opens.
fn break_cheap(gateway: &TestGateway) {
    let app = gateway.gateway.app();
    let (runtime, now) = (app.runtime(), app.clock.now());
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..5 {
        let demand = Demand {
            now,
            tags: &[],
            dialect: berry_core::operation::Dialect::OpenAi,
            translatable: &[],
            provider: None,
            requested: "smart",
            tried: &[1],
            hints: Hints::default(),
        };
        let lease = runtime.selector.select_route(&"smart".into(), &demand, &mut rng).expect("a route");
        let failed = Outcome::Failure { class: FailureClass::Server, retry_after: None };
        runtime.selector.report_result(lease, failed, now);
    }
}

#[tokio::test(start_paused = true)]
async fn only_administrators_see_the_admin_paths() {
    let gateway = gateway();
    for path in ["/admin/model-weights", "/admin/backend-health", "/admin/system-stats"] {
        assert_eq!(gateway.send(Method::GET, path, &[], "").await.error_code(), "invalid_token");
        assert_eq!(gateway.get(path, NARROW).await.error_code(), "admin_required");
        let answer = gateway.get(path, ADMIN).await;
        assert_eq!(answer.status.as_u16(), 200);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        for secret in ["127.0.0.1", "provider-key-canary", "token-of"] {
            assert!(!text.contains(secret), "{path} shows {secret}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn model_weights_keep_their_names_and_take_one_model() {
    let gateway = gateway();
    let body = gateway.get("/admin/model-weights", ADMIN).await.json();
    keys(&body, "models timestamp total_models");
    assert_eq!(body["total_models"], 5);
    let smart = &body["models"]["smart"];
    keys(smart, "model_name display_name strategy enabled total_effective_weight backends");
    keys(
        &smart["backends"][1],
        "provider model original_weight effective_weight is_healthy is_enabled priority tags billing_mode failure_count",
    );
    assert_eq!(smart["backends"][1]["billing_mode"], "per_request");
    for name in ["smart", "org/smart"] {
        let one = gateway.get(&format!("/admin/model-weights?model={name}"), ADMIN).await.json();
        assert_eq!((one["total_models"].as_u64(), one["models"]["smart"].is_object()), (Some(1), true));
    }
    assert_eq!(gateway.get("/admin/model-weights?model=none", ADMIN).await.error_code(), "model_not_found");
}

#[tokio::test(start_paused = true)]
async fn backend_health_says_what_keeps_traffic_away_and_until_when() {
    let gateway = gateway();
    break_cheap(&gateway);
    let body = gateway.get("/admin/backend-health", ADMIN).await.json();
    keys(&body, "backend_health timestamp");
    let smart = &body["backend_health"]["smart"];
    keys(smart, "model_name enabled backends");
    let cheap = &smart["backends"][0];
    keys(
        cheap,
        "provider model enabled is_healthy failure_count circuit cooldown_until blocked_until reason tags priority in_flight \
         probes failed_probes last_check",
    );
    assert_eq!((cheap["circuit"].as_str(), cheap["is_healthy"].as_bool()), (Some("open"), Some(false)));
    assert_eq!((cheap["failure_count"].as_u64(), &cheap["cooldown_until"]), (Some(5), &Value::Null));
    assert_eq!(cheap["reason"], "circuit open: requests failed");
    assert!(cheap["blocked_until"].as_str().unwrap() > body["timestamp"].as_str().unwrap(), "{cheap}");
    assert_eq!((&smart["backends"][1]["reason"], &smart["backends"][2]["reason"]), (&Value::Null, &"disabled".into()));
}

#[tokio::test(start_paused = true)]
async fn system_stats_keep_their_names() {
    let gateway = gateway();
    let body = gateway.get("/admin/system-stats", ADMIN).await.json();
    keys(&body, "system health_summary model_stats timestamp");
    keys(
        &body["system"],
        "is_running version uptime_seconds http_requests_in_flight total_models available_models unpriced_backends",
    );
    assert_eq!(body["system"]["available_models"], json!(["narrow", "org/smart", "org/wide", "premium"]));
    keys(&body["health_summary"], "status provider_health model_health backend_health");
    keys(
        &body["model_stats"]["smart"],
        "name strategy enabled total_backends healthy_backends selections panic_selections total_requests \
         successful_requests failed_requests",
    );
}

#[tokio::test(start_paused = true)]
async fn smart_ai_weights_keep_their_names_in_both_forms() {
    let gateway = gateway();
    let all = gateway.send(Method::GET, "/smart-ai/weights", &[], "").await.json();
    keys(&all, "models timestamp total_models");
    let one = gateway.send(Method::GET, "/smart-ai/models/smart/weights", &[], "").await.json();
    keys(&one, "name strategy enabled backends stats timestamp");
    let smart = &all["models"]["smart"];
    keys(smart, "name strategy enabled backends stats");
    keys(
        &smart["backends"][0],
        "provider model original_weight effective_weight confidence is_premium enabled tags billing_mode health_details",
    );
    keys(
        &smart["stats"],
        "total_backends enabled_backends healthy_backends premium_backends average_confidence weight_distribution",
    );
    assert_eq!((&smart["backends"], &smart["stats"]), (&one["backends"], &one["stats"]));
    let stats = &smart["stats"];
    assert_eq!((stats["total_backends"].as_u64(), stats["enabled_backends"].as_u64()), (Some(3), Some(2)));
    assert_eq!((stats["healthy_backends"].as_u64(), stats["premium_backends"].as_u64()), (Some(2), Some(1)));
    let shares = stats["weight_distribution"].as_object().unwrap();
    let sum: f64 = shares.values().filter_map(Value::as_f64).sum();
    assert!((sum - 1.0).abs() < 1e-9 && shares["nowhere:cheap"].as_f64() > shares["nowhere:dear"].as_f64(), "{stats}");
}

#[tokio::test(start_paused = true)]
async fn smart_ai_weights_can_be_shortened() {
    let gateway = gateway();
    let body = gateway.send(Method::GET, "/smart-ai/weights?detailed=false&enabled_only=true", &[], "").await.json();
    assert!(body["models"].get("off").is_none() && body["total_models"] == 4, "{body}");
    let backends = body["models"]["smart"]["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 2, "the one that is switched off is left out");
    assert!(backends.iter().all(|backend| backend.get("health_details").is_none()));
}

#[tokio::test(start_paused = true)]
async fn smart_ai_weights_of_one_model_go_by_key_or_name_and_know_what_they_do_not_know() {
    let gateway = gateway();
    for (name, status) in [("smart", 200), ("org%2Fsmart", 200), ("off", 200), ("none", 404)] {
        let answer = gateway.send(Method::GET, &format!("/smart-ai/models/{name}/weights"), &[], "").await;
        assert_eq!(answer.status.as_u16(), status, "{name}");
    }
    let answer = gateway.send(Method::GET, "/smart-ai/models/none/weights", &[], "").await;
    assert_eq!(answer.error_code(), "model_not_found");
    let gateway = TestGateway::new(&format!("[server]\nprotect_monitoring = true\n{CONFIG}"));
    assert_eq!(gateway.send(Method::GET, "/smart-ai/weights", &[], "").await.error_code(), "invalid_token");
}

#[tokio::test(start_paused = true)]
async fn the_weights_shown_are_those_that_the_selector_uses() {
    let gateway = gateway();
    let weight_of_cheap = async || {
        let body = gateway.get("/admin/model-weights", ADMIN).await.json();
        let smart_ai = gateway.send(Method::GET, "/smart-ai/models/smart/weights", &[], "").await.json();
        let weight = body["models"]["smart"]["backends"][0]["effective_weight"].as_f64().unwrap();
        assert_eq!(smart_ai["backends"][0]["effective_weight"].as_f64(), Some(weight));
        (weight, smart_ai["backends"][0]["confidence"].as_f64().unwrap())
    };
    let (fresh, confidence) = weight_of_cheap().await;
    // Weight 2 and the documented g(c) of SmartAI.
    assert!((fresh - 2.0 * (0.3 + 0.7 * confidence.sqrt())).abs() < 1e-9, "{fresh} {confidence}");
    break_cheap(&gateway);
    let (broken, lower) = weight_of_cheap().await;
    assert!(broken == 0.0 && lower < confidence, "no traffic, no weight: {broken} {lower}");
}

/// The recorded choice, made again from its JSON.
fn recomputed(decision: &Value) -> Value {
    let replay: Replay = serde_json::from_value(decision.clone()).expect("a decision");
    json!(replay.recompute())
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_who_would_be_chosen_and_why_the_others_would_not() {
    let gateway = gateway();
    let answer = gateway.post("/admin/explain", ADMIN, r#"{"model":"org/smart"}"#).await.json();
    keys(&answer, "dry_run timestamp user requested_model allowed chosen settings error decision");
    keys(&answer["decision"], "model strategy context candidates excluded rescue draws turn chosen");
    assert_eq!((&answer["user"], &answer["allowed"], &answer["error"]), (&"ada".into(), &true.into(), &Value::Null));
    assert_eq!(answer["decision"]["excluded"][0]["message"], "disabled");
    let chosen = answer["decision"]["chosen"].as_u64().unwrap() as usize;
    assert_eq!(answer["decision"]["candidates"][chosen]["model"], answer["chosen"]["model"]);
    assert_eq!(recomputed(&answer["decision"]), answer["decision"]["chosen"]);

    let ned = r#"{"model":"premium","user":"ned","backend":"nowhere"}"#;
    let answer = gateway.post("/admin/explain", ADMIN, ned).await.json();
    assert_eq!((&answer["allowed"], &answer["chosen"]), (&false.into(), &Value::Null));
    assert_eq!(answer["error"]["code"], "no_backend_for_tags", "{answer}");
    let elsewhere = gateway.post("/admin/explain", ADMIN, r#"{"model":"narrow","backend":"moon"}"#).await.json();
    assert_eq!(elsewhere["error"]["code"], "unknown_backend");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing() {
    let gateway = gateway();
    break_cheap(&gateway);
    let state = async || {
        let mut weights = gateway.get("/admin/system-stats", ADMIN).await.json()["model_stats"].take();
        weights["health"] = gateway.get("/admin/backend-health", ADMIN).await.json()["backend_health"].take();
        weights
    };
    let before = state().await;
    for _ in 0..20 {
        for model in ["smart", "org/wide"] {
            let body = format!(r#"{{"model":"{model}"}}"#);
            assert_eq!(gateway.post("/admin/explain", ADMIN, &body).await.status.as_u16(), 200);
        }
    }
    assert_eq!(state().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_that_cannot_be_understood_says_what_to_send() {
    let gateway = gateway();
    for (body, code) in [
        ("", "invalid_json"),
        ("{}", "invalid_request"),
        (r#"{"model":"narrow","usr":"ned"}"#, "invalid_request"),
        (r#"{"model":"narrow","user":"nobody"}"#, "invalid_request"),
        (r#"{"model":"none"}"#, "model_not_found"),
    ] {
        assert_eq!(gateway.post("/admin/explain", ADMIN, body).await.error_code(), code, "{body}");
    }
    assert_eq!(gateway.post("/admin/explain", NARROW, r#"{"model":"narrow"}"#).await.error_code(), "admin_required");
    let get = gateway.get("/admin/explain", ADMIN).await;
    assert_eq!((get.status.as_u16(), get.header("allow")), (405, "POST"));
    assert_eq!(gateway.get("/admin/explain/req_none", ADMIN).await.error_code(), "not_found");
}

#[tokio::test(start_paused = true)]
async fn an_administrator_can_have_the_choices_of_a_request_kept() {
    // Nobody answers at `nowhere`, so the request is tried again.
    let gateway = gateway();
    let ask = async |token: &str, explain: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("x-berry-explain", explain)];
        let body = r#"{"model":"narrow","messages":[]}"#;
        let answer = gateway.send(Method::POST, "/v1/chat/completions", &headers, body).await;
        let path = format!("/admin/explain/{}", answer.header("x-request-id"));
        (answer.header("x-berry-attempts").parse::<usize>().unwrap(), gateway.get(&path, ADMIN).await)
    };
    let (attempts, kept) = ask(ADMIN, "1").await;
    let kept = kept.json();
    keys(&kept, "request_id timestamp user choices outcome");
    let outcome = &kept["outcome"];
    keys(outcome, "status end latency_ms ttft_ms attempts edited loss price");
    assert_eq!((&outcome["status"], &outcome["end"], &outcome["price"]), (&503.into(), &"failed".into(), &Value::Null));
    assert_eq!(outcome["attempts"].as_array().map(Vec::len), Some(attempts), "{outcome}");
    for attempt in outcome["attempts"].as_array().unwrap() {
        keys(attempt, "provider model reason outcome status after_ms ttft_ms duration_ms");
        assert_eq!((&attempt["outcome"], &attempt["status"]), (&"network".into(), &Value::Null));
    }
    let choices = kept["choices"].as_array().unwrap();
    let made = choices.iter().filter(|choice| choice["chosen"].is_object());
    assert_eq!((made.count(), &kept["user"]), (attempts, &"ada".into()), "{kept}");
    for choice in choices {
        keys(choice, "after_ms chosen error decision");
        assert_eq!(recomputed(&choice["decision"]), choice["decision"]["chosen"]);
    }
    assert_eq!(ask(ADMIN, "0").await.1.status.as_u16(), 404);
    assert_eq!(ask(NARROW, "1").await.1.status.as_u16(), 404, "for administrators only");
}

#[tokio::test(start_paused = true)]
async fn an_explained_request_tells_its_attempts_with_times_and_its_bill() {
    let prices = "input_price = 1.0\noutput_price = 2.0\nrequest_price = 0.5";
    let slow = Script { first_token_latency_ms: 300, ..always("none") };
    for streamed in [false, true] {
        let plan = scripted([always("status:500"), slow.clone()]).backend(0, prices).backend(1, prices);
        let fleet = plan.build().await;
        let got = fleet.ask_with(streamed, &[("x-berry-explain", "1")]).await;
        assert_eq!(got.status(), 200, "{}", got.text());
        let path = format!("/admin/explain/{}", got.answer.header("x-request-id"));
        let kept = fleet.gateway.get(&path, ADMIN).await.json();
        let outcome = &kept["outcome"];
        let [failed, good] = &outcome["attempts"].as_array().unwrap()[..] else { panic!("{outcome}") };
        let told =
            |attempt: &Value| ["provider", "reason", "outcome"].map(|key| attempt[key].as_str().unwrap().to_owned());
        assert_eq!((told(failed), &failed["status"]), (["a", "strategy", "server"].map(str::to_owned), &500.into()));
        assert_eq!((told(good), &good["status"]), (["b", "retry", "success"].map(str::to_owned), &200.into()));
        let ms = |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key}: {of}"));
        assert!(ms(good, "after_ms") >= ms(failed, "after_ms") + ms(failed, "duration_ms"), "{outcome}");
        assert!(ms(good, "ttft_ms") >= 300.0 && ms(good, "duration_ms") >= ms(good, "ttft_ms"), "{outcome}");
        assert!(ms(outcome, "latency_ms") >= ms(good, "after_ms") + ms(good, "duration_ms"), "{outcome}");

        let price = &outcome["price"];
        keys(price, "source usage cost");
        let tokens = |key: &str| price["usage"][key].as_u64().unwrap();
        let usd = |key: &str| price["cost"]["lines"][key].as_str().unwrap().parse::<f64>().unwrap();
        let total: f64 = price["cost"]["total"].as_str().unwrap().parse().unwrap();
        assert_eq!(
            (usd("input"), usd("output"), usd("request")),
            (tokens("input_tokens") as f64 / 1e6, tokens("output_tokens") as f64 * 2.0 / 1e6, 0.5,)
        );
        assert!((total - usd("input") - usd("output") - usd("request")).abs() < 1e-9, "{price}");
        assert_eq!(price["source"], "backend");
    }
}
