//! Text that must never be shown: provider keys, client tokens, passwords.

use std::fmt;
use std::sync::Arc;

/// A secret. `Debug` and `Display` print `[redacted]`; it does not serialise. The only way to the text is [`Secret::expose`],
/// so every use can be found by that word.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it (keyless local servers have an empty key).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first and last four characters, for `mask_api_keys = false`; a text of fewer than twelve stays hidden, since
    /// eight characters would be most of it.
    pub fn hint(&self) -> String {
        let chars: Vec<char> = self.0.chars().collect();
        if chars.len() < 12 {
            return "[redacted]".to_owned();
        }
        let head: String = chars[..4].iter().collect();
        let tail: String = chars[chars.len() - 4..].iter().collect();
        format!("{head}…{tail}")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Arc::from(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_redacted_whatever_the_format() {
        let secret = Secret::from("sk-canary-0123456789");
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "[redacted] [redacted] [redacted]");
    }

    #[test]
    fn a_hint_shows_four_characters_at_each_end_and_nothing_of_a_short_secret() {
        assert_eq!(Secret::from("sk-canary-0123456789").hint(), "sk-c…6789");
        assert_eq!(Secret::from("sk-short-11").hint(), "[redacted]");
        assert_eq!(Secret::from("钥匙钥匙钥匙钥匙钥匙钥匙").hint(), "钥匙钥匙…钥匙钥匙");
    }
}
