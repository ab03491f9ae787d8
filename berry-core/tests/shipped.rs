//! Every configuration in the repository loads, says little, and does what its comments say.

use std::path::{Path, PathBuf};

use berry_core::config::snapshot::{Snapshot, Upstream};
use berry_core::config::{Config, Environment, Loaded, Severity};

/// No variable and no file: what is shipped must not depend on the machine.
struct Nothing;

impl Environment for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn read_file(&self, _: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

const SHIPPED: &[&str] = &[
    "config-example.toml",
    "config_example.toml",
    "config_simple.toml",
    "test_config.toml",
    "smart_ai_example.toml",
    "config/smart_ai_example.toml",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn load(name: &str) -> Loaded {
    Config::load(&root().join(name), &Nothing).unwrap_or_else(|error| panic!("{name}:\n{error}"))
}

#[test]
fn each_shipped_file_loads_and_warns_about_its_example_tokens_only() {
    for name in SHIPPED {
        let loaded = load(name);
        let warnings: Vec<String> = loaded
            .warnings
            .lines()
            .filter(|(severity, line)| *severity == Severity::Warning && !line.contains("example"))
            .map(|(_, line)| line)
            .collect();
        assert!(warnings.is_empty(), "{name}: {warnings:#?}");
        assert!(loaded.warnings.iter().count() <= 3, "{name}:\n{}", loaded.warnings);
    }
}

#[test]
fn every_enabled_model_of_a_shipped_file_has_a_demo_backend() {
    for name in SHIPPED {
        let Loaded { snapshot, .. } = load(name);
        for model in snapshot.models.all.iter().filter(|model| model.enabled) {
            let demo = model
                .backends
                .iter()
                .any(|backend| backend.enabled && matches!(backend.provider.upstream, Upstream::Demo(_)));
            assert!(demo, "{name}: {}", model.id);
        }
    }
}

#[test]
fn the_example_shows_every_strategy() {
    let Loaded { snapshot, .. } = load("config-example.toml");
    for (name, strategy) in berry_core::config::snapshot::Strategy::ALL {
        let shown = snapshot.models.all.iter().any(|model| model.enabled && model.strategy == *strategy);
        assert!(shown, "{name}");
    }
}

#[test]
fn each_shipped_file_has_an_administrator_and_answers_to_the_usual_models() {
    for name in SHIPPED {
        let Loaded { snapshot, .. } = load(name);
        assert!(snapshot.users.iter().any(|user| user.admin && user.enabled), "{name}");
        for model in ["gpt-4", "gpt-3.5-turbo"] {
            assert!(snapshot.models.find(model).is_some(), "{name}: {model}");
        }
    }
}

#[test]
fn a_token_and_its_digest_reach_the_same_user() {
    let holder = |snapshot: &Snapshot| {
        let digest = berry_core::auth::key::TokenDigest::of("berry-premium-token-abcde");
        snapshot.users.of_token(&digest).map(|user| user.name.clone())
    };
    assert_eq!(holder(&load("config-example.toml").snapshot).as_deref(), Some("Premium User"));
    assert_eq!(holder(&load("config_example.toml").snapshot).as_deref(), Some("Premium User"));
}

#[test]
fn both_copies_of_the_smart_ai_example_are_the_same() {
    let text = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    assert_eq!(text("smart_ai_example.toml"), text("config/smart_ai_example.toml"));
}
