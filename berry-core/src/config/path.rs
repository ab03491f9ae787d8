//! Where in the configuration something is, by names: `models.fast.backends[1].weight`.

use std::fmt;

/// A place in the tree of keys. A chain of borrowed segments, so that walking a file allocates nothing; it becomes text only
/// where there is a problem to report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyPath<'a> {
    parent: Option<&'a KeyPath<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> KeyPath<'a> {
    /// The file itself.
    pub(crate) const ROOT: KeyPath<'static> = KeyPath { parent: None, segment: Segment::Root };

    /// A key of this table.
    pub(crate) fn key(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), segment: Segment::Key(name) }
    }

    /// An element of this list, counted from 0.
    pub(crate) fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), segment: Segment::Index(index) }
    }
}

/// As it would be written in TOML: keys that are not bare are quoted.
impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(name) => {
                let dot = if self.parent.is_some_and(|p| p.parent.is_some()) { "." } else { "" };
                write!(f, "{dot}{}", bare_or_quoted(name))
            }
        }
    }
}

/// A key as TOML writes it.
pub(crate) fn bare_or_quoted(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    if bare { name.to_owned() } else { format!("{name:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_toml_would_write_it() {
        let root = KeyPath::ROOT;
        let models = root.key("models");
        let model = models.key("gpt 4");
        let backends = model.key("backends");
        let backend = backends.index(1);
        assert_eq!(backend.key("weight").to_string(), "models.\"gpt 4\".backends[1].weight");
        assert_eq!(root.to_string(), "");
    }
}
