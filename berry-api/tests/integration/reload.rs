//! A new configuration takes the place of the old one under running requests, or does not at all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use berry_api::reload::watch::{PERIOD, on_change};
use berry_api::reload::{Cause, reload};
use berry_api::telemetry::access::AccessLog;
use berry_mock::{Mock, Reply, Script};
use berry_relay::client::Dial;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::support::{ADMIN, CONFIG, TestGateway, snapshot};

const ASK: &str = r#"{"model":"org/wide","messages":[]}"#;

fn gateway(script: Script) -> (TestGateway, HashMap<berry_core::id::ProviderId, Dial>) {
    let mock = Mock::new(script);
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || mock.connect()) as Dial)]);
    (TestGateway::with(CONFIG, AccessLog::default(), dials.clone()), dials)
}

#[tokio::test(start_paused = true)]
async fn what_is_new_is_served_what_is_gone_is_not_and_figures_stay() {
    let (gateway, dials) = gateway(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 200);
    let text = CONFIG
        .replace("[models.off]\nname = \"off\"\nenabled = false", "[models.on]\nname = \"on\"")
        .replace("models.off.", "models.on.")
        .replace("name = \"premium\"", "name = \"renamed\"");
    gateway.gateway.app().replace(snapshot(&text), &dials).unwrap();
    for (model, status) in [("on", 200), ("renamed", 200), ("off", 404)] {
        let answer = gateway.post("/v1/chat/completions", ADMIN, &ASK.replace("org/wide", model)).await;
        assert_eq!(answer.status, status, "{model}");
    }
    let metrics = gateway.get("/metrics", ADMIN).await.json();
    assert_eq!(metrics["models"]["org/wide"]["total_requests"], 1, "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_flight_ends_under_the_configuration_that_it_began_with() {
    let events = ["data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n", "data: [DONE]\n\n"];
    let mut reply = Reply::events("/", events);
    reply.chunks[1].gate = true;
    let mock = Mock::new(Script { replies: vec![reply], ..Script::default() });
    let dial = mock.clone();
    let dials = HashMap::from([("nowhere".into(), Arc::new(move || dial.connect()) as Dial)]);
    let gateway = TestGateway::with(CONFIG, AccessLog::default(), dials.clone());
    let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let connection = Arc::new(gateway.gateway.connection(peer));
    let body = Full::new(Bytes::from_static(br#"{"model":"org/wide","stream":true,"messages":[]}"#));
    let request = Request::post("/v1/chat/completions").header("x-api-key", ADMIN).body(body).unwrap();
    let response = gateway.gateway.handle(&connection, request).await;
    let without = CONFIG.split("[models.wide]").next().unwrap();
    gateway.gateway.app().replace(snapshot(without), &dials).unwrap();
    mock.open_gate();
    let streamed = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(streamed, events.concat());
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_changes_nothing_and_the_error_names_the_place() {
    let (gateway, _) = gateway(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("berry.toml");
    for (text, expected) in [
        ("[users.a]\ntokn = \"x\"\n", "berry.toml:2:1"),
        ("# nothing\n", "no key at all"),
        ("[users.a\n", "berry.toml:1"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = reload(gateway.gateway.app(), &path, Cause::Signal).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn an_admin_reloads_and_is_told_every_problem() {
    let (gateway, _) = gateway(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    assert_eq!(gateway.post("/admin/reload-config", ADMIN, "").await.status, 409);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("berry.toml");
    gateway.gateway.app().config_file.set(path.clone()).unwrap();
    std::fs::write(&path, CONFIG.replace("org/wide", "org/wider")).unwrap();
    let done = gateway.post("/admin/reload-config", ADMIN, "").await;
    assert_eq!((done.status.as_u16(), &done.json()["models"]), (200, &4.into()));
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 404);
    std::fs::write(&path, CONFIG.replace("strategy = \"round_robin\"", "strategie = 1")).unwrap();
    let refused = gateway.post("/admin/reload-config", ADMIN, "").await;
    assert_eq!(refused.status, 400);
    let problems = refused.json()["problems"].to_string();
    assert!(problems.contains("berry.toml:25:1: models.wide.strategie"), "{problems}");
    assert_eq!(gateway.post("/admin/reload-config", crate::support::NARROW, "").await.status, 403);
}

/// A gateway that reloads from a file of its own.
fn with_file() -> (TestGateway, tempfile::TempDir, std::path::PathBuf) {
    let (gateway, _) = gateway(Script { replies: vec![Reply::json("/", "{}")], ..Script::default() });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("berry.toml");
    std::fs::write(&path, CONFIG).unwrap();
    gateway.gateway.app().config_file.set(path.clone()).unwrap();
    (gateway, folder, path)
}

#[tokio::test(start_paused = true)]
async fn the_running_configuration_is_shown_without_a_secret() {
    let (gateway, _folder, path) = with_file();
    gateway.post("/admin/reload-config", ADMIN, "").await;
    let shown = gateway.get("/admin/config", ADMIN).await.json();
    assert_eq!((&shown["generation"], &shown["cause"]), (&1.into(), &"admin ada".into()), "{shown}");
    assert_eq!(shown["file"], path.display().to_string());
    assert_eq!(shown["config"]["models"]["wide"]["strategy"], "round_robin");
    assert!(!shown.to_string().contains(ADMIN) && !shown.to_string().contains("canary"), "{shown}");
    assert!(!shown.to_string().contains('…'), "not even the ends of keys: {shown}");
    // The operator may ask for the ends of keys; a whole one is never shown, and in a diff not even its ends.
    std::fs::write(&path, format!("[settings]\nmask_api_keys = false\n{}", CONFIG.replace("canary", "canary2")))
        .unwrap();
    let reloaded = gateway.post("/admin/reload-config", ADMIN, "").await.json();
    assert!(
        reloaded["changes"].to_string().contains("api_key") && !reloaded.to_string().contains("nary2"),
        "{reloaded}"
    );
    let shown = gateway.get("/admin/config", ADMIN).await.json();
    assert_eq!(shown["config"]["providers"]["nowhere"]["api_key"], "prov…ary2");
    assert_eq!(gateway.get("/admin/config", crate::support::NARROW).await.status, 403);
}

#[tokio::test(start_paused = true)]
async fn a_reload_tells_what_is_different_and_a_dry_run_changes_nothing() {
    let (gateway, _folder, path) = with_file();
    gateway.post("/admin/reload-config", ADMIN, "").await;
    let other = CONFIG.replacen("strategy = \"round_robin\"", "strategy = \"random\"", 1);
    let dry = gateway.post("/admin/config/validate", ADMIN, &other).await.json();
    let expected = serde_json::json!([
        {"path": "models.wide.strategy", "kind": "changed", "from": "round_robin", "to": "random"}
    ]);
    assert_eq!((&dry["valid"], &dry["changes"]), (&true.into(), &expected));
    assert_eq!(gateway.get("/admin/config", ADMIN).await.json()["generation"], 1);
    std::fs::write(&path, &other).unwrap();
    assert_eq!(gateway.post("/admin/reload-config", ADMIN, "").await.json()["changes"], expected);
    let bad = gateway.post("/admin/config/validate", ADMIN, "[users.a\n").await.json();
    assert_eq!(bad["valid"], false);
    assert!(bad["problems"].to_string().contains("the posted configuration:1"), "{bad}");
}

#[tokio::test(start_paused = true)]
async fn a_reload_names_what_has_no_effect_before_the_next_start() {
    let (gateway, _folder, path) = with_file();
    gateway.post("/admin/reload-config", ADMIN, "").await;
    for (keys, waiting) in [
        ("[server]\nbind_address = \"127.0.0.1:1\"\nmax_body_bytes = 2048\n", vec!["server.bind_address"]),
        ("[server]\nbind_address = \"127.0.0.1:2\"\nmax_body_bytes = 4096\n", vec!["server.bind_address"]),
        (
            "[server]\nmax_body_bytes = 4096\n[telemetry]\nlog_format = \"json\"\n",
            vec!["server.bind_address", "telemetry"],
        ),
        ("[server]\nmax_body_bytes = 8192\n[telemetry]\nlog_format = \"json\"\n", vec![]),
    ] {
        std::fs::write(&path, format!("{keys}{CONFIG}")).unwrap();
        let told = gateway.post("/admin/reload-config", ADMIN, "").await.json();
        let problems = told["problems"].as_array().unwrap().iter().filter_map(|problem| problem["message"].as_str());
        let named: Vec<&str> =
            problems.filter_map(|text| text.strip_suffix(": holds from the next start only")).collect();
        assert_eq!(named, waiting, "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_brings_an_earlier_configuration_back() {
    let (gateway, _folder, path) = with_file();
    gateway.post("/admin/reload-config", ADMIN, "").await;
    std::fs::write(&path, CONFIG.replace("org/wide", "org/wider")).unwrap();
    gateway.post("/admin/reload-config", ADMIN, "").await;
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 404);
    let back = gateway.post("/admin/config/rollback", ADMIN, r#"{"generation": 1}"#).await.json();
    assert_eq!((&back["reloaded"], &back["generation"]), (&true.into(), &3.into()), "{back}");
    assert_eq!(gateway.post("/v1/chat/completions", ADMIN, ASK).await.status, 200);
    let history = gateway.get("/admin/config/history", ADMIN).await.json();
    let causes: Vec<_> = history["generations"].as_array().unwrap().iter().map(|past| past["cause"].clone()).collect();
    assert_eq!(causes, ["rollback to 1 by ada", "admin ada", "admin ada"]);
    assert_eq!(gateway.post("/admin/config/rollback", ADMIN, r#"{"generation": 9}"#).await.status, 404);
    assert_eq!(gateway.post("/admin/config/rollback", ADMIN, "{}").await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_failed_reload_is_shown_until_one_succeeds() {
    let (gateway, _folder, path) = with_file();
    std::fs::write(&path, "[users.a\n").unwrap();
    assert_eq!(gateway.post("/admin/reload-config", ADMIN, "").await.status, 400);
    let failure = gateway.get("/admin/config", ADMIN).await.json()["last_failure"]["error"].to_string();
    assert!(failure.contains("berry.toml:1"), "{failure}");
    std::fs::write(&path, CONFIG).unwrap();
    gateway.post("/admin/reload-config", ADMIN, "").await;
    assert!(gateway.get("/admin/config", ADMIN).await.json()["last_failure"].is_null());
    assert_eq!(gateway.get("/admin/config/history", ADMIN).await.json()["failed_reloads"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_is_read_without_a_word_from_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let renew = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    };
    renew();
    let at = folder.path().display();
    let text = format!("[server]\ntls_cert = '{at}/cert.pem'\ntls_key = '{at}/key.pem'\n{CONFIG}");
    let gateway = TestGateway::new(&text);
    let (app, path) = (Arc::clone(gateway.gateway.app()), folder.path().join("berry.toml"));
    std::fs::write(&path, text).unwrap();
    let shown = || Arc::as_ptr(&app.tls.load_full().unwrap());
    let changes = async {
        let first = shown();
        tokio::time::sleep(4 * PERIOD).await;
        assert_eq!(shown(), first, "nothing has changed yet");
        renew();
        tokio::time::sleep(4 * PERIOD).await;
        assert_ne!(shown(), first);
        assert_eq!((app.generations.number(), app.generations.failures()), (1, 0));
        app.shutdown.drain();
    };
    tokio::join!(on_change(Arc::clone(&app), path.clone()), changes);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_brings_certificates_is_the_only_one() {
    let (gateway, folder, path) = with_file();
    let app = Arc::clone(gateway.gateway.app());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let at = folder.path().display();
    let changes = async {
        tokio::time::sleep(4 * PERIOD).await;
        let with_tls = format!("[server]\ntls_cert = '{at}/cert.pem'\ntls_key = '{at}/key.pem'\n{CONFIG}");
        std::fs::write(&path, with_tls).unwrap();
        tokio::time::sleep(12 * PERIOD).await;
        assert_eq!((app.generations.number(), app.tls.load_full().is_some()), (1, true));
        // They are watched from then on.
        std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
        tokio::time::sleep(4 * PERIOD).await;
        assert_eq!((app.generations.number(), app.generations.failures()), (1, 1));
        app.shutdown.drain();
    };
    tokio::join!(on_change(Arc::clone(&app), path.clone()), changes);
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn a_device_or_pipe_in_the_place_of_the_file_holds_up_no_reload() {
    let (gateway, _folder, path) = with_file();
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    let refused = gateway.post("/admin/reload-config", ADMIN, "").await;
    assert_eq!(refused.status, 400);
    assert!(refused.json().to_string().contains("it is not a regular file"));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, CONFIG).unwrap();
    assert_eq!(gateway.post("/admin/reload-config", ADMIN, "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_takes_effect_by_itself_whatever_brought_it() {
    let (gateway, folder, path) = with_file();
    let app = Arc::clone(gateway.gateway.app());
    let strategy = |strategy: &str| CONFIG.replace("\"round_robin\"", &format!("\"{strategy}\""));
    let in_force = || app.generations.outline().tree()["models"]["wide"]["strategy"].clone();
    let changes = async {
        // The clock is paused, so these waits take no time.
        tokio::time::sleep(4 * PERIOD).await;
        assert_eq!(app.generations.number(), 0, "nothing has changed yet");
        std::fs::write(&path, strategy("random")).unwrap();
        tokio::time::sleep(4 * PERIOD).await;
        assert_eq!(in_force(), "random");
        // An editor's rename.
        let beside = folder.path().join("berry.toml.swp");
        std::fs::write(&beside, strategy("failover")).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        tokio::time::sleep(4 * PERIOD).await;
        assert_eq!(in_force(), "failover");
        // An orchestrator's swap of a link.
        #[cfg(unix)]
        {
            std::fs::write(&beside, strategy("least_busy")).unwrap();
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&beside, &link).unwrap();
            std::fs::rename(&link, &path).unwrap();
            tokio::time::sleep(4 * PERIOD).await;
            assert_eq!(in_force(), "least_busy");
        }
        // A file that is gone for a while is no change.
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(4 * PERIOD).await;
        assert_eq!(app.generations.failures(), 0);
        app.shutdown.drain();
    };
    tokio::join!(on_change(Arc::clone(&app), path.clone()), changes);
}
