//! The ledger of a gateway: exactly one row for each request, however it ends, and who may read which rows.

use berry_api::ledger::{LOOK_EVERY, watch};
use berry_api::telemetry::access::AccessLog;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::fleet::{Fleet, Plan, chat, plan};
use crate::support::{ADMIN, CONFIG, NARROW, TestGateway, snapshot};

/// A gateway with a ledger in a folder of its own.
async fn recorded(plan: Plan) -> (Fleet, tempfile::TempDir) {
    let fleet = plan.build().await;
    let directory = tempfile::tempdir().unwrap();
    let app = fleet.gateway.gateway.app();
    app.ledger.open(&app.runtime().snapshot.ledger, directory.path(), 1).unwrap();
    (fleet, directory)
}

/// What `/admin/usage` says, with everything that was recorded.
async fn usage(fleet: &Fleet, query: &str) -> Value {
    fleet.gateway.gateway.app().ledger.flush();
    let answer = fleet.gateway.get(&format!("/admin/usage?{query}"), ADMIN).await;
    assert_eq!(answer.status, 200, "{query}: {:?}", answer.body);
    answer.json()
}

/// How far a client reads.
#[derive(Clone, Copy)]
enum Reads {
    Everything,
    /// Leaves before the head of an answer.
    Nothing,
    /// Leaves after so many pieces of the body.
    Pieces(usize),
}

/// The one row of a request whose upstreams fail so.
async fn row(faults: &[&str], streamed: bool, reads: Reads) -> Value {
    let settings = "max_internal_retries = 0\nstream_idle_timeout_seconds = 2\ncompletion_timeout_seconds = 2";
    let plan = (0..faults.len()).fold(plan(faults), |plan, place| {
        plan.backend(place, "input_price = 1.0\noutput_price = 2.0\nrequest_price = 0.5")
    });
    let (fleet, _directory) = recorded(plan.settings(settings)).await;
    match reads {
        Reads::Everything => drop(fleet.ask(streamed).await),
        Reads::Nothing => {
            let begun = tokio::time::timeout(std::time::Duration::from_millis(50), fleet.begin(chat(streamed))).await;
            assert!(begun.is_err(), "the upstream waits");
        }
        Reads::Pieces(pieces) => {
            let mut body = fleet.begin(chat(streamed)).await.into_body();
            for _ in 0..pieces {
                body.frame().await.unwrap().unwrap();
            }
        }
    }
    let answer = usage(&fleet, "").await;
    let rows = answer["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{faults:?}: {answer}");
    rows[0].clone()
}

#[tokio::test(start_paused = true)]
async fn a_request_has_one_row_with_its_attempts_and_tokens_however_it_ends() {
    use Reads::{Everything, Nothing, Pieces};
    // Faults, whether streamed, how far the client reads; status, class of error, outcomes, tokens in and out, whether estimated, cost.
    // A body of 71 bytes is estimated as 18 tokens.
    let cases = [
        (&["none"][..], false, Everything, json!([200, null, ["success"], 7, 8, false, "0.500023"])),
        (&["none"], true, Everything, json!([200, null, ["success"], 7, 8, false, "0.500023"])),
        (
            &["status:500", "none"],
            false,
            Everything,
            json!([200, null, ["server", "success"], 7, 8, false, "0.500023"]),
        ),
        (&["garbage", "none"], false, Everything, json!([200, null, ["server", "success"], 7, 8, false, "1.000023"])),
        (&["close:0", "none"], true, Everything, json!([200, null, ["network", "success"], 7, 8, false, "1.000023"])),
        (
            &["close:3"],
            true,
            Everything,
            json!([200, "stream_incomplete", ["stream_incomplete"], 18, 3, true, "0.500024"]),
        ),
        (&["error-event:3"], true, Everything, json!([200, "upstream_error", ["server"], 18, 3, true, "0.500024"])),
        (&["no-usage"], true, Everything, json!([200, null, ["success"], 18, 8, true, "0.500034"])),
        (&["no-usage"], false, Everything, json!([200, null, ["success"], 15, 6, true, "0.500027"])),
        (&["hang"], false, Nothing, json!([0, "cancelled", ["cancelled"], null, null, false, null])),
        (&["stall:head"], true, Nothing, json!([0, "cancelled", ["cancelled"], null, null, false, "0.5"])),
        (&["stall:3"], true, Pieces(4), json!([200, "cancelled", ["cancelled"], 18, 3, true, "0.500024"])),
        (&["hang"], false, Everything, json!([504, "upstream_timeout", ["timeout"], null, null, false, null])),
        (&["stall:3"], true, Everything, json!([200, "upstream_timeout", ["timeout"], 18, 3, true, "0.500024"])),
        (
            &["context-length"],
            false,
            Everything,
            json!([400, "caller_fault", ["caller_fault"], null, null, false, null]),
        ),
        (&["status:500"], true, Everything, json!([500, "server", ["server"], null, null, false, null])),
    ];
    let mut wrong = Vec::new();
    for (faults, streamed, reads, expected) in cases {
        let row = row(faults, streamed, reads).await;
        let outcomes: Vec<&Value> = row["attempts"].as_array().unwrap().iter().map(|one| &one["outcome"]).collect();
        let usage = &row["usage"];
        let got = json!([
            row["status"],
            row["error_class"],
            outcomes,
            usage["input_tokens"],
            usage["output_tokens"],
            usage["estimated"],
            row["cost_usd"]
        ]);
        if got != expected {
            wrong.push(format!("{faults:?}, streamed: {streamed}:\n  {got}\n  {expected}"));
        }
    }
    assert!(wrong.is_empty(), "got and expected:\n{}", wrong.join("\n"));
}

