//! Keeps documents true: every event in the sources is a row of docs/logging.md, with level and fields, and the other way round;
//! every code of an error stands in docs/api-guide.md, every alert in docs/operations.md.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// One `tracing` call, or one row of the page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    /// The message, up to what is filled in.
    message: String,
    level: String,
    fields: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The arguments of a macro call: what stands between commas that no bracket or string encloses. `text` begins behind `(`.
fn arguments(text: &str) -> Vec<String> {
    let (mut all, mut one, mut depth, mut quoted, mut escaped) = (Vec::new(), String::new(), 0, false, false);
    for c in text.chars() {
        match c {
            '"' if !escaped => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                all.push(std::mem::take(&mut one));
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        one.push(c);
    }
    all.push(one);
    all.iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

fn event(level: &str, text: &str) -> Event {
    let (mut message, mut fields) = (String::new(), BTreeSet::new());
    for argument in arguments(text) {
        if let Some(quoted) = argument.strip_prefix('"') {
            message = quoted.split(['{', '"']).next().unwrap().to_owned();
        } else if !argument.starts_with("target:") {
            let name = argument.split('=').next().unwrap().trim_matches(['%', '?', ' ']);
            fields.insert(name.to_owned());
        }
    }
    Event { message, level: level.to_owned(), fields }
}

/// Every event that the sources can make whose message does not consist of a variable alone.
fn made() -> BTreeSet<Event> {
    let mut files = Vec::new();
    for package in ["berry-core", "berry-loadbalance", "berry-relay", "berry-api"] {
        sources(&root().join(package).join("src"), &mut files);
    }
    let mut events = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for level in LEVELS {
            let call = format!("tracing::{level}!(");
            events.extend(text.split(&call).skip(1).map(|rest| event(level, rest)));
        }
    }
    events.into_iter().filter(|event| !event.message.is_empty()).collect()
}

/// The texts between backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every row of the page, once for each of its levels.
fn described(page: &str) -> BTreeSet<Event> {
    let table = page.split("## Events").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut events = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let message = &code(cells[0])[0];
        let message = message.split("...").next().unwrap().to_owned();
        for level in cells[1].split(", ") {
            let fields = cells.get(3).copied().map(code).unwrap_or_default().into_iter().collect();
            events.insert(Event { message: message.clone(), level: level.trim().to_owned(), fields });
        }
    }
    events
}

#[test]
fn every_event_is_described_and_nothing_else_is() {
    let page = std::fs::read_to_string(root().join("docs/logging.md")).unwrap();
    let (made, described) = (made(), described(&page));
    assert!(made.len() > 25, "{made:#?}");
    let missing: Vec<_> = made.difference(&described).collect();
    assert!(missing.is_empty(), "made by the sources, but not (so) in docs/logging.md: {missing:#?}");
    // The writer makes these two itself.
    let others = described.difference(&made);
    let gone: Vec<_> = others
        .filter(|event| event.message != "Backend selected" && !event.message.starts_with("log lines were dropped"))
        .collect();
    assert!(gone.is_empty(), "in docs/logging.md, but not (so) in the sources: {gone:#?}");
}

#[test]
fn every_field_of_the_access_line_is_described() {
    let page = std::fs::read_to_string(root().join("docs/logging.md")).unwrap();
    let section = page.split("## The access line").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: BTreeSet<String> = code(section).into_iter().collect();
    let source = std::fs::read_to_string(root().join("berry-api/src/telemetry/access.rs")).unwrap();
    let calls = ["text", "number", "float", "boolean"].map(|kind| format!("line.{kind}(\""));
    let fields = calls.iter().flat_map(|call| source.split(call).skip(1).map(|rest| rest.split('"').next().unwrap()));
    let missing: Vec<&str> = fields.filter(|field| !listed.contains(*field)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What follows each `mark` in a file, up to `end`.
fn marked(file: &str, mark: &str, end: char) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    text.split(mark).skip(1).map(|rest| rest.split(end).next().unwrap().trim().to_owned()).collect()
}

#[test]
fn every_code_of_an_error_and_every_alert_is_described() {
    for (file, mark, end, page, least) in [
        ("berry-core/src/error.rs", " => \"", '"', "docs/api-guide.md", 26),
        ("monitoring/alerts.yml", "- alert:", '\n', "docs/operations.md", 13),
    ] {
        let described = std::fs::read_to_string(root().join(page)).unwrap();
        let names = marked(file, mark, end);
        assert!(names.len() >= least, "{names:?}");
        let missing: Vec<_> = names.iter().filter(|name| !described.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "not in {page}: {missing:?}");
    }
}
