//! Gets the text of a configuration file and its tree.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use super::path::KeyPath;
use super::problem::{Problems, Span};

/// Largest configuration file, bytes. A million users fit.
pub const MAX_CONFIG_BYTES: u64 = 256 << 20;

/// A configuration file's text, and who may read it.
pub(crate) struct Source {
    pub(crate) text: String,
    /// The permission bits, where the platform has them.
    pub(crate) mode: Option<u32>,
}

/// Reads a file.
///
/// # Errors
/// When it cannot be read, is too large, or is not UTF-8.
pub(crate) fn read(path: &Path) -> io::Result<Source> {
    let file = File::open(path)?;
    let mode = mode(&file.metadata()?);
    let mut bytes = Vec::new();
    // A limit on reading and not on the announced length, which is 0 for a pipe.
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is larger than {MAX_CONFIG_BYTES} bytes"),
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|c| **c == b'\n').count() + 1;
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is not UTF-8 text (line {line})"),
        )
    })?;
    Ok(Source { text, mode })
}

#[cfg(unix)]
fn mode(metadata: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(metadata.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> Option<u32> {
    None
}

/// The text without a byte order mark, which some editors put in front.
pub(crate) fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The tree of a file, and the lines that are not TOML, which have been reported. What could be understood is in the tree.
pub(crate) fn parse<'i>(text: &'i str, problems: &mut Problems) -> (Spanned<DeTable<'i>>, Vec<Span>) {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let mut broken = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let line = line_of(text, span.start);
        // One mistake often upsets the parser several times; the first message on a line is the one that helps.
        if !broken.contains(&line) {
            problems.error(&KeyPath::ROOT, span, describe(error.message()));
            broken.push(line);
        }
    }
    (tree, broken)
}

fn describe(message: &str) -> String {
    format!("not valid TOML: {}", message.trim().replace('\n', "; "))
}

fn line_of(text: &str, at: usize) -> Span {
    let at = at.min(text.len());
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n + 1);
    start..end
}
