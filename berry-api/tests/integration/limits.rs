//! Rate limits of users: how many pass, what the others are told, and what survives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berry_api::budgets::Reserved;
use berry_api::quotas::{Asked, Counted, Refused, Wish};
use berry_api::telemetry::access::AccessLog;
use berry_core::config::snapshot::{Model, User};
use berry_core::money::NanoUsd;
use berry_core::quota::LimitKind;
use berry_core::time::Instant;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use proptest::prelude::*;

use crate::support::{Answer, TestGateway, snapshot};

const CHAT: &str = "/v1/chat/completions";
const TOKEN: &str = "token-of-lim-the-limited";
const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;

fn config(limits: &str) -> String {
    format!(
        r#"
[users.lim]
token = "{TOKEN}"
allowed_models = ["m", "other"]
{limits}
[providers.one]
base_url = "https://one.test/v1"
api_key = "key-of-one"
[models.m]
name = "m"
strategy = "round_robin"
[[models.m.backends]]
provider = "one"
model = "up"
[models.other]
name = "other"
strategy = "round_robin"
[[models.other.backends]]
provider = "one"
model = "up"
[models.closed]
name = "closed"
strategy = "round_robin"
[[models.closed.backends]]
provider = "one"
model = "up"
"#
    )
}

fn dials() -> HashMap<berry_core::id::ProviderId, Dial> {
    let answer = r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop",
        "message":{"role":"assistant","content":"y"}}],"usage":{"prompt_tokens":6,"completion_tokens":4,"total_tokens":10}}"#;
    let mock = Mock::new(Script { replies: vec![Reply::json(CHAT, answer)], ..Script::default() });
    HashMap::from([("one".into(), Arc::new(move || mock.connect()) as Dial)])
}

fn gateway(limits: &str) -> TestGateway {
    TestGateway::with(&config(limits), AccessLog::default(), dials())
}

async fn ask(gateway: &TestGateway) -> Answer {
    gateway.post(CHAT, TOKEN, ASK).await
}

#[tokio::test(start_paused = true)]
async fn of_a_burst_exactly_the_limit_passes_and_the_rest_learn_when() {
    let gateway = gateway("rate_limit = { requests_per_minute = 30 }");
    let answers = join_all((0..120).map(|_| ask(&gateway))).await;
    let (passed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((passed.len(), refused.len()), (30, 90));
    for answer in refused {
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (429, "rate_limit_exceeded"));
        assert_eq!(answer.header("retry-after"), "60");
        assert_eq!(answer.header("x-ratelimit-limit-requests"), "30");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), "0");
        assert_eq!(answer.header("x-ratelimit-reset-requests"), "60s");
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    let next = ask(&gateway).await;
    assert_eq!((next.status.as_u16(), next.header("x-ratelimit-remaining-requests")), (200, "29"));
}

