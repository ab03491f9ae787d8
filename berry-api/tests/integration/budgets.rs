//! Budgets: how many requests pass, what the others are told, and that nothing stays reserved.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berry_api::telemetry::access::AccessLog;
use berry_core::id::ProviderId;
use berry_core::money::NanoUsd;
use berry_core::quota::{Holder, PeriodKind};
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{ADMIN, Answer, TestGateway, snapshot};

const CHAT: &str = "/v1/chat/completions";
const BEN: &str = "token-of-ben-the-budgeted";
const TEO: &str = "token-of-teo-of-the-team";
const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":4}"#;

/// Two users of one tag; every request costs exactly a cent.
fn config(bens: &str, team: &str) -> String {
    format!(
        r#"
[users.ada]
token = "{ADMIN}"
tags = ["admin"]
[users.ben]
token = "{BEN}"
tags = ["team"]
{bens}
[users.teo]
token = "{TEO}"
tags = ["team"]
{team}
[providers.one]
base_url = "https://one.test/v1"
api_key = "key-of-one"
[models.m]
name = "m"
strategy = "round_robin"
[[models.m.backends]]
provider = "one"
model = "up"
request_price = 0.01
[models.tokens]
name = "tokens"
strategy = "round_robin"
[[models.tokens.backends]]
provider = "one"
model = "up"
input_price = 1000.0
output_price = 1000.0
[models.unpriced]
name = "unpriced"
strategy = "round_robin"
[[models.unpriced.backends]]
provider = "one"
model = "up"
"#
    )
}

fn dials() -> HashMap<ProviderId, Dial> {
    let answer = r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop",
        "message":{"role":"assistant","content":"y"}}],"usage":{"prompt_tokens":6,"completion_tokens":4,"total_tokens":10}}"#;
    mocked(Script { replies: vec![Reply::json(CHAT, answer)], ..Script::default() })
}

fn mocked(script: Script) -> HashMap<ProviderId, Dial> {
    let mock = Mock::new(script);
    HashMap::from([("one".into(), Arc::new(move || mock.connect()) as Dial)])
}

fn gateway(bens: &str, team: &str) -> TestGateway {
    TestGateway::with(&config(bens, team), AccessLog::default(), dials())
}

async fn ask(gateway: &TestGateway, token: &str) -> Answer {
    gateway.post(CHAT, token, ASK).await
}

/// Spent and reserved of an amount, as an administrator sees them.
async fn shown(gateway: &TestGateway, query: &str, period: &str) -> (String, String) {
    let page = gateway.get(&format!("/admin/budgets?{query}"), ADMIN).await.json();
    let rows = page["budgets"].as_array().expect("rows").clone();
    let row = rows.into_iter().find(|row| row["period"] == period).expect("the period");
    let text = |name: &str| row[name].as_str().expect("an amount").to_owned();
    (text("spent_usd"), text("reserved_usd"))
}

