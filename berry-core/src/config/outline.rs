//! A configuration as it is written, with its secrets hidden: what administrators are shown, and what the next configuration
//! is compared with.
//!
//! Values stand as in the file, references such as `${VARIABLE}` unresolved. A hidden value is compared by its digest, so a
//! new key is told as a change and never shown.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use toml::de::{DeTable, DeValue};

use super::decode::Node;
use super::path::{KeyPath, bare_or_quoted};
use super::problem::Span;
use super::source::Origin;

/// What stands for a hidden value.
const HIDDEN: &str = "[redacted]";
/// A table with more entries than this is shown as their number and compared as a whole: a million users fit no page.
pub const OUTLINE_ENTRIES_MAX: usize = 2_000;
/// Changes that are listed one by one.
pub const CHANGES_MAX: usize = 200;

type Fingerprint = [u8; 16];

/// A configuration to be shown and compared.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    tree: Value,
    /// Of what is hidden or folded, by path.
    fingerprints: BTreeMap<String, Fingerprint>,
    hash: String,
}

/// How a key differs between two configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It has another value.
    Changed,
}

/// A difference between two configurations. Hidden values are left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The key, such as `models.fast.backends[1].weight`.
    pub path: String,
    /// How it differs.
    pub kind: ChangeKind,
    /// The old value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// The new value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// The differences between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diff {
    /// In the order of the keys, at most [`CHANGES_MAX`].
    pub changes: Vec<Change>,
    /// How many more there are.
    pub left_out: usize,
}

impl Outline {
    /// The outline of a file; `secrets` are the places that must not be shown. The tree is of the part of it that is `parsed`;
    /// users that are not in it stand in the parts `users` of the text.
    pub(crate) fn new(
        table: &DeTable<'_>,
        (parsed, origin): (&str, &Origin),
        text: &str,
        secrets: &[Span],
        users: &[Span],
    ) -> Self {
        let secrets = secrets.iter().map(|span| span.start).collect();
        let mut writer = Writer { text, origin, secrets, fingerprints: BTreeMap::new() };
        let mut tree = writer.table(table, &KeyPath::ROOT);
        let mut whole = Sha256::new();
        if users.is_empty() {
            whole.update(text);
        } else {
            let mut digest = Sha256::new();
            users.iter().for_each(|part| digest.update(&text[part.clone()]));
            let digest = digest.finalize().into();
            whole.update(parsed);
            whole.update(digest);
            tree["users"] = writer.fold("users".to_owned(), digest, folded(users.len()));
        }
        let hash = hex(&whole.finalize()[..8]);
        Self { tree, fingerprints: writer.fingerprints, hash }
    }

    /// The configuration, secrets hidden.
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// Sixteen hexadecimal digits that differ where the files differ.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What differs from here to `new`.
    pub fn diff(&self, new: &Self) -> Diff {
        let mut differ = Differ { old: self, new, diff: Diff::default() };
        differ.compare("", &self.tree, &new.tree);
        differ.diff
    }
}

struct Writer<'a> {
    text: &'a str,
    origin: &'a Origin,
    /// Where hidden values begin.
    secrets: HashSet<usize>,
    fingerprints: BTreeMap<String, Fingerprint>,
}

impl Writer<'_> {
    fn table(&mut self, table: &DeTable<'_>, at: &KeyPath<'_>) -> Value {
        let members = table.iter().map(|(key, node)| {
            let name: &str = key.get_ref();
            (name.to_owned(), self.value(node, &at.key(name)))
        });
        Value::Object(members.collect::<Map<_, _>>())
    }

    fn value(&mut self, node: &Node<'_>, at: &KeyPath<'_>) -> Value {
        if self.secrets.contains(&self.origin.span(node.span()).start)
            && !matches!(node.get_ref(), DeValue::Table(_) | DeValue::Array(_))
        {
            return self.stand_in(node, at, Value::from(HIDDEN));
        }
        match node.get_ref() {
            DeValue::Table(table) if table.len() > OUTLINE_ENTRIES_MAX => self.stand_in(node, at, folded(table.len())),
            DeValue::Table(table) => self.table(table, at),
            DeValue::Array(items) => {
                items.iter().enumerate().map(|(index, item)| self.value(item, &at.index(index))).collect()
            }
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Boolean(flag) => Value::from(*flag),
            DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
                Ok(number) => Value::from(number),
                Err(_) => Value::from(n.as_str()),
            },
            DeValue::Float(n) => n.as_str().parse::<f64>().map_or_else(|_| Value::from(n.as_str()), Value::from),
            DeValue::Datetime(datetime) => Value::from(datetime.to_string()),
        }
    }

    fn stand_in(&mut self, node: &Node<'_>, at: &KeyPath<'_>, shown: Value) -> Value {
        let digest = self.digest(node);
        self.fold(at.to_string(), digest, shown)
    }

    fn fold(&mut self, path: String, digest: [u8; 32], shown: Value) -> Value {
        let mut fingerprint = Fingerprint::default();
        fingerprint.copy_from_slice(&digest[..16]);
        self.fingerprints.insert(path, fingerprint);
        shown
    }

    /// A digest of a value, or of everything in a table, which in TOML need not stand in one place.
    fn digest(&self, node: &Node<'_>) -> [u8; 32] {
        let mut digest = Sha256::new();
        match node.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table {
                    digest.update(key.get_ref().as_bytes());
                    digest.update(self.digest(value));
                }
            }
            _ => digest.update(self.text.get(self.origin.span(node.span())).unwrap_or_default()),
        }
        digest.finalize().into()
    }
}