/// Two users of whom one is no administrator, and what they ask for.
const TWO: &str = r#"
[users.ada]
token = "token-of-ada-the-admin"
tags = ["admin"]
[users.ned]
token = "token-of-ned-the-narrow"
[providers.demo]
backend_type = "demo"
demo = { first_token_latency_ms = 0, token_latency_ms = 0 }
[models.m]
name = "m"
[[models.m.backends]]
provider = "demo"
model = "up"
[models.other]
name = "other"
[[models.other.backends]]
provider = "demo"
model = "up-too"
[ledger]
hash_end_users = HASH
"#;

async fn two_users(hash: bool) -> (TestGateway, tempfile::TempDir) {
    let config = TWO.replace("HASH", &hash.to_string());
    let dials = berry_api::demo::dials(snapshot(&config).providers.values());
    let gateway = TestGateway::with(&config, AccessLog::default(), dials);
    let directory = tempfile::tempdir().unwrap();
    let app = gateway.gateway.app();
    app.ledger.open(&app.runtime().snapshot.ledger, directory.path(), 1).unwrap();
    for (token, model, user, label) in [
        (ADMIN, "m", "eve", "team=a,job=1"),
        (ADMIN, "other", "eve", "team=b"),
        (NARROW, "m", "fay", "team=a"),
        (NARROW, "none", "fay", "team=a"),
    ] {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str()), ("x-berry-labels", label), ("x-request-id", "job-7")];
        let body = format!(r#"{{"model":"{model}","user":"{user}","messages":[{{"role":"user","content":"x"}}]}}"#);
        gateway.send(Method::POST, "/v1/chat/completions", &headers, &body).await;
    }
    gateway.post("/v1/chat/completions", "a-wrong-token", &chat(false)).await;
    (gateway, directory)
}

async fn asked(gateway: &TestGateway, path: &str, token: &str) -> Value {
    let answer = gateway.get(path, token).await;
    assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
    answer.json()
}