#[tokio::test(start_paused = true)]
async fn of_500_at_once_against_a_budget_for_20_exactly_20_pass_and_nothing_stays_reserved() {
    let gateway = gateway("budget = { usd_per_day = 0.20 }", "");
    let answers = join_all((0..500).map(|_| ask(&gateway, BEN))).await;
    let (passed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((passed.len(), refused.len()), (20, 480));
    assert!(refused.iter().all(|answer| answer.status == 429 && answer.error_code() == "budget_exceeded"));
    assert_eq!(shown(&gateway, "user=ben", "day").await, ("0.2".to_owned(), "0".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn requests_that_their_clients_left_give_back_what_they_reserved() {
    let config = config("budget = { usd_per_day = 0.20 }", "");
    let gateway = TestGateway::with(
        &config,
        AccessLog::default(),
        mocked(Script { token_latency_ms: 1_000, ..Script::default() }),
    );
    for _ in 0..25 {
        let mut running: Vec<_> = (0..20).map(|_| Box::pin(ask(&gateway, BEN))).collect();
        for request in &mut running {
            assert!(request.now_or_never().is_none());
        }
        assert_eq!(shown(&gateway, "user=ben", "day").await.1, "0.2");
        assert_eq!(ask(&gateway, BEN).await.status, 429);
    }
    assert_eq!(shown(&gateway, "user=ben", "day").await, ("0".to_owned(), "0".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_the_next_day_begins_and_holds_until_then_exactly() {
    let gateway = gateway("budget = { usd_per_day = 0.01 }", "");
    assert_eq!(ask(&gateway, BEN).await.status, 200);
    let refused = ask(&gateway, BEN).await;
    let message = refused.json()["error"]["message"].to_string();
    assert!(message.contains("Your budget `usd_per_day` of 0.01 USD has 0 USD left"), "{message}");
    let app = gateway.gateway.app();
    let now = app.clock.now();
    let calendar = app.runtime().calendar.clone();
    let ends = calendar.period(PeriodKind::Day, calendar.second(now)).ends.expect("days end");
    let wait = calendar.moment(ends).since(now);
    assert_eq!(refused.header("retry-after"), wait.as_secs_f64().ceil().max(1.0).to_string());
    tokio::time::advance(wait - Duration::from_millis(2)).await;
    assert_eq!(ask(&gateway, BEN).await.status, 429);
    tokio::time::advance(Duration::from_millis(2)).await;
    assert_eq!(ask(&gateway, BEN).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_day_follows_the_systems_clock_when_that_is_set_and_is_not_given_out_twice_when_it_is_set_back() {
    let gateway = gateway("budget = { usd_per_day = 0.01 }", "");
    let app = gateway.gateway.app();
    let noon = |day: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + day * 86_400 + 43_200);
    let set = |day| app.epoch.follow(noon(day), app.clock.now()).expect("a step");
    set(0);
    assert_eq!(ask(&gateway, BEN).await.status, 200);
    for (day, spent) in [(1, "0"), (0, "0.01"), (1, "0")] {
        set(day);
        assert_eq!(shown(&gateway, "user=ben", "day").await.0, spent, "day {day}");
        let page = gateway.get("/admin/budgets?user=ben", ADMIN).await.json();
        let midnight = if day == 0 { "2024-10-05T00:00:00.000000Z" } else { "2024-10-06T00:00:00.000000Z" };
        assert_eq!(page["budgets"][0]["resets_at"], midnight);
    }
    assert_eq!(ask(&gateway, BEN).await.status, 200);
    let refused = ask(&gateway, BEN).await;
    assert_eq!(
        refused.header("retry-after"),
        (12 * 3_600).to_string(),
        "until the next midnight of the clock as it is set"
    );
    set(2);
    assert_eq!(ask(&gateway, BEN).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_total_that_is_used_up_and_a_request_larger_than_its_budget_name_no_time() {
    let total = gateway("budget = { usd_total = 0.01 }", "");
    assert_eq!(ask(&total, BEN).await.status, 200);
    let small = gateway("budget = { usd_per_day = 0.005 }", "");
    for (gateway, advice) in [(&total, "ask the operator"), (&small, "Ask for less: a shorter prompt")] {
        let refused = ask(gateway, BEN).await;
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, ""));
        assert!(refused.json()["error"]["message"].to_string().contains(advice), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_of_a_tag_contains_those_of_its_users() {
    let gateway = gateway("budget = { usd_total = 0.02 }", "[tags.team.budget]\nusd_total = 0.03");
    let mut statuses = Vec::new();
    for token in [BEN, BEN, BEN, TEO, TEO] {
        statuses.push(ask(&gateway, token).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 200, 429]);
    let of_tag = ask(&gateway, TEO).await.json()["error"]["message"].to_string();
    assert!(of_tag.contains("The budget of your tag `team`"), "{of_tag}");
    assert_eq!(shown(&gateway, "tag=team", "total").await.0, "0.03");
    assert_eq!(shown(&gateway, "user=ben", "total").await.0, "0.02");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_limit_refuses_reserves_nothing_and_one_that_a_budget_refuses_counts_for_no_limit() {
    let gateway = gateway("budget = { usd_total = 0.01 }\nrate_limit = { requests_per_day = 2 }", "");
    let mut codes = Vec::new();
    for _ in 0..3 {
        let answer = ask(&gateway, BEN).await;
        codes.push(if answer.status == 200 { String::new() } else { answer.error_code() });
    }
    assert_eq!(codes, ["", "budget_exceeded", "budget_exceeded"]);
    // Of both, the total holds longer than the day.
    for (total, code) in [("0.02", "rate_limit_exceeded"), ("0.01", "budget_exceeded")] {
        let other = config(&format!("budget = {{ usd_total = {total} }}\nrate_limit = {{ requests_per_day = 1 }}"), "");
        gateway.gateway.app().replace(snapshot(&other), &dials()).expect("usable");
        assert_eq!(ask(&gateway, BEN).await.error_code(), code);
    }
    assert_eq!(shown(&gateway, "user=ben", "total").await, ("0.01".to_owned(), "0".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_settled_to_the_cost_and_near_the_limit_a_closer_look_is_taken() {
    // A tenth of a cent for each token; the answer says 10.
    let text = "word ".repeat(100);
    let body = json!({"model": "tokens", "messages": [{"role": "user", "content": text}], "max_tokens": 4}).to_string();
    let usd = (body.len() as f64 * 0.6).round() * 0.001;
    let gateway = gateway(&format!("budget = {{ usd_total = {usd} }}"), "");
    assert_eq!(gateway.post(CHAT, BEN, &body).await.status, 200, "by bytes it would not fit");
    assert_eq!(shown(&gateway, "user=ben", "total").await, ("0.01".to_owned(), "0".to_owned()));
    let large = body.replace("\"max_tokens\":4", "\"max_tokens\":4000");
    assert_eq!(gateway.post(CHAT, BEN, &large).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_price_passes_until_a_budget_is_used_up() {
    let gateway = gateway("budget = { usd_total = 0.01 }", "");
    let unpriced = ASK.replace("\"m\"", "\"unpriced\"");
    assert_eq!(gateway.post(CHAT, BEN, &unpriced).await.status, 200);
    assert_eq!(ask(&gateway, BEN).await.status, 200);
    assert_eq!(gateway.post(CHAT, BEN, &unpriced).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn what_was_spent_before_the_start_counts_and_a_reload_forgets_nothing() {
    let gateway = gateway("budget = { usd_total = 0.03 }", "");
    let app = gateway.gateway.app();
    let (runtime, now) = (app.runtime(), app.clock.now());
    let ben = Holder::User("ben".into());
    let budget = runtime.snapshot.users.of_id("ben").expect("a user").limits.as_ref().expect("limits").budget;
    let spent = NanoUsd::from_usd(0.02).expect("an amount");
    app.budgets.restore(ben, (PeriodKind::Total, i64::MIN), spent, &budget, &runtime.calendar, now);
    assert_eq!(ask(&gateway, BEN).await.status, 200);
    assert_eq!(ask(&gateway, BEN).await.status, 429);
    let more = config("budget = { usd_total = 0.04 }", "");
    app.replace(snapshot(&more), &dials()).expect("usable");
    assert_eq!(ask(&gateway, BEN).await.status, 200);
    assert_eq!(ask(&gateway, BEN).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn an_admin_sees_every_budget_page_by_page_and_users_see_none() {
    let gateway = gateway("budget = { usd_per_day = 1, usd_per_month = 5 }", "[tags.team.budget]\nusd_total = 3");
    assert_eq!(ask(&gateway, BEN).await.status, 200);
    let all = gateway.get("/admin/budgets", ADMIN).await.json();
    let rows: Vec<(&Value, &Value, &Value, &Value, &Value)> = all["budgets"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (&row["user"], &row["tag"], &row["period"], &row["limit_usd"], &row["spent_usd"]))
        .collect();
    let null = &Value::Null;
    let text = |text: &str| Value::from(text);
    assert_eq!(
        rows,
        [
            (&text("ben"), null, &text("day"), &text("1"), &text("0.01")),
            (&text("ben"), null, &text("month"), &text("5"), &text("0.01")),
            (null, &text("team"), &text("total"), &text("3"), &text("0.01")),
        ]
    );
    assert!(all["budgets"][0]["resets_at"].as_str().expect("a time").ends_with("T00:00:00.000000Z"), "{all}");
    assert!(all["budgets"][2]["resets_at"].is_null() && all["cursor"].is_null());
    let first = gateway.get("/admin/budgets?limit=1", ADMIN).await.json();
    assert_eq!((&first["cursor"], first["budgets"].as_array().map(Vec::len)), (&text("user ben"), Some(2)));
    let second = gateway.get("/admin/budgets?limit=1&cursor=user%20ben", ADMIN).await.json();
    assert_eq!((&second["budgets"][0]["tag"], &second["cursor"]), (&text("team"), null));
    assert_eq!(gateway.get("/admin/budgets?limit=0", ADMIN).await.status, 400);
    assert_eq!(gateway.get("/admin/budgets", BEN).await.status, 403);
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_run_time_has_a_budget_of_its_own_and_those_of_its_tags() {
    let directory = tempfile::tempdir().expect("a directory");
    let gateway = gateway("", "[tags.team.budget]\nusd_total = 0.02");
    gateway.gateway.app().keys.open(directory.path()).expect("usable");
    gateway.gateway.app().audit.open(directory.path()).expect("usable");
    let mut tokens = Vec::new();
    for grant in [json!({"name": "narrow", "budget": {"usd_total": 0.01}}), json!({"name": "team", "tags": ["team"]})] {
        let made = gateway.post("/admin/keys", ADMIN, &grant.to_string()).await;
        assert_eq!(made.status, 201, "{made:?}");
        tokens.push(made.json()["token"].as_str().expect("a token").to_owned());
    }
    let mut statuses = Vec::new();
    for token in [&tokens[0], &tokens[0], &tokens[1], &tokens[1], &tokens[1]] {
        statuses.push(ask(&gateway, token).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 429, 200, 200, 429]);
    let shown = gateway.get("/admin/budgets", ADMIN).await.json();
    assert!(shown["budgets"][1]["user"].is_string() || shown["budgets"][0]["user"].is_string(), "{shown}");
}

#[cfg(feature = "observability")]
#[tokio::test(start_paused = true)]
async fn refusals_thresholds_and_what_was_billed_above_bounds_are_figures() {
    let gateway = gateway("budget = { usd_total = 0.02 }", "");
    for _ in 0..3 {
        ask(&gateway, BEN).await;
    }
    // One token is allowed, four are billed.
    let short = ASK.replace("\"m\"", "\"tokens\"").replace("\"max_tokens\":4", "\"max_tokens\":0");
    let more = config("budget = { usd_total = 1000 }", "");
    gateway.gateway.app().replace(snapshot(&more), &dials()).expect("usable");
    gateway.post(CHAT, BEN, &short).await;
    let page = gateway.get("/prometheus", "").await;
    let page = String::from_utf8(page.body.to_vec()).expect("text");
    for line in [
        "berry_budget_refusals_total{holder=\"user\"} 1",
        "berry_budget_thresholds_reached_total{percent=\"50\"} 1",
        "berry_budget_thresholds_reached_total{percent=\"100\"} 1",
        "berry_budget_excess_requests_total 0",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}
