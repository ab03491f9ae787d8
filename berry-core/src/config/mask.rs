//! Hides what may be secret in the text of a configuration, so that its lines can be shown beside a message.
//!
//! Every hidden character becomes one of the same length in bytes, so positions stay true. In a file that parses, the reader
//! names the places; comments are searched for words. In a file that does not parse nothing is sure, so a line is shown only
//! where it starts with a key that is known not to be secret.

use std::collections::HashMap;

use super::decode::Table as _;
use super::problem::Span;
use super::raw::RawConfig;
use super::schema::{self, Kind, TableSchema};

/// Words after which, up to the end of the line, nothing is shown.
const WORDS: &[&str] = &["key", "token", "secret", "passw", "auth", "bearer", "credential", "redis_url"];

/// A text whose lines can be shown: with `secrets` hidden, and with what comments may give away. A line is masked when it is asked
/// for; of a large file few are.
pub(crate) struct Masked<'t> {
    text: &'t str,
    /// In the order of the text.
    secrets: Vec<Span>,
    /// Of a file that did not parse.
    keys: Option<HashMap<&'static str, bool>>,
}

impl<'t> Masked<'t> {
    /// `broken` for a file that did not parse.
    pub(crate) fn new(text: &'t str, mut secrets: Vec<Span>, broken: bool) -> Self {
        secrets.sort_by_key(|span| span.start);
        Self { text, secrets, keys: broken.then(known_keys) }
    }

    /// The text as it is, for finding lines in it.
    pub(crate) fn unmasked(&self) -> &'t str {
        self.text
    }

    /// A whole line, with or without its end.
    pub(crate) fn line(&self, line: Span) -> String {
        let text = &self.text[line.clone()];
        let hidden_from = match &self.keys {
            Some(keys) => in_broken_line(text, keys),
            None => in_comment(text),
        };
        let hidden_from = hidden_from.map_or(line.end, |from| line.start + from);
        // What is secret never overlaps, so the ends are in order too.
        let first = self.secrets.partition_point(|span| span.end <= line.start);
        let mut out = String::with_capacity(text.len());
        let mut done = line.start;
        for span in self.secrets[first..].iter().take_while(|span| span.start < hidden_from) {
            let (start, end) = (span.start.clamp(done, hidden_from), span.end.clamp(done, hidden_from));
            out.push_str(&self.text[done..start]);
            out.extend(self.text[start..end].chars().map(hidden));
            done = end;
        }
        out.push_str(&self.text[done..hidden_from]);
        out.extend(self.text[hidden_from..line.end].chars().map(hidden));
        out
    }
}

/// What stands for a hidden character: the quotes and line breaks themselves, otherwise something as long in UTF-8.
fn hidden(c: char) -> char {
    match (c, c.len_utf8()) {
        ('\n' | '\r' | '"' | '\'', _) => c,
        (_, 1) => '*',
        (_, 2) => '·',
        (_, 3) => '•',
        _ => '𐄂',
    }
}

/// Whether a URL in this text, with or without its scheme, carries a password or a key.
pub(crate) fn has_url_credentials(text: &str) -> bool {
    // Most texts are no URL at all.
    if memchr::memchr2(b'@', b'?', text.as_bytes()).is_none() {
        return false;
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let query = rest.split_once('?').map_or("", |(_, query)| query).to_lowercase();
    authority.contains('@')
        || ["key=", "token=", "sig=", "secret=", "password="].iter().any(|word| query.contains(word))
}

/// From where on a line of a parsed file is hidden beyond what the reader knows: after a telling word in a comment.
fn in_comment(line: &str) -> Option<usize> {
    let comment = line.find('#')?;
    after_word(&line[comment..]).map(|at| comment + at)
}

/// The end of the first `=` or `:` that follows a telling word.
fn after_word(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    let word = WORDS.iter().filter_map(|word| lower.find(word)).min()?;
    text[word..].find(['=', ':']).map(|at| word + at + 1)
}

/// From where on a line is hidden when the file did not parse.
fn in_broken_line(line: &str, keys: &HashMap<&'static str, bool>) -> Option<usize> {
    let trimmed = line.trim();
    if trimmed.is_empty() || (trimmed.starts_with('[') && !trimmed.contains('"')) {
        return None;
    }
    if trimmed.starts_with(['#', '[']) {
        return after_word(line);
    }
    let Some((key, value)) = line.split_once('=') else {
        return Some(0);
    };
    let name = key.trim().trim_matches(['"', '\'']);
    match keys.get(name.rsplit('.').next().unwrap_or(name)) {
        None => Some(0),
        Some(true) => Some(key.len() + 1),
        Some(false) if has_url_credentials(value) => Some(key.len() + 1),
        Some(false) => after_word(value).map(|at| key.len() + 1 + at),
    }
}

/// Every key of the format, and whether its value is secret.
fn known_keys() -> HashMap<&'static str, bool> {
    let mut keys = HashMap::new();
    let mut add = |table: &'static TableSchema| {
        for key in table.keys {
            let secret = matches!((key.kind)(), Kind::Leaf(kind) if kind.contains("secret"));
            *keys.entry(key.name).or_insert(false) |= secret;
        }
    };
    add(&RawConfig::SCHEMA);
    schema::walk(&mut |_, table| add(table));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(text: &str, secrets: Vec<Span>, broken: bool) -> String {
        Masked::new(text, secrets, broken).line(0..text.len())
    }

    #[test]
    fn positions_survive_masking() {
        let text = "a = \"é钥😀x\" # end\n";
        let value = 4..text.find(" #").unwrap();
        let masked = mask(text, Vec::from([value]), false);
        assert_eq!(masked, "a = \"·•𐄂*\" # end\n");
        assert_eq!(masked.len(), text.len());
    }

    #[test]
    fn comments_do_not_give_old_keys_away() {
        assert_eq!(mask("# api_key = canary\n", vec![], false), "# api_key =*******\n");
        assert_eq!(mask("x = 1 # the old token: canary\n", vec![], false), "x = 1 # the old token:*******\n");
        assert_eq!(mask("x = 1 # nothing = here\n", vec![], false), "x = 1 # nothing = here\n");
    }

    #[test]
    fn a_file_that_does_not_parse_shows_only_lines_that_cannot_hold_a_secret() {
        for (line, expected) in [
            ("weight = 1,5", "weight = 1,5"),
            ("[models.x", "[models.x"),
            ("api_key = sk-canary", "api_key =**********"),
            ("users.a.token = canary", "users.a.token =*******"),
            ("apikey: canary", "**************"),
            ("  \"canary\"", "**\"******\""),
            ("name = \"A\" token = \"canary\"", "name = \"A\" token =*\"******\""),
            ("base_url = http://u:canary@h", "base_url =******************"),
            ("canary==", "********"),
        ] {
            assert_eq!(mask(line, vec![], true), expected);
        }
    }

    #[test]
    fn credentials_in_urls_are_seen() {
        for (url, expected) in [
            ("http://user:pw@proxy:3128", true),
            ("https://host/v1?key=abc", true),
            ("user:pw@proxy:3128", true),
            ("https://host/a@b", false),
            ("https://host/v1?api-version=2024-10-21", false),
            ("no url", false),
        ] {
            assert_eq!(has_url_credentials(url), expected, "{url}");
        }
    }
}
