//! The commands as a user types them: exit code, what is printed where, what to do next.
#![expect(clippy::unwrap_used, reason = "a test panics where it must")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DEMO: &str = r#"
[users.admin]
name = "Admin"
token = "a-long-enough-token-for-this-test"
[providers.demo]
name = "Demo"
backend_type = "demo"
[providers.demo.demo]
first_token_latency_ms = 0
token_latency_ms = 0
[providers.gone]
name = "Gone"
base_url = "http://127.0.0.1:9/v1"
[providers.off]
name = "Off"
base_url = "http://127.0.0.1:9/v1"
enabled = false
[models.m]
name = "m"
[[models.m.backends]]
provider = "demo"
model = "demo-model"
"#;

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A scratch folder with the test's configuration in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("demo.toml", DEMO);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Run {
        run_in(self.0.path(), arguments)
    }
}

fn run_in(folder: &Path, arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_berry-cli"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("CONFIG_PATH")
        .env_remove("BERRY_URL")
        .env_remove("BERRY_TOKEN")
        .output()
        .unwrap();
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn without_arguments_the_help_is_shown_and_nothing_was_asked() {
    let run = Place::new().run(&[]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("validate-config") && run.err.contains("test-backend"), "{}", run.err);
}

#[test]
fn a_wrong_flag_is_named() {
    let run = Place::new().run(&["validate-config", "--confg", "x"]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("--confg") && run.err.contains("--config"), "{}", run.err);
}

#[test]
fn a_valid_configuration_is_counted() {
    let run = Place::new().run(&["validate-config", "-c", "demo.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(
        run.out.starts_with(
            "✅ Configuration is valid\n  - 3 providers configured\n  - 1 models configured\n  - 1 users configured"
        ),
        "{}",
        run.out
    );
    let counted = json(&Place::new().run(&["--json", "validate-config", "-c", "demo.toml"]).out);
    assert_eq!((&counted["ok"], &counted["providers"]), (&true.into(), &3.into()));
}

#[test]
fn a_bad_configuration_shows_every_problem_with_its_place() {
    let place = Place::new();
    place.write(
        "bad.toml",
        &DEMO.replace("name = \"Admin\"", "nam = \"Admin\"").replace("provider = \"demo\"", "provider = \"dmo\""),
    );
    let run = place.run(&["validate-config", "-c", "bad.toml"]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("bad.toml:3:1") && run.err.contains("did you mean"), "{}", run.err);
    let problems = json(&place.run(&["--json", "validate-config", "-c", "bad.toml"]).out);
    let errors = problems["problems"].as_array().unwrap().iter().filter(|problem| problem["severity"] == "error");
    assert_eq!(errors.count(), 2, "{problems}");
}

#[test]
fn a_missing_file_and_no_file_at_all_say_what_to_do() {
    let place = Place::new();
    let run = place.run(&["validate-config", "-c", "nowhere.toml"]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("nowhere.toml") && run.err.contains("no such file"), "{}", run.err);
    let run = place.run(&["validate-config"]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("berry-cli generate-config -o config.toml"), "{}", run.err);
}

#[test]
fn generated_configurations_are_valid_and_never_replace_a_file_unasked() {
    for advanced in [None, Some("--advanced")] {
        let place = Place::new();
        let generate = |more: &[&'static str]| {
            let mut arguments = vec!["generate-config", "-o", "new.toml"];
            arguments.extend(advanced);
            arguments.extend(more);
            place.run(&arguments)
        };
        assert_eq!(generate(&[]).code, Some(0));
        assert_eq!(place.run(&["validate-config", "-c", "new.toml"]).code, Some(0));
        let written = std::fs::read_to_string(place.path("new.toml")).unwrap();
        assert_eq!(
            written.contains("[settings.smart_ai]"),
            advanced.is_some(),
            "only the advanced one has every table"
        );
        let again = generate(&[]);
        assert_eq!(again.code, Some(2));
        assert!(again.err.contains("--force"), "{}", again.err);
        assert_eq!(generate(&["--force"]).code, Some(0));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(place.path("new.toml")).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}

#[test]
fn health_of_one_provider_and_of_all() {
    let place = Place::new();
    let run = place.run(&["health-check", "-c", "demo.toml", "-p", "demo"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.out.starts_with("✅ Provider demo is healthy"), "{}", run.out);
    let run = place.run(&["health-check", "-c", "demo.toml"]);
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("✅ demo") && run.err.contains("❌ gone"), "{}", run.err);
    place.write("well.toml", &DEMO.replace("[providers.gone]", "[providers.gone]\nenabled = false"));
    let run = place.run(&["health-check", "-c", "well.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.out.starts_with("✅ Health check completed"), "{}", run.out);
}

#[test]
fn an_unknown_and_a_disabled_provider_cannot_be_asked() {
    let place = Place::new();
    for (provider, hint) in [("opnai", "Known: demo, gone, off"), ("off", "providers.off.enabled")] {
        let run = place.run(&["health-check", "-c", "demo.toml", "-p", provider]);
        assert_eq!(run.code, Some(2));
        assert!(run.err.contains(hint), "{}", run.err);
    }
}

#[test]
fn one_token_of_a_backend_proves_it() {
    let place = Place::new();
    let run = place.run(&["test-backend", "-c", "demo.toml", "-p", "demo", "-m", "gpt-4"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.out.starts_with("✅ Backend demo:gpt-4 connectivity test passed"), "{}", run.out);
    let run = place.run(&["--json", "test-backend", "-c", "demo.toml", "-p", "gone", "-m", "gpt-4"]);
    assert_eq!((run.code, &json(&run.out)["ok"]), (Some(1), &false.into()));
}

#[test]
fn figures_without_a_server_name_the_next_step() {
    let run = Place::new().run(&["metrics", "--url", "http://127.0.0.1:9"]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("Is the server running?") && run.err.contains("--url"), "{}", run.err);
}

#[test]
fn an_address_without_a_scheme_is_told_apart_from_a_server_that_is_away() {
    let run = Place::new().run(&["metrics", "--url", "127.0.0.1:9"]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("127.0.0.1:9 is not the address of a server"), "{}", run.err);
    assert!(run.err.contains("http://HOST:PORT"), "{}", run.err);
}

#[test]
fn a_reader_who_has_read_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_berry-cli"));
    let ended = command.args(["completions", "bash"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap()), (Some(0), String::new()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_berry-cli"));
    let ended = command.args(["completions", "bash"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("the result cannot be written"));
}

const SCENARIO: &str = r#"
[simulation]
seconds = 60
requests_per_second = 2
[providers.a]
backend_type = "demo"
[providers.b]
backend_type = "demo"
[models.m]
[[models.m.backends]]
provider = "a"
model = "x"
[[models.m.backends]]
provider = "b"
model = "x"
[upstreams.a]
failure_rate = 0.5
"#;

#[test]
fn a_scenario_is_simulated_the_same_way_every_time_and_drawn() {
    let place = Place::new();
    place.write("s.toml", SCENARIO);
    let run = || place.run(&["simulate", "s.toml", "--strategy", "random", "--seed", "7", "--svg", "s.svg"]);
    let (first, second) = (run(), run());
    assert_eq!((first.code, first.err.as_str()), (Some(0), ""));
    assert_eq!(first.out, second.out);
    for part in
        ["s: random, ", "seed 7", "answered", "first token", "cost", "attempts", "against the best fixed choice, b"]
    {
        assert!(first.out.contains(part), "{part}: {}", first.out);
    }
    let svg = std::fs::read_to_string(place.path("s.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("s: random"));
}

#[test]
fn strategies_are_compared_for_people_and_for_machines() {
    let place = Place::new();
    place.write("s.toml", SCENARIO);
    let text = place.run(&["simulate", "s.toml", "--strategies", "failover, smart_ai"]);
    assert!(text.out.contains("failover ") && text.out.contains("smart_ai "), "{}", text.out);
    let json = place.run(&["--json", "simulate", "s.toml", "--strategies", "all"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["best_fixed"]["backend"], "b");
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 11);
    assert!(results.iter().all(|result| result["requests"] == results[0]["requests"]));
    assert!(results.is_sorted_by_key(|result| result["regret_percent"].as_f64().unwrap()));
}

#[test]
fn a_scenario_that_cannot_be_used_is_told_with_every_problem_and_its_place() {
    let place = Place::new();
    place.write(
        "s.toml",
        &SCENARIO.replace("seconds = 60", "secnds = 60").replace("failure_rate = 0.5", "failure_rate = 5"),
    );
    let run = place.run(&["simulate", "s.toml"]);
    assert_eq!(run.code, Some(2));
    for part in ["s.toml:3:1", "did you mean \"seconds\"?", "s.toml:17:16", "must be 0 to 1"] {
        assert!(run.err.contains(part), "{part}: {}", run.err);
    }
    let wrong = place.run(&["simulate", "s.toml", "--strategy", "fastest"]);
    assert!(wrong.code == Some(2) && wrong.err.contains("the strategies are: weighted_random"), "{}", wrong.err);
}

#[test]
fn mock_serves_a_script_and_fails_as_told() {
    let place = Place::new();
    place.write("upstream.toml", "models = [\"one\"]\nfault_scope = \"all\"\n");
    let mut server = Command::new(env!("CARGO_BIN_EXE_berry-cli"))
        .args(["mock", "--listen", "127.0.0.1:0", "--script", "upstream.toml", "--fault", "none,status:503:9"])
        .current_dir(place.0.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("the mock listens at http://").unwrap().to_owned();
    let get = || {
        let mut tcp = TcpStream::connect(&address).unwrap();
        tcp.write_all(b"GET /v1/models HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        answer
    };
    let (good, bad) = (get(), get());
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(good.starts_with("HTTP/1.1 200") && good.contains("\"one\""), "{good}");
    assert!(bad.starts_with("HTTP/1.1 503") && bad.contains("retry-after: 9"), "{bad}");
}

#[test]
fn mock_says_what_is_wrong_with_a_script() {
    let place = Place::new();
    place.write("upstream.toml", "fault = [\"hang\"]\n");
    let run = run_in(place.0.path(), &["mock", "--script", "upstream.toml"]);
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("upstream.toml") && run.err.contains("fault"), "{}", run.err);
}

#[test]
fn a_load_is_measured_through_a_gateway_and_beside_it() {
    let place = Place::new();
    let mut mock = Command::new(env!("CARGO_BIN_EXE_berry-cli"))
        .args(["mock", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(mock.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("the mock listens at ").unwrap();
    let load = ["--model", "m", "--rate", "100", "--seconds", "0.2", "--connections", "4"];
    let both = [&["--json", "bench", "--url", url, "--direct", url][..], &load].concat();
    let run = place.run(&both);
    let nobody = place.run(&[&["bench", "--url", "http://127.0.0.1:9"][..], &load].concat());
    mock.kill().unwrap();
    mock.wait().unwrap();
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    let report = json(&run.out);
    for side in ["gateway", "direct"] {
        assert_eq!((&report[side]["requests"], &report[side]["errors"]), (&20.into(), &0.into()), "{report}");
    }
    assert!(report["added_us"]["p99"].is_number() && report["gateway"]["latency_us"]["p50"].as_f64() > Some(0.0));
    assert_eq!(nobody.code, Some(2));
    assert!(nobody.err.contains("Does it listen there?"), "{}", nobody.err);
}
