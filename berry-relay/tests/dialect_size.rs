//! Functions of the dialect code stay short enough to be read at a glance.
#![expect(clippy::unwrap_used, reason = "a test panics where it must")]

use std::path::Path;

/// Nine of ten functions are shorter than this, in lines from their `fn` to their last brace.
const LINES: usize = 40;

/// Lines of each function of a formatted source, with its name: from `fn` to the brace that closes it, at the same indent.
fn functions(source: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let head = code
            .strip_prefix("pub ")
            .or_else(|| code.split_once(") ").filter(|(scope, _)| scope.starts_with("pub(")).map(|(_, rest)| rest))
            .unwrap_or(code);
        let head = head.strip_prefix("const ").unwrap_or(head);
        let Some(rest) = head.strip_prefix("fn ") else { continue };
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = match line.ends_with('}') || line.ends_with(';') {
            true => 1,
            false => 1 + lines[at + 1..].iter().position(|line| **line == end).map_or(0, |place| place + 1),
        };
        found.push((length, rest.split(['(', '<']).next().unwrap().to_owned()));
    }
    found
}

fn sources(folder: &Path, all: &mut Vec<(usize, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
            all.extend(functions(source));
        }
    }
}

#[test]
fn nine_of_ten_functions_of_the_dialects_are_shorter_than_forty_lines() {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dialect"), &mut all);
    all.sort_unstable();
    assert!(all.len() > 300, "{} functions", all.len());
    let (length, name) = &all[all.len() * 9 / 10];
    assert!(*length < LINES, "`{name}` has {length} lines; the longest: {:?}", &all[all.len() - 10..]);
}
