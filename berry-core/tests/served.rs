//! Models that follow from what providers serve.

use std::path::Path;
use std::sync::Arc;

use berry_core::config::snapshot::{DISCOVERED_MAX, Discovered, Model, Snapshot};
use berry_core::config::{Config, Environment};

/// Nothing outside the test.
struct Nothing;

impl Environment for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn read_file(&self, _: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// Two providers that are asked, `a` and `b`, one that is not, `any`, and one that has a list, `fixed`.
const PROVIDERS: &str = r#"
[providers.a]
base_url = "http://a.invalid"
models = "auto"
[providers.b]
base_url = "http://b.invalid"
models = "auto"
[providers.any]
base_url = "http://any.invalid"
[providers.fixed]
base_url = "http://fixed.invalid"
models = ["gpt-4o", "o3"]
"#;

fn load(text: &str) -> Arc<Snapshot> {
    let text = format!("{PROVIDERS}{text}");
    Config::from_text("config.toml", &text, &Nothing).unwrap_or_else(|error| panic!("{error}")).snapshot
}

fn warnings(text: &str) -> String {
    Config::from_text("config.toml", text, &Nothing).unwrap_or_else(|error| panic!("{error}")).warnings.to_string()
}

fn discovered(lists: &[(&str, &[&str])]) -> Discovered {
    let mut all = Discovered::default();
    for (provider, names) in lists {
        all.learn(&(*provider).into(), &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    }
    all
}

/// Names of models in order, each with its backends.
fn shown(snapshot: &Snapshot) -> Vec<String> {
    let backends = |model: &Model| {
        let each = model.backends.iter().map(|backend| format!("{}:{}", backend.id.provider, backend.id.upstream));
        each.collect::<Vec<_>>().join("+")
    };
    snapshot.models.all.iter().map(|model| format!("{} {}", model.name, backends(model))).collect()
}

fn pattern(name: &str, providers: &[&str]) -> String {
    let table = name.replace(['*', '-'], "_");
    let backends =
        providers.iter().map(|p| format!("[[models.{table}.backends]]\nprovider = \"{p}\"\nmodel = \"$name\"\n"));
    format!("[models.{table}]\nname = \"{name}\"\n") + &backends.collect::<String>()
}

#[test]
fn a_pattern_has_a_model_for_each_name_that_its_providers_serve() {
    let snapshot = load(&pattern("claude-*", &["a", "b"]));
    let lists = discovered(&[("a", &["claude-2", "claude-3", "gpt-4o"]), ("b", &["claude-3"])]);
    let served = snapshot.serving(&lists);
    assert_eq!(shown(&served), ["claude-2 a:claude-2", "claude-3 a:claude-3+b:claude-3"]);
    assert_eq!(served.models.find("claude-3").map(|model| model.id.as_str()), Some("claude-3"));
    assert!(served.models.find("claude-9").is_none(), "nobody serves it");
}

#[test]
fn a_pattern_stays_for_other_names_while_a_provider_serves_whatever_it_is_asked_for() {
    let snapshot = load(&pattern("claude-*", &["a", "any"]));
    assert_eq!(shown(&snapshot.serving(&Discovered::default())), ["claude-* a:$name+any:$name"]);
    let served = snapshot.serving(&discovered(&[("a", &["claude-2"])]));
    assert_eq!(shown(&served), ["claude-* any:$name", "claude-2 a:claude-2+any:claude-2"]);
    assert_eq!(served.models.find("claude-9").map(|model| model.name.as_str()), Some("claude-*"));
}

#[test]
fn exact_beats_pattern_and_the_closest_pattern_has_the_name() {
    let exact = "[models.mine]\nname = \"gpt-4o\"\n[[models.mine.backends]]\nprovider = \"any\"\nmodel = \"x\"\n";
    let off = "[models.off]\nname = \"gpt-off\"\nenabled = false\n";
    let text = [&pattern("*", &["b"]), &pattern("gpt-*", &["a"]), exact, off].concat();
    let lists = discovered(&[("a", &["gpt-4o", "gpt-5", "gpt-off"]), ("b", &["gpt-5", "o3"])]);
    assert_eq!(shown(&load(&text).serving(&lists)), ["o3 b:o3", "gpt-5 a:gpt-5", "gpt-4o any:x", "gpt-off "]);
}

#[test]
fn a_list_in_the_configuration_counts_as_one_that_was_read() {
    let served = load(&pattern("gpt-*", &["fixed"])).serving(&Discovered::default());
    assert_eq!(shown(&served), ["gpt-4o fixed:gpt-4o"]);
    assert!(served.models.find("gpt-5").is_none());
}

#[test]
fn what_is_exposed_is_published_under_its_providers_name() {
    let expose = |keys| {
        PROVIDERS.replace(
            "models = \"auto\"\n[providers.b]",
            &format!("models = \"auto\"\nexpose_models = {keys}\n[providers.b]"),
        )
    };
    let load = |text: String| Config::from_text("config.toml", &text, &Nothing).unwrap().snapshot;
    let lists = discovered(&[("a", &["gpt-4o", "o3"])]);
    assert_eq!(shown(&load(expose("true")).serving(&lists)), ["a/gpt-4o a:gpt-4o", "a/o3 a:o3"]);
    assert_eq!(shown(&load(expose("[\"gpt-*\"]")).serving(&lists)), ["a/gpt-4o a:gpt-4o"]);
    assert!(shown(&load(expose("false")).serving(&lists)).is_empty());
    assert!(load(expose("true")).serving(&lists).models.find("a/o3").is_some());
    let off = expose("true").replace("[providers.a]", "[providers.a]\nenabled = false");
    assert!(shown(&load(off).serving(&lists)).is_empty(), "what is switched off publishes nothing");
}

#[test]
fn what_comes_of_a_pattern_keeps_its_settings_and_is_priced_by_its_own_name() {
    let text = pattern("gpt-*", &["a"]).replace("[[", "strategy = \"round_robin\"\n[[")
        + "tags = [\"eu\"]\n[pricing.\"gpt-4o\"]\ninput_price = 1.0\noutput_price = 2.0\n";
    let served = load(&text).serving(&discovered(&[("a", &["gpt-4o"])]));
    let model = served.models.find("gpt-4o").unwrap();
    assert_eq!((model.strategy.as_str(), model.backends[0].tags.as_slice()), ("round_robin", &["eu".to_owned()][..]));
    assert!(model.backends[0].derived && model.pattern.is_none());
    assert!(model.backends[0].tariff.is_known());
    assert_eq!(model.aliases[0].as_str(), "gpt__", "the table's name is good in allowed_models");
}

#[test]
fn a_configuration_without_patterns_and_published_models_is_left_as_it_is() {
    let snapshot = load("");
    assert!(Arc::ptr_eq(&snapshot, &snapshot.serving(&discovered(&[("a", &["x"])]))));
}

#[test]
fn hostile_lists_are_cut_to_what_a_configuration_could_hold() {
    let mut names: Vec<String> = (0..DISCOVERED_MAX + 10).map(|n| format!("model-{n:05}")).collect();
    names.extend(["", " x", "a\nb", "*"].map(str::to_owned));
    names.push("x".repeat(300));
    let mut lists = Discovered::default();
    assert!(lists.learn(&"a".into(), &names));
    assert_eq!(lists.of(&"a".into()).unwrap().len(), DISCOVERED_MAX);
    assert!(lists.of(&"a".into()).unwrap().iter().all(|name| name.as_str().starts_with("model-")));
    names.reverse();
    assert!(!lists.learn(&"a".into(), &names), "the order says nothing");
}

#[test]
fn lists_that_cannot_be_had_are_told() {
    let azure = "[providers.z]\nbase_url = \"https://x.openai.azure.com\"\napi_key = \"0123456789abcdef0123\"\nmodels = \"auto\"\n";
    assert!(warnings(azure).contains("Azure's list names what could be deployed"));
    let open = "[providers.z]\nbase_url = \"http://h\"\nexpose_models = true\n";
    assert!(warnings(open).contains("publishes nothing"));
}
