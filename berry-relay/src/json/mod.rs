//! JSON without trees: is it valid, and where does the little that matters stand?
//!
//! RFC 8259 syntax in full, nesting bounded by [`DEPTH_MAX`]; a byte order mark before all is passed over, as the RFC allows. UTF-8
//! inside strings is not checked: it passes as it came. [`Scanner`] takes a body in chunks of any cut and finds members of the top-level
//! object; [`Cursor`] reads what lies in one piece, at any depth. Neither allocates, so a prompt of any size is read once and
//! stays where it is. An [`Outline`] remembers where every value of a text stands, for those who need many of them.

mod cursor;
mod lex;
mod members;
mod outline;
mod scanner;
mod walk;
mod wide;

use std::fmt;

pub use cursor::{Cursor, Raw};
pub use members::{Member, Members, Wanted};
pub use outline::{Named, Outline, Place};
pub use scanner::Scanner;

/// Deepest nesting that is accepted.
pub const DEPTH_MAX: usize = 128;

/// What some servers and clients on Windows write before a text in UTF-8. It means nothing.
pub const MARK: &[u8] = b"\xef\xbb\xbf";

/// A text without the byte order mark before it.
#[inline]
pub fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number.
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

impl Kind {
    /// What a value is that begins with this byte.
    fn of(first: u8) -> Self {
        match first {
            b'{' => Self::Object,
            b'[' => Self::Array,
            b'"' => Self::String,
            b't' | b'f' => Self::Bool,
            b'n' => Self::Null,
            _ => Self::Number,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Bool => "a boolean",
            Self::Null => "null",
        })
    }
}

/// Why bytes are not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expected} expected at byte {offset}")]
pub struct JsonError {
    /// Where, from the start of the body.
    pub offset: usize,
    /// What should have stood there.
    pub expected: &'static str,
}

/// Length of the string or number that begins here, quotes included; `None` for anything else and for what is wrong or cut.
#[inline]
pub(crate) fn scalar_length(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => lex::text_end(text, 1).ok(),
        _ => lex::number_end(text, 0),
    }
}

/// The text of a JSON string, given with its quotes.
///
/// # Errors
/// When it is no string, or holds half a surrogate pair or bytes that are not UTF-8.
pub fn unquote(raw: &[u8]) -> Result<String, serde_json::Error> {
    match raw {
        [b'"', text @ .., b'"'] if lex::plain_end::<false>(text, 0) == text.len() => {
            std::str::from_utf8(text).map(str::to_owned).map_err(serde::de::Error::custom)
        }
        _ => serde_json::from_slice(raw),
    }
}

/// A JSON string for a text, with its quotes.
pub fn quote(text: &str) -> Vec<u8> {
    if is_plain(text) {
        return [b"\"", text.as_bytes(), b"\""].concat();
    }
    serde_json::to_vec(text).expect("a string can always be written as JSON")
}

/// Whether a text needs no escapes inside quotes.
pub(crate) fn is_plain(text: &str) -> bool {
    lex::plain_end::<false>(text.as_bytes(), 0) == text.len()
}

#[cfg(test)]
mod tests;
