//! Wrong configurations and what is said about them: one file of `bad/` and one snapshot each.
#![expect(clippy::unwrap_used, reason = "a test may stop at once")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use berry_core::config::{Config, Environment, LoadError, Severity};

/// One variable that is set; no file.
struct OneVariable;

impl Environment for OneVariable {
    fn var(&self, name: &str) -> Option<String> {
        (name == "SET").then(|| "canary-from-the-environment".to_owned())
    }

    fn read_file(&self, _: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Name and text of every wrong file.
fn files() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = fs::read_dir(tests().join("bad"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn load(name: &str, text: &str) -> LoadError {
    match Config::from_text(&format!("{name}.toml"), text, &OneVariable) {
        Ok(loaded) => panic!("{name} is right:\n{}", loaded.warnings),
        Err(error) => error,
    }
}

#[test]
fn each_wrong_file_is_told_what_is_wrong() {
    let files = files();
    assert!(files.len() >= 60, "{}", files.len());
    for (name, text) in files {
        let rendered = load(&name, &text).to_string();
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name.as_str(), rendered);
        });
    }
}

#[test]
fn no_secret_is_in_any_message() {
    for (name, text) in files() {
        let error = load(&name, &text);
        let report = error.report().unwrap();
        let lines: Vec<String> = report.lines().map(|(_, line)| line).collect();
        for shown in [error.to_string(), error.render(true), lines.join("\n"), format!("{error:?}")] {
            assert!(!shown.contains("canary"), "{name}:\n{shown}");
        }
    }
}

#[test]
fn each_error_has_a_place_except_in_an_empty_file() {
    for (name, text) in files() {
        let error = load(&name, &text);
        let report = error.report().unwrap();
        for problem in report.iter().filter(|problem| problem.severity == Severity::Error) {
            let has_place = problem.place.is_some();
            assert!(has_place != matches!(name.as_str(), "empty" | "only_comments"), "{name}: {problem}");
        }
    }
}

#[test]
fn there_is_no_snapshot_without_its_file() {
    let names: BTreeSet<String> = files().into_iter().map(|(name, _)| name).collect();
    for entry in fs::read_dir(tests().join("snapshots")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let stem = name.strip_suffix(".snap").unwrap_or_else(|| panic!("{name} is not a finished snapshot"));
        assert!(names.contains(stem), "{name}");
    }
}

#[test]
fn colour_changes_nothing_but_colour() {
    let (name, text) = files().into_iter().find(|(name, _)| name == "many").unwrap();
    let error = load(&name, &text);
    let coloured = error.render(true);
    assert!(coloured.contains("\u{1b}["));
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert_eq!(plain, error.render(false));
}