/// What is shown of a table with very many entries.
fn folded(entries: usize) -> Value {
    Value::from(format!("[{entries} entries]"))
}

struct Differ<'a> {
    old: &'a Outline,
    new: &'a Outline,
    diff: Diff,
}

impl Differ<'_> {
    fn compare(&mut self, path: &str, from: &Value, to: &Value) {
        match (from, to) {
            (Value::Object(from), Value::Object(to)) => {
                let names: std::collections::BTreeSet<&String> = from.keys().chain(to.keys()).collect();
                for name in names {
                    self.pair(&join(path, name), from.get(name), to.get(name));
                }
            }
            (Value::Array(old), Value::Array(new)) if holds_tables(old) || holds_tables(new) => {
                for index in 0..old.len().max(new.len()) {
                    self.pair(&format!("{path}[{index}]"), old.get(index), new.get(index));
                }
            }
            _ => {
                let same = from == to && self.old.fingerprints.get(path) == self.new.fingerprints.get(path);
                if !same {
                    self.note(path, ChangeKind::Changed, Some(from), Some(to));
                }
            }
        }
    }

    fn pair(&mut self, path: &str, from: Option<&Value>, to: Option<&Value>) {
        match (from, to) {
            (Some(from), Some(to)) => self.compare(path, from, to),
            (Some(from), None) => self.note(path, ChangeKind::Removed, Some(from), None),
            (None, Some(to)) => self.note(path, ChangeKind::Added, None, Some(to)),
            (None, None) => {}
        }
    }

    fn note(&mut self, path: &str, kind: ChangeKind, from: Option<&Value>, to: Option<&Value>) {
        if self.diff.changes.len() == CHANGES_MAX {
            self.diff.left_out += 1;
            return;
        }
        self.diff.changes.push(Change { path: path.to_owned(), kind, from: from.cloned(), to: to.cloned() });
    }
}

fn holds_tables(items: &[Value]) -> bool {
    items.iter().any(Value::is_object)
}

fn join(path: &str, name: &str) -> String {
    let name = bare_or_quoted(name);
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Environment};
    use super::*;

    struct Fixed;

    impl Environment for Fixed {
        fn var(&self, name: &str) -> Option<String> {
            (name == "KEY").then(|| "sk-resolved-canary".to_owned())
        }

        fn read_file(&self, _: &std::path::Path) -> std::io::Result<String> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    const TEXT: &str = r#"
[settings]
max_retries = 2
[users.ann]
name = "Ann"
token = "tok-canary-1"
[providers.up]
name = "Up"
base_url = "https://up.example/v1"
api_key = "${KEY}"
[models.m]
name = "m"
[[models.m.backends]]
provider = "up"
model = "a"
weight = 0.5
"#;

    fn outline(text: &str) -> Outline {
        Config::from_text("t.toml", text, &Fixed).unwrap().outline
    }

    fn changes(old: &str, new: &str) -> Vec<String> {
        let diff = outline(old).diff(&outline(new));
        let words = |change: &Change| format!("{:?} {} {:?} {:?}", change.kind, change.path, change.from, change.to);
        diff.changes.iter().map(words).collect()
    }

    #[test]
    fn secrets_are_hidden_and_references_are_shown_as_written() {
        let shown = outline(TEXT).tree().to_string();
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains(r#""token":"[redacted]""#) && shown.contains(r#""api_key":"${KEY}""#), "{shown}");
        assert!(shown.contains(r#""weight":0.5"#) && shown.contains(r#""max_retries":2"#), "{shown}");
    }

    #[test]
    fn a_diff_names_each_key_with_its_old_and_new_value() {
        let new = TEXT.replace("max_retries = 2", "max_retries = 3").replace("weight = 0.5\n", "");
        assert_eq!(
            changes(TEXT, &new),
            [
                "Removed models.m.backends[0].weight Some(Number(0.5)) None",
                "Changed settings.max_retries Some(Number(2)) Some(Number(3))"
            ]
        );
        assert!(changes(TEXT, TEXT).is_empty());
    }

    #[test]
    fn another_secret_is_a_change_and_is_not_shown() {
        let hidden = r#"Some(String("[redacted]"))"#;
        assert_eq!(
            changes(TEXT, &TEXT.replace("canary-1", "canary-2")),
            [format!("Changed users.ann.token {hidden} {hidden}")]
        );
    }

    #[test]
    fn a_table_of_very_many_is_folded_and_still_compared() {
        let many = |last: &str| {
            let users: String = (0..=OUTLINE_ENTRIES_MAX)
                .map(|n| format!("u{n} = {{ name = \"n\", token = \"tok-{n}\" }}\n"))
                .collect();
            format!("[users]\n{users}last = {{ name = \"{last}\", token = \"tok-last\" }}\n")
        };
        let outline = outline(&many("x"));
        assert_eq!(outline.tree()["users"], format!("[{} entries]", OUTLINE_ENTRIES_MAX + 2));
        assert_eq!(changes(&many("x"), &many("y")).len(), 1);
        assert!(changes(&many("x"), &many("x")).is_empty());
    }

    #[test]
    fn the_hash_differs_where_the_files_do() {
        assert_eq!(outline(TEXT).hash(), outline(TEXT).hash());
        assert_ne!(outline(TEXT).hash(), outline(&TEXT.replace("0.5", "0.6")).hash());
    }
}