#[tokio::test(start_paused = true)]
async fn limits_are_checked_after_permission_and_a_refused_request_consumes_nothing() {
    let gateway = gateway("rate_limit = { requests_per_minute = 1 }");
    let check = async |body: &str, status: u16| {
        assert_eq!(gateway.post(CHAT, TOKEN, body).await.status.as_u16(), status, "{body}");
    };
    let refused = [("{", 400), (r#"{"model":"none"}"#, 404), (r#"{"model":"closed"}"#, 403)];
    for (body, status) in refused {
        check(body, status).await;
    }
    check(ASK, 200).await;
    check(ASK, 429).await;
    for (body, status) in refused {
        check(body, status).await;
    }
    // The refused one did not start another minute.
    tokio::time::advance(Duration::from_secs(60)).await;
    check(ASK, 200).await;
}

#[tokio::test(start_paused = true)]
async fn places_come_back_from_requests_that_their_clients_left() {
    let gateway = gateway("rate_limit = { max_concurrent = 1 }");
    for _ in 0..1_000 {
        assert!(ask(&gateway).now_or_never().is_none());
    }
    let app = gateway.gateway.app();
    assert_eq!(app.quotas.running(&"lim".into()), 0);
    let answers = join_all((0..3).map(|_| ask(&gateway))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(app.quotas.running(&"lim".into()), 0);
}

#[tokio::test(start_paused = true)]
async fn places_come_back_from_100_000_aborted_streams() {
    let mock = Mock::new(Script { first_token_latency_ms: 50, keep_requests: Some(0), ..Script::default() });
    let dials = HashMap::from([("one".into(), Arc::new(move || mock.connect()) as Dial)]);
    let limits =
        "rate_limit = { max_concurrent = 10, tokens_per_day = 1_000_000_000_000 }\nbudget = { usd_total = 1000 }";
    let gateway = TestGateway::with(&config(limits), AccessLog::default(), dials);
    let app = gateway.gateway.app();
    let stream = ASK.replace("\"m\",", "\"m\",\"stream\":true,\"max_tokens\":9,");
    for round in 0..10_000 {
        let mut requests: Vec<_> = (0..10).map(|_| Box::pin(gateway.open(CHAT, TOKEN, &stream))).collect();
        for request in &mut requests {
            assert!(request.now_or_never().is_none());
        }
        assert_eq!(app.quotas.running(&"lim".into()), 10);
        // Some are left after their first frame, the others before any.
        if round % 500 == 0 {
            let mut body = requests.pop().expect("ten").await;
            body.frame().await.expect("a frame").expect("whole");
        }
    }
    assert_eq!(app.quotas.running(&"lim".into()), 0);
    let (all, _) = app.quotas.used(&"lim".into(), app.clock.now());
    assert_eq!(all.concurrent, 0);
}

/// Every frame of an answer, with the number of requests that still ran when it was handed over.
async fn frames(path: &str, body: &str) -> Vec<(String, u32)> {
    let mock = Mock::new(Script { first_token_latency_ms: 50, token_latency_ms: 10, ..Script::default() });
    let dials = HashMap::from([("one".into(), Arc::new(move || mock.connect()) as Dial)]);
    let gateway = TestGateway::with(&config("rate_limit = { max_concurrent = 9 }"), AccessLog::default(), dials);
    let app = gateway.gateway.app();
    let mut body = gateway.open(path, TOKEN, body).await;
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        let text = String::from_utf8(frame.expect("a whole answer").into_data().expect("no trailers").to_vec());
        frames.push((text.expect("text"), app.quotas.running(&"lim".into())));
    }
    assert_eq!(app.quotas.running(&"lim".into()), 0, "{path}");
    frames
}

#[tokio::test(start_paused = true)]
async fn a_request_settles_before_the_last_bytes_of_its_answer_leave_and_not_sooner() {
    let stream = r#"{"model":"m","stream":true,"max_tokens":9,"input":"x","messages":[{"role":"user","content":"x"}]}"#;
    // The last one is translated, so that what ends it is our own.
    for (path, last) in [
        (CHAT, "data: [DONE]"),
        ("/v1/responses", "event: response.completed"),
        ("/v1/messages", "event: message_stop"),
    ] {
        let frames = frames(path, stream).await;
        let end = frames.iter().position(|(text, _)| text.contains(last)).expect(path);
        assert!(end > 2, "{path}: {frames:?}");
        for (at, (text, running)) in frames.iter().enumerate() {
            assert_eq!(*running, u32::from(at < end), "{path}: {text}");
        }
    }
    let plain = frames(CHAT, ASK).await;
    assert_eq!(plain.iter().map(|(_, running)| *running).collect::<Vec<_>>(), [0]);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_finished_requests_count() {
    let gateway = gateway("rate_limit = { tokens_per_minute = 20 }");
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(ask(&gateway).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 429]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_for_a_model_concerns_that_model_only() {
    let gateway = gateway("model_rate_limits = { m = { requests_per_minute = 1 } }");
    assert_eq!(ask(&gateway).await.status, 200);
    assert_eq!(ask(&gateway).await.status, 429);
    let other = gateway.post(CHAT, TOKEN, &ASK.replace("\"m\"", "\"other\"")).await;
    assert_eq!((other.status.as_u16(), other.header("x-ratelimit-limit-requests")), (200, ""));
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_limits_and_forgets_nothing() {
    let gateway = gateway("rate_limit = { requests_per_minute = 2 }");
    assert_eq!(ask(&gateway).await.status, 200);
    let other = config("rate_limit = { requests_per_minute = 1 }");
    gateway.gateway.app().replace(snapshot(&other), &dials()).expect("usable");
    assert_eq!(ask(&gateway).await.status, 429);
}

#[tokio::test(start_paused = true)]
async fn an_admin_sees_what_counts_against_a_users_limits() {
    let limits = "tags = [\"admin\"]\n[users.lim.rate_limit]\nrequests_per_minute = 5\ntokens_per_day = 100";
    let gateway = gateway(limits);
    for _ in 0..2 {
        assert_eq!(gateway.post(CHAT, TOKEN, ASK).await.status, 200);
    }
    let shown = gateway.get("/admin/rate-limit-usage?user_id=lim", TOKEN).await.json();
    let (usage, limits) = (&shown["usage"], &shown["limits"]);
    assert_eq!((&shown["user_id"], &usage["requests_this_minute"]), (&"lim".into(), &2.into()), "{shown}");
    assert_eq!((&usage["tokens_this_day"], &usage["concurrent"]), (&20.into(), &0.into()), "{shown}");
    assert!(usage["requests_this_hour"].is_null(), "what is not limited is not counted");
    assert_eq!((&limits["requests_per_minute"], &limits["requests_per_day"]), (&5.into(), &serde_json::Value::Null));
    assert!(!shown.to_string().contains(TOKEN));
    tokio::time::advance(Duration::from_secs(61)).await;
    let later = gateway.get("/admin/rate-limit-usage?user_id=lim", TOKEN).await.json();
    assert_eq!(later["usage"]["requests_this_minute"], 0);
    assert_eq!(gateway.get("/admin/rate-limit-usage?user_id=nobody", TOKEN).await.status, 404);
    assert_eq!(gateway.get("/admin/rate-limit-usage", TOKEN).await.status, 400);
}

/// Admission of one user, at moments of the test's own.
struct Gate {
    gateway: TestGateway,
    user: Arc<User>,
    model: Arc<Model>,
    running: Vec<(Option<Counted>, Option<Reserved>, u64, NanoUsd)>,
}

impl Gate {
    fn new(limits: &str) -> Self {
        let gateway = TestGateway::new(&config(limits));
        let snapshot = Arc::clone(&gateway.gateway.app().runtime().snapshot);
        let user = snapshot.users.of_id("lim").expect("the user");
        let model = Arc::clone(snapshot.models.find("m").expect("the model"));
        Self { gateway, user, model, running: Vec::new() }
    }

    fn admit(&mut self, tokens: u64, cost: NanoUsd, now: Instant) -> Result<(), Refused> {
        let app = self.gateway.gateway.app();
        let runtime = app.runtime();
        let accounts = app.budgets.of(&self.user, &runtime.snapshot);
        let refused = |refusal| Refused::Budget { refusal: Box::new(refusal), bound: cost, now };
        let budgets = |wish| match wish {
            Wish::Look => {
                app.budgets.refusal(&accounts, cost, &runtime.calendar, now).map_or(Ok(None), |no| Err(refused(no)))
            }
            Wish::Reserve => app.budgets.reserve(accounts.clone(), cost, None, &runtime.calendar, now).map_err(refused),
        };
        let asked = Asked { tokens, may_ask: false, now };
        let (counted, _, reserved) = app.quotas.admit(&self.user, &self.model, asked, budgets)?;
        self.running.push((counted, reserved, tokens, cost));
        Ok(())
    }

    /// Ends one that runs; it used all that it might.
    fn end_one(&mut self, now: Instant) -> bool {
        let Some((counted, reserved, tokens, cost)) = self.running.pop() else { return false };
        if let Some(counted) = counted {
            counted.end(tokens, now);
        }
        if let Some(reserved) = reserved {
            reserved.settle(cost);
        }
        true
    }
}

/// When a refused request is told to come back; `None` where that depends on when others end.
fn announced(refused: &Refused) -> Option<Instant> {
    match refused {
        Refused::Limit { denied, .. } => denied.passes_at,
        Refused::Budget { refusal, .. } => refusal.exhausted.resets_at,
    }
}

fn table(name: &str, keys: &[(&str, Option<String>)]) -> String {
    let keys = keys.iter().filter_map(|(key, value)| Some(format!("{key} = {}", value.as_ref()?)));
    format!("{name} = {{ {} }}\n", keys.collect::<Vec<_>>().join(", "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn over_all_limits_together_a_request_is_denied_until_the_announced_instant_and_passes_exactly_at_it(
        minute in prop::option::of(1u64..90), hour in prop::option::of(1u64..120), tokens_minute in prop::option::of(60u64..600),
        tokens_day in prop::option::of(60u64..2_000), places in prop::option::of(1u32..4), of_model in prop::option::of(1u64..20),
        day in prop::option::of(3u64..40), month in prop::option::of(3u64..90),
        steps in prop::collection::vec((1u64..60, 0i64..3, 0u64..40_000), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let usd = |cents: Option<u64>| cents.map(|cents| format!("{}.{:02}", cents / 100, cents % 100));
        let mut gate = Gate::new(&[
            table("rate_limit", &[
                ("requests_per_minute", number(minute)), ("requests_per_hour", number(hour)), ("max_concurrent", number(places.map(u64::from))),
                ("tokens_per_minute", number(tokens_minute)), ("tokens_per_day", number(tokens_day)),
            ]),
            table("model_rate_limits.m", &[("requests_per_minute", number(of_model))]),
            table("budget", &[("usd_per_day", usd(day)), ("usd_per_month", usd(month))]),
        ].concat());
        let mut now = Instant::START;
        for (tokens, cents, wait) in steps {
            now = now + Duration::from_millis(wait);
            let cost = NanoUsd::from_nanos(cents * 10_000_000);
            let Err(refused) = gate.admit(tokens, cost, now) else { continue };
            if announced(&refused).is_none() {
                let limit = match &refused {
                    Refused::Limit { denied, .. } => Some(denied.limit),
                    Refused::Budget { .. } => None,
                };
                prop_assert_eq!(limit, Some(LimitKind::MaxConcurrent));
                prop_assert!(gate.end_one(now));
                prop_assert!(gate.admit(tokens, cost, now).is_ok(), "a place is all that was missing");
                continue;
            }
            while gate.end_one(now) {}
            // Now it depends on nobody else.
            let Err(refused) = gate.admit(tokens, cost, now) else { continue };
            let at = announced(&refused).expect("nothing runs");
            prop_assert!(at > now);
            prop_assert!(gate.admit(tokens, cost, Instant::from_nanos(at.as_nanos() - 1)).is_err(), "{refused:?}");
            prop_assert!(gate.admit(tokens, cost, at).is_ok(), "{refused:?}");
            now = at;
        }
    }
}
