//! docs/configuration.md says what the code says, and the complete example shows every key with its default.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use berry_core::config::{Config, EXAMPLE, KeyFacts, ProcessEnvironment, keys, reference};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_configuration_page_is_up_to_date() {
    let path = root().join("docs/configuration.md");
    let expected = reference();
    if std::env::var_os("BERRY_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/configuration.md is stale; write it anew with: BERRY_UPDATE_DOCS=1 cargo test -p berry-core --test docs"
    );
}

/// The example with every key that is commented out taken in: `#key = …` and `#[table]`, without a space.
fn with_everything() -> String {
    let taken_in = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|line| taken_in(line) + "\n").collect()
}

/// Every `header`, key, value and comment of a text, headers with names replaced by `NAME` as the schema has them.
fn lines_of(text: &str) -> Vec<(String, String, String, String)> {
    let mut header = String::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let (code, comment) = line.split_once(" #").unwrap_or((line, ""));
        let code = code.trim();
        if code.starts_with('[') {
            header = generic(code);
        } else if let Some((key, value)) = code.split_once('=').filter(|_| !code.starts_with('#')) {
            let key = key.trim().to_owned();
            lines.push((header.clone(), key, value.trim().to_owned(), comment.trim().to_owned()));
        }
    }
    lines
}

/// `[users.user1.rate_limit]` as `[users.NAME.rate_limit]`.
fn generic(header: &str) -> String {
    let named = ["users", "providers", "models", "pricing", "tags", "model_rate_limits"];
    let inside = header.trim_matches(['[', ']']);
    // Names in quotes may hold dots.
    let mut parts: Vec<String> = Vec::new();
    let mut quoted = false;
    let mut part = String::new();
    for c in inside.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            _ => part.push(c),
        }
    }
    parts.push(part);
    for at in 1..parts.len() {
        if named.contains(&parts[at - 1].as_str()) && (at == 1 || parts[at - 1] == "model_rate_limits") {
            "NAME".clone_into(&mut parts[at]);
        }
    }
    let inside = parts.join(".");
    if header.starts_with("[[") { format!("[[{inside}]]") } else { format!("[{inside}]") }
}

#[test]
fn the_complete_example_shows_every_key() {
    let shown: BTreeSet<(String, String)> =
        lines_of(&with_everything()).into_iter().map(|(header, key, ..)| (header, key)).collect();
    let missing: Vec<String> = keys()
        .into_iter()
        .filter(|key| key.is_value && !shown.contains(&(key.table.clone(), key.name.to_owned())))
        // Written in one line on its owner's table.
        .filter(|key| key.table != "[models.NAME.commit]")
        // One of the two ways to limit; the keys are those of rate_limit.
        .filter(|key| key.table != "[users.NAME.model_rate_limits.NAME]" || key.name == "requests_per_minute")
        .map(|key| format!("{} {}", key.table, key.name))
        .collect();
    assert!(missing.is_empty(), "not in config-example.toml: {missing:#?}");
}

#[test]
fn the_complete_example_gives_every_default() {
    let lines = lines_of(&with_everything());
    for KeyFacts { table, name, default, .. } in keys() {
        let Some(default) = default else { continue };
        let mut shown = lines.iter().filter(|(header, key, ..)| *header == table && key == name).peekable();
        if shown.peek().is_none() {
            continue;
        }
        let told = shown
            .any(|(_, _, value, comment)| same(value, &default) || comment.contains(&format!("default {default}")));
        assert!(told, "config-example.toml does not give the default of {table} {name}: {default}");
    }
}

/// Whether two TOML values are the same: `15` and `15.0` are.
fn same(a: &str, b: &str) -> bool {
    a == b || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

#[test]
fn the_complete_example_explains_every_key() {
    let lines = lines_of(&with_everything());
    // A key with the same meaning in several tables needs its words in one of them.
    let explained: BTreeSet<&str> =
        lines.iter().filter(|(.., comment)| !comment.is_empty()).map(|(_, key, ..)| key.as_str()).collect();
    let silent: BTreeSet<&str> =
        lines.iter().map(|(_, key, ..)| key.trim_matches('"')).filter(|key| !explained.contains(key)).collect();
    let known: BTreeSet<&str> = keys().iter().map(|key| key.name).collect();
    let silent: Vec<&&str> = silent.intersection(&known).collect();
    assert!(silent.is_empty(), "no words in config-example.toml for {silent:?}");
}

#[test]
fn the_complete_example_with_every_key_taken_in_is_right_too() {
    struct Variables;
    impl berry_core::config::Environment for Variables {
        fn var(&self, _: &str) -> Option<String> {
            Some("value".to_owned())
        }
        fn read_file(&self, path: &Path) -> std::io::Result<String> {
            let is_data = path.extension().is_some_and(|end| end == "toml");
            Ok(if is_data { String::new() } else { "value".to_owned() })
        }
    }
    Config::from_text("config-example.toml", &with_everything(), &Variables).unwrap_or_else(|error| panic!("{error}"));
    Config::from_text("config-example.toml", EXAMPLE, &ProcessEnvironment).unwrap_or_else(|error| panic!("{error}"));
}
