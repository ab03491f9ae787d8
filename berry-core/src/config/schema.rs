//! What keys there are, as data: the same declarations that read a file also write its documentation.

use std::fmt;

use super::decode::Table;
use super::raw::RawConfig;

/// A table and its keys.
pub(crate) struct TableSchema {
    pub(crate) doc: &'static [&'static str],
    pub(crate) keys: &'static [KeySchema],
}

/// A key of a table.
pub(crate) struct KeySchema {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) kind: fn() -> Kind,
    pub(crate) required: bool,
    /// The default as TOML writes it.
    pub(crate) default: Option<fn() -> String>,
    pub(crate) bounds: Bounds,
}

/// What a value looks like.
pub(crate) enum Kind {
    /// Anything but a table, described in words.
    Leaf(String),
    /// `[name]`.
    Table(&'static TableSchema),
    /// `[name.KEY]`.
    Map(&'static TableSchema),
    /// `[[name]]`.
    Tables(&'static TableSchema),
}

/// Which numbers are acceptable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    min: f64,
    above: bool,
    max: f64,
}

impl Bounds {
    /// No bounds.
    pub(crate) const ANY: Self = Self { min: f64::NEG_INFINITY, above: false, max: f64::INFINITY };

    /// A share, 0 to 1.
    pub(crate) const SHARE: Self = Self::between(0.0, 1.0);

    /// This or more.
    pub(crate) const fn at_least(min: f64) -> Self {
        Self { min, above: false, max: f64::INFINITY }
    }

    /// More than this.
    pub(crate) const fn above(min: f64) -> Self {
        Self { min, above: true, max: f64::INFINITY }
    }

    /// From one to the other, both included.
    pub(crate) const fn between(min: f64, max: f64) -> Self {
        Self { min, above: false, max }
    }

    pub(crate) fn contains(self, value: f64) -> bool {
        let low = if self.above { value > self.min } else { value >= self.min };
        low && value <= self.max
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self == Self::ANY, self.above, self.max.is_finite()) {
            (true, ..) => Ok(()),
            (_, true, _) => write!(f, "above {}", self.min),
            (_, false, true) => write!(f, "{} to {}", self.min, self.max),
            (_, false, false) => write!(f, "at least {}", self.min),
        }
    }
}

/// Calls `visit` for every table of the format with its header: `[settings]`, `[users.NAME]`, `[[models.NAME.backends]]`.
pub(crate) fn walk(visit: &mut dyn FnMut(&str, &'static TableSchema)) {
    fn below(path: &str, schema: &'static TableSchema, visit: &mut dyn FnMut(&str, &'static TableSchema)) {
        for key in schema.keys {
            let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            let (path, table) = match (key.kind)() {
                Kind::Leaf(_) => continue,
                Kind::Table(table) => (path, table),
                Kind::Map(table) => (format!("{path}.NAME"), table),
                Kind::Tables(table) => {
                    visit(&format!("[[{path}]]"), table);
                    below(&path, table, visit);
                    continue;
                }
            };
            visit(&format!("[{path}]"), table);
            below(&path, table, visit);
        }
    }
    below("", &RawConfig::SCHEMA, visit);
}

/// One key of the format, for tools that list them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Header of its table, with `NAME` for names that are chosen freely; empty for the top level.
    pub table: String,
    /// The key.
    pub name: &'static str,
    /// Its default as TOML writes it.
    pub default: Option<String>,
    /// Whether it has a value, rather than being a table.
    pub is_value: bool,
}

/// Every key of the format.
pub fn keys() -> Vec<KeyFacts> {
    let mut all = Vec::new();
    let mut add = |table: &str, schema: &TableSchema| {
        all.extend(schema.keys.iter().map(|key| KeyFacts {
            table: table.to_owned(),
            name: key.name,
            default: key.default.map(|text| text()),
            is_value: matches!((key.kind)(), Kind::Leaf(kind) if !kind.starts_with("table of text")),
        }));
    };
    add("", &RawConfig::SCHEMA);
    walk(&mut |header, schema| add(header, schema));
    all
}

/// The headers of the tables that have this key, for a hint.
pub(crate) fn tables_with(name: &str) -> Option<String> {
    let mut found = Vec::new();
    walk(&mut |header, table| {
        if table.keys.iter().any(|key| key.name == name) {
            found.push(header.to_owned());
        }
    });
    if RawConfig::SCHEMA.keys.iter().any(|key| key.name == name) {
        found.push("the top level".to_owned());
    }
    (!found.is_empty()).then(|| found.join(", "))
}