#[tokio::test]
async fn rows_are_found_by_what_was_asked_for_and_a_wrong_token_leaves_none() {
    let (gateway, _directory) = two_users(false).await;
    let count = async |query: &str| {
        let page = asked(&gateway, &format!("/admin/usage?{query}"), ADMIN).await;
        page["rows"].as_array().unwrap().len()
    };
    for (query, expected) in [
        ("", 4),
        ("user=ned", 2),
        ("model=m", 2),
        ("provider=demo", 3),
        ("status=404", 1),
        ("error_class=model_not_found", 1),
        ("end_user=eve", 2),
        ("label=team%3Da", 3),
        ("label=job%3D1", 1),
        ("user=ned&model=m&from=1h", 1),
        ("to=1h", 0),
        ("user=nobody", 0),
        ("limit=3", 3),
    ] {
        assert_eq!(count(query).await, expected, "{query}");
    }
    let page = asked(&gateway, "/admin/usage?model=m&user=ada", ADMIN).await;
    let row = &page["rows"][0];
    assert_eq!(row["client_request_id"], "job-7");
    assert_eq!(row["labels"], "team=a,job=1");
    assert_eq!((&row["end_user"], &row["upstream_model"], &row["priced"]), (&json!("eve"), &json!("up"), &json!(true)));
    assert_eq!(row["attempts"][0]["reason"], "strategy");
    assert!(row["request_id"].as_str().unwrap().starts_with("req_") && row["duration_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn pages_follow_each_other_and_every_row_is_on_one() {
    let (gateway, _directory) = two_users(false).await;
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page = asked(&gateway, &format!("/admin/usage?limit=1{cursor}"), ADMIN).await;
        seen.extend(page["rows"].as_array().unwrap().iter().map(|row| row["request_id"].to_string()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let all = asked(&gateway, "/admin/usage", ADMIN).await;
    let all: Vec<String> = all["rows"].as_array().unwrap().iter().map(|row| row["request_id"].to_string()).collect();
    assert_eq!((seen.len(), &seen), (4, &all));
}

#[tokio::test]
async fn sums_are_made_by_one_or_several_names_and_by_time() {
    let (gateway, _directory) = two_users(false).await;
    let sums = async |by: &str| {
        let answer = asked(&gateway, &format!("/admin/usage?group_by={by}"), ADMIN).await;
        let groups = answer["groups"].as_array().unwrap().iter();
        let mut groups: Vec<String> = groups
            .map(|sum| {
                let mut group = sum["group"].clone();
                group.as_object_mut().unwrap().remove("time");
                format!("{group} {} {}", sum["requests"], sum["errors"])
            })
            .collect();
        groups.sort();
        groups
    };
    assert_eq!(sums("all").await, ["{} 4 1"]);
    assert_eq!(sums("user").await, [r#"{"user":"ada"} 2 0"#, r#"{"user":"ned"} 2 1"#]);
    assert_eq!(sums("day").await, ["{} 4 1"]);
    assert_eq!(sums("hour,end_user").await, [r#"{"end_user":"eve"} 2 0"#, r#"{"end_user":"fay"} 2 1"#]);
    assert_eq!(sums("label:team").await, [r#"{"label:team":"a"} 3 1"#, r#"{"label:team":"b"} 1 0"#]);
    assert_eq!(
        sums("user,model").await,
        [
            r#"{"model":"m","user":"ada"} 1 0"#,
            r#"{"model":"m","user":"ned"} 1 0"#,
            r#"{"model":"other","user":"ada"} 1 0"#,
            r#"{"model":null,"user":"ned"} 1 1"#,
        ]
    );
}

#[tokio::test]
async fn a_user_sees_rows_of_its_own_only_and_no_other_sees_all() {
    let (gateway, _directory) = two_users(false).await;
    for path in ["/v1/usage", "/v1/usage?user=ada"] {
        let page = asked(&gateway, path, NARROW).await;
        let users: Vec<&Value> = page["rows"].as_array().unwrap().iter().map(|row| &row["user"]).collect();
        assert_eq!(users, ["ned", "ned"], "{path}");
    }
    let sums = asked(&gateway, "/v1/usage?group_by=user", NARROW).await;
    assert_eq!(sums["groups"].as_array().unwrap().len(), 1);
    assert_eq!(gateway.get("/admin/usage", NARROW).await.status, 403);
    assert_eq!(gateway.get("/v1/usage", "a-wrong-token").await.status, 401);
}

#[tokio::test]
async fn everything_can_be_taken_away_as_a_table_or_as_lines_of_json() {
    let (gateway, _directory) = two_users(false).await;
    let csv = gateway.get("/admin/usage?format=csv", ADMIN).await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    let csv = String::from_utf8(csv.body.to_vec()).unwrap();
    let lines: Vec<&str> = csv.split_terminator('\n').collect();
    assert_eq!(lines.len(), 5);
    assert!(
        lines[0].starts_with("time,request_id,client_request_id,user,") && lines[4].contains("\"team=a,job=1\""),
        "{csv}"
    );
    let jsonl = gateway.get("/admin/usage?format=jsonl", ADMIN).await;
    let rows: Vec<Value> = jsonl
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(json!(rows), asked(&gateway, "/admin/usage", ADMIN).await["rows"]);
    let sums = gateway.get("/admin/usage?format=csv&group_by=user", ADMIN).await;
    assert!(sums.body.starts_with(b"user,requests,errors,"), "{:?}", sums.body);
}

#[tokio::test]
async fn end_users_are_recorded_as_hashes_where_that_is_asked_for() {
    let (gateway, _directory) = two_users(true).await;
    let page = asked(&gateway, "/admin/usage?user=ada", ADMIN).await;
    let hash = berry_core::end_user::hashed("eve");
    assert_eq!(page["rows"][0]["end_user"], hash);
    assert!(!page.to_string().contains("eve"));
    // Whoever has the name finds its rows.
    let found = asked(&gateway, "/admin/usage?end_user=eve", ADMIN).await;
    assert_eq!(found["rows"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_administrator_copies_the_ledger_and_makes_it_forget_a_user_of_a_client() {
    for hash in [false, true] {
        let (gateway, _directory) = two_users(hash).await;
        let made = gateway.post("/admin/ledger/backup", ADMIN, "").await.json();
        let file = made["file"].as_str().unwrap().to_owned();
        assert!(std::fs::metadata(&file).unwrap().len() > 0, "{made}");
        let erased = gateway.post("/admin/ledger/erase", ADMIN, r#"{"end_user":"eve"}"#).await;
        assert_eq!(erased.json(), json!({"erased_rows": 2}), "hashed: {hash}");
        let left = asked(&gateway, "/admin/usage?group_by=end_user", ADMIN).await;
        assert_eq!(left["groups"].as_array().unwrap().len(), 2, "fay, and nobody: {left}");
        let audit = asked(&gateway, "/admin/audit", ADMIN).await.to_string();
        assert!(audit.contains("ledger.erase") && !audit.contains("eve"), "{audit}");
        assert_eq!(gateway.post("/admin/ledger/erase", NARROW, r#"{"end_user":"eve"}"#).await.status, 403);
        assert_eq!(gateway.post("/admin/ledger/erase", ADMIN, "{}").await.status, 400);
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_and_without_a_ledger_so_is_every_question() {
    let (gateway, _directory) = two_users(false).await;
    for wrong in
        ["users=x", "group_by=colour", "group_by=hour,day", "cursor=x", "limit=0", "from=soon", "group_by=label:"]
    {
        let answer = gateway.get(&format!("/admin/usage?{wrong}"), ADMIN).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (400, "invalid_request"), "{wrong}");
    }
    let without = TestGateway::new(CONFIG);
    let answer = without.get("/admin/usage", ADMIN).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (503, "ledger_unavailable"));
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_another_process_has_is_opened_when_that_process_is_gone() {
    let (other, directory) = recorded(plan(&["none"])).await;
    let fleet = plan(&["none"]).build().await;
    let app = fleet.gateway.gateway.app();
    app.ledger.open(&app.runtime().snapshot.ledger, directory.path(), 2).unwrap_err();
    let told = async || asked(&fleet.gateway, "/health", "").await["ledger"]["status"].clone();
    let changes = async {
        tokio::time::sleep(2 * LOOK_EVERY).await;
        assert_eq!(told().await, "unavailable");
        drop(other);
        tokio::time::sleep(2 * LOOK_EVERY).await;
        assert_eq!(told().await, "ok");
        fleet.ask(false).await;
        assert_eq!(usage(&fleet, "").await["rows"].as_array().unwrap().len(), 1);
        app.shutdown.drain();
    };
    tokio::join!(watch(std::sync::Arc::clone(app)), changes);
}

#[tokio::test]
async fn a_gateway_without_its_ledger_serves_unless_it_may_not() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (on_failure, status, told) in [("open", 200, "unavailable"), ("closed", 503, "unavailable")] {
        let config = TWO.replace("HASH", &format!("false\non_failure = \"{on_failure}\""));
        let dials = berry_api::demo::dials(snapshot(&config).providers.values());
        let gateway = TestGateway::with(&config, AccessLog::default(), dials);
        let app = gateway.gateway.app();
        // A file is in the way of the folder.
        app.ledger.open(&app.runtime().snapshot.ledger, file.path(), 1).unwrap_err();
        let answer = gateway.post("/v1/chat/completions", ADMIN, &chat(false)).await;
        assert_eq!(answer.status.as_u16(), status, "{on_failure}: {:?}", answer.body);
        let health = asked(&gateway, "/health", "").await;
        assert_eq!(health["ledger"]["status"], told);
        assert!(health["ledger"]["reason"].as_str().is_some_and(|reason| reason.contains("journal")), "{health}");
    }
}
